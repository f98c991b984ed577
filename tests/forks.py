"""Commands of elman in processes that are forked from one which has imported all, for the seconds.

They are for what a command does to files and to its peers. How one starts and ends, what it prints,
and what torchrun does for it, is tried in a Python of its own.
"""

import multiprocessing
import os
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

__all__ = ["command", "end_well", "together"]

METHODS = multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
CONTEXT.set_forkserver_preload(
    ["torch._dynamo", "matplotlib.figure", "elman.cli", "elman.tasks.training"]
    + [f"elman.tasks.{job}.job" for job in ("labels", "pairs", "series", "tags", "text")]
)


def command(*words: str, errors: Path | str = os.devnull, **environment: str) -> BaseProcess:
    """Start the command with one thread, here; what it says of errors goes into a file."""
    process = CONTEXT.Process(target=_run, args=(words, Path.cwd(), str(errors), environment))
    process.start()
    return process


def _run(words: tuple[str, ...], here: Path, errors: str, environment: dict[str, str]) -> None:
    import torch

    from elman.cli import main

    os.environ.update(environment)
    os.chdir(here)
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nothing, open(errors, "w") as told:
        os.dup2(nothing.fileno(), 1)
        os.dup2(told.fileno(), 2)
    sys.exit(main(list(words)))


def end_well(*processes: BaseProcess) -> None:
    """Wait for processes; none may fail."""
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def together(*words: str) -> None:
    """Run the command as two processes of which each is told what torchrun would tell it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    told = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [{"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    end_well(*(command(*words, TORCHELASTIC_RUN_ID="tests", **told, **rank) for rank in ranks))

"""What the process has around it: its streams, its signals, and the clock that they stop."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = [
    "EarlyStopError",
    "Stopping",
    "end_streams",
    "interruptible",
    "prepare_streams",
    "stopped_by_signals",
]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


def prepare_streams() -> None:
    """Let nothing that is printed end a command: closed streams, and characters they cannot hold.

    In the place of a closed stream stands one that leads nowhere, or the next file that is opened
    would get its number, and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def end_streams() -> None:
    """Write out what was printed; if its reader has gone, the interpreter says nothing of it."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def interruptible() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, so that what a command shows is taken away first."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class EarlyStopError(Exception):
    """A signal ended a command before there was anything to save.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Stopping:
    """Whether a training is to stop, and the seconds that it was not suspended.

    Called it says whether to stop, as the training loop asks before each update.
    """

    def __init__(self) -> None:
        """Begin with nothing to stop."""
        self.reason = ""
        self._number = 0
        self._has_begun = False
        self._suspended = 0.0
        self._read = time.perf_counter()

    def __call__(self) -> bool:
        """Return whether training is to stop."""
        return bool(self.reason)

    @property
    def code(self) -> int:
        """The exit code of a training that was stopped, as a shell gives it."""
        return 128 + self._number if self._number else 1

    def begin(self) -> None:
        """From now on there is something to save."""
        self._has_begun = True

    def tell(self, reason: str) -> None:
        """Stop at the next update."""
        self.reason = self.reason or reason

    def clock(self) -> float:
        """Return the seconds since any start in which the process was not suspended."""
        self._read = time.perf_counter() - self._suspended
        return self._read

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take a signal that asks to stop: at once if nothing is lost, or if it is a second one."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not self._has_begun:
            raise EarlyStopError(number)
        self._number = number
        self.tell(signal.Signals(number).name)

    def wake(self, number: int, frame: FrameType | None) -> None:
        """Go on after Ctrl-Z: what has passed since the clock was last read does not count."""
        self._suspended = time.perf_counter() - self._read


@contextmanager
def stopped_by_signals() -> Iterator[Stopping]:
    """Let Ctrl-C, a request to terminate or a terminal that closes stop training with all saved.

    A signal that the process was started to ignore, as by nohup, is ignored still.
    """
    stopping = Stopping()
    handlers = dict.fromkeys(_NAMES, stopping.note) | {"SIGCONT": stopping.wake}
    numbers = {getattr(signal, name): handlers[name] for name in handlers if hasattr(signal, name)}
    before = {
        number: signal.signal(number, handler)
        for number, handler in numbers.items()
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

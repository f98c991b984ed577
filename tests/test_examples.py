"""The examples of examples/, where what they are about is installed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lstm_of_silero_vad_gives_what_its_own_graph_gives() -> None:
    silero = load("silero")
    if silero.find() is None:
        pytest.skip("silero-vad is not installed")
    said: list[str] = []
    lstm, whole = silero.main(seconds=10, show=said.append)
    assert lstm < 1e-6
    assert whole < 1e-5  # float64 in place of our float32 is as far from the graph's
    assert not any("speech in 0%" in line or "speech in 100%" in line for line in said)


def test_the_grus_of_g2p_en_say_what_its_own_code_says() -> None:
    g2p = load("g2p")
    if g2p.find() is None:
        pytest.skip("g2p-en is not installed")
    assert g2p.main(show=lambda line: None)


def test_an_agent_learns_by_one_call_what_it_learns_by_a_loop() -> None:
    ppo, threads = load("ppo_memory"), torch.get_num_threads()
    try:
        assert ppo.main(["--updates", "2"]) == ppo.main(["--updates", "2", "--loop"])
        assert ppo.main(["--updates", "20"]) > 0.9
        assert ppo.main(["--updates", "20", "--forget"]) < 0.7  # by chance, every other turn
    finally:
        torch.set_num_threads(threads)

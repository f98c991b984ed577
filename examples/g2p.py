"""How English words are spoken, by the weights of g2p-en, its GRUs run by elman.runtime.

    pip install --no-deps g2p-en    # 3 MB; its network is a NumPy file and a loop over it
    python examples/g2p.py

An encoder of 256 reads the letters, a decoder of 256 goes on from its state and writes sounds, each
of which it is given as the next input. The package asks for NLTK, which its network does not need.

Prints whether all predictions are those of the package's own code, and the words a second.
"""

import importlib
import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from elman import runtime

BEGIN, END, MOST = 2, 3, 20  # sounds that are none, and how many a word has at most
WORDS = """activationist elman recurrent gatekeepers blorptastic xylograph quixotically unzipped
streamlet a i zzz hyperparameter retrainable jordanesque overfitted tokenize sigmoidal vectorised
backpropagated neurocomputer o'clock phlogiston wugs"""


def find() -> Path | None:
    """Return the folder of the package, without importing it; None if it is not installed."""
    spec = importlib.util.find_spec("g2p_en")
    return Path(spec.origin).parent if spec and spec.origin else None


def original() -> Any:
    """Return the package's own G2p. Stand-ins for NLTK and inflect suffice for its network."""
    names = ("nltk", "nltk.corpus", "nltk.tokenize", "inflect")
    stand_ins = mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in names})
    with stand_ins, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in its strings
        return importlib.import_module("g2p_en.g2p").G2p()


def convert(weights: Any, folder: Path) -> None:
    """Write encoder and decoder as model files. This alone needs PyTorch, once."""
    import torch

    import elman

    for side in ("enc", "dec"):
        tensors = {name: torch.from_numpy(weights[f"{side}_{name}"]) for name in
                   ("emb", "w_ih", "w_hh", "b_ih", "b_hh")}  # fmt: skip
        embedding = torch.nn.Embedding.from_pretrained(tensors["emb"])
        gru = elman.GRU(tensors["w_ih"].shape[1], tensors["w_hh"].shape[1])
        for ours, theirs in (("weight_ih", "w_ih"), ("weight_hh", "w_hh"),
                             ("bias_ih", "b_ih"), ("bias_hh", "b_hh")):  # fmt: skip
            getattr(gru, f"{ours}_l0").data = tensors[theirs]
        chain = torch.nn.Sequential(embedding, gru)
        if side == "dec":
            last = torch.nn.Linear(gru.hidden_size, len(weights["fc_b"]))
            last.weight.data = torch.from_numpy(weights["fc_w"])
            last.bias.data = torch.from_numpy(weights["fc_b"])
            chain.append(last)
        elman.save(chain, folder / side)


class Spoken:
    """Predicts sounds from letters.

    Args:
        folder: where `convert` wrote.
        letters: the number of each letter, "</s>" and "<unk>".
        sounds: the name of each number.
    """

    def __init__(self, folder: Path, letters: dict[str, int], sounds: dict[int, str]) -> None:
        """Load both models."""
        self.encoder, self.decoder = runtime.load(folder / "enc"), runtime.load(folder / "dec")
        self.letters, self.sounds = letters, sounds

    def __call__(self, words: Sequence[str]) -> list[list[str]]:
        """Predict the sounds of words, all at once."""
        numbers = [
            [self.letters.get(c, self.letters["<unk>"]) for c in [*word, "</s>"]] for word in words
        ]
        lengths = np.array([len(n) for n in numbers])
        x = np.zeros((lengths.max(), len(words)), np.int64)
        for column, n in enumerate(numbers):
            x[: len(n), column] = n
        read = self.encoder.run(x, lengths)
        session = self.decoder.session(len(words))
        session.load_state({"1.h": read[lengths - 1, np.arange(len(words))][None]})
        sound, found = np.full(len(words), BEGIN), []
        runs = np.ones(len(words), bool)
        while runs.any() and len(found) < MOST:
            sound = session.step(sound).argmax(-1)
            runs &= sound != END
            found.append(np.where(runs, sound, END))
        return [[self.sounds[s] for s in word if s != END] for word in np.stack(found, 1)]


def main(show: Callable[[str], Any] = print) -> bool:
    """Compare and measure; return whether all predictions are equal."""
    package = find()
    if package is None:
        raise SystemExit("g2p-en must be installed: pip install --no-deps g2p-en")
    theirs, words = original(), WORDS.split()
    with tempfile.TemporaryDirectory() as folder:
        convert(np.load(package / "checkpoint20.npz"), Path(folder))
        ours = Spoken(Path(folder), theirs.g2idx, theirs.idx2p)
    ways: dict[str, Callable[[], list[list[str]]]] = {
        "g2p-en, word by word": lambda: [theirs.predict(word) for word in words],
        "elman, word by word": lambda: [ours([word])[0] for word in words],
        "elman, all at once": lambda: ours(words),
    }
    found = []
    for name, way in ways.items():
        start = time.perf_counter()
        found.append(way())
        show(f"{name:22} {len(words) / (time.perf_counter() - start):8,.0f} words/s")
    show("  ".join(f"{word}: {' '.join(s)}" for word, s in zip(words[:2], found[2], strict=False)))
    return found[0] == found[1] == found[2]


if __name__ == "__main__":
    print("all predictions are equal" if main() else "predictions differ")

"""A tensor printed with its axes named, in both languages and without PyTorch."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import elman
from elman import language

SMALL = [[[1, 2], [1, 2]], [[1, 2], [1, 2]]]


@pytest.mark.parametrize(
    "x", [SMALL, np.array(SMALL), torch.tensor(SMALL), torch.tensor(SMALL, dtype=torch.bfloat16)]
)
def test_each_bracket_is_named(x: object) -> None:
    found = elman.axes(x, "N L F")
    assert found.names == ("N", "L", "F")
    assert found.shape == (2, 2, 2)
    lines = found.text.splitlines()
    assert lines[0] == "N = 2, L = 2, F = 2"
    assert lines[1] == "[            N = 2"
    assert lines[3] == "    [1, 2]   N=0, L=0: F = 2"
    assert lines[7] == "    [1, 2]   N=1, L=0: F = 2"
    assert repr(found) == found.text


def test_the_order_in_memory_is_that_of_both_layouts() -> None:
    x = torch.arange(12.0, requires_grad=True).view(2, 3, 2)
    text = elman.axes(x, "NLF").text
    batch_first = " ".join(f"{n:.4g}" for n in x.detach().contiguous().view(-1).tolist())
    time_first = " ".join(f"{n:.4g}" for n in x.detach().transpose(0, 1).reshape(-1).tolist())
    numbers = [
        " ".join(group.split(": ")[1] for group in line.split(" | "))
        for line in text.splitlines()
        if "|" in line
    ]
    assert numbers == [batch_first, time_first]


def test_a_large_tensor_shows_its_shape_and_the_first_numbers() -> None:
    text = elman.axes(np.arange(100000).reshape(10, 100, 100), "L N F").text
    assert text.startswith("L = 10, N = 100, F = 100\nThe first 12 of 100000 numbers: 0, 1, 2, ")
    assert len(text) < 500
    assert "N=0, L=0: 0 1 2 3 4 5 6 7 8 9 10 11 ..." in text


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_a_tensor_without_numbers_has_axes_too(shape: tuple[int, ...]) -> None:
    names = " ".join("NLF"[: len(shape)])
    assert elman.axes(np.zeros(shape), names).shape == shape


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"a name for each of the 3 axes of x, got 'N L'$"):
        elman.axes(SMALL, "N L")
    for wrong in ([[1], [2, 3]], "abc", torch.zeros(2, device="meta"), None):
        with pytest.raises(TypeError, match="x must be a tensor, an array or nested lists"):
            elman.axes(wrong, "N")


def test_arrays_need_no_pytorch() -> None:
    code = "import sys, elman; print(elman.axes([[1, 2]], 'N F')); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_the_numbers_are_the_same_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    english = elman.axes(np.arange(99), "N").text, elman.axes(SMALL, "N L F").text
    monkeypatch.setattr(language, "_chosen", "zh")
    large, small = elman.axes(np.arange(99), "N").text, elman.axes(SMALL, "N L F").text
    assert "99" in large
    assert "0, 1, 2" in large
    assert "内存" in small
    assert small.count("|") == english[1].count("|")

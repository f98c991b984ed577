"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import elman


def test_importing_elman_does_not_import_torch() -> None:
    code = "import sys, elman; assert 'torch' not in sys.modules; dir(elman); elman.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    for name in elman.__all__:
        assert name in dir(elman)
        if name != "__version__":  # is there once the package is installed
            assert hasattr(elman, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'elman' has no attribute 'Lstm'"):
        elman.Lstm  # noqa: B018


def test_a_layer_first_made_under_another_device_leaves_later_ones_alone() -> None:
    code = (
        "import torch, elman\n"
        "with torch.device('meta'): elman.LSTM(3, 4)\n"
        "elman.LSTM(3, 4)(torch.randn(5, 2, 3))[0].sum().backward()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""What a wheel is asked where it was installed beside NumPy alone: `make wheel`, cibuildwheel."""

import sys
import tempfile
from pathlib import Path

import elman
import elman.cells
import elman.runtime
from elman.runtime import native
from elman.verification import _numbers, _write, machine


def main() -> None:
    assert native._native is not None, "the core is not there"
    assert "torch" not in sys.modules

    said = "nothing: PyTorch is here"
    try:
        elman.LSTM  # noqa: B018
    except ImportError as error:
        said = str(error)
    assert said == "elman.LSTM needs PyTorch: pip install 'elman[torch]'", said

    # Every cell, in every instruction set, by the core and by NumPy, its oracle.
    for isa in native._native.isas():
        native._native.set_isa(isa)
        checks = elman.verify()
        assert checks
        different = [f"{c.cell} {c.what}" for c in checks if c.is_same is False]
        # Another compiler than that of the release may fuse other products with sums.
        print(f"{machine()}: {len(checks)} results, other bits: {different or 'none'}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.elman")
        for cell in elman.cells.CELLS:
            _write(path, cell, "float64")
            model = elman.runtime.load(path)
            x = _numbers((11, 5, 13), seed=1, dtype="float64")
            y = x
            for module in model.modules:
                y = module(y)
            assert abs(model.run(x) - y).max() < 1e-12, cell
    print("elman", elman.__version__, "works beside NumPy alone")


if __name__ == "__main__":
    main()

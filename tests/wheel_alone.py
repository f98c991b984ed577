"""What a wheel is asked where it was installed beside NumPy alone: `make wheel`, cibuildwheel."""

import sys
import tempfile
from pathlib import Path

import elman
import elman.cells
import elman.runtime
from elman.runtime import native

assert native._native is not None, "the core is not there"
assert "torch" not in sys.modules

try:
    elman.LSTM  # noqa: B018
except ImportError as error:
    assert str(error) == "elman.LSTM needs PyTorch: pip install 'elman[torch]'", error
else:
    raise AssertionError("PyTorch is here: nothing is tried")

# Every cell, in every instruction set, by the core and by NumPy, its oracle.
for isa in native._native.isas():
    native._native.set_isa(isa)
    checks = elman.verify()
    assert checks
    different = [f"{c.cell} {c.what}" for c in checks if c.is_same is False]
    # Another compiler than that of the release may fuse other products with sums.
    print(
        f"{elman.verification.machine()}: {len(checks)} results, other bits: {different or 'none'}"
    )

from elman.verification import _numbers, _write  # noqa: E402

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

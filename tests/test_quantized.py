"""Quantised layers: the runtime's numbers, the layers' forms, and no training."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from test_runtime import LAYERS, layer
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman
from elman import runtime
from elman.runtime import native
from elman.shapes import KindError, ShapeError


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def states(module: Any, batch: int) -> Any:
    rows = module.num_layers * (2 if module.bidirectional else 1)
    both = tuple(torch.rand(rows, batch, width) for width in module._state_widths)
    return both if len(both) > 1 else both[0]


@pytest.fixture(params=["core", "numpy"])
def computes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(native, "_cells", dict)
    elif not native._cells():
        pytest.skip("the native core is not in use")
    return str(request.param)


@pytest.mark.usefixtures("computes")
@pytest.mark.parametrize("weights", ["int8", "bf16"])
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_a_quantised_layer_gives_what_the_file_gives(
    kind: str, options: dict[str, Any], weights: str, tmp_path: Path
) -> None:
    module = layer(kind, options)
    quantised = elman.quantize(module, weights)
    elman.save(module, tmp_path / "m", weights)
    x, lengths = torch.randn(7, 3, 4), [7, 0, 3]
    model = runtime.load(tmp_path / "m")
    same(quantised(x)[0], torch.from_numpy(model.run(x.numpy())))
    same(quantised(x, lengths=lengths)[0], torch.from_numpy(model.run(x.numpy(), lengths)))
    elman.save(quantised, tmp_path / "again")
    same(quantised(x)[0], torch.from_numpy(runtime.load(tmp_path / "again").run(x.numpy())))
    assert (tmp_path / "again").stat().st_size < (tmp_path / "m").stat().st_size + 10


@pytest.mark.usefixtures("computes")
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_it_takes_and_gives_what_the_layer_does(kind: str, options: dict[str, Any]) -> None:
    module = layer(kind, options)
    quantised = elman.quantize(module)
    x, hx, lengths = torch.randn(7, 3, 4), states(module, 3), [3, 7, 1]

    def near(found: Any, expected: Any) -> None:
        torch.testing.assert_close(found, expected, rtol=0, atol=0.03)

    with torch.no_grad():
        near(quantised(x, hx), module(x, hx))
        near(quantised(x, hx, lengths), module(x, hx, lengths))
        near(quantised(x[:, 0]), module(x[:, 0]))
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        output, final = quantised(packed, hx)
        same((pad_packed_sequence(output)[0], final), quantised(x, hx, lengths))
        first = elman.quantize(layer(kind, {**options, "batch_first": True}))
        output, final = first(x.transpose(0, 1), hx)
        same((output.transpose(0, 1), final), quantised(x, hx))
        if not options["bidirectional"]:  # in pieces
            early, kept = quantised(x[:3], hx)
            late, final = quantised(x[3:], kept)
            same((torch.cat([early, late]), final), quantised(x, hx))
        alone = [part[:, 1:2] for part in hx] if kind == "LSTM" else hx[:, 1:2]
        same(quantised(x[:, 1:2], alone)[0], quantised(x, hx)[0][:, 1:2])
        same(quantised(x[:, :0])[0], module(x[:, :0])[0])
    kept = copy.deepcopy(hx)
    quantised(x, hx)
    same(hx, kept)  # what was given is as it was


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.encoder = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True, dropout=0.5)
        self.decoder = elman.GRU(12, 5)
        self.same = self.decoder
        self.head = nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.encoder(self.embedding(ids))
        return self.head(self.decoder(x.transpose(0, 1))[0])  # type: ignore[no-any-return]


def test_layers_inside_any_model() -> None:
    torch.manual_seed(0)
    model = Tagger()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantised = elman.quantize(model)
    assert type(model.encoder) is nn.LSTM
    assert model.training
    same(model.state_dict(), before)
    assert quantised.same is quantised.decoder
    assert not quantised.training
    assert not any(p.requires_grad for p in quantised.parameters())
    assert "QuantizedLSTM(4, 6, num_layers=2" in repr(quantised)
    ids = torch.randint(11, (3, 7))
    found = quantised(ids)
    assert not found.requires_grad
    assert (found - model.eval()(ids)).abs().max() < 0.02
    for again in (copy.deepcopy(quantised), pickle.loads(pickle.dumps(quantised))):
        same(again(ids), found)
    file = io.BytesIO()
    torch.save(quantised.state_dict(), file)
    torch.manual_seed(1)
    other = elman.quantize(Tagger())
    other(ids)  # so that it has something to make anew
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    same(other(ids), found)
    with torch.inference_mode():
        same(elman.quantize(model)(ids), found)


def test_weights_that_changed_take_effect() -> None:
    layer = elman.quantize(elman.GRU(3, 4, bias=False))
    x = torch.randn(5, 2, 3)
    assert layer(x)[0].abs().max() > 0
    layer.weight_ih_l0.zero_()  # type: ignore[operator, union-attr]
    assert layer(x)[0].abs().max() == 0


def test_a_large_layer_has_the_same_bits_for_any_threads() -> None:
    torch.manual_seed(0)
    quantised = elman.quantize(elman.LSTM(64, 300))
    x = torch.randn(20, 2, 64)
    before = elman.get_num_threads()
    try:
        elman.set_num_threads(1)
        expected = quantised(x)
        elman.set_num_threads(3)
        same(quantised(x), expected)
    finally:
        elman.set_num_threads(before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: q.train(), r"QuantizedGRU is for inference, and train\(\) was called"),
        (lambda q: nn.Sequential(q).train(), r"is for inference, and train\(\) was called"),
        (lambda q: q.requires_grad_(), r"is for inference, and requires_grad_\(\) was called"),
        (lambda q: q.reset_parameters(), r"and reset_parameters\(\) was called"),
        (lambda q: q(torch.randn(5, 2, 3, requires_grad=True)), "its input requires one"),
        (lambda q: q(torch.ones(5, 2, 3), torch.ones(1, 2, 4, requires_grad=True)), "requires one"),
        (lambda q: q(torch.randn(5, 2, 3, dtype=torch.float64)), "input .*float32"),
        (lambda q: q(torch.randn(5, 2, 4)), "input must have"),
        (lambda q: elman.quantize(q), "must have a recurrent layer of floats, and has none"),
        (lambda _: elman.quantize(nn.Linear(2, 3)), "must have a recurrent layer of floats"),
        (lambda _: elman.quantize(3), "model must be a torch.nn.Module, got int"),
        (lambda _: elman.quantize(elman.GRU(2, 3), "int4"), "must be int8 or bf16, got 'int4'"),
        (lambda _: elman.quantize(elman.GRU(2, 3).double()), "must be float32 on the CPU"),
    ],
)  # fmt: skip
def test_what_it_does_not_do_is_refused(call: Any, message: str) -> None:
    layer = elman.quantize(elman.GRU(3, 4))
    with pytest.raises(ShapeError, match=message):
        call(layer)
    layer.eval().requires_grad_(False)
    layer(torch.randn(5, 2, 3))


def test_weights_that_are_not_finite_are_refused() -> None:
    module = elman.GRU(3, 4)
    with torch.no_grad():
        module.weight_hh_l0[0, 0] = float("nan")
    with pytest.raises(ShapeError, match=r"quantize: .*weight_hh_l0 must be finite"):
        elman.quantize(module)
    assert elman.quantize(module, "bf16")(torch.ones(2, 1, 3))[0].isnan().any()


def test_what_stays_is_said() -> None:
    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"a": nn.GRU(3, 4), "own": Own(3, 4), "cell": nn.LSTMCell(3, 4)})
    with pytest.warns(UserWarning, match="stays as it is") as caught:
        quantised = elman.quantize(model)
    texts = sorted(str(warning.message) for warning in caught)
    assert len(texts) == 2
    assert texts[0].startswith("quantize: cell stays as it is: it is a cell")
    assert texts[1].startswith("quantize: own stays as it is: ")
    assert type(quantised.own) is Own  # type: ignore[index]


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_runs_it() -> None:
    model = nn.Sequential(elman.quantize(elman.GRU(3, 4)))
    x = torch.randn(5, 2, 3)
    same(torch.compile(model, backend="eager")(x), model(x))
    with pytest.raises(KindError, match="cannot be traced"):
        torch.jit.trace(model, x, check_trace=False)

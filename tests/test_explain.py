"""Explanations: right on every configuration, and nothing of the caller is changed."""

import importlib.util
import itertools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import FORMS, LAYERS, RAGGED_FORMS, STEP_CELLS, Problem
from test_nn import random_problem
from test_swap import TOKENS, ByMatch, ByTuple, ByType, Named, Own, Queue, Tagger
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence

import elman
from elman import ops
from elman.cells import CELLS, MORE_CELLS
from elman.explanation import Explanation
from elman.explanation.checks import Check
from elman.shapes import KindError, ShapeError

UNEXPECTED = "That is not what the equations lead to expect"


def options_of(kind: str) -> list[dict[str, Any]]:
    choices: dict[str, tuple[Any, ...]] = {"bias": (True, False)}
    if kind in LAYERS:
        choices |= {"num_layers": (1, 2), "bidirectional": (False, True)}
    if "RNN" in kind:
        choices["nonlinearity"] = ("tanh", "relu")
    if kind == "LSTM":
        choices["proj_size"] = (0, 3)
    if "GRU" in kind:
        choices["reset_after"] = (True, False)
    made = [dict(zip(choices, v, strict=True)) for v in itertools.product(*choices.values())]
    for options in made:
        if options.get("reset_after"):
            del options["reset_after"]
    return [{"input_size": 5, "hidden_size": 9} | options for options in made]


def explained(problem: Problem, namespace: Any = elman, lang: str = "en") -> Explanation:
    module, arguments = problem.module(namespace), problem.arguments()
    input: Any = arguments["input"]
    if problem.form in ("sorted", "unsorted"):
        input = pack_padded_sequence(
            input, problem.lengths, enforce_sorted=problem.form == "sorted"
        )
    hx: Any = tuple(value for name, value in arguments.items() if name != "input")
    hx = None if not hx else hx if "LSTM" in problem.kind else hx[0]
    lengths = problem.lengths if problem.form in RAGGED_FORMS else None
    return elman.explain(module, input, hx, lengths, lang)


def truths(told: Explanation) -> dict[str, bool]:
    return {key: holds for key, _, holds in told.checks}


# What holds in every call, and what in none of those made here.
ALWAYS = (
    *("second_call_starts_from_zeros", "zeros_are_the_default_state", "cell_by_hand_equals_layer"),
    *("state_passed_on_carries_its_graph",),
)


def assert_sound(told: Explanation, problem: Problem) -> None:
    holds = truths(told)
    assert len(holds) == len(told.checks), "two checks of one key"
    assert [said for _, said, _ in told.checks if UNEXPECTED in said] == []
    assert [key for key in ALWAYS if not holds[key]] == []
    one_way = not problem.options.get("bidirectional")
    assert holds["state_passed_on_continues"] == (one_way or problem.seq_len == 1)
    if not problem.is_cell:
        assert holds.get("last_is_h_n", True)
        assert holds.get("padding_is_zero", True)
        assert holds.get("a_row_alone_gives_the_same", True)
    widths = {name: size for name, (_, size) in told.shapes.items()}
    states = [size for name, size in widths.items() if name in ("h_n", "c_n", "h_1", "c_1")]
    assert states == problem.state_shapes


@pytest.mark.parametrize("form", FORMS + RAGGED_FORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_combination_of_options_is_explained(kind: str, form: str) -> None:
    # In each form one half of the combinations, in which all pairs of two options occur.
    half = (FORMS + RAGGED_FORMS).index(form) % 2
    for number, options in enumerate(options_of(kind)):
        if number.bit_count() % 2 != half:
            continue
        problem = Problem(kind, options, form, with_hx=number % 2 == 0, seed=number)
        told = explained(problem)
        assert_sound(told, problem)
        if problem.is_in_torch and number % 4 < 2:
            assert_sound(explained(problem, nn), problem)
    assert max(map(len, told.text.splitlines())) <= 80
    assert told.html.startswith("<!doctype html>")


@pytest.mark.parametrize("form", ["time_first", "unbatched"])
@pytest.mark.parametrize("kind", STEP_CELLS)
def test_every_cell_is_explained(kind: str, form: str) -> None:
    for number, options in enumerate(options_of(kind)):
        problem = Problem(kind, options, form, with_hx=number % 2 == 0, seed=number)
        assert_sound(explained(problem), problem)
        if problem.is_in_torch:
            assert_sound(explained(problem, nn), problem)


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_random_problems_are_explained(kind: str) -> None:
    for seed in range(8):
        problem = random_problem(kind, seed)
        told = explained(problem)
        assert [said for _, said, _ in told.checks if UNEXPECTED in said] == [], (problem, told)
        assert told.html


# --- nothing of the caller is changed -----------------------------------------------------------


def everything(model: nn.Module) -> dict[str, Any]:
    """What a caller could see of a module: values, objects, hooks, mode."""
    seen: dict[str, Any] = {"generator": torch.get_rng_state(), "dtype": torch.get_default_dtype()}
    for name, part in model.named_modules():
        seen[f"{name} class"] = type(part)
        seen[f"{name} training"] = part.training
        for key, value in vars(part).items():
            if key.startswith("_parameters") or key.startswith("_buffers"):
                seen |= {
                    f"{name} {k}": (v, None if v is None else v.clone()) for k, v in value.items()
                }
                seen |= {f"{name} grad {k}": v is not None and v.grad for k, v in value.items()}
            elif "hooks" in key:
                seen[f"{name} {key}"] = dict(value)
            elif not isinstance(value, Tensor):
                seen[f"{name} {key}"] = repr(value)
    return seen


def assert_untouched(model: nn.Module, *args: Any) -> None:
    before = everything(model)
    str(elman.explain(model, *args))
    after = everything(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, after[key]), key
        elif isinstance(value, tuple) and isinstance(value[0], Tensor):
            assert value[0] is after[key][0], key
            assert torch.equal(value[1], after[key][1]), key
        else:
            assert value == after[key] or value is after[key], key


@pytest.mark.parametrize("namespace", [elman, nn])
@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_nothing_of_the_caller_is_changed(kind: str, namespace: Any) -> None:
    module = getattr(namespace, kind)(3, 4)
    calls: list[str] = []
    module.register_forward_hook(lambda *arguments: calls.append("hook"))
    module.register_forward_pre_hook(lambda *arguments: calls.append("hook"))
    module.register_buffer("count", torch.tensor(3))
    module.train()
    assert_untouched(module)
    shape = (2, 3) if kind in STEP_CELLS else (5, 2, 3)
    x = torch.randn(shape, requires_grad=True)
    kept = x.clone()
    assert_untouched(module, x)
    assert torch.equal(x, kept)
    assert x.grad is None
    assert calls == []


def test_nothing_of_a_model_is_changed() -> None:
    class Counting(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(12)

        def forward(self, tokens: Tensor) -> Tensor:
            output, _ = self.encoder(self.embed(tokens))
            return self.norm(output.transpose(1, 2))

    model = Counting()
    calls: list[str] = []
    for part in model.modules():
        part.register_forward_hook(lambda *arguments: calls.append("hook"))
    assert_untouched(model, TOKENS)
    assert_untouched(model)
    assert calls == []


def test_it_runs_under_whatever_mode_the_caller_has() -> None:
    layer, x = elman.LSTM(3, 4), torch.randn(5, 2, 3)
    wanted = elman.explain(layer, x).checks
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu")):
        with mode:
            assert elman.explain(layer, x).checks == wanted


# --- what else may be given ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_a_nested_tensor_is_explained(kind: str) -> None:
    rows = [torch.randn(n, 3) for n in (5, 1, 3)]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged)
    told = elman.explain(getattr(elman, kind)(3, 4, 2), nested)
    holds = truths(told)
    assert holds["padding_is_zero"]
    assert not holds["output_last_is_h_n"]
    assert told.shapes["output"] == (("N", "L", "D*H_out"), (3, 5, 4))
    assert [said for _, said, _ in told.checks if UNEXPECTED in said] == []


@elman.cell(gates="zn")
def leaky(m: Any, gx: Any, gh: Any, state: Any) -> Any:
    """Advance a leaky unit by one step: h' = (1 - z) h + z n."""
    z, n = m.split(gx + gh, 2)
    z = m.sigmoid(z)
    return (1 - z) * state[0] + z * m.tanh(n)


@pytest.mark.parametrize("cell", [*MORE_CELLS, *CELLS, leaky], ids=lambda c: getattr(c, "name", c))
def test_layers_of_other_cells_are_explained(cell: Any) -> None:
    for options in ({}, {"num_layers": 2, "bidirectional": True, "batch_first": True}):
        torch.manual_seed(0)
        layer = elman.Recurrent(cell, 3, 4, **options)
        for lengths in (None, [4, 2, 0]):
            told = elman.explain(layer, lengths=lengths)
            holds = truths(told)
            assert [said for _, said, _ in told.checks if UNEXPECTED in said] == []
            assert holds["cell_by_hand_equals_layer"]
            assert told.step(1, 1, layer.num_layers - 1).checks[0][2]
            assert max(map(len, told.text.splitlines())) <= 80
            assert [code for code in ("cross_entropy", "Parameter(") if code not in told.text] == []


def test_a_recurrent_product_in_heads_is_explained() -> None:
    layer = elman.Recurrent("slstm", 3, 8, 2, heads=2)
    told = elman.explain(layer)
    assert truths(told)["cell_by_hand_equals_layer"]
    assert told.parameters["weight_hh_l0"] == (("4*hidden_size", "hidden_size/heads"), (32, 4))
    assert told.shapes["m_n"] == (("D*num_layers", "N", "hidden_size"), (2, 4, 8))
    assert "exponential gates" in told.text


def test_lengths_of_a_layer_of_torch_are_packed() -> None:
    for x in (None, torch.randn(5, 3, 3)):
        told = elman.explain(nn.GRU(3, 4), x, lengths=[5, 3, 1])
        assert told.shapes["input.data"] == (("steps", "H_in"), (9, 3))
        assert truths(told)["padding_is_zero"]
        assert "the input was packed" in told.text
    with pytest.raises(ShapeError, match=r"takes no sequence of length 0, got lengths \[5, 0\]"):
        elman.explain(nn.GRU(3, 4), lengths=[5, 0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_explained(dtype: torch.dtype) -> None:
    told = elman.explain(elman.GRU(3, 4, 2, bidirectional=True).to(dtype))
    assert [said for _, said, _ in told.checks if UNEXPECTED in said] == []


def test_long_and_wide_calls_are_abridged() -> None:
    layer = elman.LSTM(7, 13, 6, bidirectional=True)
    told = elman.explain(layer, torch.randn(1000, 9, 7), lengths=[1000, *range(8)])
    assert "t=999" in told.text
    assert "t=500" not in told.text
    assert [said for _, said, _ in told.checks if UNEXPECTED in said] == []
    assert len(told.html) < 200_000


def test_a_batch_of_nothing_and_one_step_are_explained() -> None:
    for shape in ((5, 0, 3), (1, 1, 3), (1, 2, 3)):
        told = elman.explain(elman.GRU(3, 4, bidirectional=True), torch.randn(shape))
        assert told.html
    assert truths(told)["output_last_is_h_n"]  # of one step


def test_a_layer_whose_weights_are_computed_is_explained() -> None:
    for change in (
        lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
        lambda m: parametrizations.orthogonal(m, "weight_ih_l0"),
        lambda m: prune.random_unstructured(m, "weight_hh_l0", 0.5),
    ):
        for namespace in (elman, nn):
            layer = namespace.LSTM(3, 4)
            change(layer)
            layer(torch.randn(5, 2, 3))  # now its weights belong to a graph
            holds = truths(elman.explain(layer))
            assert holds["cell_by_hand_equals_layer"]


MODELS = [
    Tagger,
    lambda: Queue(nn.Linear(3, 3), nn.LSTM(3, 4)),
    lambda: Queue(nn.Linear(3, 3), elman.LSTM(3, 4)),
    lambda: ByTuple(nn.GRU(3, 4)),
    lambda: ByType(nn.LSTMCell(3, 4)),
    lambda: ByMatch(nn.LSTM(3, 4)),
    lambda: nn.ModuleList([Own(3, 4), Named(3, 4)]),
    lambda: nn.Sequential(nn.LSTM(3, 4)),
    lambda: Own(3, 4),
    lambda: nn.DataParallel(nn.GRU(3, 4)),
    lambda: torch.compile(nn.Sequential(elman.LSTM(3, 4)), backend="eager"),
]


@pytest.mark.parametrize("make", MODELS)
def test_models_are_explained(make: Any) -> None:
    model = make()
    told = elman.explain(model)
    assert [said for _, said, _ in told.checks if UNEXPECTED in said] == []
    assert max(map(len, told.text.splitlines())) <= 80
    if told.parts:
        assert len(told.parts) == len({id(m) for m in model.modules() if is_recurrent(m)})


def is_recurrent(module: nn.Module) -> bool:
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase))


def test_the_modules_of_a_model_come_in_the_order_of_their_calls() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.GRU(6, 4, batch_first=True)
            self.first = elman.LSTM(5, 3, bidirectional=True, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor, scale: float) -> Tensor:
            output, _ = self.second(self.first(x * scale)[0])
            return self.head(output[:, -1])

    told = elman.explain(Crossed(), (torch.randn(3, 7, 5), 2.0))
    assert [part.title.split(":")[0] for part in told.parts] == ["first", "second"]
    assert told.shapes["second.input"] == (("N", "L", "H_in"), (3, 7, 6))
    assert "first.output" in told.text
    assert "(N=3, L=7, H_in=6)" in told.text
    assert "second.output[:, -1]" in told.text
    assert truths(told)["head.reads_all_of_a_sequence"]


@pytest.mark.parametrize(
    ("read", "holds"),
    [
        (lambda output, h_n: output[:, -1], False),  # the reverse direction has read one step
        (lambda output, h_n: output[-1], False),  # another axis
        (lambda output, h_n: torch.cat((h_n[-2], h_n[-1]), -1), True),
        (lambda output, h_n: torch.cat((h_n[2], h_n[1]), -1), None),  # of two layers: not known
    ],
)
def test_what_a_head_reads_is_found_out(read: Any, holds: bool | None) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = elman.GRU(3, 4, 2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(read(*self.layer(x)))

    told = elman.explain(Reader(), torch.randn(3, 7, 3))
    assert truths(told).get("head.reads_all_of_a_sequence") is holds


# --- the object ---------------------------------------------------------------------------------


def test_a_step_by_hand_equals_the_module() -> None:
    layer = elman.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    told = elman.explain(layer, torch.randn(5, 3, 3), lengths=[5, 2, 3])
    for n, length in enumerate((5, 2, 3)):
        for t, k, d in itertools.product(range(length), range(2), range(2)):
            ((key, said, holds),) = told.step(t, n, k, d).checks
            assert key == "step_by_hand_equals_module"
            assert holds, said
    with pytest.raises(ShapeError, match="explain: t must be from 0 to 1, got 2"):
        told.step(2, n=1)
    with pytest.raises(ShapeError, match="explain: layer must be from 0 to 1, got 2"):
        told.step(0, layer=2)
    with pytest.raises(ShapeError, match="got a model"):
        elman.explain(nn.Sequential(layer)).step(0)


def test_a_step_by_hand_shows_every_gate() -> None:
    said = str(elman.explain(elman.GRU(3, 4)).step(t=1, n=2))
    assert [s for s in ("x_t", "h_(t-1)", "r_t", "z_t", "n_t", "h_t") if s not in said] == []


def test_the_checks_see_a_wrong_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = elman.LSTM(3, 4)
    run = elman.LSTM._run

    def wrong(self: Any, input: Tensor, *rest: Any) -> Any:
        output, *states = run(self, input, *rest)
        return (output * 1.01, *states)

    monkeypatch.setattr(elman.LSTM, "_run", wrong)
    monkeypatch.setattr(ops, "at_once", lambda *_: None)
    told = elman.explain(layer)
    failed = [key for key, said, _ in told.checks if UNEXPECTED in said]
    assert "cell_by_hand_equals_layer" in failed
    assert "output_last_is_h_n" not in [key for key, _, holds in told.checks if holds]


def test_all_advice_runs_on_every_layer() -> None:
    # What does not run is not printed, so count what is.
    for number, (kind, form) in enumerate(itertools.product(LAYERS, FORMS + RAGGED_FORMS)):
        options = {"input_size": 3, "hidden_size": 4, "num_layers": 1 + number % 2}
        for two in (False, True):
            problem = Problem(kind, options | {"bidirectional": two}, form, seed=number)
            text = explained(problem).html
            wanted = ["summary =", "cross_entropy", "decoder =", "carry =", "Parameter("]
            wanted += ["lower ="] * (number % 2)
            wanted += ["elman.gates("] * (form not in ("sorted", "unsorted"))
            plain = form in ("time_first", "batch_first")
            wanted += ["mse_loss"] * (plain and not two)
            assert [code for code in wanted if code not in text] == [], (kind, form, two)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("first", [False, True])
def test_a_layer_called_with_reset_is_explained_and_what_reads_it_is_found(
    kind: str, first: bool
) -> None:
    class Episodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = getattr(elman, kind)(3, 4, batch_first=first)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor, reset: Tensor) -> Tensor:
            return self.head(self.layer(x, None, reset=reset)[0])

    told = elman.explain(Episodes(), (torch.randn(5, 5, 3), torch.eye(5, dtype=torch.bool)))
    assert truths(told)["layer.cell_by_hand_equals_layer"]
    assert "layer.output" in told.text
    assert "start anew; explained below without: layer." in " ".join(told.text.split())
    chinese = elman.explain(
        Episodes(), (torch.randn(5, 5, 3), torch.eye(5, dtype=torch.bool)), lang="zh"
    )
    assert "不含 reset" in chinese.text


@pytest.mark.parametrize("weights", ["int8", "bf16"])
def test_quantised_layers_are_refused_in_a_sentence(weights: str) -> None:
    with pytest.raises(KindError, match=r"module must not be quantised.*elman\.quantize was given"):
        elman.explain(elman.quantize(elman.LSTM(3, 4), weights))
    model = elman.quantize(nn.Sequential(nn.Identity(), elman.GRU(3, 4)), weights)
    with pytest.raises(KindError, match="explain: 1 must not be quantised"):
        elman.explain(model, torch.randn(5, 2, 3))


def test_what_is_no_recurrent_module_is_refused() -> None:
    with pytest.raises(KindError, match=r"module must be a torch\.nn\.Module, got list"):
        elman.explain([nn.LSTM(3, 4)])
    with pytest.raises(KindError, match="got Linear without any"):
        elman.explain(nn.Linear(3, 4))
    with pytest.raises(KindError, match="hx and lengths are arguments of a layer"):
        elman.explain(nn.Sequential(nn.LSTM(3, 4)), lengths=[3])
    with pytest.raises(KindError, match="input must be a tensor or a PackedSequence, got list"):
        elman.explain(nn.LSTM(3, 4), [1.0])
    with pytest.raises(ValueError, match="must be one of en, zh, got 'fr'"):
        elman.explain(nn.LSTM(3, 4), lang="fr")
    with pytest.raises(ShapeError, match="must have values"):
        elman.explain(nn.LSTM(3, 4, device="meta"))
    with pytest.raises(ShapeError, match="input must have H_in = input_size = 3"):
        elman.explain(elman.LSTM(3, 4), torch.randn(5, 2, 7))


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    elman.explain(elman.LSTM(3, 4, 2, bidirectional=True)).save(path)
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"|@import|url\((?!#)', page) == []
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") == 1


def test_a_notebook_gets_a_part_of_a_page() -> None:
    shown = elman.explain(elman.GRU(3, 4))._repr_html_()
    assert shown.startswith("<style>")
    assert "<html" not in shown


# --- languages ----------------------------------------------------------------------------------


def facts_in(text: str) -> set[str]:
    """The numbers and the names of code in a rendering; lines may break anywhere but in these."""
    names = r"[A-Za-z]\w*_\w+|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z]\w*(?=[\[(])"
    return set(re.findall(rf"\d+(?:\.\d+)?|{names}", text, re.ASCII))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (
            elman.LSTM(10, 20, 2, bidirectional=True, batch_first=True),
            None,
            None,
            [5, 3, 0],
        ),
        lambda: (elman.GRU(3, 4, 2, dropout=0.5),),
        lambda: (elman.RNN(3, 4, nonlinearity="relu", bidirectional=True),),
        lambda: (elman.GRUCell(3, 4),),
        lambda: (nn.LSTM(3, 4, proj_size=2), None, None, [5, 3, 1]),
        lambda: (Tagger(), TOKENS),
    ],
)
def test_both_languages_tell_the_same(make: Any) -> None:
    given = make()
    english, chinese = (elman.explain(*given, lang=lang) for lang in ("en", "zh"))
    assert english.shapes == chinese.shapes
    assert english.parameters == chinese.parameters
    keys = [[(key, holds) for key, _, holds in told.checks] for told in (english, chinese)]
    assert keys[0] == keys[1]
    for a, b in zip(blocks_of(english), blocks_of(chinese), strict=True):
        assert facts_in(a) == facts_in(b), (a, b)
    assert re.search("[\u4e00-\u9fff]", english.text) is None
    words = re.sub("`[^`]*`", "", chinese.text)
    assert len(re.findall("[\u4e00-\u9fff]", words)) > 500
    assert 'lang="zh-Hans"' in chinese.html


def blocks_of(told: Explanation) -> list[str]:
    return [repr(dataclasses_of(block)) for section in told._sections for block in section.blocks]


def dataclasses_of(block: Any) -> Any:
    if isinstance(block, (list, tuple)):
        return [dataclasses_of(value) for value in block]
    if isinstance(block, Check):
        return [block.code, block.why]
    if hasattr(block, "__dataclass_fields__"):
        return [dataclasses_of(getattr(block, name)) for name in block.__dataclass_fields__]
    return block


def test_the_chosen_language_is_spoken() -> None:
    elman.set_language("zh")
    try:
        assert "输入与输出" in elman.explain(elman.GRU(3, 4)).text
        assert "What goes in" in elman.explain(elman.GRU(3, 4), lang="en").text
        with pytest.raises(ShapeError, match="t 必须在 0 到"):
            elman.explain(elman.GRU(3, 4)).step(99)
    finally:
        elman.set_language("en")


# --- the command --------------------------------------------------------------------------------


def test_the_command_explains(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from elman.cli import main

    words = "explain lstm --input 10 --hidden 20 --layers 2 --bidirectional --batch-first"
    assert main([*words.split(), "--lengths", "5,3,0"]) == 0
    shown = capsys.readouterr().out
    assert "(D*num_layers=4, N=3, H_out=20)" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert main([*words.split(), "--lang", "zh", "--html", str(tmp_path / "a.html")]) == 0
    assert "示意图" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert main(["explain", "rnncell", "--batch", "7"]) == 0
    assert "(N=7, hidden_size=20)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("lstmcell --layers 2", "--layers is for layers, and lstmcell is a cell"),
        ("gru --proj 2", "--proj is for an LSTM, got gru"),
        ("gru --relu", "--relu is for an RNN, got gru"),
        ("gru --lengths 5,x", "--lengths must be numbers of steps such as 5,3,0, got '5,x'"),
        ("gru --lengths 5 --steps 3", "leave out --batch and --steps"),
        ("gru --lang fr", "--lang must be one of en, zh, got 'fr'"),
        ("lstm --hidden 4 --proj 4", "proj_size must be from 1 to hidden_size - 1 = 3"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from elman.cli import main

    assert main(["explain", *words.split()]) == 2
    assert message in capsys.readouterr().err


# --- the page of the documentation --------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> ModuleType:
    path = Path(__file__).parent.parent / "docs" / "explain.py"
    spec = importlib.util.spec_from_file_location("explain_page", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_sample_of_the_documentation_is_what_is_printed(made: ModuleType) -> None:
    page = made.PAGE.read_text(encoding="utf-8")
    assert page.count("```text") == 1
    assert made.written(page) == page, "run docs/explain.py"


# Results are left out: their last digit may be another one on another machine.
def test_the_pages_of_the_documentation_are_those_that_are_made(made: ModuleType) -> None:
    for file, html in made.pages().items():
        now, kept = (re.sub(r"-?\d+\.\d+", "0", page) for page in (html, file.read_text("utf-8")))
        assert now == kept, "run docs/explain.py"

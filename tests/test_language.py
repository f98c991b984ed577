"""The two languages: the catalogue is complete, and its sentences keep the names in braces."""

import ast
import json
import re
import string
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LAYERS, STEP_CELLS
from test_shapes import cell_calls, layer_calls

import elman
import elman.runtime
from elman import language

PACKAGE = Path(elman.__file__).parent
CATALOGUES = sorted((PACKAGE / "languages").glob("*.json"))


def sentences(path: Path) -> list[str]:
    """The English sentences that a file says; what it says must stand there as literals.

    A file says them by `say`, and by each function of its own with a parameter `sentence`.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    places = {"say": 0}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            if "sentence" in names:
                places[node.name] = names.index("sentence")
    found = []
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            continue
        if call.func.id not in places:
            continue
        here, sentence = f"{path}:{call.lineno}", call.args[places[call.func.id]]
        if isinstance(sentence, ast.Name) and sentence.id == "sentence":
            continue  # in such a function
        assert isinstance(sentence, ast.Constant), f"{here}: what is said must be a literal"
        given = {word.arg for word in call.keywords} - {"language"}
        assert None in given or given == braces(sentence.value), f"{here}: other names than {{}}"
        found.append(sentence.value)
    return found


def braces(sentence: str) -> set[str]:
    """The names in braces of a sentence."""
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


SAID = {sentence for path in sorted(PACKAGE.rglob("*.py")) for sentence in sentences(path)}


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_chosen", None)
    monkeypatch.delenv("ELMAN_LANG", raising=False)


def test_every_language_but_english_has_a_catalogue() -> None:
    assert ["en", *(path.stem for path in CATALOGUES)] == list(language.LANGUAGES)


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_a_catalogue_has_the_sentences_that_are_said_and_no_others(path: Path) -> None:
    known = json.loads(path.read_text(encoding="utf-8"))
    assert SAID - set(known) == set(), "not translated"
    assert set(known) - SAID == set(), "said nowhere"
    assert list(known) == sorted(known)


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_a_translation_keeps_the_names_in_braces(path: Path) -> None:
    known = json.loads(path.read_text(encoding="utf-8"))
    assert {e for e, translated in known.items() if braces(e) != braces(translated)} == set()


def test_the_chosen_language_is_spoken() -> None:
    elman.set_language("zh")
    assert elman.get_language() == "zh"
    with pytest.raises(ValueError, match="语言必须是 en, zh 之一"):
        elman.set_language("fr")
    elman.set_language("en")
    with pytest.raises(ValueError, match=r"^elman: the language must be one of en, zh, got 'fr'$"):
        elman.set_language("fr")


@pytest.mark.parametrize(
    ("variable", "spoken"),
    [("zh", "zh"), ("zh_CN.UTF-8", "zh"), ("ZH-Hans", "zh"), ("", "en"), ("de", "en")],
)
def test_the_environment_chooses_where_the_program_did_not(
    variable: str, spoken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELMAN_LANG", variable)
    assert elman.get_language() == spoken
    elman.set_language("en")
    assert elman.get_language() == "en"


# --- what a translation keeps ---------------------------------------------------------------------

CHINESE = re.compile(r"[\u4e00-\u9fff]")
WORDS = re.compile(r"[A-Za-z][A-Za-z_0-9.]*")
NUMBERS = re.compile(r"(?<![A-Za-z_0-9.])\d+(?:\.\d+)?")
HALF_WIDTH = re.compile(r"[\u4e00-\u9fff][,;:!?]|[,;:!?] ?[\u4e00-\u9fff]")


def words(sentence: str) -> set[str]:
    """The words of a sentence in Latin letters, without the dots behind them."""
    return {word.rstrip(".") for word in WORDS.findall(sentence)}


def is_code(word: str) -> bool:
    """Whether it is no word of English prose: input_size, torch.nn.LSTM, int64, GRU, GRUCell."""
    inner = word[1:]
    return "_" in word or "." in word or inner != inner.lower() or any(map(str.isdigit, word))


def assert_same_facts(english: str, chinese: str) -> None:
    assert set(NUMBERS.findall(english)) == set(NUMBERS.findall(chinese)), (english, chinese)
    more = words(chinese) - words(english)
    less = {word for word in words(english) - words(chinese) if is_code(word)}
    assert not more, f"{more} in {chinese!r} is not in {english!r}"
    assert not less, f"{less} of {english!r} is not in {chinese!r}"
    assert not HALF_WIDTH.search(chinese), f"punctuation of half width in {chinese!r}"
    assert CHINESE.search(chinese) or all(map(is_code, words(english))), f"English: {chinese!r}"


@pytest.mark.parametrize("sentence", sorted(SAID))
def test_a_translation_keeps_numbers_names_and_code(sentence: str) -> None:
    known = json.loads((PACKAGE / "languages" / "zh.json").read_text(encoding="utf-8"))
    values = dict.fromkeys(braces(sentence), "")
    english, chinese = sentence.format(**values), known[sentence].format(**values)
    assert_same_facts(english, chinese)


MODELS = {"lstm": elman.LSTM(3, 4), "both": elman.GRU(3, 4, bidirectional=True)}
X, H = torch.zeros(5, 2, 3), torch.zeros(1, 2, 4)


def _called(module: Any, first: Any, second: Any) -> None:
    """Call a carried module twice."""
    carry = elman.Carry(module)
    carry(first)
    carry(second)


def _told(function: Callable[[], object]) -> None:
    """Raise what a function warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function()


MISTAKES: dict[str, Callable[[], object]] = {
    "size": lambda: elman.LSTM(3.0, 4),
    "too small": lambda: elman.LSTM(3, -4),
    "dropout": lambda: elman.GRU(3, 4, 2, dropout=1.5),
    "dtype": lambda: elman.GRU(3, 4, dtype=torch.int64),
    "projection": lambda: elman.LSTM(3, 4, proj_size=4),
    "no projection": lambda: elman.GRU(3, 4, proj_size=2),
    "nonlinearity": lambda: elman.RNN(3, 4, nonlinearity="tahn"),
    "no time": lambda: MODELS["lstm"](torch.zeros(0, 2, 3)),
    "state of a batch": lambda: MODELS["lstm"](X, (H, torch.zeros(1, 3, 4))),
    "three states": lambda: MODELS["lstm"](X, (H, H, H)),
    "batch first": lambda: elman.GRU(3, 4)(torch.zeros(5, 7, 3), torch.zeros(1, 5, 4)),
    "lengths": lambda: MODELS["both"](X, None, [6, 2]),
    "lengths of floats": lambda: MODELS["both"](X, None, torch.tensor([5.0, 2.0])),
    "lengths of a batch": lambda: MODELS["both"](X, None, [5, 2, 1]),
    "lengths of one": lambda: MODELS["both"](X[:, 0], None, [5]),
    "sequence for a cell": lambda: elman.LSTMCell(3, 4)(X),
    "dropout of one layer": lambda: _told(lambda: elman.LSTM(3, 4, dropout=0.5)),
    "truth": lambda: _told(lambda: elman.GRUCell(3, 4, "relu")),
    "number": lambda: _told(lambda: elman.GRU(3, 4, True)),
    "no features": lambda: _told(lambda: elman.RNNCell(3, 0)),
    "cell": lambda: elman.Recurrent("gruu", 3, 4),
    "heads": lambda: elman.Recurrent("lstm", 3, 5, heads=2),
    "carry": lambda: elman.Carry("model"),
    "carry of nothing": lambda: elman.Carry(torch.nn.Linear(3, 4)),
    "carry of two directions": lambda: elman.Carry(MODELS["both"]),
    "carry of a batch": lambda: _called(MODELS["lstm"], X, torch.zeros(5, 3, 3)),
    "carry without a batch": lambda: _called(MODELS["lstm"], X, torch.zeros(5, 3)),
    "carry of a type": lambda: _called(elman.GRU(3, 4), X, X.double()),
    "chunk": lambda: list(elman.tbptt(elman.Carry(MODELS["lstm"]), X, chunk=0)),
    "data": lambda: list(elman.tbptt(elman.Carry(MODELS["lstm"]), X, X[1:], chunk=2)),
    "no data": lambda: list(elman.tbptt(elman.Carry(MODELS["lstm"]), chunk=2)),
    "last": lambda: elman.last(torch.zeros(3)),
    "last of a pair": lambda: elman.last(MODELS["lstm"](X)),
    "sampler": lambda: elman.BucketBatchSampler([3, -4], 2),
    "sampler of a row": lambda: elman.BucketBatchSampler([3, 9], max_steps=8),
    "convert": lambda: elman.convert([MODELS["lstm"]]),
    "keras": lambda: elman.from_keras("weights"),
    "keras of few": lambda: elman.from_keras([torch.zeros(3, 4).numpy()]),
    "to keras": lambda: elman.to_keras(elman.LSTM(3, 4, proj_size=2)),
    "save": lambda: elman.save(torch.nn.Conv1d(3, 4, 1), "model.elman"),
    "save in": lambda: elman.save(MODELS["lstm"], "model.elman", weights="int3"),
    "threads": lambda: elman.set_num_threads(0),
    "threads of a word": lambda: elman.set_num_threads("4"),
    "operator": lambda: torch.ops.elman.layer(
        X, *[None] * 7, torch.zeros(16, 3), torch.zeros(15, 4), *[None] * 8, "lstm", False
    ),
    "file": lambda: elman.runtime.load(__file__),
    "no file": lambda: elman.runtime.load(Path(__file__).parent),
}


def calls() -> Iterator[Any]:
    """Every call that the tests of wrong calls make, and the mistakes above."""
    for kinds, wrong in ((LAYERS, layer_calls), (STEP_CELLS, cell_calls)):
        for kind in kinds:
            for name, args in wrong(kind):
                module = getattr(elman, kind)(3, 4)
                yield pytest.param(partial(module, *args), id=f"{kind}: {name}")
    for name, mistake in MISTAKES.items():
        yield pytest.param(mistake, id=name)


@pytest.mark.parametrize("mistake", list(calls()))
def test_an_error_says_the_same_in_both_languages(mistake: Callable[[], object]) -> None:
    said = []
    for chosen in language.LANGUAGES:
        elman.set_language(chosen)
        with pytest.raises(Exception) as caught:  # noqa: PT011  of many kinds
            mistake()
        said.append((type(caught.value), str(caught.value)))
    (kind, english), (same, chinese) = said
    assert kind is same
    assert not CHINESE.search(english)
    assert CHINESE.search(chinese), f"English: {chinese!r}"
    assert_same_facts(english, chinese)


def test_a_report_says_the_same_in_both_languages() -> None:
    said = []
    for chosen in language.LANGUAGES:
        elman.set_language(chosen)
        quantised = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 4), "b": Own(3, 4)})
        said.append(repr(elman.convert(quantised)))
    assert said[1].startswith("替换了 1 个，保留了 1 个\na  torch.nn.LSTM -> elman.LSTM\n")
    assert_same_facts(*said)


class Own(torch.nn.GRU):
    """A subclass, which is left as it is."""


def test_a_compiled_call_says_it_in_the_chosen_language() -> None:
    elman.set_language("zh")
    compiled = torch.compile(elman.LSTM(3, 4), backend="eager")
    with pytest.raises(RuntimeError, match=r"^LSTM：input 的最后一个轴上必须有 H_in"):
        compiled(torch.zeros(5, 2, 7))
    torch.compiler.reset()

"""The two languages: the catalogue is complete, and its sentences keep the names in braces."""

import ast
import json
import string
from pathlib import Path

import pytest

import elman
from elman import language

PACKAGE = Path(elman.__file__).parent
CATALOGUES = sorted((PACKAGE / "languages").glob("*.json"))


def sentences(path: Path) -> list[str]:
    """The English sentences that a file says; what it says must stand there as literals."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say"
    ]
    for call in calls:
        here = f"{path}:{call.lineno}"
        assert isinstance(call.args[0], ast.Constant), f"{here}: say() takes a literal sentence"
        given = {word.arg for word in call.keywords} - {"language"}
        assert None in given or given == braces(call.args[0].value), (
            f"{here}: other names than {{}}"
        )
    return [call.args[0].value for call in calls]


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

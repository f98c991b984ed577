"""The language of what elman says: English, which stands in the code, or Simplified Chinese.

A sentence is written once, in English, where it is said: ``say("{what} must be ...", what=...)``.
Its translation stands in ``languages/zh.json`` under the English sentence, with the same names in
braces. A test reads the code and the catalogue, and keeps the one complete for the other.
"""

import json
import os

__all__ = ["LANGUAGES", "get_language", "known", "say", "set_language"]

LANGUAGES = ("en", "zh")
_chosen: str | None = None
_catalogues: dict[str, dict[str, str]] = {}  # those that were read: torch.compile sees through it


def set_language(language: str) -> None:
    """Choose the language of explanations, hints and errors, for the whole process.

    The variable ELMAN_LANG of the environment chooses it too, for a process in which this was not
    called.

    Args:
        language: "en" for English, or "zh" for Simplified Chinese.

    Raises:
        ValueError: If there is no such language.

    Example:
        >>> import elman
        >>> elman.set_language("zh")
        >>> elman.get_language()
        'zh'
        >>> elman.set_language("en")
    """
    global _chosen
    _chosen = known(language)
    if language != "en":
        _catalogue(language)


def known(language: str) -> str:
    """Return a language that there is.

    Raises:
        ValueError: There is no such language.
    """
    if language not in LANGUAGES:
        raise ValueError(
            say(
                "elman: the language must be one of {known}, got {got}",
                known=", ".join(LANGUAGES),
                got=repr(language),
            )
        )
    return language


def get_language() -> str:
    """Return the language of explanations, hints and errors, "en" or "zh".

    Example:
        >>> import elman
        >>> elman.get_language()
        'en'
    """
    if _chosen is not None:
        return _chosen
    # "zh_CN.UTF-8" is how the environment names a language elsewhere. What is not known is English:
    # a mistake in a variable must not turn each error into another.
    asked = os.environ.get("ELMAN_LANG", "").lower().replace("-", "_").split("_")[0]
    return asked if asked in LANGUAGES else "en"


def say(sentence: str, /, *, language: str | None = None, **values: object) -> str:
    """Return a sentence in the chosen language, with values in the place of the names in braces.

    Args:
        sentence: the English sentence, a literal, since a test reads it from the code.
        language: "en" or "zh"; the chosen language if None.
        values: what stands in the place of each name.

    Example:
        >>> say("elman: the language must be one of {known}, got {got}", known="en, zh", got="'fr'")
        "elman: the language must be one of en, zh, got 'fr'"
    """
    language = language or get_language()
    if language != "en":
        sentence = _catalogue(language).get(sentence, sentence)
    return sentence.format(**values) if values else sentence


def _catalogue(language: str) -> dict[str, str]:
    if language not in _catalogues:
        from importlib.resources import files  # 10 ms, which English need not wait for

        file = files("elman").joinpath("languages", f"{language}.json")
        _catalogues[language] = json.loads(file.read_text(encoding="utf-8"))
    return _catalogues[language]

"""Which keys are beside which: our layouts for five languages, nlpaug's for other scripts."""

from __future__ import annotations

import functools
import json
import tomllib
import unicodedata
from collections.abc import Mapping
from importlib import resources

# From a language, or the script of a text, to the keyboard that it is written on.
BY_LANGUAGE: Mapping[str, str] = {"en": "qwerty", "de": "qwertz", "fr": "azerty", "it": "italian", "es": "spanish"}
_BY_SCRIPT: Mapping[str, str] = {"HEBREW": "hebrew", "THAI": "thai", "CYRILLIC": "ukrainian"}
# By nlpaug's names.
_NLPAUG: Mapping[str, str] = {"hebrew": "he", "thai": "th", "ukrainian": "uk", "polish": "pl", "turkish": "tr"}
LAYOUTS: tuple[str, ...] = (*BY_LANGUAGE.values(), *_NLPAUG)
_SHIFTS = (0.0, 0.5, 0.75, 1.25)  # of the rows, in keys
_REACH = 1.26  # keys, from the middle of one to that of the next row's


def layout_of(text: str, language: str) -> str:
    """The keyboard that a text was probably typed on."""
    for char in text:
        if char.isalpha() and not char.isascii():
            script = unicodedata.name(char, "").partition(" ")[0]
            if script in _BY_SCRIPT:
                return _BY_SCRIPT[script]
    return BY_LANGUAGE.get(language, "qwerty")


@functools.cache
def neighbours(layout: str) -> dict[str, list[str]]:
    """For each letter, what a finger that slips types instead; capitals too. Of one that carries an accent also the
    bare letter, which is what comes of missing the accent.

    `layout` is one of `LAYOUTS`.
    """
    beside = _from_nlpaug(_NLPAUG[layout]) if layout in _NLPAUG else _from_rows(layout)
    accented = {char for char in "áàâãäåçéèêëíìîïñóòôõöúùûüýÿ" if unaccented(char) in beside}
    for char in sorted(accented):
        beside[char] = sorted({*beside.get(char, []), unaccented(char)})
    # "ß" has no capital.
    single = {key: [char.upper() for char in chars if char != "ß"] for key, chars in beside.items() if key != "ß"}
    return beside | {key.upper(): chars for key, chars in single.items()}


def unaccented(char: str) -> str:
    """A letter without its accent: `é` -> `e`."""
    return unicodedata.normalize("NFD", char)[0]


def _from_rows(layout: str) -> dict[str, list[str]]:
    text = (resources.files(__package__) / "lexicons" / "keyboards.toml").read_text(encoding="utf-8")
    places = {
        key: (column + _SHIFTS[row], float(row))
        for row, keys in enumerate(tomllib.loads(text)[layout]["rows"])
        for column, key in enumerate(keys)
        if key != "_"
    }
    return {
        key: sorted(
            other
            for other, (across, down) in places.items()
            if other != key and (across - x) ** 2 + (down - y) ** 2 <= _REACH**2
        )
        for key, (x, y) in places.items()
    }


def _from_nlpaug(code: str) -> dict[str, list[str]]:
    path = resources.files("nlpaug") / "res" / "char" / "keyboard" / f"{code}.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    letters = {key: sorted({char for char in chars if char.isalpha()} - {key}) for key, chars in table.items()}
    return {key: [char for char in chars if char.lower() == char] for key, chars in letters.items() if key.isalpha()}

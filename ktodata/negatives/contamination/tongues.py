"""The languages of replies as `contaminate` compares them: a number each, told as `template` tells them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping

from ktodata.negatives.corruption import lexicon
from ktodata.negatives.language import is_english, is_sure, tell

# Chinese and Japanese share signs; kana settle it.
_SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "IDEOGRAPHIC": "CJK"}

_ENOUGH = 24  # bytes from which a text is surely in a language other than those with a lexicon


class Tongues:
    """The languages of texts by their keys. 0 is that of a text without letters, where no other is known.

    What says too little by itself is told together with its prompt; where that does not settle it, it counts as in the
    language that most of the others in its script are in. So what is Russian is never taken for English.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._sure: dict[str, str] = {}
        self.unsure: dict[str, str] = {}
        found: dict[str, Counter[str]] = {}
        for key, text in texts.items():
            if is_english(text):
                self._sure[key] = "en"
                continue
            code, sure = _told(text)
            if sure:
                self._sure[key] = code
            else:
                self.unsure[key] = text
            script = "LATIN" if code in lexicon.LANGUAGES else _script(text)
            # What is not sure counts only where nothing is.
            found.setdefault(script, Counter())[code] += len(texts) + 1 if sure else 1
        found.pop("", None)
        if english := sum(code == "en" for code in self._sure.values()):
            found.setdefault("LATIN", Counter())["en"] = english * (len(texts) + 1)
        self._common = {script: _first(codes) for script, codes in found.items()}
        self._common[""] = _first(sum(found.values(), Counter()))
        self._numbers: dict[str, int] = {"": 0}
        self._known: dict[tuple[str, str], int] = {}

    def of(self, key: str, asked: str) -> int:
        """The language of a text, and what it answers. 0 for any, if there are no texts."""
        code = self._sure.get(key)
        if code is None:
            if key not in self.unsure:
                return 0
            if (key, asked) not in self._known:
                self._known[key, asked] = self._number(self._guessed(self.unsure[key], asked))
            return self._known[key, asked]
        return self._number(code)

    def _guessed(self, text: str, asked: str) -> str:
        code, sure = _told(f"{text}\n{asked}")
        if sure:
            return code
        script = _script(text) or _script(asked)
        return self._common.get(script) or code

    def _number(self, code: str) -> int:
        return self._numbers.setdefault(code, len(self._numbers))


def _told(text: str) -> tuple[str, bool]:
    code, lead = tell(text, lexicon.LANGUAGES)
    # "да" is as good Bulgarian as Russian.
    return code, is_sure(lead) and (code in lexicon.LANGUAGES or len(text.encode("utf-8", "replace")) >= _ENOUGH)


def _script(text: str) -> str:
    """The script of most letters of a text, by the first word of their names in Unicode; "" without letters."""
    names = (unicodedata.name(char, "").partition(" ")[0] for char in text[:500] if char.isalpha())
    return _first(Counter(_SCRIPTS.get(name, name) for name in names))


def _first(counts: Counter[str]) -> str:
    return min(counts, key=lambda name: (-counts[name], name), default="")

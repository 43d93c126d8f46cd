"""The language of a row, told from its reply and, where that says too little, from its prompt.

py3langid scores languages offline and deterministically, tens of thousands of short texts a second. It was trained on
prose; words of chat ("boh", "vllt", "yeah") that our lexicons know weigh in, and laughter, which it takes
for Tagalog, is left out.
"""

from __future__ import annotations

import copy
import functools
import math
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from ktodata.errors import UsageError
from ktodata.negatives.contract import reply_of
from ktodata.negatives.corruption import lexicon
from ktodata.negatives.corruption.layout import hide
from ktodata.negatives.corruption.tone import without_laughter
from ktodata.schema import Row, plain

# Log-likelihoods. On 125 chat lines of one to eleven words in five languages, and 26 in seven others (many are
# in its test), these place 122 and mistake 2 before the prompt is asked; the classifier alone places 99, mistakes 1.
_MARKER = 4.0  # of each word that a lexicon knows
_HOME = 4.0  # ahead that the languages asked for are
_SURE = 4.0  # by which the best must lead for the reply to decide alone
# From so many of its words, such a share of all, and so many more than of any other language, a lexicon decides alone.
# Of 3,900 casual and formal texts in five languages that was so for two fifths, of 43 lines in their near relatives
# (Portuguese, Catalan, Galician, Dutch, Danish …) for none; and each time the classifier said the same.
_PLAIN, _PLAIN_SHARE, _PLAIN_LEAD = 4, 0.4, 3
# Likewise English, which has no near relative that shares its common words.
_ENGLISH, _ENGLISH_SHARE, _ENGLISH_LEAD = 2, 0.25, 2
_FEW = 16  # letters of reply and prompt below which an unsure answer is none
_AFTER_LATIN = "\u0250"
_HAVE_LEXICONS = frozenset(lexicon.LANGUAGES)
_LONGEST = 500  # characters looked at
# What a text is held against, beside the languages asked for: of the 139 that are known, the most written. Rarer ones
# cost time, and steal short texts.
_LATIN = "af ca cs cy da de en es et eu fi fr ga gl hr hu id it la lt lv ms nl no pl pt ro sk sl sq sv sw tl tr vi"
_MOST_WRITTEN = frozenset(f"{_LATIN} ar bg bn el fa he hi ja ko ru sr ta th uk ur zh".split())


def detect(row: Row, reply: str, among: Iterable[str], common: str | None = None) -> str:
    """The language of the row, one of `among`; "" for any other, or none. `reply` is the text that will be replaced.

    Where few letters leave it open, it is `common`, if that is given: see `commonest`.
    """
    home = tuple(among)
    best, lead = tell(reply, home)
    if lead < _SURE:
        asked = asked_of(row)
        both = f"{reply[:_LONGEST]}\n{asked}"
        code, lead = tell(both, home)
        best = code or best
        if common is not None and lead < _SURE and _says_little(both):
            best = common
    return best if best in home else ""


def asked_of(row: Row) -> str:
    """What the row's reply answers, as far as it is looked at."""
    return plain(row.prompt[-1:]) if isinstance(row.prompt, list) else row.prompt[-_LONGEST:]


def commonest(rows: Iterable[Row], among: Collection[str]) -> str:
    """The language that most of the rows are surely in ("" for one that is not of `among`); where none is, English, or
    the first of `among` if that has none."""
    home = tuple(among)
    found: Counter[str] = Counter()
    for row in rows:
        reply = reply_of(row)
        if isinstance(reply, str):
            code, lead = tell(reply, home)
            found[code if code in home else ""] += lead >= _SURE
    first = "en" if "en" in home else home[0]
    most = max(found.values(), default=0)
    return (
        min((code for code in found if found[code] == most), key=lambda code: (code != first, code)) if most else first
    )


def _says_little(text: str) -> bool:
    """Whether a text has few letters, all of them Latin: others tell more."""
    letters = [char for char in text[: 2 * _LONGEST] if char.isalpha()]
    return len(letters) < _FEW and all(char < _AFTER_LATIN for char in letters)


def check_code(code: str, *, name: str) -> None:
    """Whether `detect` can tell a language.

    Raises:
        UsageError: it is none of the 139 that are known.
    """
    if code not in _identifier(()).labels:
        raise UsageError(
            f"{name}: no language {code!r} is known", do="Use its two letters: en, it, es, fr, de, pt, nl …"
        )


def tell(text: str, home: tuple[str, ...]) -> tuple[str, float]:
    """The likeliest language of a text, and how far it leads; "" without letters. `home` are those expected."""
    hidden = hide(text[:_LONGEST])
    words = without_laughter(hidden[0] if hidden else text[:_LONGEST])
    if not any(char.isalpha() for char in words):
        return "", 0.0
    found = lexicon.distinct(words)
    known = lexicon.hits(found)
    if _plain(found, known, home):
        return max(known, key=lambda code: known[code]), _SURE
    scores: dict[str, float] = {}
    other = ""
    # Best first, so of the languages that nothing is added to only the first counts.
    for code, score in _identifier(home).rank(words):
        if code in home or known.get(code):
            scores[code] = score + _MARKER * known.get(code, 0) + _HOME * (code in home)
        elif not other:
            scores[code], other = score, code
    best, second = sorted(scores, key=lambda code: (-scores[code], code))[:2] if len(scores) > 1 else (*scores, "")
    return best, scores[best] - scores.get(second, -math.inf)


def is_english(text: str) -> bool:
    """Whether the common words alone say so, of which no other language has many: a fifth of the time of `tell`."""
    text = text[:_LONGEST]
    # Most have enough of them between spaces.
    return _english(set(text.lower().split())) or _english(lexicon.distinct(text))


def _english(found: set[str]) -> bool:
    english, *others = lexicon.hits(found).values()
    return english >= max(_ENGLISH, _ENGLISH_SHARE * len(found), max(others) + _ENGLISH_LEAD)


def is_sure(lead: float) -> bool:
    """Whether a text that leads by so much needs no other beside it."""
    return lead >= _SURE


def _plain(found: set[str], known: dict[str, int], home: tuple[str, ...]) -> bool:
    """Whether the words alone say it, which spares the classifier: it takes four fifths of the time."""
    first, second = sorted(known.values(), reverse=True)[:2]
    # Only among languages that have a lexicon: Spanish ones would claim Portuguese.
    return first >= max(_PLAIN, _PLAIN_SHARE * len(found), second + _PLAIN_LEAD) and _HAVE_LEXICONS.issuperset(home)


@functools.cache
def _identifier(home: tuple[str, ...]) -> Any:
    """One that tells `home` from the most written languages; with an empty `home`, one of all languages."""
    # Identifiers of our own: the module's functions share one whose languages anybody may restrict.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    if not home:
        return LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier = copy.copy(_identifier(()))
    identifier.set_languages((_MOST_WRITTEN | set(home)) & set(identifier.labels))
    return identifier

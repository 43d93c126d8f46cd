"""The language of a row, told from its reply and, where that says too little, from its prompt.

py3langid scores 139 languages, offline and deterministically, at tens of thousands of short texts a second. It was
trained on prose; words of chat ("boh", "vllt", "yeah") that our lexicons know weigh in, and laughter, which it takes
for Tagalog, is left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

from ktodata.errors import UsageError
from ktodata.negatives.corruption import lexicon
from ktodata.negatives.corruption.layout import hide
from ktodata.negatives.corruption.tone import LAUGHTER
from ktodata.schema import Row, plain

# Log-likelihoods. On 125 chat lines of one to eleven words in five languages, and 26 in seven others (the test has
# them), these place 122 and mistake 2 before the prompt is asked; the classifier alone places 99 and mistakes 2.
_MARKER = 4.0  # of each word that a lexicon knows
_HOME = 4.0  # ahead that the languages asked for are
_SURE = 4.0  # by which the best must lead for the reply to decide alone
_LONGEST = 500  # characters looked at


def detect(row: Row, reply: str, among: Iterable[str]) -> str:
    """The language of the row, one of `among`; "" for any other, or none. `reply` is the text that will be replaced."""
    home = tuple(among)
    best, lead = _best(reply, home)
    if lead >= _SURE:
        return best
    asked = plain(row.prompt[-1:]) if isinstance(row.prompt, list) else row.prompt[-_LONGEST:]
    both, _ = _best(f"{reply[:_LONGEST]}\n{asked}", home)
    return both or best


def check_code(code: str, *, name: str) -> None:
    """Whether `detect` can tell a language.

    Raises:
        UsageError: it is none of the 139 that are known.
    """
    known = _identifier().labels
    if code not in known:
        raise UsageError(f"{name}: no language {code!r} is known", do=f"Known are {', '.join(sorted(known))}")


def _best(text: str, home: tuple[str, ...]) -> tuple[str, float]:
    """The likeliest of `home` and how far it leads; "" when it is another language, or when there are no words."""
    hidden = hide(text[:_LONGEST])
    words = LAUGHTER.sub(" ", hidden[0] if hidden else text[:_LONGEST])
    if not any(char.isalpha() for char in words):
        return "", 0.0
    known = lexicon.hits(words)
    scores: dict[str, float] = {}
    # Best first, so of the languages that nothing is added to only the first counts.
    for code, score in _identifier().rank(words):
        if code in home or known.get(code):
            scores[code] = score + _MARKER * known.get(code, 0) + _HOME * (code in home)
        elif "" not in scores:
            scores[""] = score
    best, second = sorted(scores, key=lambda code: (-scores[code], code))[:2] if len(scores) > 1 else (*scores, "")
    return (best if best in home else ""), scores[best] - scores.get(second, -math.inf)


@functools.cache
def _identifier() -> Any:
    # An identifier of our own: the module's functions share one whose languages anybody may restrict.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)

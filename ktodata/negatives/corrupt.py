"""The strategy `corrupt`: the desirable completion itself, made worse.

Needs no model and no other rows. Word order and typos are nlpaug's; the rest is in `ktodata.negatives.corruption`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping

from ktodata.negatives.contract import Option, Skip, Strategy, reply_of
from ktodata.negatives.corruption import sentences, tone, words
from ktodata.negatives.corruption.layout import edges, lay_out
from ktodata.schema import Row, normalise

Operation = Callable[..., str | None]
# What `corrupt.operations` may name. Each is called as f(text, rng=, intensity=, protect=).
OPERATIONS: Mapping[str, Operation] = {
    "delete": functools.partial(words.reorder, action="delete"),
    "crop": functools.partial(words.reorder, action="crop"),
    "swap": functools.partial(words.reorder, action="swap"),
    "repeat": words.repeat,
    "sentences": sentences.shuffle,
    "truncate": sentences.truncate,
    "foreign": sentences.foreign,
    "tone": tone.flatten,
    "emoji": tone.strip_emoji,
    "split": functools.partial(words.misspell, kind="split"),
    "spelling": functools.partial(words.misspell, kind="spelling"),
    "keyboard": functools.partial(words.misspell, kind="keyboard"),
    "ocr": functools.partial(words.misspell, kind="ocr"),
    "char": functools.partial(words.misspell, kind="char"),
}
_TRIES = 4


def corrupt(
    row: Row,
    /,
    *,
    pool: object,
    rng: random.Random,
    operations: tuple[str, ...],
    intensity: float,
    protect: bool,
    language: str,
) -> str | Skip:
    """The reply after all `operations`, in the order they are named; those that find nothing to do are passed over.

    White space at both ends stays as it is. Never the original, compared after normalising.
    """
    reply = reply_of(row)
    if isinstance(reply, Skip):
        return reply
    before, core, after = edges(reply)
    if not core:
        return Skip("empty")
    original = normalise(core)
    for _ in range(_TRIES):
        worse = core
        for name in operations:
            extra = {"language": language} if name == "tone" else {}
            worse = OPERATIONS[name](worse, rng=rng, intensity=intensity, protect=protect, **extra) or worse
        if normalise(worse) != original:
            return before + worse.strip() + after
    few = len(lay_out(core, protect=protect).words) < 3
    return Skip("too short" if few else "nothing that the operations change")


CORRUPT = Strategy(
    name="corrupt",
    summary="The completion itself made worse: words lost, moved or misspelt, sentences shuffled, tone flattened.",
    one=corrupt,
    options={
        "operations": Option(
            kind="list",
            default=("delete", "sentences"),
            choices=tuple(OPERATIONS),
            help="What is done to it, in this order.",
        ),
        "intensity": Option(
            kind="float",
            default=0.3,
            low=0,
            high=1,
            open_low=True,
            help="How much of it each operation touches: a share of the words, sentences or marks.",
        ),
        "protect": Option(
            kind="bool",
            default=True,
            help="Leave fenced and inline code, URLs and e-mail addresses as they are.",
        ),
        "language": Option(
            kind="choice",
            default="auto",
            choices=("auto", *tone.LANGUAGES),
            help="Language of the lexicon that `tone` uses; auto guesses it for each completion.",
        ),
    },
)

"""The strategy `corrupt`: the desirable completion itself, made worse.

Needs no model and no other rows. Word order and typos are nlpaug's; the rest is in `ktodata.negatives.corruption`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

from ktodata.errors import UsageError
from ktodata.negatives.contract import Option, Skip, Strategy, reply_of
from ktodata.negatives.corruption import formal, keyboards, sentences, tone, words
from ktodata.negatives.corruption.layout import edges, lay_out
from ktodata.schema import Row, normalise

Operation = Callable[..., str | None]
# What `corrupt.operations` may name. Each is called as f(text, rng=, intensity=, protect=); None is "nothing to do".
OPERATIONS: Mapping[str, Operation] = {
    "delete": functools.partial(words.reorder, action="delete"),
    "crop": functools.partial(words.reorder, action="crop"),
    "swap": functools.partial(words.reorder, action="swap"),
    "insert": words.insert,
    "repeat": words.repeat,
    "sentences": sentences.shuffle,
    "truncate": sentences.truncate,
    "foreign": sentences.foreign,
    "tone": tone.flatten,
    "formal": formal.formalise,
    "emoji": tone.strip_emoji,
    "split": functools.partial(words.misspell, kind="split"),
    "spelling": functools.partial(words.misspell, kind="spelling"),
    "keyboard": functools.partial(words.misspell, kind="keyboard"),
    "ocr": functools.partial(words.misspell, kind="ocr"),
    "char": functools.partial(words.misspell, kind="char"),
}
NOTES: Mapping[str, str] = {
    "delete": "words left out here and there",
    "crop": "a run of words left out",
    "swap": "neighbouring words change places",
    "insert": "stray words put in",
    "repeat": "runs of words said twice",
    "sentences": "sentences in another order",
    "truncate": "cut off before the end",
    "foreign": "a phrase in another language put in",
    "tone": "casual words, emoji and exclamation marks made flat",
    "formal": "as tone, with the phrases of an office letter",
    "emoji": "emoji and emoticons taken out",
    "split": "words split in two",
    "spelling": "common misspellings (English)",
    "keyboard": "a key beside the right one, or an accent missed",
    "ocr": "letters misread, as by a scanner",
    "char": "letters lost, doubled, swapped or changed",
}
# Two of these: a reader notices, and what a classifier learns of some rows does not hold for others.
DEFAULT = ("delete", "crop", "swap", "insert", "repeat", "sentences")
_PICKED = 2
# Those that depend on the language of the text.
_LOCAL = ("insert", "foreign", "tone", "formal", "keyboard")
_TRIES = 4


def corrupt(
    row: Row,
    /,
    *,
    pool: object,
    rng: random.Random,
    operations: tuple[str, ...],
    pick: int | None,
    intensity: float,
    intensities: tuple[tuple[str, float], ...],
    protect: bool,
    language: str,
    keyboard: str,
) -> str | Skip:
    """The reply after all `operations` in the order they are named, or after `pick` of them in the order of a draw.

    Those that find nothing to do are passed over; with `pick`, others are drawn in their place. White space at both
    ends stays as it is. Never the original, compared after normalising.
    """
    reply = reply_of(row)
    if isinstance(reply, Skip):
        return reply
    before, core, after = edges(reply)
    if not core:
        return Skip("empty")
    original = normalise(core)
    if pick is None and operations == DEFAULT:
        pick = _PICKED
    shares = dict(intensities)
    settings = {name: _settings(name, shares.get(name, intensity), protect, language, keyboard) for name in operations}
    best = None
    for _ in range(_TRIES):
        worse = _worse(core, _order(operations, pick, rng), pick, rng, settings)
        if normalise(worse) != original:
            best = worse
            if not _slight(core, worse):
                break
    if best is not None:
        return before + best.strip() + after
    few = len(lay_out(core, protect=protect).words) < 3
    return Skip("too short" if few else "nothing that the operations change")


def _slight(text: str, worse: str) -> bool:
    """Whether one word was lost, added or changed, where there are four or more: a reader may not notice."""
    old, new = text.split(), worse.split()
    if len(old) < 4:
        return False
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
    return max(len(old), len(new)) < 2


def _settings(name: str, intensity: float, protect: bool, language: str, keyboard: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"intensity": intensity, "protect": protect}
    if name in _LOCAL:
        settings["language"] = language
    if name == "keyboard":
        settings["keyboard"] = keyboard
    return settings


def _order(operations: tuple[str, ...], pick: int | None, rng: random.Random) -> list[str]:
    """The operations to try: as they are named, or, where some are picked, drawn anew for each row."""
    return list(operations) if pick is None else rng.sample(operations, len(operations))


def _worse(
    text: str, names: list[str], pick: int | None, rng: random.Random, settings: Mapping[str, dict[str, Any]]
) -> str:
    """The text after the operations, or the first `pick` of them that change it."""
    done = 0
    for name in names:
        changed = OPERATIONS[name](text, rng=rng, **settings[name])
        if changed is not None and changed.strip():
            text, done = changed, done + 1
        if done == pick:
            break
    return text


def _checked(options: Mapping[str, Any]) -> Strategy:
    """`CORRUPT`, where no option is without effect.

    Raises:
        UsageError: `pick` or an entry of `intensities` has none.
    """
    operations, pick = options["operations"], options["pick"]
    if pick is not None and pick > len(operations):
        raise UsageError(
            f"corrupt.pick is {pick}, and corrupt.operations has {len(operations)}", do="Pick fewer or name more"
        )
    for name, _ in options["intensities"]:
        if name not in operations:
            raise UsageError(
                f"corrupt.intensities.{name} is for an operation that is not used",
                do=f"Add {name} to corrupt.operations, which are {', '.join(operations)}",
            )
    return CORRUPT


CORRUPT = Strategy(
    name="corrupt",
    summary="The completion itself made worse: words lost, moved or misspelt, sentences shuffled, tone flattened.",
    one=corrupt,
    variant=_checked,
    options={
        "operations": Option(
            kind="list",
            default=DEFAULT,
            choices=tuple(OPERATIONS),
            notes=NOTES,
            help="What is done to it, in this order, or what is drawn from with `pick`.",
        ),
        "pick": Option(
            kind="int",
            default=None,
            optional=True,
            low=1,
            help="How many of the operations each row gets, drawn for it; none is all that are named, and two of the "
            "default ones.",
        ),
        "intensity": Option(
            kind="float",
            default=0.25,
            low=0,
            high=1,
            open_low=True,
            help="How much of it each operation touches: a share of the words, sentences or marks.",
        ),
        "intensities": Option(
            kind="table",
            default=(),
            choices=tuple(OPERATIONS),
            low=0,
            high=1,
            open_low=True,
            help="The same for single operations, such as keyboard:0.1,tone:1 or --set corrupt.intensities.tone=1.",
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
            help="The completions' language, for insert, foreign, tone, formal and keyboard; auto guesses it for each.",
        ),
        "keyboard": Option(
            kind="choice",
            default="auto",
            choices=("auto", *keyboards.LAYOUTS),
            help="The layout that typos are typed on; auto is the language's own.",
        ),
    },
)

"""Pairs with a score for each reply: UltraFeedback in its variants, and any others of that layout."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from ktodata.sources import pairs
from ktodata.sources.contract import Example, Record, Skip, Source, number
from ktodata.sources.messages import has_messages

_ROUNDING = 2.0**-23  # what single precision may do to the difference of two numbers, in parts of the larger one
# How the scores of the chosen and the rejected reply are called.
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_score", "rejected_score"),
)


def read(record: Record, where: str, *, min_margin: float = 0.0) -> Iterator[Example | Skip]:
    """A pair, unless its scores are equal, say the opposite, or differ too little."""
    whole = (names for names in SCORES if all(name in record for name in names))
    half = (names for names in SCORES if any(name in record for name in names))
    chosen, rejected = next(itertools.chain(whole, half, SCORES))
    better, worse = number(record, chosen, where), number(record, rejected, where)
    found = pairs.read(record, where)  # what cannot be read is said first
    reason = reason_to_skip(better, worse, min_margin)
    return iter([Skip(reason, 2, "both")]) if reason else found


def reason_to_skip(chosen: float, rejected: float, min_margin: float) -> str:
    """Why a pair with these scores is left out; "" if it is not."""
    if chosen == rejected:
        return "tie"
    if chosen < rejected:
        return "rejected scored higher"
    return "margin too small" if nearer_than(chosen, rejected, min_margin) else ""


def nearer_than(first: float, second: float, margin: float) -> bool:
    """Whether two scores differ by less than a margin.

    By less than what rounding does to numbers, that is: 4.1 - 4.0 is a little below .1, and more so in the single
    precision that parquet files may have.
    """
    return abs(first - second) < margin - _ROUNDING * max(abs(first), abs(second))


ULTRAFEEDBACK = Source(
    name="ultrafeedback",
    about="UltraFeedback, binarized by HuggingFace H4: messages with the prompt's turn, and scores",
    columns=(("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),),
    read=read,
    detect=has_messages,
    kind="chat",
    hub_id="HuggingFaceH4/ultrafeedback_binarized",
    licence="MIT",
    split="train_prefs",
)
ULTRAFEEDBACK_ARGILLA = dataclasses.replace(
    ULTRAFEEDBACK,
    name="ultrafeedback-argilla",
    about="UltraFeedback, cleaned by Argilla: the same, with the scores in chosen-rating and rejected-rating",
    columns=(("prompt", "chosen", "rejected", "chosen-rating", "rejected-rating"),),
    hub_id="argilla/ultrafeedback-binarized-preferences-cleaned",
    split="train",
)
ULTRAFEEDBACK_TRL = dataclasses.replace(
    ULTRAFEEDBACK,
    name="ultrafeedback-trl",
    about="UltraFeedback as TRL has it: whole conversations with scores, and no prompt column",
    columns=(("chosen", "rejected", "score_chosen", "score_rejected"),),
    hub_id="trl-lib/ultrafeedback_binarized",
    split="train",
)
SCORED_PAIRS = Source(
    name="scored-pairs",
    about="any pairs with a score or rating for each reply",
    columns=tuple(("chosen", "rejected", *scores) for scores in SCORES),
    read=read,
    kin=("argilla/dpo-mix-7k", "argilla/distilabel-capybara-dpo-7k-binarized"),
)

"""Rows taken together: contradictions, duplicates, one completion per prompt.

Each function gives what stays and what goes, both in the order they came in; which rows these are depends on the
set of rows (and the seed) alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

from ktodata.errors import SourceError
from ktodata.schema import Row, content_hash, normalise_text, plain

OnConflict: TypeAlias = Literal["error", "drop", "majority", "keep"]
ON_CONFLICT: tuple[str, ...] = get_args(OnConflict)
NAMED = 3  # contradictions that an error tells of


class Item(NamedTuple):
    """A row, where it came from, and `meaning`: equal for rows whose prompts and completions normalise to the same."""

    row: Row
    where: str
    meaning: str


class Kept(NamedTuple):
    """What stays and what goes."""

    kept: list[Item]
    dropped: list[Item]


def meaning_of(row: Row) -> str:
    """A hash of the normalised prompt and completion."""
    return content_hash(row.prompt_id, normalise_text(row.completion))


def resolve_conflicts(items: Sequence[Item], policy: OnConflict) -> Kept:
    """Completions that carry both labels for one prompt, by `policy`.

    `drop` takes all rows of a contradiction out, `majority` those of the rarer label (all, if it is a tie; every
    occurrence is a vote), `keep` none.

    Raises:
        SourceError: the policy is `error` and there is a contradiction.
    """
    if policy == "keep":
        return Kept(list(items), [])
    seen: dict[bool, set[str]] = {
        label: {item.meaning for item in items if item.row.label == label} for label in (True, False)
    }
    both = seen[True] & seen[False]
    if both and policy == "error":
        raise _contradiction(items, both)
    votes = Counter((item.meaning, item.row.label) for item in items if item.meaning in both)

    def stays(item: Item) -> bool:
        if item.meaning not in both:
            return True
        label = item.row.label
        return policy == "majority" and votes[item.meaning, label] > votes[item.meaning, not label]

    return _split(items, [stays(item) for item in items])


def _contradiction(items: Sequence[Item], both: set[str]) -> SourceError:
    places: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for item in items:
        if item.meaning in both:
            label = "desirable" if item.row.label else "undesirable"
            places.setdefault(item.meaning, []).append(f"{label} at {item.where}")
            texts.setdefault(item.meaning, plain(item.row.completion).strip()[:40])
    told = "; ".join(f"{texts[one]!r} {', '.join(places[one][:4])}" for one in list(places)[:NAMED])
    more = f"; and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return SourceError(
        f"{len(places)} completions carry both labels: {told}{more}", do="Choose --on-conflict drop, majority or keep"
    )


def drop_duplicates(items: Sequence[Item]) -> Kept:
    """Rows that are equal to the letter, but for one of each (the first by provenance, wherever it stands)."""
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        there = first.setdefault(item.row.id, index)
        if there != index and _provenance(item.row) < _provenance(items[there].row):
            first[item.row.id] = index
    stay = set(first.values())
    return _split(items, [index in stay for index in range(len(items))])


def _provenance(row: Row) -> tuple[str, ...]:
    return row.source, row.origin, row.strategy, row.parent_id


def one_per_prompt(items: Sequence[Item], *, seed: int) -> Kept:
    """One completion of each prompt, so that nothing of a pair or a ranking is left to learn from.

    This is the setting of the KTO paper's experiment with one output per input: each prompt speaks once, for or
    against. Where only completions of one label remain for a prompt, one of these is drawn. The other prompts are
    shared out so that the classes come out as equal as they can, and one completion of the chosen label is drawn.
    Every draw is seeded by the seed and the content.
    """
    prompts: dict[str, dict[bool, int]] = {}
    for index, item in enumerate(items):
        best = prompts.setdefault(item.row.prompt_id, {})
        there = best.get(item.row.label)
        if there is None or _draw(seed, item.row) < _draw(seed, items[there].row):
            best[item.row.label] = index
    forced = Counter(next(iter(best)) for best in prompts.values() if len(best) == 1)
    free = sorted((prompt for prompt, best in prompts.items() if len(best) == 2), key=lambda name: _hash(seed, name))
    # Half of all prompts, less those that are desirable anyway.
    desirable = max(0, min(len(free), (len(prompts) + 1) // 2 - forced[True]))
    chosen = set(free[:desirable])
    stay = {next(iter(best.values())) if len(best) == 1 else best[prompt in chosen] for prompt, best in prompts.items()}
    return _split(items, [index in stay for index in range(len(items))])


def _draw(seed: int, row: Row) -> bytes:
    return _hash(seed, row.id)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"one per prompt {seed} {name}".encode(), digest_size=8).digest()


def _split(items: Sequence[Item], stays: Sequence[bool]) -> Kept:
    kept: list[Item] = []
    dropped: list[Item] = []
    for item, stay in zip(items, stays, strict=True):
        (kept if stay else dropped).append(item)
    return Kept(kept, dropped)

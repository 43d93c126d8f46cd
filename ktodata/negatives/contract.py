"""What a strategy for synthetic negatives is: a function of one row, and what the command line may say about it.

A strategy makes one undesirable completion for one desirable row, or says why it cannot. Everything else is the
caller's (`ktodata.negatives.synthesize`): labels, provenance, retries, duplicates, processes, counts. A strategy that
asks a model is a function of many rows at once instead, so that the model gets full batches.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from ktodata.errors import UsageError
from ktodata.schema import Row


@dataclasses.dataclass(frozen=True, slots=True)
class Skip:
    """No negative for this row, and why: a few words that are counted and shown, such as `too short`."""

    reason: str


class Pool:
    """The other rows of the file, for strategies that borrow from them.

    Kept sorted by row id, so that what a generator draws does not depend on the order of the file.
    """

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows: tuple[Row, ...] = tuple(sorted(rows, key=lambda row: row.id))
        self.desirable: tuple[Row, ...] = tuple(row for row in self.rows if row.label)

    def draw(self, row: Row, *, rng: random.Random, tries: int = 16) -> Row | None:
        """A desirable row of another prompt, or None when `tries` draws find none."""
        for _ in range(tries if self.desirable else 0):
            other = rng.choice(self.desirable)
            if other.prompt_id != row.prompt_id:
                return other
        return None


One: TypeAlias = Callable[..., str | Skip]
"""`one(row, *, pool, rng, **options)`: the reply that takes the place of `reply_of(row)`, or why there is none.

`rng` is a `random.Random` of the row's own, and the only source of chance that may be used.
"""

Many: TypeAlias = Callable[..., Sequence[str | Skip]]
"""`many(rows, *, pool, rngs, **options)`: the same for many rows at once, in their order; `rngs[i]` is of `rows[i]`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a strategy: its type, default, range, and a sentence for `ktodata strategies`.

    `choices` limits `choice` (one of them) and `list` (one or more of them, comma-separated on the command line).
    `low` is excluded from the range when `open_low` is set.
    """

    kind: Literal["int", "float", "bool", "text", "choice", "list"]
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    open_low: bool = False

    def allowed(self) -> str:
        """What a value may be, for errors and lists: `a number in (0, 1]`."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind == "list":
            return "one or more of " + ", ".join(self.choices)
        if self.kind == "text":
            return "text"
        noun = "a whole number" if self.kind == "int" else "a number"
        if self.low is not None and self.high is not None:
            return f"{noun} in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"
        if self.low is not None:
            return f"{noun} {'above' if self.open_low else 'of at least'} {self.low:g}"
        return noun if self.high is None else f"{noun} of at most {self.high:g}"

    def parse(self, text: str, *, name: str) -> Any:
        """The value that `text` spells, checked.

        Raises:
            UsageError: it spells none, or one out of range; says what is allowed.
        """
        try:
            return self.check(_READ[self.kind](text.strip()), name=name)
        except (ValueError, UsageError):
            raise self._refused(repr(text), name) from None

    def check(self, value: Any, *, name: str) -> Any:
        """The value itself, if it is allowed (lists become tuples).

        Raises:
            UsageError: it is not; says what is.
        """
        if self.kind == "list":
            value = tuple(value) if isinstance(value, list | tuple) else value
            good = isinstance(value, tuple) and bool(value) and all(item in self.choices for item in value)
            good = good and len(set(value)) == len(value)
        elif self.kind == "choice":
            good = value in self.choices
        elif self.kind in ("bool", "text"):
            good = isinstance(value, bool if self.kind == "bool" else str)
        else:
            good = isinstance(value, int if self.kind == "int" else int | float) and not isinstance(value, bool)
            good = good and self._in_range(value)
        if not good:
            raise self._refused(repr(value), name)
        return value

    def _in_range(self, value: float) -> bool:
        # Written so that NaN, for which every comparison is false, is out of any range.
        if self.low is not None and not (value > self.low if self.open_low else value >= self.low):
            return False
        return value == value and (self.high is None or value <= self.high)

    def _refused(self, shown: str, name: str) -> UsageError:
        return UsageError(f"{name} is {shown}", do=f"It must be {self.allowed()}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """An entry of `STRATEGIES`: exactly one of `one` and `many`, a sentence, and the options that they take.

    `needs_pool` is set by strategies that look at other rows; the rest get an empty pool, which need not be sent to
    worker processes. `batch` is how many rows a call of `many` gets.
    """

    name: str
    summary: str
    options: Mapping[str, Option]
    one: One | None = None
    many: Many | None = None
    needs_pool: bool = False
    batch: int = 64

    def __post_init__(self) -> None:
        if (self.one is None) == (self.many is None):
            raise ValueError(f"strategy {self.name!r}: give one of `one` and `many`")


def reply_of(row: Row) -> str | Skip:
    """The text that a strategy replaces: the completion, or the content of its last assistant message."""
    if isinstance(row.completion, str):
        return row.completion
    for message in reversed(row.completion):
        if message["role"] == "assistant":
            return message["content"]
    return Skip("no assistant message")


def _read_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_READ: Mapping[str, Any] = {
    "int": int,
    "float": float,
    "bool": _read_bool,
    "text": str,
    "choice": str,
    "list": lambda text: tuple(item.strip() for item in text.split(",")),
}

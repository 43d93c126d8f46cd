"""What a strategy for synthetic negatives is: a function of one row, and what the command line may say about it.

A strategy makes one undesirable completion for one desirable row, or says why it cannot. Everything else is the
caller's (`ktodata.negatives.synthesize`): labels, provenance, retries, duplicates, processes, counts. A strategy that
asks a model is a function of many rows at once instead, so that the model is kept busy.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from ktodata.errors import UsageError
from ktodata.io.paths import local_path
from ktodata.schema import Row


@dataclasses.dataclass(frozen=True, slots=True)
class Skip:
    """No negative for this row, and why: a few words that are counted and shown, such as `too short`."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What is about to be done, for `Strategy.prepare`: all `rows` of the file, undesirable ones too, for strategies
    that are `whole`; others may find none.

    `output` is the file that will be written, "" for stdout or none: what has to outlive a killed run lies beside it.
    `asked` says how many negatives this strategy is to make of each row, by its id, where it is `whole`.
    `sample` are some desirable rows for any strategy, the same whatever the order of the file: see `sampled`.
    """

    rows: Sequence[Row]
    seed: int = 0
    output: str = ""
    asked: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sample: Sequence[Row] = ()


_SAMPLE = 500  # rows


def sampled(rows: Iterable[Row]) -> list[Row]:
    """The desirable rows whose ids come first, 500 at most: ids are hashes, so it is as good as a draw."""
    different = {row.id: row for row in rows if row.label}
    return [different[row_id] for row_id in heapq.nsmallest(_SAMPLE, different)]


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """One draft that a strategy of `many` is asked for.

    `rng` is its own, and the only source of chance that may be used. `key` names it among all drafts of the run, and
    is the same whenever the seed and the rows are: journals go by it.
    """

    row: Row
    rng: random.Random
    key: str


One: TypeAlias = Callable[..., str | Skip]
"""`one(row, *, pool, rng, **options)`: the reply that takes the place of `reply_of(row)`, or why there is none.

`pool` is what the strategy draws from, as its `prepare` gave it (None without); it takes the place of an option of that
name. `rng` is a `random.Random` of the
row's own, and the only source of chance that may be used.
"""

Many: TypeAlias = Callable[..., Iterable[tuple[int, str | Skip]]]
"""`many(asks, *, pool, **options)`: the same for all rows at once. Yields the place of an ask and its result, each
ask once, in whatever order they finish. Called anew with the asks whose drafts were refused, five times at most."""

Prepare: TypeAlias = Callable[..., Any]
"""`prepare(run, **options)`: what all calls share, such as files read, an index, a client: their `pool`.

Called once, before any work, in the process that runs `synthesize`; says there what is wrong with the options or the
rows, as a KtodataError. For a strategy of `one` what it returns is sent to worker processes, so it must pickle; what
does not (a compiled template) is made there at first use. With a `part`, what it says of their rows is sent instead.
"""

Part: TypeAlias = Callable[[Any, Iterable[Row]], Any]
"""`part(pool, rows)`: what `one` needs for these rows of a pool in which all is decided: it only looks it up there."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a strategy: its type, default, range, and a sentence for `ktodata strategies`.

    | kind | value | on the command line |
    |---|---|---|
    | `int`, `float`, `bool` | a number from `low` to `high`; true or false | `3`, `0.5`, `true` |
    | `text` | any string, verbatim | anything |
    | `choice` | one of `choices` | its name |
    | `list` | a tuple of strings, one or more, of `choices` if there are any | `a,b` |
    | `table` | a tuple of pairs (name, number): names of `choices`, numbers from `low` to `high` | `a:0.1,b:1` |
    | `file` | the path of a file that is there | a path |

    `notes` says what some of the choices mean. `low` is excluded from the range when `open_low` is set. An `optional`
    one may be None, written `none` or left empty. One that `reads` names what is read (as each `file` does), so that no
    file is written there. A `secret` one is shown nowhere, and kept out of cards.
    """

    kind: Literal["int", "float", "bool", "text", "choice", "list", "table", "file"]
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    optional: bool = False
    reads: bool = False
    secret: bool = False

    def allowed(self) -> str:
        """What a value may be, for errors and lists: `a number in (0, 1]`."""
        return self._kind_allowed() + (", or none" if self.optional else "")

    def _kind_allowed(self) -> str:
        names = ", ".join(self.choices)
        fixed = {
            "bool": "true or false",
            "choice": f"one of {names}",
            "list": f"one or more of {names}" if names else "one or more texts, with commas between them",
            "table": f"NAME:NUMBER, with commas between them, of {names or 'any names'} and {self._range_allowed()}",
            "text": "text",
            "file": "a file that is there",
        }
        return fixed.get(self.kind) or self._range_allowed()

    def _range_allowed(self) -> str:
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
        if self.optional and text.strip().lower() in ("", "none"):
            return None
        try:
            return self.check(_READ[self.kind](text), name=name)
        except (ValueError, UsageError):
            raise self._refused(text, name) from None

    def spell(self, value: Any) -> str:
        """A value as the command line would say it; `parse` undoes it."""
        if value is None:
            return "none"
        if self.kind == "table":
            return ",".join(f"{key}:{number:g}" for key, number in value)
        if self.kind == "list":
            return ",".join(value)
        return str(value).lower() if isinstance(value, bool) else str(value)

    def check(self, value: Any, *, name: str) -> Any:
        """The value itself, if it is allowed (lists and tables become tuples).

        Raises:
            UsageError: it is not; says what is.
        """
        if value is None and self.optional:
            return None
        if self.kind == "table":
            value = tuple(value.items()) if isinstance(value, Mapping) else value
        if self.kind in ("list", "table"):
            value = tuple(value) if isinstance(value, list | tuple) else value
        if not self._good(value):
            raise self._refused(value, name)
        return value

    def _good(self, value: Any) -> bool:
        if self.kind == "list":
            return isinstance(value, tuple) and bool(value) and self._names(value)
        if self.kind == "table":
            return (
                isinstance(value, tuple)
                and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value)
                and self._names(tuple(pair[0] for pair in value))
                and all(self._number(pair[1]) for pair in value)
            )
        if self.kind == "choice":
            return value in self.choices
        if self.kind in ("bool", "text"):
            return isinstance(value, bool if self.kind == "bool" else str)
        if self.kind == "file":
            return isinstance(value, str) and _is_file(value)
        return self._number(value)

    def _names(self, names: tuple[Any, ...]) -> bool:
        """Different strings, of the choices if there are any."""
        good = all(isinstance(name, str) and name and (not self.choices or name in self.choices) for name in names)
        return good and len(set(names)) == len(names)

    def _number(self, value: Any) -> bool:
        """A number in the range. Written so that NaN, for which every comparison is false, is out of any range."""
        if isinstance(value, bool) or not isinstance(value, int if self.kind == "int" else int | float):
            return False
        if self.low is not None and not (value > self.low if self.open_low else value >= self.low):
            return False
        return value == value and (self.high is None or value <= self.high)

    def _refused(self, value: Any, name: str) -> UsageError:
        shown = "not allowed" if self.secret else repr(value.strip() if isinstance(value, str) else value)
        return UsageError(f"{name} is {shown}", do=f"It must be {self.allowed()}")


def _is_file(path: str) -> bool:
    try:
        return local_path(path).is_file()
    except (OSError, ValueError):
        return False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """An entry of `STRATEGIES`: exactly one of `one` and `many`, a sentence, and the options that they take.

    `prepare` and `part` are optional, see `Prepare` and `Part`. `finish(pool)` is called when the rows are safely
    written: a journal may go.
    `facts(pool)` says what a card should hold beside the options: the model and its revision, what it was served by.
    `needs` names what has to be given before it can run, such as `base.model or base.url`, and `example` is what it
    once made; the others run at their defaults, and `ktodata strategies` makes an example. Where one name stands for
    two ways of working, `variant(options)` gives the one that these options ask for, with the options that it takes, or
    raises UsageError. Where `turns` is set, `one` also takes `turn`: which of its drafts for this row this is, counted
    over all negatives that the row gets of it, for what is dealt out rather than drawn. `whole` is set where `prepare`
    looks at the rows of the run, all of which are then held in memory.
    """

    name: str
    summary: str
    options: Mapping[str, Option]
    one: One | None = None
    many: Many | None = None
    prepare: Prepare | None = None
    part: Part | None = None
    finish: Callable[[Any], None] | None = None
    facts: Callable[[Any], Mapping[str, Any]] | None = None
    needs: str = ""
    example: str = ""
    whole: bool = False
    turns: bool = False
    variant: Callable[[Mapping[str, Any]], Strategy] | None = None

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
    if text.strip() not in ("true", "false"):
        raise ValueError(text)
    return text.strip() == "true"


def _read_list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(","))


def _read_table(text: str) -> tuple[tuple[str, float], ...]:
    pairs = [item.partition(":") for item in text.split(",") if item.strip()]
    return tuple((name.strip(), float(number)) for name, _, number in pairs)


_READ: Mapping[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": _read_bool,
    "text": str,
    "choice": str.strip,
    "list": _read_list,
    "table": _read_table,
    "file": str.strip,
}

"""What a source is: how the records of one family of datasets become completions with a label.

A family is one short file with a function `read(record, where)` and one or more `Source`s, which are entered in the
table in `ktodata.sources`. `read` gets a record as parsed and the place it came from, and gives an `Example` for each
completion in it, or a `Skip` with the reason for completions that cannot be used. What it cannot *read* (a column
missing, a value of the wrong type) it raises as a `RowError`.

**Thresholds** are the keyword-only arguments of `read` (and `join`), under the names in `ktodata.sources.options`: the
defaults are the preset's, and the values of a `Literal` are the choices. `Source.configured` sets them.

**Several records together.** Where one record does not tell (the messages of a tree, the pairs of one post), `read`
gives a `Piece` for it instead: a key, and whatever is needed of the record. When all records have been read, `join`
gets the values of the pieces of one key, in the order of the records, and gives examples and skips, each with the
number of the piece that it belongs to, so that its place and record can be told. An engine may keep pieces wherever it
likes (their values are plain and can be pickled), and join keys in any order and in any process: `join` sees one key at
a time, and raises nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ktodata.errors import RowError, UsageError, listed
from ktodata.schema import Kind, Origin, Text, named, parse_label, plain
from ktodata.sources.options import Setting, check, settings_of
from ktodata.sources.transcript import asks_nothing

Record: TypeAlias = Mapping[str, Any]
NOT_COMMERCIAL = "not for commercial use"


class Example(NamedTuple):
    """One completion, labelled. Provenance that is left "" is filled in: the part's, and the source's `origin`.

    `id` is the row's id as read, where the record was a row already.
    """

    prompt: Text
    completion: Text
    label: bool
    source: str = ""
    origin: Origin | None = None
    strategy: str = ""
    parent_id: str = ""
    id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Skip:
    """So many completions of a record that cannot be used, and why; `which` names them (a column, or both)."""

    reason: str
    completions: int = 1
    which: str = ""


class Piece(NamedTuple):
    """A record that `join` is to see together with the others of the same key; `value` is what it needs of it."""

    key: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Source:
    """A family of datasets with one layout.

    Attributes:
        name: the preset's name.
        about: one line for `ktodata presets`.
        columns: the sets of columns that a record may have for `read`; any one of them is enough.
        read: a record and its place, to examples and skips, or to pieces where there is a `join`.
        join: the values of all pieces of one key, to examples and skips with the number of their piece. Every
            completion of a piece has to come out of it, as one or the other.
        detect: whether a record with these columns looks like this family; always, if left out.
        unit, completions: what a record is called, and how many completions one holds (unreadable ones count so).
        origin: how the labels came about.
        kind: the family's own kind; None if that depends on the record.
        hub_id, folders, licence: the dataset on the Hub, those of its folders that have this layout, its licence.
        split: the split of it that is read if none is named.
        kin: other datasets on the Hub that have this layout.
        detected: whether it was told by columns alone, so that records of it may be another's than the dataset's.
    """

    name: str
    about: str
    columns: tuple[tuple[str, ...], ...]
    read: Callable[..., Iterable[Example | Skip | Piece]]
    join: Callable[..., Iterable[tuple[int, Example | Skip]]] | None = None
    detect: Callable[[Record], bool] = lambda record: True
    unit: str = "pairs"
    completions: int = 2
    origin: Origin = "pair"
    kind: Kind | None = None
    hub_id: str = ""
    folders: tuple[str, ...] = ()
    licence: str = ""
    split: str = "train"
    kin: tuple[str, ...] = ()
    detected: bool = dataclasses.field(default=False, compare=False)

    @property
    def terms(self) -> str:
        """A sentence on the licence, "" if it forbids no commercial use."""
        if NOT_COMMERCIAL not in self.licence:
            return ""
        if self.detected:
            return f"if these are rows of {self.hub_id}, its licence is {self.licence}"
        return f"the licence of {self.name} is {self.licence}"

    @property
    def settings(self) -> dict[str, Setting]:
        """The thresholds and choices it has, by name, with their present values."""
        return settings_of(self.read) | (settings_of(self.join) if self.join else {})

    def configured(self, chosen: Mapping[str, object]) -> Source:
        """The same source with these thresholds and choices instead of its defaults.

        Raises:
            UsageError: it has no such option, or the value is none that the option can have.
        """
        known = self.settings
        for name, value in chosen.items():
            if name not in known:
                flags = ", ".join(setting.flag for setting in known.values())
                flag = f"--{name.replace('_', '-')}"
                has = f"It has {flags}" if flags else "It has no such options"
                raise UsageError(f"the preset {self.name!r} has no {flag}", do=f"{has}; `ktodata presets` lists them")
            check(known[name], value)
        read, join = self.read, self.join
        if mine := {name: value for name, value in chosen.items() if name in settings_of(read)}:
            read = partial(read, **mine)
        if join and (its := {name: value for name, value in chosen.items() if name in settings_of(join)}):
            join = partial(join, **its)
        return dataclasses.replace(self, read=read, join=join)


def column(record: Record, name: str, where: str) -> Any:
    """A column that has to be there.

    Raises:
        RowError: it is not; the columns that are there are named.
    """
    if name not in record:
        raise RowError(f"no column {name!r} (columns seen: {listed(record)})", where=where)
    return record[name]


def string(record: Record, name: str, where: str) -> str:
    """A column that has to be a string. Raises RowError if it is not."""
    value = column(record, name, where)
    if not isinstance(value, str):
        raise RowError(f"{name} is {named(value)}, not a string", where=where)
    return value


def number(record: Record, name: str, where: str) -> float:
    """A column that has to be a number; text that reads as one is, as csv files know text only.

    Raises:
        RowError: it is not, or not a finite one.
    """
    value = optional_number(record, name, where)
    if value is None:
        given = "empty" if record[name] == "" else "null" if record[name] is None else "NaN"
        raise RowError(f"{name} is {given}, not a number", where=where)
    return value


def optional_number(record: Record, name: str, where: str) -> float | None:
    """A number, or None for null (or NaN, as pandas writes nulls). Raises RowError for anything else."""
    value = column(record, name, where)
    if value is None or value == "":
        return None
    try:
        found = math.inf if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        found = math.inf
    if math.isnan(found):
        return None
    if math.isinf(found):
        raise RowError(f"{name} is {named(value)}, not a number", where=where)
    return found


def boolean(record: Record, name: str, where: str) -> bool:
    """A label, which has to be true or false. Raises RowError if it is not."""
    return parse_label(column(record, name, where), name=name, where=where)


def flag(record: Record, name: str, where: str) -> bool:
    """A column that says yes or no: a boolean, or text that reads as one, as csv files know text only.

    Raises:
        RowError: it is neither.
    """
    value = column(record, name, where)
    read = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(read, bool):
        raise RowError(f"{name} is {named(value)}, not true or false", where=where)
    return read


def is_empty(text: Text) -> bool:
    """Whether nothing but white space is in a completion."""
    words = text if isinstance(text, str) else plain(text)
    return not words or words.isspace()


def single(prompt: Text, completion: Text, label: bool, *, which: str = "") -> Example | Skip:
    """The example of one completion, unless its prompt asks nothing or the completion is empty; `which` names it."""
    if asks_nothing(prompt):
        return Skip("no prompt", 1, which)
    return Skip("empty completion", 1, which) if is_empty(completion) else Example(prompt, completion, label)


def pair(prompts: tuple[Text, Text], completions: tuple[Text, Text]) -> Iterator[Example | Skip]:
    """The examples of a pair, chosen first. Both have to continue the same prompt, verbatim, and to differ.

    An empty completion is skipped and the other one stays; a pair whose prompts differ or ask nothing goes whole.
    """
    if prompts[0] != prompts[1]:
        return iter([Skip("prompts differ", 2, "both")])
    if asks_nothing(prompts[0]):
        return iter([Skip("no prompt", 2, "both")])
    if completions[0] == completions[1] and not is_empty(completions[0]):
        return iter([Skip("identical completions", 2, "both")])
    return iter([_one_of(prompts[0], completions[0], True), _one_of(prompts[0], completions[1], False)])


def _one_of(prompt: Text, completion: Text, label: bool) -> Example | Skip:
    if is_empty(completion):
        return Skip("empty completion", 1, "chosen" if label else "rejected")
    return Example(prompt, completion, label)

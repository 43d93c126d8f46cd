"""What a source is: how the records of one family of datasets become completions with a label.

A family is one short file with a function `read(record, where)` and one or more `Source`s, which are entered in the
table in `ktodata.sources`. `read` gets a record as parsed and the place it came from, and gives an `Example` for each
completion in it, or a `Skip` with the reason for completions that cannot be used. What it cannot *read* (a column
missing, a value of the wrong type) it raises as a `RowError`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from ktodata.errors import RowError
from ktodata.schema import Kind, Origin, Text, named, parse_label, plain

Record: TypeAlias = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
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


@dataclasses.dataclass(frozen=True)
class Source:
    """A family of datasets with one layout.

    Attributes:
        name: the preset's name.
        about: one line for `ktodata presets`.
        columns: the sets of columns that a record may have for `read`; any one of them is enough.
        read: a record and its place, to examples and skips.
        detect: whether a record with these columns looks like this family; always, if left out.
        unit, completions: what a record is called, and how many completions one holds (unreadable ones count so).
        origin: how the labels came about.
        kind: the family's own kind; None if that depends on the record.
        hub_id, folders, licence: the dataset on the Hub, those of its folders that have this layout, its licence.
    """

    name: str
    about: str
    columns: tuple[tuple[str, ...], ...]
    read: Callable[[Record, str], Iterable[Example | Skip]]
    detect: Callable[[Record], bool] = lambda record: True
    unit: str = "pairs"
    completions: int = 2
    origin: Origin = "pair"
    kind: Kind | None = None
    hub_id: str = ""
    folders: tuple[str, ...] = ()
    licence: str = ""


def column(record: Record, name: str, where: str) -> Any:
    """A column that has to be there.

    Raises:
        RowError: it is not; the columns that are there are named.
    """
    if name not in record:
        seen = ", ".join(map(str, record)) or "none"
        raise RowError(f"no column {name!r} (columns seen: {seen})", where=where)
    return record[name]


def string(record: Record, name: str, where: str) -> str:
    """A column that has to be a string. Raises RowError if it is not."""
    value = column(record, name, where)
    if not isinstance(value, str):
        raise RowError(f"{name} is {named(value)}, not a string", where=where)
    return value


def boolean(record: Record, name: str, where: str) -> bool:
    """A label, which has to be true or false. Raises RowError if it is not."""
    return parse_label(column(record, name, where), name=name, where=where)


def is_empty(text: Text) -> bool:
    """Whether nothing but white space is in a completion."""
    return not plain(text).strip()


def pair(prompts: tuple[Text, Text], completions: tuple[Text, Text]) -> Iterator[Example | Skip]:
    """The examples of a pair, chosen first. Both have to continue the same prompt, verbatim, and to differ.

    An empty completion is skipped and the other one stays; a pair whose prompts differ goes whole.
    """
    if prompts[0] != prompts[1]:
        yield Skip("prompts differ", 2, "both")
    elif not prompts[0] and not isinstance(prompts[0], str):
        yield Skip("no prompt", 2, "both")
    elif completions[0] == completions[1] and not is_empty(completions[0]):
        yield Skip("identical completions", 2, "both")
    else:
        for name, completion in zip(("chosen", "rejected"), completions, strict=True):
            if is_empty(completion):
                yield Skip("empty completion", 1, name)
            else:
                yield Example(prompts[0], completion, name == "chosen")

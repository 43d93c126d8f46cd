"""What can go wrong, as users meet it: one line that says what, where, and what to do.

KtodataError               exit 1: the data, a file or the Hub says no
├── SourceError            a file, folder or Hub dataset cannot be read as what it claims to be
│   ├── NothingLeftError   all of its records were refused: the quarantine file has them
│   └── RowError           one row in it is unreadable (`where` names the line)
├── WriteError             the output cannot be written
├── ModelError             a model, or the server that has it, cannot be used
└── UsageError             exit 2: the command line asks for something that does not exist
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

MOST_NAMES = 40  # columns, options and the like that an error names
LONGEST_NAME = 60  # characters of a name


class KtodataError(Exception):
    """One clear error. `what` went wrong, `where` (file and line or row), what to `do` about it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return sentences(head, self.do)


class SourceError(KtodataError):
    """A source cannot be read as what it claims to be."""


class RowError(SourceError):
    """One row is unreadable: a parse error or a value of the wrong type."""

    def advised(self, do: str) -> RowError:
        """The same error with this advice, unless it has better."""
        return RowError(self.what, where=self.where, do=self.do or do)


class NothingLeftError(SourceError):
    """No record became anything to be written. Where records are set aside, those are kept despite the error.

    `refused` are those that nobody has set aside yet, as arguments of `ktodata.io.Quarantine.add`.
    """

    def __init__(self, what: str, *, where: str = "", do: str = "", refused: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__(what, where=where, do=do)
        self.refused = list(refused)

    @classmethod
    def unreadable(cls, problem: SourceError, refused: Iterable[Mapping[str, Any]]) -> NothingLeftError:
        """The error where all records are unreadable, or of no layout; `problem` is that of the first."""
        records = list(refused)
        what = problem.what
        if len(records) > 1:
            what = f"none of its {len(records)} records can be read; the first: {what}"
        return cls(what, where=problem.where, do=problem.do, refused=records)

    def kept(self, file: str) -> NothingLeftError:
        """The same error, which says that all records are in this file."""
        return NothingLeftError(
            self.what, where=self.where, do=sentences(self.do, f"All of them are in {file}, with reasons")
        )


class WriteError(KtodataError):
    """The output cannot be written; what was there before is still there."""


class ModelError(KtodataError):
    """A model, or the server that has it, cannot be used."""


class UsageError(KtodataError):
    """The command line asks for something that does not exist."""

    exit_code = 2


def sentences(*parts: str) -> str:
    """The parts that are not empty, each but the last with a full stop unless it ends in a mark of its own."""
    *before, last = [part for part in parts if part] or [""]
    return " ".join([*(part if part.endswith((".", "?", "!", "…")) else f"{part}." for part in before), last])


def first_line(error: BaseException, *, lines: int = 1) -> str:
    """What a library says of its error, as far as it fits into ours: its first line or lines, else its type."""
    text = " ".join(line.strip() for line in str(error).strip().splitlines()[:lines])
    return (text or type(error).__name__).rstrip(".")


def listed(names: Iterable[object]) -> str:
    """Names of columns as an error tells them: on one line, however they are called, and the first of very many."""
    shown = [repr(str(name))[1:-1] for name in names]
    cut = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in shown[:MOST_NAMES]]
    more = f" and {len(shown) - MOST_NAMES} more" if len(shown) > MOST_NAMES else ""
    return f"{', '.join(cut)}{more}" or "none"


def misspelt(seen: Iterable[object], needed: Iterable[str]) -> str:
    """Columns that are nearly called as needed: `Column 'lable': did you mean 'label'?`

    "" unless every needed column is there, or there under another name that is close and not needed itself.
    """
    wanted = list(needed)
    names = {str(name).strip().lower(): str(name) for name in seen}
    free = {key: name for key, name in names.items() if name not in wanted}
    meant = {}
    for column in wanted:
        if column in names.values():
            continue
        close = difflib.get_close_matches(column, free, n=1, cutoff=0.7)
        if not close:
            return ""
        meant[column] = free.pop(close[0])
    return " ".join(f"Column {name!r}: did you mean {column!r}?" for column, name in meant.items())


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest known name, else the list of all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {listed(names)}"


def nearest_of(name: str, known: Iterable[str]) -> str:
    """`nearest`, and the list of all that are known in any case."""
    names = sorted(known)
    close, known_ones = nearest(name, names), f"Known: {listed(names)}"
    return close if close == known_ones else f"{close} {known_ones}"

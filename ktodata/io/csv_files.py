"""Files of comma-separated values."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import IO, BinaryIO, NamedTuple, cast

from ktodata.encoded import messages_in, problem_of
from ktodata.errors import SourceError, listed
from ktodata.io import records
from ktodata.io.records import COMMA_ADVICE, QUOTE_ADVICE, TOO_LONG, UTF8_ADVICE, Raw
from ktodata.schema import COLUMNS, is_text

_ESCAPED = re.compile("[\udc80-\udcff]+")


_CELL = r'(?:"[^"]*+(?:""[^"]*+)*+"|[^",\r\n]*+)'
_ROW = re.compile(rf"{_CELL}(?:,{_CELL})*+[\r\n]*+")
_TEXT = frozenset(COLUMNS) - {"prompt", "completion", "label"}  # what is text in any row


class _Problem(NamedTuple):
    """In place of a cell's messages, where they cannot be read: why not."""

    told: str


def read_csv(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """Comma-separated values with a header line, text verbatim.

    A csv file knows text only, so two things are turned back: a `label` (or `kto_tag`) of true or false, and a cell
    that holds a list of messages as JSON, which is how `write_rows` writes them. Where a row has an `id`, as those of
    `write_rows` do, it tells text that merely looks like messages from messages.

    Raises:
        SourceError: the header is none, or what follows a stray quote is too long to be set aside with it.
    """
    csv.field_size_limit(records.LONGEST)
    with io.TextIOWrapper(cast(BinaryIO, stream), encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        file = _Csv(text, name)
        header = file.header()
        for line, cells, problem in file.rows(len(header)):
            where = f"{name}:{line}"
            if problem:
                data = "".join(cells).encode("utf-8", "surrogateescape")
                yield Raw(data, where, source, f"not csv: {problem}", QUOTE_ADVICE)
            elif not_utf8 := _text_problem("".join(cells)):
                yield Raw([cell.encode("utf-8", "surrogateescape") for cell in cells], where, source, not_utf8)
            elif len(cells) != len(header):
                yield Raw(cells, where, source, f"{len(cells)} cells, but the header names {len(header)} columns")
            else:
                record = _record(header, cells)
                problem = next((value.told for value in record.values() if isinstance(value, _Problem)), "")
                yield Raw(dict(zip(header, cells, strict=True)) if problem else record, where, source, problem)


class _Csv:
    """The rows of a file, and those of what follows a bad one."""

    def __init__(self, text: Iterable[str], name: str) -> None:
        self.text, self.name = iter(text), name
        self.held: list[str] = []  # lines of the row at hand
        self.passed = 0  # lines before those of the reader
        self.reader = csv.reader(_holding(self.text, self.held), strict=True)

    def header(self) -> list[str]:
        """The names of the columns; none, if there is no line.

        Raises:
            SourceError: it is not csv, not UTF-8, or names a column twice.
        """
        try:
            header = next((cells for cells in self.reader if cells), [])
        except csv.Error as error:
            # One of quoted names and semicolons ends here.
            do = COMMA_ADVICE if "expected after" in str(error) else QUOTE_ADVICE
            raise SourceError(f"not csv: {_told(error)}", where=f"{self.name}:{self.reader.line_num}", do=do) from error
        where = f"{self.name}:{self.reader.line_num}"
        if not_utf8 := _text_problem("".join(header)):
            raise SourceError(not_utf8, where=where, do=UTF8_ADVICE)
        if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), "")):
            what = f"the header is one column, {header[0]!r}, as its cells are separated by {mark!r}"
            raise SourceError(what, where=where, do=COMMA_ADVICE)
        if len(set(header)) < len(header):
            raise SourceError(f"a column is named twice ({listed(header)})", where=where, do="Rename one")
        return header

    def rows(self, width: int) -> Iterator[tuple[int, list[str], str]]:
        """The rows that are not blank: the line that each begins with, its cells, and what is wrong with its syntax.

        After a syntax error nothing says whether the next line begins a row or is in the middle of a text. It is taken
        to begin one where all that follows is sound csv of so many columns then, to the end of the file: within a text
        it would not be. Else all of that goes with the bad row, whose cells are its lines as they stand there.

        Raises:
            SourceError: more than `LONGEST` characters follow a syntax error.
        """
        while True:
            self.held.clear()
            begins = self.passed + self.reader.line_num + 1
            try:
                cells = next(self.reader, None)
            except csv.Error as error:
                ends = self.passed + self.reader.line_num
                rest = self._rest(error)
                if not _is_sound(rest, width):
                    yield begins, [*self.held, *rest], f"{_told(error)}, and where the next row begins cannot be told"
                    return
                yield begins, list(self.held), _told(error)
                self.passed, self.reader = ends, csv.reader(_holding(rest, self.held), strict=True)
                continue
            if cells is None:
                return
            if cells:
                yield begins, cells, ""

    def _rest(self, error: csv.Error) -> list[str]:
        """The lines that follow."""
        lines: list[str] = []
        size = 0
        for line in self.text:
            lines.append(line)
            size += len(line)
            if size > records.LONGEST:
                what = f"not csv: {_told(error)}; what follows is too long to be set aside ({TOO_LONG})"
                raise SourceError(what, where=f"{self.name}:{self.reader.line_num}", do=QUOTE_ADVICE) from error
        return lines


def _holding(lines: Iterable[str], held: list[str]) -> Iterator[str]:
    """The lines, which are put into `held` as they are taken."""
    for line in lines:
        held.append(line)
        yield line


def _told(error: csv.Error) -> str:
    return "a quote that is never closed" if "unexpected end" in str(error) else str(error)


def _is_sound(lines: list[str], width: int) -> bool:
    """Whether some lines are rows of so many columns, each with quotes round whole cells only."""
    held: list[str] = []
    try:
        for cells in csv.reader(_holding(lines, held), strict=True):
            if cells and (len(cells) != width or not _ROW.fullmatch("".join(held))):
                return False
            held.clear()
    except csv.Error:
        return False
    return True


def _record(header: list[str], cells: list[str]) -> dict[str, object]:
    texts = dict(zip(header, cells, strict=True))
    record = {name: _cell(name, text) for name, text in texts.items()}
    looks_like_chat = any(name in texts and record[name] is not texts[name] for name in ("prompt", "completion"))
    if looks_like_chat and is_text(texts | {"label": record.get("label")}):
        record |= {name: texts[name] for name in ("prompt", "completion")}
    return record


def _cell(column: str, text: str) -> object:
    if column in ("label", "kto_tag"):
        return {"true": True, "false": False}.get(text.lower(), text)
    found = None if column in _TEXT else messages_in(text)
    if found is None:
        return text
    problem = problem_of(found, text)
    return _Problem(problem) if problem else found


def _text_problem(text: str) -> str:
    """What is wrong with text that was read with `surrogateescape`, "" if nothing is."""
    found = _ESCAPED.search(text)
    return f"{found[0].encode('utf-8', 'surrogateescape')!r} is not UTF-8" if found else ""

"""Records out of open files, one at a time, each with its place: JSON lines, JSON, csv, parquet.

Reading is lazy in two ways. A file is never held whole, and a line of JSON is not parsed until somebody asks for
its values: `unpair --workers N` hands unparsed lines to its workers.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import IO, Any, BinaryIO, NamedTuple, cast

from ktodata.errors import RowError, SourceError, listed

BOM = b"\xef\xbb\xbf"
BLOCK = 2**20  # bytes per read of a file, characters per read of a JSON array
LONGEST = 256 * 2**20  # bytes of a line, or characters of an item or a cell: more is no text of a row
BATCH = 1000  # rows per read of a columnar file
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPED = re.compile("[\udc80-\udcff]+")
_BLANK = re.compile(r"\s*")


UNREADABLE = "unreadable"


class Raw(NamedTuple):
    """One record as it came: an unparsed line of JSON, or the values of a columnar file or array.

    `where` is the file and line or row; `source` the provenance that rows made of it get; `problem` is set where
    the reader already knows that the record cannot be read.
    """

    data: bytes | object
    where: str
    source: str
    problem: str = ""

    def values(self) -> dict[str, Any]:
        """The record as a dict.

        Raises:
            RowError: it is not UTF-8, not JSON, or not an object.
        """
        if self.problem:
            raise RowError(self.problem, where=self.where)
        value = _parse_line(self.data, self.where) if isinstance(self.data, bytes) else self.data
        if not isinstance(value, dict):
            raise RowError(f"a JSON {_json_name(value)}, not an object with columns", where=self.where)
        return value

    def shown(self) -> object:
        """The record for the quarantine file, parsed if it can be: as it stands there, numbers of any size included."""
        if not isinstance(self.data, bytes):
            return self.data
        try:
            return _parse_slowly(self.data, self.where)
        except RowError:
            return self.data.decode("utf-8", errors="backslashreplace")  # no byte of it is lost

    def refused(self, detail: str, *, reason: str = UNREADABLE) -> dict[str, Any]:
        """What the quarantine file says of it, as arguments of `ktodata.io.Quarantine.add`."""
        return {"reason": reason, "where": self.where, "detail": detail, "record": self.shown()}


def _parse_line(line: bytes, where: str) -> object:
    import orjson

    try:
        value = orjson.loads(line)
        # It takes the last of several values of one key, and says nothing: whether there are several is asked of those
        # whose name stands there twice. In a text its quotes would be escaped.
        if isinstance(value, dict) and any(line.count(b'"%b"' % name.encode()) > 1 for name in value):
            return _parse_slowly(line, where)
        return value
    except orjson.JSONDecodeError:
        # What it takes is UTF-8 and has no half of a surrogate pair. The rest may still be read (NaN); if not, what is
        # wrong is told better.
        return _parse_slowly(line, where)


def _parse_slowly(line: bytes, where: str) -> object:
    try:
        text = line.decode("utf-8")
        value = json.loads(text, object_pairs_hook=partial(_object, where=where))
    except UnicodeDecodeError as error:
        raise RowError(f"byte {error.start + 1} of the line is not UTF-8", where=where, do=UTF8_ADVICE) from error
    except RecursionError as error:
        raise RowError("JSON nested too deeply", where=where) from error
    except ValueError as error:
        place = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise RowError(f"not JSON: {_why(error)}{place}", where=where) from error
    if _broken(value, text):
        raise RowError(BROKEN_EMOJI, where=where)
    return value


def _object(pairs: list[tuple[str, Any]], *, where: str) -> dict[str, Any]:
    """An object of JSON, whose names have to differ: of two labels, either may be the wrong one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise RowError(f"the key {name!r} is there more than once", where=where, do="Leave one of its values")
    return found


def _why(error: ValueError) -> str:
    """What is wrong with some JSON. A number of thousands of digits is Python's limit, and not ours to lift."""
    return "a number of too many digits" if "int_max_str_digits" in str(error) else getattr(error, "msg", str(error))


def _broken(value: object, text: str) -> bool:
    """Whether a value, which stands in JSON as `text`, has half of a surrogate pair in it, which no file can hold."""
    if "\\u" in text and _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return True
    return False


TOO_LONG = f"longer than {LONGEST // 2**20} MiB: not a file of this format?"
BROKEN_EMOJI = "half of a surrogate pair (a broken emoji) in the text"
UTF8_ADVICE = "Convert the file to UTF-8 first"
COMMA_ADVICE = "The separator of a csv file must be a comma"
ARRAY_ADVICE = "Mend it there, or write an object a line (.jsonl): a bad line can then be set aside with --quarantine"
QUOTE_ADVICE = 'A text with a quote or a line feed in it stands in quotes, and a quote in it is written twice ("")'
AGAIN_ADVICE = "Fetch or write the file again"


def _json_name(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def read_lines(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """JSON lines. Only a line feed ends a line: U+2028 and the like are text. Blank lines are passed over.

    Raises:
        SourceError: a line without an end, as in a file of something else.
    """
    for number, line in enumerate(iter(partial(stream.readline, LONGEST), b""), 1):
        if len(line) == LONGEST:
            raise SourceError(f"a line {TOO_LONG}", where=f"{name}:{number}")
        if number == 1:
            line = line.removeprefix(BOM)
        line = line.strip()
        if line:
            yield Raw(line, f"{name}:{number}", source)


def read_json(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """A JSON array of objects, read piece by piece; or JSON lines in a file that is called `.json`.

    Raises:
        SourceError: it is neither. What follows a syntax error in an array cannot be told apart, so it is fatal.
    """
    head = _head(cast(io.BufferedReader, stream))
    if head[:1] == b"{":
        if head.partition(b"\n")[0].strip() == b"{":
            advice = "An array of objects is needed; chat exports are for `ktodata label`"
            raise SourceError("one JSON object over many lines", where=name, do=advice)
        yield from read_lines(stream, name, source)
    elif head[:1] == b"[":
        with io.TextIOWrapper(cast(BinaryIO, stream), encoding="utf-8-sig", errors="surrogateescape") as text:
            for line, value, problem in _array_items(text, name):
                yield Raw(value, f"{name}:{line}", source, problem)
    elif head:
        raise SourceError("neither a JSON array of objects nor JSON lines", where=name)


def _head(stream: io.BufferedReader) -> bytes:
    """The beginning of a file, from its first character that is not white space; b"" if there is none."""
    while block := stream.peek(BLOCK):
        if head := block.removeprefix(BOM).lstrip():
            return head
        stream.read(len(block))
    return b""


def _array_items(text: IO[str], name: str) -> Iterator[tuple[int, object, str]]:
    """The items of a JSON array, holding little more than one at a time: the line, the item, what is wrong with it."""
    decoder, buffer, place, line, ended, first = json.JSONDecoder(), "", 0, 1, False, True

    def more(size: int) -> None:
        nonlocal buffer, place, ended
        chunk = text.read(size)
        ended = not chunk
        buffer, place = buffer[place:] + chunk, 0

    def skip_blank() -> str:
        """Step over white space; the character after it, or "" at the end of the file."""
        nonlocal place, line
        while True:
            match = _BLANK.match(buffer, place)
            end = match.end() if match else place
            line += buffer.count("\n", place, end)
            place = end
            if place < len(buffer) or ended:
                return buffer[place : place + 1]
            more(BLOCK)

    skip_blank()
    place += 1  # the opening bracket, which the caller has seen
    while True:
        if (mark := skip_blank()) == "]":
            place += 1
            if skip_blank():
                raise SourceError("something follows the JSON array", where=f"{name}:{line}")
            return
        if not first:
            if mark != ",":
                raise SourceError(_array_problem(mark), where=f"{name}:{line}", do=ARRAY_ADVICE)
            place += 1
            skip_blank()
        size, first = BLOCK, False
        while True:
            try:
                value, end = decoder.raw_decode(buffer, place)
            except RecursionError as error:
                raise SourceError("JSON nested too deeply", where=f"{name}:{line}") from error
            except ValueError as error:
                if ended:
                    # Its own line and column count from this item on.
                    raise SourceError(f"not JSON: {_why(error)}", where=f"{name}:{line}", do=ARRAY_ADVICE) from error
                if len(buffer) > LONGEST:
                    raise SourceError(f"an item {TOO_LONG}", where=f"{name}:{line}") from error
            else:
                if end < len(buffer) or ended:  # a number at the buffer's end may go on
                    break
            more(size)
            size *= 2  # an item of any length is tried again a logarithmic number of times
        problem = _text_problem(value, buffer[place:end])
        yield line, buffer[place:end].encode("utf-8", "surrogateescape") if problem else value, problem
        line += buffer.count("\n", place, end)
        place = end


def _text_problem(value: object, text: str) -> str:
    """What is wrong with the characters of an item that was read with `surrogateescape`, "" if nothing is."""
    if not_utf8 := _ESCAPED.search(text):
        return f"{not_utf8[0].encode('utf-8', 'surrogateescape')!r} is not UTF-8"
    return BROKEN_EMOJI if _broken(value, text) else ""


def _array_problem(mark: str) -> str:
    return f"',' or ']' expected in the JSON array, not {mark!r}" if mark else "the JSON array is not closed: cut off?"


def read_csv(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """Comma-separated values with a header line, text verbatim.

    A csv file knows text only, so two things are turned back: a `label` (or `kto_tag`) of true or false, and a cell
    that holds messages as JSON, which is how `write_rows` writes them.
    """
    csv.field_size_limit(LONGEST)
    with io.TextIOWrapper(cast(BinaryIO, stream), encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        header: list[str] | None = None
        for cells in _csv_rows(reader, name):
            where = f"{name}:{reader.line_num}"
            if header is None:
                if not cells:
                    continue
                header = cells
                if not_utf8 := _text_problem("", "".join(header)):
                    raise SourceError(not_utf8, where=where, do=UTF8_ADVICE)
                if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), "")):
                    what = f"the header is one column, {header[0]!r}, as its cells are separated by {mark!r}"
                    raise SourceError(what, where=where, do=COMMA_ADVICE)
                if len(set(header)) < len(header):
                    raise SourceError(f"a column is named twice ({listed(header)})", where=where, do="Rename one")
            elif not_utf8 := _text_problem("", "".join(cells)):
                yield Raw([cell.encode("utf-8", "surrogateescape") for cell in cells], where, source, not_utf8)
            elif len(cells) != len(header):
                if cells:
                    problem = f"{len(cells)} cells, but the header names {len(header)} columns"
                    yield Raw(cells, where, source, problem)
            else:
                yield Raw({key: _cell(key, value) for key, value in zip(header, cells, strict=True)}, where, source)


def _csv_rows(reader: Any, name: str) -> Iterator[list[str]]:
    """The reader's rows, with its errors as ours."""
    try:
        yield from reader
    except csv.Error as error:
        # A header of quoted names and semicolons ends here. Further down it is a stray quote.
        do = COMMA_ADVICE if reader.line_num == 1 and "expected after" in str(error) else QUOTE_ADVICE
        what = "a quote that is never closed" if "unexpected end" in str(error) else str(error)
        raise SourceError(f"not csv: {what}", where=f"{name}:{reader.line_num}", do=do) from error


def _cell(column: str, text: str) -> object:
    if column in ("label", "kto_tag"):
        return {"true": True, "false": False}.get(text.lower(), text)
    if text[:1] in "[{" and text:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            items = value if isinstance(value, list) else [value]
            if items and all(_is_message(item) for item in items) and not _broken(value, text):
                return value
    return text


def _is_message(item: object) -> bool:
    """Whether it is {role, content} or {from, value}. Both keys are asked for, since a reply may be JSON itself."""
    return isinstance(item, dict) and (item.keys() >= {"role", "content"} or item.keys() >= {"from", "value"})


def read_parquet(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """A parquet file, a thousand rows at a time.

    Raises:
        SourceError: it is not parquet.
    """
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        file = pyarrow.parquet.ParquetFile(stream)
        for batch in file.iter_batches(batch_size=BATCH):
            for values, problem in _batch_rows(batch):
                row += 1
                yield Raw(values, f"{name}: row {row}", source, problem)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"not a readable parquet file: {reason.rstrip('.')}", where=name, do=AGAIN_ADVICE) from error


def _batch_rows(batch: Any) -> Iterator[tuple[object, str]]:
    """The rows of a batch, and what is wrong with each: text that is not UTF-8."""
    try:
        yield from ((values, "") for values in batch.to_pylist())
    except UnicodeDecodeError:
        for row in range(len(batch)):
            one = batch.slice(row, 1)
            try:
                yield one.to_pylist()[0], ""
            except UnicodeDecodeError as error:
                bad = bytes(error.object[error.start : error.end])
                yield {name: _cell_bytes(one.column(name)) for name in one.schema.names}, f"{bad!r} is not UTF-8"


def _cell_bytes(column: Any) -> object:
    """The value in a column of one row; the bytes, where it is text that is none."""
    try:
        return column[0].as_py()
    except UnicodeDecodeError as error:
        return bytes(error.object)

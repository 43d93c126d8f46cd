"""Files of JSON: an object a line, or an array of them that is read piece by piece."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

from ktodata.errors import SourceError
from ktodata.io import records
from ktodata.io.records import ARRAY_ADVICE, BOM, TOO_LONG, Raw, read_lines, why

_BLANK = re.compile(r"\s*")
_ARRAY = re.compile(rb"\[\s*(\{|$)")


def read_jsonl(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """JSON lines; or an array of objects in a file that is called `.jsonl`, as hh-rlhf's red-team attempts are.

    Raises:
        SourceError: see `read_lines` and `read_json`.
    """
    # A first line that is an array of something else is a bad line among others.
    is_array = _ARRAY.match(_head(cast(io.BufferedReader, stream)))
    yield from (read_json if is_array else read_lines)(stream, name, source)


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
            for line, item in _array_items(text, name):
                yield Raw(item.encode("utf-8", "surrogateescape"), f"{name}:{line}", source)
    elif head:
        raise SourceError("neither a JSON array of objects nor JSON lines", where=name)


def _head(stream: io.BufferedReader) -> bytes:
    """The beginning of a file, from its first character that is not white space; b"" if there is none."""
    while block := stream.peek(records.BLOCK):
        if head := block.removeprefix(BOM).lstrip():
            return head
        stream.read(len(block))
    return b""


def _array_items(text: IO[str], name: str) -> Iterator[tuple[int, str]]:
    """The items of a JSON array as they stand there, with their lines, holding little more than one at a time."""
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
            more(records.BLOCK)

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
        size, first = records.BLOCK, False
        while True:
            try:
                _, end = decoder.raw_decode(buffer, place)
            except RecursionError as error:
                raise SourceError("JSON nested too deeply", where=f"{name}:{line}") from error
            except ValueError as error:
                if ended:
                    # Its own line and column count from this item on.
                    raise SourceError(f"not JSON: {why(error)}", where=f"{name}:{line}", do=ARRAY_ADVICE) from error
                if len(buffer) > records.LONGEST:
                    raise SourceError(f"an item {TOO_LONG}", where=f"{name}:{line}") from error
            else:
                if end < len(buffer) or ended:  # a number at the buffer's end may go on
                    break
            more(size)
            size *= 2  # an item of any length is tried again a logarithmic number of times
        yield line, buffer[place:end]
        line += buffer.count("\n", place, end)
        place = end


def _array_problem(mark: str) -> str:
    return f"',' or ']' expected in the JSON array, not {mark!r}" if mark else "the JSON array is not closed: cut off?"

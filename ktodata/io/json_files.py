"""Files of JSON: an object a line, or an array of them that is read piece by piece."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

from ktodata.encoded import TOO_DEEP
from ktodata.errors import SourceError
from ktodata.io import records
from ktodata.io.records import ARRAY_ADVICE, BOM, TOO_LONG, Raw, read_lines, why

_BLANK = re.compile(r"\s*")
_DECODER = json.JSONDecoder()
LONGEST_WORD = 32  # characters that a number, a word or an escape has, or fewer, where it is not all there
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
        SourceError: it is neither, or something in it is too long. Syntax errors are those of a record.
    """
    head = _head(cast(io.BufferedReader, stream))
    if head[:1] == b"{":
        if head.partition(b"\n")[0].strip() == b"{":
            advice = "An array of objects is needed; chat exports are for `ktodata label`"
            raise SourceError("one JSON object over many lines", where=name, do=advice)
        yield from read_lines(stream, name, source)
    elif head[:1] == b"[":
        plain = cast(BinaryIO, stream)
        with io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            for line, item, problem in _Array(text, name).items():
                yield Raw(item.encode("utf-8", "surrogateescape"), f"{name}:{line}", source, problem)
    elif head:
        raise SourceError("neither a JSON array of objects nor JSON lines", where=name)


def _head(stream: io.BufferedReader) -> bytes:
    """The beginning of a file, from its first character that is not white space; b"" if there is none."""
    while block := stream.peek(records.BLOCK):
        if head := block.removeprefix(BOM).lstrip():
            return head
        stream.read(len(block))
    return b""


class _Array:
    """A JSON array that is taken apart item by item, holding little more than one at a time."""

    def __init__(self, text: IO[str], name: str) -> None:
        self.text, self.name = text, name
        self.buffer, self.place, self.line, self.ended = "", 0, 1, False
        self.margin: str | None = None  # what stands before an item on its line, if only white space does

    def items(self) -> Iterator[tuple[int, str, str]]:
        """The items as they stand there: the line, the text, and what is wrong with it if that ends the reading of it.

        After a syntax error reading goes on with the next item that begins a line as the bad one does; where it does
        not begin one, or no other follows, all the rest is one item, since where the next begins cannot be told.

        Raises:
            SourceError: an item, or such a rest, of more than `LONGEST` characters.
        """
        self._blank()
        self.place += 1  # the opening bracket, which the caller has seen
        mark, self.margin = self._blank()
        expected = mark != "]"
        while True:
            problem = ""
            if not expected:
                mark, _ = self._blank()
                if mark == "]":
                    self.place += 1
                    if self._blank()[0]:
                        yield self._rest("something follows the JSON array", margin=None)
                    return
                if mark != ",":
                    problem = f"',' or ']' expected in the JSON array, not {mark!r}"
                    problem = problem if mark else "the JSON array is not closed: cut off?"
            if not problem:
                if not expected:
                    self.place += 1  # the comma
                    _, self.margin = self._blank()
                end, problem = self._item()
                if not problem:
                    yield self.line, self._taken(end), ""
                    expected = False
                    continue
            yield self._rest(problem, margin=self.margin)
            if self.place == len(self.buffer) and self.ended:
                return
            expected = True

    def _more(self, size: int) -> None:
        chunk = self.text.read(size)
        self.ended = not chunk
        self.buffer, self.place = self.buffer[self.place :] + chunk, 0

    def _taken(self, end: int) -> str:
        """The text from here to a place in the buffer, which is passed."""
        found = self.buffer[self.place : end]
        self.line += found.count("\n")
        self.place = end
        return found

    def _blank(self) -> tuple[str, str | None]:
        """Step over white space; the character after it ("" at the end), and what of it is on the line of that."""
        margin: str | None = None
        while True:
            match = _BLANK.match(self.buffer, self.place)
            passed = self._taken(match.end() if match else self.place)
            if "\n" in passed:
                margin = passed.rpartition("\n")[2]
            elif margin is not None:
                margin += passed
            if self.place < len(self.buffer) or self.ended:
                return self.buffer[self.place : self.place + 1], margin
            self._more(records.BLOCK)

    def _item(self) -> tuple[int, str]:
        """Where the item that begins here ends in the buffer, or what is wrong with it."""
        size = records.BLOCK
        while True:
            try:
                _, end = _DECODER.raw_decode(self.buffer, self.place)
            except RecursionError:
                return 0, TOO_DEEP
            except ValueError as error:
                if self.ended or self._is_certain(error):
                    return 0, f"not JSON: {why(error)}"
                if len(self.buffer) > records.LONGEST:
                    raise SourceError(f"an item {TOO_LONG}", where=f"{self.name}:{self.line}") from error
            else:
                if end < len(self.buffer) or self.ended:  # a number at the buffer's end may go on
                    return end, ""
            self._more(size)
            size *= 2  # an item of any length is tried again a logarithmic number of times

    def _is_certain(self, error: ValueError) -> bool:
        """Whether an error would be there whatever follows: not one where a text or a word has been cut off."""
        place = getattr(error, "pos", len(self.buffer))
        return not str(error).startswith("Unterminated") and place < len(self.buffer) - LONGEST_WORD

    def _rest(self, problem: str, *, margin: str | None) -> tuple[int, str, str]:
        """What is passed over for a problem: all up to the next item with this margin, or to the end."""
        line, size = self.line, records.BLOCK
        next_item = re.compile(rf"\n{re.escape(margin)}(?=\{{)") if margin is not None else None
        while True:
            match = next_item.search(self.buffer, self.place + 1) if next_item else None
            if match or self.ended:
                text = self._taken(match.end() if match else len(self.buffer)).rstrip()
                return line, text.removesuffix(",").rstrip() if match else text, problem
            if len(self.buffer) - self.place > records.LONGEST:
                what = f"{problem}; what follows is too long to be set aside ({TOO_LONG})"
                raise SourceError(what, where=f"{self.name}:{line}", do=ARRAY_ADVICE)
            self._more(size)
            size *= 2

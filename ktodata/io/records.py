"""Records as they come out of open files, one at a time, each with its place; and JSON, an object a line.

Reading is lazy in two ways. A file is never held whole, and a line of JSON is not parsed until somebody asks for
its values: `unpair --workers N` hands unparsed lines to its workers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import IO, Any, NamedTuple

from ktodata.encoded import DEEPEST, TOO_DEEP, is_too_deep, problem_of
from ktodata.errors import RowError, SourceError

BOM = b"\xef\xbb\xbf"
BLOCK = 2**20  # bytes per read of a file, characters per read of a JSON array
LONGEST = 256 * 2**20  # bytes of a line, or characters of an item or a cell: more is no text of a row
_COLONS = re.compile(rb'"\s*:')
_TEXT = frozenset({str})
_BARE_COLONS = re.compile(rb'(?<!\\)(?:\\\\)*"\s*:')


UNREADABLE = "unreadable"
_FLAGS = {"1": True, "1.0": True, "0": False, "0.0": False}


class Verbatim(str):
    """JSON that is to be written as it stands here: 1.10 is not 1.1 to who looks for it."""


class Raw(NamedTuple):
    """One record as it came: the unparsed JSON of a line or an array's item, or the values of a columnar file.

    `where` is the file and line or row; `source` the provenance that rows made of it get; `problem` is set where
    the reader already knows that the record cannot be read, `advice` where it knows what to do. `flags` are columns
    of which it is told elsewhere that they are true or false: 1 and 0 in them are that.
    """

    data: bytes | object
    where: str
    source: str
    problem: str = ""
    advice: str = ""
    flags: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """The record as a dict.

        Raises:
            RowError: it is not UTF-8, not JSON, or not an object.
        """
        if self.problem:
            raise RowError(self.problem, where=self.where, do=self.advice)
        value = parse_json(self.data, self.where) if isinstance(self.data, bytes) else self.data
        if not isinstance(value, dict):
            raise RowError(f"a JSON {_json_name(value)}, not an object with columns", where=self.where)
        if self.flags:
            value = value | {name: _FLAGS[str(value[name])] for name in self.flags if str(value.get(name)) in _FLAGS}
        return value

    def shown(self) -> object:
        """The record for the quarantine file, as it stands there: its JSON if it is some, else its text."""
        import orjson

        if not isinstance(self.data, bytes):
            return self.data
        try:
            if not self.problem:
                orjson.loads(self.data)  # it takes nothing but JSON: no NaN, no number beyond what a float can hold
                parse_json(self.data, self.where)
                return Verbatim(self.data.decode("utf-8"))
        except (orjson.JSONDecodeError, RowError):
            pass
        return self.data.decode("utf-8", errors="backslashreplace")  # no byte of it is lost

    def refused(self, detail: str, *, reason: str = UNREADABLE) -> dict[str, Any]:
        """What the quarantine file says of it, as arguments of `ktodata.io.Quarantine.add`."""
        return {"reason": reason, "where": self.where, "detail": detail, "record": self.shown()}


def parse_json(line: bytes, where: str) -> object:
    """What some JSON stands for, whatever it is.

    Raises:
        RowError: it is none, or cannot be read for certain: a key twice, half of a surrogate pair, nested too deeply.
    """
    import orjson

    try:
        value = orjson.loads(line)
        keys, parts = _counted(value)
        if parts > DEEPEST and is_too_deep(value):
            raise RowError(TOO_DEEP, where=where)
        # It takes the last of several values of one key, and says nothing. Whether one is lost is asked where there are
        # more quotes with a colon than keys; those in texts are escaped, but for one that begins with a colon.
        if len(_COLONS.findall(line)) > keys and len(_BARE_COLONS.findall(line)) > keys:
            return _parse_slowly(line, where)
        return value
    except orjson.JSONDecodeError:
        # What it takes is UTF-8 and has no half of a surrogate pair. The rest may still be read (NaN); if not, what is
        # wrong is told better.
        return _parse_slowly(line, where)


def _counted(value: object) -> tuple[int, int]:
    """How many keys a value has in all its objects together, and how many objects and arrays."""
    if isinstance(value, dict) and _TEXT.issuperset(map(type, value.values())):  # as most are
        return len(value), 1
    count, found = 0, [value]
    for one in found:  # which grows meanwhile
        if isinstance(one, dict):
            count += len(one)
            found += [inner for inner in one.values() if isinstance(inner, dict | list)]
        elif isinstance(one, list):
            found += [inner for inner in one if isinstance(inner, dict | list)]
    return count, len(found)


def _parse_slowly(line: bytes, where: str) -> object:
    try:
        text = line.decode("utf-8")
        value = json.loads(text, object_pairs_hook=partial(_object, where=where))
    except UnicodeDecodeError as error:
        raise RowError(f"byte {error.start + 1} of the record is not UTF-8", where=where, do=UTF8_ADVICE) from error
    except RecursionError as error:
        raise RowError(TOO_DEEP, where=where) from error
    except ValueError as error:
        place = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise RowError(f"not JSON: {why(error)}{place}", where=where) from error
    if problem := problem_of(value, text):
        raise RowError(problem, where=where)
    return value


def _object(pairs: list[tuple[str, Any]], *, where: str) -> dict[str, Any]:
    """An object of JSON, whose names have to differ: of two labels, either may be the wrong one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        told = f"the key {doubled_key(pairs)!r} is there more than once"
        raise RowError(told, where=where, do="Leave one of its values")
    return found


def doubled_key(pairs: list[tuple[str, Any]]) -> str:
    """The name that is there most often in an object of JSON."""
    return Counter(name for name, _ in pairs).most_common(1)[0][0]


def why(error: ValueError) -> str:
    """What is wrong with some JSON. A number of thousands of digits is Python's limit, and not ours to lift."""
    if "int_max_str_digits" in str(error):
        return "a number of too many digits"
    return str(getattr(error, "msg", error)).removesuffix(" at")  # a place follows, or does not


TOO_LONG = f"longer than {LONGEST // 2**20} MiB: not a file of this format?"
UTF8_ADVICE = "Convert the file to UTF-8 first"
COMMA_ADVICE = "The separator of a csv file must be a comma"
ARRAY_ADVICE = "Mend it there, or write an object a line (.jsonl): then a bad line is told from others"
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

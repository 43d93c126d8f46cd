"""WhatsApp's text export, in the forms of many countries: a line a message, `12.03.24, 18:05 - Anna: text`.

Its times are those of a clock on the wall, which goes back in autumn: the order of the messages is the file's.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ktodata.chats.placeholders import MARK, words_of
from ktodata.errors import SourceError
from ktodata.io import Raw

# Marks of writing direction, and spaces that do not break, in dates and authors. Of texts they are part.
_DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
_MARKS = {**dict.fromkeys(map(ord, _DIRECTIONS)), 0x202F: " ", 0xA0: " "}
_DATE = r"\[?(?P<date>\d{1,4}([./-]) ?\d{1,2}\2 ?\d{1,4})\.?,? "
_HALF = "(?:(?P<early>上午|凌晨|早上|清晨|午前|오전)|(?P<late>下午|中午|晚上|傍晚|午後|오후))"
_START = re.compile(
    rf"{_DATE}(?:(?:at|kl\.?|klo|à|às|a las|alle|om|um) )?(?:{_HALF}\s?)?"
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2}))?(?:\s?(?P<half>[aApP])\.?\s?[mM]\.?)?"
    r"(?:\]| -) "
)
LONGEST_HEAD = 120  # characters of a date and time, marks included
_SAID = re.compile(r"(?P<author>[^:\n]{1,60}):[ \u00a0\u202f](?P<text>.*)", re.DOTALL)
# The name of a group, as WhatsApp quotes it: Bob changed the subject to "Trip: Berlin".
_QUOTED = re.compile(r""""[^"]*"|[“„][^“”„]*[“”]|«[^»]*»|‘[^’]*’|「[^」]*」|『[^』]*』|(?<!\w)'[^']*'(?!\w)""")
# What would begin a message if its date were known: digits, a time, a bracket or dash, an author.
_LIKE_A_START = re.compile(r"\[?\d.{1,50}\d\D{1,2}\d\d.{0,20}?(?:\]| -) .{1,60}: .*")
KNOWN_DATES = "12.03.24, 18:05 - or 3/12/24, 6:05 PM - or [2024-03-12, 18:05:00]"
ORDERS = ((2, 1, 0), (2, 0, 1), (0, 1, 2))  # where year, month and day are


class _Entry(NamedTuple):
    line: int
    numbers: tuple[int, int, int]
    clock: tuple[int, int, int]
    rest: str  # as it stands there


def open_export(path: Path, source: str) -> Callable[[], Iterator[Raw]] | None:
    """What gives the messages of an export from the first on, or None if the file is no text file. They are held, since
    what its dates mean is told by all of them.

    Raises:
        SourceError: it cannot be read, or holds no message in a form that is known.
    """
    if path.suffix.lower() != ".txt" or not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            entries = list(_entries(lines))
            lines.seek(0)
            unlike = next((at for at, line in enumerate(lines, 1) if _is_like_a_start(line)), 0) if not entries else 0
    except UnicodeDecodeError as error:
        raise SourceError(
            f"not UTF-8: {error.reason}", where=str(path), do="Convert the file to UTF-8 first"
        ) from error
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    if unlike:
        raise SourceError(
            "the dates of its messages are in a form that is not known",
            where=f"{path}:{unlike}",
            do=f"Known are {KNOWN_DATES} and such, in any order: export the chat from a phone that is set so",
        )
    if not entries:
        raise SourceError(
            "no message in it that WhatsApp would have exported",
            where=str(path),
            do="A .txt file has to be one of its exports: 12.03.24, 18:05 - Anna: text",
        )
    return partial(_messages, entries, _times(entries, str(path)), str(path), source)


def _entries(lines: Iterable[str]) -> Iterator[_Entry]:
    """The messages; a line that begins with no date goes on with the one before."""
    waiting: _Entry | None = None
    for number, whole in enumerate(lines, 1):
        line = whole.removesuffix("\n").removesuffix("\r")
        head = line[:LONGEST_HEAD]
        match = _START.match(head.translate(_MARKS))
        if match is None:
            if waiting:
                waiting = waiting._replace(rest=f"{waiting.rest}\n{line}")
            continue
        kept = [place for place, sign in enumerate(head) if sign not in _DIRECTIONS]
        rest = line[kept[match.end() - 1] + 1 :]
        if waiting:
            yield waiting
        one, two, three = (int(part) for part in re.split(r"[./-]", match["date"]))
        hour = int(match["hour"])
        if match["half"] or match["early"] or match["late"]:
            hour = hour % 12 + (12 if match["late"] or (match["half"] or "") in ("p", "P") else 0)
        clock = hour, int(match["minute"]), int(match["second"] or 0)
        waiting = _Entry(number, (one, two, three), clock, rest)
    if waiting:
        yield waiting


def _messages(entries: list[_Entry], times: list[float], name: str, source: str) -> Iterator[Raw]:
    for entry, time in zip(entries, times, strict=True):
        author, text = _said(entry.rest)
        record = {"author": author, "time": time, "text": words_of(text) if author else text}
        yield Raw(record, f"{name}:{entry.line}", source)


def _said(rest: str) -> tuple[str | None, str]:
    """Author and text. WhatsApp itself has no author: it speaks after a mark, or where the colon that would end the
    author stands in a name that is quoted."""
    match = _SAID.fullmatch(rest)
    if match is None or rest.startswith(MARK):
        return None, rest
    colon = match.end("author")
    for quoted in _QUOTED.finditer(rest.partition("\n")[0]):
        if quoted.start() > colon:
            break
        if quoted.end() > colon:
            return None, rest
    return match["author"].translate(_MARKS), match["text"]


def _is_like_a_start(line: str) -> bool:
    return _LIKE_A_START.match(line[: 2 * LONGEST_HEAD].translate(_MARKS)) is not None


def _times(entries: list[_Entry], name: str) -> list[float]:
    """Seconds. Whether days or months come first is told by which of the two keeps the messages in order."""
    found: list[tuple[int, list[float]]] = []
    for order in ORDERS:
        try:
            times = [_seconds(entry, order) for entry in entries]
        except ValueError:
            continue
        found.append((sum(later < earlier for earlier, later in itertools.pairwise(times)), times))
    if not found:
        raise SourceError(
            "dates that are none, whichever of day, month and year comes first",
            where=f"{name}:{_impossible(entries).line}",
            do="Mend the date there, or export the chat again",
        )
    return min(found, key=lambda item: item[0])[1]


def _impossible(entries: list[_Entry]) -> _Entry:
    """The message whose date is none in any order; the first one, where it is only together that they fit none."""
    for entry in entries:
        for order in ORDERS:
            with contextlib.suppress(ValueError):
                _seconds(entry, order)
                break
        else:
            return entry
    return entries[0]


def _seconds(entry: _Entry, order: tuple[int, int, int]) -> float:
    year, month, day = (entry.numbers[place] for place in order)
    moment = datetime.datetime(year + 2000 if year < 100 else year, month, day, *entry.clock, tzinfo=datetime.UTC)
    return moment.timestamp()

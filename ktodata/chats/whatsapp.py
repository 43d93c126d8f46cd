"""WhatsApp's text export, in the forms of many countries: a line a message, `12.03.24, 18:05 - Anna: text`.

Its times are those of a clock on the wall, which goes back in autumn: the order of the messages is the file's.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ktodata.chats import tables
from ktodata.chats.placeholders import MARK, phrases_of, words_of
from ktodata.errors import SourceError
from ktodata.io import Raw
from ktodata.io.paths import shown_path
from ktodata.io.records import UTF8_ADVICE
from ktodata.sources.contract import Piece, Record, Skip

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
LATEST = 30 * 86400.0  # seconds: so long a message waits for a phone that is off
LONGEST_HEAD = 120  # characters of a date and time, marks included
_SAID = re.compile(r"(?P<author>[^:\n]{1,60}):[ \u00a0\u202f](?P<text>.*)", re.DOTALL)
# The name of a group, as WhatsApp quotes it: Bob changed the subject to "Trip: Berlin".
_QUOTED = re.compile(r""""[^"]*"|[“„][^“”„]*[“”]|«[^»]*»|‘[^’]*’|「[^」]*」|『[^』]*』|(?<!\w)'[^']*'(?!\w)""")
# What would begin a message if its date were known: digits, a time, a bracket or dash, an author.
_LIKE_A_START = re.compile(r"\[?\d.{1,50}\d\D{1,2}\d\d.{0,20}?(?:\]| -) .{1,60}: .*")
KNOWN_DATES = "12.03.24, 18:05 - or 3/12/24, 6:05 PM - or [2024-03-12, 18:05:00]"
PARTS = ("year", "month", "day")
ORDERS = ((2, 1, 0), (2, 0, 1), (0, 1, 2))  # where these are
FIELDS = tables.Fields("author", "time", "text")
# A byte that is not UTF-8, as Python's surrogateescape has it.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


class _Date(NamedTuple):
    numbers: tuple[int, int, int]
    clock: tuple[int, int, int]
    end: int  # where what was said begins in the text


class _Entry(NamedTuple):
    """A message; or a line before the first of them, which has no date."""

    line: int
    text: str  # all of it, as it stands there
    date: _Date | None


def open_export(path: Path, source: str) -> Callable[[], Iterator[Raw]] | None:
    """What gives the messages of an export from the first on, or None if the file is no text file. They are held, since
    what its dates mean is told by all of them. Those that cannot be read are given as such.

    Raises:
        SourceError: it cannot be read, or holds no message in a form that is known.
    """
    if path.suffix.lower() != ".txt" or not path.is_file():
        return None
    name = shown_path(path)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            entries = list(_entries(lines))
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}", where=name) from error
    if not any(entry.date for entry in entries):
        raise _no_messages(entries, name)
    said = (_said(entry.text[entry.date.end :]) for entry in entries if entry.date)
    phrases = phrases_of((author, text) for author, text in said if author)
    return partial(_messages, entries, _order_of(entries), phrases, name, source)


def _no_messages(entries: list[_Entry], name: str) -> SourceError:
    """What is wrong with a file without messages."""
    if broken := next((entry for entry in entries if _NOT_UTF8.search(entry.text)), None):
        return SourceError("not UTF-8", where=f"{name}:{broken.line}", do=UTF8_ADVICE)
    if unlike := next((entry for entry in entries if _is_like_a_start(entry.text)), None):
        return SourceError(
            "the dates of its messages are in a form that is not known",
            where=f"{name}:{unlike.line}",
            do=f"Known are {KNOWN_DATES} and such, in any order: export the chat from a phone that is set so",
        )
    return SourceError(
        "no message in it that WhatsApp would have exported",
        where=name,
        do="A .txt file has to be one of its exports: 12.03.24, 18:05 - Anna: text",
    )


def _entries(lines: Iterable[str]) -> Iterator[_Entry]:
    """The messages; a line that begins with no date goes on with the one before."""
    waiting: list[str] = []
    begun, date = 0, None
    for number, whole in enumerate(lines, 1):
        line = whole.removesuffix("\n").removesuffix("\r")
        found = _date(line)
        if found or not date:
            if waiting:
                yield _Entry(begun, "\n".join(waiting), date)
            waiting, begun, date = [], number, found
        waiting.append(line)
    if waiting:
        yield _Entry(begun, "\n".join(waiting), date)


def _date(line: str) -> _Date | None:
    """The date that a message's first line begins with."""
    head = line[:LONGEST_HEAD]
    match = _START.match(head.translate(_MARKS))
    if match is None:
        return None
    kept = [place for place, sign in enumerate(head) if sign not in _DIRECTIONS]
    one, two, three = (int(part) for part in re.split(r"[./-]", match["date"]))
    hour = int(match["hour"])
    if hour < 24 and (match["half"] or match["early"] or match["late"]):
        hour = hour % 12 + (12 if match["late"] or (match["half"] or "") in ("p", "P") else 0)
    clock = hour, int(match["minute"]), int(match["second"] or 0)
    return _Date((one, two, three), clock, kept[match.end() - 1] + 1)


def _messages(
    entries: list[_Entry], order: tuple[int, int, int], phrases: frozenset[str], name: str, source: str
) -> Iterator[Raw]:
    for entry in entries:
        where = f"{name}:{entry.line}"
        if broken := _NOT_UTF8.search(entry.text):
            line = entry.line + entry.text.count("\n", 0, broken.start())
            data = entry.text.encode("utf-8", "surrogateescape")
            yield Raw(data, f"{name}:{line}", source, "not UTF-8", UTF8_ADVICE)
        elif entry.date is None:
            if entry.text.strip():
                yield Raw({"author": None, "time": None, "text": entry.text}, where, source)
        elif (time := _seconds(entry.date, order)) is None:
            yield Raw(entry.text.encode(), where, source, _wrong_date(entry.date, order))
        else:
            author, text = _said(entry.text[entry.date.end :])
            yield Raw(
                {"author": author, "time": time, "text": words_of(text, phrases) if author else text}, where, source
            )


def read(record: Record, where: str, *, after_gap: frozenset[str] = frozenset()) -> Iterator[Piece | Skip]:
    """A message; one of WhatsApp's own is nobody's turn. `after_gap` has the places of messages before which one could
    not be read."""
    if record["author"]:
        yield from tables.read(FIELDS, record, where, after_gap=after_gap)
    else:
        yield Skip("no date" if record["time"] is None else "service message")


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


def _order_of(entries: list[_Entry]) -> tuple[int, int, int]:
    """Whether days or months come first, and where the year is: as fewest messages have a date that is none, or one
    long before that of the message before. A slip in one date is not to turn all the others round, so that one date
    which is none weighs no more than one step far back. A message that was only late, as many are, decides where
    nothing else does."""
    dates = [entry.date for entry in entries if entry.date]

    def misfits(order: tuple[int, int, int]) -> tuple[int, int]:
        times = [time for date in dates if (time := _seconds(date, order)) is not None]
        back = [earlier - later for earlier, later in itertools.pairwise(times) if later < earlier]
        late = sum(step <= LATEST for step in back)
        return len(dates) - len(times) + len(back) - late, late

    return min(ORDERS, key=misfits)


def _wrong_date(date: _Date, order: tuple[int, int, int]) -> str:
    """What is wrong with a date that is none in the order of its file."""
    if any(_seconds(date, other) is not None for other in ORDERS):
        first, second, third = (PARTS[order.index(place)] for place in range(3))
        return f"a date that is none in the order of the others: {first}, {second}, {third}"
    return "a date or time that is none, whichever of day, month and year comes first"


def _seconds(date: _Date, order: tuple[int, int, int]) -> float | None:
    """A time in seconds; None if there is no such date or time."""
    year, month, day = (date.numbers[place] for place in order)
    try:
        moment = datetime.datetime(year + 2000 if year < 100 else year, month, day, *date.clock, tzinfo=datetime.UTC)
    except ValueError:
        return None
    return moment.timestamp()

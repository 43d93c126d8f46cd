"""WhatsApp's text export, in the forms of many countries: a line a message, `12.03.24, 18:05 - Anna: text`."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ktodata.errors import SourceError
from ktodata.io import Raw

# Marks of writing direction, and spaces that do not break.
_MARKS = {**dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202c\ufeff")), 0x202F: " ", 0xA0: " "}
_DATE = r"\[?(?P<date>\d{1,4}([./-]) ?\d{1,2}\2 ?\d{1,4})\.?,? "
_HALF = "(?:(?P<early>上午|凌晨|早上|清晨|午前|오전)|(?P<late>下午|中午|晚上|傍晚|午後|오후))"
_START = re.compile(
    rf"{_DATE}(?:(?:at|kl\.?|klo|à|às|a las|alle|om|um) )?(?:{_HALF}\s?)?"
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2}))?(?:\s?(?P<half>[aApP])\.?\s?[mM]\.?)?"
    r"(?:\]| -) (?P<rest>.*)",
    re.DOTALL,
)
_SAID = re.compile(r"(?P<author>[^:\n]{1,60}): (?P<text>.*)", re.DOTALL)
_NO_WORDS = re.compile(
    r"<[^<>]*>|\S+ omitted|.*\(file attached\)|(This message was|You) deleted( this message)?\.?|null"
)


ORDERS = ((2, 1, 0), (2, 0, 1), (0, 1, 2))  # where year, month and day are


class _Entry(NamedTuple):
    line: int
    numbers: tuple[int, int, int]
    clock: tuple[int, int, int]
    rest: str


def open_export(path: Path, source: str) -> Callable[[], Iterator[Raw]] | None:
    """What gives the messages of an export from the first on, or None if the file is no text file. They are held, since
    what its dates mean is told by all of them.

    Raises:
        SourceError: it cannot be read, or holds no message in a form that is known.
    """
    if path.suffix.lower() != ".txt" or not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8-sig") as lines:
            entries = list(_entries(line.removesuffix("\n").translate(_MARKS) for line in lines))
    except UnicodeDecodeError as error:
        raise SourceError(
            f"not UTF-8: {error.reason}", where=str(path), do="Convert the file to UTF-8 first"
        ) from error
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
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
    for number, line in enumerate(lines, 1):
        match = _START.fullmatch(line.rstrip("\r"))
        if match is None:
            if waiting:
                waiting = waiting._replace(rest=f"{waiting.rest}\n{line}")
            continue
        if waiting:
            yield waiting
        one, two, three = (int(part) for part in re.split(r"[./-]", match["date"]))
        hour = int(match["hour"])
        if match["half"] or match["early"] or match["late"]:
            hour = hour % 12 + (12 if match["late"] or (match["half"] or "") in ("p", "P") else 0)
        clock = hour, int(match["minute"]), int(match["second"] or 0)
        waiting = _Entry(number, (one, two, three), clock, match["rest"])
    if waiting:
        yield waiting


def _messages(entries: list[_Entry], times: list[float], name: str, source: str) -> Iterator[Raw]:
    for entry, time in zip(entries, times, strict=True):
        match = _SAID.fullmatch(entry.rest.rstrip("\n"))
        author, text = (match["author"], match["text"]) if match else (None, entry.rest)
        if author and _NO_WORDS.fullmatch(text.strip()):
            text = ""
        yield Raw({"author": author, "time": time, "text": text}, f"{name}:{entry.line}", source)


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

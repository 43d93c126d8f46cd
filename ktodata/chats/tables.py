"""Chats in any file that has a message a record: author, time, text, and the chat, if there are several."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from ktodata.chats.voice import Said
from ktodata.errors import RowError, UsageError, listed, nearest
from ktodata.expressions.values import value_of
from ktodata.schema import named
from ktodata.sources.contract import Piece, Record, column

# No date in seconds is as large before the year 5138, none in a thousandth of them smaller after 1973, and so on.
FINER = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
# 20240312 is a date, as seconds since 1970 it would be in that year; 202403121805 as milliseconds in 1976, and
# 20240312180500 in 2611.
WRITTEN = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # by the number of digits
YEARS = ("1990", "2099")
TIME_ADVICE = "Write 2024-03-12T18:05:00, or seconds since 1970"


class Fields(NamedTuple):
    """How the columns are called; "" means by one of the names below, and no `chat` that a file is one chat."""

    author: str = ""
    time: str = ""
    text: str = ""
    chat: str = ""


NAMES = {  # first come, first served
    "author": ("author", "from", "sender", "speaker", "user", "username", "name"),
    "time": ("time", "date", "timestamp", "datetime", "created_at", "sent_at"),
    "text": ("text", "message", "content", "body"),
    "chat": ("chat", "chat_id", "conversation", "conversation_id", "thread", "thread_id", "channel", "room"),
}


def choose(fields: Fields, columns: Iterable[str]) -> Fields:
    """The fields with all names filled in.

    Raises:
        UsageError: a column that was named is not there, or none is there that could be the author, the time or text.
    """
    there = list(columns)
    chosen = {}
    for field, given in fields._asdict().items():
        if given and given not in there:
            raise UsageError(f"--{field}: no column {given!r}", do=nearest(given, there))
        found = given or next((name for name in NAMES[field] if name in there), "")
        if not found and field != "chat":
            raise UsageError(
                f"no column that could be the {field} of a message (columns: {listed(there)})",
                do=f"Name it with --{field}",
            )
        chosen[field] = found
    return Fields(**chosen)


def read(fields: Fields, record: Record, where: str, *, after_gap: frozenset[str] = frozenset()) -> Iterator[Piece]:
    """A message; one without words goes along, as it stands between others.

    `after_gap` has the places of messages before which one could not be read.

    Raises:
        RowError: an author or text that is no string, a time that is none, or no chat where messages have one.
    """
    author, text = (column(record, name, where) for name in (fields.author, fields.text))
    for name, value in ((fields.author, author), (fields.text, text)):
        if value is not None and not isinstance(value, str):
            raise RowError(f"{name} is {named(value)}, not a string", where=where)
    reason = "no author" if not author else "no text" if not text or not text.strip() else ""
    time = moment_of(
        record.get(fields.time) if reason else column(record, fields.time, where), fields.time, where, reason
    )
    said = Said(author or "", "", time, "" if reason else text, reason, where in after_gap)
    yield Piece(chat_of(fields, record, where), said)


def chat_of(fields: Fields, record: Record, where: str) -> str:
    """The chat of a message: text or a number, or its file where no column tells.

    Raises:
        RowError: the column tells none. Messages of unknown chats are not to meet in one.
    """
    if not (name := fields.chat):
        return where.rpartition(":")[0]
    value = value_of(record.get(name))
    if isinstance(value, str | int | float | Decimal) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    told = "is missing" if name not in record else "is empty" if value in (None, "") else f"is {named(value)}"
    raise RowError(
        f"{name} {told}, so it is not known which chat the message is in",
        where=where,
        do="Mend it, or name a --quarantine FILE for such records; or name another column with --chat",
    )


def moment_of(value: object, name: str, where: str, reason: str) -> float:
    """`seconds`; of a message that says nothing, for this reason, a time that is none is NaN."""
    try:
        return seconds(value, name, where)
    except RowError:
        if not reason:
            raise
        return math.nan


def seconds(value: object, name: str, where: str) -> float:
    """A time in seconds: a number of seconds since 1970, or of milli-, micro- or nanoseconds, a date of eight digits
    with or without a time of four or six, text in ISO's form, or a date.

    Raises:
        RowError: it is none of these, or its digits are those of a date or time that is none.
    """
    moment: Any = _moment(value) if isinstance(value, str) else value_of(value)
    number = _finite(moment)
    try:
        moment = moment if number is None else _written(number) or moment
    except ValueError:
        told = f"{name} is {named(value)}, which reads as a date, but there is no such date or time"
        raise RowError(told, where=where, do=TIME_ADVICE) from None
    if isinstance(moment, datetime.date) and not isinstance(moment, datetime.datetime):
        moment = datetime.datetime.combine(moment, datetime.time())
    if isinstance(moment, datetime.datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    if number is not None:
        return number / next((parts for least, parts in FINER if abs(number) > least), 1.0)
    raise RowError(f"{name} is {named(value)}, not a time", where=where, do=TIME_ADVICE)


def _finite(value: object) -> float | None:
    """A number as a float, None if it is none, or no finite one."""
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
        return None
    with contextlib.suppress(OverflowError, ValueError):  # whole numbers beyond all floats, and Decimal's sNaN
        return float(value) if math.isfinite(value) else None
    return None


def _written(number: float) -> datetime.datetime | None:
    """The date, or date and time, that a number's digits are: 20240312, 202403121805, 20240312180500.

    Raises:
        ValueError: they look so, but there is no such date or time. As seconds they would be in 1970, unnoticed.
    """
    digits = str(int(number))
    if number % 1 or len(digits) not in WRITTEN or not YEARS[0] <= digits[:4] <= YEARS[1]:
        return None
    return datetime.datetime.strptime(digits, WRITTEN[len(digits)])


def _moment(text: str) -> float | datetime.datetime | None:
    for read in (float, datetime.datetime.fromisoformat):
        with contextlib.suppress(ValueError):
            return read(text.strip())
    return None

"""What the operations of an expression do with values, and which they refuse; see `ktodata.expressions.language`."""

from __future__ import annotations

import ast
import contextlib
import datetime
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

from ktodata.schema import named

Value: TypeAlias = Any


class MismatchError(Exception):
    """Values that an operation cannot be done on; its text says which."""


_PLAIN = frozenset({str, int, bool, dict, list, type(None)})


def value_of(value: object) -> Value:
    """A column's value, NumPy's as Python's. NaN and the like (NaT), as pandas writes nulls, are null."""
    if type(value) in _PLAIN:
        return value
    if type(value).__module__ == "numpy":
        value = _from_numpy(value)
    if isinstance(value, float | Decimal | datetime.date | datetime.timedelta) and value != value:
        return None
    return value


def _from_numpy(value: Any) -> object:
    """NumPy's scalars and arrays as Python's values. A date of nanoseconds would be a bare number: microseconds do."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in ("M", "m"):
        value = value.astype(f"{'datetime64' if kind == 'M' else 'timedelta64'}[us]")
    return value.tolist() if kind else value


def _truth(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.strip().lower())


def condition(value: Value, text: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if not value.strip():
            return None
        if (truth := _truth(value)) is not None:
            return truth
    raise MismatchError(f"{text} is {named(value)}, not true or false")


_NUMBERS = (int, float, Decimal)
_PERIOD = re.compile(r"\d{4}(?:-\d\d)?")  # a year, or a month of it


def _as_number(value: object) -> int | float | None:
    """A number, or text that reads as one; None for anything else. A decimal is a float, unless it is whole."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if not isinstance(value, str):
        return value
    with contextlib.suppress(ValueError):
        return int(value)  # exact, however many digits it has
    with contextlib.suppress(ValueError):
        return found if math.isfinite(found := float(value)) else None
    return None


def number(value: Value, text: str) -> int | float | None:
    if value is None or value == "":
        return None
    found = _as_number(value)
    if found is None:
        raise MismatchError(f"{text} is {named(value)}, not a number")
    return found


def _comparable(one: Value, other: Value, texts: tuple[str, str]) -> tuple[Any, Any]:
    """The two values as something Python compares as it should."""
    if isinstance(one, bool) and isinstance(other, bool):
        return one, other
    if isinstance(one, str) and isinstance(other, str):
        return one, other
    if isinstance(one, list) and isinstance(other, list):
        return one, other
    pair = []
    for value, beside in ((one, other), (other, one)):
        found: Any = value
        if isinstance(value, str) and isinstance(beside, bool):
            found = _truth(value)
        elif isinstance(value, str | Decimal) and isinstance(beside, _NUMBERS):
            # Decimals are exact beside each other and whole numbers; 0.1 is the float it is written as beside a float.
            found = value if isinstance(value, Decimal) and not isinstance(beside, float) else _as_number(value)
        elif isinstance(value, Decimal) and isinstance(beside, str):
            found = _as_number(value)
        elif isinstance(value, datetime.date) or (isinstance(value, str) and isinstance(beside, datetime.date)):
            found = _moment(value, beside)
        pair.append(found)
    left, right = pair
    numbers = all(isinstance(value, _NUMBERS) and not isinstance(value, bool) for value in pair)
    # pandas' times of nanoseconds are of a type of their own, which compares with Python's.
    times = any(all(isinstance(value, kind) for value in pair) for kind in (datetime.datetime, datetime.timedelta))
    if None not in pair and (numbers or times or type(left) is type(right)):
        return left, right
    raise _no_comparison(one, other, texts)


def _in_order(one: str, other: str, texts: tuple[str, str]) -> tuple[Any, Any]:
    """Two texts by which comes first: as numbers or times where both read as such, as csv files know text only.

    Where one alone does, letters would decide about a number ('n/a' is after '9', and '10' before it); unless the other
    one is written in the expression, which asks for letters then.
    """
    numbers, times = [_as_number(text) for text in (one, other)], [_time(text) for text in (one, other)]
    if None not in numbers:
        return numbers[0], numbers[1]
    if None not in times:
        return _moment(one, times[1]), _moment(other, times[0])
    if all(time is not None or _PERIOD.fullmatch(text) for time, text in zip(times, (one, other), strict=True)):
        return one, other  # 2024-03 and its days
    known = [number is not None or time is not None for number, time in zip(numbers, times, strict=True)]
    meant = any(
        text == repr(value) and not is_known for text, value, is_known in zip(texts, (one, other), known, strict=True)
    )
    if one and other and any(known) and not meant:
        raise _no_comparison(one, other, texts)
    return one, other


def _no_comparison(one: Value, other: Value, texts: tuple[str, str]) -> MismatchError:
    return MismatchError(f"{_told(texts[0], one)} cannot be compared with {_told(texts[1], other)}")


def _told(text: str, value: Value) -> str:
    """A value in an error: `turns (str 'many')`, or as it was written if it stands in the expression."""
    return named(value) if text in (repr(value), str(value)) else f"{text} ({named(value)})"


def _time(text: str) -> datetime.datetime | None:
    """Text in ISO's form as a time, without a zone where it says none."""
    try:
        return datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return None


def _moment(value: object, beside: object) -> datetime.datetime | None:
    """A date, a time, or text in ISO's form, as a time. Where it says no zone it is in UTC; text that says none is in
    the zone of the time beside it."""
    zone: datetime.tzinfo = datetime.UTC
    if isinstance(value, str):
        value = _time(value)
        zone = getattr(beside, "tzinfo", None) or zone
    if not isinstance(value, datetime.datetime) and isinstance(value, datetime.date):
        value = datetime.datetime.combine(value, datetime.time())
    if not isinstance(value, datetime.datetime):
        return None
    if value.tzinfo is not None:
        return value
    if hasattr(zone, "localize"):  # pytz's, which are wrong by minutes otherwise
        localized: datetime.datetime = zone.localize(value)
        return localized
    return value.replace(tzinfo=zone)


def blank_as_null(value: Value, *, items: bool = False) -> Value:
    """A value, or null if it is the empty text, as csv files have no null; with `items`, those of a list too."""
    if items and isinstance(value, list):
        return [blank_as_null(item) for item in value]
    return None if isinstance(value, str) and not value else value


def _unknown(value: Value, beside: Value) -> bool:
    """Whether there is nothing to compare: null, or empty text beside what is none."""
    return value is None or (value == "" and not isinstance(beside, str))


_Test: TypeAlias = Callable[[Value, Value, str, str], bool | None]
# Dates and times besides. Not truth, nor what holds other values: lists, objects, parquet's structs and maps.
_ORDERED = (*_NUMBERS, str, bytes, datetime.date, datetime.time, datetime.timedelta)


def _by(apply: Callable[[Any, Any], bool], *, order: bool) -> _Test:
    def test(one: Value, other: Value, first: str, second: str) -> bool | None:
        if _unknown(one, other) or _unknown(other, one):
            return None
        texts = order and isinstance(one, str) and isinstance(other, str)
        left, right = (_in_order if texts else _comparable)(one, other, (first, second))
        if order and (isinstance(left, bool) or not isinstance(left, _ORDERED)):
            raise MismatchError(f"{first} is {named(one)}, which has no order")
        try:
            return apply(left, right)
        except TypeError:  # times of day, with a zone and without
            raise _no_comparison(one, other, (first, second)) from None

    return test


def _within(one: Value, other: Value, first: str, second: str) -> bool | None:
    if one is None or other is None:
        return None
    if isinstance(other, str):
        if not isinstance(one, str):
            raise MismatchError(f"{first} is {named(one)}, not a text that {second} may hold")
        return one in other
    if not isinstance(other, list):
        raise MismatchError(f"{second} is {named(other)}, neither a list nor a text")
    for item in other:
        try:
            left, right = _comparable(one, value_of(item), (first, second)) if item is not None else (0, 1)
        except MismatchError:  # of another type: not equal
            continue
        if left == right:
            return True
    return None if None in other else False


def _not(test: _Test) -> _Test:
    def negated(one: Value, other: Value, first: str, second: str) -> bool | None:
        found = test(one, other, first, second)
        return None if found is None else not found

    return negated


def _is(one: Value, other: Value, first: str, second: str) -> bool | None:
    return (
        (one is None or one == "") if other is None else one is other or (isinstance(one, str) and _truth(one) is other)
    )


COMPARISONS: dict[type[ast.cmpop], _Test] = {
    ast.Eq: _by(lambda one, other: bool(one == other), order=False),
    ast.NotEq: _by(lambda one, other: bool(one != other), order=False),
    ast.Lt: _by(lambda one, other: bool(one < other), order=True),
    ast.LtE: _by(lambda one, other: bool(one <= other), order=True),
    ast.Gt: _by(lambda one, other: bool(one > other), order=True),
    ast.GtE: _by(lambda one, other: bool(one >= other), order=True),
    ast.In: _within,
    ast.NotIn: _not(_within),
    ast.Is: _is,
    ast.IsNot: _not(_is),
}
# No powers: 9 ** 9 ** 9 would never end.
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda one, other: one + other,
    ast.Sub: lambda one, other: one - other,
    ast.Mult: lambda one, other: one * other,
    ast.Div: lambda one, other: one / other,
    ast.FloorDiv: lambda one, other: one // other,
    ast.Mod: lambda one, other: one % other,
}


class Function(NamedTuple):
    """One function: how many values it takes, what it does with them (each followed by how it was written), and what
    it gives, in a few words."""

    arguments: int
    apply: Callable[..., Value]
    about: str
    blanks: bool = True  # whether the empty text is a text for it; else it is null, unless '' is written


def _text(value: Value, text: str) -> str:
    if not isinstance(value, str):
        raise MismatchError(f"{text} is {named(value)}, not text")
    return value


def _length(value: Value, text: str) -> int:
    if not isinstance(value, str | list):
        raise MismatchError(f"{text} is {named(value)}, neither text nor a list")
    return len(value)


def _magnitude(value: Value, text: str) -> int | float | None:
    found = number(value, text)
    return None if found is None else abs(found)


FUNCTIONS: dict[str, Function] = {
    "len": Function(1, _length, "characters of a text, or items of a list"),
    "words": Function(1, lambda x, at: len(_text(x, at).split()), "words of a text"),
    "lower": Function(1, lambda x, at: _text(x, at).lower(), "in small letters"),
    "upper": Function(1, lambda x, at: _text(x, at).upper(), "in capitals"),
    "strip": Function(1, lambda x, at: _text(x, at).strip(), "without white space around it"),
    "contains": Function(
        2, lambda x, at, y, by: _text(y, by) in _text(x, at), "whether a text holds another", blanks=False
    ),
    "startswith": Function(
        2, lambda x, at, y, by: _text(x, at).startswith(_text(y, by)), "whether it begins with it", blanks=False
    ),
    "endswith": Function(
        2, lambda x, at, y, by: _text(x, at).endswith(_text(y, by)), "whether it ends with it", blanks=False
    ),
    "number": Function(1, number, "text as a number"),
    "abs": Function(1, _magnitude, "a number without its sign"),
}

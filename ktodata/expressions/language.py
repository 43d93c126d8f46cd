"""A small, safe language for conditions on the columns of a record, such as `outcome == 'none' and turns > 3`.

It is written like Python and parsed by Python's own parser, but only what is listed here means anything: nothing of the
text is ever executed, no attribute of a Python object can be reached, and no function but those below be called.

    outcome                        a column; `` `user-rating` `` one whose name is no word; meta.rating a field in it
    'sale'  3  4.5  true  null     text, numbers, constants
    ==  !=  <  <=  >  >=           comparisons, also chained: 2 <= rating < 4
    in  not in                     one of a list: outcome in ('sale', 'lead'); part of a text: 'refund' in reply
    is null  is not null           whether there is a value; empty text is none
    and  or  not  ( )              conditions, combined
    +  -  *  /  //  %              arithmetic on numbers
    lower(x)  x.lower()            functions, written either way: see FUNCTIONS

As in SQL, what is null is unknown: a comparison with it is neither true nor false, `not` does not make it true, and a
condition holds only if it is true. Empty text is null too, since csv files have no null, but for functions that make
something of it (len, words, lower …), and unless '' is written beside it: outcome != ''. Numbers are compared with
numbers and text with text, except that text which reads as a number (or as true, false, or a date) counts as one beside
one, since csv files know text only. Dates without a zone are in UTC, and text without one in the zone of the date
beside it. Anything else is an error that names the row.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from ktodata.errors import RowError, UsageError, listed, nearest
from ktodata.expressions.values import (
    ARITHMETIC,
    COMPARISONS,
    FUNCTIONS,
    MismatchError,
    Value,
    blank_as_null,
    condition,
    number,
    value_of,
)
from ktodata.schema import named

_Evaluate: TypeAlias = Callable[[Mapping[str, Any]], Value]
LONGEST = 5000  # characters of an expression

_CONSTANTS = {"true": True, "false": False, "null": None}
_PIECES = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]*)`""", re.DOTALL)
_NAMES = re.compile(r"[^\W\d]\w*")
_COMMENT = re.compile(r"[^'\"`]*#")
# Names that only Python's parser knows as something else.
_KEYWORDS = sorted(set(keyword.kwlist) - {"and", "or", "not", "in", "is", "True", "False", "None"})
# What people write who think of another language, outside of text.
_SLIPS = (
    (re.compile(f"^{_COMMENT.pattern}"), "Leave it out; text with a # in it goes in quotes, a column in backticks"),
    (re.compile(r"(?<![=!<>])=(?![=])"), "Compare with =="),
    (re.compile(r"&|\bAND\b"), "Write `and`"),
    (re.compile(r"\||\bOR\b"), "Write `or`"),
    (re.compile(r"!(?!=)|~|\bNOT\b"), "Write `not`"),
    (re.compile(r"<>"), "Write !="),
    (re.compile(r"\.str\b"), "Leave .str out: reply.lower().contains('thanks')"),
    (re.compile(r"\bNULL\b|\bIS\b|\bIN\b|\b(LIKE|like)\b"), "Write `is null`, `in` and contains(column, 'text')"),
    (re.compile(r"['\"`]"), "A quotation mark is not closed"),
    (re.compile(rf"\b({'|'.join(_KEYWORDS)})\b"), "A column of such a name goes in backticks: `{}`"),
)


@dataclass(frozen=True)
class Expression:
    """A condition, checked when it is made. `name` is what errors call it, such as `--desirable`.

    Raises:
        UsageError: it is not of the language; the message says what is not, and what to write.
    """

    text: str
    name: str

    def __post_init__(self) -> None:
        try:
            _compiled(self.text)
        except MismatchError as error:
            raise UsageError(f"{self.name} {_short(self.text)!r}: {error}", do=_advice(self.text)) from None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it looks at, in order."""
        return _compiled(self.text).columns

    def check_columns(self, seen: Iterable[str]) -> None:
        """Raises UsageError if it looks at a column that is not among those seen; the nearest is named."""
        there = list(seen)
        for column in self.columns:
            if column not in there:
                do = nearest(column, there)
                if whole := [name for name in there if column in _words(name) and _is_written(name, self.text)]:
                    do = f"A column of such a name goes in backticks: `{whole[0]}`"
                elif not do.startswith("Did"):
                    do = f"Columns: {listed(there)}. Text goes in quotes: '{column}'"
                raise UsageError(f"{self.name} {_short(self.text)!r}: no column {column!r}", do=do)

    def holds(self, record: Mapping[str, Any], where: str) -> bool:
        """Whether it is true of a record, in which columns that are missing are null.

        Raises:
            RowError: a value of the wrong type.
        """
        try:
            return condition(_compiled(self.text).evaluate(record), self.text) is True
        except MismatchError as error:
            do = "Mend the condition"
            if self.columns:
                do += ", say with `is not null and`, or the record; or name a --quarantine FILE for such records"
            raise RowError(f"{self.name}: {error}", where=where, do=do) from None


def _words(name: str) -> list[str]:
    """The words of a column's name that is more than one (`user-rating`)."""
    words = re.split(r"\W+", name)
    return words if len(words) > 1 else []


def _is_written(name: str, text: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text) is not None


class _Compiled(NamedTuple):
    evaluate: _Evaluate
    columns: tuple[str, ...]


def _advice(text: str) -> str:
    bare = _PIECES.sub("x", text)
    found = ((pattern.search(bare), advice) for pattern, advice in _SLIPS)
    told = (advice.format(match[0]) for match, advice in found if match)
    return next(told, "`ktodata label --help` has examples")


@lru_cache(maxsize=64)
def _compiled(text: str) -> _Compiled:
    if not text.strip():
        raise MismatchError("it is empty")
    if len(text) > LONGEST:
        raise MismatchError(f"it is longer than {LONGEST} characters")
    if _COMMENT.match(_PIECES.sub("x", text)):
        raise MismatchError("a comment (#) is not part of the language")
    source, quoted = _for_the_parser(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parser, on escapes it does not know
            tree = ast.parse(source, mode="eval")
        compiler = _Compiler(quoted)
        return _Compiled(compiler.compile(tree.body), tuple(compiler.columns))
    except SyntaxError as error:
        untouched = not quoted and "\n" not in source
        raise MismatchError(
            f"not understood{f' at character {error.offset}' if error.offset and untouched else ''}"
        ) from None
    except (RecursionError, MemoryError, ValueError):
        raise MismatchError("too deeply nested, or a character that is none") from None


def _for_the_parser(text: str) -> tuple[str, dict[str, str]]:
    """An expression as Python's parser takes it, and the names in it that stand for others: those in backticks, and
    those that it would normalise (µ, nº), after which no column is called so."""
    quoted: dict[str, str] = {}

    def stand_in(name: str) -> str:
        quoted[made := f"column_{len(quoted)}_in_backticks"] = name
        return made

    def outside(part: str) -> str:
        def stable(match: re.Match[str]) -> str:
            return match[0] if unicodedata.normalize("NFKC", match[0]) == match[0] else stand_in(match[0])

        return _NAMES.sub(stable, re.sub(r"[\r\n]", " ", part))

    parts: list[str] = []
    end = 0
    for piece in _PIECES.finditer(text):
        parts.append(outside(text[end : piece.start()]))
        end = piece.end()
        if piece[1] is not None:
            parts.append(stand_in(piece[1]))
        else:  # a line feed is allowed in three quotes
            parts.append(f"{piece[0][0] * 2}{piece[0]}{piece[0][0] * 2}" if "\n" in piece[0] else piece[0])
    return "".join([*parts, outside(text[end:])]).strip(), quoted


class _Compiler:
    """From the parser's tree to a function of a record. What is not handled here is not in the language."""

    def __init__(self, quoted: Mapping[str, str]) -> None:
        self.quoted = quoted
        self.columns: dict[str, None] = {}

    def compile(self, node: ast.expr) -> _Evaluate:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                if isinstance(value, float) and not math.isfinite(value):
                    raise MismatchError("a number that is too large")
                return lambda record: value
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute(value=inner, attr=field) if not field.startswith("__"):
                return self._field(self.compile(inner), self.quoted.get(field, field), self._shown(inner))
            case ast.Subscript(value=inner, slice=ast.Constant(value=str() as field)):
                return self._field(self.compile(inner), field, self._shown(inner))
            case ast.List(elts=items) | ast.Tuple(elts=items):
                parts = [self.compile(item) for item in items]
                return lambda record: [part(record) for part in parts]
            case ast.BoolOp(op=op, values=values):
                return self._combined(isinstance(op, ast.And), values)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inside, text = self.compile(operand), self._shown(operand)
                return lambda record: None if (one := condition(inside(record), text)) is None else not one
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
                sign = -1 if isinstance(op, ast.USub) else 1
                inside, text = self.compile(operand), self._shown(operand)
                return lambda record: None if (one := number(inside(record), text)) is None else sign * one
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                return self._arithmetic(ARITHMETIC[type(op)], left, right)
            case ast.Compare():
                return self._comparison(node)
            case ast.Call():
                return self._call(node)
        raise MismatchError(f"`{self._shown(node)}` is not part of the language")

    def _shown(self, node: ast.expr) -> str:
        """A part of the expression, as it was written."""
        text = ast.unparse(node)
        for name, column in self.quoted.items():
            text = text.replace(name, f"`{column}`")
        return _short(text)

    def _name(self, name: str) -> _Evaluate:
        if name in _CONSTANTS:
            constant = _CONSTANTS[name]
            return lambda record: constant
        column = self.quoted.get(name, name)
        self.columns[column] = None
        return lambda record: value_of(record.get(column))

    def _field(self, inner: _Evaluate, field: str, text: str) -> _Evaluate:
        def evaluate(record: Mapping[str, Any]) -> Value:
            value = inner(record)
            if value is None:
                return None
            if not isinstance(value, Mapping):
                raise MismatchError(f"{text} is {named(value)}, which has no field {field!r}")
            return value_of(value.get(field))

        return evaluate

    def _combined(self, both: bool, values: list[ast.expr]) -> _Evaluate:
        parts = [(self.compile(value), self._shown(value)) for value in values]

        def evaluate(record: Mapping[str, Any]) -> Value:
            unknown = False
            for part, text in parts:
                one = condition(part(record), text)
                if one is None:
                    unknown = True
                elif one is not both:
                    return not both
            return None if unknown else both

        return evaluate

    def _arithmetic(self, apply: Callable[[Any, Any], Any], left: ast.expr, right: ast.expr) -> _Evaluate:
        first, second = self.compile(left), self.compile(right)
        texts = self._shown(left), self._shown(right)

        def evaluate(record: Mapping[str, Any]) -> Value:
            one, other = number(first(record), texts[0]), number(second(record), texts[1])
            if one is None or other is None:
                return None
            try:
                result = apply(one, other)
            except ZeroDivisionError:
                raise MismatchError(f"{texts[1]} is 0, and {texts[0]} is divided by it") from None
            except OverflowError:
                result = math.inf
            if isinstance(result, float) and not math.isfinite(result):
                raise MismatchError(f"{texts[0]} and {texts[1]} give too large a number")
            return result

        return evaluate

    def _comparison(self, node: ast.Compare) -> _Evaluate:
        operands = [node.left, *node.comparators]
        parts = [(self.compile(operand), self._shown(operand)) for operand in operands]
        tests = []
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.Is | ast.IsNot) and not _is_constant(right):
                raise MismatchError("`is` goes with null, true or false only; compare with ==")
            if isinstance(op, ast.Eq | ast.NotEq) and any(map(_is_null, operands)):
                raise MismatchError("nothing equals null: write `is null` or `is not null`")
            if isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.Constant):
                raise MismatchError(_no_list(left, self._shown(left), right))
            tests.append((COMPARISONS[type(op)], _is_blank(left) or _is_blank(right)))
            left = right
        lists = [isinstance(operand, ast.List | ast.Tuple) for operand in operands]

        def evaluate(record: Mapping[str, Any]) -> Value:
            values = [part(record) for part, _ in parts]
            known = [blank_as_null(value, items=items) for value, items in zip(values, lists, strict=True)]
            unknown = False
            for place, (test, blanks) in enumerate(tests):
                first, second = (values if blanks else known)[place : place + 2]
                one = test(first, second, parts[place][1], parts[place + 1][1])
                if one is False:
                    return False
                unknown = unknown or one is None
            return None if unknown else True

        return evaluate

    def _call(self, node: ast.Call) -> _Evaluate:
        match node.func:
            case ast.Attribute(value=ast.Attribute(attr="str")):  # as pandas has it
                raise MismatchError(f"`{self._shown(node)}` is not part of the language")
            case ast.Name(id=name):
                arguments = node.args
            case ast.Attribute(value=inner, attr=name):
                arguments = [inner, *node.args]
            case _:
                raise MismatchError(f"`{self._shown(node)}` is not part of the language")
        name = self.quoted.get(name, name)
        if name not in FUNCTIONS:
            raise MismatchError(f"no function {name!r}. {nearest(name, FUNCTIONS)}")
        function = FUNCTIONS[name]
        if node.keywords or len(arguments) != function.arguments:
            raise MismatchError(f"{name} takes {function.arguments} value{'s' if function.arguments > 1 else ''}")
        if any(isinstance(argument, ast.Starred) for argument in arguments):
            raise MismatchError(f"`{self._shown(node)}` is not part of the language")
        parts = [(self.compile(argument), self._shown(argument)) for argument in arguments]
        blanks = function.blanks or any(map(_is_blank, arguments))

        def evaluate(record: Mapping[str, Any]) -> Value:
            values = [part(record) for part, _ in parts]
            if not blanks:
                values = [blank_as_null(value) for value in values]
            if any(value is None for value in values):
                return None
            return function.apply(
                *[pair for (_, text), value in zip(parts, values, strict=True) for pair in (value, text)]
            )

        return evaluate


def _is_constant(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id in _CONSTANTS) or (
        isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))
    )


def _is_null(node: ast.expr) -> bool:
    return _is_constant(node) and ast.unparse(node) in ("null", "None")


def _is_blank(node: ast.expr) -> bool:
    """Whether the empty text is written there, or in a list there."""
    if isinstance(node, ast.List | ast.Tuple):
        return any(map(_is_blank, node.elts))
    return isinstance(node, ast.Constant) and node.value == ""


def _no_list(left: ast.expr, shown: str, right: ast.Constant) -> str:
    """What to write where one value stands in the place of a list, as pandas and SQL have it: outcome in ('sale')."""
    one, text = "…" if isinstance(left, ast.Constant) else shown, _short(ast.unparse(right))
    part = f"; for a part of the text, contains({text}, {one})" if isinstance(right.value, str) else ""
    return f"{text} is no list. A list of one is ({text},), or write {one} == {text}{part}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"

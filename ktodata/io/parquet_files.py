"""Parquet files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from ktodata.errors import RowError, SourceError, listed
from ktodata.io.records import AGAIN_ADVICE, Raw, parse_json

BATCH = 1000  # rows per read


def read_parquet(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """A parquet file, a thousand rows at a time.

    Columns of the type Json, in which `datasets` keeps messages whose keys differ, hold what their JSON stands for, as
    `datasets` has it.

    Raises:
        SourceError: it is not parquet, or has two columns of one name.
    """
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        file = pyarrow.parquet.ParquetFile(stream)
        if twice := _named_twice(file.schema_arrow):
            raise SourceError(f"a column is named twice ({twice})", where=name, do="Rename one")
        parsers = {field.name: parse for field in file.schema_arrow if (parse := _json_parser(field.type))}
        for batch in file.iter_batches(batch_size=BATCH):
            for values, problem in _batch_rows(batch):
                row += 1
                raw = Raw(values, f"{name}: row {row}", source, problem)
                yield _with_json(raw, parsers) if parsers and not problem else raw
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"not a readable parquet file: {reason.rstrip('.')}", where=name, do=AGAIN_ADVICE) from error


def _named_twice(fields: Any, above: str = "") -> str:
    """The columns of a schema, or the fields of a struct, where two have one name; "" if nowhere in it two have."""
    import pyarrow

    own = [field.name for field in fields]
    if len(set(own)) < len(own):
        return f"{above}{listed(own)}"
    for field in fields:
        kind = field.type
        while inner := getattr(kind, "item_type", None) or getattr(kind, "value_type", None):
            kind = inner  # of a map, a list or a dictionary
        if pyarrow.types.is_struct(kind) and (found := _named_twice(kind, f"{above}{field.name}: ")):
            return found
    return ""


def _batch_rows(batch: Any) -> Iterator[tuple[object, str]]:
    """The rows of a batch, and what is wrong with each: text that is not UTF-8."""
    try:
        rows = batch.to_pylist()
    except (OverflowError, ValueError):  # Arrow's own errors of values are ValueErrors too
        yield from (_row(batch.slice(row, 1)) for row in range(len(batch)))
    else:
        yield from ((values, "") for values in rows)


def _row(one: Any) -> tuple[dict[str, Any], str]:
    """The values of a batch of one row, and what is wrong with them; the bytes, where text is none."""
    values: dict[str, Any] = {}
    problem = ""
    for name, column in zip(one.schema.names, one.columns, strict=True):
        try:
            values[name] = _value(column[0])
        except UnicodeDecodeError as error:
            values[name] = bytes(error.object)
            problem = problem or f"{bytes(error.object[error.start : error.end])!r} is not UTF-8"
    return values, problem


def _value(scalar: Any) -> Any:
    """A value as Python has it; as text, where Python has none such: a time beyond the year 9999, or in a zone that
    this machine does not know, which is given in UTC.

    Raises:
        UnicodeDecodeError: text that is not UTF-8.
    """
    import pyarrow

    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        raise
    except (OverflowError, ValueError):
        kind = scalar.type
        if pyarrow.types.is_struct(kind):
            return {name: _value(inner) for name, inner in scalar.items()}
        if pyarrow.types.is_map(kind):
            return [(_value(pair["key"]), _value(pair["value"])) for pair in scalar.values]
        if hasattr(scalar, "values"):
            return [_value(inner) for inner in scalar.values]
        if pyarrow.types.is_dictionary(kind) or isinstance(kind, pyarrow.BaseExtensionType):
            return _value(scalar.value)
        if pyarrow.types.is_timestamp(kind) and kind.tz:
            return f"{scalar.cast(pyarrow.timestamp(kind.unit)).cast(pyarrow.string())}Z"
        return scalar.cast(pyarrow.string()).as_py()


def _json_parser(kind: Any) -> Callable[[Any], Any] | None:
    """What parses the JSON in values of a type, which Arrow gives as text; None if there is none in them."""
    import pyarrow

    if getattr(kind, "extension_name", "") == "arrow.json":
        return lambda text: None if text is None else parse_json(text.encode(), "")
    if pyarrow.types.is_struct(kind):
        fields = {field.name: inner for field in kind if (inner := _json_parser(field.type))}
        return (lambda value: value and value | _parsed(value, fields)) if fields else None
    within = getattr(kind, "item_type", None) or getattr(kind, "value_type", None)  # of a map, a list or a dictionary
    parse = _json_parser(within) if within else None
    if parse is None or pyarrow.types.is_dictionary(kind):
        return parse
    if pyarrow.types.is_map(kind):
        return lambda pairs: pairs and [(key, parse(value)) for key, value in pairs]
    return lambda items: items and [parse(item) for item in items]


def _parsed(values: Mapping[str, Any], parsers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Those of some values that have JSON in them, without it."""
    return {name: parse(values[name]) for name, parse in parsers.items()}


def _with_json(raw: Raw, parsers: Mapping[str, Callable[[Any], Any]]) -> Raw:
    """A record with the JSON in its columns parsed; as it was, with what is wrong, if some cannot be."""
    values = raw.values()
    for name, parse in parsers.items():
        try:
            values = values | {name: parse(values[name])}
        except RowError as error:
            return raw._replace(problem=f"{name}: {error.what}", advice=error.do)
    return raw._replace(data=values)

"""Files of comma-separated values."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

from ktodata.errors import SourceError, listed
from ktodata.io import records
from ktodata.io.records import COMMA_ADVICE, QUOTE_ADVICE, UTF8_ADVICE, Raw, is_broken
from ktodata.schema import COLUMNS, RowIds

_ESCAPED = re.compile("[\udc80-\udcff]+")


_TEXT = frozenset(COLUMNS) - {"prompt", "completion", "label"}  # what is text in any row


def read_csv(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """Comma-separated values with a header line, text verbatim.

    A csv file knows text only, so two things are turned back: a `label` (or `kto_tag`) of true or false, and a cell
    that holds messages as JSON, which is how `write_rows` writes them. Where a row has an `id`, as those of
    `write_rows` do, it tells text that merely looks like messages from messages.
    """
    csv.field_size_limit(records.LONGEST)
    with io.TextIOWrapper(cast(BinaryIO, stream), encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        header: list[str] | None = None
        for cells in _csv_rows(reader, name):
            where = f"{name}:{reader.line_num}"
            if header is None:
                if not cells:
                    continue
                header = cells
                if not_utf8 := _text_problem("".join(header)):
                    raise SourceError(not_utf8, where=where, do=UTF8_ADVICE)
                if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), "")):
                    what = f"the header is one column, {header[0]!r}, as its cells are separated by {mark!r}"
                    raise SourceError(what, where=where, do=COMMA_ADVICE)
                if len(set(header)) < len(header):
                    raise SourceError(f"a column is named twice ({listed(header)})", where=where, do="Rename one")
            elif not_utf8 := _text_problem("".join(cells)):
                yield Raw([cell.encode("utf-8", "surrogateescape") for cell in cells], where, source, not_utf8)
            elif len(cells) != len(header):
                if cells:
                    problem = f"{len(cells)} cells, but the header names {len(header)} columns"
                    yield Raw(cells, where, source, problem)
            else:
                yield Raw(_record(header, cells), where, source)


def _csv_rows(reader: Any, name: str) -> Iterator[list[str]]:
    """The reader's rows, with its errors as ours."""
    try:
        yield from reader
    except csv.Error as error:
        # A header of quoted names and semicolons ends here. Further down it is a stray quote.
        do = COMMA_ADVICE if reader.line_num == 1 and "expected after" in str(error) else QUOTE_ADVICE
        what = "a quote that is never closed" if "unexpected end" in str(error) else str(error)
        raise SourceError(f"not csv: {what}", where=f"{name}:{reader.line_num}", do=do) from error


def _record(header: list[str], cells: list[str]) -> dict[str, object]:
    texts = dict(zip(header, cells, strict=True))
    record = {name: _cell(name, text) for name, text in texts.items()}
    looks_like_chat = any(name in texts and record[name] is not texts[name] for name in ("prompt", "completion"))
    if looks_like_chat and texts.keys() >= {"prompt", "completion", "id"} and isinstance(record.get("label"), bool):
        id_of_text = RowIds(texts["prompt"]).of(texts["completion"], record["label"] is True)
        if texts["id"] == id_of_text:
            record |= {name: texts[name] for name in ("prompt", "completion")}
    return record


def _cell(column: str, text: str) -> object:
    if column in ("label", "kto_tag"):
        return {"true": True, "false": False}.get(text.lower(), text)
    if text[:1] in "[{" and text and column not in _TEXT:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            items = value if isinstance(value, list) else [value]
            if items and all(_is_message(item) for item in items) and not is_broken(value, text):
                return value
    return text


def _is_message(item: object) -> bool:
    """Whether it is {role, content} or {from, value}. Both keys are asked for, since a reply may be JSON itself."""
    return isinstance(item, dict) and (item.keys() >= {"role", "content"} or item.keys() >= {"from", "value"})


def _text_problem(text: str) -> str:
    """What is wrong with text that was read with `surrogateescape`, "" if nothing is."""
    found = _ESCAPED.search(text)
    return f"{found[0].encode('utf-8', 'surrogateescape')!r} is not UTF-8" if found else ""

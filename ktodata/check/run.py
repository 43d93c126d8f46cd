"""All checks over a source, in one pass over its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ktodata.check.finding import Finding, Report
from ktodata.check.leaks import Leaks
from ktodata.check.lengths import Lengths
from ktodata.check.look import Check, Look
from ktodata.check.order import Order
from ktodata.check.overlap import Overlap
from ktodata.check.repeats import Repeats
from ktodata.check.texts import Templates, Texts
from ktodata.errors import RowError, SourceError, UsageError
from ktodata.io import read_records
from ktodata.near import THRESHOLD, check_threshold
from ktodata.order import completion_number, number_of
from ktodata.schema import Row, parse_row


def check(
    source: str,
    *,
    split: str = "train",
    limit: int | None = None,
    tokenizer: str = "",
    max_length: int | None = None,
    against: str = "",
    near_threshold: float = THRESHOLD,
    advance: Callable[[int], object] = lambda count: None,
) -> Report:
    """Look at the rows of a file, folder, Hub id or stdin as an expert would before training.

    Args:
        source, split, limit: see `ktodata.io.read_records`; rows, as `unpair` and others write them.
        tokenizer: a model's folder or Hub id, to count tokens with.
        max_length: tokens that a row may have; needs a tokenizer.
        against: an evaluation set of rows, whose prompts should be others.
        near_threshold: see `ktodata.near`.
        advance: called with the number of rows done.

    Raises:
        SourceError: a source cannot be read, or holds no rows (of this split).
        ModelError: the tokenizer cannot be loaded, or has no chat template and the rows are chats.
        UsageError: no such threshold, or a `max_length` without a tokenizer.
    """
    check_threshold(near_threshold)
    if max_length is not None and not tokenizer:
        raise UsageError("--max-length without --tokenizer", do="Tokens are counted with a model's tokenizer")
    loaded = _tokenizer(tokenizer) if tokenizer else None
    repeats = Repeats(near_threshold)
    checks: list[Check] = [
        repeats,
        Order(),
        Leaks(),
        Templates(),
        Texts(tuple(loaded.all_special_tokens) if loaded is not None else ()),
        Lengths(loaded, max_length),
    ]
    if against:
        checks.append(
            Overlap(against, (row.prompt for row in _rows(against, split="test", limit=None)), near_threshold)
        )
    count = 0
    for count, row in enumerate(_rows(source, split=split, limit=limit), 1):
        look = Look(row, count - 1, number_of(row.prompt_id), completion_number(row.completion))
        for one in checks:
            one.add(look)
        advance(1)
    if not count:
        raise SourceError("no rows to check", where=source)
    findings: list[Finding] = [finding for one in checks for finding in one.findings()]
    if not against:
        findings.append(Finding("shared prompts", "skipped", "no evaluation set: --against names one"))
    return Report("stdin" if source == "-" else source, count, findings)


def _rows(source: str, *, split: str, limit: int | None) -> Iterator[Row]:
    kind = ""
    for raw in read_records(source, split=split, limit=limit):
        try:
            row = parse_row(raw.values(), where=raw.where, source=raw.source)
        except RowError as error:
            raise error.advised("`ktodata unpair FILE --quarantine BAD` sorts out such rows") from error
        kind = kind or row.kind
        if row.kind != kind:
            raise RowError(
                f"a {row.kind} row in a file of {kind} rows",
                where=raw.where,
                do="A file holds one kind only; `ktodata unpair FILE --quarantine BAD` sets the others aside",
            )
        yield row


def _tokenizer(name: str) -> Any:
    from ktodata.generate.tokens import load_tokenizer, local_folder

    folder = local_folder(name)
    return load_tokenizer(str(folder) if folder else name, "", where=name)

"""Files that hold rows already: prompt, completion and label, as TRL and Axolotl have them, provenance if any."""

from __future__ import annotations

from collections.abc import Iterator

from ktodata.schema import parse_row
from ktodata.sources.contract import Example, Record, Skip, Source, single
from ktodata.sources.system import after, system_turns


def read(record: Record, where: str) -> Iterator[Example | Skip]:
    """The row as it is, with its provenance. A system prompt in its own column becomes a turn, and the row chat."""
    turns = system_turns(record, where)
    row = parse_row({name: value for name, value in record.items() if name != "system"}, where=where, source="")
    found = single(row.prompt, row.completion, row.label)
    if isinstance(found, Example):
        found = found._replace(
            source=row.source, origin=row.origin, strategy=row.strategy, parent_id=row.parent_id, id=row.id
        )
    yield after(turns, found, where=where)


ROWS = Source(
    name="rows",
    about="rows already: prompt, completion and label; passed on, checked",
    columns=(("prompt", "completion", "label"),),
    read=read,
    unit="rows",
    completions=1,
    origin="feedback",
    kin=("trl-lib/kto-mix-14k",),
)

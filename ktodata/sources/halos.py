"""HALOs' feedback files, the paper's own code: messages for prompt and output, with a label or in pairs."""

from __future__ import annotations

from collections.abc import Iterator

from ktodata.errors import RowError
from ktodata.schema import Message, check_nothing_lost, named
from ktodata.sources.contract import Example, Record, Skip, Source, column, number, pair, single
from ktodata.sources.messages import as_messages

BINARY, PAIRWISE = "binary_feedback", "pairwise_feedback"


def read_binary(record: Record, where: str) -> Iterator[Example | Skip]:
    """One output with a label, 1 or 0."""
    check_nothing_lost(record, where=where)
    label = _label(record, where)
    prompt, output = _turns(record, "prompt", where), _turns(record, "output", where)
    yield single(prompt, output, label)


def read_pairs(record: Record, where: str) -> Iterator[Example | Skip]:
    """Two outputs, and 1 where the first is the better one."""
    check_nothing_lost(record, where=where)
    first = _label(record, where)
    prompt = _turns(record, "prompt", where)
    outputs = _turns(record, "output_A", where), _turns(record, "output_B", where)
    return pair((prompt, prompt), outputs if first else (outputs[1], outputs[0]))


def _label(record: Record, where: str) -> bool:
    value = column(record, "label", where)
    found = value if isinstance(value, bool) else number(record, "label", where)
    if found not in (0, 1):
        raise RowError(f"label is {named(value)}, not 1 or 0", where=where)
    return bool(found)


def _turns(record: Record, name: str, where: str) -> list[Message]:
    return as_messages(column(record, name, where), name=name, where=where)


HALOS_KTO = Source(
    name="halos-kto",
    about="HALOs' binary feedback: messages in prompt and output, with a label of 1 or 0",
    columns=(("prompt", "output", "label", "type"),),
    read=read_binary,
    detect=lambda record: record["type"] == BINARY,
    unit="rows",
    completions=1,
    origin="feedback",
    kind="chat",
)
HALOS_PAIRS = Source(
    name="halos-pairs",
    about="HALOs' pairwise feedback: messages in prompt, output_A and output_B, with a label of 1 where A is better",
    columns=(("prompt", "output_A", "output_B", "label", "type"),),
    read=read_pairs,
    detect=lambda record: record["type"] == PAIRWISE,
    kind="chat",
)

"""Axolotl's shapes: rows with a system column, its other names for prompts and replies, and its pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ktodata.sources import rows
from ktodata.sources.contract import Example, Record, Skip, Source, column
from ktodata.sources.llama_factory import instruction_of, is_nothing
from ktodata.sources.pairs import read_pair
from ktodata.sources.system import after, system_turns


def read_kto(record: Record, where: str) -> Iterator[Example | Skip]:
    """A row, its prompt in `prompt`, `instruction` (and `input`) or `question`; a system prompt becomes a turn."""
    if "prompt" not in record and "instruction" in record:
        record = {**record, "prompt": _instruction(record, where)}
    elif "prompt" not in record and "question" in record:
        record = {**record, "prompt": record["question"]}
    return rows.read(record, where)


def read_dpo(record: Record, where: str) -> Iterator[Example | Skip]:
    """A pair, its prompt in `instruction` and `input` or in one of them, its replies in `chosen` and `rejected` or with
    `_response`."""
    if "instruction" in record or "chosen_response" in record:
        prompt = _instruction(record, where)
    else:
        prompt = column(record, "input", where)
    if "chosen_response" in record:
        both = {short: column(record, f"{short}_response", where) for short in ("chosen", "rejected")}
        record = {**record, **both}
    turns = system_turns(record, where)
    found = read_pair(prompt, record, where)
    return (after(turns, one, where=where) for one in found)


def _instruction(record: Record, where: str) -> Any:
    """As alpaca has it, with an input if there is one."""
    asked = column(record, "instruction", where)
    return asked if isinstance(asked, list) and is_nothing(record.get("input")) else instruction_of(record, where)


AXOLOTL_KTO = Source(
    name="axolotl-kto",
    about="Axolotl's KTO files: user_defined with a system column, or instruction or question for the prompt",
    columns=(
        ("system", "prompt", "completion", "label"),
        ("instruction", "completion", "label"),
        ("question", "completion", "label"),
    ),
    read=read_kto,
    unit="rows",
    completions=1,
    origin="feedback",
)
AXOLOTL_DPO = Source(
    name="axolotl-dpo",
    about="Axolotl's preference files: instruction with chosen_response and rejected_response, or input with pairs",
    columns=(("instruction", "chosen_response", "rejected_response"), ("input", "chosen", "rejected")),
    read=read_dpo,
)

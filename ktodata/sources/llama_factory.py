"""LLaMA-Factory's preference and KTO files: ShareGPT or OpenAI messages, or alpaca columns."""

from __future__ import annotations

from collections.abc import Iterator

from ktodata.errors import RowError
from ktodata.schema import Message, check_nothing_lost, named
from ktodata.sources.contract import Example, Record, Skip, Source, boolean, column, is_empty, single, string
from ktodata.sources.messages import as_messages, reply_of
from ktodata.sources.pairs import read_pair
from ktodata.sources.system import system_turns

CONVERSATIONS = ("conversations", "messages")


def read_dpo(record: Record, where: str) -> Iterator[Example | Skip]:
    """Pairs: `conversations` or alpaca columns are the prompt, `chosen` and `rejected` one turn or string each."""
    return read_pair(_prompt(record, where), record, where)


def read_kto(record: Record, where: str) -> Iterator[Example | Skip]:
    """A conversation whose last turn is the completion, or alpaca columns, with a label."""
    check_nothing_lost(record, where=where)
    label = boolean(record, "kto_tag" if "kto_tag" in record else "label", where)
    if any(name in record for name in CONVERSATIONS):
        *prompt, last = _prompt(record, where) or [{"role": "", "content": ""}]
        completion = [last]
    else:
        prompt = _prompt(record, where)
        completion = reply_of(string(record, "output", where))
    if completion[0]["role"] != "assistant":
        yield Skip("no reply at the end")
    else:
        yield single(prompt, completion, label)


def _prompt(record: Record, where: str) -> list[Message]:
    turns = system_turns(record, where) or []
    name = next((name for name in CONVERSATIONS if name in record), "")
    if name:
        return turns + as_messages(column(record, name, where), name=name, where=where)
    history = record.get("history")
    if is_nothing(history):
        history = []
    if not isinstance(history, list):
        raise RowError(f"history is {named(history)}, not a list of exchanges", where=where)
    for index, exchange in enumerate(history):
        if not (isinstance(exchange, list) and len(exchange) == 2 and all(isinstance(one, str) for one in exchange)):
            raise RowError(f"history[{index}] is {named(exchange)}, not two strings", where=where)
        turns.append({"role": "user", "content": exchange[0]})
        turns.append({"role": "assistant", "content": exchange[1]})
    return [*turns, {"role": "user", "content": instruction_of(record, where)}]


def instruction_of(record: Record, where: str) -> str:
    """What alpaca's columns ask: the instruction and, on a line of its own, the input, each if there is one.

    Raises:
        RowError: there is no column `instruction`, or one of the two is no string.
    """
    column(record, "instruction", where)
    given = [name for name in ("instruction", "input") if not is_nothing(record.get(name))]
    return "\n".join(string(record, name, where) for name in given)


def is_nothing(value: object) -> bool:
    """Whether a column says nothing: null, as pandas writes it too (NaN), or text of nothing but white space."""
    return is_empty(value) if isinstance(value, str) else value is None or value != value


DPO = Source(
    name="llama-factory-dpo",
    about="LLaMA-Factory's preference files: conversations or alpaca columns, with chosen and rejected",
    columns=(
        ("conversations", "chosen", "rejected"),
        ("messages", "chosen", "rejected"),
        ("instruction", "chosen", "rejected"),
    ),
    read=read_dpo,
    kind="chat",
)
KTO = Source(
    name="llama-factory-kto",
    about="LLaMA-Factory's KTO files: messages or conversations with a label, or alpaca columns with kto_tag",
    columns=(
        ("messages", "label"),
        ("conversations", "label"),
        ("conversations", "kto_tag"),
        ("messages", "kto_tag"),
        ("instruction", "output", "kto_tag"),
    ),
    read=read_kto,
    unit="rows",
    completions=1,
    origin="feedback",
    kind="chat",
)

"""Messages in the two forms they come in: {role, content}, and ShareGPT's {from, value}."""

from __future__ import annotations

from ktodata.errors import RowError
from ktodata.schema import Message, named, parse_text
from ktodata.sources.contract import Record

# ShareGPT's names, with those that LLaMA-Factory adds.
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}


def as_messages(value: object, *, name: str, where: str) -> list[Message]:
    """A list of messages, or a single one, in either form, as a list of {role, content}.

    Raises:
        RowError: it is something else, or a {from} is unknown.
    """
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise RowError(f"{name} is {named(value)}, not a list of messages", where=where)
    text = parse_text([_plain_form(item, name, where) for item in items], name=name, where=where)
    assert not isinstance(text, str)
    return text


def _plain_form(item: object, name: str, where: str) -> object:
    if not isinstance(item, dict) or "from" not in item:
        return item
    speaker = item["from"]
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise RowError(f"{name} has a turn from {named(speaker)}", where=where, do=f"Known: {', '.join(ROLES)}")
    return {"role": ROLES[speaker], "content": item.get("value")}


def reply_of(content: str) -> list[Message]:
    """A completion that is one message of the assistant."""
    return [{"role": "assistant", "content": content}]


def has_messages(record: Record) -> bool:
    """Whether the reply that was chosen is in messages, or in a single one."""
    return isinstance(record["chosen"], list | dict)

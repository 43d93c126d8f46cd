"""Messages in the two forms they come in: {role, content}, and ShareGPT's {from, value}."""

from __future__ import annotations

from ktodata.encoded import SHAREGPT, decoded, messages_in
from ktodata.errors import RowError
from ktodata.schema import Message, named, parse_text
from ktodata.sources.contract import Record


def as_messages(value: object, *, name: str, where: str) -> list[Message]:
    """A list of messages, or a single one, in either form and perhaps as JSON, as a list of {role, content}.

    Raises:
        RowError: it is something else, or a {from} is unknown.
    """
    value = decoded(value, name=name, where=where, alone=True)
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise RowError(f"{name} is {named(value)}, not a list of messages", where=where)
    text = parse_text([_plain_form(item, name, where) for item in items], name=name, where=where)
    assert not isinstance(text, str)
    return text


def _plain_form(item: object, name: str, where: str) -> object:
    if not isinstance(item, dict) or "from" not in item:
        return item
    if item["from"] is None and item.get("role") is not None:  # parquet gives all messages the keys of any
        return item
    speaker = item["from"]
    if not isinstance(speaker, str) or speaker not in SHAREGPT:
        raise RowError(f"{name} has a turn from {named(speaker)}", where=where, do=f"Known: {', '.join(SHAREGPT)}")
    return {"role": SHAREGPT[speaker], "content": item.get("value")}


def reply_of(content: str) -> list[Message]:
    """A completion that is one message of the assistant."""
    return [{"role": "assistant", "content": content}]


def with_question(turns: list[Message], asked: str) -> list[Message] | None:
    """The turns of a prompt and the text that is given as the prompt beside them, which belong together.

    They do where one of the user's turns is that text, or in it. Where the user has none the text is their turn. None
    means that the two are different prompts.
    """
    users = [turn["content"].strip() for turn in turns if turn["role"] == "user"]
    if not users:
        return [*turns, {"role": "user", "content": asked}]
    same = any(user == asked.strip() or (user and user in asked) for user in users)
    return turns if same else None


def has_messages(record: Record) -> bool:
    """Whether the reply that was chosen is in messages, or in a single one, perhaps as JSON."""
    chosen = record["chosen"]
    return isinstance(chosen, list | dict) or (isinstance(chosen, str) and messages_in(chosen, alone=True) is not None)

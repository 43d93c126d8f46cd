"""System prompts in a column of their own, as Axolotl and Intel's orca pairs have them."""

from __future__ import annotations

from ktodata.errors import RowError
from ktodata.schema import Message, named
from ktodata.sources.contract import Example, Record, Skip
from ktodata.sources.transcript import convert


def system_turns(record: Record, where: str) -> list[Message] | None:
    """The system prompt as a turn, no turn if it is null or empty, and None if there is no such column.

    Raises:
        RowError: it is not a string.
    """
    if "system" not in record:
        return None
    system = record["system"]
    if system is not None and not isinstance(system, str):
        raise RowError(f"system is {named(system)}, not a string", where=where)
    return [{"role": "system", "content": system}] if system else []


def after(turns: list[Message] | None, found: Example | Skip, *, where: str) -> Example | Skip:
    """The example with its system turn first, unless its prompt begins with that turn already, and as chat.

    As chat even where the system prompt is empty, since the rows of a file have to be of one kind.
    """
    if isinstance(found, Skip) or turns is None:
        return found
    prompt, completion = convert(found.prompt, found.completion, "chat", where=where)
    assert not isinstance(prompt, str)
    if prompt[: len(turns)] == turns:
        turns = []
    return found._replace(prompt=[*turns, *prompt], completion=completion)

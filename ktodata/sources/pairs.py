"""Any pairs: chosen and rejected as strings or messages, with a prompt column or with the prompt inside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeAlias

from ktodata.encoded import decoded, sure_messages_in
from ktodata.errors import RowError, listed
from ktodata.schema import ASKING, Message, check_nothing_lost, kind_of, named, reply_problem
from ktodata.sources.contract import Example, Record, Skip, Source, column, is_empty, pair
from ktodata.sources.hh_rlhf import read_transcripts
from ktodata.sources.messages import as_messages, reply_of, with_question
from ktodata.sources.system import after, system_turns
from ktodata.sources.transcript import ASSISTANT, is_transcript

Turns: TypeAlias = list[Message]


def read(record: Record, where: str) -> Iterator[Example | Skip]:
    """A pair in any of these forms; see `read_pair`. A system prompt in its own column makes it chat."""
    turns = system_turns(record, where)
    return (after(turns, found, where=where) for found in read_pair(record.get("prompt"), record, where))


def read_pair(prompt: Any, record: Record, where: str) -> Iterator[Example | Skip]:
    """The examples of `chosen` and `rejected`, given a prompt: a string, messages, or None if it is inside them.

    Raises:
        RowError: a value that is neither string nor messages, replies of two kinds, messages as text that are cut off
            or printed by Python, or plain text of which nothing says where the prompt ends.
    """
    check_nothing_lost(record, where=where)
    replies = {name: column(record, name, where) for name in ("chosen", "rejected")}
    for name, value in replies.items():
        if not isinstance(value, str | list | dict):
            raise RowError(f"{name} is {named(value)}, not a string or messages", where=where)
    prompt = decoded(prompt, name="prompt", where=where)
    if isinstance(prompt, list):
        prompt = as_messages(prompt, name="prompt", where=where)
    turns = _turns(prompt, replies, where)
    if turns is None:
        chosen, rejected = replies["chosen"], replies["rejected"]
        if prompt == "" and is_transcript(chosen):  # as a csv file says "none"
            prompt = None
        if prompt is None and not is_transcript(chosen) and not is_transcript(rejected):
            raise RowError(
                "the prompt is null, and nothing else says where it ends"
                if "prompt" in record
                else f"nothing says where the prompt ends (columns seen: {listed(record)})",
                where=where,
                do=f"Plain text needs a prompt column, or turns that begin with {ASSISTANT!r}",
            )
        return _strings(prompt, chosen, rejected, where)
    return _explicit(prompt, turns) if isinstance(prompt, list) else _implicit(prompt, turns, where)


def _turns(prompt: Any, replies: dict[str, Any], where: str) -> tuple[Turns, Turns] | None:
    """Both replies as messages; None if they are text.

    A reply may be JSON itself, but where messages are written as text both are, and an empty one stands for a turn
    without words at the place of the other's last.

    Raises:
        RowError: one is messages and the other text, or messages as text cannot be read.
    """
    written = {
        name: sure_messages_in(value, name=name, where=where, alone=True)
        for name, value in replies.items()
        if isinstance(value, str)
    }
    plain = [name for name, found in written.items() if found is None]
    if len(plain) == 2:
        return None
    if plain and not is_empty(replies[plain[0]]):
        (other,) = (name for name in replies if name not in plain)
        if other in written and not _answers(prompt, written[other]):
            return None
        raise RowError(
            "one reply is a string, the other messages",
            where=where,
            do=f"Write {plain[0]} as messages too, or leave such records out",
        )
    found = {name: as_messages(replies[name], name=name, where=where) for name in replies if name not in plain}
    for name in plain:
        (whole,) = found.values()
        found[name] = [*whole[:-1], *reply_of(replies[name])]
    return found["chosen"], found["rejected"]


def _answers(prompt: Any, found: Any) -> bool:
    """Whether messages that stood there as text answer a prompt, and are no reply that is merely JSON of messages."""
    with contextlib.suppress(RowError):
        *asked, last = as_messages(found, name="", where="")
        if last["role"] != "assistant":
            return False
        if isinstance(prompt, str) and not is_empty(prompt):
            return with_question(asked, prompt) is not None
        return not isinstance(prompt, list) or asked == prompt or not any(turn["role"] in ASKING for turn in asked)
    return False


def _strings(prompt: Any, chosen: str, rejected: str, where: str) -> Iterator[Example | Skip]:
    if prompt is None:
        return read_transcripts(chosen, rejected, where)
    if isinstance(prompt, list):
        return pair((prompt, prompt), (reply_of(chosen), reply_of(rejected)))
    if not isinstance(prompt, str):
        raise RowError(f"prompt is {named(prompt)}, not a string or messages", where=where)
    # Whole transcripts beside the prompt they begin with. Only a marker makes sure that they do: a reply to "Hi"
    # may well begin with "Hi".
    if prompt.endswith(ASSISTANT) and chosen.startswith(prompt) and rejected.startswith(prompt):
        return read_transcripts(chosen, rejected, where)
    return pair((prompt, prompt), (chosen, rejected))


def _explicit(prompt: Turns, turns: tuple[Turns, Turns]) -> Iterator[Example | Skip]:
    """Messages beside the prompt's messages, which they may repeat."""
    if all(reply[: len(prompt)] == prompt and len(reply) > len(prompt) for reply in turns):
        turns = (turns[0][len(prompt) :], turns[1][len(prompt) :])
    return _checked(prompt, turns)


def _implicit(prompt: Any, turns: tuple[Turns, Turns], where: str) -> Iterator[Example | Skip]:
    """Messages that begin with the prompt's: the leading turns that both have are the prompt."""
    if prompt is not None and kind_of(prompt) != "text":
        raise RowError(f"prompt is {named(prompt)}, not a string or messages", where=where)
    chosen, rejected = turns
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    lead = chosen[:shared]
    asked = with_question(lead, prompt) if prompt and not prompt.isspace() else lead
    return _checked(asked, (chosen[shared:], rejected[shared:]))


def _checked(prompt: Turns | None, turns: tuple[Turns, Turns]) -> Iterator[Example | Skip]:
    if prompt is None or any(message["role"] in ASKING for reply in turns for message in reply):
        # Another prompt than the column's, or the two conversations part before the last reply.
        return iter([Skip("prompts differ", 2, "both")])
    if any(map(reply_problem, turns)):
        return iter([Skip("the assistant has not the last word", 2, "both")])
    return pair((prompt, prompt), turns)


PAIRS = Source(
    name="pairs",
    about="any pairs: chosen and rejected as strings or messages, the prompt in a column or in their common turns",
    columns=(("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    read=read,
)

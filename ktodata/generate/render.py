"""How a conversation is put to a model that has no chat template, and where its reply ends.

The plain rendering of a chat is a transcript, one blank line between turns, that breaks off where the reply begins:

    You are a helpful assistant.

    User: hi there

    Assistant:

The system turn stands alone, without a name; other roles are named as they are, with a capital. A base model would go
on and write the user's next turn too, so the reply ends before the next line that begins with the name of a role.

Text prompts are fed verbatim. Many are transcripts themselves ("\n\nHuman: …\n\nAssistant:"), known by their last
line being a name and a colon: then the reply ends before the next line that begins with a name the prompt has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ktodata.schema import Message, Text

MOST_STOPS = 4  # what OpenAI's API allows
_NAME = r"[^\W\d_][\w ]{0,23}"
_TURN = re.compile(rf"^({_NAME}):", re.MULTILINE)
_OPEN_TURN = re.compile(rf"(?:^|\n)({_NAME}):[ \t]*\Z")


def transcript(messages: Sequence[Message]) -> tuple[str, tuple[str, ...]]:
    """A chat as plain text that ends where the assistant is to speak, and the strings that end the reply."""
    turns = [
        message["content"].strip()
        if message["role"] == "system"
        else f"{_named(message['role'])}: {message['content'].strip()}"
        for message in messages
    ]
    roles = dict.fromkeys(["user", "assistant", *(message["role"] for message in messages)])
    stops = tuple(f"\n{_named(role)}:" for role in roles if role != "system")
    return "\n\n".join([*turns, "Assistant:"]), stops[:MOST_STOPS]


def stops_of(prompt: str) -> tuple[str, ...]:
    """The strings that end a reply to a text prompt: turn markers, if the prompt is a transcript; else none."""
    last = _OPEN_TURN.search(prompt)
    if last is None:
        return ()
    # The other speakers come first: it is they who must not be spoken for.
    names = dict.fromkeys([*(name for name in _TURN.findall(prompt) if name != last[1]), last[1]])
    return tuple(f"\n{name}:" for name in names)[:MOST_STOPS]


def trim(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    ends = [end for end in map(text.find, stops) if end >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def size(prompt: Text) -> int:
    """Characters of a prompt, for putting the longest first where no tokenizer is at hand."""
    return len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)


def _named(role: str) -> str:
    return role[:1].upper() + role[1:]

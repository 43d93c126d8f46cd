"""Transcripts in one string, as hh-rlhf has them: turns that begin with "\\n\\nHuman:" or "\\n\\nAssistant:"."""

from __future__ import annotations

import re

from ktodata.errors import RowError
from ktodata.schema import SYSTEM, Kind, Message, Text, kind_of

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
_MARKER = re.compile(r"\n\n(Human|Assistant):")
_SILENT = re.compile(r"(?:\n\n(?:Human|Assistant):|\s)*+")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_MARKERS = {"user": HUMAN, "assistant": ASSISTANT}


def is_transcript(value: object) -> bool:
    """Whether a value is a string with an assistant's turn in it."""
    return isinstance(value, str) and ASSISTANT in value


def cut(transcript: str, *, name: str, where: str) -> tuple[str, str]:
    """The prompt, up to and with the last "\\n\\nAssistant:", and the completion, with its own leading space.

    Raises:
        RowError: there is no such marker. Nothing is guessed: a longest common prefix of two replies may end in
            the middle of a word.
    """
    at = transcript.rfind(ASSISTANT)
    if at < 0:
        raise RowError(
            f"{name} has no {ASSISTANT!r} to cut after",
            where=where,
            do="Plain text needs a prompt column (and no preset, or pairs), or to be a transcript with such turns",
        )
    at += len(ASSISTANT)
    return transcript[:at], transcript[at:]


def asks_nothing(prompt: Text) -> bool:
    """Whether a prompt has no words, but perhaps a system prompt's: nothing but white space, or turns of that.

    A system prompt that stands alone, with no turn beside it, is a prompt.
    """
    if isinstance(prompt, str):
        first = _MARKER.search(prompt) if prompt.endswith(ASSISTANT) else None
        if first is None:
            return _is_blank(prompt)
        # What comes before the first turn is a system prompt, unless that turn is the one to be written.
        return _SILENT.fullmatch(prompt, first.start() if first.end() < len(prompt) else 0) is not None
    for turn in reversed(prompt):  # the last one nearly always has words
        if turn["role"] not in SYSTEM and not _is_blank(turn["content"]):
            return False
    return any(turn["role"] not in SYSTEM for turn in prompt) or all(_is_blank(turn["content"]) for turn in prompt)


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def convert(prompt: Text, completion: Text, kind: Kind, *, where: str) -> tuple[Text, Text]:
    """A prompt and its completion as the wanted kind.

    To chat, a transcript becomes its turns, in their roles whether or not these alternate, each without the marker
    and the white space that belongs to it (two line feeds before, one space after), so that the text can be made of
    them again; other text becomes one user turn and one assistant turn, verbatim. To text, turns become a transcript.

    Raises:
        RowError: a turn whose role has no place in a transcript.
    """
    if kind_of(prompt) == kind:
        return prompt, completion
    if isinstance(prompt, str) and isinstance(completion, str):
        if not prompt.endswith(ASSISTANT):
            return [{"role": "user", "content": prompt}], [{"role": "assistant", "content": completion}]
        return _turns(prompt.removesuffix(ASSISTANT)), [{"role": "assistant", "content": completion.removeprefix(" ")}]
    assert not isinstance(prompt, str)
    assert not isinstance(completion, str)
    if not completion or completion[0]["role"] != "assistant":
        raise RowError("the completion does not begin with an assistant turn", where=where)
    return _text(prompt, where, first=True) + ASSISTANT, _text(completion, where).removeprefix(ASSISTANT)


def comes_back(prompt: Text, completion: Text) -> bool:
    """Whether text that became turns, `convert(…, "chat")`, is the same again as text: that of a transcript is."""
    if not isinstance(prompt, str) or not prompt.endswith(ASSISTANT):
        return False
    turns = convert(prompt, completion, "chat", where="")
    return convert(*turns, "text", where="") == (prompt, completion)


def _turns(text: str) -> list[Message]:
    preamble, *rest = _MARKER.split(text)
    turns: list[Message] = [{"role": "system", "content": preamble}] if preamble else []
    for role, content in zip(rest[::2], rest[1::2], strict=True):
        turns.append({"role": _ROLES[role], "content": content.removeprefix(" ")})
    return turns


def _text(turns: list[Message], where: str, *, first: bool = False) -> str:
    pieces = []
    for index, turn in enumerate(turns):
        if turn["role"] in _MARKERS:
            pieces.append(f"{_MARKERS[turn['role']]} {turn['content']}")
        elif turn["role"] == "system" and first and index == 0:
            pieces.append(turn["content"])
        else:
            raise RowError(
                f"a turn of role {turn['role']!r} has no place in a plain transcript", where=where, do="Use --as chat"
            )
    return "".join(pieces)

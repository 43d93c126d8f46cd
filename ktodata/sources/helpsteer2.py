"""NVIDIA's HelpSteer2: replies with five ratings each, from 0 to 4. Neighbours share prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from ktodata.schema import Message
from ktodata.sources.contract import Example, Record, Skip, Source, single, string
from ktodata.sources.messages import reply_of
from ktodata.sources.ratings import rating, verdict

SCALE = (0, 4)
# How prompts of several turns mark where the next begins. The first turn, the user's, has no mark.
_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
_ROLES = {"User": "user", "Assistant": "assistant"}


def read(
    record: Record,
    where: str,
    *,
    axis: Literal["helpfulness", "correctness", "coherence", "complexity", "verbosity"] = "helpfulness",
    desirable_at: float = 3.0,
    undesirable_at: float = 1.0,
) -> Iterator[Example | Skip]:
    """A reply, labelled by one of its ratings."""
    prompt, completion = turns(string(record, "prompt", where)), string(record, "response", where)
    given = rating(record, axis, where, scale=SCALE)
    label = verdict(given, desirable_at=desirable_at, undesirable_at=undesirable_at)
    yield Skip("middle rating") if label is None else single(prompt, reply_of(completion), label)


def turns(prompt: str) -> list[Message]:
    """The turns of a prompt."""
    first, *rest = _TURN.split(prompt)
    found: list[Message] = [{"role": "user", "content": first}]
    for role, content in zip(rest[::2], rest[1::2], strict=True):
        found.append({"role": _ROLES[role], "content": content})
    return found


HELPSTEER2 = Source(
    name="helpsteer2",
    about="HelpSteer2: replies rated from 0 to 4 for helpfulness and four more axes; the middle is left out",
    columns=(("prompt", "response", "helpfulness", "correctness", "coherence", "complexity", "verbosity"),),
    read=read,
    unit="replies",
    completions=1,
    origin="rated",
    kind="chat",
    hub_id="nvidia/HelpSteer2",
    licence="CC-BY-4.0",
    kin=("nvidia/HelpSteer",),
)

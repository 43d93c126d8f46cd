"""From messages to rows in one speaker's voice: each of the speaker's turns is a reply to the turns before it.

Messages are taken chat by chat, in the order of their times, or in that of their file where it says more; those of one
time are in that of their file, which is turned round where the newest come first. What one author says in a row is one
turn. A pause longer than `gap` ends a conversation: what comes after it is no reply to what came before. So does a turn
without words, such as a picture, and a message that could not be read: a reply to it is no reply to what came before.
Everybody but the speaker is the user; where a chat has several of them, their words carry their names, and what they
say in a row is one turn.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ktodata.schema import Message, normalise
from ktodata.sources.contract import Example, Skip

CONTEXT = 6  # turns
GAP = 6 * 3600.0  # seconds


class Said(NamedTuple):
    """A message: who said it (and the author's id, if there is one), when (seconds; NaN: as the one before), and what.

    `reason` is why it says nothing; the text is "" then. `after_gap`: what stands before it could not be read.
    """

    author: str
    author_id: str
    time: float
    text: str
    reason: str = ""
    after_gap: bool = False


class Voice(NamedTuple):
    """Whose replies are wanted, by name or id, after how many turns at most, and the pause that ends a conversation."""

    speakers: frozenset[str]
    context: int = CONTEXT
    gap: float = GAP
    names: tuple[str, ...] = ()

    def speaks(self, said: Said) -> bool:
        """Whether a message is the speaker's."""
        return bool({normalise(said.author), normalise(said.author_id)} & self.speakers - {""})


def voice_of(names: Collection[str], *, context: int = CONTEXT, gap: float = GAP) -> Voice:
    """The voice of somebody of these names, however they are spelt in capitals."""
    return Voice(frozenset(normalise(name) for name in names), context, gap, tuple(names))


@dataclasses.dataclass
class _Turn:
    mine: bool
    messages: list[int]


def steps_back(before: float, time: float) -> int:
    """1 if a message is earlier than the one before it in its file, -1 if it is later, 0 if that cannot be known.

    Where their sum is above 0, the newest come first.
    """
    return (time < before) - (time > before)


def replies(
    voice: Voice, said: Sequence[Said], in_order: bool = False, newest_first: bool = False
) -> Iterator[tuple[int, Example | Skip]]:
    """The rows of one chat: for each message, what became of it. A turn's row belongs to its first message.

    `in_order` takes them in the order they have; else it is that of their times. `newest_first` is what to think of
    the order of those whose times do not tell.
    """
    others = {one.author_id or one.author for one in said if one.text and not voice.speaks(one)}
    for index, one in enumerate(said):
        if one.reason:
            yield index, Skip(one.reason)
    back = not in_order and _is_newest_first(said, newest_first)
    for conversation in _conversations(voice, said, in_order, back):
        texts = [_content(turn, said, names=len(others) > 1) for turn in conversation]
        for place, turn in enumerate(conversation):
            if not turn.mine:
                for index in turn.messages:
                    yield index, Skip("someone else's turn")
                continue
            before = [texts[at] for at in range(max(0, place - voice.context), place)]
            while before and before[0]["role"] == "assistant":
                before.pop(0)
            yield turn.messages[0], Example(before, [texts[place]], True) if before else Skip("nothing before it")
            for index in turn.messages[1:]:
                yield index, Skip("part of the turn before")


def _is_newest_first(said: Sequence[Said], otherwise: bool) -> bool:
    back = sum(steps_back(one.time, other.time) for one, other in itertools.pairwise(said))
    return back > 0 if back else otherwise


def _conversations(voice: Voice, said: Sequence[Said], in_order: bool, back: bool) -> Iterator[list[_Turn]]:
    """What was said without a break, in turns of messages with words; `back` takes the last of the file first."""
    turns: list[_Turn] = []
    last = 0.0
    order: Sequence[int] = range(len(said))[:: -1 if back else 1]
    times = _times(said, order)
    # What could not be read is between two messages of the file, and breaks off before the later one of them.
    gaps = {index - 1 if back else index for index, one in enumerate(said) if one.after_gap}
    for index in order if in_order else sorted(order, key=times.__getitem__):  # equal ones stay in order
        one, mine = said[index], voice.speaks(said[index])
        if turns and (times[index] - last > voice.gap or index in gaps):
            yield from _between_silences(turns)
            turns = []
        last = times[index]
        if not turns or turns[-1].mine != mine:
            turns.append(_Turn(mine, []))
        if one.text:
            turns[-1].messages.append(index)
    yield from _between_silences(turns)


def _between_silences(turns: list[_Turn]) -> Iterator[list[_Turn]]:
    for wordless, some in itertools.groupby(turns, key=lambda turn: not turn.messages):
        if not wordless:
            yield list(some)


def _times(said: Sequence[Said], order: Sequence[int]) -> dict[int, float]:
    """The time of each message by its place; one without has that of the one before it in this order."""
    times: dict[int, float] = {}
    last = 0.0
    for index in order:
        last = last if math.isnan(said[index].time) else said[index].time
        times[index] = last
    return times


def _content(turn: _Turn, said: Sequence[Said], *, names: bool) -> Message:
    lines: list[str] = []
    author = ""
    for index in turn.messages:
        one = said[index]
        new = names and not turn.mine and one.author != author
        lines.append(f"{one.author}: {one.text}" if new else one.text)
        author = one.author
    return {"role": "assistant" if turn.mine else "user", "content": "\n".join(lines)}

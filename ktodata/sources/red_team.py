"""hh-rlhf's fifth folder: single transcripts of people who tried to talk a model into harm, rated by them."""

from __future__ import annotations

from collections.abc import Iterator

from ktodata.sources.contract import Example, Record, Skip, Source, single, string
from ktodata.sources.ratings import rating, verdict
from ktodata.sources.transcript import HUMAN, cut

SCALE = (0, 4)


def read(
    record: Record, where: str, *, desirable_at: float = 1.0, undesirable_at: float = 3.0
) -> Iterator[Example | Skip]:
    """The last reply of a transcript. The rating says how well the attack went, from 0 to 4: low is good."""
    prompt, completion = cut(string(record, "transcript", where), name="transcript", where=where)
    given = rating(record, "rating", where, scale=SCALE)
    label = verdict(given, desirable_at=desirable_at, undesirable_at=undesirable_at)
    if HUMAN in completion:
        yield Skip("ends with a human turn")
    else:
        yield Skip("middle rating") if label is None else single(prompt, completion, label)


RED_TEAM = Source(
    name="hh-rlhf-red-team",
    about="Anthropic's red-team attempts: transcripts with a rating of how well the attack went (0 to 4, low is good)",
    columns=(("transcript", "rating"),),
    read=read,
    unit="transcripts",
    completions=1,
    origin="rated",
    kind="text",
    hub_id="Anthropic/hh-rlhf",
    folders=("red-team-attempts",),
    licence="MIT",
)

"""Anthropic's hh-rlhf: pairs of whole transcripts, cut after the last "\\n\\nAssistant:"."""

from __future__ import annotations

from collections.abc import Iterator

from ktodata.sources.contract import Example, Record, Skip, Source, string
from ktodata.sources.transcript import is_transcript, read_transcripts


def read(record: Record, where: str) -> Iterator[Example | Skip]:
    """A pair. The turns before the last reply are the prompt, verbatim, whatever their roles."""
    return read_transcripts(string(record, "chosen", where), string(record, "rejected", where), where)


HH_RLHF = Source(
    name="hh-rlhf",
    about="Anthropic's helpful and harmless pairs: transcripts in chosen and rejected",
    columns=(("chosen", "rejected"),),
    read=read,
    detect=lambda record: (
        record.get("prompt") is None and is_transcript(record["chosen"]) and is_transcript(record["rejected"])
    ),
    kind="text",
    hub_id="Anthropic/hh-rlhf",
    # Its fifth folder, red-team-attempts, holds single transcripts with ratings.
    folders=("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"),
    licence="MIT",
)

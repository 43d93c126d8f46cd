"""Anthropic's hh-rlhf: pairs of whole transcripts, cut after the last "\\n\\nAssistant:"."""

from __future__ import annotations

from collections.abc import Iterator

from ktodata.sources.contract import Example, Record, Skip, Source, pair, string
from ktodata.sources.transcript import HUMAN, cut, is_transcript


def read(record: Record, where: str) -> Iterator[Example | Skip]:
    """A pair. The turns before the last reply are the prompt, verbatim, whatever their roles."""
    return read_transcripts(string(record, "chosen", where), string(record, "rejected", where), where)


def read_transcripts(chosen: str, rejected: str, where: str) -> Iterator[Example | Skip]:
    """The examples of a pair of transcripts. One that ends with a human's turn has no reply to learn from."""
    prompt, completion = cut(chosen, name="chosen", where=where)
    other_prompt, other = cut(rejected, name="rejected", where=where)
    found = pair((prompt, other_prompt), (completion, other))
    if HUMAN not in completion and HUMAN not in other:
        return found
    return map(_answered, found)


def _answered(found: Example | Skip) -> Example | Skip:
    if isinstance(found, Example) and HUMAN in str(found.completion):
        return Skip("ends with a human turn", 1, "chosen" if found.label else "rejected")
    return found


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

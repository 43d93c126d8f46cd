"""Argilla's KTO files: the prompt as a string, the completion as a whole conversation, the prompt's turns included."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ktodata.encoded import messages_in
from ktodata.schema import check_nothing_lost, is_text
from ktodata.sources.contract import Example, Record, Skip, Source, boolean, column, single, string
from ktodata.sources.messages import as_messages, with_question


def read(record: Record, where: str) -> Iterator[Example | Skip]:
    """A conversation: its last turn is the completion, those before it are the prompt."""
    check_nothing_lost(record, where=where)
    asked, label = string(record, "prompt", where), boolean(record, "label", where)
    turns = as_messages(column(record, "completion", where), name="completion", where=where)
    if not turns or turns[-1]["role"] != "assistant":
        yield Skip("no reply at the end")
        return
    prompt = with_question(turns[:-1], asked)
    yield Skip("prompts differ") if prompt is None else single(prompt, turns[-1:], label)


def detect(record: Record) -> bool:
    """Whether the prompt is a string and the completion a conversation, perhaps as JSON."""
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(completion, str) and not is_text(record):
        completion = messages_in(completion)
    return isinstance(prompt, str) and messages_in(prompt) is None and isinstance(completion, list)


KTO_MIX = Source(
    name="kto-mix",
    about="Argilla's KTO mix: the prompt, and a conversation that repeats it, with a label",
    columns=(("prompt", "completion", "label", "dataset"), ("prompt", "completion", "label")),
    read=read,
    detect=detect,
    unit="rows",
    completions=1,
    origin="rated",
    kind="chat",
    hub_id="argilla/kto-mix-15k",
    licence="MIT",
)
CAPYBARA_KTO = dataclasses.replace(
    KTO_MIX,
    name="capybara-kto",
    about="Argilla's Capybara for KTO: the same, over several turns",
    columns=(("prompt", "completion", "label", "rating", "model"),),
    hub_id="argilla/distilabel-capybara-kto-15k-binarized",
    licence="Apache-2.0",
)

"""The strategy `base`: a model's own reply to the prompt, drawn wildly.

A base model, the model as it was before tuning, or any other below the standard that is wanted, sampled at a high
temperature, gives completions that are fluent, on the topic, and worse: negatives that nothing but their quality gives
away. See docs/negatives-models.md for back ends, rendering, seeds and the journal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ktodata.generate.ask import Asker, conversation, open_asker, replies
from ktodata.generate.options import MODEL_OPTIONS
from ktodata.negatives.contract import Ask, Option, Run, Skip, Strategy

_WILD: Mapping[str, Any] = {"temperature": 1.3, "top_p": 0.95}
OPTIONS: Mapping[str, Option] = {
    name: dataclasses.replace(option, default=_WILD.get(name, option.default)) for name, option in MODEL_OPTIONS.items()
}


def prepare(run: Run, **options: Any) -> Asker:
    """The model, its tokenizer or server looked at; its weights are loaded at the first reply.

    Raises:
        KtodataError: see `open_asker`.
    """
    return open_asker(run, options, strategy="base")


def base(asks: Sequence[Ask], /, *, pool: Asker, **options: Any) -> Iterator[tuple[int, str | Skip]]:
    """A sampled reply to the prompt of each ask, as they finish; see `ktodata.generate.ask.replies`."""
    return replies(asks, [conversation(ask.row) for ask in asks], pool, cut=options["cut"])


BASE = Strategy(
    name="base",
    summary="A reply of a base model, or of any other, sampled at a high temperature.",
    many=base,
    prepare=prepare,
    finish=Asker.finish,
    facts=Asker.facts,
    needs="base.model or base.url",
    # Of `sh recipes/chat_style/run.sh`.
    example="If your router makes a strange It, If your router how old is it?\n"
    '      (to "any idea why my router is super slow?", by the model of recipes/chat_style, 1.5 million parameters)\n'
    '  yours:   ktodata negatives --try "PROMPT" "REPLY" --strategy base --set base.model=MODEL',
    options=OPTIONS,
)

"""Mixtures and copies that are pairs like any other, under names of their own."""

from __future__ import annotations

from ktodata.sources import pairs
from ktodata.sources.contract import Source
from ktodata.sources.messages import has_messages

TULU_3 = Source(
    name="tulu-3",
    about="Tulu 3's preference mixture: whole conversations that differ in their last turn",
    columns=(("id", "prompt", "chosen", "rejected", "source"),),
    read=pairs.read,
    detect=has_messages,
    kind="chat",
    hub_id="allenai/llama-3.1-tulu-3-8b-preference-mixture",
    licence="ODC-BY-1.0; parts of it are not for commercial use",
    kin=(
        "allenai/llama-3.1-tulu-3-70b-preference-mixture",
        "allenai/llama-3.1-tulu-3-405b-preference-mixture",
    ),
)
DAHOAS = Source(
    name="dahoas",
    about="Dahoas' copies of hh-rlhf, cut into prompt, chosen and rejected; do not mix them with hh-rlhf itself",
    columns=(("prompt", "response", "chosen", "rejected"),),
    read=pairs.read,
    hub_id="Dahoas/full-hh-rlhf",
    licence="none named; hh-rlhf's is MIT",
    kin=("Dahoas/rm-static", "Dahoas/static-hh", "Dahoas/rm-hh-rlhf"),
)
REVIEWER2 = Source(
    name="reviewer2",
    about="Reviewer 2: a thousand pairs of reviews, by name only, as its columns are those of any pairs",
    columns=(("prompt", "chosen", "rejected"),),
    read=pairs.read,
    detect=lambda record: False,
    hub_id="shionhonda/reviewer2-1k-paired",
    licence="none named",
)

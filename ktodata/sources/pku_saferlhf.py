"""PKU-SafeRLHF: two replies, which is better, which is safer, and whether each is safe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ktodata.errors import RowError
from ktodata.schema import Message, named
from ktodata.sources.contract import Example, Record, Skip, Source, flag, optional_number, pair, single, string
from ktodata.sources.messages import reply_of

_CHOSEN = {"better": "better_response_id", "safer": "safer_response_id"}


def read(record: Record, where: str, *, axis: Literal["safe", "better", "safer"] = "safe") -> Iterator[Example | Skip]:
    """Two replies, each labelled by its own safety (`safe`), or the one preferred and the other as a pair."""
    prompt: list[Message] = [{"role": "user", "content": string(record, "prompt", where)}]
    replies = [reply_of(string(record, f"response_{n}", where)) for n in (0, 1)]
    if axis == "safe":
        labels = [flag(record, f"is_response_{n}_safe", where) for n in (0, 1)]
        for completion, label, name in zip(replies, labels, ("response_0", "response_1"), strict=True):
            yield single(prompt, completion, label, which=name)
        return
    chosen = optional_number(record, _CHOSEN[axis], where)
    if chosen is None or chosen == -1:
        yield Skip("no judgement" if chosen is None else "tie", 2, "both")
    elif chosen in (0, 1):
        yield from pair((prompt, prompt), (replies[int(chosen)], replies[1 - int(chosen)]))
    else:
        raise RowError(f"{_CHOSEN[axis]} is {named(record[_CHOSEN[axis]])}, not 0 or 1", where=where)


PKU_SAFERLHF = Source(
    name="pku-saferlhf",
    about="PKU-SafeRLHF: two replies by safety of each (--axis safe), or by which is better or safer",
    columns=(
        ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe"),
        ("prompt", "response_0", "response_1", "better_response_id", "safer_response_id"),
    ),
    read=read,
    kind="chat",
    hub_id="PKU-Alignment/PKU-SafeRLHF",
    licence="CC-BY-NC-4.0: not for commercial use",
    kin=("PKU-Alignment/PKU-SafeRLHF-10K", "PKU-Alignment/PKU-SafeRLHF-30K"),
)

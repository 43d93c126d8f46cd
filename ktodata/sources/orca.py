"""Intel's orca pairs, plain and as Argilla relabelled them: a question, and the replies of GPT-4 and of Llama 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ktodata.errors import RowError
from ktodata.schema import named
from ktodata.sources.contract import Example, Record, Skip, Source, flag, optional_number, string
from ktodata.sources.pairs import read_pair
from ktodata.sources.scores import nearer_than
from ktodata.sources.system import after, system_turns

STATUS = ("unchanged", "swapped", "tie")  # whether Argilla's judge agreed with the pair


def read(record: Record, where: str) -> Iterator[Example | Skip]:
    """A pair, its system prompt as a turn. The replies' style tells them apart: see `ktodata check`."""
    name = "question" if "question" in record else "input"
    turns = system_turns(record, where)
    found = read_pair(string(record, name, where), record, where)
    return (after(turns, one, where=where) for one in found)


def read_argilla(
    record: Record, where: str, *, min_margin: float = 0.0, min_score: float = 0.0
) -> Iterator[Example | Skip]:
    """A pair, unless its ratings are a tie or it is in GSM8K, which many evaluate with."""
    found = list(read(record, where))
    status = string(record, "status", where)
    if status not in STATUS:
        raise RowError(f"status is {status!r}, not {', '.join(STATUS)}", where=where)
    if status == "tie":
        reason = "tie"
    elif flag(record, "in_gsm8k_train", where):
        reason = "in GSM8K"
    else:
        reason = _too_low(optional_number(record, "chosen_score", where), min_score) if min_score else ""
        reason = reason or (_too_near(_ratings(record, where), min_margin) if min_margin else "")
    return iter([Skip(reason, 2, "both")] if reason else found)


def _too_low(score: float | None, min_score: float) -> str:
    """Why a pair with this score of its chosen reply is left out, "" if it is not."""
    if score is None:
        return "no rating"
    return "score too small" if score < min_score else ""


def _too_near(ratings: list[float | None], min_margin: float) -> str:
    """Why a pair is left out that is no tie by its status, "" if it is not."""
    first, second = ratings
    if first is None or second is None:
        return "no rating"
    return "margin too small" if nearer_than(first, second, min_margin) else ""


def _ratings(record: Record, where: str) -> list[float | None]:
    """Both ratings, in the order in which a judge saw the replies: which is the chosen one's is lost."""
    ratings = record.get("rating")
    if not isinstance(ratings, list) or len(ratings) != 2:
        raise RowError(f"rating is {named(ratings)}, not two numbers, which --min-margin needs", where=where)
    both: Mapping[str, Any] = {"rating[0]": ratings[0], "rating[1]": ratings[1]}
    return [optional_number(both, name, where) for name in both]


ORCA_PAIRS = Source(
    name="orca-pairs",
    about="Intel's orca pairs: system, question, and a reply of GPT-4 over one of Llama 2",
    columns=(("system", "question", "chosen", "rejected"),),
    read=read,
    kind="chat",
    hub_id="Intel/orca_dpo_pairs",
    licence="Apache-2.0",
)
ORCA_PAIRS_ARGILLA = Source(
    name="orca-pairs-argilla",
    about="the same, judged anew by Argilla; ties and what is in GSM8K are left out",
    columns=(
        ("system", "input", "chosen", "rejected", "status", "in_gsm8k_train"),
        ("system", "question", "chosen", "rejected", "status", "in_gsm8k_train"),
    ),
    read=read_argilla,
    kind="chat",
    hub_id="argilla/distilabel-intel-orca-dpo-pairs",
    licence="Apache-2.0",
)

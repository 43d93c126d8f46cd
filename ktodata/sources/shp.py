"""Stanford's SHP: a post on Reddit and two comments, the preferred one by its votes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ktodata.errors import RowError
from ktodata.schema import Message, content_hash, named, plain
from ktodata.sources.contract import Example, Piece, Record, Skip, Source, column, number, optional_number, pair, string
from ktodata.sources.messages import reply_of


class Clear(NamedTuple):
    """A pair that is clear enough: the ratio of its scores, and its examples and skips."""

    ratio: float
    found: list[Example | Skip]


def read(record: Record, where: str, *, min_ratio: float = 2.0) -> Iterator[Skip | Piece]:
    """A pair, if one comment has so many times the votes of the other. A comment may win here and lose elsewhere:
    that is a contradiction like any other, and `--on-conflict` settles it."""
    prompt: list[Message] = [{"role": "user", "content": string(record, "history", where)}]
    comments = {name: reply_of(string(record, f"human_ref_{name}", where)) for name in "AB"}
    scores = {name: number(record, f"score_{name}", where) for name in "AB"}
    label = column(record, "labels", where)
    if isinstance(label, bool) or label not in (0, 1, "0", "1"):
        raise RowError(f"labels is {named(label)}, not 1 (A is preferred) or 0", where=where)
    chosen, rejected = "AB" if int(label) else "BA"
    if scores[chosen] == scores[rejected]:
        yield Skip("tie", 2, "both")
        return
    if scores[chosen] < scores[rejected]:
        yield Skip("rejected scored higher", 2, "both")
        return
    ratio = _ratio(record, scores[chosen], scores[rejected], where)
    if ratio < min_ratio:
        yield Skip("ratio too small", 2, "both")
        return
    key = record.get("post_id")
    found = list(pair((prompt, prompt), (comments[chosen], comments[rejected])))
    yield Piece(str(key) if key is not None else content_hash(prompt), Clear(ratio, found))


def _ratio(record: Record, chosen: float, rejected: float, where: str) -> float:
    """The dataset's own ratio if it has one, since its authors made both scores positive for it.

    Raises:
        RowError: it is below 1, or there is none and none can be had.
    """
    ratio = optional_number(record, "score_ratio", where) if "score_ratio" in record else None
    if ratio is not None:
        if ratio < 1:
            given = named(record["score_ratio"])
            raise RowError(f"score_ratio is {given}, and below 1 the other comment is preferred", where=where)
        return ratio
    if chosen <= 0 or rejected <= 0:
        raise RowError("no score_ratio, and the scores are not both over 0", where=where)
    return chosen / rejected


def join(pieces: Sequence[Clear], *, max_pairs_per_prompt: int = 5) -> Iterator[tuple[int, Example | Skip]]:
    """The clearest pairs of one post: those of the highest ratios, and of equal ones by their content."""
    usable = [index for index, piece in enumerate(pieces) if any(isinstance(one, Example) for one in piece.found)]
    chosen = set(heapq.nsmallest(max_pairs_per_prompt, usable, key=lambda index: _rank(pieces[index])))
    for index, piece in enumerate(pieces):
        if index in chosen or index not in usable:
            for one in piece.found:
                yield index, one
        else:
            yield index, Skip("beyond the pairs per prompt", 2, "both")


def _rank(piece: Clear) -> tuple[float, str]:
    replies = [plain(one.completion) for one in piece.found if isinstance(one, Example)]
    return -piece.ratio, content_hash(*replies)


SHP = Source(
    name="shp",
    about="Stanford Human Preferences: posts with two comments, the preferred one by its votes",
    columns=(("history", "human_ref_A", "human_ref_B", "score_A", "score_B", "labels"),),
    read=read,
    join=join,
    kind="chat",
    hub_id="stanfordnlp/SHP",
    licence="none of its own: Reddit's terms hold; see its card",
    kin=("stanfordnlp/SHP-2",),
)

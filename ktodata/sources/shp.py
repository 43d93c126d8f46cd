"""Stanford's SHP: a post on Reddit and two comments, the preferred one by its votes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ktodata.errors import RowError
from ktodata.schema import Message, content_hash, named, normalise_text
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
    preferred = None if isinstance(label, bool) else number(record, "labels", where)
    if preferred not in (0, 1):
        raise RowError(f"labels is {named(label)}, not 1 (A is preferred) or 0", where=where)
    chosen, rejected = "AB" if preferred else "BA"
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
    found = list(pair((prompt, prompt), (comments[chosen], comments[rejected])))
    yield Piece(_post(record) or content_hash(prompt), Clear(ratio, found))


def _post(record: Record) -> str:
    """What names the post, "" if nothing does.

    Posts of several sites have the same ids, each site being a domain. One may have been edited between its pairs, so
    that its text names it only where they are missing.
    """
    names = [record.get("domain"), record.get("post_id")]
    if any(name is None or name == "" or name != name for name in names):  # a csv file's null, and pandas' NaN
        return ""
    return content_hash(*map(str, names))


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
    """The clearest pairs of one post: those of the highest ratios, and of equal ones by their content.

    Copies of a pair count as one. They stay or go with it: duplicates are left out of the rows of any source.
    """
    contents = [_content(piece) for piece in pieces]
    best: dict[str, float] = {}
    for piece, content in zip(pieces, contents, strict=True):
        if content:
            best[content] = max(piece.ratio, best.get(content, 0.0))
    chosen = set(heapq.nsmallest(max_pairs_per_prompt, best, key=lambda content: (-best[content], content)))
    for index, (piece, content) in enumerate(zip(pieces, contents, strict=True)):
        if not content or content in chosen:
            for one in piece.found:
                yield index, one
        else:
            yield index, Skip("beyond the pairs per prompt", 2, "both")


def _content(piece: Clear) -> str:
    """What a pair and its copies have in common, which is normalised, as for duplicates; "" if it has no row."""
    rows = [
        (normalise_text(one.prompt), normalise_text(one.completion), one.label)
        for one in piece.found
        if isinstance(one, Example)
    ]
    return content_hash(*itertools.chain.from_iterable(rows)) if rows else ""


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

"""The caller of strategies: what it adds, refuses, retries and counts, and what its results depend on."""

import dataclasses
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ktodata.errors import KtodataError
from ktodata.negatives.choose import Use, use
from ktodata.negatives.contract import Ask, Option, Run, Skip, Strategy, reply_of
from ktodata.negatives.synthesize import REPEATED, synthesize
from ktodata.schema import Row, make_row, normalise, plain

WORDS = re.findall(
    r"\w+", "yeah sure I can bring the pizza tomorrow if you want to watch that movie with us again maybe"
)


def rows_of(count: int = 40, *, chat: bool = False) -> list[Row]:
    """Desirable rows, two for every third prompt, and an undesirable one for every fourth."""
    rng, rows = random.Random(5), []
    for index in range(count):
        for copy in range(2 if index % 3 == 0 else 1):
            text = " ".join(rng.sample(WORDS, 10)) + f" {index} {copy}"
            rows.append(_row(f"prompt {index}", text, True, chat))
        if index % 4 == 0:
            rows.append(_row(f"prompt {index}", "no", False, chat))
    return rows


def _row(prompt: str, text: str, label: bool, chat: bool) -> Row:
    if not chat:
        return make_row(prompt, text, label, source="file", origin="feedback")
    turns = [
        {"role": "assistant", "content": "let me look"},
        {"role": "tool", "content": "result"},
        {"role": "assistant", "content": text},
        {"role": "tool", "content": "done"},
    ]
    return make_row([{"role": "user", "content": prompt}], turns, label, source="file", origin="feedback")  # type: ignore[arg-type]


def made(one: Any = None, *, many: Any = None, name: str = "made", weight: float | None = None, **more: Any) -> Use:
    """A use of a strategy that exists only here."""
    return Use(Strategy(name=name, summary="", options={}, one=one, many=many, **more), {}, weight)


def shout(row: Row, /, *, pool: Any, rng: random.Random) -> str | Skip:
    return f"{plain(row.completion)} {rng.randrange(10**6)}"


def borrow(row: Row, /, *, pool: Any, rng: random.Random) -> str | Skip:
    others = [other for other in pool if other.prompt_id != row.prompt_id]
    return reply_of(rng.choice(others)) if others else Skip("no other prompt")


def others(run: Run) -> list[Row]:
    return [row for row in run.rows if row.label]


def test_provenance() -> None:
    rows = rows_of()
    parents = {row.id: row for row in rows}
    done = synthesize(rows, [use("corrupt")])
    assert done.desirable == len(done.negatives) == sum(row.label for row in rows)
    assert done.made == {"corrupt": done.desirable}
    assert not done.skipped
    for row in done.negatives:
        parent = parents[row.parent_id]
        assert (row.label, row.origin, row.strategy, row.source) == (False, "synthetic", "corrupt", "file")
        assert parent.label
        assert row.prompt == parent.prompt
        assert row.id == make_row(row.prompt, row.completion, False, source="", origin="pair").id


def test_chat_rows_lose_only_the_last_assistant_message() -> None:
    rows = rows_of(6, chat=True)
    parents = {row.id: row for row in rows}
    negatives = synthesize(rows, [use("corrupt")]).negatives
    assert negatives
    for row in negatives:
        before = parents[row.parent_id].completion
        assert [message["role"] for message in row.completion] == ["assistant", "tool", "assistant", "tool"]  # type: ignore[index]
        differing = [index for index in range(4) if row.completion[index] != before[index]]
        assert differing == [2]


@pytest.mark.parametrize("uses", [[use("corrupt")], [made(borrow, name="borrow", prepare=others), use("corrupt")]])
def test_the_order_of_rows_does_not_matter(uses: list[Use]) -> None:
    rows = rows_of()
    shuffled = random.Random(1).sample(rows, len(rows))
    there = synthesize(rows, uses, per_row=2, seed=3)
    assert there == synthesize(shuffled, uses, per_row=2, seed=3)
    assert there == synthesize(rows, uses[::-1], per_row=2, seed=3) or len(uses) == 1
    assert there.negatives != synthesize(rows, uses, per_row=2, seed=4).negatives


def test_a_row_does_not_depend_on_the_others() -> None:
    rows = rows_of()
    all_of_them = {row.parent_id: row for row in synthesize(rows, [use("corrupt")]).negatives}
    for prompt in {row.prompt_id for row in rows[:5]}:
        some = [row for row in rows if row.prompt_id == prompt]
        for row in synthesize(some, [use("corrupt")]).negatives:
            assert row == all_of_them[row.parent_id]


@pytest.mark.slow
def test_workers_do_not_matter() -> None:
    # More prompts than a process gets at a time, and a strategy that needs the other rows there.
    rows = rows_of(450)
    uses = [made(borrow, name="borrow", prepare=others), use("corrupt")]
    counted: list[int] = []
    one = synthesize(rows, uses)
    two = synthesize(rows, uses, workers=2, advance=counted.append)
    assert one == two
    assert sum(counted) == 2 * one.desirable
    assert len(counted) > 2


def die(row: Row, /, *, pool: Any, rng: random.Random) -> str:
    os._exit(1)


def test_a_worker_that_dies_is_one_error() -> None:
    with pytest.raises(KtodataError, match="a worker process"):
        synthesize(rows_of(5), [made(die)], workers=2)


def test_more_per_row_are_all_different() -> None:
    done = synthesize(rows_of(10), [use("corrupt")], per_row=4)
    texts = [(row.prompt_id, normalise(plain(row.completion))) for row in done.negatives]
    assert len(set(texts)) == len(texts)
    assert max(Counter(row.parent_id for row in done.negatives).values()) == 4


def test_rows_that_differ_in_their_source_alone_get_the_same_whatever_the_order() -> None:
    text = "yeah sure I can bring the pizza tomorrow if you want"
    rows = [make_row("p", text, True, source=source, origin="pair") for source in ("a", "b", "c")]
    done = synthesize(rows, [use("corrupt")])
    assert [row.source for row in done.negatives] == ["a"]
    assert done.desirable == 1
    assert synthesize(rows[::-1], [use("corrupt")]) == done


def test_each_negative_has_a_generator_of_its_own() -> None:
    first: list[float] = []

    def draw(row: Row, /, *, pool: Any, rng: random.Random) -> str:
        first.append(rng.random())
        return f"{first[-1]}"

    rows = rows_of(5)
    for seed in (0, 1):
        synthesize(rows, [made(draw), made(draw, name="other")], per_row=3, seed=seed)
    assert len(first) == 2 * 2 * 3 * sum(row.label for row in rows), "a draft was equal to another"
    assert len(set(first)) == len(first)


def test_what_is_there_is_refused() -> None:
    rows = [
        make_row("p", "Yes, sure", True, source="", origin="pair"),
        make_row("p", "No", False, source="", origin="pair"),
        make_row(" P ", "Maybe", True, source="", origin="pair"),
        make_row("q", "Fine", True, source="", origin="pair"),
    ]
    for taken in ("yes,  SURE", "no", "maybe"):
        done = synthesize(rows[:3], [made(lambda row, taken=taken, **_: taken)])
        assert done.negatives == []
        assert done.skipped == {f"made: {REPEATED}": 2}
    # Fine for another prompt, but only once for this one.
    done = synthesize(rows[3:], [made(lambda row, **_: "no")], per_row=2)
    assert [row.completion for row in done.negatives] == ["no"]
    assert done.skipped == {f"made: {REPEATED}": 1}


def test_it_tries_again_before_it_skips() -> None:
    row = make_row("p", "yes", True, source="", origin="pair")
    drafts = iter(["yes", "YES", "no"])
    done = synthesize([row], [made(lambda row, **_: next(drafts))])
    assert [negative.completion for negative in done.negatives] == ["no"]


def test_skips_are_counted_by_reason_and_add_up() -> None:
    def picky(row: Row, /, *, pool: Any, rng: random.Random) -> str | Skip:
        return {0: Skip("too short"), 1: Skip("too odd"), 2: "  "}.get(rng.randrange(4), "bad")  # type: ignore[return-value]

    rows = [make_row(f"p{index}", "yes", True, source="", origin="pair") for index in range(100)]
    done = synthesize(rows, [made(picky)])
    assert set(done.skipped) == {"made: too short", "made: too odd", "made: empty result"}
    assert sum(done.skipped.values()) + sum(done.made.values()) == 100


def test_without_weights_each_strategy_makes_its_own() -> None:
    rows = rows_of(5)
    done = synthesize(rows, [made(shout, name="shout"), use("corrupt")], per_row=2)
    assert done.made == {"shout": 2 * done.desirable, "corrupt": 2 * done.desirable}


def test_with_weights_they_are_a_mix() -> None:
    rows = rows_of(300)
    uses = [made(shout, name="shout", weight=3.0), use("corrupt", weight=1.0)]
    done = synthesize(rows, uses, per_row=2)
    assert sum(done.made.values()) == 2 * done.desirable
    assert 0.68 < done.made["shout"] / (2 * done.desirable) < 0.82
    assert done == synthesize(rows[::-1], uses, per_row=2)
    assert done.negatives == synthesize(rows, uses[::-1], per_row=2).negatives


def test_models_get_full_batches_and_second_chances() -> None:
    sizes: list[int] = []
    keys: set[str] = set()

    def model(asks: Sequence[Ask], /, *, pool: Any) -> Iterator[tuple[int, str | Skip]]:
        sizes.append(len(asks))
        keys.update(ask.key for ask in asks)
        # Half of the first drafts are what is there already; the longest is finished last.
        for place in sorted(range(len(asks)), key=lambda place: len(plain(asks[place].row.completion))):
            draw = asks[place].rng.random()
            yield place, plain(asks[place].row.completion) if draw < 0.5 else f"made {draw}"

    rows = rows_of(60)
    counted: list[int] = []
    done = synthesize(rows, [made(many=model)], per_row=2, advance=counted.append)
    assert sizes[0] == len(counted) - sum(sizes[1:]) == 2 * done.desirable
    assert 0.4 < sizes[1] / sizes[0] < 0.6
    assert len(keys) == sum(sizes)
    assert sum(counted) == 2 * done.desirable
    assert done.made["made"] > 0.9 * 2 * done.desirable
    assert done.made["made"] + sum(done.skipped.values()) == 2 * done.desirable
    assert done == synthesize(rows[::-1], [made(many=model)], per_row=2)


def test_of_two_equal_drafts_the_first_job_keeps_its_own_whatever_finishes_first() -> None:
    def model(asks: Sequence[Ask], /, *, pool: Any, backwards: bool) -> list[tuple[int, str | Skip]]:
        found: list[tuple[int, str | Skip]] = [(place, "same") for place in range(len(asks))]
        return found[::-1] if backwards else found

    rows = [row for row in rows_of(6) if row.label]
    there, back = (
        synthesize(rows, [dataclasses.replace(made(many=model), options={"backwards": backwards})])
        for backwards in (False, True)
    )
    assert there == back
    assert there.made["made"] == 6
    assert there.skipped == {f"made: {REPEATED}": len(rows) - 6}


def test_what_a_strategy_leaves_out_is_counted() -> None:
    done = synthesize(rows_of(3), [made(many=lambda asks, **_: [(0, "one")])])
    assert sum(done.made.values()) == 1
    assert done.skipped == {"made: no result": done.desirable - 1}


def test_a_strategy_is_prepared_once_and_told_when_the_rows_are_written() -> None:
    seen: list[Any] = []

    def prepare(run: Run) -> str:
        seen.append((len(run.rows), run.seed, run.output))
        return "pool"

    use = made(
        lambda row, *, pool, rng: f"{pool} {rng.random()}",
        prepare=prepare,
        facts=lambda pool: {"model": pool},
        finish=seen.append,
    )
    rows = rows_of(4)
    done = synthesize(rows, [use], seed=3, output="out.jsonl")
    assert seen == [(len(rows), 3, "out.jsonl")]
    assert done.facts == {"made": {"model": "pool"}}
    assert all(plain(row.completion).startswith("pool ") for row in done.negatives)
    done.finish()
    assert seen[1:] == ["pool"]


def test_a_strategy_is_one_of_two_kinds() -> None:
    with pytest.raises(ValueError, match="give one of"):
        Strategy(name="x", summary="", options={"a": Option(kind="int", default=1, help="")})


def test_the_pool_is_of_other_prompts() -> None:
    rows = rows_of(20)
    done = synthesize(rows, [made(borrow, prepare=others)])
    assert len(done.negatives) == done.desirable
    for row in done.negatives:
        assert plain(row.completion) in {plain(other.completion) for other in rows if other.prompt_id != row.prompt_id}
    one = synthesize(rows[:1], [made(borrow, prepare=others)])
    assert one.skipped == {"made: no other prompt": 1}


def test_no_desirable_row_is_an_error() -> None:
    with pytest.raises(KtodataError, match="none of 1 rows is desirable"):
        synthesize([make_row("p", "no", False, source="", origin="pair")], [use("corrupt")])

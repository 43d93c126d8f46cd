"""Contradictions, duplicates, one completion per prompt: what stays, whatever the order."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ktodata.clean import (
    Conflicts,
    Item,
    Kept,
    OnConflict,
    OnePerPrompt,
    contradictions,
    drop_duplicates,
    resolve_conflicts,
)
from ktodata.cli import main
from ktodata.errors import SourceError
from ktodata.order import completion_number
from ktodata.schema import Row, make_row

ROWS: list[Row] = []  # an item knows the place of its row


def item(prompt: str, completion: str, label: bool, source: str = "s") -> Item:
    row = make_row(prompt, completion, label, source=source, origin="pair")
    ROWS.append(row)
    number = completion_number(completion)
    return Item(row.id, row.prompt_id, number, label, (source, "pair", "", ""), len(ROWS) - 1)


def row_of(one: Item) -> Row:
    return ROWS[one.place]


def told(items: list[Item]) -> list[tuple[str, str, bool]]:
    return sorted((str(row_of(one).prompt), str(row_of(one).completion), one.label) for one in items)


def one_per_prompt(items: list[Item], *, seed: int) -> Kept:
    """As it is done for a large file: rows counted and chosen a part at a time, all of a prompt in one."""
    single = OnePerPrompt(seed)
    parts = [[one for one in items if int(one.prompt_id, 16) % 3 == part] for part in range(3)]
    for part in parts:
        single.count(part)
    chosen = [single.choose(part) for part in parts]
    kept = {one.place for found in chosen for one in found.kept}
    return Kept([one for one in items if one.place in kept], [one for one in items if one.place not in kept])


CONTRADICTION = [item("p", "c", True), item("P ", " C", False), item("p", "c", True), item("p", "d", False)]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("drop", [("p", "d", False)]),
        ("majority", [("p", "c", True), ("p", "c", True), ("p", "d", False)]),
        ("keep", told(CONTRADICTION)),
    ],
)
def test_contradictions_are_found_after_normalising(policy: OnConflict, kept: list[tuple[str, str, bool]]) -> None:
    found = resolve_conflicts(CONTRADICTION, policy)
    assert told(found.kept) == kept
    assert told(found.kept + found.dropped) == told(CONTRADICTION)


def test_a_tie_is_dropped() -> None:
    assert told(resolve_conflicts([*CONTRADICTION[:2], CONTRADICTION[3]], "majority").kept) == [("p", "d", False)]


def test_an_error_names_the_first_few_places() -> None:
    conflicts = Conflicts()
    conflicts.refuse()
    for number in (7, 3, 5, 1):
        conflicts.add(f" c{number} ", [f"desirable at a:{number}", f"undesirable at b:{number}"])
    first = r"4 completions carry both labels: 'c1' desirable at a:1, undesirable at b:1.*'c3'.*; 'c5'.*; and 1 more\."
    with pytest.raises(SourceError, match=first):
        conflicts.refuse()
    assert [len(items) for items in contradictions(CONTRADICTION).values()] == [3]
    assert contradictions(CONTRADICTION[1:2]) == {}


def test_the_same_completion_to_another_prompt_is_no_contradiction() -> None:
    items = [item("p", "c", True), item("q", "c", False)]
    assert resolve_conflicts(items, "drop").dropped == []


def test_duplicates_are_those_that_agree_after_normalising() -> None:
    items = [item("p", "c", True, "z"), item("P ", " C", True, "a"), item("p", "c!", True), item("p", "c", False)]
    found = drop_duplicates(items)
    assert [(row_of(one).completion, row_of(one).source) for one in found.dropped] == [("c", "z")]
    assert drop_duplicates(items[::-1]).dropped == found.dropped
    letters = [item("p", "c", True), item("p", "C", True)]
    assert drop_duplicates(letters).kept == drop_duplicates(letters[::-1]).kept


def test_what_unpair_writes_has_no_duplicates_for_check(tmp_path: Path) -> None:
    source, out = tmp_path / "pairs.jsonl", str(tmp_path / "o.jsonl")
    pairs = [{"prompt": f"p{n // 2}", "chosen": f"good {n // 2}", "rejected": f"bad {n}"} for n in range(40)]
    pairs += [{"prompt": f"P{n} ", "chosen": f" Good  {n}\n", "rejected": f"worse {n}"} for n in range(20)]
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    done = CliRunner().invoke(main, ["unpair", str(source), "-o", out])
    assert "40 duplicate" in done.stderr
    found = json.loads(CliRunner().invoke(main, ["check", out, "--json"]).stdout)
    assert {"duplicates": "pass", "contradictions": "pass"}.items() <= {
        one["name"]: one["verdict"] for one in found["checks"]
    }.items()


def test_one_per_prompt_balances_the_classes() -> None:
    both = [item(f"p{n}", f"{label}", label) for n in range(10) for label in (True, False)]
    kept = one_per_prompt(both, seed=0).kept
    assert len({one.prompt_id for one in kept}) == len(kept) == 10
    assert sum(one.label for one in kept) == 5
    only_good = [item(f"q{n}", "good", True) for n in range(4)]
    kept = one_per_prompt(both + only_good, seed=0).kept
    assert sum(one.label for one in kept) == 7, "4 can only be desirable, so 3 of the 10 others are"
    flooded = both + [item(f"q{n}", "good", True) for n in range(40)]
    assert sum(one.label for one in one_per_prompt(flooded, seed=0).kept) == 40


def test_another_seed_keeps_others() -> None:
    both = [item(f"p{n}", f"{label}", label) for n in range(20) for label in (True, False)]
    assert told(one_per_prompt(both, seed=1).kept) != told(one_per_prompt(both, seed=2).kept)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["c", "C", "d", "e"]), st.booleans(), st.integers(0, 2))),
    st.randoms(),
    st.sampled_from(["drop", "majority", "keep"]),
)
def test_order_decides_nothing_and_nothing_is_lost(
    parts: list[tuple[int, str, bool, int]], rng: random.Random, policy: OnConflict
) -> None:
    def clean(items: list[Item]) -> tuple[list[tuple[str, str, bool]], int]:
        conflicts = resolve_conflicts(items, policy)
        copies = drop_duplicates(conflicts.kept)
        single = one_per_prompt(copies.kept, seed=3)
        dropped = len(conflicts.dropped) + len(copies.dropped) + len(single.dropped)
        assert len(single.kept) + dropped == len(items)
        return told(single.kept), dropped

    items = [item(f"p{p}", c, label, f"s{s}") for p, c, label, s in parts]
    before = clean(items)
    rng.shuffle(items)
    assert clean(items) == before


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans())))
def test_one_per_prompt_is_as_balanced_as_can_be(parts: list[tuple[int, bool]]) -> None:
    items = [item(f"p{p}", f"c{n}", label) for n, (p, label) in enumerate(parts)]
    kept = one_per_prompt(items, seed=0).kept
    labels = {p: {label for q, label in parts if q == p} for p, _ in parts}
    forced = Counter(next(iter(one)) for one in labels.values() if len(one) == 1)
    free = sum(len(one) == 2 for one in labels.values())
    best = min((abs(2 * (forced[True] + n) - len(labels)) for n in range(free + 1)), default=0)
    assert abs(2 * sum(one.label for one in kept) - len(kept)) == best

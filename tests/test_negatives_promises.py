"""What holds of every strategy that needs no model, over many casual rows of several kinds."""

import difflib
import random
import re
from collections import Counter

import pytest

from ktodata.negatives.choose import use
from ktodata.negatives.corruption.layout import EMOJI
from ktodata.negatives.registry import STRATEGIES
from ktodata.negatives.synthesize import synthesize
from ktodata.schema import Row, make_row, normalise, plain

NAMES = [name for name, entry in STRATEGIES.items() if not entry.needs]
OPENERS = ["yeah sure,", "haha omg", "hmm not sure,", "ok so", "oh no,", "dai va bene,", "allora,", "boh,"]
THINGS = ["the red bike", "our garden", "that movie", "two tickets", "la pizza", "il concerto", "my keys", "the dog"]
ENDS = ["😊", "lol", "!!", "\nsee you at 8 🎉", "\n\n```\nx = 1\n```", "https://example.org/a_b", "", "👍🏽 ok?"]


def casual_rows(count: int) -> list[Row]:
    rng = random.Random(2)
    rows = []
    for n in range(count):
        thing, other = rng.sample(THINGS, 2)
        reply = f"{rng.choice(OPENERS)} i can bring {thing} tomorrow and leave {other} {n} for later {rng.choice(ENDS)}"
        prompt = f"are we still on for {thing} number {n % (count // 2)}?"
        rows.append(make_row(prompt, f" {reply}", True, source="s", origin="feedback"))
    return rows


ROWS = casual_rows(400)


@pytest.mark.parametrize("name", NAMES)
def test_no_negative_is_right_and_most_rows_have_one(name: str) -> None:
    right = {(row.prompt_id, normalise(plain(row.completion))) for row in ROWS}
    done = synthesize(ROWS, [use(name)])
    assert len(done.negatives) >= 0.8 * len(ROWS)
    for row in done.negatives:
        assert (row.prompt_id, normalise(plain(row.completion))) not in right
        assert row.strategy == name
        assert row.parent_id
        assert plain(row.completion)[0] == " "
        assert plain(row.completion)[1] != " "


@pytest.mark.parametrize("name", NAMES)
def test_neither_the_order_of_rows_nor_another_run_matters(name: str) -> None:
    there = synthesize(ROWS[:120], [use(name)])
    assert there == synthesize(random.Random(5).sample(ROWS[:120], 120), [use(name)])
    assert there.negatives != synthesize(ROWS[:120], [use(name)], seed=1).negatives


def test_the_default_corruption_keeps_lines_code_and_emoji_and_seldom_repeats_itself() -> None:
    before = {row.id: plain(row.completion) for row in ROWS}
    done = synthesize(ROWS, [use("corrupt")], per_row=2)
    for row in done.negatives:
        old, new = before[row.parent_id], plain(row.completion)
        assert new.count("\n") == old.count("\n")
        assert Counter(re.findall(EMOJI, new)) == Counter(re.findall(EMOJI, old))
        for kept in re.findall(r"```\n.*\n```|https://\S+", old):
            assert kept in new
    other = {row.parent_id: row.completion for row in synthesize(ROWS, [use("corrupt")], seed=9).negatives}
    alike = sum(row.completion == other.get(row.parent_id) for row in done.negatives)
    assert alike <= 0.05 * len(ROWS)


def test_the_default_corruption_is_seldom_a_one_word_edit() -> None:
    before = {row.id: plain(row.completion).split() for row in ROWS}
    slight = 0
    for row in synthesize(ROWS, [use("corrupt")], per_row=2).negatives:
        old, new = before[row.parent_id], plain(row.completion).split()
        codes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        touched = sum(max(b - a, d - c) for tag, a, b, c, d in codes if tag != "equal")
        slight += len(old) >= 4 and touched < 2
    assert slight <= 1  # of 800; 4 where such a draft is not thrown away

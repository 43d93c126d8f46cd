"""What every file that we write promises: no run of one label over 8 within 3:1, no neighbours with one prompt."""

import itertools
import json
from collections import Counter

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import ktodata.convert  # these before anything is patched here, or they would keep it
import ktodata.mix
import ktodata.negatives.stream
import ktodata.order
import ktodata.sort_out
import ktodata.split
from ktodata.cli import main
from ktodata.io import read_rows
from ktodata.order import clashes, longest_run, training_order
from ktodata.schema import Row, make_row

COMMANDS: dict[str, list[str]] = {
    "unpair": [],
    "label": ["--thumbs", "label"],
    "negatives": ["--strategy", "template", "--no-leakage"],
    "mix": [],
    "split": ["--eval", "EVAL"],
    "convert": ["--to", "ktokit"],
}


def holds(rows: list[Row], where: str) -> None:
    """The promise. Neighbours of one prompt are avoidable where none has more than half of the rows."""
    classes = Counter(row.label for row in rows)
    prompts = Counter(row.prompt_id for row in rows)
    if len(classes) == 2 and max(classes.values()) <= 3 * min(classes.values()):
        assert longest_run([row.label for row in rows]) <= 8, where
    if 2 * max(prompts.values()) <= len(rows) + 1:
        together = sum(one.prompt_id == other.prompt_id for one, other in itertools.pairwise(rows))
        assert together == 0, where


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=8, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    count=st.integers(4, 400),
    ratio=st.sampled_from([(1, 1), (3, 1), (1, 3), (5, 2)]),
    per_prompt=st.sampled_from([1, 1, 2, 5]),
    together=st.booleans(),
    seed=st.integers(0, 5),
)
def test_every_command_keeps_the_promise(
    command: str,
    count: int,
    ratio: tuple[int, int],
    per_prompt: int,
    together: bool,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("order")
    period = sum(ratio)
    count -= count % period
    labels = [n % period < ratio[0] for n in range(count)]
    if together:
        labels.sort()
    records = [
        {"prompt": f"Which place is {n // per_prompt}?", "completion": f"Place {n}, near {n % 7}.", "label": good}
        for n, good in enumerate(labels)
    ]
    if not records:
        return
    source, out, other = folder / "rows.jsonl", folder / "out.jsonl", folder / "eval.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    options = [str(other) if option == "EVAL" else option for option in COMMANDS[command]]
    with pytest.MonkeyPatch.context() as patch:
        # Few parts, as each deals out its rows for itself: of 128 parts a stretch of 32,768 rows gets hundreds each.
        patch.setattr(ktodata.order, "STRETCH", 60)
        patch.setattr(ktodata.sort_out, "PARTS", 2)
        done = CliRunner().invoke(main, [command, str(source), "-o", str(out), "--seed", str(seed), *options])
    if done.exit_code == 1 and command == "split":  # one prompt alone cannot be on two sides
        return
    assert done.exit_code == 0, done.stderr
    for path in (out, other):
        if path.exists():
            holds(read_rows(str(path)), path.name)


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.integers(0, 6), min_size=2, max_size=60),
    labels=st.lists(st.booleans(), min_size=60, max_size=60),
    seed=st.integers(0, 9),
)
@example(prompts=[0] * 30 + list(range(1, 31)), labels=[True] * 30 + [False] * 30, seed=0)
def test_crowded_prompts_keep_apart_as_long_as_they_can(prompts: list[int], labels: list[bool], seed: int) -> None:
    rows = [
        make_row(f"p{prompt}", f"c{n}", good, source="s", origin="pair")
        for n, (prompt, good) in enumerate(zip(prompts, labels, strict=False))
    ]
    ordered = training_order(rows, seed=seed)
    if 2 * max(Counter(prompts).values()) <= len(rows) + 1:
        assert clashes(ordered) == 0


@pytest.mark.slow
def test_a_hundred_thousand_rows_at_exactly_three_to_one() -> None:
    rows = [make_row(f"p{n // 2}", f"c{n}", n % 4 > 0, source="s", origin="pair") for n in range(100_000)]
    holds(training_order(rows, seed=1), "100,000")

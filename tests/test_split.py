"""`ktodata split`: no prompt on both sides, both classes on both, whatever the order of rows."""

import errno
import functools
import itertools
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from orders import clashes

import ktodata.io.write
import ktodata.sort_out
import ktodata.split
from ktodata.cli import main
from ktodata.errors import SourceError
from ktodata.io import read_rows, rows_of
from ktodata.split import Counted, choose

SIDES = ("train", "eval")
LONG = "Which is the shortest way from the harbour to the old observatory on the hill, and is it open on Sunday "


def records(count: int = 60) -> list[dict[str, Any]]:
    """Two rows of each prompt; of ten prompts in a row, two are like the others' two but for a letter."""
    rows = []
    for n in range(count // 2):
        prompt = f"{n} {n * n * 7919} ".encode().hex() * 2
        if n % 10 < 2:
            prompt = f"{LONG}number {'abcdefgh'[n // 10]}{'?' if n % 10 else ''}"
        rows += [{"prompt": prompt, "completion": f"{label} {n}", "label": label} for label in (True, False)]
    return rows


def save(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(source: str, folder: Path, *options: str, name: str = "") -> Any:
    outputs = ["-o", str(folder / f"{name}train.jsonl"), "--eval", str(folder / f"{name}eval.jsonl")]
    result = CliRunner().invoke(main, ["split", source, *outputs, *options])
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


def test_no_prompt_is_on_both_sides_nor_nearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = records()
    told = []
    for name, given_rows in (("a", rows), ("b", rows[::-1]), ("c", rows)):
        if name == "c":  # and so from disk
            small = functools.partialmethod(ktodata.sort_out.Spill.__init__, budget=500)
            monkeypatch.setattr(ktodata.sort_out.Spill, "__init__", small)
            monkeypatch.setattr(ktodata.split, "Spill", ktodata.sort_out.Spill)
        result = run(save(tmp_path / f"{name}.jsonl", given_rows), tmp_path, "--share", "0.4", name=name)
        assert result.exit_code == 0, result.stderr
        assert "6 prompts are nearly equal to others: 1 groups" in result.stderr
        train, held = (read_rows(str(tmp_path / f"{name}{side}.jsonl")) for side in ("train", "eval"))
        told.append(([row.id for row in train], [row.id for row in held]))
        assert len(train) + len(held) == 60
        assert len(held) == 24
        assert not {row.prompt_id for row in train} & {row.prompt_id for row in held}
        near = [{str(row.prompt) for row in side if LONG in str(row.prompt)} for side in (train, held)]
        assert sorted(map(len, near)) == [0, 6]
        for side in (train, held):
            assert sum(row.label for row in side) == len(side) / 2
            assert clashes(side) == 0
    assert told[0] == told[1] == told[2]
    other = run(str(tmp_path / "a.jsonl"), tmp_path, "--share", "0.4", "--seed", "1", name="d")
    assert other.exit_code == 0
    assert {row.id for row in read_rows(str(tmp_path / "deval.jsonl"))} != set(told[0][1])


def test_near_prompts_go_together_to_either_side(tmp_path: Path) -> None:
    source = save(tmp_path / "in.jsonl", records())
    seen = set()
    for seed in range(6):
        with ktodata.split.split(source, share=0.5, seed=seed) as sides:
            found = {side: [row for row in rows_of(sides.tables(side)) if LONG in str(row.prompt)] for side in SIDES}
        assert sorted(map(len, found.values())) == [0, 12]
        seen |= {side for side in SIDES if found[side]}
    assert seen == set(SIDES)


def test_at_threshold_1_near_prompts_part(tmp_path: Path) -> None:
    result = run(save(tmp_path / "in.jsonl", records()), tmp_path, "--rows", "30", "--near-threshold", "1")
    assert "nearly equal" not in result.stderr
    assert "eval    30 rows of 15 prompts" in result.stderr


groups = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any), min_size=2, max_size=12)


@given(groups, st.integers(1, 30), st.integers(0, 3))
def test_both_classes_are_on_both_sides_when_they_can_be(found: list[tuple[int, int]], wanted: int, seed: int) -> None:
    counts = counted(found)
    total = int(counts.sizes.sum())
    wanted = min(wanted, total - 1)
    chosen = choose(counts, wanted, seed=seed)
    inside, outside = counts.side(chosen), counts.side(~chosen)
    assert inside.rows
    assert outside.rows
    assert inside.rows + outside.rows == total
    possible = [
        mask
        for mask in range(1, 2 ** len(found) - 1)
        if all(
            side[0] and side[1]
            for side in (
                [
                    sum(group[label] for place, group in enumerate(found) if (mask >> place & 1) == one)
                    for label in (0, 1)
                ]
                for one in (0, 1)
            )
        )
    ]
    if possible:
        assert all(side.desirable and side.undesirable for side in (inside, outside))


def counted(found: list[tuple[int, int]]) -> Counted:
    desirable, undesirable = (np.array(one) for one in zip(*found, strict=True))
    return Counted(np.arange(len(found), dtype=np.uint64), desirable, undesirable, np.ones(len(found), dtype=int))


def lacking(found: list[tuple[int, int]], chosen: Sequence[bool]) -> int:
    """How often a side has no row of a class that there is."""
    return sum(
        any(group[label] for group in found)
        and not any(group[label] for group, one in zip(found, chosen, strict=True) if one == side)
        for side in (True, False)
        for label in (0, 1)
    )


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(any), min_size=2, max_size=8), st.data())
def test_of_few_groups_it_is_the_nearest_number_there_is(found: list[tuple[int, int]], data: st.DataObject) -> None:
    """Not more than asked for, unless that takes both classes to both sides."""
    sizes = [sum(group) for group in found]
    wanted = data.draw(st.integers(1, sum(sizes) - 1))

    def told(chosen: Sequence[bool]) -> tuple[int, bool, int]:
        rows = sum(itertools.compress(sizes, chosen))
        return lacking(found, chosen), rows > wanted, abs(rows - wanted)

    best = min(told(one) for one in itertools.product((True, False), repeat=len(found)) if 0 < sum(one) < len(found))
    chosen = choose(counted(found), wanted, seed=data.draw(st.integers(0, 3))).tolist()
    assert 0 < sum(chosen) < len(found)
    assert told(chosen) == best


@pytest.mark.parametrize("seed", range(6))
def test_some_groups_are_exchanged_where_it_takes_that(seed: int) -> None:
    few = counted([(3, 3), (3, 3), (3, 2), (2, 3), (1, 1)])
    assert few.side(choose(few, 10, seed=seed)).rows == 10
    many = counted([(1, 1)] * 400 + [(2, 1)])  # an odd number takes the last
    assert many.side(choose(many, 101, seed=seed)).rows == 101


def test_what_was_asked_for_and_cannot_be_is_said(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} {'xy'[n] * 30}", "completion": f"c{n}", "label": n > 0} for n in range(2)]
    result = run(save(tmp_path / "two.jsonl", rows), tmp_path)
    assert "were asked for" not in result.stderr
    result = run(save(tmp_path / "in.jsonl", records()), tmp_path, "--rows", "7")
    assert "note: 7 rows were asked for, 6 is the nearest found of whole prompts" in result.stderr


@pytest.mark.parametrize("wanted", [5, 50, 180])
def test_a_share_has_the_class_ratio_of_the_whole(wanted: int) -> None:
    desirable = np.array([1] * 150 + [0] * 50)
    counts = Counted(np.arange(200, dtype=np.uint64), desirable, 1 - desirable, np.ones(200, dtype=int))
    inside = counts.side(choose(counts, wanted, seed=3))
    assert inside.rows == wanted
    assert inside.undesirable == round(wanted / 4)


def test_all_rows_of_one_prompt_cannot_be_split() -> None:
    one = np.array([3])
    with pytest.raises(SourceError, match="all 6 rows are of one prompt"):
        choose(Counted(one.astype(np.uint64), one, one, one), 1, seed=0)


def test_what_cannot_be_on_both_sides_is_said(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} {'xyz'[n % 3] * 30}", "completion": f"c{n}", "label": n > 0} for n in range(12)]
    result = run(save(tmp_path / "in.jsonl", rows), tmp_path, "--rows", "4")
    assert result.exit_code == 0
    assert "warning: no undesirable rows in" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--share", "0"], "--share is 0"),
        (["--share", "1"], "--share is 1"),
        (["--rows", "60"], "--rows is 60, of 60 rows"),
        (["--share", "0.5", "--rows", "3"], "both --share and --rows"),
        (["--near-threshold", "0.1"], "--near-threshold is 0.1"),
        (["--eval", "TRAIN"], "both the training file and the evaluation file"),
        (["--eval", "SOURCE"], "is the input"),
        (["--eval", "x.txt"], "unknown suffix"),
    ],
)
def test_usage_errors(tmp_path: Path, options: list[str], said: str) -> None:
    source = save(tmp_path / "in.jsonl", records())
    places = {"TRAIN": str(tmp_path / "train.jsonl"), "SOURCE": source}
    result = run(source, tmp_path, *(places.get(option, option) for option in options))
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "train.jsonl").exists()
    assert not (tmp_path / "eval.jsonl").exists()


@pytest.mark.parametrize("full", ["train", "eval"])
def test_a_full_disk_leaves_both_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    source = save(tmp_path / "in.jsonl", records())
    assert run(source, tmp_path).exit_code == 0
    before = {side: (tmp_path / f"{side}.jsonl").read_bytes() for side in SIDES}
    write = ktodata.io.write.WRITERS[".jsonl"]

    def half(tables: Any, kind: Any, stream: Any) -> int:
        if f".{full}.jsonl." in stream.name:
            next(iter(tables))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(tables, kind, stream)

    monkeypatch.setitem(ktodata.io.write.WRITERS, ".jsonl", half)
    result = run(source, tmp_path, "--seed", "5")
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert before == {side: (tmp_path / f"{side}.jsonl").read_bytes() for side in SIDES}
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "train.jsonl", "eval.jsonl"}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_both_sides_are_whole_before_either_takes_its_place_and_no_signal_comes_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    source = save(tmp_path / "in.jsonl", records())
    names = {side: tmp_path / f"{side}.{suffix}" for side in SIDES}
    options = ["split", source, "-o", str(names["train"]), "--eval", str(names["eval"])]
    assert CliRunner().invoke(main, options).exit_code == 0
    before = {side: sorted(row.id for row in read_rows(str(path))) for side, path in names.items()}
    replace = Path.replace
    whole: list[int] = []

    def replaced(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            if not whole:
                for left in tmp_path.glob(".*.tmp"):
                    copy = left.with_name(f"{len(whole)}.{suffix}")
                    copy.write_bytes(left.read_bytes())
                    whole.append(len(read_rows(str(copy))))
                    copy.unlink()
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    result = CliRunner().invoke(main, [*options, "--seed", "5"])
    assert result.exit_code == 0, result.output
    assert sorted(whole) == sorted(len(ids) for ids in before.values())
    after = {side: sorted(row.id for row in read_rows(str(path))) for side, path in names.items()}
    assert all(after[side] != before[side] for side in SIDES)
    assert sorted(after["train"] + after["eval"]) == sorted(before["train"] + before["eval"])
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", *(path.name for path in names.values())}

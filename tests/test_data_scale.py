"""Files larger than memory: rows set aside on disk come back the same, large orders are as good as small ones."""

import errno
import json
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from click.testing import CliRunner, Result
from orders import clashes, training_order

import ktodata.io.spill
import ktodata.stretches
from ktodata.cli import main
from ktodata.errors import WriteError
from ktodata.io import Spill, read_rows
from ktodata.io.table import rows_of, table_of
from ktodata.order import keys_of, longest_run, tail
from ktodata.schema import make_row
from ktodata.sources.oasst import OASST


def pairs(count: int, *, chat: bool = False) -> list[dict[str, Any]]:
    """Pairs of which some repeat others, contradict them, or have two prompts."""
    records: list[dict[str, Any]] = []
    for n in range(count):
        good, bad = f"good {n} \u00e9\n", f" bad {n}"
        if n % 10 == 3:
            good, bad = f"good {n - 3} \u00e9\n", f" bad {n - 3}"
        if n % 10 == 7:
            good, bad = f" bad {n - 7}", f"good {n - 7} \u00e9\n"
        prompt = f"question {n - n % 10}"
        if chat:
            turn = {"role": "user", "content": prompt}
            replies = [[turn, {"role": "assistant", "content": text}] for text in (good, bad)]
            records.append({"chosen": replies[0], "rejected": replies[1]})
        else:
            records.append({"prompt": prompt, "chosen": good, "rejected": bad})
    return records


def save(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["unpair", *arguments])


WAYS = [
    "walk on",
    "turn left",
    "ask there",
    "wait a bit",
    "change trains",
    "look up",
    "cross over",
    "go back",
    "sit down",
    "take care",
    "see",
]


def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if memory were full after a few rows."""
    monkeypatch.setattr(ktodata.io.spill, "BUDGET", 2000)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    "options", [[], ["--one-per-prompt"], ["--on-conflict", "majority"], ["--on-conflict", "keep", "--as", "chat"]]
)
def test_rows_set_aside_on_disk_come_back_the_same(
    chat: bool, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ktodata.stretches, "STRETCH", 100)
    source = save(tmp_path / "pairs.jsonl", pairs(700, chat=chat))
    written = {}
    for name in ("memory", "disk"):
        if name == "disk":
            tight(monkeypatch)
        out, bad = tmp_path / f"{name}.jsonl", tmp_path / f"{name}-bad.jsonl"
        done = run(source, "-o", str(out), "--quarantine", str(bad), *options)
        assert done.exit_code == 0, done.stderr
        written[name] = out.read_bytes(), bad.read_bytes()
    assert written["memory"] == written["disk"]
    assert not list(tmp_path.glob(".ktodata-*")), "what was set aside is gone"


def test_pieces_of_several_records_are_joined_from_disk_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[dict[str, Any]] = []
    for tree in range(60):
        shared = {"lang": "en", "deleted": False, "message_tree_id": f"t{tree}"}
        root = {"message_id": f"t{tree}", "parent_id": None, "text": f"q {tree}", "role": "prompter", "rank": None}
        records.append(root | shared)
        for rank in range(3):
            reply = {"message_id": f"t{tree}r{rank}", "parent_id": f"t{tree}", "text": f"{tree} {rank}"}
            records.append(reply | {"role": "assistant", "rank": rank} | shared)
    assert OASST.join is not None
    source = save(tmp_path / "trees.jsonl", records)
    assert run(source, "-o", str(tmp_path / "memory.jsonl")).exit_code == 0
    tight(monkeypatch)
    assert run(source, "-o", str(tmp_path / "disk.jsonl")).exit_code == 0
    assert (tmp_path / "disk.jsonl").read_bytes() == (tmp_path / "memory.jsonl").read_bytes()
    rows = read_rows(str(tmp_path / "disk.jsonl"))
    assert len(rows) == 120
    assert {
        str(row.completion).split()[1] if isinstance(row.completion, str) else row.completion[0]["content"][-1]
        for row in rows
        if row.label
    } == {"0"}


def test_contradictions_found_on_disk_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tight(monkeypatch)
    source = save(tmp_path / "pairs.jsonl", pairs(300))
    done = run(source, "-o", str(tmp_path / "out.jsonl"), "--on-conflict", "error")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "60 completions carry both labels" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_full_disk_while_rows_are_set_aside_is_one_line_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight(monkeypatch)
    source = save(tmp_path / "pairs.jsonl", pairs(300))
    old = tmp_path / "out.jsonl"
    old.write_text("old", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ktodata.io.spill.Writer.write_table", full)
    done = run(source, "-o", str(old))
    assert done.exit_code == 1
    assert "rows cannot be set aside: No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "pairs.jsonl"]
    assert old.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    ("kind", "limit", "told"),
    [
        (resource.RLIMIT_NOFILE, 60, "Too many open files. Raise the limit of open files (ulimit -n)"),
        (resource.RLIMIT_FSIZE, 2000, "File too large. Raise the limit of the size of files (ulimit -f)"),
    ],
)
def test_what_stops_rows_from_being_set_aside_is_told_with_its_own_advice(
    kind: int, limit: int, told: str, tmp_path: Path
) -> None:
    def set_aside() -> None:
        with Spill(500, tmp_path, budget=100) as spill:
            resource.setrlimit(kind, (limit, before[1]))
            spill.add(pyarrow.table({"n": numbers}), numbers % (500 if kind == resource.RLIMIT_NOFILE else 2))
            spill.finish()

    numbers = np.arange(50_000)
    before, ignored = resource.getrlimit(kind), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(WriteError) as caught:
            set_aside()
    finally:
        resource.setrlimit(kind, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert told in str(caught.value)


@pytest.mark.parametrize("portion", [1, 900, 10**9])
def test_a_spill_gives_each_part_its_rows_in_order(
    portion: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ktodata.io.spill, "PORTION", portion)
    numbers = np.arange(1000)
    for budget in (10**9, 5000, 500):  # never on disk, after some portions, from the first
        with Spill(7, tmp_path, budget=budget) as spill:
            for start in range(0, 1000, 50):
                part = numbers[start : start + 50]
                spill.add(pyarrow.table({"n": part, "text": [str(n) for n in part]}), part % 7)
            spill.finish()
            assert spill.on_disk == (budget < 10**9)
            for place in range(7):
                found = spill.read(place)
                assert found is not None
                assert found.column("n").to_pylist() == [n for n in range(1000) if n % 7 == place]
                only = spill.read(place, ["text"])
                assert only is not None
                assert only.column_names == ["text"]
                spill.forget(place)
                assert spill.read(place) is None
        assert list(tmp_path.iterdir()) == []


def test_rows_and_tables_are_the_same_thing() -> None:
    chats = [
        make_row(
            [{"role": "user", "content": f"\n q{n}"}],
            [{"role": "assistant", "content": "\u2028 \U0001f600"}],
            n % 2 == 0,
            source="s",
            origin="rated",
            parent_id="p",
        )
        for n in range(5)
    ]
    assert list(rows_of([table_of(chats, "chat")])) == chats


@pytest.mark.parametrize("share", [1.0, 0.34])
def test_an_order_of_many_stretches_has_no_seams(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ktodata.stretches, "STRETCH", 400)
    rows = [
        make_row(f"p{n % 300}", f"c{n} {label}", label, source="s", origin="pair")
        for n in range(2000)
        for label in (True, False)
        if label or n % 100 < 100 * share
    ]
    for seed in range(3):
        ordered = training_order(rows, seed=seed)
        assert Counter(row.id for row in ordered) == Counter(row.id for row in rows)
        assert clashes(ordered) == 0
        assert longest_run([row.label for row in ordered]) <= 8
    assert training_order(rows[::-1], seed=2) == ordered


def test_a_prompt_with_half_of_many_rows_is_spread_over_all_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ktodata.stretches, "STRETCH", 64)
    rows = [make_row("same" if n % 2 else f"p{n}", f"c{n}", n % 3 == 0, source="", origin="pair") for n in range(1999)]
    ordered = training_order(rows, seed=0)
    assert clashes(ordered) == 0


@pytest.mark.parametrize("options", [["--only"], ["--per-row", "2"], ["--strategy", "contaminate"]])
def test_negatives_of_rows_on_disk_are_those_of_rows_in_memory(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ktodata.stretches, "STRETCH", 100)
    rows = [
        {
            "prompt": f"How do I get to place number {n}?",
            "completion": f"Take bus {n} and {WAYS[n % 7]}, {WAYS[n % 5]} from {WAYS[n % 11]}.",
            "label": n % 4 > 0,
        }
        for n in range(240)
    ]
    source = save(tmp_path / "rows.jsonl", [*rows, {"prompt": "p", "completion": "k", "label": True}])
    arguments = [source, "--strategy", "template", "--strategy", "corrupt", "--no-leakage", *options]
    written = {}
    for name in ("memory", "disk"):
        if name == "disk":
            tight(monkeypatch)
        out, bad = tmp_path / f"{name}.jsonl", tmp_path / f"{name}-bad.jsonl"
        done = CliRunner().invoke(main, ["negatives", *arguments, "-o", str(out), "--quarantine", str(bad)])
        assert done.exit_code == 0, done.stderr
        lines = sorted(bad.read_text(encoding="utf-8").splitlines())
        card = (tmp_path / f"{name}.jsonl.card.md").read_text(encoding="utf-8").replace(f"# {name}.jsonl", "")
        written[name] = out.read_bytes(), lines, card
    assert written["memory"] == written["disk"]
    assert written["memory"][1], "the shortest row has no corrupt negative"


def test_a_stretch_knows_as_many_rows_before_it_as_a_run_may_have() -> None:
    rows = [make_row(f"p{n}", f"c{n}", True, source="s", origin="pair") for n in range(30)]
    keys = keys_of(rows)
    last = tail(keys.take(slice(0, 20)))
    assert last.ids.tolist() == keys.ids[11:20].tolist(), "one more than MAX_RUN"
    assert tail(keys.take(slice(20, 22)), last).ids.tolist() == keys.ids[13:22].tolist(), (
        "of a short stretch and before"
    )


def test_balance_holds_no_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (300, 300, 6000):  # the first run pays for imports
        rows = [{"prompt": f"{n} " + "p" * 500, "completion": "c", "label": n % 3 > 0} for n in range(count)]
        source = save(tmp_path / f"{count}.jsonl", rows)
        tracemalloc.start()
        assert CliRunner().invoke(main, ["balance", source]).exit_code == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("words", [1, 60])
def test_ten_times_the_rows_take_little_more_memory(words: int, tmp_path: Path) -> None:
    """Of very short rows too, of which many fit into what is held before rows go to disk."""
    peaks = []
    for count in (20_000, 200_000) if words == 1 else (10_000, 100_000):
        source = tmp_path / "pairs.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for n in range(count):
                good, bad = (" ".join(f"{sign}{n}" for _ in range(words)) for sign in "ab")
                file.write(json.dumps({"prompt": f"q{n}", "chosen": good, "rejected": bad}) + "\n")
        script = (
            "import resource, sys; from ktodata.cli import main; main(sys.argv[1:], standalone_mode=False); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        arguments = ["unpair", str(source), "-o", str(tmp_path / "out.parquet")]
        done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
        assert f"written {2 * count} rows" in done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] <= 1.5 * peaks[0], peaks

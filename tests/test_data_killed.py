"""A killed process and a full disk: the old file stays, and what a dead run set aside goes with the next one."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ktodata.io import Spill, atomic_file
from ktodata.io.leftover import claimed, clear

# A child whose memory is full after a few rows, so that it sets rows aside.
TIGHT = """
import sys
import ktodata.io.spill
from ktodata.cli import main
ktodata.io.spill.BUDGET = 300_000
sys.exit(main(sys.argv[1:]))
"""
LOGS = [{"prompt": f"p {n}", "completion": f"some words for {n}", "label": n % 3 > 0} for n in range(9000)]
PAIRS = [{"prompt": f"p {n}", "chosen": f"good one for {n}", "rejected": f"bad one for {n}"} for n in range(6000)]
COMMANDS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "unpair": (PAIRS, []),
    "label": (LOGS, ["--thumbs", "label"]),
    "negatives": (LOGS, ["--strategy", "template", "--no-leakage"]),
}


def start(
    command: str, folder: Path, out: Path, *, file_size: int = 0, more: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    records, options = COMMANDS[command]
    source = folder.parent / f"{command}.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    def limit() -> None:  # as on a full disk: no file may grow larger, and the error is one of writing
        if file_size:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    return subprocess.Popen(
        [sys.executable, "-c", TIGHT, command, str(source), "-o", str(out), *options, *more],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("room", [1000, 200_000])
@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_the_old_file(command: str, suffix: str, room: int, place: Path) -> None:
    """With room for 1,000 bytes a file nothing can be set aside; with 200,000 the output itself does not fit."""
    out = place / f"rows{suffix}"
    out.write_text("old", encoding="utf-8")
    child = start(command, place, out, file_size=room)
    told = child.communicate(timeout=100)[1]
    assert child.returncode == 1, told
    assert told.startswith("error: ")
    assert "File too large" in told
    assert told.count("\n") == 1, told
    assert out.read_text(encoding="utf-8") == "old"
    assert names(place) == [out.name]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
def test_a_killed_run_leaves_the_old_file_and_the_next_one_tidies_up(command: str, place: Path) -> None:
    """Killed when it sets rows aside, and when it writes: what is left both times goes with the next run."""
    out = place / "rows.jsonl"
    out.write_text("old", encoding="utf-8")
    for sign in (".ktodata-", ".rows.jsonl."):
        child = start(command, place, out)
        while child.poll() is None and not any(name.startswith(sign) for name in names(place)):
            time.sleep(0.002)
        child.kill()
        child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL
        assert out.read_text(encoding="utf-8") == "old"
    assert len(names(place)) > 1
    child = start(command, place, out)
    told = child.communicate(timeout=100)[1]
    assert child.returncode == 0, told
    assert [name for name in names(place) if name.startswith(".")] == []
    written = out.read_bytes()
    out.unlink()
    again = start(command, place, out)
    again.communicate(timeout=100)
    assert again.returncode == 0
    assert out.read_bytes() == written


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("command", "sign"),
    [
        ("unpair", ".ktodata-"),
        pytest.param("negatives", ".rows.jsonl.", marks=pytest.mark.slow),
        pytest.param("label", ".rows.jsonl.", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_asked_to_stop_leaves_nothing_but_the_old_file(
    command: str, sign: str, number: signal.Signals, place: Path
) -> None:
    out = place / "rows.jsonl"
    out.write_text("old", encoding="utf-8")
    child = start(command, place, out, more=["--quarantine", str(place / "bad.jsonl")])
    while child.poll() is None and not any(name.startswith(sign) for name in names(place)):
        time.sleep(0.002)
    child.send_signal(number)
    told = child.communicate(timeout=60)[1]
    assert (child.returncode, told) == (128 + number, f"stopped by {number.name}; nothing was written\n")
    assert names(place) == ["rows.jsonl"]
    assert out.read_text(encoding="utf-8") == "old"


@pytest.mark.slow
def test_the_quarantine_file_of_a_killed_run_goes_with_the_next_one(place: Path) -> None:
    out, options = place / "rows.jsonl", ["--quarantine", str(place / "bad.jsonl")]
    child = start("unpair", place, out, more=options)
    while child.poll() is None and not any(name.startswith(".bad.jsonl.") for name in names(place)):
        time.sleep(0.002)
    child.kill()
    child.communicate(timeout=60)
    assert any(name.startswith(".bad.jsonl.") for name in names(place))
    again = start("unpair", place, out, more=options)
    assert (again.communicate(timeout=100), again.returncode)[1] == 0
    assert names(place) == ["bad.jsonl", "rows.jsonl"]


# Two workers have answered, and have nothing to do then, or much.
WORKERS = """
import operator, sys, time
from ktodata.engine import each

def items():
    for _ in range(20):
        yield 0
    print("ready", flush=True)
    while sys.argv[1] == "busy":
        yield 600
    time.sleep(600)

for _ in each(operator.call, items(), shared=time.sleep, workers=2):
    pass
"""


@pytest.mark.parametrize("workers", ["idle", "busy"])
def test_the_workers_of_a_killed_run_end_with_it(workers: str) -> None:
    """They, and what keeps track of semaphores for them, hold stderr: it ends with the last of them."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKERS, workers], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as child:
        try:
            assert child.stdout
            assert child.stdout.readline() == b"ready\n"
            child.kill()
            assert b"Traceback" not in child.communicate(timeout=60)[1]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def test_what_a_run_that_lives_has_set_aside_stays(tmp_path: Path) -> None:
    ours = tmp_path / ".ktodata-0_a1b2c3"

    def make() -> Path:
        ours.mkdir()
        (ours / "0.arrow").write_bytes(b"rows")
        return ours

    with claimed(make):
        clear(tmp_path, ".ktodata-")
        assert (ours / "0.arrow").exists()
    clear(tmp_path, ".ktodata-")
    assert not ours.exists()


def test_only_what_has_such_a_name_is_taken_away(tmp_path: Path) -> None:
    mine = [".ktodata-notes", ".rows.jsonl.my-own.tmp", "rows.jsonl.tmp", ".rows.jsonl.abcdefgh.bak"]
    for name in mine:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    left = tmp_path / ".rows.jsonl.abcdefgh.tmp"
    left.write_text("half", encoding="utf-8")
    os.mkfifo(tmp_path / ".rows.jsonl.fifofifo.tmp")
    (tmp_path / ".ktodata-aaaabbbb").symlink_to(tmp_path)
    with atomic_file(tmp_path / "rows.jsonl") as stream, Spill(2, tmp_path):
        stream.write(b"new")
    assert (tmp_path / "rows.jsonl").read_bytes() == b"new"
    assert not left.exists()
    assert {*mine, ".ktodata-aaaabbbb"} <= set(names(tmp_path))


def test_two_writers_of_one_file_leave_each_other_alone(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with atomic_file(out) as one, atomic_file(out) as other:
        one.write(b"one")
        other.write(b"other")
    assert out.read_bytes() == b"one", "the last to end"
    with pytest.raises(OSError, match="No space left"), atomic_file(out):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == [out.name]

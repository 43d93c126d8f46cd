"""A command's files take their places together: bad rows are never nowhere, and what is said of a stop is true."""

import errno
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ktodata.cli_common
from ktodata.cli import main
from ktodata.errors import NothingLeftError, WriteError
from ktodata.io import Files, Quarantine, Spill, read_rows

WORDS = ["harbour", "lantern", "orchard", "violin", "granite", "meadow", "compass", "thunder", "saddle", "velvet"]
PAIRS = [{"prompt": f"{word}?", "chosen": f"good {word}", "rejected": f"bad {word}"} for word in WORDS]
ROWS = [
    {"prompt": f"what of the {word} {n}?", "completion": f"the {word} is over there, {n} of them", "label": n < 2}
    for word in WORDS
    for n in range(4)
]
COMMANDS: dict[str, list[str]] = {
    "unpair": ["pairs.jsonl"],
    "label": ["rows.jsonl", "--thumbs", "label"],
    "convert": ["rows.jsonl", "--to", "trl"],
    "mix": ["rows.jsonl"],
    "split": ["rows.jsonl", "--eval", "e.jsonl"],
    "negatives": ["rows.jsonl", "--strategy", "template"],
}
OUTPUTS = {"split": {"o.jsonl", "e.jsonl"}, "negatives": {"o.jsonl", "o.jsonl.card.md"}}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, records in (("pairs", PAIRS), ("rows", ROWS)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(f"{lines}junk\n", encoding="utf-8")
    return tmp_path


def old(command: str) -> set[str]:
    names = {*OUTPUTS.get(command, {"o.jsonl"}), "q.jsonl"}
    for name in names:
        Path(name).write_text("old", encoding="utf-8")
    return names


def run(command: str, *more: str) -> Result:
    return CliRunner().invoke(main, [command, *COMMANDS[command], "-o", "o.jsonl", "--quarantine", "q.jsonl", *more])


def hidden() -> list[str]:
    return [path.name for path in Path().iterdir() if path.name.startswith(".")]


def on_sync(monkeypatch: pytest.MonkeyPatch, name: str, do: Callable[[], None]) -> None:
    """Do something when this file is about to be whole on disk."""
    sync = os.fsync

    def syncing(handle: int) -> None:
        if f".{name}." in str(Path(f"/proc/self/fd/{handle}").readlink()):
            do()
        sync(handle)

    monkeypatch.setattr("os.fsync", syncing)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_room_for_the_quarantine_file_leaves_all_old_files(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    names = old(command)
    on_sync(monkeypatch, "q.jsonl", full)
    done = run(command)
    assert (done.exit_code, done.stderr) == (1, "error: q.jsonl: cannot be written: No space left on device\n")
    assert {Path(name).read_text(encoding="utf-8") for name in names} == {"old"}
    assert hidden() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stop_before_all_are_whole_leaves_all_old_files(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = old(command)
    on_sync(monkeypatch, "q.jsonl", lambda: signal.raise_signal(signal.SIGTERM))
    done = run(command)
    assert (done.exit_code, done.stderr) == (143, "stopped by SIGTERM; nothing was written\n")
    assert {Path(name).read_text(encoding="utf-8") for name in names} == {"old"}
    assert hidden() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_all_are_whole_before_the_first_takes_its_place_and_no_signal_comes_between(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = old(command)
    replace = Path.replace
    whole: dict[str, bytes] = {}

    def replaced(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            if not whole:
                whole.update(
                    {name: left.read_bytes() for name in names for left in Path().glob(f".{name}.????????.tmp")}
                )
                assert target.name == "q.jsonl", "bad rows first: where SIGKILL comes next, they are not lost"
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    done = run(command)
    assert done.exit_code == 0, done.output
    assert {name: Path(name).read_bytes() for name in names} == whole
    assert whole["q.jsonl"].count(b"\n") >= 1
    assert all(content != b"old" for content in whole.values())
    assert hidden() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stop_after_that_says_what_was_written(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = old(command)
    say = ktodata.cli_common.say

    def told(text: str) -> None:
        if text.startswith("read "):
            signal.raise_signal(signal.SIGTERM)
        say(text)

    monkeypatch.setattr("ktodata.cli_common.say", told)
    done = run(command)
    assert done.exit_code == 143
    assert done.stderr.startswith("stopped by SIGTERM; q.jsonl and o.jsonl ")
    assert all(name in done.stderr for name in names)
    assert done.stderr.endswith(" were written\n")
    assert all(Path(name).read_bytes() != b"old" for name in names)
    again = CliRunner().invoke(main, ["presets", "--nothing"])
    assert again.exit_code == 2, "what one command wrote is not told of the next"
    assert ktodata.cli_common._outcome() == "nothing was written"


def test_a_stop_while_leakage_is_measured_leaves_no_output_without_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    names = old("negatives")
    monkeypatch.setattr("ktodata.leakage.Sampled.measure", lambda self: signal.raise_signal(signal.SIGTERM))
    done = run("negatives")
    assert (done.exit_code, done.stderr) == (143, "stopped by SIGTERM; nothing was written\n")
    assert {Path(name).read_text(encoding="utf-8") for name in names} == {"old"}


def process(*arguments: str, **streams: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ktodata", *arguments],
        **({"stderr": subprocess.PIPE, "text": True, "timeout": 100, "check": False} | streams),
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_where_nothing_can_be_said_the_files_are_there() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process("split", "rows.jsonl", "-o", "o.jsonl", "--eval", "e.jsonl", "--quarantine", "q.jsonl", stderr=full)
    assert len(read_rows("o.jsonl")) + len(read_rows("e.jsonl")) == len(ROWS)
    assert json.loads(Path("q.jsonl").read_text(encoding="utf-8"))["record"] == "junk"


@pytest.mark.slow
def test_a_closed_or_full_stdout_is_not_the_quarantine_file_s_fault() -> None:
    lines = "".join(json.dumps(row | {"prompt": f"{row['prompt']} {n}"}) + "\n" for n in range(300) for row in ROWS)
    Path("many.jsonl").write_text(lines, encoding="utf-8")
    command = ["unpair", "many.jsonl", "-o", "-", "--quarantine", "q.jsonl"]
    with subprocess.Popen(
        [sys.executable, "-m", "ktodata", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as piped:
        assert piped.stdout
        assert piped.stderr
        assert piped.stdout.readline().startswith(b"{")
        piped.stdout.close()
        assert piped.stderr.read() == b""
        assert piped.wait(timeout=60) == 1
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            done = process(*command, stdout=full)
        assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")
    assert not Path("q.jsonl").exists()


def test_split_to_stdout_has_the_other_side_whole_before() -> None:
    done = CliRunner().invoke(main, ["split", "rows.jsonl", "-o", "-", "--eval", "e.jsonl", "--quarantine", "q.jsonl"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("\n") + len(read_rows("e.jsonl")) == len(ROWS)
    done = CliRunner().invoke(main, ["split", "rows.jsonl", "-o", "o.jsonl", "--eval", "-", "--quarantine", "q.jsonl"])
    assert done.stdout.count("\n") + len(read_rows("o.jsonl")) == len(ROWS)


def test_after_an_error_only_the_quarantine_file_of_records_that_are_all_bad_is_there() -> None:
    def failing(error: Exception) -> None:
        with Files() as files, Quarantine("q.jsonl", files) as refused, files.open("o.jsonl"):
            refused.add("bad", where="here", record={})
            raise error

    with pytest.raises(ValueError, match="no"):
        failing(ValueError("no"))
    assert not Path("q.jsonl").exists()
    with pytest.raises(NothingLeftError, match=r"All of them are in q\.jsonl"):
        failing(NothingLeftError("nothing to write"))
    assert not Path("o.jsonl").exists()
    assert Path("q.jsonl").read_bytes().count(b"\n") == 1
    assert hidden() == []


def test_an_error_of_writing_names_the_file_that_it_is_of_and_no_other_error_does() -> None:
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        for wanted in ("o.jsonl", "p.jsonl"):
            with (
                pytest.raises(WriteError, match=f"^{wanted}: cannot be written: File too large"),
                Files() as files,
                files.open("o.jsonl") as one,
                files.open("p.jsonl") as other,
            ):
                (one if wanted == "o.jsonl" else other).write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(BrokenPipeError), Files() as files, files.open("o.jsonl"):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    assert hidden() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_the_moment_a_file_is_made_leaves_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = old("unpair")
    for maker in ("mkstemp", "mkdtemp"):

        def made(make: Callable[..., Any], *given: Any, **more: Any) -> Any:
            found = make(*given, **more)
            signal.raise_signal(number)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(tempfile, maker, functools.partial(made, getattr(tempfile, maker)))
            small = functools.partialmethod(Spill.__init__, budget=50)
            patched.setattr(Spill, "__init__", small)
            done = run("unpair")
        assert done.exit_code == 128 + number
        assert done.stderr.endswith("; nothing was written\n")
        assert {Path(name).read_text(encoding="utf-8") for name in names} == {"old"}
        assert hidden() == []

"""The `ktodata` command itself: quick help, one line per error, exit codes, interrupts, closed pipes."""

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ktodata import __version__
from ktodata.cli import COMMANDS, main
from ktodata.cli_common import Command, Summary, default_output, progress, run
from ktodata.errors import UsageError
from ktodata.stop import Stopped, stopping

HEAVY = ("torch", "transformers", "datasets", "pandas", "pyarrow", "nlpaug", "sklearn", "huggingface_hub")
PAIR = '{"prompt": "p%d", "chosen": "good %d", "rejected": "bad %d"}\n'


def python(*arguments: str, **extra: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False, **extra
    )  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["unpair", "--help"], ["label", "--help"], ["presets"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ktodata.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout + done.stderr


def test_every_command_of_the_table_is_there_with_an_example() -> None:
    listed = CliRunner().invoke(main, ["--help"]).output
    assert len(COMMANDS) >= 5
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert f"ktodata {name}" in result.output.partition("Example")[2], f"{name} --help has no example"


def test_the_bare_command_prints_its_help() -> None:
    bare, asked = CliRunner().invoke(main, []), CliRunner().invoke(main, ["-h"])
    assert bare.exit_code == 2
    assert bare.stderr == asked.stdout
    assert bare.stderr.startswith("Usage: ")
    assert asked.exit_code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_h_is_short_for_help(name: str) -> None:
    short, long = (CliRunner().invoke(main, [name, option]) for option in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.stdout == long.stdout


def test_a_question_has_no_full_stop_after_it() -> None:
    assert str(UsageError("what?", do="Do")) == "what? Do"
    assert str(UsageError("cut off…", where="a:1", do="Do")) == "a:1: cut off… Do"
    assert str(UsageError("what", do="Do")) == "what. Do"
    assert "Did you mean 'unpair'? See `" in CliRunner().invoke(main, ["unpiar"]).stderr


def test_version_and_unknown_names() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"ktodata {__version__}\n"
    result = CliRunner().invoke(main, ["unpiar"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "error: no command 'unpiar'. Did you mean 'unpair'?" in result.stderr
    assert CliRunner().invoke(main, ["--nope"]).exit_code == 2


def test_presets_lists_them_all() -> None:
    from ktodata.sources import SOURCES

    output = CliRunner().invoke(main, ["presets"]).output
    assert all(f"{name}\n" in output and source.about in output for name, source in SOURCES.items())
    assert "Anthropic/hh-rlhf, split train" in output
    assert "licence: MIT" in output


def test_a_command_alone_ends_like_the_group() -> None:
    @click.command(cls=Command)
    def failing() -> None:
        raise UsageError("nothing of the kind", do="Try another")

    result = CliRunner().invoke(failing, [])
    assert (result.exit_code, result.stderr) == (2, "error: nothing of the kind. Try another\n")

    @click.command(cls=Command)
    def interrupted() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(interrupted, [])
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted; nothing was written"


def test_an_unexpected_error_is_not_hidden() -> None:
    def bug() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(bug)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hh-rlhf", "hh-rlhf.kto.parquet"),
        ("Anthropic/hh-rlhf", "hh-rlhf.kto.parquet"),
        ("Anthropic/hh-rlhf:helpful-base", "hh-rlhf-helpful-base.kto.parquet"),
        ("data/train.jsonl.gz", "train.kto.parquet"),
        ("data/v1.2.csv", "v1.2.kto.parquet"),
        ("some/folder/", "folder.kto.parquet"),
        ("other/train.kto.parquet", "train.kto.parquet"),
        ("-", "stdin.kto.parquet"),
    ],
)
def test_default_names(source: str, name: str) -> None:
    assert default_output(source) == name


def test_no_source_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktodata.cli_common._on_terminal", lambda stream: True)
    result = CliRunner().invoke(main, ["unpair"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: no SOURCE. Name a file, folder or Hub id, or pipe JSONL in\n",
    )


def test_the_bar_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("working", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("ktodata.cli_common._on_terminal", lambda stream: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with progress("working", 3) as advance:
        advance(3)
    out, err = capsys.readouterr()
    assert not out
    assert "working" in err


def test_a_summary_puts_the_commonest_reason_first() -> None:
    summary = Summary(read=5, unit="pairs", written=4, skipped={"rare": 1, "often": 5})
    assert summary.lines("-", desirable=3, note="10 completions") == [
        "read    5 pairs (10 completions)",
        "written 4 rows to stdout: 3 desirable, 1 undesirable",
        "skipped 6: 5 often, 1 rare",
    ]
    assert Summary(read=1, unit="rows", written=1).lines("o.csv", desirable=0)[-1] == "skipped 0"


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(PAIR % (n, n, n) for n in range(3000)), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "ktodata", "unpair", str(source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("command", [["unpair"], ["presets"]])
def test_a_full_disk_behind_stdout_is_one_line(command: list[str]) -> None:
    text = "".join(PAIR % (n, n, n) for n in range(3000))
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ktodata", *command],
            input=text,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("number", "told"), [("SIGINT", "interrupted"), ("SIGTERM", "stopped by SIGTERM"), ("SIGHUP", "stopped by SIGHUP")]
)
def test_ctrl_c_and_its_like_are_one_line_and_leave_nothing(
    tmp_path: Path, number: str, told: str, workers: str
) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    out.mkdir()
    command = ["unpair", str(pipe), "-o", str(out / "o.parquet"), "--quarantine", str(out / "q"), "--workers", workers]
    with subprocess.Popen(
        [sys.executable, "-m", "ktodata", *command], stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stderr
        with pipe.open("w", encoding="utf-8") as stream:  # returns when the command has opened its end
            stream.write("".join(PAIR % (n, n, n) for n in range(2000)))
            stream.flush()
            time.sleep(0.3)
            sent = signal.Signals[number]
            os.killpg(process.pid, sent)  # as terminals and `timeout` do: to all processes of the command
            if number != "SIGINT":
                os.kill(process.pid, sent)  # `timeout` signals this one twice
            assert process.stderr.read().decode().strip() == f"{told}; nothing was written"
        assert process.wait(timeout=60) == 128 + sent
    assert list(out.iterdir()) == []


def test_a_signal_that_is_ignored_stays_so_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    hung_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with stopping():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Stopped) as stopped:
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # the same request, while the first is answered
    finally:
        signal.signal(signal.SIGHUP, hung_up)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(b"{}", mtime=0), "stdin: gzip data, and stdin takes JSONL only. Unpack it first"),
        (b'[{"prompt": "p"}]', "stdin: a JSON array, and stdin takes JSONL only. Name the file"),
        (b"[\n{}\n]", "stdin: a JSON array"),
        (b"prompt,completion,label\np,c,true\n", "stdin: csv, and stdin takes JSONL only. Name the file"),
    ],
)
def test_stdin_takes_jsonl_only_and_says_so(tmp_path: Path, content: bytes, told: str) -> None:
    result = CliRunner().invoke(main, ["unpair", "-", "-o", str(tmp_path / "o.jsonl")], input=content)
    assert result.exit_code == 1
    assert told in result.stderr

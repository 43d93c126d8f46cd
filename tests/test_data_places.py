"""What a command writes never takes the place of what it reads, nor of what else it writes; names that are none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ktodata.cli import main
from ktodata.io.paths import is_input, real_path

ROWS = [{"prompt": f"what of {n}?", "completion": f"some words of {n}", "label": n % 2 == 0} for n in range(8)]
NEGATIVES = ["negatives", "rows.jsonl", "-o", "o.jsonl", "--strategy"]
POOL = [*NEGATIVES, "contaminate", "--set", "contaminate.pool=pool.jsonl"]
HUGE = "9" * 30


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("rows", "eval", "pool", "more"):
        text = "".join(json.dumps(row | {"prompt": f"{name} {row['prompt']}"}) + "\n" for row in ROWS)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "pack.toml").write_text("", encoding="utf-8")
    (tmp_path / "self.jsonl").symlink_to("self.jsonl")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


IN_THE_WAY: dict[str, tuple[list[str], str]] = {
    "a page is the evaluation set": (
        ["check", "rows.jsonl", "--against", "eval.jsonl", "--html", "eval.jsonl"],
        "eval.jsonl is the evaluation set, or in it: it would be overwritten",
    ),
    "a page is the input": (["check", "rows.jsonl", "--html", "./rows.jsonl"], "./rows.jsonl is the input"),
    "a page is a file of the tokenizer": (
        ["check", "rows.jsonl", "--tokenizer", ".", "--html", "pack.toml"],
        "pack.toml is the tokenizer, or in it",
    ),
    "the quarantine file is the pool": (
        [*POOL, "--quarantine", "pool.jsonl"],
        "pool.jsonl is contaminate.pool, or in it",
    ),
    "the output is the pool": (
        [*POOL[:2], "-o", "pool.jsonl", *POOL[4:]],
        "pool.jsonl is contaminate.pool, or in it",
    ),
    "the quarantine file is a pack": (
        [*NEGATIVES, "template", "--set", "template.pack=formal,./pack.toml", "--quarantine", "pack.toml"],
        "pack.toml is template.pack, or in it",
    ),
    "the quarantine file is a file of templates": (
        [*NEGATIVES, "contextual", "--set", "contextual.templates=pack.toml", "--quarantine", "pack.toml"],
        "pack.toml is contextual.templates, or in it",
    ),
    "the quarantine file is the card": (
        [*NEGATIVES, "corrupt", "--quarantine", "o.jsonl.card.md"],
        "o.jsonl.card.md is both the card and the quarantine file",
    ),
    "the quarantine file is the second input": (
        ["mix", "rows.jsonl", "more.jsonl=2", "-o", "o.jsonl", "--quarantine", "more.jsonl"],
        "more.jsonl is the input, or in it",
    ),
    "both sides on stdout": (["split", "rows.jsonl", "-o", "-", "--eval", "-"], "- is both the training file and"),
    "the quarantine file is the evaluation file": (
        ["split", "rows.jsonl", "-o", "o.jsonl", "--eval", "e.jsonl", "--quarantine", "e.jsonl"],
        "e.jsonl is both the evaluation file and the quarantine file",
    ),
    "a recipe is the input": (["balance", "pack.toml", "--write", "pack.toml"], "pack.toml is the input, or in it"),
}


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_what_would_be_overwritten_is_refused(place: Path, case: str) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    arguments, said = IN_THE_WAY[case]
    done = run(*arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert said in done.stderr
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("option", ["-o", "--quarantine"])
def test_the_file_that_stdin_comes_from_is_refused(place: Path, option: str) -> None:
    before = (place / "rows.jsonl").read_bytes()
    (place / "hard.jsonl").hardlink_to("rows.jsonl")
    for name in ("rows.jsonl", "hard.jsonl"):
        with (place / "rows.jsonl").open(encoding="utf-8") as stream:
            done = subprocess.run(
                [sys.executable, "-m", "ktodata", "unpair", option, name, *(["-o", "-"] if option != "-o" else [])],
                stdin=stream,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == 2
        assert done.stderr == f"error: {name} is the input, or in it: it would be overwritten. Name another file\n"
    assert (place / "rows.jsonl").read_bytes() == before
    assert not is_input("rows.jsonl", "-")


LOOPS: list[list[str]] = [
    ["unpair", "rows.jsonl", "-o", "self.jsonl"],
    ["unpair", "rows.jsonl", "-o", "loop/x.jsonl"],
    ["unpair", "rows.jsonl", "-o", "o.jsonl", "--quarantine", "self.jsonl"],
    ["split", "rows.jsonl", "-o", "o.jsonl", "--eval", "loop/x.jsonl"],
    ["check", "rows.jsonl", "--html", "loop/x.html"],
    [*NEGATIVES, "corrupt", "--quarantine", "loop/x"],
    ["balance", "rows.jsonl", "--write", "self.jsonl"],
    ["push", "rows.jsonl", "me/x", "--dry-run", "loop/x"],
]


@pytest.mark.parametrize("arguments", LOOPS)
def test_links_in_a_circle_are_one_error(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert "Too many levels of symbolic links" in done.stderr
    assert not Path("o.jsonl").exists()


def test_the_real_path_of_what_is_not_there_yet(place: Path) -> None:
    (place / "link").symlink_to("new")
    assert real_path("link/x.jsonl") == place.resolve() / "new" / "x.jsonl"
    for name in ("loop", "loop/x", "none/../loop"):
        with pytest.raises(OSError, match="Too many levels"):
            real_path(name)


EMPTY: dict[str, list[str]] = {
    "no SOURCE": ["mix", "rows.jsonl", "", "-o", "o.jsonl"],
    "no SOURCE.": ["push", "", "me/x", "--dry-run", "o"],
    "no SOURCE. Name": ["check", ""],
    "--eval is ''": ["push", "rows.jsonl", "me/x", "--dry-run", "o", "--eval", ""],
    "--dry-run is ''": ["push", "rows.jsonl", "me/x", "--dry-run", ""],
    "--against is ''": ["check", "rows.jsonl", "--against", ""],
    "--html is ''": ["check", "rows.jsonl", "--html", ""],
    "--html is '-'": ["check", "rows.jsonl", "--html", "-"],
    "--write is ''": ["balance", "rows.jsonl", "--write", ""],
    "--output is ''": ["unpair", "rows.jsonl", "-o", ""],
    "--quarantine is ''": [*NEGATIVES, "corrupt", "--quarantine", ""],
}


@pytest.mark.parametrize("said", EMPTY)
def test_an_unset_variable_is_no_name(place: Path, said: str) -> None:
    before = sorted(place.iterdir())
    done = run(*EMPTY[said])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert f"error: {said}" in done.stderr
    assert sorted(place.iterdir()) == before


ENORMOUS: dict[str, list[str]] = {
    **{
        f"--limit of {command}": [command, "rows.jsonl", "-o", "o.jsonl", *more, "--limit", HUGE]
        for command, more in {
            "unpair": [],
            "label": ["--thumbs", "label"],
            "split": ["--eval", "e.jsonl"],
            "convert": ["--to", "trl"],
            "negatives": ["--strategy", "corrupt"],
        }.items()
    },
    "--limit of check": ["check", "rows.jsonl", "--limit", HUGE],
    "--workers": ["unpair", "rows.jsonl", "-o", "o.jsonl", "--workers", HUGE],
    "--per-row": [*NEGATIVES, "corrupt", "--per-row", HUGE],
    "--ratio": ["balance", "rows.jsonl", "--ratio", "9" * 5000],
    "--target": ["balance", "rows.jsonl", "--target", f"1:{'9' * 5000}"],
}


@pytest.mark.parametrize("case", ENORMOUS)
def test_an_enormous_number_is_one_error(case: str) -> None:
    done = run(*ENORMOUS[case])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert case.partition(" ")[0] in done.stderr
    assert len(done.stderr) < 250
    assert not Path("o.jsonl").exists()


def test_a_ratio_may_have_all_the_digits_of_a_float() -> None:
    assert run("balance", "rows.jsonl", "--ratio", "1.3333333333333333").exit_code == 0


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("unpair rows.jsonl -o - >&-", 2, "error: stdout is closed. Name a file with -o, or open it\n"),
        ("unpair - -o o.jsonl <&-", 2, "error: stdin is closed. Name a file, folder or Hub id, or pipe JSONL in\n"),
        ("unpair -o o.jsonl <&-", 2, "error: no SOURCE. Name a file, folder or Hub id, or pipe JSONL in\n"),
        ("presets >&-", 0, ""),
    ],
)
def test_a_stream_that_is_closed_is_no_traceback(command: str, code: int, said: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m ktodata {command}",
        shell=True,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, said)


def test_what_may_not_be_looked_at_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def looked(self: Path, **more: bool) -> os.stat_result:
        if "noread" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **more)

    monkeypatch.setattr(Path, "stat", looked)
    done = run("push", "rows.jsonl", "me/x", "--dry-run", "noread/dd")
    assert (done.exit_code, done.stderr) == (1, "error: noread/dd: cannot be made: Permission denied\n")


def test_an_error_of_the_system_names_its_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(path: Path, source: str) -> None:
        raise PermissionError(13, "Permission denied", str(path / "result.json"))

    (place / "noread").mkdir()
    monkeypatch.setattr("ktodata.chats.telegram.open_export", kept)
    done = run("label", "noread", "--speaker", "A")
    assert (done.exit_code, done.stderr) == (1, "error: noread/result.json: Permission denied\n")


def test_a_folder_below_a_file_is_told_as_such() -> None:
    done = run("push", "rows.jsonl", "me/x", "--dry-run", "rows.jsonl/x")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: rows.jsonl/x: cannot be made. ")
    assert done.stderr.endswith("rows.jsonl is not a folder\n")

"""`ktodata negatives` and `ktodata strategies` from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ktodata.cli import main
from ktodata.io import read_rows, write_rows
from ktodata.negatives.registry import STRATEGIES
from ktodata.schema import Row, make_row, plain

CASUAL = [
    "yeah sure, gonna be there at 8 lol 😊",
    "haha no way!! that's soooo cool",
    "idk tbh, maybe we could just grab some pizza tmrw?",
    "ok see you then, can't wait to hear all about it :)",
]


@pytest.fixture
def source(tmp_path: Path) -> str:
    rows = [
        make_row(f"Prompt {i}", f" {text}\n", True, source="s", origin="feedback") for i, text in enumerate(CASUAL * 5)
    ]
    write_rows(rows, str(tmp_path / "rows.jsonl"))
    return str(tmp_path / "rows.jsonl")


def run(*args: Any, **more: Any) -> Result:
    return CliRunner().invoke(main, ["negatives", *map(str, args)], **more)


def rows_in(path: Path) -> list[Row]:
    return read_rows(str(path))


def test_it_adds_negatives(source: str, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "out.parquet", "--strategy", "corrupt", "--per-row", 2)
    assert result.exit_code == 0, result.output
    rows = rows_in(tmp_path / "out.parquet")
    assert len(rows) == 60
    assert sum(row.label for row in rows) == 20
    assert {row.id for row in rows_in(Path(source))} == {row.id for row in rows if row.label}
    assert result.stdout == ""
    assert "read    20 rows (20 desirable)" in result.stderr
    assert "written 60 rows to" in result.stderr
    assert "made    40 by corrupt" in result.stderr


def test_only_the_negatives_of_formal_tone(source: str, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "out.jsonl"
    settings = ["--set", "corrupt.operations=tone", "--set", "corrupt.intensity=1"]
    result = run(source, "-o", out, "--strategy", "corrupt", *settings, "--only")
    assert result.exit_code == 0, result.output
    completions = {plain(row.completion) for row in rows_in(out)}
    assert " Yes, sure, I am going to be there at 8.\n" in completions
    assert len(completions) == 4
    assert not any(row.label for row in rows_in(out))


def test_pipes(source: str) -> None:
    text = Path(source).read_text(encoding="utf-8")
    result = run("--strategy", "corrupt", "--only", input=text)
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(records) == 20
    assert {record["strategy"] for record in records} == {"corrupt"}


def test_workers_and_input_order_give_the_same_bytes(source: str, tmp_path: Path) -> None:
    outs = [tmp_path / f"{name}.jsonl" for name in ("one", "two", "turned", "seed")]
    lines = Path(source).read_text(encoding="utf-8").splitlines(keepends=True)
    turned = tmp_path / "turned-in.jsonl"
    turned.write_text("".join(lines[::-1]), encoding="utf-8")
    for out, args in zip(outs, ([source], [source, "--workers", 2], [turned], [source, "--seed", 1]), strict=True):
        assert run(*args, "-o", out, "--strategy", "corrupt").exit_code == 0
    one, two, other_order, other_seed = (out.read_bytes() for out in outs)
    assert one == two
    assert one == other_order
    assert one != other_seed
    # The seed decides the order of the rows too.
    first, last = ([row.id for row in rows_in(out) if row.label] for out in (outs[0], outs[3]))
    assert first != last
    assert sorted(first) == sorted(last)


def test_skips_are_told(tmp_path: Path) -> None:
    rows = [
        make_row(f"p{i}", text, True, source="s", origin="pair")
        for i, text in enumerate(["ok", "no", " ", "we go home"])
    ]
    write_rows(rows, str(tmp_path / "rows.jsonl"))
    result = run(tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl", "--strategy", "corrupt")
    assert result.exit_code == 0
    assert "skipped 3: 2 corrupt: too short, 1 corrupt: empty" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--strategy", "corupt"], 2, "error: no strategy 'corupt'. Did you mean 'corrupt'? Known: "),
        ([], 2, "error: no strategy. Name one: --strategy "),
        (["--strategy", "corrupt", "--set", "corrupt.intensty=1"], 2, "Did you mean 'intensity'?"),
        (["--strategy", "corrupt", "--set", "corrupt.intensity=7"], 2, "It must be a number in (0, 1]"),
        (["--strategy", "corrupt", "--per-row", "0"], 2, "--per-row"),
        (["--strategy", "corrupt", "-o", "out.xyz"], 2, "unknown suffix '.xyz'"),
    ],
)
def test_usage_errors(source: str, tmp_path: Path, args: list[str], code: int, says: str) -> None:
    result = run(source, *(args if "-o" in args else ["-o", tmp_path / "out.jsonl", *args]))
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"prompt": "p", "completion": "c", "label": "true"}\n', "label is 'true', not true or false"),
        ('{"prompt": "p", "completion": "c", "label": false}\n', "none of 1 rows is desirable"),
        ("", "empty"),
    ],
)
def test_data_errors(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content, encoding="utf-8")
    (tmp_path / "out.jsonl").write_text("before", encoding="utf-8")
    result = run(tmp_path / "bad.jsonl", "-o", tmp_path / "out.jsonl", "--strategy", "corrupt")
    assert result.exit_code == 1
    assert says in result.stderr
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "before"


def test_strategies_are_listed() -> None:
    result = CliRunner().invoke(main, ["strategies"])
    assert result.exit_code == 0
    for name, strategy in STRATEGIES.items():
        assert f"{name}: {strategy.summary}" in result.stdout
        for key, option in strategy.options.items():
            assert f"--set {name}.{key}=" in result.stdout
            assert option.help in result.stdout
            assert option.allowed() in result.stdout
    listed = json.loads(CliRunner().invoke(main, ["strategies", "--json"]).stdout)
    assert listed["corrupt"]["options"]["intensity"]["default"] == STRATEGIES["corrupt"].options["intensity"].default


def test_help_has_an_example() -> None:
    for name in ("negatives", "strategies", "balance"):
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert f"ktodata {name}" in result.stdout.split("Examples:")[1]


def test_no_torch_in_a_real_process(source: str, tmp_path: Path) -> None:
    code = (
        "import sys; from ktodata.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print([n for n in ('torch', 'transformers', 'datasets') if n in sys.modules])"
    )
    out = tmp_path / "out.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, "negatives", source, "-o", str(out), "--strategy", "corrupt", "--workers", "2"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert len(rows_in(out)) == 40

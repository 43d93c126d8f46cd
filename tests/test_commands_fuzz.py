"""Whatever a file holds, `split`, `mix`, `convert`, `check` and `push` end with rows or with one line: no traceback."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktodata.cli import main
from ktodata.io import read_rows

texts = st.text(max_size=12) | st.sampled_from(
    ["", " ", "a\ud800", "{name} <|im_end|> [x]", "\n\nHuman: a\n\nAssistant:", "0" * 40]
)
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": texts}), max_size=3
)
values = st.none() | st.booleans() | st.integers(-2, 3) | texts | turns
rows = st.fixed_dictionaries(
    {"prompt": texts, "completion": texts, "label": st.booleans()},
    optional={"origin": st.sampled_from(["pair", "synthetic"]), "strategy": st.sampled_from(["", "contaminate", "x"])},
) | st.fixed_dictionaries({"prompt": turns, "completion": turns, "label": st.booleans()})
junk = st.dictionaries(st.sampled_from(["prompt", "completion", "label", "origin", "source", "messages"]), values)
lines = st.lists(rows | rows | rows | junk, min_size=1, max_size=12)

COMMANDS: dict[str, list[str]] = {
    "split": ["split", "IN", "-o", "OUT.jsonl", "--eval", "EVAL.jsonl"],
    "split to one": [
        "split",
        "IN",
        "-o",
        "OUT.jsonl",
        "--eval",
        "EVAL.jsonl",
        "--rows",
        "1",
        "--quarantine",
        "BAD.jsonl",
    ],
    "mix": ["mix", "IN=2", "OTHER", "-o", "OUT.jsonl", "--as", "chat"],
    "near": ["unpair", "IN", "-o", "OUT.jsonl", "--near-duplicates", "drop", "--quarantine", "BAD.jsonl"],
    "llama-factory": ["convert", "IN", "-o", "OUT.json", "--to", "llama-factory"],
    "axolotl": ["convert", "IN", "-o", "OUT.parquet", "--to", "axolotl", "--quarantine", "BAD.jsonl"],
    "check": ["check", "IN", "--json", "--html", "PAGE.html"],
    "push": ["push", "IN", "me/x", "--dry-run", "CARD"],
}


@pytest.mark.parametrize("name", COMMANDS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=lines)
def test_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, records: list[Any]) -> None:
    monkeypatch.setattr("ktodata.report.plots._picture", lambda draw, height: b"")  # drawing takes half a second
    folder = tmp_path / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "IN.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    other = {"prompt": "p", "completion": "c", "label": True}
    (folder / "OTHER.jsonl").write_text(json.dumps(other) + "\n", encoding="utf-8")
    places = {"IN": "IN.jsonl", "IN=2": "IN.jsonl=2", "OTHER": "OTHER.jsonl"}
    known = ("IN", "IN=2", "OTHER", "OUT", "EVAL", "BAD", "PAGE", "CARD")
    arguments = [
        str(folder / places.get(one, one)) if one.partition(".")[0] in known else one for one in COMMANDS[name]
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    errors = [line for line in result.stderr.splitlines() if line.startswith("error")]
    if result.exit_code:
        assert len(errors) == 1 or name == "check"
    elif name.startswith(("split", "mix", "near")):
        assert read_rows(str(folder / "OUT.jsonl"))
    assert not list(folder.glob(".*"))  # nothing half-written

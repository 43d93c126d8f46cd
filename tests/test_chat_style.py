"""The chat-style recipe: its rows, and the whole of it from casual chats to a trained model."""

import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from ktodata.negatives.language import detect
from ktodata.negatives.registry import STRATEGIES
from ktodata.schema import Row, parse_row
from ktotrain.recipe import load_recipe

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes" / "chat_style"
CHATS = FOLDER / "chats.jsonl"


def part(name: str) -> ModuleType:
    """A module of recipes/chat_style, which is a folder of scripts and no package."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    lines = CHATS.read_text(encoding="utf-8").splitlines()
    return [parse_row(json.loads(line), where=f"line {n}", source="chats") for n, line in enumerate(lines, 1)]


def test_the_data_file_is_what_its_script_makes() -> None:
    code = "import sys, make_data; sys.stdout.reconfigure(encoding='utf-8'); print(end=''.join(make_data.lines()))"
    # In a process of its own: the quickstart has a make_data too.
    made = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, check=True).stdout
    assert made.decode() == CHATS.read_text(encoding="utf-8")


def test_rows_are_distinct_and_in_two_languages(rows: list[Row]) -> None:
    assert len(rows) == 1200
    assert all(row.label for row in rows)
    assert len({row.prompt_id for row in rows}) == len(rows)
    replies = [row.completion[-1]["content"] for row in rows if isinstance(row.completion, list)]
    assert len(set(replies)) == len(rows)
    found = Counter(
        detect(row, reply, ("en", "it", "es", "fr", "de")) for row, reply in zip(rows, replies, strict=True)
    )
    assert found == {"en": 600, "it": 600}
    assert not any(set("{}") & set(json.dumps(reply)) for reply in replies)
    assert CHATS.stat().st_size < 400_000


def test_no_row_is_the_quickstart_s(rows: list[Row]) -> None:
    lines = (ROOT / "recipes" / "quickstart" / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    others = {parse_row(json.loads(line), where="", source="").id for line in lines}
    assert not others & {row.id for row in rows}


def test_the_recipe_is_valid_and_the_script_names_every_strategy() -> None:
    recipe = load_recipe(ROOT / "recipes" / "chat_style.toml")
    assert (ROOT / recipe.model.path / "config.json").exists()
    script = (FOLDER / "run.sh").read_text(encoding="utf-8")
    for name in STRATEGIES:
        assert f"--strategy {name}=" in script


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_casual_chats_to_a_trained_model(tmp_path: Path) -> None:
    out = tmp_path / "chat_style"
    paths = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["sh", str(FOLDER / "run.sh"), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": paths},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    from ktodata.io import read_rows

    made = read_rows(str(out / "train.parquet"))
    assert sum(row.label for row in made) == 1200
    counts = Counter(row.strategy for row in made if not row.label)
    assert set(counts) == set(STRATEGIES)
    # Balanced: next to nothing is skipped, and none of the six is left out.
    assert sum(counts.values()) > 1150
    assert min(counts.values()) > 100
    assert (out / "train.parquet.card.md").exists()
    assert (out / "run" / "model" / "adapter_config.json").exists()
    assert list((out / "run" / "plots").glob("*.png"))
    steps = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(step["rewards/margins"] for step in steps[-10:]) / 10 > 1
    # The last lines compare the model before and after: casual, formal and well-formed replies in per cent.
    before, after = ([int(x) for x in line.replace("%", "").split()[1:]] for line in done.stdout.splitlines()[-2:])
    assert after[0] >= before[0] + 10
    assert after[2] >= before[2] - 10

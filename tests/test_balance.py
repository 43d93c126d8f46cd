"""The rule of section 4 as exact numbers, and `ktodata balance` around it."""

import json
import re
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from ktodata.balance import balance_weights, count_labels, flags, parse_ratio, spell
from ktodata.cli import main
from ktodata.errors import KtodataError, UsageError
from ktodata.io import write_rows
from ktodata.schema import make_row

THREE_HALVES = Fraction(3, 2)
RECIPE = """# My recipe.
[model]
path = "m"   # the model

[loss]
kind = "kto"                # or apo
beta = 0.1
undesirable_weight   =   1.0   # to be set

[train]
epochs = 1
"""


@pytest.mark.parametrize(
    ("desirable", "undesirable", "ratio", "free", "low", "high"),
    [
        (9000, 3000, Fraction(4, 3), "undesirable_weight", Fraction(9, 4), Fraction(3)),
        (9000, 3000, THREE_HALVES, "undesirable_weight", Fraction(2), Fraction(3)),
        (1, 10, Fraction(4, 3), "desirable_weight", Fraction(10), Fraction(40, 3)),
        (1, 10, THREE_HALVES, "desirable_weight", Fraction(10), Fraction(15)),
        (7, 7, Fraction(4, 3), "desirable_weight", Fraction(1), Fraction(4, 3)),
    ],
)
def test_fixed_points(
    desirable: int, undesirable: int, ratio: Fraction, free: str, low: Fraction, high: Fraction
) -> None:
    weights = balance_weights(desirable, undesirable, ratio=ratio)
    assert (weights.free, weights.low, weights.high) == (free, low, high)
    assert weights.effective == 1
    assert weights.desirable * desirable == weights.undesirable * undesirable


def test_the_papers_own_weight_is_the_top_of_the_interval() -> None:
    assert balance_weights(1000, 10_000, target=Fraction(4, 3)).desirable == Fraction(40, 3)


@given(
    st.integers(1, 10**9),
    st.integers(1, 10**9),
    st.fractions(1, 5),
    st.fractions(0, 1),
)
def test_the_rule_holds_exactly(desirable: int, undesirable: int, ratio: Fraction, part: Fraction) -> None:
    target = 1 + part * (ratio - 1)
    weights = balance_weights(desirable, undesirable, ratio=ratio, target=target)
    assert (weights.desirable * desirable) / (weights.undesirable * undesirable) == target
    assert {weights.desirable, weights.undesirable} >= {1}
    value = weights.desirable if weights.free == "desirable_weight" else weights.undesirable
    assert weights.low <= value <= weights.high
    assert (weights.free == "desirable_weight") == (desirable <= undesirable)
    for end in (weights.low, weights.high):
        pair = (end, 1) if weights.free == "desirable_weight" else (1, end)
        assert Fraction(pair[0] * desirable) / (pair[1] * undesirable) in (1, ratio)


@pytest.mark.parametrize(
    ("desirable", "undesirable", "absent"), [(0, 5, "desirable"), (5, 0, "undesirable"), (0, 0, "desirable")]
)
def test_an_absent_class_is_an_error(desirable: int, undesirable: int, absent: str) -> None:
    with pytest.raises(KtodataError, match=f"^no {absent} rows"):
        balance_weights(desirable, undesirable)


@pytest.mark.parametrize("target", [Fraction(9, 10), Fraction(4, 3) + Fraction(1, 10**9)])
def test_a_target_outside_is_an_error(target: Fraction) -> None:
    with pytest.raises(UsageError, match="outside the rule's interval"):
        balance_weights(1, 2, target=target)


def test_a_ratio_below_one_is_an_error() -> None:
    with pytest.raises(UsageError, match="below 1"):
        balance_weights(1, 2, ratio=Fraction(1, 2))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4:3", Fraction(4, 3)),
        ("3/2", THREE_HALVES),
        (" 1.5 ", THREE_HALVES),
        ("2", Fraction(2)),
        ("1.2:1", Fraction(6, 5)),
    ],
)
def test_ratios(text: str, value: Fraction) -> None:
    assert parse_ratio(text) == value


@pytest.mark.parametrize("text", ["", "4:", ":3", "4:0", "0:3", "-4:3", "4:3:2", "a:b", "nan", "1e3", "٤:٣", "1,5"])
def test_what_is_no_ratio(text: str) -> None:
    with pytest.raises(UsageError, match="--ratio is"):
        parse_ratio(text)


def test_counts_and_spelling() -> None:
    rows = [make_row(str(i), "c", i < 2, source="s", origin="pair") for i in range(5)]
    assert count_labels(rows) == (2, 3)
    assert count_labels([]) == (0, 0)
    assert [spell(Fraction(*pair)) for pair in ((40, 3), (9, 4), (1, 1), (10, 1))] == ["13.3333", "2.25", "1", "10"]


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Three desirable rows, one undesirable."""
    return make(tmp_path, 3, 1)


def make(folder: Path, desirable: int, undesirable: int) -> str:
    rows = [
        make_row(f"p{i}", f"c{i}", i < desirable, source="s", origin="feedback") for i in range(desirable + undesirable)
    ]
    write_rows(rows, str(folder / "rows.jsonl"))
    return str(folder / "rows.jsonl")


def run(*args: Any) -> Result:
    return CliRunner().invoke(main, ["balance", *map(str, args)])


def test_it_prints_interval_weights_and_flags(source: str) -> None:
    result = run(source)
    assert result.exit_code == 0, result.output
    assert "undesirable_weight in [2.25, 3]" in result.stdout
    assert "undesirable_weight = 3" in result.stdout
    for line in (
        "--set loss.desirable_weight=1.0 --set loss.undesirable_weight=3.0",
        "desirable_weight=1.0, undesirable_weight=3.0",
        "kto_desirable_weight: 1.0",
        "kto_undesirable_weight: 3.0",
        "kto_chosen_weight: 1.0",
        "kto_rejected_weight: 3.0",
    ):
        assert re.search(rf"^\s+{re.escape(line)}$", result.stdout, re.MULTILINE), line


def test_the_recipe_lines_are_toml() -> None:
    lines = "\n".join(flags(balance_weights(3, 1))["ktotrain (recipe)"])
    assert tomllib.loads(lines) == {"loss": {"desirable_weight": 1.0, "undesirable_weight": 3.0}}


def test_json_is_numbers(source: str) -> None:
    result = run(source, "--json", "--ratio", "3:2", "--target", "1.25")
    assert json.loads(result.stdout) == {
        "desirable": 3,
        "undesirable": 1,
        "ratio": 1.5,
        "weight": "undesirable_weight",
        "low": 2.0,
        "high": 3.0,
        "desirable_weight": 1.0,
        "undesirable_weight": 2.4,
        "effective_ratio": 1.25,
    }


def test_write_keeps_the_rest_of_the_recipe(source: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    result = run(source, "--write", recipe)
    assert result.exit_code == 0, result.output
    after = recipe.read_text(encoding="utf-8")
    assert tomllib.loads(after)["loss"] == {
        "kind": "kto",
        "beta": 0.1,
        "undesirable_weight": 3.0,
        "desirable_weight": 1.0,
    }
    assert set(RECIPE.splitlines()) - set(after.splitlines()) == {"undesirable_weight   =   1.0   # to be set"}
    assert "undesirable_weight   =   3.0   # to be set" in after
    assert re.search(r"3\.0   # to be set\ndesirable_weight = 1\.0\n\n\[train\]", after)
    assert run(source, "--write", recipe).exit_code == 0
    assert recipe.read_text(encoding="utf-8") == after


@pytest.mark.parametrize("before", ["", "# only a comment\n", "[model]\r\npath = 'm' # m\r\n"])
def test_write_makes_the_table(source: str, tmp_path: Path, before: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_bytes(before.encode())
    assert run(source, "--write", recipe).exit_code == 0
    after = recipe.read_bytes().decode()
    assert after.startswith(before.rstrip())
    assert tomllib.loads(after)["loss"] == {"desirable_weight": 1.0, "undesirable_weight": 3.0}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("[loss\nx", "is not TOML"),
        ("loss = 3\n", "loss is a value, not a table"),
        (b"\xff", "is not TOML"),
    ],
)
def test_a_bad_recipe_is_left_alone(source: str, tmp_path: Path, content: str | bytes | None, says: str) -> None:
    recipe = tmp_path / "recipe.toml"
    if content is not None:
        recipe.write_bytes(content.encode() if isinstance(content, str) else content)
    before = recipe.read_bytes() if recipe.exists() else None
    result = run(source, "--write", recipe)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "recipe.toml" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert (recipe.read_bytes() if recipe.exists() else None) == before


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--ratio", "4-3"], 2, "--ratio is '4-3'"),
        (["--ratio", "1:2"], 2, "ratio 0.5 is below 1"),
        (["--target", "1.4"], 2, "target 1.4 is outside the rule's interval [1, 1.3333]"),
        (["--target", "x"], 2, "--target is 'x'"),
    ],
)
def test_usage_errors(source: str, args: list[str], code: int, says: str) -> None:
    result = run(source, *args)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_one_class_only(tmp_path: Path) -> None:
    result = run(make(tmp_path, 3, 0))
    assert result.exit_code == 1
    assert "no undesirable rows (3 desirable, 0 undesirable)" in result.stderr
    assert "ktodata negatives" in result.stderr

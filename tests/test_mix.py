"""`ktodata mix`: weights are shares of the result, no row twice, provenance kept."""

import functools
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from orders import clashes

import ktodata.mix
import ktodata.sort_out
from ktodata.cli import main
from ktodata.errors import KtodataError, UsageError
from ktodata.io import read_rows
from ktodata.mix import Part, parse_part, share_out
from ktodata.schema import make_row


def rows_named(name: str, desirable: int, undesirable: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{name} {n}", "completion": f"reply {name} {n}", "label": n < desirable, "source": f"from {name}"}
        for n in range(desirable + undesirable)
    ]


def save(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["mix", *arguments])
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two files of which two rows are in both, and one row has another label."""
    shared = rows_named("shared", 2)
    copies = [{**row, "source": "later"} for row in shared]
    contrary = [{**rows_named("contrary", 1)[0], "label": label} for label in (True, False)]
    return {
        "A": save(tmp_path / "a.jsonl", [*rows_named("A", 60, 30), *shared, contrary[0]]),
        "B": save(tmp_path / "b.jsonl", [*rows_named("B", 10, 10), *copies, contrary[1]]),
    }


def counts(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in read_rows(str(path)):
        name = row.source.removeprefix("from ") + ("+" if row.label else "-")
        found[name] = found.get(name, 0) + 1
    return found


@pytest.mark.parametrize(
    ("weights", "options", "expected"),
    [
        (("", ""), [], {"A+": 60, "A-": 30, "B+": 10, "B-": 10, "shared+": 2}),
        (("=1", "=1"), [], {"A": 20, "B": 20}),
        (("=3", "=1"), [], {"A": 60, "B": 20}),
        (("=0.75", "=0.25"), ["--rows", "40"], {"A": 30, "B": 10}),
        (("=2", ""), ["--rows", "9"], {"A": 6, "B": 3}),
        (("", ""), ["--rows", "51"], {"A": 42, "B": 9}),
    ],
)
def test_shares_of_the_result(
    tmp_path: Path, files: dict[str, str], weights: tuple[str, str], options: list[str], expected: dict[str, int]
) -> None:
    out = tmp_path / "out.jsonl"
    result = run(files["A"] + weights[0], files["B"] + weights[1], "-o", str(out), *options)
    assert result.exit_code == 0, result.stderr
    assert "skipped 4: 2 both labels, 2 duplicate" in result.stderr
    found = counts(out)
    if "A" in expected:
        for name, number in expected.items():
            # The rows in both files are of the first by provenance, which is A's: "from shared" is their source.
            of = sum(found.get(name + label, 0) for label in "+-")
            assert of + (sum(v for k, v in found.items() if "shared" in k) if name == "A" else 0) == number
    else:
        assert found == expected
    assert clashes(read_rows(str(out))) == 0


def test_each_class_is_taken_in_its_files_ratio() -> None:
    ab: dict[str, Any] = {"names": "AB", "ties": (0, 1)}
    assert share_out([(60, 30), (10, 10)], [3, 1], 80, **ab) == [(40, 20), (10, 10)]
    assert share_out([(7, 3), (50, 50)], [None, None], None, **ab) == [(7, 3), (50, 50)]
    assert share_out([(0, 10), (10, 0)], [0.1, 0.2], None, **ab) == [(0, 5), (10, 0)]
    assert share_out([(7, 0), (0, 3)], [0.7, 0.3], None, **ab) == [(7, 0), (0, 3)]


@pytest.mark.parametrize("size", [1e308, 1e-308, 5e-324])
def test_weights_may_be_of_any_size(size: float) -> None:
    ab: dict[str, Any] = {"names": "AB", "ties": (0, 1)}
    assert share_out([(6, 0), (0, 9)], [size, size], None, **ab) == [(6, 0), (0, 6)]


@pytest.mark.parametrize("weights", [("=1", "=1e-9"), ("=1e-308", "=1"), ("", "=1e308")])
def test_a_weight_that_comes_to_no_rows_is_refused(
    tmp_path: Path, files: dict[str, str], weights: tuple[str, str]
) -> None:
    out = tmp_path / "out.jsonl"
    result = run(files["A"] + weights[0], files["B"] + weights[1], "-o", str(out))
    assert result.exit_code == 2
    scarce = "b" if weights[0] == "=1" else "a"
    assert re.search(rf"{scarce}\.jsonl gets none of \d+ rows at these weights. Give it a larger", result.stderr)
    assert not out.exists()
    result = run(f"{files['A']}=9", files["B"], "-o", str(out), "--rows", "2")
    assert "b.jsonl gets none of 2 rows at these weights. Ask for more, give it a larger weight" in result.stderr


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 40), st.floats(0.01, 100)).filter(lambda part: part[0] + part[1]),
        min_size=1,
        max_size=5,
    ),
    st.none() | st.integers(1, 60),
)
def test_quotas_add_up_and_are_as_near_as_can_be(parts: list[tuple[int, int, float]], rows: int | None) -> None:
    sizes, weights = [part[:2] for part in parts], [part[2] for part in parts]
    try:
        names = [str(n) for n in range(len(parts))]
        quotas = share_out(sizes, weights, rows, names=names, ties=range(len(parts)))
    except KtodataError:
        return
    total = sum(map(sum, quotas))
    assert rows is None or total == rows
    for (desirable, undesirable), size, weight in zip(quotas, sizes, weights, strict=True):
        assert 0 <= desirable <= size[0]
        assert 0 <= undesirable <= size[1]
        assert abs(desirable + undesirable - total * weight / sum(weights)) <= 1.001
        assert abs(desirable - (desirable + undesirable) * size[0] / sum(size)) <= 1.001


def test_the_order_of_files_and_rows_and_the_disk_do_not_matter(
    tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = save(
        tmp_path / "turned.jsonl", [json.loads(line) for line in Path(files["A"]).read_text().splitlines()][::-1]
    )
    runs = [(f"{files['A']}=2", files["B"]), (files["B"], f"{turned}=2"), (f"{files['A']}=2", files["B"])]
    outputs = []
    for number, sources in enumerate(runs):
        if number == 2:
            small = functools.partialmethod(ktodata.sort_out.Spill.__init__, budget=500)
            monkeypatch.setattr(ktodata.sort_out.Spill, "__init__", small)
        out = tmp_path / f"{number}.jsonl"
        assert run(*sources, "-o", str(out), "--rows", "24").exit_code == 0
        outputs.append([row.id for row in read_rows(str(out))])
    assert outputs[0] == outputs[1] == outputs[2]
    out = tmp_path / "other.jsonl"
    assert run(*runs[0], "-o", str(out), "--rows", "24", "--seed", "1").exit_code == 0
    assert set(outputs[0]) != {row.id for row in read_rows(str(out))}


def test_the_order_of_files_does_not_matter_where_a_row_is_left_to_share(tmp_path: Path) -> None:
    """Of 5 rows of three files one gets 1: by the seed and its rows, whatever it is called, wherever it is named."""
    paths = [save(tmp_path / f"{name}.jsonl", rows_named(name, 8, 8)) for name in "ABC"]
    renamed = [save(tmp_path / f"{9 - place}.jsonl", rows_named(name, 8, 8)) for place, name in enumerate("ABC")]
    out = tmp_path / "out.jsonl"
    fewest = set()
    for seed in range(3):
        found = set()
        for some in (*itertools.permutations(paths), renamed):
            arguments = [f"{path}=1" for path in some]
            assert run(*arguments, "-o", str(out), "--rows", "5", "--seed", str(seed)).exit_code == 0
            found.add(tuple(row.id for row in read_rows(str(out))))
        assert len(found) == 1
        taken = Counter(row.source for row in read_rows(str(out)))
        assert sorted(taken.values()) == [1, 2, 2]
        fewest.add(min(taken, key=lambda name: taken[name]))
    assert len(fewest) > 1


def test_a_file_whose_name_ends_like_a_weight_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=1").mkdir()
    save(tmp_path / "x=1" / "train.jsonl", rows_named("X", 3, 3))
    save(tmp_path / "b.jsonl", rows_named("B", 3, 3))
    assert parse_part("x=1") == Part("x=1")
    assert not caplog.records
    assert run("x=1", "b.jsonl", "-o", "out.jsonl").exit_code == 0
    assert {name[0] for name in counts(tmp_path / "out.jsonl")} == {"X", "B"}
    assert parse_part("x=1=2") == Part("x=1", 2)
    save(tmp_path / "x", rows_named("X", 1))
    assert parse_part("x=1") == Part("x=1")
    assert "x=1 is the file or folder of that name, not x with a weight" in caplog.text
    assert parse_part("x=1.0") == Part("x", 1)


def test_kinds_have_to_agree(tmp_path: Path, files: dict[str, str]) -> None:
    chat = [
        {
            "prompt": [{"role": "user", "content": f"q{n}"}],
            "completion": [{"role": "assistant", "content": f"a{n}"}],
            "label": n > 2,
        }
        for n in range(6)
    ]
    other, out = save(tmp_path / "chat.jsonl", chat), tmp_path / "out.jsonl"
    result = run(files["A"], other, "-o", str(out))
    assert result.exit_code == 1
    assert "chat among text" in result.stderr
    assert "--as" in result.stderr
    assert not out.exists()
    assert run(files["A"], other, "-o", str(out), "--as", "chat").exit_code == 0
    assert {row.kind for row in read_rows(str(out))} == {"chat"}


@pytest.mark.parametrize("turned", [False, True])
def test_rows_follow_a_parent_in_another_file_that_became_chat(tmp_path: Path, turned: bool) -> None:
    parents = rows_named("A", 8)
    ids = [make_row(row["prompt"], row["completion"], True, source="", origin="feedback").id for row in parents]
    made = [
        {**row, "completion": "made", "label": False, "origin": "synthetic", "strategy": "corrupt", "parent_id": one}
        for row, one in zip(parents, ids, strict=True)
    ]
    paths = [save(tmp_path / "a.jsonl", parents), save(tmp_path / "b.jsonl", made)]
    out = str(tmp_path / "out.jsonl")
    assert run(*(paths[::-1] if turned else paths), "-o", out, "--as", "chat").exit_code == 0
    rows = read_rows(out)
    assert {row.parent_id for row in rows if not row.label} == {row.id for row in rows if row.label}
    assert not {row.id for row in rows} & set(ids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jsonl", Part("a.jsonl")),
        ("a=b.jsonl", Part("a=b.jsonl")),
        ("a=b=2", Part("a=b", 2)),
        ("a=.5", Part("a", 0.5)),
    ],
)
def test_parts(text: str, expected: Part) -> None:
    assert parse_part(text) == expected


@pytest.mark.parametrize("text", ["a=0", "a=-1", "a=nan", "a=inf", "=2"])
def test_weights_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="weight"):
        parse_part(text)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["A", "A"], 2, "is named twice"),
        (["A=1", "B=1", "--rows", "41"], 2, "b.jsonl has 20 rows"),
        (["A", "B", "--rows", "4100"], 2, "there are 112 at most"),
        (["A", "nothing.jsonl"], 1, "no such file"),
        ([], 2, "SOURCE"),
    ],
)
def test_what_cannot_be(tmp_path: Path, files: dict[str, str], arguments: list[str], code: int, said: str) -> None:
    given_arguments = [files[one[0]] + one[1:] if one[0] in "AB" else one for one in arguments]
    result = run(*given_arguments, "-o", str(tmp_path / "out.jsonl"))
    assert result.exit_code == code
    assert said in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_of_which_nothing_is_left(tmp_path: Path, files: dict[str, str]) -> None:
    copy = save(tmp_path / "copy.jsonl", [{**row, "source": "z"} for row in rows_named("A", 60, 30)])
    out = str(tmp_path / "out.jsonl")
    assert run(files["A"], copy, "-o", out).exit_code == 0
    result = run(f"{files['A']}=1", copy, "-o", out)
    assert result.exit_code == 1
    assert "no rows of it are left" in result.stderr

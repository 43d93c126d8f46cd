"""Odd sets of rows through `check` and the making of a card: verdicts, counts that add up, and no traceback.

Warnings are errors here, those of the libraries that measure included.
"""

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ktodata.cli import main
from ktodata.leakage import Leakage, leakage_of, told_apart
from ktodata.schema import Row, make_row

ODD = [
    "",
    " ",
    "\n",
    "a",
    "B",
    "7",
    ".",
    "😀",
    "👩‍👩‍👧",
    "\u200d",
    "\ufe0f",
    "e\u0301",
    "\u202e",
    "\u2028",
    "\x00",
    "語",
    "ﬁ",
    "\n\nHuman: a\n\nAssistant: b",
    "<|im_end|>",
    "{name} [city] %s {{x}}",
    "a" * 5000,
    "😀" * 300,
    "call 555 123 4567 or a@b.example",
    "the same words here",
    "THE  SAME words\there ",
]
TEXTS = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
COUNTS = st.sampled_from([0, 1, 2, 5, 7, 12, 60])
MORE: dict[str, Any] = {  # columns that a row does not have
    "weight": st.sampled_from([0, -1, 1e308, math.nan, math.inf, None, "heavy", [], {"a": None}]),
    "messages": st.none() | st.just([]),
    "": st.just(1),
}


@st.composite
def rows_of_few_texts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows that share few prompts and few completions: of one class or two, each as many times as it happens."""
    prompts = draw(st.lists(TEXTS, min_size=1, max_size=8))
    replies = {label: draw(st.lists(TEXTS, min_size=1, max_size=4)) for label in (True, False)}
    if draw(st.booleans()):
        replies[False] = replies[True]
    numbered = draw(st.booleans())  # each row another text, so that none is a duplicate
    strategies = draw(st.lists(st.sampled_from(["", "corrupt", "x" * 40, "`|$<b>\\"]), min_size=1, max_size=3))
    chat = draw(st.booleans())
    found = []
    for label in (True, False):
        for n in range(draw(COUNTS)):
            prompt, reply = prompts[n % len(prompts)], replies[label][n % len(replies[label])]
            prompt, reply = (f"{prompt}{n}", f"{reply}{n}") if numbered else (prompt, reply)
            strategy = "" if label else strategies[n % len(strategies)]
            made = (
                "synthetic" if strategy else draw(st.sampled_from(["pair", "rated", "feedback"])) if n == 0 else "pair"
            )
            found.append(
                {
                    "prompt": [{"role": "user", "content": prompt}] if chat else prompt,
                    "completion": [{"role": "assistant", "content": reply}] if chat else reply,
                    "label": label,
                    "source": draw(
                        st.sampled_from(["s", "nvidia/HelpSteer2", "pku-saferlhf?:x", "😀:", ":", "a" * 300])
                    )
                    if n == 0
                    else "s",
                    "origin": made,
                    "strategy": strategy,
                    "parent_id": "",
                    **({name: draw(values) for name, values in MORE.items()} if n == 0 and draw(st.booleans()) else {}),
                }
            )
    return found or [{"prompt": "p", "completion": "c", "label": True}]


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    """A file of rows in a folder that is empty but for it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / "in.jsonl")


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


ONE_CLASS = [{"prompt": f"p{n}", "completion": "yes", "label": True} for n in range(60)]
ONE_PROMPT = [{"prompt": "p", "completion": f"c{n}", "label": n % 2 == 0} for n in range(120)]
ONE_SIDED = [{"prompt": f"p{n * (n % 2)}", "completion": f"c{n}", "label": n % 2 == 0} for n in range(120)]
ALIKE = [{"prompt": f"p{n}", "completion": "😀", "label": n % 2 == 0} for n in range(120)]
UNLIKE = [{"prompt": f"p{n}", "completion": chr(0x4E00 + n), "label": n % 2 == 0} for n in range(120)]
FEW = [{"prompt": f"p{n % 6}", "completion": f"c{n}", "label": n > 2} for n in range(3000)]
EMPTY = [{"prompt": "", "completion": "", "label": n % 2 == 0} for n in range(120)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@example(rows=ONE_CLASS)
@example(rows=[{**row, "label": False} for row in ONE_CLASS])
@example(rows=ONE_PROMPT)
@example(rows=ONE_SIDED)
@example(rows=ALIKE)
@example(rows=UNLIKE)
@example(rows=FEW)
@example(rows=EMPTY)
@given(rows=rows_of_few_texts())
def test_whatever_the_rows_are_each_check_has_a_verdict(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = write(tmp_path_factory.getbasetemp() / "odd", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ktodata.leakage.FEWEST", 5)  # so that small sets are measured, too
        result = run("check", source, "--json", "--against", source)
        assert len(rows) > 50 or run("check", source, "--against", source).exit_code == result.exit_code
    assert result.exit_code in (0, 1)
    assert result.stderr == ""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    report = json.loads(result.stdout, parse_constant=refuse)
    checks = report["checks"]
    assert {one["verdict"] for one in checks} <= {"pass", "warn", "fail", "skipped"}
    leaks = [one for one in checks if one["name"].startswith("leakage")]
    strategies = {row.get("strategy", "") for row in rows if not row["label"]}
    assert len(leaks) == max(1, len(strategies))
    for one in leaks:
        assert all(0 <= one["figures"].get(name, 0) <= 1 for name in ("auc_ngrams", "auc_length"))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@example(rows=ONE_CLASS)
@example(rows=EMPTY)
@example(rows=FEW)
@given(rows=rows_of_few_texts())
def test_whatever_the_rows_are_their_card_counts_them(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import yaml

    folder = tmp_path_factory.getbasetemp() / "odd-card"
    source = write(folder, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ktodata.report.plots._picture", lambda draw, height: b"")  # drawing takes half a second
        result = run("push", source, "me/x", "--dry-run", str(folder / "card"))
    assert result.exit_code == 0, result.stderr
    counted = Counter(row["label"] for row in rows)
    assert f"train: {len(rows)} rows, {counted[True]} desirable, {counted[False]} undesirable" in result.stderr
    card = (folder / "card" / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["tags"][0] == "kto"
    assert "None" not in body
    assert "<b>" not in body.replace("`'|$<b>\\", "").replace("`'\\|$<b>\\`", "")


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@example(rows=ONE_CLASS)
@example(rows=EMPTY)
@given(rows=rows_of_few_texts())
@pytest.mark.pictures
def test_whatever_the_rows_are_pictures_are_drawn(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "odd-pictures"
    source = write(folder, rows)
    assert run("push", source, "me/x", "--dry-run", str(folder / "card")).exit_code == 0
    for name in ("lengths.png", "shares.png"):
        assert (folder / "card" / "plots" / name).read_bytes().startswith(b"\x89PNG")


def _row(prompt: str, completion: str, label: bool) -> Row:
    return make_row(prompt, completion, label, source="s", origin="pair")


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    one=st.lists(st.tuples(TEXTS, TEXTS), max_size=60),
    other=st.lists(st.tuples(TEXTS, TEXTS), max_size=60),
)
def test_the_measure_says_a_share_or_that_it_cannot(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ktodata.leakage.FEWEST", 2)
        desirable, undesirable = (
            [_row(*texts, label) for texts in some] for some, label in ((one, True), (other, False))
        )
        found = told_apart(desirable, undesirable)
        assert found.negatives == len(undesirable)
        assert math.isnan(found.ngrams) == math.isnan(found.length)
        if not math.isnan(found.ngrams):
            assert 0 <= found.ngrams <= 1
            assert 0.5 <= found.length <= 1
        assert str(found)
        assert isinstance(leakage_of(undesirable, desirable), Leakage)

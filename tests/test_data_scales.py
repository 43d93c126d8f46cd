"""Numbers and labels of every preset: on their scale, off it, and what is no number at all."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from families import SAMPLES

from ktodata.cli import main
from ktodata.sources import SOURCES
from ktodata.sources.contract import Source

READ = "read"
BAD = "unreadable"
# What holds for every column of numbers.
NO_NUMBERS: dict[str, Any] = {
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "true": True,
    "false": False,
    "a word": "many",
    "infinity in quotes": "inf",
    "a list": [3],
    "messages": {"role": "user", "content": "3"},
}
NO_FLAGS: dict[str, Any] = {
    "one": 1,
    "zero": 0,
    "a half": 0.5,
    "NaN": math.nan,
    "null": None,
    "infinity": math.inf,
    "yes": "yes",
    "a list": [True],
    "nothing": "",
}
MISSING = [None, "", math.nan]  # pandas writes null as NaN
HIGHER = "rejected scored higher"
SCORES = {READ: ["3", 3, -1e9, 2.5], HIGHER: [10**30], BAD: [*MISSING, "nan"]}
Case = tuple[str, str, tuple[str, ...], dict[str, list[Any]]]
# preset, column, options: what becomes of a record, and the values there that do it
NUMBERS: list[Case] = [
    (
        "hh-rlhf-red-team",
        "rating",
        (),
        {READ: [4, "0", 0.5], "middle rating": [2], BAD: [-0.5, 4.5, "5", 99, *MISSING]},
    ),
    *(
        (
            "helpsteer2",
            axis,
            ("--axis", axis),
            {READ: [4, "0", 3.5], "middle rating": [2], BAD: [-1, 5, "4.5", 9, *MISSING]},
        )
        for axis in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    ),
    (
        "shp",
        "score_ratio",
        (),
        {READ: [2, "3.5", None, math.nan], "ratio too small": [1, 1.9], BAD: [0.5, 0, -2, "0.1"]},
    ),
    ("shp", "score_A", (), {READ: [30, "30"], "tie": [10], HIGHER: [9, -5], BAD: MISSING}),
    ("oasst", "rank", (), {READ: [0, "0", 0.0], "not ranked": MISSING, BAD: [-1, 0.5, "1.5", -2.0]}),
    ("ultrafeedback", "score_chosen", (), {READ: [10, 10**30, "10"], HIGHER: [0, -1e9], BAD: MISSING}),
    ("ultrafeedback", "score_rejected", (), SCORES),
    ("ultrafeedback-argilla", "rejected-rating", (), SCORES),
    ("ultrafeedback-trl", "score_rejected", (), SCORES),
    ("scored-pairs", "rejected_rating", (), SCORES | {"tie": [5, "5.0"]}),
    (
        "orca-pairs-argilla",
        "chosen_score",
        ("--min-score", "5"),
        {READ: [9, "9"], "score too small": [-3], "no rating": MISSING},
    ),
    (
        "pku-saferlhf",
        "better_response_id",
        ("--axis", "better"),
        {READ: [0, 1.0, "1"], "tie": [-1], "no judgement": MISSING, BAD: [2, 0.5, -2, "3"]},
    ),
    (
        "pku-saferlhf",
        "safer_response_id",
        ("--axis", "safer"),
        {READ: [0, 1.0, "1"], "tie": [-1], "no judgement": MISSING, BAD: [2, 0.5, -2, "3"]},
    ),
    ("halos-pairs", "label", (), {READ: [0, "1", 1.0], BAD: [2, -1, 0.5, *MISSING]}),
    ("halos-kto", "label", (), {READ: [0, "1", 1.0], BAD: [2, -1, 0.5, *MISSING]}),
]
FLAGS: list[Case] = [
    ("pku-saferlhf", "is_response_0_safe", (), {READ: [True, "True", "false"]}),
    ("pku-saferlhf", "is_response_1_safe", (), {READ: [False, "true"]}),
    ("orca-pairs-argilla", "in_gsm8k_train", (), {READ: [False, "false"], "in GSM8K": [True, "true"]}),
    *(
        (preset, "label", (), {READ: [True], BAD: ["true", "False"]})
        for preset in ("kto-mix", "capybara-kto", "llama-factory-kto", "axolotl-kto", "rows")
    ),
]
WORDS: list[Case] = [
    (
        "shp",
        "labels",
        (),
        {
            READ: [1, "1", 1.0, "1.0"],
            HIGHER: [0, "0", "0.0"],
            BAD: [2, "2.0", "nan", -1, 0.5, True, False, math.inf, "A", *MISSING],
        },
    ),
    ("oasst", "deleted", (), {READ: [None, math.nan, False, "False"], BAD: [0, 1, 2, math.inf, "", "maybe"]}),
    (
        "orca-pairs-argilla",
        "status",
        (),
        {READ: ["unchanged", "swapped"], "tie": ["tie"], BAD: ["Tie", 0, True, *MISSING]},
    ),
]
OF_HALOS = ("halos-pairs", "halos-kto")  # whose labels may be true and false as well as 1 and 0


def cases() -> list[Any]:
    found = []
    for table, others in ((NUMBERS, NO_NUMBERS), (FLAGS, NO_FLAGS), (WORDS, {})):
        for preset, column, options, verdicts in table:
            pairs = [(value, verdict) for verdict, values in verdicts.items() for value in values]
            for value in others.values():
                pairs.append((value, READ if isinstance(value, bool) and preset in OF_HALOS else BAD))
            for value, verdict in pairs:
                found.append(pytest.param(preset, column, options, value, verdict, id=f"{preset}-{column}-{value!r}"))
    return found


@pytest.mark.parametrize(("preset", "column", "options", "value", "verdict"), cases())
def test_a_value_is_read_or_refused_with_a_reason(
    preset: str, column: str, options: tuple[str, ...], value: Any, verdict: str, tmp_path: Path
) -> None:
    records = copy.deepcopy(SAMPLES[preset])
    place = next((n for n, one in enumerate(records) if one.get("rank") is not None), 0) if preset == "oasst" else 0
    assert column in records[place]
    records[place][column] = value
    source, bad, out = tmp_path / "a.jsonl", tmp_path / "bad.jsonl", tmp_path / "o.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    arguments = ["unpair", str(source), "--preset", preset, "-o", str(out), "--on-conflict", "keep", *options]
    result = CliRunner().invoke(main, [*arguments, "--quarantine", str(bad)])
    assert result.exit_code in (0, 1), result.exception
    kept = [json.loads(line) for line in bad.read_text(encoding="utf-8").splitlines()]
    reasons = {one["reason"] for one in kept if one["where"] == f"{source}:{place + 1}"}
    assert reasons == (set() if verdict == READ else {verdict})
    if verdict == BAD:
        assert all(column in one["detail"] for one in kept if one["reason"] == BAD)
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {source}:{place + 1}: {column} is "), result.stderr


def _reads_numbers(source: Source) -> bool:
    """Whether a preset decides by something that is no text."""
    return source.name not in ("hh-rlhf", "oasst-trees", "orca-pairs", "tulu-3", "dahoas", "reviewer2", "pairs",
                               "llama-factory-dpo", "axolotl-dpo")  # fmt: skip


def test_every_preset_that_decides_by_a_number_or_flag_is_in_the_tables() -> None:
    here = {preset for table in (NUMBERS, FLAGS, WORDS) for preset, *_ in table}
    assert here == {name for name, source in SOURCES.items() if _reads_numbers(source)}


def test_a_ratio_is_made_of_the_scores_where_it_is_missing(tmp_path: Path) -> None:
    record = {**SAMPLES["shp"][0], "score_A": 60, "score_B": 20, "labels": 1}
    source = tmp_path / "a.jsonl"
    texts = [json.dumps({**record, "score_ratio": ratio, "post_id": str(ratio)}) for ratio in (None, math.nan)]
    source.write_text("\n".join(texts), encoding="utf-8")
    for ratio, code in (("3", 0), ("3.1", 1)):
        out = tmp_path / f"{ratio}.jsonl"
        result = CliRunner().invoke(main, ["unpair", str(source), "-o", str(out), "--min-ratio", ratio])
        assert result.exit_code == code, result.stderr

"""Every family of public datasets: found from its columns, read from every format, thresholds that do what they say."""

import csv
import gzip
import itertools
import json
import math
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from families import EXPECTED, SAMPLES, SKIPPED, argilla_orca, helpsteer, message, nested, reply, shp, ultrafeedback

from ktodata.cli import main
from ktodata.errors import RowError, SourceError, UsageError
from ktodata.schema import Row, plain
from ktodata.sources import OPTIONS, SOURCES, detect, get_source, of_hub_id
from ktodata.sources.contract import number
from ktodata.unpair import Unpaired, unpair

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside this repository")
TOLD_BY_COLUMNS = sorted(set(SOURCES) - {"reviewer2"})  # its columns are those of any pairs


def save(path: Path, records: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(records[0]))
            writer.writeheader()
            writer.writerows({name: in_csv(value) for name, value in record.items()} for record in records)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def in_csv(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | dict) else value


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def short(row: Row) -> tuple[str, str, bool]:
    """The prompt's last turn, the completion, and the label."""
    prompt = row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"]
    return prompt, plain(row.completion), row.label


def found(made: Unpaired) -> Counter[tuple[str, str, bool]]:
    return Counter(map(short, made.rows))


def test_every_family_has_a_sample() -> None:
    assert set(SAMPLES) == set(SOURCES)


@pytest.mark.parametrize("name", TOLD_BY_COLUMNS)
def test_each_family_is_told_by_its_columns_alone(name: str) -> None:
    assert {detect(record, where="").name for record in SAMPLES[name]} == {name}


@pytest.mark.parametrize(
    ("name", "suffix"),
    # A tree has no place in a cell of csv.
    sorted(set(itertools.product(SAMPLES, (".jsonl", ".csv", ".parquet"))) - {("oasst-trees", ".csv")}),
)
def test_each_family_becomes_the_rows_it_should(tmp_path: Path, name: str, suffix: str) -> None:
    source = save(tmp_path / f"a{suffix}", SAMPLES[name])
    made = unpair(source, preset=name if name == "reviewer2" else "")
    assert made.layout.name == name
    assert found(made) == Counter(EXPECTED[name])
    assert made.skipped == SKIPPED.get(name, {})
    assert made.completions == len(made.rows) + sum(made.skipped.values())
    layout = SOURCES[name]
    assert {row.kind for row in made.rows} == {layout.kind or made.rows[0].kind}
    assert {row.origin for row in made.rows} == {layout.origin}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_neither_order_nor_workers_nor_kind_change_which_rows_there_are(tmp_path: Path, name: str) -> None:
    source = save(tmp_path / "a.jsonl", SAMPLES[name])
    rows = unpair(source, preset=name).rows
    save(tmp_path / "a.jsonl", SAMPLES[name][::-1])
    assert unpair(source, preset=name).rows == rows
    chat = unpair(source, preset=name, as_kind="chat").rows
    assert Counter(row.label for row in chat) == Counter(row.label for row in rows)
    assert {row.kind for row in chat} == {"chat"}


@pytest.mark.slow
def test_workers_read_a_family_whose_records_belong_together_alike(tmp_path: Path) -> None:
    records = [
        record | {"message_tree_id": f"{record['message_tree_id']}{n}"}
        for n in range(60)
        for record in SAMPLES["oasst"]
    ]
    source = save(tmp_path / "a.jsonl", records)
    assert unpair(source, on_conflict="keep", workers=2).rows == unpair(source, on_conflict="keep").rows


def test_system_prompts_are_turns() -> None:
    for name in ("orca-pairs", "axolotl-kto", "axolotl-dpo"):
        first = next(iter(SOURCES[name].read(SAMPLES[name][0], "")))
        assert first.prompt == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "q1"}]  # type: ignore[union-attr]


def test_hub_ids_go_to_their_presets() -> None:
    for name, source in SOURCES.items():
        for repo in filter(None, (source.hub_id, *source.kin)):
            expected = name if name != "hh-rlhf-red-team" else "hh-rlhf"
            assert of_hub_id(repo.upper()).name == expected  # type: ignore[union-attr]
    assert of_hub_id("Anthropic/hh-rlhf", "red-team-attempts") is SOURCES["hh-rlhf-red-team"]
    assert of_hub_id("Anthropic/hh-rlhf", "helpful-base") is SOURCES["hh-rlhf"]
    assert of_hub_id("nobody/nothing") is None


def test_margin_and_score(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", [*SAMPLES["ultrafeedback"], ultrafeedback("q9", "low", "high", (1.0, 9.0))])
    made = unpair(source, options={"min_margin": 0.75})
    assert found(made) == Counter(EXPECTED["pairs"])
    assert made.skipped == {"tie": 2, "rejected scored higher": 2, "margin too small": 2}
    orca = save(tmp_path / "b.jsonl", SAMPLES["orca-pairs-argilla"])
    assert unpair(orca, options={"min_margin": 1.0, "min_score": 9.0}).skipped == SKIPPED["orca-pairs-argilla"]
    result = run("unpair", orca, "-o", str(tmp_path / "o.jsonl"), "--min-score", "9.5")
    assert "nothing to write: 6 completions read, 2 score too small, 2 tie, 2 in GSM8K" in result.stderr


def test_ratio_and_pairs_per_prompt_keep_the_clearest(tmp_path: Path) -> None:
    pairs = [shp("p", f"good {n}", f"bad {n}", (10 * n, 10)) for n in range(1, 9)]
    source = save(tmp_path / "a.jsonl", [*pairs, shp("other", "x", "y", (20, 10))])
    made = unpair(source)
    assert made.skipped == {"tie": 2, "beyond the pairs per prompt": 4}
    assert {short(row)[1] for row in made.rows if row.label} == {*(f"good {n}" for n in range(4, 9)), "x"}
    less = unpair(source, options={"max_pairs_per_prompt": 1, "min_ratio": 2.5})
    assert {short(row)[1] for row in less.rows if row.label} == {"good 8"}
    assert less.skipped["ratio too small"] == 4


@pytest.mark.parametrize(
    ("scores", "margin", "stays"),
    [
        ((4.1, 4.0), 0.1, True),
        ((8.2, 7.7), 0.5, True),
        ((8.5, 8.0), 0.5, True),
        ((0.3, 0.0), 0.3, True),
        ((4.0999, 4.0), 0.1, False),
        ((8.2, 7.701), 0.5, False),
    ],
)
@pytest.mark.parametrize("single", [False, True], ids=["double", "single"])
def test_scores_that_differ_by_the_margin_are_far_enough_apart(
    tmp_path: Path, scores: tuple[float, float], margin: float, stays: bool, single: bool
) -> None:
    """As numbers are written: in floats, 4.1 - 4.0 is below .1, in double and in single precision."""
    stored = struct.unpack("ff", struct.pack("ff", *scores)) if single else scores
    expected = {} if stays else {"margin too small": 2}
    other = ultrafeedback("other", "good", "bad", (9.0, 1.0))
    made = unpair(
        save(tmp_path / "a.jsonl", [ultrafeedback("q", "a", "b", stored), other]), options={"min_margin": margin}
    )
    assert made.skipped == expected
    for rating in (stored, stored[::-1]):
        orca = save(tmp_path / "b.jsonl", [argilla_orca("q") | {"rating": list(rating)}, argilla_orca("other")])
        assert unpair(orca, options={"min_margin": margin}).skipped == expected


def test_posts_of_two_sites_are_two_though_their_ids_are_equal(tmp_path: Path) -> None:
    def posts(site: str, **more: Any) -> list[dict[str, Any]]:
        own = {"domain": site, "history": f"of {site}"} | more
        return [shp("1234", f"good {n}", f"bad {n}", (10 * n, 10)) | own for n in range(2, 6)]

    records = [*posts("stackphysics"), *posts("stackmath")]
    made = unpair(save(tmp_path / "a.jsonl", records))
    assert (len(made.rows), made.skipped) == (16, {})
    # A post that was edited between its pairs is one; and where nothing names the post, its text does.
    records = [*posts("s"), *posts("s", history="of s, edited")]
    assert unpair(save(tmp_path / "a.jsonl", records)).skipped == {"beyond the pairs per prompt": 6}
    for none in (None, "", math.nan):
        for name in ("post_id", "domain"):
            records = [*posts("s", **{name: none}), *posts("s", history="another", **{name: none})]
            assert len(unpair(save(tmp_path / "a.jsonl", records)).rows) == 16
            records = [{key: value for key, value in one.items() if key != name} for one in records]
            assert len(unpair(save(tmp_path / "a.jsonl", records)).rows) == 16


def test_copies_of_a_pair_leave_room_for_others(tmp_path: Path) -> None:
    best = shp("p", "best", "worst", (90, 10))
    records = [
        best,
        *(best | {"human_ref_A": text} for text in ("best", "BEST", "best ", " best")),
        *SAMPLES["shp"][:1],
    ]
    records += [shp("p", f"good {n}", f"bad {n}", (10 * n, 10)) for n in (2, 3)]
    made = unpair(save(tmp_path / "a.jsonl", records), options={"max_pairs_per_prompt": 3})
    assert {plain(row.completion).strip().lower() for row in made.rows} == {
        *("best", "worst", "good 2", "good 3", "bad 2", "bad 3", "wins", "loses")
    }
    assert made.skipped == {"duplicate": 8}
    # A copy is as clear as the clearest of them, and goes with them.
    records = [best | {"score_ratio": 2.0}, best, *(shp("p", f"g{n}", f"b{n}", (50, 10)) for n in range(2))]
    for turned in (records, records[::-1]):
        made = unpair(save(tmp_path / "a.jsonl", turned), options={"max_pairs_per_prompt": 1})
        assert {plain(row.completion) for row in made.rows} == {"best", "worst"}
        assert made.skipped == {"duplicate": 2, "beyond the pairs per prompt": 4}


def test_which_of_equally_clear_pairs_stay_is_no_matter_of_order(tmp_path: Path) -> None:
    records = [shp("p", f"good {n}", f"bad {n}", (30, 10)) for n in range(9)]
    first = unpair(save(tmp_path / "a.jsonl", records)).rows
    assert len(first) == 10
    for turned in (records[::-1], records[4:] + records[:4]):
        assert unpair(save(tmp_path / "a.jsonl", turned)).rows == first


def test_a_comment_that_wins_and_loses_is_settled(tmp_path: Path) -> None:
    records = [shp("p", "top", "mid", (40, 10)), shp("p", "mid", "low", (10, 2)), shp("p", "top", "low", (40, 2))]
    source = save(tmp_path / "a.jsonl", records)
    made = unpair(source)
    assert found(made) == Counter([("history of p", "top", True), ("history of p", "low", False)])
    assert made.skipped == {"both labels": 2, "duplicate": 2}


def test_shp_without_its_ratio_and_with_the_other_label(tmp_path: Path) -> None:
    record = shp("p", "a", "b", (30, 10), label=0)
    del record["score_ratio"]
    assert unpair(save(tmp_path / "a.jsonl", [record | {"score_A": 10, "score_B": 30}])).rows
    made = unpair(save(tmp_path / "a.jsonl", [record, shp("p", "c", "d", (30, 10))]))
    assert made.skipped == {"rejected scored higher": 2}, "the label says B, the scores say A"


def test_safety_has_three_axes(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", SAMPLES["pku-saferlhf"])
    for axis, chosen in (("better", {"q1 reply 1", "q2 reply 0"}), ("safer", {"q1 reply 0", "q2 reply 1"})):
        rows = unpair(source, options={"axis": axis}).rows
        assert {short(row)[1] for row in rows if row.label} == chosen
        assert len(rows) == 4


def test_a_licence_that_forbids_commerce_is_said(tmp_path: Path) -> None:
    for name, preset, told in (
        ("pku-saferlhf", "pku-saferlhf", "note: the licence of pku-saferlhf is CC-BY-NC-4.0"),
        ("pku-saferlhf", "", "note: if these are rows of PKU-Alignment/PKU-SafeRLHF, its licence is CC-BY-NC-4.0"),
        ("helpsteer2", "", ""),
    ):
        source = save(tmp_path / "a.jsonl", SAMPLES[name])
        result = run("unpair", source, "-o", str(tmp_path / "o.jsonl"), "--preset", preset)
        assert told in result.stderr
        assert ("note:" in result.stderr) == bool(told)


def test_ratings_by_another_axis_and_other_thresholds(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", SAMPLES["helpsteer2"])
    made = unpair(source, options={"axis": "verbosity", "desirable_at": 2, "undesirable_at": 4})
    assert Counter(row.label for row in made.rows) == {True: 3, False: 1}, "the fewer words, the better"
    with pytest.raises(UsageError, match="--desirable-at and --undesirable-at are both 2"):
        unpair(source, options={"desirable_at": 2, "undesirable_at": 2})


def test_a_system_prompt_that_the_messages_repeat_is_one_turn() -> None:
    lead = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "q"}]
    chosen, rejected = ([*lead, {"role": "assistant", "content": text}] for text in ("a", "b"))
    for system, expected in (("Be kind.", lead), ("Be brief.", [{"role": "system", "content": "Be brief."}, *lead])):
        for prompt in ({}, {"prompt": "q"}, {"prompt": lead}):
            record = {"system": system, "chosen": chosen, "rejected": rejected, **prompt}
            found = list(SOURCES["pairs"].read(record, ""))
            assert [one.prompt for one in found] == [expected, expected]  # type: ignore[union-attr]


def test_strings_with_tulus_columns_are_any_pairs() -> None:
    record = {"id": "1", "prompt": "q", "chosen": "a", "rejected": "b", "source": "s"}
    assert detect(record, where="").name == "pairs"


def test_turns_of_helpsteer_prompts() -> None:
    read = SOURCES["helpsteer2"].read
    (example,) = read(helpsteer("q3\n<extra_id_1>Assistant\na\n\nb\n<extra_id_1>User\nq4", "great", 4), "")
    assert [(turn["role"], turn["content"]) for turn in example.prompt] == [  # type: ignore[union-attr,index]
        ("user", "q3"),
        ("assistant", "a\n\nb"),
        ("user", "q4"),
    ]


def test_languages_of_trees(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", SAMPLES["oasst"])
    made = unpair(source, options={"lang": "DE"})
    assert found(made) == Counter([("other", "gut", True), ("other", "schlecht", False)])
    assert made.skipped == {"another language": 4, "deleted": 1, "not ranked": 1}
    for lang, taken in (("pt-BR", True), ("pt-br", True), ("ptx", False), ("p", False)):
        tree = [message("a", None, "q"), *(message(f"m{n}", "a", f"r{n}", float(n), lang=lang) for n in range(2))]
        tree += [message("b", None, "q2"), *(message(f"n{n}", "b", f"s{n}", float(n), lang="pt") for n in range(2))]
        made = unpair(save(tmp_path / "b.jsonl", tree), options={"lang": "pt"})
        assert made.skipped == ({} if taken else {"another language": 2}), lang


def test_trees_with_holes(tmp_path: Path) -> None:
    records = [
        message("a", "b", "circle"),
        message("b", "a", "of two"),
        message("c", "a", "r0", 0.0),
        message("d", "gone", "r1", 0.0),
        message("e", None, "starts with a reply", 0.0),
        message("f", None, "deleted", deleted=True),
        message("g", "f", "r2", 0.0),
        message("h", None, "tie?"),
        message("i", "h", "r3", 1.0),
        message("j", "h", "r4", 1.0),
        message("k", None, "q"),
        message("l", "k", "fine", 0.0),
        message("m", "k", "worse", 1.0),
        message("n", "k", " ", 2.0),
    ]
    made = unpair(save(tmp_path / "a.jsonl", records))
    assert found(made) == Counter([("q", "fine", True), ("q", "worse", False)])
    assert made.skipped == {
        "messages in a circle": 1,
        "a message above it is missing": 1,
        "no prompt": 1,
        "below a deleted message": 1,
        "tie": 2,
        "empty completion": 1,
    }


def test_flat_and_nested_trees_give_the_same_rows(tmp_path: Path) -> None:
    deep = nested("turn 0")
    for depth in range(1, 1200):  # deeper than Python's recursion
        deep = reply(f"a{depth}", 0, deep) if depth % 2 else nested(f"turn {depth}", deep, reply(f"b{depth}", 1))
    tree = {"message_tree_id": "t", "prompt": nested("root", deep, reply("other", 1))}
    (trees,) = [SOURCES["oasst-trees"].read(tree, "")]
    assert len(list(trees)) == 1200


def test_options_that_a_preset_does_not_have_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", SAMPLES["hh-rlhf"])
    cases = {
        ("--min-margin", "1"): "the preset 'hh-rlhf' has no --min-margin. It has no such options; `ktodata presets`",
        ("--axis", "safe"): "the preset 'hh-rlhf' has no --axis",
        (
            "--preset",
            "shp",
            "--axis",
            "safe",
        ): "the preset 'shp' has no --axis. It has --min-ratio, --max-pairs-per-prompt",
    }
    assert run("unpair", "hh-rlhf", "-o", "-", "--axis", "safe").exit_code == 2, "and nothing is fetched before"
    for options, text in cases.items():
        result = run("unpair", source, "-o", str(tmp_path / "o.jsonl"), *options)
        assert (result.exit_code, result.stderr.count("\n")) in ((2, 1), (1, 1))
        assert text in result.stderr
    safe = save(tmp_path / "b.jsonl", SAMPLES["pku-saferlhf"])
    for value, text in (("saver", "--axis is 'saver'. It may be safe, better, safer"),):
        assert text in run("unpair", safe, "-o", str(tmp_path / "o.jsonl"), "--axis", value).stderr
    posts = save(tmp_path / "c.jsonl", SAMPLES["shp"])
    for flag, value, text in (
        ("--min-ratio", "0.5", "--min-ratio is 0.5. The least that makes sense is 1"),
        ("--min-ratio", "nan", "--min-ratio is nan, not a number"),
        ("--max-pairs-per-prompt", "0", "--max-pairs-per-prompt is 0. The least that makes sense is 1"),
        ("--max-pairs-per-prompt", "many", "'many' is not a valid integer"),
        ("--min-margin", "1", "has no --min-margin. It has --min-ratio, --max-pairs-per-prompt"),
    ):
        result = run("unpair", posts, "-o", str(tmp_path / "o.jsonl"), flag, value)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert text in result.stderr


def test_presets_lists_what_there_is_to_know() -> None:
    listed = json.loads(run("presets", "--json").stdout)
    assert [one["name"] for one in listed] == list(SOURCES)
    by_name = {one["name"]: one for one in listed}
    assert by_name["ultrafeedback"]["split"] == "train_prefs"
    assert "CC-BY-NC" in by_name["pku-saferlhf"]["licence"]
    assert by_name["shp"]["options"]["--max-pairs-per-prompt"]["default"] == 5
    assert by_name["pku-saferlhf"]["options"]["--axis"]["choices"] == ["safe", "better", "safer"]
    assert all(one["licence"] for one in listed if one["hub_id"])
    assert {flag for one in listed for flag in one["options"]} == {f"--{name.replace('_', '-')}" for name in OPTIONS}
    text = run("presets").stdout
    assert re.search(r"^shp\n(    .*\n)*        --min-ratio 2: ", text, re.MULTILINE)


def test_the_page_of_presets_is_up_to_date() -> None:
    page = Path(__file__).parents[1] / "docs" / "presets.md"
    assert page.read_text(encoding="utf-8") == run("presets", "--markdown").stdout, (
        "ktodata presets --markdown > docs/presets.md"
    )


def test_a_name_close_to_a_preset_is_named() -> None:
    with pytest.raises(UsageError, match="Did you mean 'ultrafeedback'"):
        get_source("ultrafeadback")


@needs_shared
@pytest.mark.parametrize(("name", "pairs", "apart", "empty"), [("train", 1600, 1, 4), ("test", 300, 1, 0)])
def test_harmless_base_counted_by_hand(name: str, pairs: int, apart: int, empty: int) -> None:
    source = SHARED / "hh-rlhf" / "harmless-base" / f"{name}.jsonl.gz"
    rows: set[tuple[str, str, bool]] = set()
    differ = blank = 0
    for line in gzip.decompress(source.read_bytes()).decode().splitlines():
        pair = json.loads(line)
        cuts = {key: text.rsplit("\n\nAssistant:", 1) for key, text in pair.items()}
        if cuts["chosen"][0] != cuts["rejected"][0]:
            differ += 1
            continue
        for key, (before, after) in cuts.items():
            if after.strip():
                rows.add((before + "\n\nAssistant:", after, key == "chosen"))
            else:
                blank += 1
    assert (differ, blank) == (apart, empty)
    made = unpair(str(source))
    assert found(made) == Counter(rows)
    assert (made.read, made.completions) == (pairs, 2 * pairs)
    expected = {"prompts differ": 2 * apart, "empty completion": empty}
    assert made.skipped == {reason: count for reason, count in expected.items() if count}


@needs_shared
def test_open_assistant_trees_counted_by_hand(tmp_path: Path) -> None:
    source = SHARED / "open-assistant" / "en_70_tree.jsonl"
    trees = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    expected: Counter[tuple[str, str, bool]] = Counter()
    flat: list[dict[str, Any]] = []
    replies = ranked = 0

    def walk(node: dict[str, Any], tree: str) -> None:
        nonlocal replies, ranked
        flat.append({"parent_id": None, "rank": None, **node, "message_tree_id": tree, "replies": None})
        answers = [one for one in node["replies"] if one["role"] == "assistant"]
        replies += len(answers)
        order = sorted((one["rank"], one["text"]) for one in answers if "rank" in one)
        ranked += len(order)
        if len(order) > 1:
            expected[node["text"], order[0][1], True] += 1
            expected[node["text"], order[-1][1], False] += 1
        for one in node["replies"]:
            walk(one, tree)

    for tree in trees:
        walk(tree["prompt"], tree["message_tree_id"])
    made = unpair(str(source))
    assert (len(trees), replies, ranked, expected.total()) == (70, 475, 435, 292)
    assert found(made) == expected
    assert Counter(row.label for row in made.rows) == {True: 146, False: 146}
    assert (made.read, made.completions) == (70, 475)
    assert made.skipped == {"middle rank": 143, "not ranked": 40}
    same = unpair(save(tmp_path / "flat.jsonl", [{k: v for k, v in one.items() if k != "replies"} for one in flat]))
    assert (same.layout.name, same.read, same.completions) == ("oasst", 797, 475)
    assert found(same) == expected
    assert same.skipped == made.skipped


@needs_shared
def test_the_demo_files_counted_by_hand() -> None:
    folder = SHARED / "llama-factory"
    pairs = json.loads((folder / "dpo_en_demo.json").read_text(encoding="utf-8"))
    last = [one["conversations"][-1]["value"] for one in pairs]
    expected = Counter(
        (question, one[key]["value"], key == "chosen")
        for question, one in zip(last, pairs, strict=True)
        for key in ("chosen", "rejected")
    )
    made = unpair(str(folder / "dpo_en_demo.json"))
    assert found(made) == expected
    assert (made.read, made.completions, dict(made.skipped), expected.total()) == (150, 300, {}, 300)
    rows = json.loads((folder / "kto_en_demo.json").read_text(encoding="utf-8"))
    labelled = Counter((*(turn["content"] for turn in one["messages"][-2:]), one["label"]) for one in rows)
    made = unpair(str(folder / "kto_en_demo.json"))
    assert found(made) == labelled
    assert Counter(row.label for row in made.rows) == {True: 78, False: 72}
    assert (made.read, made.completions, dict(made.skipped)) == (150, 150, {})


def test_what_is_no_tie_is_not_called_one(tmp_path: Path) -> None:
    """Argilla's status says what is a tie; equal ratings of what is none are too near, and null is no rating."""
    record = argilla_orca("q")
    records = [record, {**record, "rating": [7.0, 7.0]}, {**record, "rating": [None, 7.0]}, {**record, "status": "tie"}]
    source = save(tmp_path / "a.jsonl", [{**one, "input": f"q{n}"} for n, one in enumerate(records)])
    made = unpair(source, preset="orca-pairs-argilla", options={"min_margin": 0.5})
    assert made.skipped == {"margin too small": 2, "no rating": 2, "tie": 2}


def test_nan_is_not_called_null() -> None:
    for value, told in (
        (math.nan, "score_chosen is NaN"),
        (None, "score_chosen is null"),
        ("", "score_chosen is empty"),
    ):
        with pytest.raises(RowError, match=told):
            number({"score_chosen": value}, "score_chosen", "")


@pytest.mark.parametrize("preset", ["", "oasst"])
@pytest.mark.parametrize("leave", [{"parent_id"}, {"parent_id", "message_tree_id"}])
def test_first_messages_without_the_key_of_a_parent(preset: str, leave: set[str], tmp_path: Path) -> None:
    records = [
        {name: value for name, value in record.items() if name not in leave or (name == "parent_id" and value)}
        for record in SAMPLES["oasst"]
    ]
    assert "parent_id" not in records[0]
    made = unpair(save(tmp_path / "a.jsonl", records), preset=preset)
    assert made.layout.name == "oasst"
    assert found(made) == Counter(EXPECTED["oasst"])


def test_messages_of_other_chats_are_no_trees() -> None:
    with pytest.raises(SourceError, match="no layout that can be read"):
        detect({"message_id": "m1", "text": "hi", "role": "user"}, where="")

"""`ktodata convert`: other trainers' formats, exactly, and back without loss."""

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ktodata.cli import main
from ktodata.convert import Converting
from ktodata.formats import FORMATS
from ktodata.io import read_rows, table_of, write_rows
from ktodata.keys import longest_run
from ktodata.schema import make_row
from ktodata.sources import SOURCES, Example, detect

DEMO = Path(__file__).parents[2] / "shared" / "data" / "llama-factory" / "kto_en_demo.json"


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be kind."}
TEXT = [{"prompt": f"q{n // 2}", "completion": f" \nReply {n} 😀", "label": n % 2 == 0} for n in range(8)]
CHAT = [
    {"prompt": prompt, "completion": [assistant(f"a{n}{label}")], "label": label}
    for n, prompt in enumerate(
        (
            [user("q0")],
            [SYSTEM, user("q1\n")],
            [user("q2"), assistant("a"), user("more")],
            [SYSTEM, user(" "), assistant("b"), user("x")],
        )
    )
    for label in (True, False)
]


def save(path: Path, rows: list[dict[str, Any]], **more: str) -> str:
    kept = [row | {"origin": "pair", "strategy": "", "parent_id": "", "source": "made"} | more for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return str(path)


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["convert", *arguments])
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


RECORDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "trl": (TEXT[:1], TEXT[0]),
    "axolotl": (CHAT[2:3], {"system": "Be kind.", "prompt": "q1\n", "completion": "a1True", "label": True}),
    "axolotl-chat": (
        CHAT[4:5],
        {
            "prompt": "more",
            "completion": [user("q2"), assistant("a"), user("more"), assistant("a2True")],
            "label": True,
        },
    ),
    "llama-factory": (CHAT[2:3], {"messages": [SYSTEM, user("q1\n"), assistant("a1True")], "label": True}),
    "halos": (
        CHAT[1:2],
        {
            "prompt": [user("q0")],
            "output": [assistant("a0False")],
            "label": 0,
            "reward": 0.0,
            "type": "binary_feedback",
        },
    ),
}


def axolotl_pairs(sample: dict[str, Any]) -> tuple[Any, ...]:
    """What axolotl-ai-cloud/axolotl `prompt_strategies/kto/chatml.py: prompt_pairs` takes of a row."""
    return sample["system"], sample["prompt"], sample["completion"], sample["label"]


def axolotl_chat(sample: dict[str, Any]) -> tuple[Any, ...]:
    """`argilla_chat` there, which takes the first two turns of the completion, as of a chat of one turn."""
    first, second = sample["completion"][:2]
    return "", first["content"], second["content"], sample["label"]


def halos_feedback(sample: dict[str, Any]) -> tuple[Any, ...]:
    """What ContextualAI/HALOs `train/dataloader.py: get_feedback` takes of an item of its array."""
    assert sample["type"] == "binary_feedback"
    assert isinstance(sample["reward"], float)
    assert {tuple(turn) for name in ("prompt", "output") for turn in sample[name]} == {("role", "content")}
    assert sample["prompt_id"]  # newer ones group by it
    asked = " ".join(turn["content"] for turn in sample["prompt"])
    return "", asked, sample["output"][0]["content"], bool(sample["label"])


@pytest.mark.parametrize(
    ("name", "reader"), [("axolotl", axolotl_pairs), ("axolotl-chat", axolotl_chat), ("halos", halos_feedback)]
)
def test_trainers_find_what_they_look_for(tmp_path: Path, name: str, reader: Any) -> None:
    out = tmp_path / "out.json"
    assert run(save(tmp_path / "in.jsonl", CHAT[:2]), "-o", str(out), "--to", name).exit_code == 0
    found = {reader(record) for record in json.loads(out.read_text(encoding="utf-8"))}
    assert found == {("", "q0", "a0True", True), ("", "q0", "a0False", False)}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_exact_record(tmp_path: Path, name: str) -> None:
    rows, expected = RECORDS[name]
    out = tmp_path / "out.json"
    assert run(save(tmp_path / "in.jsonl", rows), "-o", str(out), "--to", name, "--bare").exit_code == 0
    (record,) = json.loads(out.read_text(encoding="utf-8"))
    record.pop("prompt_id", None)
    assert record == expected
    assert type(record["label"]) is type(expected["label"])


@pytest.mark.parametrize(
    ("name", "rows", "held"),
    [
        ("trl", TEXT, 8),
        ("trl", CHAT, 8),
        ("axolotl", TEXT, 8),
        ("axolotl", CHAT, 4),
        ("axolotl-chat", CHAT, 8),
        ("llama-factory", CHAT, 8),
        ("halos", CHAT, 8),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".jsonl.gz", ".parquet"])
def test_round_trips_lose_nothing(
    tmp_path: Path, name: str, rows: list[dict[str, Any]], held: int, suffix: str
) -> None:
    source, there, back = save(tmp_path / "in.jsonl", rows), tmp_path / f"there{suffix}", tmp_path / "back.jsonl"
    written = run(source, "-o", str(there), "--to", name)
    if suffix not in FORMATS[name].suffixes:
        assert written.exit_code == 2
        assert "reads no such file" in written.stderr
        return
    assert written.exit_code == 0, written.stderr
    assert f"written {held} rows" in written.stderr
    assert run(str(there), "-o", str(back), "--to", "ktokit").exit_code == 0
    first = {row.id: row for row in read_rows(source)}
    again = {row.id: row for row in read_rows(str(back))}
    assert len(again) == held
    assert all(first[row_id] == row for row_id, row in again.items())  # provenance as well
    if suffix == ".jsonl.gz":
        assert gzip.decompress(there.read_bytes()).count(b"\n") == held


@pytest.mark.parametrize("name", ["llama-factory", "halos", "axolotl-chat"])
def test_transcripts_come_back_as_text(tmp_path: Path, name: str) -> None:
    rows = [
        {"prompt": f"\n\nHuman: hi {n}\n\nAssistant:", "completion": f"  Reply\n{n}", "label": n > 2} for n in range(6)
    ]
    source, there, back = save(tmp_path / "in.jsonl", rows), str(tmp_path / "there.json"), str(tmp_path / "back.jsonl")
    assert "--as text makes 6 of them the transcripts" in run(source, "-o", there, "--to", name).stderr
    assert run(there, "-o", back, "--to", "ktokit", "--as", "text").exit_code == 0
    assert {row.id for row in read_rows(back)} == {row.id for row in read_rows(source)}


@pytest.mark.parametrize("name", ["llama-factory", "halos", "axolotl-chat"])
def test_parents_are_found_again_when_transcripts_come_back_as_text(tmp_path: Path, name: str) -> None:
    parents = [
        make_row(f"\n\nHuman: hi {n}\n\nAssistant:", f" Reply {n}", True, source="s", origin="pair") for n in range(6)
    ]
    made = [
        make_row(row.prompt, f" {n} Worse", False, source="s", origin="synthetic", strategy="corrupt", parent_id=row.id)
        for n, row in enumerate(parents)
    ]
    there, back = str(tmp_path / "there.json"), str(tmp_path / "back.jsonl")
    write_rows([*parents, *made], str(tmp_path / "rows.jsonl"))
    assert run(str(tmp_path / "rows.jsonl"), "-o", there, "--to", name).exit_code == 0
    assert run(there, "-o", back, "--to", "ktokit", "--as", "text").exit_code == 0
    assert {(row.id, row.parent_id, row.strategy) for row in read_rows(back)} == {
        (row.id, row.parent_id, row.strategy) for row in [*parents, *made]
    }


@pytest.mark.parametrize(
    ("name", "prompt", "completion", "reason"),
    [
        ("axolotl", [user("a"), assistant("b"), user("c")], [assistant("d")], "several turns"),
        ("axolotl", [user("a")], [assistant("b"), assistant("c")], "several turns"),
        ("axolotl", [assistant("a")], [assistant("b")], "roles that have no place there"),
        ("axolotl", [{"role": "system", "content": ""}, user("a")], [assistant("b")], "would not read back as it is"),
        ("axolotl", [user("a\n\nAssistant:")], [assistant("b")], "would not read back as it is"),
        ("axolotl-chat", [SYSTEM], [assistant("b")], "no user turn"),
        ("axolotl-chat", [user("a")], [assistant("b"), assistant("c")], "a completion of several turns"),
        ("llama-factory", [user("a"), user("b")], [assistant("c")], "turns that do not alternate"),
        ("llama-factory", [SYSTEM], [assistant("c")], "turns that do not alternate"),
        (
            "llama-factory",
            [user("a"), {"role": "tool", "content": "b"}],
            [assistant("c")],
            "turns that do not alternate",
        ),
        ("llama-factory", [user("a")], [assistant("b"), assistant("c")], "a completion of several turns"),
    ],
)
def test_what_a_format_cannot_hold_is_counted(
    tmp_path: Path, name: str, prompt: list[Any], completion: list[Any], reason: str
) -> None:
    rows = [*CHAT[:2], {"prompt": prompt, "completion": completion, "label": True}]
    bad = tmp_path / "bad.jsonl"
    source = save(tmp_path / "in.jsonl", rows)
    result = run(source, "-o", str(tmp_path / "out.json"), "--to", name, "--quarantine", str(bad))
    assert f"skipped 1: 1 {reason}" in result.stderr
    (line,) = bad.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reason"] == reason
    assert json.loads(line)["record"]["prompt"] == prompt
    alone = run(save(tmp_path / "alone.jsonl", rows[2:]), "-o", str(tmp_path / "none.json"), "--to", name)
    assert alone.exit_code == 1
    assert f"1 {reason}" in alone.stderr
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize("text", [json.dumps([user("hi"), assistant("hello")]), '[{"role": "user", "content": "h'])
@pytest.mark.parametrize("name", ["trl", "axolotl"])
def test_text_that_looks_like_messages_is_left_out_where_no_id_tells(tmp_path: Path, name: str, text: str) -> None:
    """One such row among others is counted and set aside, and the others are written."""
    rows = [make_row("Write a chat.", text, True, source="made", origin="pair")]
    rows += [make_row(f"q{n}", "a", n > 1, source="made", origin="pair") for n in range(4)]
    source, out, bad = (str(tmp_path / name) for name in ("in.jsonl", "out.jsonl", "bad.jsonl"))
    write_rows(rows, source)
    result = run(source, "-o", out, "--to", name, "--quarantine", bad)
    assert result.exit_code == 0, result.stderr
    assert "skipped 1: 1 would not read back as it is" in result.stderr
    (line,) = Path(bad).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["record"]["completion"] == text
    assert {row.prompt for row in read_rows(out)} == {f"q{n}" for n in range(4)}
    assert run(source, "-o", out, "--to", name).exit_code == 0, "it is counted without a quarantine file too"


turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text(max_size=8)}
    ),
    min_size=1,
    max_size=4,
)
texts = st.text(max_size=10) | st.sampled_from(["\n\nAssistant:", "\n\nHuman: a\n\nAssistant:"])
replies = turns.map(lambda found: [turn for turn in found if turn["role"] in ("assistant", "tool")] + [assistant("z")])


@given(st.sampled_from(sorted(FORMATS)), st.tuples(turns, replies) | st.tuples(texts, texts), st.booleans())
def test_whatever_is_written_reads_back_as_it_was(name: str, content: Any, label: bool) -> None:
    form = FORMATS[name]
    row = make_row(*content, label, source="s", origin="pair")
    if form.kind not in (None, row.kind):
        return
    skipped: list[str] = []
    done = Converting(form, row.kind, drop=lambda reason, table: skipped.extend([reason] * table.num_rows))
    written = list(done.records(done.held([table_of([row], row.kind)])))
    assert done.written + len(skipped) == 1
    for record in written:
        assert list(record) == list(done.schema())
        (one,) = SOURCES[detect(record, where="").name].read(record, "")
        assert isinstance(one, Example)
        assert (one.prompt, one.completion, one.label) == (row.prompt, row.completion, row.label)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("llama-factory", '"kto_tag": "label"'),
        ("axolotl", "field_label: label"),
        ("halos", "loss=kto"),
        ("trl", "KTOTrainer"),
        ("axolotl-chat", "argilla_chat"),
    ],
)
def test_the_snippet_is_printed_and_parses(tmp_path: Path, name: str, key: str) -> None:
    import yaml

    out = tmp_path / "mine.json"
    result = run(save(tmp_path / "in.jsonl", TEXT), "-o", str(out), "--to", name)
    assert key in result.stderr
    snippet = result.stderr.split(":\n\n", 1)[1]
    if name == "llama-factory":
        entry = json.loads(f"{{{snippet}}}")["mine"]
        record = json.loads(out.read_text(encoding="utf-8"))[0]
        assert entry["file_name"] == "mine.json"
        assert set(entry["columns"].values()) <= set(record)
        assert {turn[entry["tags"]["role_tag"]] for turn in record["messages"]} <= set(entry["tags"].values())
    elif name.startswith("axolotl"):
        config = yaml.safe_load(snippet)
        assert (config["rl"], config["datasets"][0]["path"]) == ("kto", str(out))
    elif name == "trl":
        compile(snippet, "snippet", "exec")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--to", "halos", "-o", "x.jsonl"], 2, "halos reads no such file"),
        (["--to", "halos", "-o", "x.jsonl.gz"], 2, "halos reads no such file"),
        (
            ["--to", "halos", "-o", "-"],
            2,
            "halos reads no JSON lines, which stdout gets. It reads .json: name",
        ),
        (["--to", "halos"], 2, "halos reads no JSON lines, which stdout gets"),
        (["--to", "llama-factory", "-o", "x.jsonl.gz"], 2, "llama-factory reads no such file as x.jsonl.gz. It reads "),
        (["--to", "llama-factory", "-o", "X.JSON"], 2, "It reads .json, .jsonl, .parquet (in small letters)"),
        (["--to", "trl", "-o", "x.csv"], 2, "trl reads no such file"),
        (["--to", "llama-factory", "--as", "text", "-o", "x.json"], 2, "holds chat rows only"),
        (["--to", "nothing", "-o", "x.json"], 2, "nothing"),
        (["--to", "ktokit", "--from", "nothing", "-o", "x.jsonl"], 2, "no preset"),
        (["-o", "x.json"], 2, "--to"),
    ],
)
def test_usage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(save(tmp_path / "in.jsonl", TEXT), *options)
    assert result.exit_code == code
    assert said in result.stderr


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("trl", "X.JSON", 'load_dataset("json"'),
        ("trl", "x.Parquet", 'load_dataset("parquet"'),
        ("axolotl", "X.JSON", "ds_type: json"),
        ("axolotl", "x.Parquet", "ds_type: parquet"),
        ("halos", "X.JSON", "loss=kto"),
    ],
)
def test_suffixes_in_capitals_are_these_suffixes(tmp_path: Path, name: str, file: str, kind: str) -> None:
    out = str(tmp_path / file)
    result = run(save(tmp_path / "in.jsonl", CHAT[:2]), "-o", out, "--to", name)
    assert result.exit_code == 0, result.stderr
    assert kind in result.stderr
    assert run(out, "-o", str(tmp_path / "back.jsonl"), "--to", "ktokit").exit_code == 0
    assert len(read_rows(str(tmp_path / "back.jsonl"))) == 2


def test_trl_and_axolotl_load_gzip_and_capitals(tmp_path: Path) -> None:
    """By `datasets`, which both tell the type of file."""
    datasets = pytest.importorskip("datasets")
    for file in ("x.jsonl.gz", "X.JSON"):
        assert run(save(tmp_path / "in.jsonl", CHAT[:2]), "-o", str(tmp_path / file), "--to", "trl").exit_code == 0
        loaded = datasets.load_dataset(
            "json", data_files=str(tmp_path / file), split="train", cache_dir=str(tmp_path / file[:1])
        )
        assert sorted(loaded["label"]) == [False, True]


def written(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_what_is_written_has_no_long_runs_where_rows_were_left_out(tmp_path: Path) -> None:
    """Most of what the format cannot hold is of one class, so that the ratio is another than before."""
    rows = []
    for n in range(800):
        prompt = [user(f"q {n}"), *([user("more")] if n >= 400 and n % 5 > 1 else [])]
        rows.append({"prompt": prompt, "completion": [assistant(f"a {n}")], "label": n < 400})
    out = str(tmp_path / "out.jsonl")
    assert (
        "turns that do not alternate"
        in run(save(tmp_path / "in.jsonl", rows), "-o", out, "--to", "llama-factory").stderr
    )
    labels = [record["label"] for record in written(out)]
    assert 2 < labels.count(True) / labels.count(False) <= 3
    assert longest_run(labels) <= 8


def test_what_is_written_has_no_neighbours_of_one_prompt_where_rows_were_left_out(tmp_path: Path) -> None:
    prompts = [*(["A"] * 3), *(["B"] * 2), *(f"q{n}" for n in range(10))]
    rows = [
        {"prompt": [user(prompt)], "completion": [assistant(f"a{n}")], "label": n % 2 == 0}
        for n, prompt in enumerate(prompts)
    ]
    rows += [{**row, "prompt": [user(f"r{n}"), assistant("yes"), user("more")]} for n, row in enumerate(rows[:10])]
    for seed in range(5):
        out = str(tmp_path / "out.jsonl")
        assert run(save(tmp_path / "in.jsonl", rows), "-o", out, "--to", "axolotl", "--seed", str(seed)).exit_code == 0
        order = [record["prompt"] for record in written(out)]
        assert sorted(order) == sorted(prompts)
        assert all(one != other for one, other in itertools.pairwise(order))


def test_prompts_that_halos_takes_for_one_are_not_both_written(tmp_path: Path) -> None:
    """It puts outputs together by the contents of a prompt's turns, with spaces between them, and nothing else."""
    told = [{"role": "system", "content": "Answer in French."}, user("What is red?")]
    prompts = [told, [user("Answer in French. What is red?")], [user("What is red?")], [user("what is red?")]]
    rows = [
        {"prompt": prompt, "completion": [assistant(f"{n}{label}")], "label": label}
        for n, prompt in enumerate(prompts)
        for label in (True, False)
    ]
    found = []
    for name, some in (("a", rows), ("b", rows[::-1])):
        out, bad = tmp_path / f"{name}.json", tmp_path / f"{name}.jsonl"
        source = save(tmp_path / "in.jsonl", some)
        result = run(source, "-o", str(out), "--to", "halos", "--quarantine", str(bad))
        assert "written 6 rows" in result.stderr
        assert "skipped 2: 2 a prompt taken for another one" in result.stderr
        assert {line["reason"] for line in written(str(bad))} == {"a prompt taken for another one"}
        found.append(json.loads(out.read_text(encoding="utf-8")))
        groups: dict[str, set[str]] = {}
        for record in found[-1]:
            asked = " ".join(turn["content"] for turn in record["prompt"])
            groups.setdefault(asked, set()).add(json.dumps(record["prompt"]))
        assert all(len(same) == 1 for same in groups.values())
    assert found[0] == found[1]
    assert "written 8 rows" in run(source, "-o", str(tmp_path / "c.json"), "--to", "llama-factory").stderr


def test_halos_ids_stand_for_one_prompt_to_the_letter(tmp_path: Path) -> None:
    """Ours are those of normalised prompts, so that two may share one."""
    rows = [
        {"prompt": [user(prompt)], "completion": [assistant(f"{n}")], "label": n > 0}
        for n, prompt in enumerate(("Red?", "red?", "red?"))
    ]
    out = tmp_path / "out.json"
    assert run(save(tmp_path / "in.jsonl", rows), "-o", str(out), "--to", "halos").exit_code == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert len({(record["prompt_id"], record["prompt"][0]["content"]) for record in found}) == 2
    assert len({record["prompt_id"] for record in found}) == 2


@pytest.mark.skipif(not DEMO.is_file(), reason="no LLaMA-Factory demo beside this repository")
def test_llama_factorys_own_file_goes_through_it_unchanged(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert "written 150 rows" in run(str(DEMO), "-o", str(out), "--to", "llama-factory", "--bare").stderr

    def told(path: Path) -> set[str]:
        return {json.dumps(one, sort_keys=True) for one in json.loads(path.read_text(encoding="utf-8"))}

    assert told(out) == told(DEMO)


@pytest.mark.parametrize("form", ["axolotl-chat", "llama-factory", "halos"])
def test_what_becomes_of_text_in_a_format_of_chats_is_said(tmp_path: Path, form: str) -> None:
    """Transcripts come back with --as text; other text does not, and is counted; chats were never text."""
    transcripts = [
        {"prompt": f"\n\nHuman: q{n}\n\nAssistant:", "completion": f" a{n}", "label": n % 2 == 0} for n in range(6)
    ]
    out, back = str(tmp_path / "o.json"), str(tmp_path / "b.jsonl")
    made = run(save(tmp_path / "chat.jsonl", CHAT), "-o", out, "--to", form)
    assert "became chat" not in made.stderr
    made = run(save(tmp_path / "same.jsonl", transcripts), "-o", out, "--to", form)
    assert "6 texts became chat; on the way back, --as text makes 6 of them the transcripts that" in made.stderr
    assert "will not be" not in made.stderr
    assert run(out, "-o", back, "--to", "ktokit", "--as", "text").exit_code == 0
    assert {row.prompt for row in read_rows(back)} == {row["prompt"] for row in transcripts}
    close = {"prompt": "\n\nHuman:q\n\nAssistant:", "completion": "a", "label": True}  # without the spaces
    mixed = run(save(tmp_path / "mixed.jsonl", [*transcripts, *TEXT, close]), "-o", out, "--to", form)
    assert "15 texts became chat" in mixed.stderr
    assert "makes 6 of them" in mixed.stderr
    assert "9 will not be the text that they were" in mixed.stderr
    assert run(out, "-o", back, "--to", "ktokit").exit_code == 0
    assert [user(row["prompt"]) for row in TEXT[:1]] in [row.prompt for row in read_rows(back)]


def test_without_provenance_it_is_said_what_is_lost(tmp_path: Path) -> None:
    made = [
        {"prompt": f"p{n}", "completion": f"c{n}", "label": n > 1, "source": source, "origin": origin}
        for n, (source, origin) in enumerate(
            (("a.jsonl", "pair"), ("a.jsonl", "synthetic"), ("pku-saferlhf:d/x", "pair"), ("b", "pair"), ("c", "pair"))
        )
    ]
    source, out = str(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    texts = [json.dumps({**row, "strategy": "", "parent_id": ""}) for row in made]
    Path(source).write_text("\n".join(texts), encoding="utf-8")
    told = run(source, "-o", str(out), "--to", "trl", "--bare").stderr
    (note,) = [line for line in told.splitlines() if "--bare" in line]
    assert note.startswith("note: --bare left out source, origin, strategy and parent_id: ")
    assert "(2 of a.jsonl, 1 of " in note
    assert " and 1 other sources, 1 of them synthetic), so that `ktodata push` could not name their licences" in note
    assert "warning: the licence of PKU-Alignment/PKU-SafeRLHF (pku-saferlhf:d/x) is CC-BY-NC-4.0" in told
    assert list(json.loads(out.read_text(encoding="utf-8").splitlines()[0])) == ["prompt", "completion", "label"]
    told = run(source, "-o", str(out), "--to", "trl").stderr
    assert "note: provenance is in columns of its own" in told
    assert "--bare" not in told
    assert "no longer" not in told


def test_nothing_is_bare_in_our_own_format(tmp_path: Path) -> None:
    result = run(save(tmp_path / "in.jsonl", TEXT), "-o", str(tmp_path / "out.jsonl"), "--to", "ktokit", "--bare")
    assert result.exit_code == 2
    assert "--bare has no effect with --to ktokit" in result.stderr

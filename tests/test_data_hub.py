"""The Hub, through its real client libraries and a stand-in server: presets, any dataset, every way it says no."""

import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktodata.hub import HubId, parse_id
from ktodata.io import read_rows

STUB = Path(__file__).parents[2] / "shared" / "tools" / "hub_stub.py"
pytestmark = pytest.mark.skipif(not STUB.is_file(), reason="no stand-in for the Hub beside this repository")
KINDS = {"prompt": "string", "completion": "string", "label": "bool"}
NOWHERE = "http://127.0.0.1:9"  # nothing listens there


def transcript(question: str, reply: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {reply}"


def store(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))


def store_rows(owner: Path) -> None:
    """Datasets of rows: csv with words that others take for none, and a card that has 1 and 0 as true and false."""
    import pandas

    told = "\n".join(f"  - {{name: {name}, dtype: {kind}}}" for name, kind in KINDS.items())
    for name in ("answers", "flags-csv", "flags-jsonl", "flags-parquet"):
        (owner / name).mkdir()
        (owner / name / "README.md").write_text(f"---\ndataset_info:\n  features:\n{told}\n---\n", encoding="utf-8")
    (owner / "answers" / "README.md").unlink()
    answers = "prompt,completion,label\np,N/A,true\nq,null,false\nr,007,true\n"
    (owner / "answers" / "train.csv").write_text(answers, encoding="utf-8")
    (owner / "answers" / "train_more.csv").write_text(answers.replace(",007", ",more"), encoding="utf-8")
    frame = pandas.DataFrame({"prompt": ["p", "q"], "completion": ["007", "1"], "label": [1, 0]})
    frame.to_csv(owner / "flags-csv" / "train.csv", index=False)
    frame.to_json(owner / "flags-jsonl" / "train.jsonl", orient="records", lines=True)
    frame.to_parquet(owner / "flags-parquet" / "train.parquet")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Hub with a mirror of two of hh-rlhf's folders, and a dataset of messages in parquet."""
    import pandas

    root = tmp_path_factory.mktemp("hub")
    mirror = root / "datasets" / "Anthropic" / "hh-rlhf"
    for folder in ("harmless-base", "helpful-online"):
        pairs = [
            {"chosen": transcript(f"{folder} {n}", "good"), "rejected": transcript(f"{folder} {n}", "bad")}
            for n in range(4)
        ]
        store(mirror / folder / "train.jsonl.gz", list(pairs))
        store(mirror / folder / "test.jsonl.gz", list(pairs[:1]))
    attempts = [{"transcript": transcript(f"q{n}", "x"), "rating": float(n)} for n in range(5)]
    # The real one is an array, whatever its name says.
    published = mirror / "red-team-attempts" / "red_team_attempts.jsonl.gz"
    published.parent.mkdir(parents=True)
    published.write_bytes(gzip.compress(json.dumps(attempts).encode()))
    (mirror / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")

    def turns(number: int, reply: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": reply}]

    data = root / "datasets" / "someone" / "pairs" / "data"
    data.mkdir(parents=True)
    columns = {name: [turns(n, f"{name} {n}") for n in range(5)] for name in ("chosen", "rejected")}
    pandas.DataFrame(columns).to_parquet(data / "train-00000-of-00001.parquet")
    scored = {**columns, "score_chosen": [9.0, 8.0, 7.0, 6.0, 6.0], "score_rejected": [1.0, 1.0, 6.5, 6.0, 7.0]}
    preferences = root / "datasets" / "HuggingFaceH4" / "ultrafeedback_binarized" / "data"
    preferences.mkdir(parents=True)
    for split in ("train_prefs", "train_sft"):
        frame = pandas.DataFrame({"prompt": [f"q{n}" for n in range(5)], **scored})
        frame.to_parquet(preferences / f"{split}-00000-of-00001.parquet")
    pairs = [json.dumps({"prompt": f"q{n}", "chosen": "a", "rejected": "b"}) for n in range(6)]
    lines = "\n".join([*pairs[:3], '{"prompt": "q", "chose', *pairs[3:]])
    for name, file, head in (
        ("logs", "train.jsonl", "license: mit"),
        ("named", "some/a.jsonl", "configs: [{config_name: x, data_files: [{split: fit, path: 'some/*.jsonl'}]}]"),
    ):
        place = root / "datasets" / "someone" / name
        (place / file).parent.mkdir(parents=True)
        (place / file).write_text(lines, encoding="utf-8")
        (place / "README.md").write_text(f"---\n{head}\n---\n", encoding="utf-8")
    marked = root / "datasets" / "someone" / "marked"
    marked.mkdir()
    (marked / "a.csv").write_text("prompt;chosen;rejected\np;a;b\n", encoding="utf-8")
    told = "configs: [{config_name: default, data_files: a.csv, sep: ;}]"
    packed = root / "datasets" / "someone" / "packed"
    packed.mkdir()
    (packed / "train.jsonl.xz").write_bytes(lzma.compress("\n".join(pairs).encode()))
    torn = root / "datasets" / "someone" / "torn"
    torn.mkdir()
    (torn / "train.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    store_rows(root / "datasets" / "someone")
    (marked / "README.md").write_text(f"---\n{told}\n---\n", encoding="utf-8")
    (root / "datasets" / "someone" / "empty").mkdir()
    (root / "datasets" / "someone" / "empty" / "README.md").write_text("nothing", encoding="utf-8")
    server = subprocess.Popen(
        [sys.executable, str(STUB), str(root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with server:
        assert server.stdout
        yield server.stdout.readline().strip().partition("=")[2]
        server.terminate()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def unpair(home: Path, endpoint: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, since the clients read their settings when they are imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **settings}
    return subprocess.run(
        [sys.executable, "-m", "ktodata", "unpair", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )


def test_hub_ids() -> None:
    assert parse_id("Anthropic/hh-rlhf") == HubId("Anthropic/hh-rlhf")
    assert parse_id("a/b.c:some-config") == HubId("a/b.c", "some-config")
    for text in ("hh-rlhf", "./a/b", "a/b/c", "../b", "/a/b", "a/", "~/x"):
        assert parse_id(text) is None


@pytest.mark.slow
def test_the_preset_reads_all_preference_folders_that_a_mirror_holds(home: Path, endpoint: str, tmp_path: Path) -> None:
    done = unpair(home, endpoint, "hh-rlhf", "-o", str(tmp_path / "o.parquet"))
    assert done.returncode == 0, done.stderr
    assert "read    8 pairs (16 completions, layout hh-rlhf)" in done.stderr
    rows = read_rows(str(tmp_path / "o.parquet"))
    assert {row.source for row in rows} == {
        "Anthropic/hh-rlhf:harmless-base:train",
        "Anthropic/hh-rlhf:helpful-online:train",
    }
    same = unpair(home, endpoint, "Anthropic/hh-rlhf", "-o", str(tmp_path / "same.parquet"))
    assert same.returncode == 0, same.stderr
    assert (tmp_path / "same.parquet").read_bytes() == (tmp_path / "o.parquet").read_bytes()


@pytest.mark.slow
def test_a_preset_is_not_read_from_a_cache_that_has_some_of_its_folders(home: Path, endpoint: str) -> None:
    """Of a mirror that has no others as well: nothing tells. What is named itself is read."""
    first = unpair(home, endpoint, "hh-rlhf:helpful-online")
    assert first.returncode == 0, first.stderr
    for offline in ("0", "1"):
        refused = unpair(home, NOWHERE, "hh-rlhf", HF_HUB_OFFLINE=offline)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert (
            "Hub: the cache has no files of harmless-base, helpful-base, helpful-rejection-sampled." in refused.stderr
        )
        assert "name those that are there one by one: Anthropic/hh-rlhf:helpful-online" in refused.stderr
        named = unpair(home, NOWHERE, "hh-rlhf:helpful-online", HF_HUB_OFFLINE=offline)
        assert (named.returncode, named.stdout) == (0, first.stdout)
        assert "reading what the cache has of Anthropic/hh-rlhf, which may not be all of it" in named.stderr


@pytest.mark.slow
def test_a_limit_reads_without_a_network_what_it_read_with_one(home: Path, endpoint: str) -> None:
    """It fetched the first folder alone, and reads no further."""
    first = unpair(home, endpoint, "hh-rlhf", "--limit", "2")
    assert first.returncode == 0, first.stderr
    again = unpair(home, NOWHERE, "hh-rlhf", "--limit", "2", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr
    refused = unpair(home, NOWHERE, "hh-rlhf", "--limit", "5", HF_HUB_OFFLINE="1")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the cache has no files of helpful-base, helpful-online, helpful-rejection-sampled." in refused.stderr


def test_a_preset_means_the_hub_even_beside_a_folder_of_its_name(
    home: Path, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hh-rlhf").mkdir()
    monkeypatch.chdir(tmp_path)
    done = unpair(home, endpoint, "hh-rlhf", "--limit", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("hh-rlhf is read from the Hub; for the local one, write ./hh-rlhf\nread    1 pairs")


def test_a_part_of_the_preset(home: Path, endpoint: str) -> None:
    done = unpair(home, endpoint, "hh-rlhf:helpful-online", "--split", "test")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == [
        "Anthropic/hh-rlhf:helpful-online:test"
    ] * 2


def test_a_preset_knows_its_split_and_its_thresholds(home: Path, endpoint: str, tmp_path: Path) -> None:
    out = str(tmp_path / "o.jsonl")
    done = unpair(home, endpoint, "ultrafeedback", "--min-margin", "1", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "read    5 pairs (10 completions, layout ultrafeedback)" in done.stderr
    assert "skipped 6: 2 margin too small, 2 rejected scored higher, 2 tie" in done.stderr
    assert {row.source for row in read_rows(out)} == {"HuggingFaceH4/ultrafeedback_binarized:train_prefs"}


@pytest.mark.slow
def test_the_red_team_has_a_layout_of_its_own(home: Path, endpoint: str) -> None:
    done = unpair(home, endpoint, "hh-rlhf:red-team-attempts", "--undesirable-at", "4")
    assert done.returncode == 0, done.stderr
    assert "read    5 transcripts (5 completions, layout hh-rlhf-red-team)" in done.stderr
    assert sorted(json.loads(line)["label"] for line in done.stdout.splitlines()) == [False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--limit", "3"]])
def test_any_dataset_of_pairs(home: Path, endpoint: str, options: list[str]) -> None:
    done = unpair(home, endpoint, "someone/pairs", *options)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == (6 if options else 10)
    assert {row["source"] for row in rows} == {"someone/pairs:train"}
    assert all(row["completion"][0]["content"].startswith("chosen" if row["label"] else "rejected") for row in rows)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("someone/logs", "someone/logs/train.jsonl:4"),
        ("someone/named:x --split fit", "someone/named/some/a.jsonl:4"),
    ],
)
@pytest.mark.slow
def test_a_bad_line_of_any_dataset_is_told_and_set_aside_as_that_of_a_file(
    home: Path, endpoint: str, source: str, place: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    for address, offline in ((endpoint, "0"), (NOWHERE, "1")):
        refused = unpair(home, address, *source.split(), HF_HUB_OFFLINE=offline)
        assert (refused.returncode, refused.stdout) == (1, "")
        *warned, told = refused.stderr.splitlines()
        assert told.startswith(f"error: {place}: not JSON: Unterminated string")
        repo = source.partition(":")[0]
        cached = f"the Hub cannot be reached; reading what the cache has of {repo}, which may not be all of it"
        assert [line.removeprefix("warning: ") for line in warned] == ([cached] if offline == "1" else [])
        done = unpair(home, address, *source.split(), "--quarantine", str(bad), HF_HUB_OFFLINE=offline)
        assert done.returncode == 0, done.stderr
        label = ":".join(source.replace("--split", "").split()) if "split" in source else f"{source}:train"
        assert {json.loads(line)["source"] for line in done.stdout.splitlines()} == {label}
        assert len(done.stdout.splitlines()) == 12
        (kept,) = map(json.loads, bad.read_text(encoding="utf-8").splitlines())
        assert (kept["where"], kept["record"]) == (place, '{"prompt": "q", "chose')


@pytest.mark.slow
def test_a_limit_reads_the_first_of_what_is_read_without_it(home: Path, endpoint: str, tmp_path: Path) -> None:
    """By the same reader, so that bad lines are set aside here too; and from the cache, where that has all of it."""
    bad = tmp_path / "bad.jsonl"
    for address, offline in ((endpoint, "0"), (NOWHERE, "1")):
        done = unpair(home, address, "someone/logs", "--limit", "5", "--quarantine", str(bad), HF_HUB_OFFLINE=offline)
        assert done.returncode == 0, done.stderr
        assert {json.loads(line)["prompt"] for line in done.stdout.splitlines()} == {"q0", "q1", "q2", "q3"}
        (kept,) = map(json.loads, bad.read_text(encoding="utf-8").splitlines())
        assert kept["where"] == "someone/logs/train.jsonl:4"
        done = unpair(home, address, "someone/answers", "--limit", "3", HF_HUB_OFFLINE=offline)
        assert done.returncode == 0, done.stderr
        found = {row["completion"]: row["label"] for row in map(json.loads, done.stdout.splitlines())}
        assert found == {"N/A": True, "null": False, "007": True}


@pytest.mark.parametrize(
    ("source", "fetched"),
    [("someone/answers", ["train.csv"]), ("someone/pairs", [])],
)
@pytest.mark.slow
def test_no_more_files_are_fetched_than_a_limit_needs(
    home: Path, endpoint: str, source: str, fetched: list[str]
) -> None:
    """Of two, the first; and of parquet none, but the parts of it that are needed."""
    done = unpair(home, endpoint, source, "--limit", "3")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in home.rglob("snapshots/*/**/*") if path.is_file()] == fetched


@pytest.mark.slow
def test_what_datasets_has_kept_is_read_with_a_limit_too(home: Path, endpoint: str) -> None:
    assert unpair(home, endpoint, "someone/packed").returncode == 0
    done = unpair(home, NOWHERE, "someone/packed", "--limit", "1", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("options", [[], pytest.param(["--limit", "2"], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["jsonl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("csv", "parquet"))]
)
def test_what_the_card_says_is_true_or_false(home: Path, endpoint: str, kind: str, options: list[str]) -> None:
    """1 and 0 are that there, as `datasets` has it; and text is text, whatever number it may look like."""
    done = unpair(home, endpoint, f"someone/flags-{kind}", *options)
    assert done.returncode == 0, done.stderr
    found = {row["completion"]: row["label"] for row in map(json.loads, done.stdout.splitlines())}
    assert found == {"007": True, "1": False}


@pytest.mark.slow
def test_a_bad_line_that_datasets_reads_is_one_line_with_advice(home: Path, endpoint: str) -> None:
    done = unpair(home, endpoint, "someone/torn", "--limit", "2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: someone/torn on the Hub: JSON parse error: ")
    assert "Fetch the files (hf download) and name their folder" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("source", ["someone/marked", pytest.param("someone/packed", marks=pytest.mark.slow)])
def test_what_only_datasets_can_read_is_read_by_it(home: Path, endpoint: str, source: str) -> None:
    """Cells between semicolons, as the card says, and files that are packed in another way."""
    done = unpair(home, endpoint, source)
    assert done.returncode == 0, done.stderr
    assert {json.loads(line)["completion"] for line in done.stdout.splitlines()} == {"a", "b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["someone/none"], "someone/none on the Hub: no such dataset"),
        pytest.param(
            ["someone/none", "--preset", "hh-rlhf"], "someone/none on the Hub: no such dataset", marks=pytest.mark.slow
        ),
        (["hh-rlhf", "--split", "dev"], "no split 'dev'. It has: test, train"),
        (["hh-rlhf:red-team"], "no data folder 'red-team'. Known: harmless-base"),
        pytest.param(["hh-rlhf:helpful-base"], "no data files (looked in helpful-base)", marks=pytest.mark.slow),
        pytest.param(
            ["someone/pairs", "--split", "test"],
            "Unknown split \"test\". Should be one of ['train']",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["someone/pairs:other"], "BuilderConfig 'other' not found. Available: ['default']", marks=pytest.mark.slow
        ),
        (["someone/empty"], "someone/empty on the Hub: "),
    ],
)
def test_what_the_hub_does_not_have(
    home: Path, endpoint: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = unpair(home, endpoint, *arguments, "-o", str(tmp_path / "o.parquet"))
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "o.parquet").exists()


@pytest.mark.parametrize("source", ["hh-rlhf", "someone/pairs", "someone/pairs --limit 3"])
@pytest.mark.parametrize("offline", ["0", "1"])
def test_no_network(home: Path, source: str, offline: str) -> None:
    done = unpair(home, NOWHERE, *source.split(), HF_HUB_OFFLINE=offline)
    assert done.returncode == 1
    advice = (
        "The cache lacks what is asked for: run this once without HF_HUB_OFFLINE" if offline == "1" else "Check the"
    )
    assert f"on the Hub: the Hub cannot be reached. {advice}" in done.stderr
    assert ("HF_HUB_OFFLINE=1" in done.stderr) == (offline == "0")
    # With it, parquet is streamed, and nothing is kept.
    assert ("HF_HUB_OFFLINE and --limit, or" in done.stderr) == (offline == "1" and "--limit" in source)
    assert done.stderr.count("\n") == 1, done.stderr

"""`ktodata push`: the folder that is put up, and putting it up on a stand-in for the Hub, with its real client."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from families import safe_pair
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ktodata.cli import main
from ktodata.io import read_rows
from ktodata.io.leftover import clear
from ktodata.report import publish
from ktodata.report.facts import Counts, licence_id, origin_of
from ktodata.report.publish import upload
from ktodata.sources import SOURCES, stamped

STUB = Path(__file__).parents[2] / "shared" / "tools" / "hub_stub.py"
TOKEN = "hf_test_0123456789"  # of the stand-in
PNG = b"\x89PNG\r\n"


def rows(count: int = 40) -> list[dict[str, Any]]:
    sources = ["Anthropic/hh-rlhf:harmless-base:train", "PKU-Alignment/PKU-SafeRLHF:train", "logs/mine|`x`<b>.csv"]
    return [
        {
            "prompt": f"q{n}",
            "completion": "word " * (n % 7 + 1),
            "label": n % 2 == 0,
            "source": sources[n % 3],
            "origin": "synthetic" if n % 4 == 1 else "pair",
            "strategy": "corrupt:swap" if n % 4 == 1 else "",
        }
        for n in range(count)
    ]


def save(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def ktodata(*arguments: str) -> Any:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["push", *arguments])
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


def front_matter(text: str) -> dict[str, Any]:
    import yaml

    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


@pytest.mark.pictures
def test_a_dry_run_writes_what_would_go_up(tmp_path: Path) -> None:
    source = save(tmp_path / "in.jsonl", rows())
    held_out = save(tmp_path / "eval.jsonl", rows(6))
    folder = tmp_path / "deep" / "out"
    result = run(source, "me/my-kto", "--eval", held_out, "--dry-run", str(folder))
    assert result.exit_code == 0, result.stderr
    assert "train: 40 rows, 20 desirable, 20 undesirable" in result.stderr
    assert "warning: the licence of PKU-Alignment/PKU-SafeRLHF" in result.stderr
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {
        "README.md", "plots/lengths.png", "plots/shares.png",
        "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet",
    }  # fmt: skip
    kept = read_rows(str(folder / "data" / "train-00000-of-00001.parquet"))
    assert [row.prompt for row in kept] == [f"q{n}" for n in range(40)]  # their order
    assert all((folder / "plots" / name).read_bytes().startswith(PNG) for name in ("lengths.png", "shares.png"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    head = front_matter(text)
    assert head["license"] == "other"
    assert head["size_categories"] == ["n<1K"]
    assert {"split": "test", "path": "data/test-*.parquet"} in head["configs"][0]["data_files"]
    assert "46 rows to train on" in text
    assert "| `Anthropic/hh-rlhf:harmless-base:train` | 8 | 8 |" in text
    assert "| `corrupt:swap` | 0 | 12 |" in text
    assert "not for commercial use:** PKU-Alignment/PKU-SafeRLHF" in text
    assert "| `logs/mine\\|'x'<b>.csv` |" in text


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    source = save(tmp_path / "in.jsonl", rows())
    for name in "ab":
        assert run(source, "me/x", "--dry-run", str(tmp_path / name)).exit_code == 0
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize(
    ("source", "dataset", "commercial"),
    [
        ("Anthropic/hh-rlhf:helpful-base:train", "Anthropic/hh-rlhf", True),
        ("hh-rlhf/harmless-base/test.jsonl.gz", "Anthropic/hh-rlhf", True),
        ("pku-alignment/pku-saferlhf:train", "PKU-Alignment/PKU-SafeRLHF", False),
        ("PKU-Alignment/PKU-SafeRLHF-10K:train", "PKU-Alignment/PKU-SafeRLHF-10K", False),
        ("PKU-SafeRLHF/data.parquet", "PKU-Alignment/PKU-SafeRLHF", False),
        (
            "allenai/llama-3.1-tulu-3-8b-preference-mixture:train",
            "allenai/llama-3.1-tulu-3-8b-preference-mixture",
            False,
        ),
        ("me/hh-rlhf-like.jsonl", "", True),
        ("stdin", "", True),
        ("pku-saferlhf:d/pku.jsonl", "PKU-Alignment/PKU-SafeRLHF", False),
        ("shp:d/posts.jsonl", "stanfordnlp/SHP", True),
    ],
)
def test_licences_are_told_by_sources(source: str, dataset: str, commercial: bool) -> None:
    found = origin_of(source)
    assert (found.dataset, found.commercial) == (dataset, commercial)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["Anthropic/hh-rlhf:train"], "mit"),
        (["Anthropic/hh-rlhf:train", "argilla/kto-mix-15k:train"], "mit"),
        (["PKU-Alignment/PKU-SafeRLHF:train"], "cc-by-nc-4.0"),
        (["Anthropic/hh-rlhf:train", "PKU-Alignment/PKU-SafeRLHF:train"], "other"),
        (["Anthropic/hh-rlhf:train", "logs.csv"], "other"),
        (["logs.csv"], ""),
    ],
)
def test_the_licence_of_the_whole(sources: list[str], expected: str) -> None:
    assert licence_id([origin_of(source) for source in sources]) == expected


@pytest.mark.parametrize("asked", [True, False])
def test_the_licence_of_a_local_copy_is_told_whatever_was_done_with_its_rows(tmp_path: Path, asked: bool) -> None:
    """The preset that read a file goes along in `source`, through mix, split, another trainer's format and back."""
    pairs = save(tmp_path / "pairs.jsonl", [safe_pair(f"q{n}", (n % 2 == 0, n % 3 == 0), 1, 0) for n in range(30)])
    other = save(tmp_path / "other.jsonl", [{"prompt": [{"role": "user", "content": f"p{n}"}], "completion": [
        {"role": "assistant", "content": f"r{n}"}], "label": n % 2 == 0} for n in range(20)])  # fmt: skip
    at = {name: str(tmp_path / name) for name in ("a.parquet", "m.jsonl", "t.jsonl", "e.jsonl", "l.json", "b.parquet")}
    ktodata("unpair", pairs, "-o", at["a.parquet"], *(["--preset", "pku-saferlhf"] if asked else []))
    ktodata("mix", at["a.parquet"], other, "-o", at["m.jsonl"])
    ktodata("split", at["m.jsonl"], "-o", at["t.jsonl"], "--eval", at["e.jsonl"])
    ktodata("convert", at["t.jsonl"], "-o", at["l.json"], "--to", "llama-factory")
    ktodata("convert", at["l.json"], "-o", at["b.parquet"], "--to", "ktokit")
    for place in set(at.values()) - {at["l.json"]}:
        told = ktodata("push", place, "me/x", "--dry-run", f"{place}.card", "--licence", "mit").stderr
        assert ("warning: the licence of PKU-Alignment/PKU-SafeRLHF (pku-saferlhf:" in told) == asked
        assert ("warning: if the rows of pku-saferlhf?:" in told) == (not asked)
        assert "warning: --licence mit promises more" in told
        card = (Path(f"{place}.card") / "README.md").read_text()
        assert f"**Parts of this dataset {'are not' if asked else 'may not be'} for commercial use:**" in card
        assert "| `PKU-Alignment/PKU-SafeRLHF` |" in card
        assert "warning: --licence" not in ktodata("push", place, "me/x", "--dry-run", f"{place}.nc").stderr


def test_what_was_read_from_the_hub_or_warns_of_nothing_names_no_preset() -> None:
    pku, hh = SOURCES["pku-saferlhf"], SOURCES["hh-rlhf"]
    guessed = dataclasses.replace(hh, detected=True)
    assert stamped(pku, "PKU-Alignment/PKU-SafeRLHF-10K:train") == "PKU-Alignment/PKU-SafeRLHF-10K:train"
    assert stamped(guessed, "d/x.jsonl") == "d/x.jsonl"
    assert stamped(SOURCES["pairs"], "d/x.jsonl") == "d/x.jsonl"
    assert stamped(hh, "stdin") == "hh-rlhf:stdin"


@pytest.mark.pictures
def test_one_class_alone_has_pictures_too(tmp_path: Path) -> None:
    source = save(
        tmp_path / "in.jsonl", [{**row, "label": True, "strategy": "$a$", "origin": "synthetic"} for row in rows(2)]
    )
    assert run(source, "me/x", "--dry-run", str(tmp_path / "o")).exit_code == 0


def test_counts_are_kept_without_text() -> None:
    counts = Counts()
    assert (counts.rows, counts.prompts, counts.median(True), counts.table("source")) == (0, 0, 0, [])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["IN", "nothing", "--dry-run", "o"], 2, "'nothing' is no id"),
        (["IN", "a/b:c", "--dry-run", "o"], 2, "is no id"),
        (["IN", "a/b", "--token-env", "NO_SUCH_VARIABLE"], 2, "no environment variable NO_SUCH_VARIABLE"),
        (["IN", "a/b", "--token-env", "hf_secret123"], 2, "no environment variable."),
        (["IN", "a/b", "--dry-run", "."], 2, "not an empty folder"),
        (["IN", "a/b", "--licence", "nonsense!!", "--dry-run", "o"], 2, "--licence 'nonsense!!' is no licence's"),
        (["IN", "a/b", "--licence", "mit\nprivate: x", "--dry-run", "o"], 2, "It is like apache-2.0"),
        (["IN", "a/b", "--licence", "Apache-2.0", "--dry-run", "o"], 2, "Did you mean 'apache-2.0'?"),
        (["nothing.jsonl", "a/b", "--dry-run", "o"], 1, "no such file"),
        (["PAIRS", "a/b", "--dry-run", "o"], 1, "ktodata unpair"),
        (["IN", "a/b", "--eval", "CHAT", "--dry-run", "o"], 1, "text and chat in one dataset"),
    ],
)
def test_what_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    turns = [{"role": "assistant", "content": "a"}]
    places = {
        "IN": save(tmp_path / "in.jsonl", rows(4)),
        "PAIRS": save(tmp_path / "pairs.jsonl", [{"chosen": "a", "rejected": "b", "prompt": "c"}]),
        "CHAT": save(tmp_path / "chat.jsonl", [{"prompt": turns, "completion": turns, "label": True}]),
    }
    result = run(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == code
    assert said in result.stderr
    assert "secret123" not in result.output + result.stderr
    assert not (tmp_path / "o" / "README.md").exists()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    if not STUB.is_file():
        pytest.skip("no stand-in for the Hub beside this repository")
    root = tmp_path_factory.mktemp("hub")
    code = (
        "import sys, time, hub_stub\n"
        f"with hub_stub.serve(sys.argv[1], token={TOKEN!r}) as url:\n"
        "    print(url, flush=True)\n    time.sleep(250)\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(STUB.parent)},
    )
    with server:
        assert server.stdout
        yield server.stdout.readline().strip(), root
        server.terminate()


def push(endpoint: str, home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, since the client reads its settings when it is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-m", "ktodata", "push", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**kept, **hub, **settings},
        check=False,
    )


@pytest.mark.pictures
@pytest.mark.slow
def test_rows_go_up_and_come_back(tmp_path: Path, endpoint: tuple[str, Path]) -> None:
    url, root = endpoint
    source = save(tmp_path / "in.jsonl", rows())
    done = push(url, tmp_path / "home", source, "tester/mine", "--private", "--token-env", "MINE", MINE=TOKEN)
    assert done.returncode == 0, done.stderr
    assert "pushed to " in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    there = root / "datasets" / "tester" / "mine"
    assert (there / "plots" / "lengths.png").read_bytes().startswith(PNG)
    assert TOKEN not in (there / "README.md").read_text(encoding="utf-8")
    up = read_rows(str(there / "data" / "train-00000-of-00001.parquet"))
    assert [row.id for row in up] == [row.id for row in read_rows(source)]
    # Again, with fewer rows and beside shards that were there: these go, other files stay.
    (there / "data" / "train-00000-of-00002.parquet").write_bytes(b"old")
    (there / "notes.txt").write_text("mine", encoding="utf-8")
    again = push(url, tmp_path / "home", save(tmp_path / "b.jsonl", rows(8)), "tester/mine", HF_TOKEN=TOKEN)
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in (there / "data").iterdir()) == ["train-00000-of-00001.parquet"]
    assert (there / "notes.txt").exists()


def test_no_permission_is_one_line(tmp_path: Path, endpoint: tuple[str, Path]) -> None:
    source = save(tmp_path / "in.jsonl", rows(4))
    done = push(endpoint[0], tmp_path, source, "tester/other", "--token-env", "MINE", MINE="hf_wrong_9876543210")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "no permission to write there" in line
    assert "9876543210" not in done.stderr


@pytest.mark.parametrize(
    ("offline", "advice"),
    [("0", "Check the network"), pytest.param("1", "Unset HF_HUB_OFFLINE", marks=pytest.mark.slow)],
)
def test_no_network_is_one_line(offline: str, advice: str, tmp_path: Path) -> None:
    source = save(tmp_path / "in.jsonl", rows(4))
    done = push("http://127.0.0.1:9", tmp_path, source, "tester/other", HF_TOKEN=TOKEN, HF_HUB_OFFLINE=offline)
    assert done.returncode == 1
    assert f"the Hub cannot be reached. {advice}; nothing was put there" in " ".join(done.stderr.split())
    assert TOKEN not in done.stderr


@pytest.mark.parametrize("token", ["hf_secret\nsecret", "hf_secret secret", "hf_sécret"])
def test_what_cannot_be_a_token_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """Clients say that the Hub cannot be reached, or that ASCII cannot hold it."""
    source = save(tmp_path / "in.jsonl", rows(4))
    said = "error: the Hub's token has white space or a letter in it that no token has. Copy it again, whole and alone"
    for name, more in (("MINE", ["--token-env", "MINE"]), ("HF_TOKEN", [])):
        monkeypatch.setenv(name, token)
        done = run(source, "tester/other", *more)
        if name == "HF_TOKEN" and "\n" in token:
            continue  # the client leaves line feeds out of this one
        assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, said)
        assert "cret" not in done.stderr


@pytest.mark.parametrize("licence", ["mit", "cc-by-nc-4.0", "other", "unknown", "c-uda", "llama3.1", "gpl-2.0+"])
def test_licences_have_the_form_of_the_hubs(tmp_path: Path, licence: str) -> None:
    done = run(save(tmp_path / "in.jsonl", rows(4)), "me/x", "--licence", licence, "--dry-run", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    assert front_matter((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))["license"] == licence


def test_a_token_in_an_answer_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from ktodata.errors import WriteError

    def refuse(*_: object, **__: object) -> None:
        raise ValueError(f"odd request with {TOKEN}")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(WriteError) as caught:
        upload(tmp_path, "a/b", token=TOKEN)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.lists(st.fixed_dictionaries({"role": st.text(max_size=3), "content": st.text(max_size=3)}), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.none(), max_size=2)
)


@settings(max_examples=6, suppress_health_check=list(HealthCheck), deadline=None, phases=[Phase.generate])
@given(
    change=st.dictionaries(st.sampled_from([*rows(1)[0], "licence"]), ANYTHING, min_size=1, max_size=3),
    gone=st.sets(st.sampled_from(["prompt", "completion", "label", "source", "origin"]), max_size=1),
)
def test_whatever_is_in_a_row_it_goes_up_or_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, change: dict[str, Any], gone: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("push")
    odd = {name: value for name, value in (rows(1)[0] | change).items() if name not in gone}
    result = run(save(folder / "in.jsonl", [*rows(4), odd]), "me/mine", "--dry-run", str(folder / "out"))
    if result.exit_code == 0:
        assert (folder / "out" / "README.md").is_file()
    else:
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1, result.stderr
        assert not (folder / "out").exists(), "nothing is half-written"


def test_a_folder_that_cannot_be_made_is_told_as_such(tmp_path: Path) -> None:
    told = run(save(tmp_path / "in.jsonl", rows(4)), "me/x", "--dry-run", "/proc/x")
    assert told.exit_code == 1
    assert "error: /proc/x: the files cannot be written: No such file or directory. Name a folder where" in told.stderr


def test_another_run_leaves_what_is_prepared_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*arguments: Any, **more: Any) -> Any:
        assert list(tmp_path.glob(".ktodata-*"))
        clear(tmp_path, ".ktodata-")  # as any command does that writes there
        return publish.prepare(*arguments, **more)

    monkeypatch.setattr(sys.modules["ktodata.commands.push"], "prepare", prepare)
    result = run(save(tmp_path / "in.jsonl", rows(4)), "me/x", "--dry-run", str(tmp_path / "o"))
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "o" / "README.md").exists()
    assert not list(tmp_path.glob(".ktodata-*"))

"""What the cache has of a dataset on the Hub, where that cannot be reached; and how often it is asked."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from ktodata.errors import SourceError
from ktodata.io import Raw, chain_parts, find_parts, read_records


def cached(folder: Path, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that has these files of whatever is asked for, and no Hub."""

    def no_hub(*given: object, **more: object) -> None:
        raise ConnectionError("no network")

    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n', encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", no_hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **more: str(folder))


FIRST, SECOND = (f"data/train-0000{n}-of-00002.jsonl" for n in (0, 1))


@pytest.mark.parametrize("own_files", [False, True])
@pytest.mark.parametrize("names", [[FIRST], [SECOND, "data/test-00000-of-00001.jsonl"]])
def test_part_of_a_split_in_the_cache_does_not_pass_for_all_of_it(
    names: list[str], own_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run that was interrupted leaves it."""
    cached(tmp_path, names, monkeypatch)
    with pytest.raises(SourceError, match=r"the cache has 1 of the 2 files data/train-…-of-00002 only") as caught:
        list(chain_parts(find_parts("some/data", own_files=own_files)))
    assert str(caught.value).startswith("some/data on the Hub: ")
    assert "Hub can be reached" in caught.value.do


PAIR = ["x/train.jsonl", "y/train.jsonl"]


@pytest.mark.parametrize("names", [PAIR[:1], PAIR[1:], [*PAIR[:1], "y/test.jsonl"], [*PAIR[1:], "train.jsonl"]])
def test_some_of_the_folders_do_not_pass_for_all(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does another split of one, or what lies beside them."""
    cached(tmp_path, names, monkeypatch)
    there = names[0][0]
    with pytest.raises(SourceError, match=rf"the cache has no files of {'y' if there == 'x' else 'x'}\. Run") as caught:
        list(chain_parts(find_parts("some/data", own_files=True, folders=["x", "y"])))
    assert caught.value.do.endswith(
        f"; if it has no others, as a mirror may, name those that are there one by one: some/data:{there}"
    )
    assert len(find_parts(f"some/data:{there}", own_files=True, folders=["x", "y"])) == 1


def first(source: str, limit: int, own_files: bool, folders: Sequence[str] = ()) -> int:
    """How many of the first records are there."""
    parts = find_parts(source, limit=limit, own_files=own_files, folders=folders)
    return len(list(itertools.islice(chain_parts(parts), limit)))


@pytest.mark.parametrize("own_files", [False, True])
@pytest.mark.parametrize("name", ["data/train-%05d-of-00003.jsonl", "train-%05d-of-00003-0f.jsonl"])
def test_a_limit_is_refused_only_where_it_reaches_a_file_that_is_missing(
    name: str, own_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit has fetched no more files than it took."""
    cached(tmp_path, [name % 0, name % 2], monkeypatch)
    assert first("some/data", 1, own_files) == 1
    with pytest.raises(SourceError, match="the cache has 2 of the 3 files") as caught:
        first("some/data", 2, own_files)
    assert "--limit" not in caught.value.do  # this very command fetches as many as it needs
    (tmp_path / (name % 1)).write_bytes((tmp_path / (name % 2)).read_bytes())
    assert first("some/data", 4, own_files) == 3
    (tmp_path / (name % 0)).unlink()
    with pytest.raises(SourceError, match="the cache has 2 of the 3 files"):
        first("some/data", 1, own_files)


@pytest.mark.parametrize("above", ["", "data/", "of-x/of-b/"])
def test_a_limit_is_refused_only_where_it_reaches_a_folder_that_is_missing(
    above: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path, [f"{above}{folder}/train.jsonl" for folder in "bx"], monkeypatch)
    assert first("some/data", 2, True, ["x", "b", "y"]) == 2
    assert first("some/data", 1, True, ["b", "c", "x"]) == 1
    for limit, folders in ((3, ["x", "b", "y"]), (2, ["b", "c", "x"]), (1, ["a", "b", "x"])):
        with pytest.raises(SourceError, match=r"the cache has no files of [acy]\. Run this once") as caught:
            first("some/data", limit, True, folders)
        assert caught.value.do.endswith(": " + ", ".join(f"some/data:{one}" for one in folders if one in "bx"))


def test_what_a_limit_streams_has_to_be_fetched_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas

    cached(tmp_path, [FIRST], monkeypatch)
    (tmp_path / FIRST).unlink()
    frame = pandas.DataFrame({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]})
    frame.to_parquet(tmp_path / FIRST.replace("jsonl", "parquet"))
    assert first("some/data", 1, own_files=False) == 1
    with pytest.raises(SourceError, match="without HF_HUB_OFFLINE and without --limit, to fetch the others"):
        first("some/data", 2, own_files=False)
    with pytest.raises(SourceError, match="without HF_HUB_OFFLINE, to fetch the others"):
        list(read_records("some/data"))


@pytest.mark.parametrize("names", [PAIR, ["train.jsonl"]])
def test_all_of_the_folders_or_none_are_read(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, where the files are not in such folders."""
    cached(tmp_path, names, monkeypatch)
    assert [part.path for part in find_parts("some/data", own_files=True, folders=["x", "y"])] == names


@pytest.mark.parametrize("own_files", [False, True])
@pytest.mark.parametrize("names", [[FIRST, SECOND], [FIRST, SECOND, "data/test-00001-of-00002.jsonl"], ["train.jsonl"]])
def test_what_the_cache_has_is_read_with_a_warning(
    names: list[str], own_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another split may lack some, and files that do not count themselves may be all there are."""
    cached(tmp_path, names, monkeypatch)
    found = list(chain_parts(find_parts("some/data", own_files=own_files)))
    assert len(found) == sum("train" in name for name in names)
    assert "reading what the cache has of some/data, which may not be all of it" in caplog.text


def test_the_hub_is_asked_once_whether_it_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where `datasets` has to read what its files' names do not tell how to."""
    asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *given, **more: asked.append(given))
    monkeypatch.setattr(
        "datasets.load_dataset_builder", lambda *given: SimpleNamespace(config=SimpleNamespace(data_files={}))
    )
    monkeypatch.setattr("datasets.load_dataset", lambda *given, **more: [{"a": 1}])
    assert [raw.values() for raw in read_records("some/data")] == [{"a": 1}]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("stored", "read"),
    [("1", True), ('"0"', False), ("1.0", True), ("true", True), ("2", 2), ("null", None), ("[1]", [1]), ('"x"', "x")],
)
def test_what_stands_for_true_and_false_where_that_is_declared(stored: str, read: object) -> None:
    """Whatever else is there stays, to be refused as it is; so does the record for the quarantine file."""
    line = f'{{"n": 1, "label": {stored}}}'
    raw = Raw(line.encode(), "a:1", "a", flags=("label", "missing"))
    assert raw.values() == {"n": 1, "label": read}
    assert type(raw.values()["label"]) is type(read)
    assert raw.shown() == line

"""What the cache has of a dataset on the Hub, where that cannot be reached; and how often it is asked."""

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
        find_parts("some/data", own_files=True, folders=["x", "y"])
    assert caught.value.do.endswith(f"or name one that it has: some/data:{there}")
    assert len(find_parts(f"some/data:{there}", own_files=True, folders=["x", "y"])) == 1


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

"""What the cache has of a dataset on the Hub, where that cannot be reached; and how often it is asked."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ktodata.errors import SourceError
from ktodata.io import chain_parts, find_parts, read_records


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


@pytest.mark.parametrize("own_files", [False, True])
@pytest.mark.parametrize("names", [[FIRST, SECOND], [FIRST, SECOND, "data/test-00001-of-00002.jsonl"], ["train.jsonl"]])
def test_what_the_cache_has_is_read_with_a_warning(
    names: list[str], own_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another split may lack some, and files that do not count themselves may be all there are."""
    cached(tmp_path, names, monkeypatch)
    found = list(chain_parts(find_parts("some/data", own_files=own_files)))
    assert len(found) == sum("train" in name for name in names)
    assert "reading what the cache has of some/data" in caplog.text


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

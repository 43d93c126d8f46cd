"""Files are the old one or the whole new one: whatever goes wrong, nothing is half-written and nothing is left over."""

import os
from pathlib import Path

import pytest

from ktotrain.errors import TrainingError
from ktotrain.files import write_atomic


def test_text_and_bytes_are_written_verbatim_with_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomic(path, "é\r\n\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n\n"
    write_atomic(path, b"\x00new")
    assert path.read_bytes() == b"\x00new"
    assert [entry.name for entry in path.parent.iterdir()] == ["c.txt"]


def test_others_may_read_it_as_far_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError(28, "No space left on device"), TrainingError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, raised: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")

    def fail(handle: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(raised) as caught:
        write_atomic(path, "new")
    if raised is TrainingError:
        assert str(caught.value).startswith(f"{path}: cannot be written: No space left on device")
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_its_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(TrainingError, match="folder: cannot be written: "):
        write_atomic(tmp_path / "folder", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]

"""Folders of data files: nothing in them that is called as data are is passed over without a word."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ktodata.cli import main
from ktodata.io import find_parts

ROWS = "".join(json.dumps({"prompt": f"p{n}", "completion": f"c{n}", "label": n % 2 > 0}) + "\n" for n in range(4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    (made / "sub").mkdir(parents=True)
    (made / "a.jsonl").write_text(ROWS, encoding="utf-8")
    (made / "sub" / "b.jsonl").write_text(ROWS, encoding="utf-8")
    return made


def unpair(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["unpair", str(folder), "-o", str(folder.parent / "o.jsonl"), *more])


def parts(folder: Path) -> list[str]:
    return [part.path for part in find_parts(str(folder))]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.symlink_to("gone"), "a link to nothing. Take it away, or mend it"),
        (lambda path: path.symlink_to(path.name), "a link to nothing. Take it away, or mend it"),
        (os.mkfifo, "not a regular file. Take it away, or name it itself to read from it"),
    ],
)
@pytest.mark.parametrize("place", ["c.jsonl", "sub/c.parquet"])
def test_what_is_called_as_data_and_is_no_file_is_an_error(
    folder: Path, place: str, make: Callable[[Path], None], told: str
) -> None:
    make(folder / place)
    result = unpair(folder, "--quarantine", str(folder.parent / "bad.jsonl"))
    assert (result.exit_code, result.stderr) == (1, f"error: {folder / place}: {told}\n")
    # It is none where it would not be read.
    (folder / place).rename((folder / place).with_name("test.jsonl"))
    (folder / "a.jsonl").rename(folder / "train.jsonl")
    assert parts(folder) == ["train.jsonl"]


def test_what_is_called_otherwise_is_nobodys_business(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / ".c.jsonl")
    (folder / "notes.txt").symlink_to("gone")
    (folder / "_c.jsonl").symlink_to("gone")
    assert parts(folder) == ["a.jsonl", "sub/b.jsonl"]


@pytest.mark.parametrize("deep", [False, True])
def test_a_folder_that_may_not_be_looked_into_is_an_error(
    folder: Path, deep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = folder / "sub" / "shut" if deep else folder / "sub"
    for place in (shut, folder / ".git"):
        place.mkdir(exist_ok=True)
    look = os.scandir

    def scandir(path: "os.PathLike[str] | str" = ".") -> object:  # no mode stops root
        if Path(path) in (shut, folder / ".git"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = unpair(folder)
    assert (result.exit_code, result.stderr) == (1, f"error: {shut}: cannot be read: Permission denied\n")
    shut.rename(folder / "_shut")
    assert parts(folder)[0] == "a.jsonl"


def test_links_to_files_are_read_and_links_to_folders_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "more.jsonl").symlink_to("a.jsonl")
    for name in ("linked", ".linked"):
        (folder / name).symlink_to(folder)
    assert parts(folder) == ["a.jsonl", "more.jsonl", "sub/b.jsonl"]
    assert caplog.messages == [f"{folder}: not read, as they are links to folders: linked"]

"""Checkpoint folders: whole or not there, recognised when damaged, old ones gone once a new one is in place."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktotrain import checkpoint
from ktotrain.errors import TrainingError


def fill(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(b"w" * 5000)
    (folder / "state.json").write_text("{}")


def names(run: Path) -> list[str]:
    return sorted(path.name for path in checkpoint.folder_of(run).iterdir())


def save(run: Path, *steps: int, keep: int = 0) -> list[Path]:
    return [checkpoint.save(run, step, fill, keep=keep) for step in steps]


def test_a_checkpoint_is_whole_and_said_to_be(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 7)
    assert path == tmp_path / "checkpoints" / "step-7"
    assert checkpoint.trouble_with(path) == ""
    assert checkpoint.newest_good(tmp_path, print) == path
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 7
    assert manifest["files"].keys() == {"weights.safetensors", "state.json"}


def test_the_newest_stay_and_steps_are_numbers(tmp_path: Path) -> None:
    save(tmp_path, 8, 9, 10, 11, keep=2)
    assert names(tmp_path) == ["step-10", "step-11"]
    assert checkpoint.newest_good(tmp_path, print) == tmp_path / "checkpoints" / "step-11"
    save(tmp_path, 12, 13, keep=0)
    assert len(names(tmp_path)) == 4


def test_nothing_that_is_being_written_matches_a_checkpoint(tmp_path: Path) -> None:
    """What the folder looks like while files are written, while they are sealed, and before the old one goes."""
    seen: list[list[str]] = []

    def look(folder: Path) -> None:
        fill(folder)
        seen.append(names(tmp_path))

    save(tmp_path, 1)
    checkpoint.save(tmp_path, 2, look, keep=1)
    assert seen == [["step-1", "unfinished-2"]]
    assert names(tmp_path) == ["step-2"]
    assert not list((tmp_path / "checkpoints").glob("step-*unfinished*"))


def test_the_old_one_goes_only_after_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    order: list[tuple[str, str]] = []
    honest = Path.rename

    def rename(path: Path, target: Path) -> Path:
        order.append((path.name, Path(target).name))
        return honest(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    save(tmp_path, 2, keep=1)
    assert order == [("unfinished-2", "step-2"), ("step-1", "unfinished-old-1")]


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "missing"])
def test_damage_is_recognised_and_the_one_before_is_used(tmp_path: Path, name: str, how: str) -> None:
    good, bad = save(tmp_path, 1, 2)
    content = bytearray((bad / name).read_bytes())
    if how == "changed":
        content[len(content) // 2] ^= 1
        (bad / name).write_bytes(content)
    elif how == "cut":
        (bad / name).write_bytes(content[: len(content) // 2])
    else:
        (bad / name).unlink()
    said: list[str] = []
    assert checkpoint.newest_good(tmp_path, said.append) == good
    assert len(said) == 1
    assert "step-2 is damaged" in said[0]
    assert "going on from step-1" in said[0]
    assert names(tmp_path) == ["damaged-step-2", "step-1"]
    save(tmp_path, 2)
    assert checkpoint.trouble_with(bad) == ""


def test_all_damaged_is_an_error_and_none_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest_good(tmp_path, print) is None
    (tmp_path / "checkpoints" / "unfinished-3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-x").mkdir()
    assert checkpoint.newest_good(tmp_path, print) is None
    for path in save(tmp_path, 1, 2):
        (path / "state.json").unlink()
    with pytest.raises(TrainingError, match=r"no checkpoint is whole \(step-2: state.json.*step-1: .*copy"):
        checkpoint.newest_good(tmp_path, print)
    assert {"step-1", "step-2"} <= set(names(tmp_path))


def test_what_a_kill_left_is_cleared_by_the_next_save(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in ("unfinished-2", "unfinished-old-0"):
        (tmp_path / "checkpoints" / name).mkdir()
        fill(tmp_path / "checkpoints" / name)
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-1", "step-2"]


def test_a_full_disk_leaves_the_older_ones_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def no_room(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(TrainingError, match="step 2 could not be saved: No space left on device"):
        checkpoint.save(tmp_path, 2, no_room, keep=1)
    assert names(tmp_path) == ["step-1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where this machine lets us have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    def large(folder: Path) -> None:
        import torch
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(700_000)}, folder / "weights.safetensors")

    first = checkpoint.save(small_disk, 1, large, keep=1)
    with pytest.raises(TrainingError, match=r"step 2 could not be saved: .*No space left"):
        checkpoint.save(small_disk, 2, large, keep=1)
    assert names(small_disk) == ["step-1"]
    assert checkpoint.trouble_with(first) == ""


def test_a_process_that_fails_fails_all(tmp_path: Path) -> None:
    """What another process says counts: nothing is renamed unless all have written their part."""
    with pytest.raises(TrainingError, match="another process failed"):
        checkpoint.save(tmp_path, 1, fill, keep=1, agree=lambda good: False)
    assert names(tmp_path) == []

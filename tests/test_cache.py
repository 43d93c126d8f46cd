"""The reference cache: found again, never mistaken for another reference's, and made anew where damaged."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_llama

from ktotrain.batch import Branch
from ktotrain.cache import ScoreCache, cache_folder, fingerprint, sequence_key


def branch(prompt: list[int], completion: list[int], row: int = 0) -> Branch:
    return Branch(row, row, np.array(prompt, dtype=np.int32), np.array(completion, dtype=np.int32))


def name_of(model: Any, precision: str = "no", config: str = "") -> str:
    return fingerprint(model.state_dict().items(), precision=precision, config=config)


def test_a_sequence_is_its_tokens_and_the_border_between_them() -> None:
    assert sequence_key(branch([1, 2], [3])) == sequence_key(branch([1, 2], [3], row=7))
    others = [branch([1], [2, 3]), branch([1, 2], [4]), branch([2, 1], [3]), branch([1, 2], [3, 3])]
    assert len({sequence_key(other) for other in [branch([1, 2], [3]), *others]}) == 5


def test_scores_come_back_as_they_were(tmp_path: Path) -> None:
    first = ScoreCache(tmp_path / "new" / "folder", "abc")
    one, two = branch([1, 2], [3]), branch([1], [2, 3])
    first.add({sequence_key(one): -1.5})
    first.add({sequence_key(two): float(np.float32(-1 / 3))})
    again = ScoreCache(tmp_path / "new" / "folder", "abc")
    assert (again[one], again[two]) == (-1.5, float(np.float32(-1 / 3)))
    assert branch([9], [9]) not in again
    assert not again.trouble


def test_a_fingerprint_is_every_weight_and_the_precision() -> None:
    model = tiny_llama()
    name = name_of(model)
    assert name == name_of(tiny_llama())
    assert name != name_of(model, precision="bf16")
    assert name != name_of(model, config="other")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-6
    assert name != name_of(model)
    assert name_of(tiny_llama().bfloat16()) != name


def test_another_references_file_is_not_used(tmp_path: Path) -> None:
    ours = ScoreCache(tmp_path, "ours")
    ours.add({sequence_key(branch([1], [2])): -1.0})
    shutil.copy(ours.path, tmp_path / "reference-theirs.safetensors")
    theirs = ScoreCache(tmp_path, "theirs")
    assert theirs.scores == {}
    assert "another reference" in theirs.trouble


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    cache = ScoreCache(tmp_path, "abc")
    cache.add({sequence_key(branch([n], [2])): -float(n) for n in range(20)})
    data = bytearray(cache.path.read_bytes())
    if damage == "truncated":
        data = data[:-10]
    elif damage == "flipped":
        data[-1] ^= 1
    cache.path.write_bytes({"empty": b"", "text": b"not this"}.get(damage, bytes(data)))
    again = ScoreCache(tmp_path, "abc")
    assert again.scores == {}
    assert "made anew" in again.trouble
    again.add({sequence_key(branch([1], [2])): -1.0})
    assert len(ScoreCache(tmp_path, "abc").scores) == 1


def test_the_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("KTOKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ktokit"


def test_a_folder_that_cannot_be_written_is_said_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ScoreCache(tmp_path / "file", "a")
    cache.add({b"0" * 16: -1.5})
    assert cache.scores == {b"0" * 16: -1.5}
    assert "not kept for later runs" in cache.trouble
    assert (tmp_path / "file").read_text() == "in the way"


def test_two_runs_at_once_lose_nothing(tmp_path: Path) -> None:
    one, other = ScoreCache(tmp_path, "a"), ScoreCache(tmp_path, "a")
    one.add({b"1" * 16: -1.0})
    other.add({b"2" * 16: -2.0})
    assert ScoreCache(tmp_path, "a").scores == {b"1" * 16: -1.0, b"2" * 16: -2.0}


ADD = """
import sys, time
from pathlib import Path
from ktotrain.cache import ScoreCache
folder, own = Path(sys.argv[1]), sys.argv[2]
(folder / own).touch()
while not all((folder / name).exists() for name in "12"):
    time.sleep(0.001)
for number in range(40):
    ScoreCache(folder, "a").add({f"{own}{number:015}".encode(): -float(number)})
"""


@pytest.mark.slow
def test_two_processes_that_write_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path), name]) for name in "12"]
    assert [process.wait(100) for process in both] == [0, 0]
    assert len(ScoreCache(tmp_path, "a").scores) == 80


def test_a_file_that_cannot_be_read_now_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ScoreCache(tmp_path, "a").add({b"1" * 16: -1.0})

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        cache = ScoreCache(tmp_path, "a")
        assert "Permission denied" in cache.trouble
        assert "stays as it is" in cache.trouble
        cache.add({b"2" * 16: -2.0})
        assert cache.scores == {b"2" * 16: -2.0}
        assert "not kept for later runs" in cache.trouble
    assert ScoreCache(tmp_path, "a").scores == {b"1" * 16: -1.0}
    cache.add({b"3" * 16: -3.0})
    assert len(ScoreCache(tmp_path, "a").scores) == 3, "once it can be read again, all is put together"


def test_no_more_files_can_be_opened(tmp_path: Path) -> None:
    """safetensors says then that there is no such file."""
    import resource

    ScoreCache(tmp_path, "a").add({b"1" * 16: -1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.dup(0) for _ in range(64)]  # every number below the first of these is taken
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(held), hard))
    try:
        trouble = ScoreCache(tmp_path, "a").trouble
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in held:
            os.close(handle)
    assert "Too many open files" in trouble
    assert "stays as it is" in trouble

"""Checkpoint folders: whole or not there, recognised by checksum, old ones removed once a new one is in place.

    checkpoints/step-N/         a checkpoint; manifest.json in it holds size and checksum of each file
    checkpoints/unfinished-…    being written or removed; left over where a run was killed, and cleared by the next save
    checkpoints/damaged-step-N  what `newest_good` put out of the way

What is in a checkpoint is no matter here: see `ktotrain.run_state`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError

from ktotrain.errors import TrainingError
from ktotrain.files import sync_folder, usual_mode, write_atomic

FORMAT = "ktokit checkpoint, 1"
MANIFEST = "manifest.json"
CHUNK = 1 << 22


def folder_of(output_dir: Path) -> Path:
    """Where a run's checkpoints lie."""
    return output_dir / "checkpoints"


def checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run, whole or damaged, as (step, folder), the newest last."""
    found = []
    for path in folder_of(output_dir).glob("step-*"):
        number = re.fullmatch(r"step-(\d+)", path.name)
        if number and path.is_dir():
            found.append((int(number[1]), path))
    return sorted(found)


def save(
    output_dir: Path,
    step: int,
    fill: Callable[[Path], None],
    *,
    keep: int,
    main: bool = True,
    agree: Callable[[bool], bool] = bool,
) -> Path:
    """Write a checkpoint and then remove the oldest beyond `keep` (0: none); returns its folder.

    Args:
        fill: writes the files of this process into the folder it is given.
        main: whether this is the process that makes, seals and renames the folder.
        agree: whether something is so in all processes.

    Raises:
        TrainingError: it cannot be written. Nothing of it is left then, and older ones stay.
    """
    folder = folder_of(output_dir)
    aside, target = folder / f"unfinished-{step}", folder / f"step-{step}"

    def attempt(act: Callable[[], None]) -> None:
        trouble = ""
        try:
            act()
        except (OSError, SafetensorError) as error:  # the second is what a full disk is to safetensors
            trouble = getattr(error, "strerror", None) or str(error).rpartition(": ")[2]
        except TrainingError as error:
            trouble = error.what
        if not agree(not trouble):
            raise TrainingError(
                f"the checkpoint of step {step} could not be saved: {trouble or 'another process failed'}",
                where=str(target),
                do="Look at free space and permissions",
            )

    try:
        attempt(lambda: _begin(folder, aside) if main else None)
        attempt(lambda: fill(aside))
        attempt(lambda: _commit(aside, target, step, keep) if main else None)
    finally:
        if main:
            shutil.rmtree(aside, ignore_errors=True)
    return target


def _begin(folder: Path, aside: Path) -> None:
    _clear(folder)
    aside.mkdir(parents=True)


def _commit(aside: Path, target: Path, step: int, keep: int) -> None:
    _seal(aside, step)
    if target.exists():
        target.rename(target.with_name(f"unfinished-old-{step}"))
    aside.rename(target)
    sync_folder(target.parent)
    with contextlib.suppress(OSError):
        for number, old in checkpoints(target.parents[1])[:-keep] if keep else []:
            old.rename(old.with_name(f"unfinished-old-{number}"))  # at once: a kill leaves no half of a step-*
        _clear(target.parent)


def newest_good(output_dir: Path, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint, or None if there are none at all. Damaged ones after it are renamed, said aloud.

    Raises:
        TrainingError: all that are there are damaged. They stay as they are.
    """
    damaged: list[tuple[Path, str]] = []
    for _, path in reversed(checkpoints(output_dir)):
        trouble = trouble_with(path)
        if not trouble:
            for bad, reason in damaged:
                aside = bad.with_name(f"damaged-{bad.name}")
                shutil.rmtree(aside, ignore_errors=True)
                with contextlib.suppress(OSError):
                    bad.rename(aside)
                say(f"{bad} is damaged ({reason}) and is not used; it is {aside.name} now, going on from {path.name}")
            return path
        damaged.append((path, trouble))
    if damaged:
        listed = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
        raise TrainingError(
            f"no checkpoint is whole ({listed})",
            where=str(folder_of(output_dir)),
            do="Restore one from a copy, or delete the run folder and start again",
        )
    return None


def trouble_with(path: Path) -> str:
    """What is wrong with a checkpoint: a missing, shortened or changed file; "" if it is whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"of another format, {manifest['format']!r}"
        if f"step-{manifest['step']}" != path.name:
            return f"it is of step {manifest['step']}"
        files = {str(name): (int(entry["bytes"]), str(entry["xxh3_128"])) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"

    def look(name: str) -> str:
        size, sum_ = files[name]
        try:
            there = (path / name).stat().st_size
            if there != size:
                return f"{name} has {there:,} of {size:,} bytes"
            return "" if checksum(path / name) == sum_ else f"{name} does not have its checksum"
        except OSError as error:
            return f"{name}: {error.strerror}"

    with ThreadPoolExecutor() as threads:
        return next(filter(None, threads.map(look, sorted(files))), "")


def checksum(path: Path) -> str:
    """XXH3 of a file, 128 bits in hexadecimal: against damage, not against malice, and as fast as memory is read."""
    import xxhash

    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _seal(folder: Path, step: int) -> None:
    """Everything on disk, and a manifest that says what everything is. Checksums are computed while the disk writes."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    for path in paths:
        path.chmod(usual_mode())  # safetensors makes files that nobody else can read
    with ThreadPoolExecutor(max_workers=2 * len(paths)) as threads:
        written = threads.map(_sync, paths)
        sums = list(threads.map(checksum, paths))
        list(written)
    files = {
        path.name: {"bytes": path.stat().st_size, "xxh3_128": sum_} for path, sum_ in zip(paths, sums, strict=True)
    }
    write_atomic(folder / MANIFEST, json.dumps({"format": FORMAT, "step": step, "files": files}, indent=2) + "\n")
    sync_folder(folder)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _clear(folder: Path) -> None:
    """Remove what was being written or removed when a run was killed."""
    for path in folder.glob("unfinished-*"):
        shutil.rmtree(path, ignore_errors=True)

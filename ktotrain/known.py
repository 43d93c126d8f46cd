"""Which of a run's reference scores are known from earlier runs: found out before a second model is made for them.

The policy as loaded is its own reference, so "initial" takes a fingerprint of the policy's weights. Another model's
takes that of its files first: what they were loaded as, the last time, stands in a note beside the cache. So a second
run with the same rows neither loads that model nor runs it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from ktotrain.batch import Branch, TokenizedRow
from ktotrain.cache import FORMAT, ScoreCache, cache_folder, fingerprint
from ktotrain.errors import ModelError, TrainingError
from ktotrain.files import write_atomic
from ktotrain.losses import Loss
from ktotrain.model import load_config, quiet
from ktotrain.model_code import code_of
from ktotrain.plan import Step
from ktotrain.precompute import missing_sequences
from ktotrain.reference import Reference, Unloaded

T = TypeVar("T")
EXACT = (torch.float32, torch.float64)
# What code of a model's own may raise.
ANYTHING = (Exception,)


class Agree(Protocol):
    """Gives all processes what the main one computes."""

    def __call__(self, compute: Callable[[], T]) -> T: ...


def alone(compute: Callable[[], T]) -> T:
    """See `Agree`, for one process."""
    return compute()


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """The scores that are known, and the sequences whose scores are not."""

    cache: ScoreCache
    missing: dict[bytes, Branch]


@dataclasses.dataclass(frozen=True, slots=True)
class Sought:
    """What a run needs the reference's scores of, and how they are computed.

    `plans` are steps with the rows that they are of, `precision` is the recipe's, `way` is layout, attention and kind
    of device: in half precision they decide a score's last digits, so scores are not taken from one way to another.
    """

    plans: Sequence[tuple[Sequence[Step], Sequence[TokenizedRow]]]
    max_length: int
    loss: Loss
    precision: str
    way: str
    agree: Agree = alone

    def of(self, reference: Reference) -> Known:
        """What is known of a reference, by its weights. All processes must call it."""
        exact = self.precision == "no"

        def seen() -> Any:
            nonlocal exact
            for name, tensor in reference.weights():
                exact = exact and (tensor.dtype in EXACT or not tensor.is_floating_point())
                yield name, tensor

        weights = fingerprint(seen(), precision=self.precision, config=reference.settings(), code=reference.code())
        return self.named(weights if exact else _digest(weights, self.way))

    def named(self, name: str) -> Known:
        """What is known of a reference with this fingerprint; all processes go by the main one's file."""
        cache = ScoreCache(cache_folder(), name)
        cache.scores = self.agree(lambda: cache.scores)
        missing: dict[bytes, Branch] = {}
        for steps, rows in self.plans:
            missing |= missing_sequences(steps, rows, self.max_length, self.loss, cache)
        return Known(cache, missing)

    def of_files(self, files: ModelFiles, load: Callable[[], Reference]) -> tuple[Reference, Known]:
        """A reference that is named by path, and what is known of it; it is loaded only if something is missing."""
        note = self.agree(lambda: self._note(files))
        if note:
            name = self.agree(lambda: _recall(note))
            if name and not (known := self.named(name)).missing:
                return Unloaded(files.content), known
        reference = load()
        known = self.of(reference)
        if note:
            self.agree(lambda: _remember(note, known.cache.name))
        return reference, known

    def _note(self, files: ModelFiles) -> str:
        """A name for what a model's files are loaded as here; "" if it cannot be told without loading them."""
        code = files.code() if files.content else ""
        return _digest(FORMAT, files.content, files.dtype, code, self.precision, self.way) if code else ""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model that is named by path. `content` is a name for what stands in them, "" if unknown."""

    path: str
    dtype: str
    trust_remote_code: bool
    content: str

    def code(self) -> str:
        """A name for the code that would run it, found out without its weights; "" if that cannot be done."""
        from transformers import AutoModelForCausalLM

        try:
            config = load_config(self.path, trust_remote_code=self.trust_remote_code)
            with torch.device("meta"), quiet():
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=self.trust_remote_code)
        except ANYTHING:
            return ""
        return code_of(model, without={"peft"})


def model_files(path: str, *, dtype: str, trust_remote_code: bool) -> ModelFiles:
    """The files of a Hub id or folder. Weights are read whole: that is how they are known."""
    folder = Path(path) if Path(path).is_dir() else _snapshot(path, trust_remote_code=trust_remote_code)
    return ModelFiles(path, dtype, trust_remote_code, _content(folder) if folder else "")


def _snapshot(path: str, *, trust_remote_code: bool) -> Path | None:
    """Where the files of a Hub id lie, if they have been fetched: those that would be loaded now."""
    from huggingface_hub import snapshot_download

    try:
        commit = load_config(path, trust_remote_code=trust_remote_code)._commit_hash
        return Path(snapshot_download(path, revision=commit, local_files_only=True)) if commit else None
    except (ModelError, OSError, ValueError):
        return None


def _content(folder: Path) -> str:
    """Over the config, the weights and the code in a folder; "" if some of the weights are not there."""
    index = folder / "model.safetensors.index.json"
    try:
        named = {"model.safetensors"}
        if index.is_file() and not (folder / "model.safetensors").is_file():
            named = set(json.loads(index.read_bytes())["weight_map"].values())
        code = {str(path.relative_to(folder)) for path in folder.glob("*.py")}
        files = sorted({"config.json", *named, *code})
        with ThreadPoolExecutor() as threads:
            hashes = list(threads.map(lambda name: _file_hash(folder / name), files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return _digest(*(f"{name} {one}" for name, one in zip(files, hashes, strict=True)))


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def _recall(note: str) -> str:
    """The fingerprint that a model had when it was last loaded from such files, or ""."""
    try:
        known = json.loads((cache_folder() / f"loaded-{note}.json").read_bytes())
        name = str(known["reference"]) if known["files"] == note else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return name if re.fullmatch("[0-9a-f]{32}", name) else ""


def _remember(note: str, name: str) -> None:
    path = cache_folder() / f"loaded-{note}.json"
    try:
        write_atomic(path, json.dumps({"files": note, "reference": name}) + "\n")
    except TrainingError:  # the cache itself could not be written then, and says so
        return

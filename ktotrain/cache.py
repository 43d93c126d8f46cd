"""Reference log-probabilities on disk: one number per token sequence as fed, for this run and every later one.

A file belongs to one reference (its weights, adapter included, its code, and the precision it computed in): its name
and its header carry their fingerprint, so another model's numbers are never used, whatever beta, weights, learning
rate or epochs a run has. Within a file a sequence is found by a hash of its token ids. A damaged file is recognised by
its checksum and made anew.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from ktotrain.batch import Branch
from ktotrain.errors import TrainingError
from ktotrain.files import write_atomic
from ktotrain.lock import alone_at

KEY_BYTES = 16
HASHED_AT_ONCE = 8
# 2: sums over tokens in float64
# 3: evaluation rows are scored after their own prompts
FORMAT = "ktokit reference log-probabilities, 3"
# What reading a file raises that is not what it should be; of one that cannot be read, an OSError.
WRONG = (SafetensorError, KeyError, ValueError, TypeError)
# Seconds that a process waits for another one to write.
PATIENCE = 60.0


def cache_folder() -> Path:
    """Where caches lie: `KTOKIT_CACHE`, or ktokit in the user's cache folder."""
    named = os.environ.get("KTOKIT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ktokit"


def sequence_key(branch: Branch) -> bytes:
    """A name for a prompt with a completion as they are fed: 16 bytes of the BLAKE2 hash of the ids and the border."""
    digest = hashlib.blake2b(len(branch.prompt_ids).to_bytes(8, "little"), digest_size=KEY_BYTES)
    digest.update(branch.prompt_ids.tobytes())
    digest.update(branch.completion_ids.tobytes())
    return digest.digest()


def fingerprint(parameters: Iterable[tuple[str, Tensor]], *, precision: str, config: str, code: str = "") -> str:
    """A name for a reference: 32 hexadecimal digits over every weight's name, type, shape and bytes.

    Args:
        parameters: all weights and buffers that the reference computes with, its adapter's too.
        precision: what matrices are multiplied in.
        config: whatever else decides what the weights compute, as text.
        code: a name for the code that computes: see `ktotrain.model_code`.
    """
    hashes: list[tuple[str, bytes]] = []
    pending: deque[tuple[str, Future[bytes]]] = deque()
    # Hashing frees the interpreter lock: threads make the most of it. Few at a time: a tensor may have been gathered
    # from other processes for this alone.
    with ThreadPoolExecutor() as threads:
        for name, tensor in parameters:
            pending.append((name, threads.submit(_tensor_hash, name, tensor)))
            if len(pending) > HASHED_AT_ONCE:
                done, future = pending.popleft()
                hashes.append((done, future.result()))
        hashes += [(name, future.result()) for name, future in pending]
    whole = hashlib.sha256("\n".join([FORMAT, precision, config, code]).encode())
    for _, one in sorted(hashes):
        whole.update(one)
    return whole.hexdigest()[:32]


def _tensor_hash(name: str, tensor: Tensor) -> bytes:
    digest = hashlib.blake2b(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
    digest.update(data.cpu().numpy().data)
    return digest.digest()


class ScoreCache:
    """Known reference scores by sequence, with the file they are kept in.

    `trouble` says why a file that was there could not be used, or why none could be written, or is "".
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self.name = folder / f"reference-{name}.safetensors", name
        self.scores: dict[bytes, float] = {}
        self.trouble = ""
        try:
            self.scores = self._read()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self.trouble = unread(self.path, error)
        except WRONG as error:
            self.trouble = f"{self.path} cannot be used and is made anew ({error})"

    def __contains__(self, branch: Branch) -> bool:
        return sequence_key(branch) in self.scores

    def __getitem__(self, branch: Branch) -> float:
        return self.scores[sequence_key(branch)]

    def add(self, scores: Mapping[bytes, float]) -> None:
        """Put in new scores, and write all of them out: atomically, so that a reader sees the old file or the new.

        A file that cannot be written is no error, since this run has what it needs: `trouble` says so. Neither is one
        that cannot be read just now, which stays as it is: what other runs have put there would be lost.
        """
        self.scores |= scores
        with alone_at(self.path.with_name(f".{self.path.name}.lock"), patience=PATIENCE):
            try:
                self.scores |= self._read()  # another run may have added to it meanwhile
            except (FileNotFoundError, NotADirectoryError, *WRONG):
                pass
            except OSError as error:
                self.trouble = f"the reference's scores are not kept for later runs: {unread(self.path, error)}"
                return
            self._write()

    def _write(self) -> None:
        keys = np.frombuffer(b"".join(self.scores), dtype=np.uint8).reshape(-1, KEY_BYTES)
        values = np.fromiter(self.scores.values(), dtype=np.float32, count=len(self.scores))
        header = {"format": FORMAT, "reference": self.name, "checksum": _checksum(keys, values)}
        try:
            write_atomic(self.path, save({"keys": keys, "logps": values}, metadata=header))
        except TrainingError as error:
            self.trouble = f"the reference's scores are not kept for later runs: {error}"

    def _read(self) -> dict[bytes, float]:
        header, (keys, values) = read_tensors(self.path, ("keys", "logps"))
        if header.get("format") != FORMAT or header.get("reference") != self.name:
            raise ValueError("it belongs to another reference")
        if header.get("checksum") != _checksum(keys, values):
            raise ValueError("its checksum is wrong")
        return {key.tobytes(): float(value) for key, value in zip(keys, values, strict=True)}


def read_tensors(path: Path, names: Sequence[str]) -> tuple[dict[str, str], list[Any]]:
    """The header and some of the arrays of a safetensors file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, or not now.
        SafetensorError and the like (`WRONG`): it is not what it should be.
    """
    with path.open("rb"):  # safetensors says of every file that it cannot open that there is none
        pass
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}, [file.get_tensor(name) for name in names]
    except FileNotFoundError as error:
        raise OSError("it cannot be opened twice") from error


def unread(path: Path, error: OSError) -> str:
    """What is said of a file that cannot be read."""
    return f"{path} cannot be read, and stays as it is ({error.strerror or error})"


def _checksum(keys: Any, values: Any) -> str:
    digest = hashlib.sha256(keys.tobytes())
    digest.update(values.tobytes())
    return digest.hexdigest()

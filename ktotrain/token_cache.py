"""Token ids on disk: a text is tokenized once, for this run and every later one with the same tokenizer.

A folder belongs to one tokenizer: its name, and the header of every file in it, carry the fingerprint of all that
`save_pretrained` writes of it (vocabulary, merges, added and special tokens, chat template, settings). A text is found
by a hash of itself and of whether special tokens are put around it; a chat is looked up as it was rendered, so a
template that writes the date is no trouble. Ids are kept uncut: `max_length` decides nothing here.

Files hold a bounded number of ids each, are named by their content and never changed, so that processes that write
the same texts write the same file. A damaged one is recognised by its checksum, and deleted; one that cannot be read
just now stays. The whole folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ktotrain.batch import IdArray
from ktotrain.cache import WRONG, cache_folder, read_tensors, unread
from ktotrain.errors import TrainingError
from ktotrain.files import write_atomic
from ktotrain.lock import alone_at

FORMAT = "ktokit token ids, 1"
KEY_BYTES = 16
# Ids in one file: 64 MiB at most, which is what reading and writing hold beside the rows themselves.
PART_IDS = 2**24
# A process that finds texts missing waits while another one tokenizes them; after so many seconds it does so itself.
PATIENCE = 3600.0


class NoFingerprintError(Exception):
    """A tokenizer that cannot be told from others; the message says why."""


def text_key(text: str, *, special: bool) -> bytes:
    """A name for a text as it is tokenized: 16 bytes of BLAKE2 over it, and whether special tokens are added."""
    digest = hashlib.blake2b(b"special" if special else b"plain", digest_size=KEY_BYTES)
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()


def fingerprint(tokenizer: Any) -> str:
    """A name for a tokenizer: 32 hexadecimal digits over its class and every file that `save_pretrained` writes.

    Raises:
        NoFingerprintError: its class runs code of its own, which files do not show; it drops merges at random; or it
            cannot be saved.
    """
    import tokenizers
    import transformers

    kind = type(tokenizer)
    if kind.__module__.partition(".")[0] != "transformers":
        raise NoFingerprintError(f"its class {kind.__name__} is not one of transformers'")
    if getattr(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None), "dropout", None):
        raise NoFingerprintError("it drops merges at random")
    versions = (transformers.__version__, tokenizers.__version__)
    digest = hashlib.sha256("\n".join([FORMAT, kind.__module__, kind.__qualname__, *versions]).encode())
    try:
        tokenizer("a")  # a call as ours are resets what an earlier caller has set for cutting and padding
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            for path in files:
                content = _without_place(path)
                digest.update(f"\n{path.relative_to(folder)} {len(content)}\n".encode())
                digest.update(content)
    except Exception as error:  # of a full disk tokenizers says a bare Exception
        raise NoFingerprintError(f"it cannot be saved ({type(error).__name__}: {error})") from error
    return digest.hexdigest()[:32]


def _without_place(path: Path) -> bytes:
    """A file's content, but for where the tokenizer was loaded from."""
    if path.name != "tokenizer_config.json":
        return path.read_bytes()
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "name_or_path"):
        config.pop(key, None)
    return json.dumps(config, sort_keys=True).encode()


def open_cache(tokenizer: Any) -> tuple[TokenCache | None, str]:
    """The cache of a tokenizer, or None and why there cannot be one."""
    try:
        return TokenCache(cache_folder(), fingerprint(tokenizer)), ""
    except NoFingerprintError as error:
        return None, f"tokens are not kept for later runs: the tokenizer cannot be told from others, {error}"


class TokenCache:
    """The token ids that are known for one tokenizer. `trouble` says what could not be used or written, by path."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder / f"tokens-{name}", name
        self.trouble: dict[Path, str] = {}

    def find(self, wanted: Set[bytes]) -> dict[bytes, IdArray]:
        """The ids of those texts that are known; one file is held at a time."""
        found: dict[bytes, IdArray] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            if len(found) == len(wanted):
                break
            try:
                keys, ends, ids = self._read(path)
            except FileNotFoundError:
                continue  # deleted since it was listed
            except OSError as error:
                self.trouble[path] = unread(path, error)
                continue
            except WRONG as error:
                self.trouble[path] = f"{path} cannot be used and is made anew ({error})"
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            starts = np.concatenate(([0], ends[:-1]))
            for key, start, end in zip(_as_bytes(keys), starts.tolist(), ends.tolist(), strict=True):
                if key in wanted:
                    found[key] = ids[start:end].astype(np.int32)
        return found

    def add(self, known: Mapping[bytes, IdArray]) -> None:
        """Keep ids in a file of their own. A folder that cannot be written is no error: `trouble` says so."""
        if not known:
            return
        items = sorted(known.items())
        keys = np.frombuffer(b"".join(key for key, _ in items), dtype=np.uint8).reshape(-1, KEY_BYTES)
        ends = np.cumsum([len(ids) for _, ids in items], dtype=np.int64)
        ids = np.concatenate([ids for _, ids in items])
        if ids.size == 0 or (ids.min() >= 0 and ids.max() < 2**16):
            ids = ids.astype(np.uint16)  # half of the disk for vocabularies that allow it
        checksum = self._checksum(keys, ends, ids)
        header = {"format": FORMAT, "tokenizer": self.name, "checksum": checksum}
        path = self.folder / f"{checksum[:32]}.safetensors"
        try:
            write_atomic(path, save({"keys": keys, "ends": ends, "ids": ids}, metadata=header))
        except TrainingError as error:
            self.trouble[self.folder] = f"tokens are not kept for later runs: {error}"

    @contextlib.contextmanager
    def filling(self) -> Iterator[None]:
        """Alone among all processes that use this folder, so that n of them do not tokenize n times.

        Where files cannot be locked, or the other one takes for ever, it goes on all the same: what two processes
        write is whole, and equal.
        """
        with alone_at(self.folder / ".lock", patience=PATIENCE):
            yield

    def _read(self, path: Path) -> tuple[Any, Any, Any]:
        header, (keys, ends, ids) = read_tensors(path, ("keys", "ends", "ids"))
        if header.get("format") != FORMAT or header.get("tokenizer") != self.name:
            raise ValueError("it belongs to another tokenizer")
        if header.get("checksum") != self._checksum(keys, ends, ids):
            raise ValueError("its checksum is wrong")
        return keys, ends, ids

    def _checksum(self, keys: Any, ends: Any, ids: Any) -> str:
        digest = hashlib.blake2b(f"{FORMAT} {self.name} {ids.dtype}".encode(), digest_size=32)
        for array in (keys, ends, ids):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def _as_bytes(keys: Any) -> list[bytes]:
    """The rows of a [n, 16] array of bytes."""
    data = keys.tobytes()
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]

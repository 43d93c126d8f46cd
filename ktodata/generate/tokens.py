"""A model's tokenizer, context and identity, before any weights are loaded: what both local back ends share."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from pathlib import Path
from typing import Any, Literal

from ktodata.errors import ModelError
from ktodata.generate.contract import TOO_LONG, UNRENDERED, Request
from ktodata.generate.render import stops_of, transcript, trim
from ktodata.io.paths import local_path
from ktodata.negatives.contract import Skip
from ktodata.schema import Message

ChatForm = Literal["auto", "template", "transcript"]
# What loading raises when a folder, a Hub id or a file in it is not what it should be.
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, AttributeError)
_GRAIN = 32  # where the context leaves less than max_tokens, the room is a multiple of this: batches have one room each


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """A request as token ids; `stops` end its reply, which may have `room` tokens."""

    request: Request
    ids: tuple[int, ...]
    stops: tuple[str, ...]
    room: int


class Tokens:
    """Turns requests into token ids and token ids into text, for one model.

    `chat` says how messages are put to it: by its chat template, as a plain transcript (`ktodata.generate.render`), or
    by its template if it has one. Text is fed verbatim, with the special tokens that the tokenizer adds by default.
    """

    def __init__(self, model: str, *, revision: str = "", chat: ChatForm = "auto") -> None:
        """Load tokenizer and config of a Hub id or a folder; of an adapter's folder, the config of its base.

        Raises:
            ModelError: there is no such model, or it has no tokenizer, or no template though `chat` asks for it.
        """
        self.model = model
        folder = local_folder(model)
        self.path = str(folder) if folder else model
        base, base_revision = (_adapter_base(folder) if folder else None) or (self.path, revision)
        config = _load_config(base, base_revision, where=model)
        # What the weights are loaded by, so that a push in between is not mixed in.
        self.pinned = "" if folder else _commit(model, revision)
        self.revision = hash_folder(folder) if folder else self.pinned
        if folder and base != self.path and Path(base).is_dir():
            self.revision += f"+{hash_folder(Path(base))}"  # an adapter says nothing without its base
        self.tokenizer = load_tokenizer(self.path, self.pinned, where=model)
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.context = positions if isinstance(positions, int) and positions > 0 else 10**9
        has_template = bool(getattr(self.tokenizer, "chat_template", None))
        if chat == "template" and not has_template:
            raise ModelError("has no chat template", where=model, do="Leave out the option chat, or say transcript")
        self.by_template = has_template and chat != "transcript"

    def encode(self, request: Request, *, max_tokens: int) -> Encoded | Skip:
        """The request as token ids, with the room that the model's context leaves; a Skip where it leaves none."""
        if isinstance(request.prompt, str):
            ids, stops = self._text(request.prompt), stops_of(request.prompt)
        elif self.by_template:
            templated = self._templated(request.prompt)
            if templated is None:
                return UNRENDERED
            ids, stops = templated, ()
        else:
            text, stops = transcript(request.prompt)
            ids = self._text(text)
        room = self.context - len(ids)
        if room < 1:
            return TOO_LONG
        if room < max_tokens:
            room = room // _GRAIN * _GRAIN or room
        return Encoded(request, tuple(ids), stops, min(room, max_tokens))

    def decode(self, ids: list[int], stops: tuple[str, ...]) -> tuple[str, bool]:
        """The text of a reply's ids without special tokens, up to the first stop string, and whether one was there."""
        return trim(self.tokenizer.decode(ids, skip_special_tokens=True), stops)

    def _text(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]  # quiet about lengths: `encode` sees to them
        if ids[-1:] == [self.tokenizer.eos_token_id] and not text.endswith(self.tokenizer.eos_token):
            ids = ids[:-1]  # some tokenizers end every text, and nothing would follow
        # A text may be empty, a sequence may not: start from whatever token stands for the beginning or an end.
        return ids or [next(i for i in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0) if i is not None)]

    def _templated(self, messages: list[Message]) -> list[int] | None:
        import jinja2

        try:
            # Without `return_dict=False` transformers 5 returns a BatchEncoding, whose length is 2.
            return list(
                self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                )
            )
        except (jinja2.TemplateError, ValueError, TypeError, KeyError, IndexError):  # what templates raise at odd turns
            return None


def local_folder(model: str) -> Path | None:
    """The folder that `model` names, or None if it is a Hub id.

    Raises:
        ModelError: it looks like a path, and nothing is there. (transformers would go and ask the Hub for it.)
    """
    path = local_path(model)
    if path.is_dir():
        return path
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or path.exists():
        what = "is a file, not a folder" if path.exists() else "no such folder"
        raise ModelError(what, where=model, do="Name a folder with a model in it, or a Hub id")
    return None


def hash_folder(folder: Path) -> str:
    """12 hexadecimal digits over the files that decide what a model says: weights, config, tokenizer, template."""
    suffixes = {".safetensors", ".json", ".jinja", ".model", ".txt", ".py"}
    files = sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())
    with ThreadPoolExecutor() as threads:  # hashing frees the interpreter lock
        hashes = threads.map(_hash_file, files)
    whole = hashlib.sha256()
    for path, one in zip(files, hashes, strict=True):
        whole.update(path.name.encode() + b"\0" + one)
    return whole.hexdigest()[:12]


def _hash_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).digest()


def _adapter_base(folder: Path) -> tuple[str, str] | None:
    """The model that an adapter's folder was made for, and its revision; None if it is no such folder."""
    config = folder / "adapter_config.json"
    if (folder / "config.json").is_file() or not config.is_file():
        return None
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            "the adapter has no adapter_model.safetensors", where=str(folder), do="Weights in a .bin file are not read"
        )
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
        return str(found["base_model_name_or_path"]), str(found.get("revision") or "")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"adapter_config.json cannot be read: {first_line(error)}", where=str(folder)) from error


def _load_config(path: str, revision: str, *, where: str) -> Any:
    from transformers import AutoConfig

    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise ModelError(
            "the folder holds no model: it has no config.json", where=where, do="Name the model's own, or a Hub id"
        )
    with loading("no model can be loaded", where):
        return AutoConfig.from_pretrained(path, revision=revision or "main", trust_remote_code=False)


def _commit(model: str, revision: str) -> str:
    """The commit that a branch or tag of a Hub id is at, or was when the cache got it. (transformers knows, and does
    not always say.)
    """
    import huggingface_hub

    with loading("its commit cannot be found", model):
        return Path(huggingface_hub.hf_hub_download(model, "config.json", revision=revision or None)).parent.name


def load_tokenizer(path: str, revision: str, *, where: str) -> Any:
    from transformers import AutoTokenizer

    beside = "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the model"
    names = ("tokenizer*", "vocab*", "merges*", "*.model", "tekken*", "*.tiktoken")
    if Path(path).is_dir() and not any(next(Path(path).glob(name), None) for name in names):
        raise ModelError("the model has no tokenizer", where=where, do=beside)
    with loading("no tokenizer can be loaded", where, beside if Path(path).is_dir() else ""):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main", trust_remote_code=False)
    if not len(tokenizer):  # what transformers makes up for a folder without tokenizer files
        raise ModelError("the model has no tokenizer", where=where, do=beside)
    return tokenizer


@contextlib.contextmanager
def loading(what: str, where: str, do: str = "") -> Iterator[None]:
    """Whatever loading raises, as one ModelError, and none of the libraries' own bars and notes.

    Raises:
        ModelError: with `what` failed, the first line of the library's message, and what to do.
    """
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except (*LOAD_ERRORS, SafetensorError) as error:
        raise ModelError(f"{what}: {first_line(error)}", where=where, do=do or _advice(where)) from error


def _advice(where: str) -> str:
    return "" if local_path(where).is_dir() else "Look at the name and the connection, or name a folder with a model"


def first_line(error: BaseException) -> str:
    """The first line of a library's message: the rest is advice about the library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own progress bars and notes: what matters is raised."""
    import warnings

    from transformers.utils import logging

    loggers = {getLogger(name): getLogger(name).level for name in ("huggingface_hub", "httpx", "httpx2")}
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel("ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in loggers.items():
            logger.setLevel(before)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

"""The token cache: a text is tokenized once, and ids of another tokenizer, or from a damaged file, are never used."""

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import byte_tokenizer, model_folder

from ktodata.schema import make_row
from ktotrain import token_cache
from ktotrain.data import Tokenized, tokenize
from ktotrain.prepare import prepare_data
from ktotrain.preview import notices, plan_lines, preview
from ktotrain.recipe import recipe_from_dict
from ktotrain.token_cache import NoFingerprintError, TokenCache, fingerprint, open_cache, text_key

PAIRS = [("ab", "cd"), ("ab", "e"), ("xyz", "cd"), ("ab", "cd"), ("über", "😀")]
TEXTS = 3 + 4  # distinct prompts, and prompts with a completion


class Counting:
    """A tokenizer that notes every text it is given."""

    def __init__(self) -> None:
        self.inner = byte_tokenizer()
        self.seen: list[str] = []

    def __call__(self, texts: list[str], **named: Any) -> Any:
        self.seen += texts
        return self.inner(texts, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def read(tokenizer: Any, cache: TokenCache | None, *, max_length: int = 100, pairs: Any = PAIRS) -> Tokenized:
    rows = [make_row(prompt, completion, True, source="test", origin="pair") for prompt, completion in pairs]
    return tokenize(rows, tokenizer, max_length=max_length, cache=cache)


def values(found: Tokenized) -> list[Any]:
    return [(r.group, r.prompt, r.prompt_ids.tolist(), r.completion_ids.tolist(), r.name) for r in found.rows]


def test_each_text_is_tokenized_once_and_never_again(tmp_path: Path) -> None:
    tokenizer = Counting()
    plain = read(byte_tokenizer(), None)
    first = read(tokenizer, TokenCache(tmp_path, "a"))
    assert sorted(tokenizer.seen) == sorted({p for p, _ in PAIRS} | {p + c for p, c in PAIRS})
    assert (first.encoded, first.recalled) == (TEXTS, 0)
    again = read(tokenizer, TokenCache(tmp_path, "a"))
    assert len(tokenizer.seen) == TEXTS
    assert (again.encoded, again.recalled) == (0, TEXTS)
    assert values(plain) == values(first) == values(again)
    more = read(tokenizer, TokenCache(tmp_path, "a"), pairs=[*PAIRS, ("ab", "new")])
    assert tokenizer.seen[TEXTS:] == ["abnew"]
    assert (more.encoded, more.recalled) == (1, TEXTS)


def test_max_length_decides_nothing(tmp_path: Path) -> None:
    tokenizer = Counting()
    read(tokenizer, TokenCache(tmp_path, "a"), max_length=4)
    longer = read(tokenizer, TokenCache(tmp_path, "a"), max_length=100)
    assert len(tokenizer.seen) == TEXTS
    assert values(longer) == values(read(byte_tokenizer(), None))


def test_text_and_chat_are_told_apart(tmp_path: Path) -> None:
    tokenizer, cache = byte_tokenizer(), TokenCache(tmp_path, "a")
    message = [{"role": "user", "content": "ab"}], [{"role": "assistant", "content": "cd"}]
    chat = [make_row(*message, True, source="test", origin="pair")]
    first = tokenize(chat, tokenizer, max_length=100, cache=cache)
    rendered = tokenizer.apply_chat_template([*message[0], *message[1]], tokenize=False)
    assert text_key(rendered, special=True) != text_key(rendered, special=False)
    assert cache.find({text_key(rendered, special=False)}).keys() == {text_key(rendered, special=False)}
    assert not cache.find({text_key(rendered, special=True)})
    again = tokenize(chat, tokenizer, max_length=100, cache=TokenCache(tmp_path, "a"))
    assert again.recalled == 2
    assert values(first) == values(again) == values(tokenize(chat, tokenizer, max_length=100))


def test_many_small_files_serve_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktotrain.data.PART_IDS", 6)
    read(byte_tokenizer(), TokenCache(tmp_path, "a"))
    assert len(list((tmp_path / "tokens-a").glob("*.safetensors"))) > 2
    again = read(byte_tokenizer(), TokenCache(tmp_path, "a"))
    assert again.encoded == 0
    assert values(again) == values(read(byte_tokenizer(), None))


def test_large_ids_come_back_as_they_were(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path, "a")
    ids = {b"k" * 16: np.array([70_000, 3], dtype=np.int32), b"\0" * 16: np.array([], dtype=np.int32)}
    cache.add(ids)
    found = TokenCache(tmp_path, "a").find(set(ids))
    assert {key: one.tolist() for key, one in found.items()} == {b"k" * 16: [70_000, 3], b"\0" * 16: []}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "another tokenizer's"])
def test_what_cannot_be_trusted_is_not_used(tmp_path: Path, damage: str) -> None:
    cache = TokenCache(tmp_path, "a")
    read(byte_tokenizer(), cache)
    (path,) = (tmp_path / "tokens-a").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    if damage == "another tokenizer's":
        (tmp_path / "tokens-b").mkdir()
        path, cache = Path(shutil.copy(path, tmp_path / "tokens-b")), TokenCache(tmp_path, "b")
    elif damage == "truncated":
        path.write_bytes(data[:-10])
    elif damage == "flipped":
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes({"empty": b"", "text": b"not this"}[damage])
    found = read(byte_tokenizer(), cache)
    assert found.recalled == 0
    assert values(found) == values(read(byte_tokenizer(), None))
    assert "made anew" in cache.trouble[path]
    healed = TokenCache(tmp_path, cache.name)
    assert read(byte_tokenizer(), healed).encoded == 0
    assert not healed.trouble


def test_a_file_that_cannot_be_read_now_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(byte_tokenizer(), TokenCache(tmp_path, "a"))
    (path,) = (tmp_path / "tokens-a").glob("*.safetensors")
    cache = TokenCache(tmp_path, "a")
    honest = Path.open

    def refuse(self: Path, *how: Any) -> Any:
        if self == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return honest(self, *how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert cache.find({text_key("ab", special=True)}) == {}
    assert "stays as it is (Input/output error)" in cache.trouble[path]
    assert read(byte_tokenizer(), TokenCache(tmp_path, "a")).encoded == 0


def test_a_folder_that_cannot_be_written_is_said_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = TokenCache(tmp_path / "file", "a")
    assert values(read(byte_tokenizer(), cache)) == values(read(byte_tokenizer(), None))
    assert "not kept" in " ".join(cache.trouble.values())


def test_two_at_once_tokenize_once(tmp_path: Path) -> None:
    tokenizer = Counting()
    pairs = [(f"prompt {n % 40}", f"completion {n}") for n in range(200)]
    found: list[Tokenized] = []
    started = threading.Barrier(3)

    def one() -> None:
        started.wait()
        found.append(read(tokenizer, TokenCache(tmp_path, "a"), pairs=pairs))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokenizer.seen) == len(set(tokenizer.seen)) == 240
    assert values(found[0]) == values(found[1]) == values(found[2])


def test_a_fingerprint_is_the_tokenizer_wherever_it_lies(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    byte_tokenizer().save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("one", "two"))
    name = fingerprint(one)
    assert name == fingerprint(two)
    two(["abc", "d"], padding=True, truncation=True, max_length=2)
    assert name == fingerprint(two), "what an earlier call has set does not count"
    changed = [byte_tokenizer("{{ 'other template' }}"), byte_tokenizer(), byte_tokenizer()]
    changed[1].add_tokens(["new"])
    changed[2].eos_token = "<s>"
    assert len({name, *map(fingerprint, changed)}) == 4


@pytest.mark.parametrize("library", ["transformers", "tokenizers"])
def test_another_version_of_a_library_is_another_tokenizer(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    tokenizer = byte_tokenizer()
    name = fingerprint(tokenizer)
    monkeypatch.setattr(f"{library}.__version__", "0.0.1")
    assert fingerprint(tokenizer) != name


def test_a_tokenizer_with_code_of_its_own_is_not_cached() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.__class__ = type("Own", (type(tokenizer),), {"__module__": "somewhere"})
    with pytest.raises(NoFingerprintError, match="Own"):
        fingerprint(tokenizer)
    cache, why = open_cache(tokenizer)
    assert cache is None
    assert "not kept" in why
    dropping = byte_tokenizer()
    dropping.backend_tokenizer.model.dropout = 0.1
    with pytest.raises(NoFingerprintError, match="at random"):
        fingerprint(dropping)


def test_a_run_says_what_it_tokenized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": f"p{n}", "completion": f"c{n}", "label": n % 2 == 0} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_from_dict(
        {
            "model": {"path": str(model_folder(tmp_path / "model"))},
            "data": {"train": [str(tmp_path / "rows.jsonl")]},
            "train": {"output_dir": str(tmp_path / "run"), "batch_size": 4},
        }
    )
    lines = []
    for _ in range(2):
        run = prepare_data(recipe)
        lines.append(dict(plan_lines(run, preview(run, recipe)))["texts"])
    assert lines == ["16 tokenized, 0 known from an earlier run", "0 tokenized, 16 known from an earlier run"]
    monkeypatch.setattr(token_cache, "fingerprint", lambda _: (_ for _ in ()).throw(NoFingerprintError("why")))
    run = prepare_data(recipe)
    assert any("not kept for later runs" in notice for notice in notices(run, recipe))


def test_no_room_for_the_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """tokenizers says so by a bare Exception; the run goes on without a cache."""
    tokenizer = byte_tokenizer()

    def save_pretrained(_: str) -> None:
        raise Exception("File too large (os error 27)")

    monkeypatch.setattr(tokenizer, "save_pretrained", save_pretrained)
    cache, trouble = open_cache(tokenizer)
    assert cache is None
    assert "tokens are not kept for later runs" in trouble
    assert "File too large" in trouble

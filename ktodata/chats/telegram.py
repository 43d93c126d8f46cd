"""Telegram's JSON: `result.json` as its desktop app writes it, of one chat or of all of an account."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from ktodata.chats.tables import moment_of
from ktodata.chats.voice import Said
from ktodata.errors import RowError, SourceError
from ktodata.io import Raw
from ktodata.io.records import BROKEN_EMOJI
from ktodata.schema import named
from ktodata.sources.contract import Piece, Record, Skip

RESULT = "result.json"
HEAD = 2**20  # bytes: a first line of JSON lines is not longer, or it is read with the whole
_NAMES = re.compile(b'"(?:messages|chats)"')
# Telegram writes control characters as \x08, which JSON does not know; after another backslash it is text.
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|.)", re.DOTALL)


def open_export(path: Path, source: str) -> Callable[[], Iterator[Raw]] | None:
    """What gives the messages of an export from the first on, or None if the file is none. It is held whole.

    Raises:
        SourceError: it cannot be read.
    """
    if path.is_dir():
        path = path / RESULT
    if path.suffix.lower() != ".json" or not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
            if head[:1] != b"{" or not _is_named(head, stream):
                return None
        value = json.loads(_as_json(path.read_bytes().decode("utf-8-sig")))
    except (ValueError, RecursionError) as error:
        if head.partition(b"\n")[0].rstrip().endswith(b"}"):  # JSON lines
            return None
        raise SourceError(f"not JSON: {error}", where=str(path), do="Export it again: it may be cut off") from error
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    chats = _chats(value, str(path))
    return partial(_messages, chats, str(path), source) if chats is not None else None


def _is_named(head: bytes, rest: IO[bytes]) -> bool:
    """Whether one of Telegram's names is anywhere: before the chats of an account, contacts and more may stand."""
    block, end = head, b""
    while block:
        if _NAMES.search(end + block):
            return True
        end, block = block[-16:], rest.read(HEAD)
    return False


def _as_json(text: str) -> str:
    if "\\x" not in text:
        return text
    return _ESCAPE.sub(lambda found: f"\\u00{found[1]}" if found[1] else found[0], text)


def _chats(value: dict[str, Any], name_of: str) -> list[dict[str, Any]] | None:
    found: list[Any] = []
    for name in ("chats", "left_chats"):
        if isinstance(value.get(name), dict):
            found += _list(value[name].get("list"))
    if not found and isinstance(value.get("messages"), list):
        messages = [one for one in value["messages"] if isinstance(one, dict)]
        if not any({"type", "date"} <= one.keys() for one in messages) and not {"name", "type", "id"} <= value.keys():
            return None  # the turns of a conversation, say
        found = [value]
    if not found and (wrong := next((name for name in ("messages", "chats") if _is_telegrams(value, name)), "")):
        raise SourceError(
            f"Telegram's export, but {wrong} {'is' if wrong == 'messages' else 'has'} no list"
            f" of {'them' if wrong == 'messages' else 'chats'}",
            where=name_of,
            do="Export it again",
        )
    return [chat for chat in found if isinstance(chat, dict)] or None


def _is_telegrams(value: dict[str, Any], name: str) -> bool:
    """Whether what an object has under a name of Telegram's is Telegram's, and neither a list nor a turn of a chat."""
    found = value.get(name)
    return (name == "chats" or not isinstance(found, list)) and (
        (name in value and {"name", "type", "id"} <= value.keys())
        or (isinstance(found, dict) and not found.keys() & {"role", "content", "from", "value"})
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _messages(chats: list[dict[str, Any]], name: str, source: str) -> Iterator[Raw]:
    for place, chat in enumerate(chats):
        names = (chat.get(key) for key in ("name", "type"))
        title = next((name for name in names if name and isinstance(name, str)), "chat")
        title = title.encode(errors="replace").decode()
        for row, message in enumerate(_list(chat.get("messages"))):
            shown = message.get("id", row) if isinstance(message, dict) else row
            record = {**message, "chat": f"{place} {title}"} if isinstance(message, dict) else message
            yield Raw(record, f"{name}: {title}, message {shown}", source, BROKEN_EMOJI if _is_broken(message) else "")


def _is_broken(message: object) -> bool:
    """Whether half of a surrogate pair is in it, which JSON can spell and no file can hold."""
    try:
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def read(record: Record, where: str, *, after_gap: frozenset[str] = frozenset()) -> Iterator[Piece | Skip]:
    """A message. A picture without words and something forwarded go along, as they stand between others.

    `after_gap` has the places of messages before which one could not be read.

    Raises:
        RowError: it has no date, or a text or an author in a form that is unknown.
    """
    text = plain_text(record.get("text", ""), where)
    if record.get("type") != "message":
        yield Skip("service message")
        return
    # Of a deleted account it is null.
    reason = "forwarded" if "forwarded_from" in record else "" if text.strip() else "no text"
    time = moment_of(record.get("date_unixtime") or record.get("date"), "date", where, reason)
    author, identity = (_name(record, name, where) for name in ("from", "from_id"))
    said = Said(author or "Deleted Account", identity, time, "" if reason else text, reason, where in after_gap)
    yield Piece(str(record["chat"]), said)


def _name(record: Record, name: str, where: str) -> str:
    """An author or an author's id; "" where Telegram has none left."""
    value = record.get(name)
    if value is None or isinstance(value, str) or (name == "from_id" and type(value) is int):
        return "" if value is None else str(value)
    raise RowError(f"{name} is {named(value)}, not a string", where=where)


def plain_text(text: object, where: str) -> str:
    """A message's text without its formatting: a string, or a list of strings and of entities with a text."""
    words = []
    for piece in text if isinstance(text, list) else [text]:
        word = piece.get("text") if isinstance(piece, dict) else piece
        if not isinstance(word, str):
            raise RowError(f"text is {named(text)}, neither a string nor a list of them", where=where)
        words.append(word)
    return "".join(words)

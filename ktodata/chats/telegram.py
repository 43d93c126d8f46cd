"""Telegram's JSON: `result.json` as its desktop app writes it, of one chat or of all of an account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ktodata.chats.tables import seconds
from ktodata.chats.voice import Said
from ktodata.errors import RowError, SourceError
from ktodata.io import Raw
from ktodata.io.records import BROKEN_EMOJI
from ktodata.schema import named
from ktodata.sources.contract import Piece, Record, Skip

RESULT = "result.json"
HEAD = 2**20  # bytes: a first line of JSON lines is not longer, or it is read with the whole


def open_export(path: Path, source: str) -> Iterator[Raw] | None:
    """The messages of an export, or None if the file is none.

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
            if head[:1] != b"{" or (b'"messages"' not in head and b'"chats"' not in head):
                return None
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if head.partition(b"\n")[0].rstrip().endswith(b"}"):  # JSON lines
            return None
        raise SourceError(f"not JSON: {error}", where=str(path), do="Export it again: it may be cut off") from error
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    chats = _chats(value)
    return _messages(chats, str(path), source) if chats is not None else None


def _chats(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    found: list[Any] = []
    for name in ("chats", "left_chats"):
        if isinstance(value.get(name), dict):
            found += _list(value[name].get("list"))
    if not found and isinstance(value.get("messages"), list):
        messages = [one for one in value["messages"] if isinstance(one, dict)]
        if not any({"type", "date"} <= one.keys() for one in messages) and not {"name", "type", "id"} <= value.keys():
            return None  # the turns of a conversation, say
        found = [value]
    return [chat for chat in found if isinstance(chat, dict)] or None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _messages(chats: list[dict[str, Any]], name: str, source: str) -> Iterator[Raw]:
    for place, chat in enumerate(chats):
        title = str(chat.get("name") or chat.get("type") or "chat").encode(errors="replace").decode()
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


def read(record: Record, where: str) -> Iterator[Piece | Skip]:
    """A message, or why it says nothing: a service message, a picture without words, something forwarded.

    Raises:
        RowError: it has no date, or a text in a form that is unknown.
    """
    text = plain_text(record.get("text", ""), where)
    if record.get("type") != "message":
        yield Skip("service message")
    elif record.get("forwarded_from") is not None:
        yield Skip("forwarded")
    elif not text.strip():
        yield Skip("no text")
    else:
        time = record.get("date_unixtime") or record.get("date")
        author, identity = (str(record.get(name) or "") for name in ("from", "from_id"))
        said = Said(author or "Deleted Account", identity, seconds(time, "date", where), text)
        yield Piece(str(record["chat"]), said)


def plain_text(text: object, where: str) -> str:
    """A message's text without its formatting: a string, or a list of strings and of entities with a text."""
    words = []
    for piece in text if isinstance(text, list) else [text]:
        word = piece.get("text") if isinstance(piece, dict) else piece
        if not isinstance(word, str):
            raise RowError(f"text is {named(text)}, neither a string nor a list of them", where=where)
        words.append(word)
    return "".join(words)

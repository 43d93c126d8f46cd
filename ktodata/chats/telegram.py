"""Telegram's JSON: `result.json` as its desktop app writes it, of one chat or of all of an account."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from ktodata.chats.tables import moment_of
from ktodata.chats.voice import Said
from ktodata.encoded import BROKEN_EMOJI, DEEPEST, is_broken, is_too_deep
from ktodata.errors import RowError, SourceError
from ktodata.io import Raw
from ktodata.io.paths import shown_path
from ktodata.io.records import doubled_key
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
    name = shown_path(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
            if head[:1] != b"{" or not _is_named(head, stream):
                return None
        value = json.loads(_as_json(path.read_bytes().decode("utf-8-sig")), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if head.partition(b"\n")[0].rstrip().endswith(b"}"):  # JSON lines
            return None
        raise SourceError(f"not JSON: {error}", where=name, do="Export it again: it may be cut off") from error
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}", where=name) from error
    chats = _chats(value, name)
    return partial(_messages, chats, name, source) if chats is not None else None


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


class _Doubled(dict[str, Any]):
    """An object in which a key is there more than once, with all of its values where it is written again."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs

    def items(self) -> Any:
        """The keys and values as they stood there."""
        return self.pairs


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Doubled(pairs)


def _is_refused(value: object) -> bool:
    """Whether a line of JSON with such a value is refused: a key is there more than once in an object, so that nobody
    knows which value was meant, or it is nested too deeply."""
    found = [value]
    for one in found:  # which grows meanwhile
        inside = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        found += [inner for inner in inside if isinstance(inner, dict | list)]
    return any(isinstance(one, _Doubled) for one in found) or (len(found) > DEEPEST and is_too_deep(value))


def _chats(value: dict[str, Any], name_of: str) -> list[Any] | None:
    parts = {name: value[name] for name in ("chats", "left_chats") if value.get(name) is not None}
    lists = {name: part.get("list") if isinstance(part, dict) else None for name, part in parts.items()}
    found: list[Any] = [chat for one in lists.values() for chat in _list(one)]
    for part in (value, *parts.values()) if parts else ():
        if isinstance(part, _Doubled):
            do = "Leave one of its values, or export it again"
            raise SourceError(f"the key {doubled_key(part.pairs)!r} is there more than once", where=name_of, do=do)
    if found and (wrong := next((name for name, one in lists.items() if not isinstance(one, list)), "")):
        raise SourceError(f"Telegram's export, but {wrong} has no list of chats", where=name_of, do="Export it again")
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
    return found or None


def _is_telegrams(value: dict[str, Any], name: str) -> bool:
    """Whether what an object has under a name of Telegram's is Telegram's, and neither a list nor a turn of a chat."""
    found = value.get(name)
    return (name == "chats" or not isinstance(found, list)) and (
        (name in value and {"name", "type", "id"} <= value.keys())
        or (isinstance(found, dict) and not found.keys() & {"role", "content", "from", "value"})
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _messages(chats: list[Any], name: str, source: str) -> Iterator[Raw]:
    titles = [_title(chat) or f"chat {place}" for place, chat in enumerate(chats, 1)]
    often = Counter(titles)
    for place, (title, chat) in enumerate(zip(titles, chats, strict=True), 1):
        # By its place a message is known: two groups of one name must not share theirs.
        title = f"{title} (chat {place})" if often[title] > 1 else title
        if isinstance(chat, _Doubled) or not isinstance(chat, dict) or not isinstance(chat.get("messages"), list):
            yield _no_chat(chat, f"{name}: {title}", source)
            continue
        for row, message in enumerate(chat["messages"]):
            shown = message.get("id", row) if isinstance(message, dict) else row
            where = f"{name}: {title}, message {shown}"
            if _is_refused(message):
                yield Raw(_as_line(message), where, source)
                continue
            record = {**message, "chat": f"{place} {title}"} if isinstance(message, dict) else message
            yield Raw(record, where, source, BROKEN_EMOJI if is_broken(message) else "")


def _title(chat: object) -> str:
    names = (chat.get(key) for key in ("name", "type")) if isinstance(chat, dict) else ()
    return next((name for name in names if name and isinstance(name, str)), "").encode(errors="replace").decode()


def _no_chat(chat: object, where: str, source: str) -> Raw:
    """What stands in the place of a chat and is none, with what is wrong with it."""
    if _is_refused(chat):
        return Raw(_as_line(chat), where, source)
    if not isinstance(chat, dict):
        return Raw(chat, where, source)
    problem = f"messages is {named(chat['messages'])}, not a list" if "messages" in chat else "a chat without messages"
    return Raw(chat, where, source, problem)


def _as_line(value: object) -> bytes:
    """A value as a line of JSON, which is refused in its own words."""
    return json.dumps(value).encode()


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
    yield Piece(chat_of(record, where), said)


def chat_of(record: Record, where: str) -> str:
    """The chat of a message, as `open_export` gives it with the message."""
    return str(record["chat"])


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

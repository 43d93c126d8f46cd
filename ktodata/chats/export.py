"""From a chat export to rows in one speaker's voice: finds out what kind of export it is, and who speaks in it."""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ktodata.chats import tables, telegram, voice, whatsapp
from ktodata.chats.tables import Fields
from ktodata.chats.voice import Voice
from ktodata.errors import NothingLeftError, RowError, SourceError, UsageError, WriteError
from ktodata.io import Raw, chain_parts, find_parts, is_there, local_path, provenance
from ktodata.peek import peek
from ktodata.sources import Piece, Skip, Source
from ktodata.sources.contract import Record
from ktodata.unpair import Unpaired, unpair_records

SHOWN = 6  # authors that an error names
ANY = Fields()
OTHER_EXPORTS = {
    ".html": "Export the chat again: Telegram offers machine-readable JSON",
    ".zip": "Unpack it: WhatsApp's .txt is in it",
}


def label_chat(
    source: str, speaking: Voice, *, fields: Fields = ANY, limit: int | None = None, **rest: Any
) -> Unpaired:
    """The replies of one speaker in a chat export: Telegram's JSON, WhatsApp's text, or a file with a message a record.

    Args:
        source: a file, a folder with a `result.json`, or "-" for JSONL on stdin.
        speaking: whose replies, and how much of what came before goes with them.
        fields: the columns of a file with a message a record.
        limit: read the first so many messages only.
        rest: as for `ktodata.unpair.unpair_records`.

    Raises:
        SourceError: the source cannot be read; RowError (one of its kind) if it is a message.
        UsageError: nobody of this name speaks in it; those who do are named.
    """
    layout, raws = chat_records(source, speaking, fields=fields, limit=limit, strict=rest.get("quarantine") is None)
    return unpair_records(layout, raws, **rest)


def is_chat(source: str) -> bool:
    """Whether SOURCE is a chat export by its form: Telegram's JSON or WhatsApp's text."""
    if not is_there(source):
        return False
    path = local_path(source)
    return path.suffix.lower() in (".txt", *OTHER_EXPORTS) or telegram.open_export(path, "") is not None


def chat_records(
    source: str, speaking: Voice, *, fields: Fields, limit: int | None = None, strict: bool = True
) -> tuple[Source, Iterator[Raw]]:
    """How to read the messages of a chat, and these; see `label_chat`."""
    name, read, chat_of, opened = _open_chat(source, fields, strict=strict)
    authors: Counter[str] = Counter()
    known = False
    messages = unreadable = 0
    first: RowError | None = None
    chats: set[str] = set()  # in which no message has come yet since one that cannot be read
    seen: dict[str, float] = {}  # the chats, and the time of the last message in each
    back = 0
    after_gap: set[str] = set()
    # Who speaks is asked before anything is made of it, so all is read twice: that takes less than holding it would.
    for raw in itertools.islice(opened(), limit):
        messages += 1
        try:
            found = list(read(raw.values(), raw.where))
        except RowError as error:
            if strict:
                raise
            unreadable, first = unreadable + 1, first or error
            chats |= _chats_of(raw, chat_of, seen.keys())
            continue
        for one in found:
            if isinstance(one, Piece):
                back += voice.steps_back(seen.get(one.key, math.nan), one.value.time)
                seen[one.key] = one.value.time
                if one.key in chats:
                    chats.remove(one.key)
                    after_gap.add(raw.where)
            if isinstance(one, Piece) and one.value.text:
                authors[one.value.author] += 1
                known = known or speaking.speaks(one.value)
    if not known and first and not authors:
        raise NothingLeftError(
            f"{unreadable} of {messages} messages cannot be read, and nobody says anything in the others; "
            f"the first: {first.what}",
            where=first.where,
            do=first.do,
            refused=_refused(itertools.islice(opened(), limit), read),
        )
    if not known:
        told = ", ".join(f"{author} ({count})" for author, count in authors.most_common(SHOWN))
        raise UsageError(
            f"no messages by {' or '.join(speaking.names)}" if speaking.speakers else "no --speaker",
            where=source,
            do=f"Who speaks in it: {told or 'nobody'}"
            + (f"; {unreadable} messages cannot be read, the first: {first}" if first else ""),
        )
    read = partial(read, after_gap=frozenset(after_gap))
    join = partial(voice.replies, speaking, in_order=name == "whatsapp", newest_first=back > 0)
    layout = Source(name, "", (), read, join, unit="messages", completions=1, origin="feedback", kind="chat")
    return layout, itertools.islice(opened(), limit)


def _chats_of(raw: Raw, chat_of: Callable[[Record, str], str], seen: Set[str]) -> Set[str]:
    """The chats of those seen that a message which cannot be read may have stood in: its own, or any if it does not
    tell."""
    try:
        return seen & {chat_of(raw.values(), raw.where)}
    except RowError:
        return seen


def _refused(messages: Iterable[Raw], read: Callable[..., Iterable[Piece | Skip]]) -> Iterator[dict[str, Any]]:
    """What the quarantine file says of messages that are all unreadable, or say nothing."""
    for raw in messages:
        try:
            for one in read(raw.values(), raw.where):
                yield raw.refused("", reason=one.reason if isinstance(one, Skip) else one.value.reason)
        except RowError as error:
            yield raw.refused(error.what)


Opened: TypeAlias = Callable[[], Iterator[Raw]]
"""Gives the messages from the first on, as often as it is called."""


class _Export(NamedTuple):
    """The kind of an export, what reads its messages, what tells a message's chat (both raise RowError), and these."""

    name: str
    read: Callable[..., Iterable[Piece | Skip]]
    chat_of: Callable[[Record, str], str]
    opened: Opened


def _open_chat(source: str, fields: Fields, *, strict: bool) -> _Export:
    path = local_path(source)
    if is_there(source):
        if advice := OTHER_EXPORTS.get(path.suffix.lower()):
            raise SourceError(f"a {path.suffix.lower()} file cannot be read", where=source, do=advice)
        if (messages := telegram.open_export(path, provenance(path))) is not None:
            _refuse_columns(fields, source, "Telegram's export")
            return _Export("telegram", telegram.read, telegram.chat_of, messages)
        if (messages := whatsapp.open_export(path, provenance(path))) is not None:
            _refuse_columns(fields, source, "WhatsApp's export")
            return _Export("whatsapp", whatsapp.read, partial(tables.chat_of, whatsapp.FIELDS), messages)
    columns, raws = peek(chain_parts(find_parts(source)), strict=strict)
    chosen = tables.choose(fields, columns)
    again = is_there(source) and (path.is_file() or path.is_dir())
    opened: Opened = (lambda: chain_parts(find_parts(source))) if again else _Aside(raws)
    return _Export("chat", partial(tables.read, chosen), partial(tables.chat_of, chosen), opened)


class _Aside:
    """The records of what can be read only once, a pipe say: from a file without a name, which goes with this."""

    def __init__(self, raws: Iterable[Raw]) -> None:
        """Raises WriteError if there is no room for it."""
        try:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 - it is read for as long as this lives
            weakref.finalize(self, self.file.close)
            for raw in raws:
                pickle.dump(tuple(raw), self.file)
            self.file.flush()
        except OSError as error:
            raise WriteError(
                f"what came in cannot be set aside: {error.strerror or error}",
                where=tempfile.gettempdir(),
                do="Free some space there, or name a file as SOURCE",
            ) from error

    def __call__(self) -> Iterator[Raw]:
        self.file.seek(0)
        with contextlib.suppress(EOFError):
            while True:
                yield Raw(*pickle.load(self.file))  # our own, made in this run


def _refuse_columns(fields: Fields, source: str, what: str) -> None:
    """Raises UsageError if columns are named of an export that has its own."""
    if named := [f"--{name}" for name, column in fields._asdict().items() if column]:
        told = f"{' and '.join(named)} in {what}, which has no columns to choose"
        raise UsageError(told, where=source, do="Leave it out")

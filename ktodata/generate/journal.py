"""Replies on disk as they come, so that a killed run goes on where it was and asks nothing twice.

A journal is a JSONL file beside the output, `OUT.STRATEGY-FINGERPRINT.journal`. Its first line says what its replies
depend on (strategy, model and revision, sampling, rendering …); the fingerprint in its name hashes that, so a run with
other options or another model has a journal of its own and never sees these. Each further line is one finished reply
under its key (row and seed of the draw, which stands for k and the run's seed).

A line is written and flushed before the next reply is awaited, which a killed process survives, and synced to the
disk once a second, for a machine that dies. A last line that was torn is cut off when the journal is opened; a damaged
one elsewhere is left out, and its reply asked for anew. The file is locked while a run writes it. It is removed once
the output is in its place: what it held is in there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ktodata.errors import KtodataError, WriteError
from ktodata.generate.contract import Outcome, Reply
from ktodata.negatives.contract import Skip

log = logging.getLogger(__name__)
FORMAT = "ktodata replies, 1"
_SYNC_EVERY = 1.0  # seconds


class Section:
    """The replies of one strategy with one model and one set of options. `known` holds all there are, by key."""

    def __init__(self, path: Path | None, facts: Mapping[str, object]) -> None:
        """Read what is there, if `path` is given, and get ready to add to it.

        Raises:
            KtodataError: it is no such journal, or another run is writing it.
            WriteError: it cannot be read or written.
        """
        self.path, self.facts = path, facts
        self.known: dict[str, Outcome] = {}
        self.found = 0  # how many were there at the start
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()
        if path is None:
            return
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            try:
                self._lock()
                self._read()
            except BaseException:
                self._file.close()
                raise
        self.found = len(self.known)

    def add(self, key: str, outcome: Outcome) -> None:
        """Keep a reply; it is in the file when this returns.

        Raises:
            WriteError: the disk says no.
        """
        self.known[key] = outcome
        if self._file is None:
            return
        record = {"skip": outcome.reason} if isinstance(outcome, Skip) else _fields(outcome)
        with self._errors():
            self._append({"key": key, **record})

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; `remove` it where the output holds all that it did."""
        if self._file is None or self.path is None:
            return
        with self._errors():
            if remove:
                self.path.unlink(missing_ok=True)
            else:
                os.fsync(self._file.fileno())
            self._file.close()
        self._file = None

    def _append(self, record: Mapping[str, object]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_EVERY:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _lock(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KtodataError(
                "another run is writing this journal", where=str(self.path), do="Wait for it, or name another output"
            ) from None

    def _read(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)
        lines = data[:whole].splitlines()
        if not lines:
            self._append({"journal": FORMAT, **self.facts})
            return
        header = _parsed(lines[0])
        if header is None or header.get("journal") != FORMAT or fingerprint(header) != fingerprint(self.facts):
            raise KtodataError("is no journal of this run", where=str(self.path), do="Move it away, and run again")
        damaged = 0
        for line in lines[1:]:
            record = _parsed(line)
            outcome = _outcome(record) if record else None
            if record is None or outcome is None:
                damaged += 1
            else:
                self.known[record["key"]] = outcome
        if damaged:
            log.warning("%s: %d damaged lines; those replies are asked for again", self.path, damaged)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteError(
                f"the journal cannot be written: {error.strerror or error}", where=str(self.path)
            ) from error


class Journal:
    """The journals of a run: one for each strategy that asks a model. Without an output they are in memory only."""

    def __init__(self, output: Path | None = None) -> None:
        self.output = output
        self.sections: list[Section] = []

    def open(self, strategy: str, facts: Mapping[str, object]) -> Section:
        """The section of a strategy with the facts that its replies depend on, which must be JSON.

        Raises:
            KtodataError: see `Section`.
        """
        facts = {"strategy": strategy, **facts}
        path = None
        if self.output is not None:
            path = self.output.with_name(f"{self.output.name}.{strategy}-{fingerprint(facts)}.journal")
        for section in self.sections:
            if section.facts == facts:  # a later round of the same strategy
                return section
        section = Section(path, facts)
        self._mention_others(strategy, path)
        if section.found:
            log.warning("continuing with %d replies that %s holds", section.found, path)
        self.sections.append(section)
        return section

    def _mention_others(self, strategy: str, path: Path | None) -> None:
        """An option that was changed by mistake would otherwise look like a journal that was lost."""
        if self.output is None:
            return
        beginning = f"{self.output.name}.{strategy}-"
        for other in sorted(self.output.parent.glob("*.journal")):
            if other.name.startswith(beginning) and other != path:
                log.warning("%s is of other options or another model, and not used", other)

    def close(self, *, remove: bool = False) -> None:
        """Let go of all; `remove` them once the output is written, never before."""
        for section in self.sections:
            section.close(remove=remove)

    def kept(self) -> str:
        """A sentence on what a run that stops here leaves, for its error; "" if that is nothing."""
        places = [(len(section.known), section.path) for section in self.sections if section.known and section.path]
        if not places:
            return ""
        count = sum(number for number, _ in places)
        return f"{count} finished replies are kept in {', '.join(str(path) for _, path in places)}: run the same again"


def fingerprint(facts: Mapping[str, object]) -> str:
    """12 hexadecimal digits over the facts, the format aside."""
    kept = {name: value for name, value in facts.items() if name != "journal"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _fields(reply: Reply) -> dict[str, str]:
    return {"text": reply.text, "finish": reply.finish}


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _outcome(record: Mapping[str, Any]) -> Outcome | None:
    match record:
        case {"key": str(), "skip": str(reason)}:
            return Skip(reason)
        case {"key": str(), "text": str(text), "finish": "stop" | "length" as finish}:
            return Reply(text, finish)
    return None

"""From the drafts that a strategy is asked for to usable replies: journal, second tries, what was broken off."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from ktodata.errors import KtodataError, sentences
from ktodata.generate.contract import Backend, Outcome, Request
from ktodata.generate.journal import Journal, Section
from ktodata.generate.options import DECISIVE, backend_of, open_backend
from ktodata.io.paths import local_path
from ktodata.negatives.contract import Ask, Run, Skip
from ktodata.schema import Message, Row, Text

log = logging.getLogger(__name__)
DRAWS = 3  # for one draft: replies that are empty, or were broken off and have no whole sentence, are drawn again
EMPTY = Skip("empty reply")
BROKEN_OFF = Skip("broken off by max_tokens")
Cut = Literal["sentence", "keep", "skip"]
_THOUGHTS = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
# The end of a sentence in the languages of the packs, its closing quotes or brackets and an emoji or smiley with it.
_SENTENCE = re.compile(r"""[.!?…。！？]["'”’»)\]]*(?:\s?[\U0001F300-\U0001FAFF☀-➿]\uFE0F?)*(?=\s|\Z)|\n""")


@dataclasses.dataclass(slots=True)
class Asker:
    """What all calls of a strategy share: the model, and the journal of what it has said."""

    backend: Backend
    journal: Journal
    section: Section

    def facts(self) -> Mapping[str, Any]:
        """For the card: which model replied."""
        return {name: self.section.facts[name] for name in ("backend", "model", "revision")}

    def finish(self) -> None:
        """The output is written: the journal may go."""
        self.journal.close(remove=True)


def open_asker(run: Run, options: Mapping[str, Any], *, strategy: str, **decisive: object) -> Asker:
    """The model that the options choose, and the journal beside the output of the run.

    `decisive` is what decides replies beyond `DECISIVE`, such as an instruction; it must be JSON.

    Raises:
        KtodataError: see `open_backend` and `Journal.open`.
    """
    backend = open_backend(options, strategy=strategy)
    journal = Journal(local_path(run.output) if run.output not in ("", "-") else None)
    chosen = {name: options[name] for name in DECISIVE} | {"backend": backend_of(options)}
    facts = {"model": backend.model, "revision": backend.revision, **chosen, **decisive}
    return Asker(backend, journal, journal.open(strategy, facts))


def replies(
    asks: Sequence[Ask], prompts: Sequence[Text], asker: Asker, *, cut: Cut
) -> Iterator[tuple[int, str | Skip]]:
    """A reply for each ask and its prompt, as they finish, with the place of the ask; a Skip where there is none.

    A reply of messages is stripped of white space, one of text of that at its end. Replies to two asks of one key are
    the same. Every reply that a model gives is in the journal before it is yielded.

    Raises:
        KtodataError: the model or its server failed; says what the journal has kept.
    """
    try:
        waiting = list(range(len(asks)))
        for draw in range(DRAWS):
            again: list[int] = []
            for place, outcome in _drawn(asks, prompts, waiting, asker, draw):
                reply = _usable(outcome, prompts[place], cut)
                if reply in (EMPTY, BROKEN_OFF) and draw + 1 < DRAWS and not (cut == "skip" and reply == BROKEN_OFF):
                    again.append(place)
                else:
                    yield place, reply
            waiting = sorted(again)
            if not waiting:
                return
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, and `ktodata.stop`
        if kept := asker.journal.kept():
            log.warning(kept)
        raise
    except KtodataError as error:
        kept = asker.journal.kept()
        asker.journal.close()
        if not kept:
            raise
        raise type(error)(error.what, where=error.where, do=sentences(error.do, kept)) from error


def conversation(row: Row) -> Text:
    """What a model replies to: the prompt, and of a chat also what precedes the last assistant message."""
    if isinstance(row.prompt, str) or isinstance(row.completion, str):
        return row.prompt
    last = max((place for place, message in enumerate(row.completion) if message["role"] == "assistant"), default=0)
    before: list[Message] = row.completion[:last]
    return [*row.prompt, *before]


def _drawn(
    asks: Sequence[Ask], prompts: Sequence[Text], places: Sequence[int], asker: Asker, draw: int
) -> Iterator[tuple[int, Outcome]]:
    """One draw for each of the places: from the journal first, then from the model."""
    known = asker.section.known
    requests: dict[str, Request] = {}
    owners: dict[str, list[int]] = {}
    for place in places:
        key = asks[place].key + (f"/{draw}" if draw else "")
        seed = asks[place].rng.getrandbits(31)
        requests.setdefault(key, Request(key, prompts[place], seed))
        owners.setdefault(key, []).append(place)
    for key, outcome in [(key, known[key]) for key in requests if key in known]:
        yield from ((place, outcome) for place in owners[key])
    for request, outcome in asker.backend.generate(list(requests.values()), known=known):
        asker.section.add(request.key, outcome)
        yield from ((place, outcome) for place in owners[request.key])


def _usable(outcome: Outcome, prompt: Text, cut: Cut) -> str | Skip:
    if isinstance(outcome, Skip):
        return outcome
    text = _THOUGHTS.sub("", outcome.text) if not isinstance(prompt, str) else outcome.text
    text = text.replace("\ufffd", "")  # half a letter or emoji, as byte-level tokens drawn wildly give: no text has it
    if outcome.finish == "length" and cut != "keep":
        if cut == "skip":
            return BROKEN_OFF
        ends = [match.end() for match in _SENTENCE.finditer(text) if text[: match.end()].strip()]
        if not ends:
            return BROKEN_OFF if text.strip() else EMPTY
        text = text[: ends[-1]]
    text = text.rstrip() if isinstance(prompt, str) else text.strip()
    return text if text.strip() else EMPTY

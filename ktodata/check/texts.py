"""What stands in the texts: templates, open slots, special tokens, empty turns, personal data."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import xxhash

from ktodata import personal
from ktodata.check.finding import Finding, graded, named_rows
from ktodata.check.look import Look, turns
from ktodata.schema import Row, normalise, plain
from ktodata.sources.transcript import is_transcript

SHOWN = 5
LISTED = 20  # of what was found
EXCERPT = 60
SAME = 3  # prompts that share a completion, from which on it is a template
BEGINNING = 40  # characters that completions begin with alike
REUSED, MUCH_REUSED = 0.10, 0.50  # share of rows of a class
MANY = 0.01

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_SLOT = re.compile(
    r"\{\{[^{}\n]{1,40}\}\}|\{%[^{}\n]{1,40}%\}|\$\{\w{1,40}\}|(?<![\w{$\\^_])\{[A-Za-z][A-Za-z_ ]{1,30}\}"
    r"|(?<![\w\])])\[[A-Z][A-Z_ ]{2,30}\]|\[(?:[Yy]our|[Ii]nsert|[Nn]ame of)[\w' ]{2,30}\]"  # not array[INDEX]
    r"|<(?:insert|your)[\w ]{1,30}>|(?<!\w)<(?:[A-Z]+(?:_[A-Z]+)+"
    # A word alone is more often a tag of HTML, a type or a file handle of a program: these are none.
    r"|(?:FIRST|LAST|FULL|USER)?NAME|E?MAIL|PHONE|NUMBER|DATE|YEAR|CITY|COUNTRY|LOCATION|COMPANY|PRODUCT|PRICE|AMOUNT"
    r"|TOPIC|SUBJECT|PERSON|INSERT|PLACEHOLDER|PASSWORD)>"
)
_SPECIAL = re.compile(
    r"<\|[\w\-./ ]{1,40}\|>|<｜[^｜\n]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|<(?:bos|eos|pad|unk)>|<\|\w{1,20}>|\[(?:CLS|SEP|MASK|PAD|UNK)\]|<endoftext>"
)
_MARKER = re.compile(
    r"(?:^|\n)(?:\#{2,3} ?(?:Instruction|Response|Human|Assistant|User|Input)\b:?"
    r"|(?:Human|Assistant|User|AI|Bot):(?=\s|\Z))"
)


class Templates:
    """Completions that many prompts share, and such as begin alike: 16 bytes for each of them."""

    def __init__(self) -> None:
        self._whole: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
        self._begin: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
        self._pairs: set[int] = set()
        self._texts: dict[int, str] = {}

    def add(self, look: Look) -> None:
        """See one row."""
        label = look.row.label
        pair = hash((look.prompt, look.completion, label))
        if pair in self._pairs:
            return  # a duplicate, which is told elsewhere
        self._pairs.add(pair)
        text = normalise(plain(look.row.completion))
        begin = int.from_bytes(
            hashlib.blake2b(text[:BEGINNING].encode("utf-8", "surrogatepass"), digest_size=8).digest()
        )
        self._whole[label][look.completion] += 1
        self._begin[label][begin] += len(text) >= BEGINNING
        for counts, key in ((self._whole, look.completion), (self._begin, begin)):
            if counts[label][key] == SAME:
                self._texts.setdefault(key, text[:EXCERPT])

    def findings(self) -> list[Finding]:
        """How many rows of each class are templates."""
        figures, said, worst = {}, [], 0.0
        examples: list[tuple[int, str]] = []
        for label, name in ((True, "desirable"), (False, "undesirable")):
            total = self._whole[label].total()
            for counts, what in ((self._whole[label], "are a text that"), (self._begin[label], "begin as")):
                often = {key: count for key, count in counts.items() if count >= SAME}
                share = sum(often.values()) / total if total else 0.0
                figures[f"{name}_{'whole' if what.startswith('are') else 'beginning'}"] = round(share, 4)
                worst = max(worst, share)
                if often:
                    said.append(f"{share:.1%} of {name} rows {what} {SAME} prompts or more have")
                examples += [(count, self._texts[key]) for key, count in often.items()]
        shown = [f"{count} times: {text!r}" for count, text in sorted(examples, reverse=True)[:SHOWN]]
        count = int(worst > REUSED)
        return [
            Finding(
                "template reuse",
                graded(count, fail=worst > MUCH_REUSED),
                "; ".join(said) or f"no completion is shared by {SAME} prompts",
                figures,
                shown,
                "A model learns the template: more of them, or other strategies beside" if count else "",
            )
        ]


class Texts:
    """Whatever a pattern finds, row by row."""

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        """`special_tokens` of the tokenizer that will be used."""
        self.rows = 0
        self.specials = [token for token in special_tokens if len(token.strip()) > 2]
        self._searches: dict[str, Callable[[Row], Iterator[str]]] = {
            "unfilled slots": self._slots,
            "special tokens": self._special,
            "role markers": _markers,
            "empty turns": _empty,
            "personal data": _personal,
        }
        self._places: dict[str, list[int]] = {name: [] for name in self._searches}
        self._found = {name: _Most() for name in self._searches}
        self._contaminated = 0
        self._no_completion = 0

    def add(self, look: Look) -> None:
        """See one row."""
        self.rows += 1
        self._contaminated += look.row.strategy == "contaminate"
        self._no_completion += not plain(look.row.completion).strip()
        for name, search in self._searches.items():
            found = set(search(look.row))
            if found:
                self._places[name].append(look.place)
                for text in found:
                    self._found[name].add(text)

    def findings(self) -> list[Finding]:
        """One for each pattern."""
        return [
            self._finding("unfilled slots", "have a slot that nobody filled", "Fill them, or drop these rows"),
            self._finding(
                "special tokens",
                "have a special token of some model in their text",
                "A tokenizer turns them into control tokens: take them out; chat rows get theirs by the template",
            ),
            self._finding(
                "role markers",
                "have a role marker in a reply or a turn",
                "One that goes on with somebody else's turn teaches a model to: cut it there, or make text chat (--as)",
            ),
            self._finding(
                "empty turns", "have an empty prompt, turn or completion", "`ktodata unpair` leaves them out"
            ),
            self._people(),
        ]

    def _finding(self, name: str, what: str, do: str) -> Finding:
        places, found = self._places[name], self._found[name]
        bad = len(places) > MANY * self.rows if name != "empty turns" else self._no_completion > 0
        return Finding(
            name,
            graded(len(places), fail=bad),
            f"{len(places)} rows {what}",
            {"rows": len(places), "found": dict(found.most())},
            ([named_rows(places)] if places else [])
            + [f"{text!r} in {count} rows" for text, count in found.most()[:SHOWN]],
            do if places else "",
        )

    def _people(self) -> Finding:
        places, found = self._places["personal data"], self._found["personal data"]
        if not self._contaminated:
            return Finding("personal data", "skipped", "no contaminated replies")
        return Finding(
            "personal data",
            graded(len(places), fail=True),
            f"{len(places)} of {self._contaminated} contaminated replies have personal data of somebody",
            # The data themselves are not repeated here.
            {"rows": len(places), "contaminated": self._contaminated, "kinds": dict(found.most())},
            [named_rows(places)] if places else [],
            "Leave contaminate.mask on, which replaces them" if places else "",
        )

    def _special(self, row: Row) -> Iterator[str]:
        for text in (*turns(row.prompt), *turns(row.completion)):
            yield from _SPECIAL.findall(text)
            yield from (token for token in self.specials if token in text)

    def _slots(self, row: Row) -> Iterator[str]:
        for text in turns(row.completion):
            if "{" in text or "[" in text or "<" in text:
                found = _SLOT.findall(_CODE.sub(" ", text))
                yield from (slot for slot in found if not _SPECIAL.fullmatch(slot) and slot not in self.specials)


class _Most:
    """How often texts occur: of all but the most frequent a number is kept, not the text."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._texts: dict[int, str] = {}

    def add(self, text: str) -> None:
        """One more of this text."""
        key = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
        self._counts[key] += 1
        self._texts[key] = text
        if len(self._texts) > LISTED:
            del self._texts[max(self._texts, key=self._rank)]

    def most(self) -> list[tuple[str, int]]:
        """The most frequent ones with their numbers."""
        return [(self._texts[key], self._counts[key]) for key in sorted(self._texts, key=self._rank)]

    def _rank(self, key: int) -> tuple[int, str]:
        return -self._counts[key], self._texts[key]


def _markers(row: Row) -> Iterator[str]:
    # A transcript as a prompt is made of them; anywhere else they are part of what was said.
    said = turns(row.completion) if isinstance(row.prompt, str) else [*turns(row.prompt), *turns(row.completion)]
    for text in said:
        if ":" in text or "#" in text:
            yield from (found.strip() for found in _MARKER.findall(text))


def _empty(row: Row) -> Iterator[str]:
    if not plain(row.prompt).strip():
        yield "prompt"
    if not plain(row.completion).strip():
        yield "completion"
    if isinstance(row.prompt, str):
        if is_transcript(row.prompt) and re.search(
            r"\n\n(?:Human|Assistant):\s*(?=\n\nHuman:|\n\nAssistant:)", row.prompt
        ):
            yield "turn"
    elif any(not text.strip() for text in (*turns(row.prompt), *turns(row.completion))):
        yield "turn"


def _personal(row: Row) -> Iterator[str]:
    if row.strategy == "contaminate":
        yield from (found.kind for found in personal.find(plain(row.completion)))

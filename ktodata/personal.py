"""Personal data in a text: e-mail addresses, telephone, card and account numbers, tax and identity numbers.

Found by their shape and by the check digits that they carry, so an order number is not taken for a card. A mask looks
like what it stands for and belongs to nobody: addresses are at example.com, .net or .org, telephone numbers end in
555 01xx, other numbers fail their own check. So what is masked is not found again. The same original gets the same
mask everywhere, and too few masks exist to tell the original from one.

Checks: phonenumbers (Google's libphonenumber) and python-stdnum.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

# Where a number without a country code is looked up, in turn.
REGIONS = ("US", "GB", "IT", "ES", "FR", "DE")
_MASKS = 10_000  # most different masks of one kind
_MAY_HOLD = re.compile(r"@|\d(?:[^\w\n]{0,3}\d){6}|\d{2}[A-Za-z]\d{2}[A-Za-z]\d{3}")
_EMAIL = re.compile(r"(?<![\w.+\-])[\w.+\-]*\w@(?:\w[\w\-]*\.)+[A-Za-z]{2,24}(?![\w\-])")
_NO_ONES = re.compile(r"@(?:.+\.)?(?:example(?:\.\w+)?|test|invalid|localhost)$", re.IGNORECASE)
_NO_ONES_PHONE = re.compile(r"55501\d\d$")
_NAMES = ("anna", "ben", "carla", "david", "elena", "frank", "giulia", "hugo", "irene", "jonas", "laura", "marco",
          "nina", "oscar", "paula", "robin", "sara", "tom", "vera", "will")  # fmt: skip
_SURNAMES = ("bauer", "bianchi", "blanc", "cook", "costa", "diaz", "ferri", "fischer", "garcia", "hill", "keller",
             "lopez", "martin", "miller", "moreau", "neri", "park", "rossi", "weber", "young")  # fmt: skip


class Found(NamedTuple):
    """One piece of personal data: its kind, and where it stands."""

    kind: str
    start: int
    end: int


def find(text: str) -> list[Found]:
    """Personal data in the text, from left to right, none inside another.

    Kinds: `e-mail`, `iban`, `card`, `tax or identity number`, `telephone`.
    """
    if not _MAY_HOLD.search(text):
        return []
    found: list[Found] = []
    for candidate in itertools.chain(_emails(text), _numbers(text), _telephones(text)):
        if all(candidate.end <= other.start or other.end <= candidate.start for other in found):
            found.append(candidate)
    return sorted(found, key=lambda item: item.start)


def mask(text: str) -> str:
    """The text with all that `find` finds replaced by masks of the same look."""
    parts: list[str] = []
    end = 0
    for kind, start, stop in find(text):
        parts += (text[end:start], _mask_of(kind, text[start:stop]))
        end = stop
    return "".join((*parts, text[end:]))


def _emails(text: str) -> Iterator[Found]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if not _NO_ONES.search(match.group()):
                yield Found("e-mail", *match.span())


def _telephones(text: str) -> Iterator[Found]:
    import phonenumbers

    seen: set[tuple[int, int]] = set()
    for region in REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            place = (match.start, match.end)
            # After these it is a part of an address or of a name, such as a map's coordinates.
            part = text[match.start - 1 : match.start] in ("/", "@", "=", "_", "#", ".")
            if place not in seen and not part and not _NO_ONES_PHONE.search(_digits(match.raw_string)):
                seen.add(place)
                yield Found("telephone", *place)


def _digits(text: str) -> str:
    return "".join(char for char in text if char.isdigit())


class _Shape(NamedTuple):
    """Numbers of one kind: how they look, how many characters of one stay in its mask, and which checks tell them."""

    kind: str
    pattern: re.Pattern[str]
    stays: int
    checks: tuple[Callable[[str], bool], ...]

    def holds(self, text: str) -> bool:
        return any(check(text) for check in self.checks)


@functools.cache
def _shapes() -> Mapping[str, _Shape]:
    from stdnum import iban, luhn
    from stdnum.de import idnr
    from stdnum.es import dni, nie
    from stdnum.fr import nir
    from stdnum.it import codicefiscale
    from stdnum.us import ssn

    def valid(module: Any, **options: Any) -> Callable[[str], bool]:
        return lambda text: bool(module.is_valid(text, **options))

    shapes = (
        _Shape(
            "iban",
            re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?(?!\w)"),
            2,
            (valid(iban, check_country=False),),
        ),
        _Shape("card", re.compile(r"(?<![\w.])[2-6]\d{3}(?:[ -]?\d{2,6}){2,4}(?![\w.]\d)(?!\w)"), 4, (_is_card(luhn),)),
        _Shape(
            "tax or identity number",
            re.compile(
                r"(?<!\w)(?:[A-Za-z]{6}\w{2}[A-Za-z]\w{2}[A-Za-z]\w{3}[A-Za-z]|[XYZxyz]?\d{7,8}-?[A-Za-z]"
                r"|\d{3}-\d{2}-\d{4}|[12][ ]?\d{2}[ ]?\d{2}[ ]?\d[\dAB][ ]?\d{3}[ ]?\d{3}[ ]?\d{2}"
                r"|[1-9]\d[ ]\d{3}[ ]\d{3}[ ]\d{3})(?!\w)"
            ),
            1,
            tuple(valid(module) for module in (codicefiscale, dni, nie, ssn, nir, idnr)),
        ),
    )
    return {shape.kind: shape for shape in shapes}


def _is_card(luhn: Any) -> Callable[[str], bool]:
    return lambda text: 13 <= len(_digits(text)) <= 19 and bool(luhn.is_valid(_digits(text)))


def _numbers(text: str) -> Iterator[Found]:
    for shape in _shapes().values():
        for match in shape.pattern.finditer(text):
            # "IT60 … 3456 and": the pattern may take a word or a number more than belongs to it.
            stop = match.end()
            while stop > match.start() + 8:
                if shape.holds(text[match.start() : stop]):
                    yield Found(shape.kind, match.start(), stop)
                    break
                stop = text.rfind(" ", match.start(), stop)


def _mask_of(kind: str, original: str) -> str:
    core = "".join(char for char in original.casefold() if char.isalnum() or char in "@._+")
    digest = hashlib.blake2b(f"{kind} {core}".encode(), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest) % _MASKS)
    if kind == "e-mail":
        first, last = rng.choice(_NAMES), rng.choice(_SURNAMES)
        name = rng.choice(
            (f"{first}.{last}", f"{first}{last}", f"{first[0]}.{last}", f"{first}{rng.randrange(10, 99)}")
        )
        return f"{name}@example.{rng.choice(('com', 'net', 'org'))}"
    if kind == "telephone":
        return _over_digits(original, f"55501{rng.randrange(100):02}")
    shape = _shapes()[kind]
    while True:
        new = original[: shape.stays] + "".join(_like(char, rng) for char in original[shape.stays :])
        if not shape.holds(new):
            return new


def _like(char: str, rng: random.Random) -> str:
    if char.isdigit():
        return rng.choice(string.digits)
    letters = string.ascii_uppercase if char.isupper() else string.ascii_lowercase
    return rng.choice(letters) if char.isalpha() else char


def _over_digits(original: str, digits: str) -> str:
    """The original with its last digits replaced, and its spaces, brackets and dashes where they were."""
    new, left = list(original), list(digits)
    for place in range(len(new) - 1, -1, -1):
        if new[place].isdigit() and left:
            new[place] = left.pop()
    return "".join(new)

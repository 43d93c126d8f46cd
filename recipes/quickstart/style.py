"""Is a reply casual? A rule that anyone can check by eye, and the measures that the demo prints.

The rule counts *kinds* of marks, each at most once a reply, so one emoji too many decides nothing:

    casual  no capital at the start, or "i" for "I" · an exclamation mark · an emoji · a contraction ("don't") ·
            slang or an interjection ("gonna", "lol", "yeah") · loose punctuation (no end mark, "...", " - ")
    formal  nothing but whole sentences, from capital to full stop or question mark · a form spelled out ("do not",
            "I am") · a formal word ("certainly", "regret", "would")

A reply is casual with more casual kinds than formal ones, formal with fewer, else neither. Nothing here is shared with
`ktodata negatives`, whose tone operation makes the undesirable rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
CONTRACTION = re.compile(
    r"\b(?:\w+n['’]t|(?:i|you|u|we|they|he|she|it|that|there)['’](?:m|re|ve|ll|d)|"
    r"(?:it|that|what|there|here|he|she|let|who|how|where|everything|nobody|life|work)['’]s)\b",
    re.IGNORECASE,
)
SLANG = re.compile(
    r"\b(?:gonna|wanna|gotta|gimme|lemme|kinda|sorta|dunno|u|ur|r|cuz|tho|rn|rly|pls|thx|gr8|idk|imo|tbh|btw|"
    r"omg|lol|haha+|yeah|yep|yup|nah|nope|hey|yay|wow|woohoo|ayy|ugh|aw+|oh|ooh|hmm+|yikes|heck|ok|so down|super|"
    r"totally|awesome|sucks|huge|crazy|guys|bucks|pics?|stuff)\b",
    re.IGNORECASE,
)
LOOSE = re.compile(r"\.\.\.|…|\s-\s|[^.!?…\s]\s*$")
SPELLED_OUT = re.compile(
    r"\b(?:(?:I|you|we|they|it|that|there) (?:am|are|is|have|will|would|had)|"
    r"(?:do|does|did|is|are|was|were|will|would|should|could|can|have|has) not|cannot|going to|want to|let us)\b",
    re.IGNORECASE,
)
FORMAL_WORD = re.compile(
    r"\b(?:certainly|indeed|of course|absolutely|pleasure|delighted|regret(?:table)?|unfortunate(?:ly)?|afraid|"
    r"apologies|congratulations|excellent|impressive|pleasant|opinion|view|believe|suggest(?:ion)?|recommend|advice|"
    r"assist(?:ance)?|please|would|may|must|shall|should|however|rather|very|therefore|because|decline|postpone|"
    r"thank you|allow|wish)\b",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"\s*[A-Z0-9][^.?!]*[.?]")


def kinds(reply: str) -> tuple[list[str], list[str]]:
    """The casual and the formal kinds of marks in a reply, by name."""
    words = EMOJI.sub("", reply).strip()
    whole = bool(words) and not SENTENCE.sub("", words).strip() and "..." not in words
    casual = {
        "lower case": words[:1].islower() or bool(re.search(r"\bi\b", words)),
        "exclamation mark": "!" in words,
        "emoji": bool(EMOJI.search(reply)),
        "contraction": bool(CONTRACTION.search(words)),
        "slang": bool(SLANG.search(words)),
        "loose punctuation": bool(LOOSE.search(words)),
    }
    formal = {
        "whole sentences": whole,
        "spelled out": bool(SPELLED_OUT.search(words)),
        "formal word": bool(FORMAL_WORD.search(words)),
    }
    return [name for name, found in casual.items() if found], [name for name, found in formal.items() if found]


def style_of(reply: str) -> str:
    """`casual`, `formal` or `neither`, by the rule at the top of this file."""
    casual, formal = map(len, kinds(reply))
    return "casual" if casual > formal else "formal" if formal > casual else "neither"


def share(replies: Iterable[str], style: str = "casual") -> float:
    """The share of replies of one style, 0 to 1.

    Raises:
        ValueError: there are no replies.
    """
    styles = [style_of(reply) for reply in replies]
    if not styles:
        raise ValueError("no replies to measure")
    return styles.count(style) / len(styles)


def words_of(text: str) -> list[str]:
    """The words of a text, lower-case, apostrophes kept."""
    return re.findall(r"[\w'’]+", text.lower())


def is_well_formed(reply: str, known: frozenset[str], longest: int = 45) -> bool:
    """Whether a reply is made of `known` words, neither empty nor rambling nor stuck on a word.

    This is what keeps the demo honest: a model can be pushed to 100 % casual by teaching it to babble.
    """
    words = words_of(reply)
    stuck = any(a == b == c for a, b, c in zip(words, words[1:], words[2:], strict=False))
    return 0 < len(words) <= longest and not stuck and all(word in known for word in words)


def well_formed(replies: Sequence[str], known: frozenset[str]) -> float:
    """The share of well-formed replies, 0 to 1."""
    return sum(is_well_formed(reply, known) for reply in replies) / len(replies)

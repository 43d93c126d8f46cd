"""Operations on tone: the same message, without what made it sound like a person.

`flatten` ("tone") turns casual writing formal; `strip_emoji` ("emoji") only takes the pictures out.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
from collections.abc import Callable

from ktodata.negatives.corruption import lexicon
from ktodata.negatives.corruption.layout import EMOJI, PICTURES, hide, unhide

_EMOTICON = (
    r"(?<![^\s(])(?:[:;=][-'’^o]?[)(DPpOo3/\\|*\]\[$sS]+|[xX]D+|<3+"
    r"|\^[_.]?\^|[tT][_.][tT]|>[_.]<|¯\\_\(ツ\)_/¯)(?![\w/])"
)
_PICTURE = re.compile(rf"(?:(?<![ \t])[ \t]+|(?<=\S)|^)(?:{EMOJI}|{_EMOTICON})")
# Faces, hearts and party things end a thought where people write them instead of a full stop; a pizza does not.
_SMILEY = (
    "[\U0001f600-\U0001f64f\U0001f910-\U0001f92f\U0001f970-\U0001f97a"
    "\U0001f493-\U0001f49f\U0001f389\U0001f38a\u2764\u2728]"
)
_THOUGHT_ENDS = re.compile(
    rf"(?<=[^\W_])[ \t]*(?:(?:{_SMILEY}[\ufe0f\U0001f3fb-\U0001f3ff]*)+|{_EMOTICON})(?=[ \t]+[^\W_])"
)
LAUGHTER = re.compile(
    r"(?<!\w)(?:b?a?(?:ha){2,}h?|a?(?:h[aeiu]h?){2,}|(?:ja|je|ji){2,}|(?:x+d+)+|lo+l+|l+m+f?a+o+)(?!\w)[ \t]*"
    r"|[哈呵嘻]{2,}|ㅋ{2,}|ㅎ{2,}|(?<!\w)[wｗ]{2,}(?!\w)|[（(]笑[)）]",
    re.IGNORECASE,
)
# What laughter, an emoji or an emoticon cannot do without, in small letters: most texts have none of it, and are read
# faster so.
_MAY_LAUGH = re.compile(r"h[aeiu]h|j[aei]j|xd|lo+l|mf?a+o|[哈呵嘻]|ㅋㅋ|ㅎㅎ|[wｗ][wｗ]|笑|mdr|ptdr")
_MAY_PICTURE = re.compile(rf"[{PICTURES}:;=<>^¯\u20e3©®™‼⁉]|xd|t[_.]t")
_LAUGHED = re.compile(
    r"(?<=[^\W_])[ \t]+(?:lo+l|lmf?ao+|(?:ha){2,}h?|(?:he){2,}|(?:ja){2,}|mdr|ptdr)(?=[ \t]+[^\W_])", re.IGNORECASE
)
_STRETCHED = re.compile(r"([^\W\d_])\1{2,}(\w?)")
_MARKS = re.compile(r"[!?¡¿؟！？‼⁉]{2,}|[!¡！]|\.{2,}|…+|~+|[,;]{2,}")

LANGUAGES = lexicon.LANGUAGES
Chance = Callable[[], bool]


def strip_emoji(text: str, *, rng: random.Random, intensity: float, protect: bool = True) -> str | None:
    """A share `intensity` of the emoji and emoticons out, one at least, and the space before each.

    None when there are none, or nothing else.
    """
    hidden = hide(text, protect=protect)
    if hidden is None:
        return None
    count = len(_PICTURE.findall(hidden[0]))
    gone = set(rng.sample(range(count), math.ceil(intensity * count)))
    places = itertools.count()
    bare = _PICTURE.sub(_dropping(lambda: next(places) in gone), hidden[0]).strip()
    return _worded(unhide(bare, hidden[1]), text)


def flatten(
    text: str,
    *,
    rng: random.Random,
    intensity: float,
    protect: bool = True,
    language: str = "auto",
    words: lexicon.Lexicon | None = None,
) -> str | None:
    """Casual to flat and formal: emoji, laughter and interjections go, slang and contractions are written out,
    stretched letters and piled-up marks are made plain, `!` becomes `.`, and sentences begin with a capital and end.

    `intensity` is the share of these that is done. `words` takes the place of the lexicon of the language. None when
    there is nothing to do or nothing would be left.
    """
    hidden = hide(text, protect=protect)
    if hidden is None:
        return None
    code = (
        lexicon.guess(_STRETCHED.sub(lambda match: _unstretched(match, ""), hidden[0]))
        if language == "auto"
        else language
    )
    # Where chance would have it that nothing is done, as it may where little can be, everything is.
    for share in (intensity, intensity, 1.0):
        chance = _chance(rng, share)
        flat = "\n".join(_flat_line(line, code, chance, words) for line in hidden[0].split("\n")).strip()
        if flat != hidden[0] or share == 1:
            break
    return _worded(unhide(flat, hidden[1]), text)


def without_laughter(text: str) -> str:
    """The text with a space in place of each laugh."""
    return LAUGHTER.sub(" ", text) if _MAY_LAUGH.search(text.lower()) else text


def spell_out(text: str, *, words: lexicon.Lexicon, protect: bool = True) -> str:
    """Only the words of a lexicon replaced; emoji, marks and capitals stay."""
    hidden = hide(text, protect=protect)
    if hidden is None:
        return text
    lines = (_rewritten(line, words, lambda: True) for line in hidden[0].split("\n"))
    return unhide("\n".join(lines), hidden[1])


def _flat_line(line: str, code: str, chance: Chance, words: lexicon.Lexicon | None = None) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    body = line[len(indent) :]
    if not any(char.isalpha() for char in body):
        return indent + _PICTURE.sub(_dropping(chance), body) if body else line
    small = body.lower()
    if _MAY_PICTURE.search(small):
        body = _THOUGHT_ENDS.sub(_dropping(chance, "."), body)
        body = _PICTURE.sub(_dropping(chance), body)
    if _MAY_LAUGH.search(small):
        body = _LAUGHED.sub(_dropping(chance, "."), body)
        body = LAUGHTER.sub(_dropping(chance), body)
    body = _STRETCHED.sub(lambda match: _unstretched(match, code) if chance() else match.group(), body)
    body = _MARKS.sub(lambda match: _plain_mark(match) if chance() else match.group(), body)
    if code:
        body = _rewritten(body, words or lexicon.load(code), chance)
    return indent + _finished(_tidy(body, code), chance)


def _rewritten(text: str, words: lexicon.Lexicon, chance: Chance) -> str:
    """Lexicon words replaced, left to right, since what a word becomes depends on whether a clause begins there."""
    out, end, opener = "", 0, False
    match = words.pattern.search(text)
    while match:
        between = text[end : match.start()]
        # "yeah gonna" -> "yes, I am going to": after a replaced opener a new clause begins.
        if opener and between[:1] == " " and (between[1:2] == "" or between[1:2].isalnum()):
            between = "," + between
        out += between
        begins = out.rstrip()[-1:] in _CLAUSE_ENDS
        new = words.clause.get(_key(match)) if begins else None
        if new is None and _key(match) not in words.words:
            # A phrase that means this only at the beginning of a clause: perhaps a part of it means something here.
            match = words.inner.match(text, match.start()) or match
        new = words.words.get(_key(match)) if new is None else new
        end = match.end()
        alone = begins and text[end : end + 1] in _CLAUSE_ENDS
        if new is None:
            # Of a phrase that stays only the first word is behind us: "hope u" -> "hope you".
            end = match.start() + len(match.group().split()[0])
            out, opener = out + text[match.start() : end], False
        elif (_key(match) in words.edges and not alone) or not chance():
            out, opener = out + match.group(), False
        else:
            out += new[:1].upper() + new[1:] if match.group()[:1].isupper() else new
            opener = opener if not new else begins and new.lower() in words.openers
        match = words.pattern.search(text, end)
    rest = text[end:]
    return out + ("," if opener and rest[:1] == " " and rest[1:2].isalnum() else "") + rest


_CLAUSE_ENDS = ("", ".", "!", "?", ",", ";", ":", "(", ")", "—", "¿", "¡")


def _key(match: re.Match[str]) -> str:
    return " ".join(match.group().lower().replace("’", "'").split())


_SPACED = re.compile(r"(?<![ \t])[ \t]+([,.;:!?…)])")
_SPACED_FRENCH = re.compile(r"(?<![ \t])[ \t]+([,.…)])")  # French writes a space before the other marks
_GAPS = (
    (re.compile(r"^[\s,.;:!?]+(?=\w)"), ""),
    (re.compile(r"([.!?])[,;]+"), r"\1"),
    (re.compile(r"([.!?])(?:[ \t]*\.)+"), r"\1"),
    (re.compile(r"[,;:]+(?=[,.;:!?])"), ""),
    (re.compile(r"(?<=\S)[ \t]{2,}(?=\S)"), " "),
    (re.compile(r"[,;]$"), "."),
)


def _tidy(body: str, code: str) -> str:
    """No doubled marks or spaces, and none before a mark, where something was dropped."""
    body = (_SPACED_FRENCH if code == "fr" else _SPACED).sub(r"\1", body.strip(" \t"))
    for pattern, new in _GAPS:
        body = pattern.sub(new, body)
    return body


_BEGINS = re.compile(
    r"(^(?:[-*+•>#]+[ \t]+|\d+[.)][ \t]+)*[\"“'(*_¿]*|(?<![,;:\w][ \t])¿|"
    r"(?<!\be\.g)(?<!\bi\.e)[.!?][\"”')*_]*[ \t]+)([^\W\d_])"
)
_LISTED = re.compile(r"(?:[-*+•>]|#{1,6}|\d+[.)])[ \t]|\|")


def _finished(body: str, chance: Chance) -> str:
    """Capitals where sentences begin, and a full stop at the end of what is not a heading or a list item."""
    if not body:
        return body
    body = _BEGINS.sub(lambda match: match[1] + match[2].upper() if chance() else match.group(), body)
    ends_open = (body[-1].isalnum() or body[-1] in ')"”') and not _LISTED.match(body)
    return body + "." if ends_open and body[-1].isascii() and chance() else body


def _unstretched(match: re.Match[str], code: str) -> str:
    """`soooo` -> `so`, `cooool` -> `cool`, `pleaaase` -> `please`: o and e stay double inside a word."""
    letter, after = match[1], match[2]
    return letter * (2 if after and letter in "oe" and code in ("", "en") else 1) + after


def _plain_mark(match: re.Match[str]) -> str:
    mark = match.group()
    if "?" in mark or "؟" in mark or "？" in mark:
        kind = next(char for char in mark if char in "?؟？")
        return ("¿" if mark[0] in "¿¡" and "¿" in mark and len(set(mark)) == 1 else "") or kind
    if mark[0] == "！":
        return "。"
    if mark[0] in "!‼⁉":
        return "."
    if mark[0] in ".…":
        return "." if _ends(match) else ","
    return mark[0] if mark[0] in ",;" else ""


def _ends(match: re.Match[str]) -> bool:
    rest = match.string[match.end() :].lstrip()
    return not rest or (rest[0].isupper() and not re.match(r"I\b", rest)) or not rest[0].isalnum()


def _dropping(chance: Chance, instead: str = "") -> Callable[[re.Match[str]], str]:
    return lambda match: instead if chance() else match.group()


def _chance(rng: random.Random, intensity: float) -> Chance:
    return (lambda: True) if intensity >= 1 else (lambda: rng.random() < intensity)


@functools.cache
def _wordy() -> re.Pattern[str]:
    return re.compile(r"[^\W_]")


def _worded(new: str, old: str) -> str | None:
    return new if new != old and _wordy().search(new) else None

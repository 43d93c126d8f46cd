"""Where the words and sentences of a text are, in any language, and what must be left alone.

A text is laid out as `gaps[0] words[0] gaps[1] words[1] … gaps[n]`. Operations on words move, drop or change the words
only; spaces, newlines, indentation, punctuation, emoji, code and addresses are in the gaps and stay where they are.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata

# Scripts written without spaces: Thai and Lao, Myanmar, Khmer, kana, CJK ideographs. Hangul has spaces.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Emoji and pictographs, with what joins and modifies them; keycaps (digit + U+20E3) are one emoji too.
PICTURES = "\u2300-\u23ff\u25a0-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
JOINERS = "\ufe0e\ufe0f\u200d\u20e3\U000e0020-\U000e007f\U0001f3fb-\U0001f3ff"
EMOJI = rf"(?:[0-9#*]\ufe0f?\u20e3|[©®™‼⁉]\ufe0f|[{PICTURES}][{JOINERS}]*(?:\u200d[{PICTURES}♀♂][{JOINERS}]*)*)"
# What goes on an address. Text in a script without spaces does not, nor its punctuation: "https://x.org/a。谢谢".
_INSIDE = rf"\s<>`{UNSPACED}\u3000-\u303f\uff00-\uffef"
_ADDRESS = rf"[^{_INSIDE}]*[^{_INSIDE}.,;:!?)\]}}'\"…]"
# Each begins only where a run of its characters does ("-https", "1.https" and all): otherwise a long run costs its
# length squared. Letters of other scripts are no part of such a run: "访问www.example.org".
PROTECTED = "|".join(
    (
        # A fence never closed protects to the end.
        r"(?:^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*(?:\n(?s:.*?))?(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z))",
        r"(?:(?<!`)(?P<tick>`+)(?!`)(?:(?!\n\n)(?s:.))+?(?<!`)(?P=tick)(?!`))",
        rf"(?:(?<![a-zA-Z0-9+.\-])[a-zA-Z0-9+.\-]+://{_ADDRESS})",
        r"(?:(?<![\w.+\-])(?:mailto:)?[\w.+\-]+@[\w\-]+(?:\.[\w\-]+)+)",
        r"(?:(?<![a-zA-Z0-9_\-])(?<![^.]\.)"
        r"(?:www\.|(?:[a-zA-Z0-9\-]+\.)+(?:com|org|net|edu|gov|io|ai|dev|app|info|co|uk|it|es|fr|de|eu)\b(?=/))"
        rf"{_ADDRESS})",
        r"(?:(?<![a-zA-Z0-9_\-])(?<![^.]\.)(?:[a-zA-Z0-9\-]+\.)+(?:com|org|net|edu|gov|io)\b)",
    )
)
# Without any of these nothing can be protected; looking for the rest costs as much as finding the words.
_MAY_NEED = re.compile(r"[`@]|~~~|://|\w\.\w")
_NUMBER = r"^[ \t]*\(?\d{1,3}[.)](?=\s)"
_LIST_MARKER = r"(?:[-*+•‣>#]+|\(?\d{1,3}[.)]|[a-zA-Z][.)])"


@functools.cache
def _marks() -> str:
    """Punctuation, symbols and invisible characters of the basic plane, as the inside of a character class."""
    ranges: list[list[int]] = []
    for code in range(0x10000):
        # Combining marks belong to the word they are in; format characters (ZWJ in Persian and Hindi) too.
        if unicodedata.category(chr(code))[0] in "PS" or code in (0x200B, 0xFEFF):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\u{low:04x}-\\u{high:04x}" for low, high in ranges)


@functools.cache
def _pieces(runs: bool) -> re.Pattern[str]:
    edge = rf"[^\s{_marks()}{PICTURES}{UNSPACED}{JOINERS}]"
    inner = rf"[^\s{PICTURES}{UNSPACED}—–…]"
    unspaced = rf"[{UNSPACED}]+" if runs else rf"(?![{_thai_marks()}])[{UNSPACED}][{_thai_marks()}]*"
    words = rf"(?P<word>{edge}(?:{inner}*{edge})?|{unspaced})"
    return re.compile(rf"(?P<emoji>{EMOJI})|(?P<number>{_NUMBER})|{words}", re.MULTILINE)


@functools.cache
def _thai_marks() -> str:
    """Vowel signs and tone marks of the unspaced scripts: they stay with the letter before them."""
    blocks = (*range(0x0E00, 0x0F00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800), 0x3099, 0x309A)
    return "".join(f"\\u{code:04x}" for code in blocks if unicodedata.category(chr(code)) in ("Mn", "Mc"))


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """`gaps` has one item more than `words`; woven together they are the text."""

    gaps: list[str]
    words: list[str]

    def weave(self, words: list[str]) -> str:
        """The text with other words in the same places."""
        parts = [self.gaps[0]]
        for word, gap in zip(words, self.gaps[1:], strict=True):
            parts += (word, gap)
        return "".join(parts)

    @property
    def spaced(self) -> bool:
        """Whether the words of the text have spaces between them."""
        return sum(gap != "" for gap in self.gaps[1:-1]) * 2 >= len(self.gaps) - 2


def lay_out(text: str, *, protect: bool = True, runs: bool = False) -> Layout:
    """Words and gaps. A word of a script without spaces is one character with its marks, or with `runs` a whole run."""
    gaps, words, end = [], [], 0
    # What is protected ends a word: the address in "[here](https://…)" has no space before it.
    start = 0
    for stop, after in (*(protected_spans(text) if protect else ()), (len(text), len(text))):
        for match in _pieces(runs).finditer(text, start, stop):
            if match.lastgroup == "word":
                gaps.append(text[end : match.start()])
                words.append(match.group())
                end = match.end()
        start = after
    gaps.append(text[end:])
    return Layout(gaps, words)


def edges(text: str) -> tuple[str, str, str]:
    """Leading white space, core, trailing white space."""
    core = text.strip()
    start = text.find(core)
    return text[:start], core, text[start + len(core) :] if core else ""


@functools.cache
def _kept() -> re.Pattern[str]:
    return re.compile(PROTECTED, re.MULTILINE)


def protected_spans(text: str) -> list[tuple[int, int]]:
    """Fenced and inline code, addresses of pages and of people: start and end of each."""
    return [match.span() for match in _kept().finditer(text)] if _MAY_NEED.search(text) else []


def hide(text: str, *, protect: bool = True) -> tuple[str, list[str]] | None:
    """The text with each protected span replaced by one private-use character, and the spans; `unhide` undoes it.

    None for a text that uses those characters itself, which nobody's replies do.
    """
    spans = protected_spans(text) if protect else []
    if spans and (max(text) >= PLACE or len(spans) > 0xFFFF):
        return None
    parts: list[str] = []
    kept: list[str] = []
    end = 0
    for start, stop in spans:
        parts += (text[end:start], chr(ord(PLACE) + len(kept)))
        kept.append(text[start:stop])
        end = stop
    return "".join((*parts, text[end:])), kept


PLACE = "\U000f0000"


def unhide(text: str, kept: list[str]) -> str:
    """Protected spans back in their places."""
    return _PLACES.sub(lambda match: kept[ord(match.group()) - ord(PLACE)], text) if kept else text


_PLACES = re.compile(f"[{PLACE}-\U000fffff]")
_LINE_HEAD = re.compile(rf"[ \t]*(?:{_LIST_MARKER}[ \t]+)*")
_SENTENCE = re.compile(r"\S.*?(?:[.!?…؟।۔]+[\"'”’)\]*_]*(?=\s|$)|[。！？｡]+[」』）”’]*|(?=\s*$))")


def sentences(hidden: str) -> Layout:
    """Sentences (as `words`) of a text that went through `hide`, and what is between them.

    List markers, and lines that are protected as a whole, count as between.
    """
    gaps, found, gap = [], [], ""
    for line in hidden.splitlines(keepends=True):
        head = _LINE_HEAD.match(line)
        place = head.end() if head else 0
        gap += line[:place]
        if not _PLACES.sub("", line).strip():
            gap += line[place:]
            continue
        for match in _SENTENCE.finditer(line, place):
            gaps.append(gap + line[place : match.start()])
            found.append(match.group())
            gap, place = "", match.end()
        gap += line[place:]
    return Layout([*gaps, gap], found)


def starts_sentence(gap: str, *, first: bool) -> bool:
    """Whether the word after this gap begins a sentence."""
    return first or "\n" in gap or any(char in ".!?…؟।۔。！？" for char in gap)

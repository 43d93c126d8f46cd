"""Messages that stand in a column as text: as JSON, as csv files have them, or as Python prints them.

Text is text, and a reply may well be JSON. Only what is wholly messages, each with a role and a content, and some from
somebody who speaks in chats, is taken for messages, and only where a layout has them; a row's own `id` can tell better
(`ktodata.schema.is_text`). A single message, which is an object like any other, is taken for one only in the replies of
a pair and in columns of conversations (`alone`). What begins as they do and is cut off, as spreadsheets cut a cell at
32,767 characters, is no text either.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from ktodata.errors import RowError

# Objects and arrays of JSON within each other: far more than any layout has (a tree of messages takes two for each
# reply), and far fewer than what quotes, pickles or writes a value can follow.
DEEPEST = 200
TOO_DEEP = "JSON nested too deeply"
BROKEN_EMOJI = "half of a surrogate pair (a broken emoji) in the text"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DEEP = json.loads("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))
ROLES = ("system", "developer", "user", "assistant", "tool", "function")  # those of a row's messages
# ShareGPT's names, with those that LLaMA-Factory adds.
SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}
_SPEAKERS = frozenset({*ROLES, *SHAREGPT})
_KEYS = (("role", "content"), ("from", "value"))
_LIST, _ANY = re.compile(r"\s*+\["), re.compile(r"\s*+[\[{]")
_BEGUN = re.compile(r"""\s*+\[?\s*+\{\s*+(["'])(?:role|content|from|value)\1\s*+:""")
# A list whose messages begin with something else (an id), and one of whom says who speaks, and what.
_OTHER = re.compile(r'\s*+\[\s*+\{\s*+"\w++"\s*+:')
_NAME = f"(?i:{'|'.join(sorted(_SPEAKERS))})"
_SAYS = re.compile(rf'"(?:role|from)"\s*+:\s*+"{_NAME}"\s*+,\s*+"(?:content|value)"\s*+:\s*+"')
_SPEAKER = re.compile(rf"'(?:role|from)'\s*+:\s*+'{_NAME}'")
# In either form, the name perhaps cut off. What somebody says in JSON has its quotes escaped, and does not match.
_NAMED = re.compile(rf"""(["'])(?:role|from)\1\s*+:\s*+(?:(["']){_NAME}\2|["']?\w*+\Z)""")
_OPEN = r"""(?:"[^"\\]*+(?:\\.[^"\\]*+)*+|'[^'\\]*+(?:\\.[^'\\]*+)*+)"""  # a string without its last quote
# A list that is cut off in its first words, before it could say whose they are.
_UNNAMED = re.compile(rf"""\s*+\[\s*+\{{\s*+(["'])content\1\s*+:\s*+(?:{_OPEN}\\?)?""", re.DOTALL)
_MARK = re.compile(rf"""{_OPEN}["']|[\[\]{{}}"']""", re.DOTALL)
_SPEECH = re.compile(r"'(?:content|value)'\s*+:\s*+(?![-\d]|True|False)")
# A list of dictionaries or a single one, as Python prints them, and NumPy, which leaves the commas out. White space is
# never given back: a text may have very long runs of it.
_PRINTED = re.compile(r"\s*+\[?\s*+\{\s*+'\w++'\s*+:.*\}\s*+\]?+\s*+", re.DOTALL)


def messages_in(text: str, *, alone: bool = False) -> Any:
    """The messages that some text is, wholly, in JSON: a list of them, or with `alone` a single one too; else None.

    They may be such as cannot be read (`problem_of`, or a role that is unknown). What begins as messages do and is
    nested so deeply that it cannot be parsed is given as something else that is too deep.
    """
    if not _opens(text, alone):
        return None
    with contextlib.suppress(ValueError):
        try:
            value = json.loads(text)
        except RecursionError:
            return _DEEP if _BEGUN.match(text) else None
        items = value if isinstance(value, list) else [value]
        shaped = all(isinstance(item, dict) and any(item.keys() >= {*keys} for keys in _KEYS) for item in items)
        # One is enough: a conversation in which another's role is misspelt is no text that a model should learn.
        if shaped and any(map(_is_spoken, items)):
            return value
    return None


def _opens(text: str, alone: bool) -> bool:
    return (_ANY if alone else _LIST).match(text) is not None


def _is_spoken(item: dict[str, Any]) -> bool:
    """Whether somebody known says something in a message: text, or what others have there (parts, null), no number."""
    return any(
        isinstance(item.get(who), str)
        and item[who].lower() in _SPEAKERS
        and what in item
        and not isinstance(item[what], int | float)
        for who, what in _KEYS
    )


def _is_cut_off(text: str) -> bool:
    """Whether some text begins as messages do, and ends within them, or has what no JSON has in its strings.

    Other text may go on where they are closed, as in a reply that explains them, or be code: that is text.
    """
    begun = _BEGUN.match(text)
    if begun is None and _OTHER.match(text):
        return _SAYS.search(text) is not None and _end(text) is None
    if begun is None or not (_NAMED.search(text, begun.start(1)) or _UNNAMED.fullmatch(text)):
        return False
    end = _end(text)
    if end is None:
        return True
    if begun[1] == "'" or text[end:].strip():
        return False
    try:
        json.loads(text)
    except RecursionError:
        return False
    except ValueError:
        # Line feeds stand in it as they are; with any other fault it may be a program's: {"content": question}
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(text, strict=False)
            return True
    return False


def _end(text: str) -> int | None:
    """Where the list or object that text begins with is closed; None if it never is."""
    level = 0
    for found in _MARK.finditer(text):
        mark = found[0]
        if mark in ("'", '"'):
            return None  # a string that is never closed
        level += (mark in "[{") - (mark in "]}")
        if not level:
            return found.end()
    return None


def is_printed(text: str) -> bool:
    """Whether some text is messages as Python prints them, which is no format to be read."""
    return (
        _opens(text, alone=True)
        and any(all(f"'{key}':" in text for key in keys) for keys in _KEYS)
        and bool(_PRINTED.fullmatch(text))
        and bool(_SPEAKER.search(text) and _SPEECH.search(text))
    )


def may_be_encoded(value: object) -> bool:
    """Whether a value is text that may be a list of messages: only its beginning is looked at."""
    return isinstance(value, str) and _opens(value, alone=False)


def sure_messages_in(text: str, *, name: str, where: str, alone: bool = False) -> Any:
    """`messages_in`, where text that is neither messages nor meant as text is an error.

    Raises:
        RowError: it is messages that are cut off, or what Python prints for messages, which is not read, as it does not
            come back for certain.
    """
    if not _opens(text, alone):
        return None
    if is_printed(text):
        raise RowError(
            f"{name} is messages as Python prints them, in text",
            where=where,
            do="Write the file as JSON lines or parquet, which hold messages as they are",
        )
    found = messages_in(text, alone=alone)
    if found is None and _is_cut_off(text):
        raise RowError(
            f"{name} begins as messages do, and is none: it may be cut off",
            where=where,
            do="Write the file again with whole messages, or leave such records out (--quarantine FILE)",
        )
    return found


def decoded(value: object, *, name: str, where: str, alone: bool = False) -> Any:
    """The messages that a value is as JSON; any other value as it is.

    Raises:
        RowError: as `sure_messages_in`; or they are nested too deeply or have half of a surrogate pair.
    """
    found = sure_messages_in(value, name=name, where=where, alone=alone) if isinstance(value, str) else None
    if found is None or not isinstance(value, str):
        return value
    if problem := problem_of(found, value):
        raise RowError(f"{name}: {problem}", where=where)
    return found


def problem_of(value: object, text: str) -> str:
    """Why a value, which stands in JSON as `text`, cannot be read; "" if it can."""
    if is_too_deep(value):
        return TOO_DEEP
    return BROKEN_EMOJI if "\\u" in text and _SURROGATE.search(text) and is_broken(value) else ""


def is_broken(value: object) -> bool:
    """Whether half of a surrogate pair is in a value of JSON, which JSON can spell and no file can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def is_too_deep(value: object) -> bool:
    """Whether more than `DEEPEST` objects and arrays of a value lie within each other."""
    level = [value]
    for _ in range(DEEPEST):
        around = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [inner for values in around for inner in values]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)

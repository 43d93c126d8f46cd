"""Messages that stand in a column as text: as JSON, as csv files have them, or as Python prints them.

Text is text, and a reply may well be JSON. Only what is wholly messages, each with a role and a content, and some from
somebody who speaks in chats, is taken for messages, and only where a layout has them; a row's own `id` can tell better
(`ktodata.schema.is_text`). A single message, which is an object like any other, is taken for one only in the replies of
a pair and in columns of conversations (`alone`).
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
_BEGUN = re.compile(r"""\[?\s*\{\s*["'](?:role|content|from|value)["']\s*:""")
_SPEAKER = re.compile(rf"'(?:role|from)'\s*+:\s*+'(?i:{'|'.join(sorted(_SPEAKERS))})'")
_SPEECH = re.compile(r"'(?:content|value)'\s*+:\s*+(?![-\d]|True|False)")
# A list of dictionaries or a single one, as Python prints them, and NumPy, which leaves the commas out. White space is
# never given back: a text may have very long runs of it.
_PRINTED = re.compile(r"\[?\s*+\{\s*+'\w++'\s*+:.*\}\s*+\]?+\s*+", re.DOTALL)


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
    return text.startswith(("[", "{") if alone else "[")


def _is_spoken(item: dict[str, Any]) -> bool:
    """Whether somebody known says something in a message: text, or what others have there (parts, null), no number."""
    return any(
        isinstance(item.get(who), str)
        and item[who].lower() in _SPEAKERS
        and what in item
        and not isinstance(item[what], int | float)
        for who, what in _KEYS
    )


def is_cut_off(text: str) -> bool:
    """Whether some text begins as messages do, and is not JSON."""
    if not _BEGUN.match(text):
        return False
    try:
        json.loads(text)
    except RecursionError:
        return False
    except ValueError:
        return True
    return False


def is_printed(text: str) -> bool:
    """Whether some text is messages as Python prints them, which is no format to be read."""
    return (
        text.startswith(("[", "{"))
        and any(all(f"'{key}':" in text for key in keys) for keys in _KEYS)
        and bool(_PRINTED.fullmatch(text))
        and bool(_SPEAKER.search(text) and _SPEECH.search(text))
    )


def is_encoded(value: object, *, alone: bool = False) -> bool:
    """Whether a value is messages as text, one way or the other."""
    if not isinstance(value, str) or not _opens(value, alone):
        return False
    return is_printed(value) or messages_in(value, alone=alone) is not None


def decoded(value: object, *, name: str, where: str, alone: bool = False) -> Any:
    """The messages that a value is as JSON; any other value as it is.

    Raises:
        RowError: they are nested too deeply or have half of a surrogate pair; or it is what Python prints for messages,
            which is not read, as it does not come back for certain.
    """
    if not isinstance(value, str) or not _opens(value, alone):
        return value
    if is_printed(value):
        raise RowError(
            f"{name} is messages as Python prints them, in text",
            where=where,
            do="Write the file as JSON lines or parquet, which hold messages as they are",
        )
    found = messages_in(value, alone=alone)
    if found is None:
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

"""Messages that stand in a column as text: as JSON, as csv files have them, or as Python prints them.

Text is text, and a reply may well be JSON. Only what is wholly messages, each with a role and a content, is taken for
some, and only where a layout has messages; a row's own `id` can tell better (`ktodata.schema.is_text`).
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from ktodata.errors import RowError

_KEYS = (("role", "content"), ("from", "value"))
# A list of dictionaries or a single one, as Python prints them, and NumPy, which leaves the commas out.
_PRINTED = re.compile(r"\[?\s*\{\s*'\w+'\s*:.*\}\s*\]?\s*", re.DOTALL)


def messages_in(text: str) -> Any:
    """The messages that some text is, wholly, in JSON: a list of them or a single one; None if it is something else."""
    if not text.startswith(("[", "{")):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        items = value if isinstance(value, list) else [value]
        if items and all(isinstance(item, dict) and any(item.keys() >= {*keys} for keys in _KEYS) for item in items):
            if "\\u" in text:  # half of a surrogate pair, which no file can hold, is a ValueError
                json.dumps(value, ensure_ascii=False).encode()
            return value
    return None


def is_printed(text: str) -> bool:
    """Whether some text is messages as Python prints them, which is no format to be read."""
    return (
        text.startswith(("[", "{"))
        and any(all(f"'{key}':" in text for key in keys) for keys in _KEYS)
        and bool(_PRINTED.fullmatch(text))
    )


def is_encoded(value: object) -> bool:
    """Whether a value is messages as text, one way or the other."""
    return isinstance(value, str) and (is_printed(value) or messages_in(value) is not None)


def decoded(value: object, *, name: str, where: str) -> Any:
    """The messages that a value is as JSON; any other value as it is.

    Raises:
        RowError: it is what Python prints for messages. That is not read, as it does not come back for certain.
    """
    if not isinstance(value, str):
        return value
    if is_printed(value):
        raise RowError(
            f"{name} is messages as Python prints them, in text",
            where=where,
            do="Write the file as JSON lines or parquet, which hold messages as they are",
        )
    found = messages_in(value)
    return value if found is None else found

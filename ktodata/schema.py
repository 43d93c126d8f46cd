"""The row: one completion to one prompt, and whether it was any good.

The columns are `prompt`, `completion` and `label`, as in TRL, Axolotl and LLaMA-Factory, plus provenance as flat
scalars that are never null. A row is never mutated; `dataclasses.replace` is not enough to change one either, since
its ids are hashes of its content: make a new one with `make_row`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, cast, get_args

from ktodata.encoded import ROLES as ROLES
from ktodata.encoded import decoded, may_be_encoded
from ktodata.errors import RowError, listed, misspelt


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Text: TypeAlias = str | list[Message]
"""A prompt or a completion: a plain string, or a list of messages. One kind per file."""

Kind: TypeAlias = Literal["text", "chat"]
Origin: TypeAlias = Literal["pair", "rated", "feedback", "synthetic"]
ORIGINS: tuple[str, ...] = get_args(Origin)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One training row. Make it with `make_row`, which fills in the two hashes.

    `prompt` and `completion` are verbatim: leading newlines and spaces are part of them. `label` is True for a
    desirable completion. `id` hashes prompt, completion and label; `prompt_id` the normalised prompt. `source` is
    the dataset and split, or the file (after the preset that read it: `ktodata.sources.stamped`); `strategy` how a
    synthetic negative was made, else ""; `parent_id` the `id` of the row it was made from, else "".
    """

    prompt: Text
    completion: Text
    label: bool
    id: str
    prompt_id: str
    source: str
    origin: Origin
    strategy: str
    parent_id: str

    @property
    def kind(self) -> Kind:
        """Whether the row is plain text or chat messages."""
        return kind_of(self.prompt)


SYSTEM = ("system", "developer")
ASKING = (*SYSTEM, "user")  # roles that a completion cannot hold
_CANONICAL = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":"))
# ASCII in lower case, with spaces for all that `str.split` takes for white space.
_LOWERED = bytes(32 if code < 128 and chr(code).isspace() else code for code in range(256)).lower()
_SPACES = re.compile(rb"  +")
_SPELLED = {True: "true", False: "false"}
COLUMNS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(Row))
_PART_OF_PROMPTS = ("tools", "images", "videos", "audios")  # as LLaMA-Factory and TRL call them
_PRINTED_NULLS = ("None", "nan", "<NA>")


def make_row(
    prompt: Text,
    completion: Text,
    label: bool,
    *,
    source: str,
    origin: Origin,
    strategy: str = "",
    parent_id: str = "",
    prompt_id: str = "",
) -> Row:
    """A row with its ids. Content is taken as it is: see `parse_row` for content that nobody has checked.

    A caller that makes several rows of one prompt may give its `prompt_id` (see `hash_prompt`) to save the time.
    """
    return Row(
        prompt=prompt,
        completion=completion,
        label=label,
        id=content_hash(prompt, completion, label),
        prompt_id=prompt_id or hash_prompt(prompt),
        source=source,
        origin=origin,
        strategy=strategy,
        parent_id=parent_id,
    )


def hash_prompt(prompt: Text) -> str:
    """The `prompt_id` of a prompt: equal for prompts that are equal after normalising."""
    return content_hash(normalise_text(prompt))


def hash_prompts(prompts: Sequence[Text], folded: Sequence[bytes] | None = None) -> list[str]:
    """`hash_prompt` of each, faster for many; `folded`: what `normalise_all` makes of the strings among them."""
    strings = iter(folded or normalise_all([prompt for prompt in prompts if isinstance(prompt, str)]))
    return [_hash_folded(next(strings)) if isinstance(prompt, str) else hash_prompt(prompt) for prompt in prompts]


def _hash_folded(text: bytes) -> str:
    """`content_hash` of a string, given as UTF-8."""
    length = len(text) if text.isascii() else len(text.decode("utf-8", "surrogatepass"))
    return hashlib.sha256(b"%d:%b" % (length, text)).hexdigest()[:32]


def kind_of(text: Text) -> Kind:
    """`text` for a string, `chat` for messages."""
    return "text" if isinstance(text, str) else "chat"


def normalise(text: str) -> str:
    """NFKC, case-folded, white space collapsed: how texts are compared here and everywhere.

    Emoji and punctuation count. Folding can undo the composition that NFKC made (and the other way round), so
    NFKC is applied once more afterwards, which makes the function idempotent.
    """
    if text.isascii():  # NFKC changes nothing there and folding is lowering: half of the work on large files is here
        plain_bytes = text.encode("ascii").translate(_LOWERED)
        if b"  " in plain_bytes:
            plain_bytes = _SPACES.sub(b" ", plain_bytes)
        return plain_bytes.strip(b" ").decode("ascii")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def normalise_all(texts: Sequence[str]) -> list[bytes]:
    """`normalise` of each, as UTF-8; several times as fast where texts are ASCII, which are all folded at once."""
    import numpy as np

    ascii_only = [text for text in texts if text.isascii()]
    mark = 255  # between two texts: no ASCII, and not white space
    joined = chr(mark).join(ascii_only).encode("latin-1").translate(_LOWERED)
    codes = np.frombuffer(joined, dtype=np.uint8)
    blank = codes == ord(" ")
    keep = ~blank
    keep[1:] |= ~blank[:-1]  # of several spaces, the first
    folded = iter(codes[keep].tobytes().split(bytes([mark])))
    return [
        next(folded).strip(b" ") if text.isascii() else normalise(text).encode("utf-8", "surrogatepass")
        for text in texts
    ]


def normalise_text(text: Text) -> Text:
    """`normalise` for a prompt or completion of either kind; roles stay as they are."""
    if isinstance(text, str):
        return normalise(text)
    return [{"role": message["role"], "content": normalise(message["content"])} for message in text]


def plain(text: Text) -> str:
    """The words of a prompt or completion, without roles: what strategies and checks look at."""
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)


def content_hash(*parts: Text | bool) -> str:
    """A short, stable name for some content: 32 hexadecimal digits of its SHA-256.

    A string is hashed as its length and its UTF-8, messages as canonical JSON: no two contents are spelled alike.
    """
    return _hash("".join(map(_spelled, parts)))


def _spelled(part: Text | bool) -> str:
    if isinstance(part, str):
        return f"{len(part)}:{part}"
    return _SPELLED[part] if isinstance(part, bool) else _CANONICAL.encode(part)


def _hash(spelled: str) -> str:
    return hashlib.sha256(spelled.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class RowIds:
    """The `id`s of rows that share a prompt, which is spelled and hashed once for all of them."""

    def __init__(self, prompt: Text) -> None:
        self._begun = hashlib.sha256(_spelled(prompt).encode("utf-8", "surrogatepass"))

    def of(self, completion: Text, label: bool) -> str:
        """What `make_row` calls the row of the prompt with this completion and label."""
        digest = self._begun.copy()
        digest.update(f"{_spelled(completion)}{_SPELLED[label]}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:32]


def parse_row(record: Mapping[str, Any], *, where: str, source: str) -> Row:
    """A row from a record of a file that claims to hold rows.

    Provenance that the record lacks is filled in: `source` as given, origin `feedback`. The ids are computed anew,
    so a row that somebody edited by hand does not keep the name of another.

    Raises:
        RowError: a column is missing or has the wrong type; `label` is checked to be a bool, because "false" and
            2 are true in Python. So is a column that would be lost and changes what the prompt is.
    """
    missing = [name for name in ("prompt", "completion", "label") if name not in record]
    if missing:
        raise RowError(
            f"no column {missing[0]!r} (columns seen: {listed(record)})",
            where=where,
            do=misspelt(record, ("prompt", "completion", "label"))
            or "A row has prompt, completion and label; `ktodata unpair` makes rows of pairs and other layouts",
        )
    if record.get("system"):
        raise RowError("a system prompt in a column of its own", where=where, do="`ktodata unpair` makes a turn of it")
    check_nothing_lost(record, where=where)
    label = parse_label(record["label"], name="label", where=where)
    prompt, completion = _texts(record, where)
    if kind_of(prompt) != kind_of(completion):
        raise RowError(
            f"prompt is {kind_of(prompt)} and completion is {kind_of(completion)}",
            where=where,
            do="Both must be strings, or both lists of messages"
            + ("; text that is wholly a list of messages in JSON is one" if _are_strings(record) else ""),
        )
    if problem := reply_problem(completion):
        raise RowError(problem, where=where, do="A completion is what the assistant says, tools' answers between")
    origin = _scalar(record, "origin", where) or "feedback"
    if origin not in ORIGINS:
        raise RowError(f"origin is {named(origin)}, not one of {', '.join(ORIGINS)}", where=where)
    return make_row(
        prompt,
        completion,
        label,
        source=_scalar(record, "source", where) or source,
        origin=cast(Origin, origin),
        strategy=_scalar(record, "strategy", where),
        parent_id=_scalar(record, "parent_id", where),
    )


def check_nothing_lost(record: Mapping[str, Any], *, where: str) -> None:
    """Raises RowError if a column holds a part of the prompt that a row has no place for. Empty ones are let go."""
    for name in _PART_OF_PROMPTS:
        value = record.get(name)
        if not _is_empty(value):
            raise RowError(
                f"{name} is {named(value)}, a part of the prompt that a row cannot hold",
                where=where,
                do="Leave such records out, or put what matters of it into the prompt and empty the column",
            )


def _is_empty(value: object) -> bool:
    """Whether a value is nothing, or text that spells nothing, in JSON or as Python and pandas print it."""
    if isinstance(value, str):
        if not value.strip() or value.strip() in _PRINTED_NULLS:
            return True
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return not value or value != value  # as NaN, pandas writes null


def is_text(record: Mapping[str, Any]) -> bool:
    """Whether a row's own `id` tells that its prompt and completion are text, though they may look like messages."""
    if "id" not in record or not _are_strings(record) or not isinstance(record.get("label"), bool):
        return False
    return bool(record["id"] == content_hash(record["prompt"], record["completion"], record["label"]))


def _are_strings(record: Mapping[str, Any]) -> bool:
    return all(isinstance(record.get(name), str) for name in ("prompt", "completion"))


def _texts(record: Mapping[str, Any], where: str) -> list[Text]:
    """Prompt and completion. Lists of messages in JSON are read as such, unless the row's `id` tells that all is text.

    Raises:
        RowError: neither a string nor messages, or messages that are cut off or as Python prints them.
    """
    values = {name: record[name] for name in ("prompt", "completion")}
    if any(map(may_be_encoded, values.values())) and not is_text(record):
        values = {name: decoded(value, name=name, where=where) for name, value in values.items()}
    return [parse_text(value, name=name, where=where) for name, value in values.items()]


def parse_label(value: object, *, name: str, where: str) -> bool:
    """A label, which has to be true or false: "false" and 2 are true in Python.

    Raises:
        RowError: it is anything else. The advice holds for csv and JSON alike.
    """
    if isinstance(value, bool):
        return value
    quoted = isinstance(value, str) and value.strip().lower() in ("true", "false")
    raise RowError(
        f"{name} is {named(value)}, not true or false",
        where=where,
        do="Write true for a desirable completion and false for an undesirable one"
        + (", without quotes or spaces around it" if quoted else ""),
    )


def parse_text(value: object, *, name: str, where: str) -> Text:
    """A string or a list of `{role, content}` messages, checked.

    Raises:
        RowError: it is neither, or a role is unknown.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [_message(item, f"{name}[{index}]", where) for index, item in enumerate(value)]
    raise RowError(
        f"{name} is {named(value)}, not a string or a list of messages",
        where=where,
    )


def reply_problem(completion: Text) -> str:
    """What is wrong with the roles of a completion: messages of the assistant, the last one at least; "" if nothing."""
    roles = [] if isinstance(completion, str) else [message["role"] for message in completion]
    wrong = next((place for place, role in enumerate(roles) if role in ASKING), None)
    if wrong is not None:
        return f"completion[{wrong}] is a message of the {roles[wrong]!r}, not of the assistant"
    return f"the completion ends with the {roles[-1]!r}" if roles and roles[-1] != "assistant" else ""


def to_record(row: Row) -> dict[str, Any]:
    """The row as a flat dict in column order, for writers."""
    return {name: getattr(row, name) for name in COLUMNS}


def _message(item: object, name: str, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(f"{name} is {named(item)}, not a message {{role, content}}", where=where)
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        bad = "role" if not isinstance(role, str) else "content"
        raise RowError(f"{name}.{bad} is {named(item.get(bad))}, not a string", where=where)
    if role not in ROLES:
        raise RowError(f"{name}.role is {named(role)}", where=where, do=f"Known: {', '.join(ROLES)}")
    lost = next((key for key in ("tool_calls", "function_call") if item.get(key)), "")
    if lost:
        raise RowError(
            f"{name} has {lost}, which a message of a row cannot hold", where=where, do="Write them as content"
        )
    return {"role": role, "content": content}


def _scalar(record: Mapping[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{name} is {named(value)}, not a string", where=where)
    return value


def named(value: object) -> str:
    """A value in an error: its type, and its beginning."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:39] + '…'}"

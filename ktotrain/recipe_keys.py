"""What a recipe key may hold: its sentence, its check, and the words in which an error names both.

A key's type is its annotation in `recipe_tables`; its sentence and range travel as field metadata. From the two come
the loader's checks, its error messages and the reference in docs/recipe.md, so none of them can say anything else.
"""

from __future__ import annotations

import difflib
import json
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass
from typing import Any, Literal, Union, get_args, get_origin

from ktotrain.redact import HIDDEN, credential_in, is_secret_name, printable

META = "ktotrain"


@dataclass(frozen=True, slots=True)
class Key:
    """The sentence and the check of one key.

    A number must be `least` <= value <= `most` and `above` < value < `below`, where given. A text must be one of
    `choices`, where given, and not empty unless `may_be_empty`; both hold for each element of a list, and the list
    itself follows `may_be_empty` too.
    """

    doc: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False


def key(doc: str, **check: Any) -> Mapping[str, Key]:
    """Field metadata for one key: `field(default=…, metadata=key("What it is.", least=0))`."""
    return {META: Key(doc, **check)}


def key_of(field: Field[Any]) -> Key:
    """The key of a field of one of the recipe's tables."""
    found: Key = field.metadata[META]
    return found


class NotAllowedError(ValueError):
    """A value that a key cannot hold; the message completes the sentence "KEY is VALUE; …"."""


def convert(hint: Any, value: object, rules: Key) -> Any:
    """A value as read from TOML, as the key's Python value: lists become tuples, whole numbers floats where due.

    Raises:
        NotAllowedError: the type or the range is wrong; the message says what is allowed.
    """
    if get_origin(hint) in (Union, types.UnionType):
        return _convert_union(hint, value, rules)
    if get_origin(hint) is Literal:
        return _convert_choice(get_args(hint), value, hint, rules)
    if get_origin(hint) is tuple:
        return _convert_list(hint, value, rules)
    if hint is str and rules.choices:
        return _convert_choice(rules.choices, value, hint, rules)
    if hint is int and isinstance(value, int) and abs(value) >= 2**63:
        raise NotAllowedError("it is too large: TOML's whole numbers have 64 bits")
    if _fits(hint, value, rules):
        return hint(value)
    raise NotAllowedError(f"it must be {describe(hint, rules)}")


def _fits(hint: type, value: object, rules: Key) -> bool:
    """Whether a value will do for a plain type. TOML writes 1 for 1.0, so a float may be whole; true is no number."""
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if isinstance(value, str):
        return hint is str and (value != "" or rules.may_be_empty)
    if isinstance(value, int) or (isinstance(value, float) and hint is float):
        return hint is not str and in_range(value, rules)
    return False


def _convert_union(hint: Any, value: object, rules: Key) -> Any:
    for member in get_args(hint):
        if get_origin(member) is tuple and isinstance(value, str):
            continue  # beside named choices, a lone text is a misspelt one of them, not a list of one
        try:
            return convert(member, value, rules)
        except NotAllowedError:
            continue
    near = difflib.get_close_matches(value, _texts(hint), n=1) if isinstance(value, str) else []
    raise NotAllowedError(f"it must be {describe(hint, rules)}{_did_you_mean(near)}")


def _convert_choice(choices: Iterable[str], value: object, hint: Any, rules: Key) -> str:
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(value, list(choices), n=1) if isinstance(value, str) else []
    raise NotAllowedError(f"it must be {describe(hint, rules)}{_did_you_mean(near)}")


def _convert_list(hint: Any, value: object, rules: Key) -> tuple[Any, ...]:
    members = get_args(hint)
    if isinstance(value, str) and members[0] is str:
        value = [value]  # one name may stand for a list of one
    any_length = members[-1] is Ellipsis
    if not isinstance(value, list | tuple) or not (any_length or len(value) == len(members)):
        raise NotAllowedError(f"it must be {describe(hint, rules)}")
    if any_length and not value and not rules.may_be_empty:
        raise NotAllowedError(f"it must be {describe(hint, rules)}")
    element = Key(rules.doc, rules.least, rules.above, rules.most, rules.below, rules.choices)
    try:
        return tuple(convert(members[0], item, element) for item in value)
    except NotAllowedError as error:
        near = str(error).partition(". Did you mean")
        raise NotAllowedError(f"it must be {describe(hint, rules)}{near[1]}{near[2]}") from None


def in_range(value: float, rules: Key) -> bool:
    """Whether a number is finite as a float, and within a key's range."""
    return (
        abs(value) <= sys.float_info.max  # false for NaN too
        and (rules.least is None or value >= rules.least)
        and (rules.above is None or value > rules.above)
        and (rules.most is None or value <= rules.most)
        and (rules.below is None or value < rules.below)
    )


def describe(hint: Any, rules: Key) -> str:
    """What a key may hold, in words: `a number above 0`, `one of kto, apo_zero_unpaired`."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(describe(member, rules) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return _one_of(get_args(hint))
    if get_origin(hint) is tuple:
        return _describe_list(hint, rules)
    if hint is str:
        if rules.choices:
            return _one_of(rules.choices)
        return "a text" if rules.may_be_empty else "a text that is not empty"
    if hint is bool:
        return "true or false"
    return f"{'a whole number' if hint is int else 'a number'}{_range(rules)}"


def _describe_list(hint: Any, rules: Key) -> str:
    members = get_args(hint)
    if members[-1] is not Ellipsis:
        return f"a list of {len(members)} numbers{_range(rules)}"
    if rules.choices:
        return f"a list of any of {', '.join(rules.choices)}"
    return "a list of texts" if rules.may_be_empty else "a list of texts, at least one"


def _range(rules: Key) -> str:
    bounds = [
        f"{words} {bound if isinstance(bound, int) else format(bound, 'g')}"
        for words, bound in (
            ("of at least", rules.least),
            ("above", rules.above),
            ("of at most", rules.most),
            ("below", rules.below),
        )
        if bound is not None
    ]
    return f" {' and '.join(bounds)}".replace(" and of at", " and at") if bounds else ""


def _one_of(choices: Iterable[str]) -> str:
    quoted = [json.dumps(choice) for choice in choices]
    return quoted[0] if len(quoted) == 1 else f"one of {', '.join(quoted)}"


def _texts(hint: Any) -> list[str]:
    """The texts that some member of a union of types names."""
    return [text for member in get_args(hint) if get_origin(member) is Literal for text in get_args(member)]


def _did_you_mean(near: list[str]) -> str:
    return f". Did you mean {json.dumps(near[0])}?" if near else ""


def show(value: object, width: int = 60) -> str:
    """A value as a TOML author would write it, without credentials, cut to a line's length."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = _plain(value)
    text = printable(text, longest=10**9)
    return text if len(text) <= width else text[: width - 1] + "…"


def _plain(value: object) -> str:
    """What JSON has no words for: TOML's dates and times, endless numbers, nesting without end."""
    try:
        return str(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too long to be shown"


def show_override(override: str, width: int = 120) -> str:
    """An argument of --set as errors show it: what a key called like a secret holds is hidden."""
    name, equals, _ = override.partition("=")
    text = printable(f"{name}{equals}{HIDDEN}" if equals and is_secret_name(name) else override, longest=10**9)
    return text if len(text) <= width else text[: width - 1] + "…"


def refuse_unfit(value: object) -> None:
    """Refuse a text, or a list with one, that holds a password or token, or that no file could hold.

    Raises:
        NotAllowedError: it does.
    """
    for text in value if isinstance(value, tuple | list) else (value,):
        if not isinstance(text, str):
            continue
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise NotAllowedError("it must be Unicode text without null characters")
        if credential_in(text):
            raise NotAllowedError(
                "it holds a password or token, which recipe.json and the model card would publish. Leave it out: "
                "`hf auth login`, or HF_TOKEN in the environment, serve for private repositories"
            )

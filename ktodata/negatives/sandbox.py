"""Users' own templates for `contextual`: Jinja, with nothing in it that could run, loop, or grow.

A template of a user's may come from anywhere, and it runs once a row. So on top of Jinja's sandbox only a few kinds of
expression are let in: slots, `if`, comparisons, joining with `~`, and filters named here. There are no loops, calls,
arithmetic, attributes or assignments; what is left cannot write more than a few times its own length and that of its
slots, and takes no time to speak of. That is checked when the file is read, before anything is compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Collection, Mapping
from typing import Any

from ktodata.errors import KtodataError, UsageError, nearest, nearest_of
from ktodata.io.paths import local_path
from ktodata.negatives.language import check_code

LONGEST = 20_000  # characters of a template, and of what it may write
_SEE = "docs/templates.md says what a template may hold"
FILTERS = ("capitalize", "default", "first", "join", "last", "length", "lower", "title", "trim", "truncate", "upper")
# Braces left in the text: single ones of somebody who knows packs, or `raw`.
_OPEN = re.compile(r"\{\{.*?\}\}|\{\s*\w+\s*\}")
_TESTS = ("defined", "undefined", "equalto", "in", "eq", "ne")


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A template as it was written, and its place for errors: `FILE: [it] templates, text 3`."""

    text: str
    where: str


def read_templates(path: str, slots: Collection[str]) -> dict[str, tuple[Source, ...]]:
    """A user's templates by language.

    Raises:
        UsageError: the file cannot be read, or a template is not right or not allowed: file, template, what to do.
    """
    try:
        table = tomllib.loads(local_path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", do="Name a TOML file of templates") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no TOML file in UTF-8: {error}", do=_SEE) from None
    found = {}
    for code, entry in table.items():
        texts = entry.get("templates") if isinstance(entry, dict) else None
        if not isinstance(texts, list) or not texts or len(entry) > 1:
            raise UsageError(f"{path}: [{code}] has to hold `templates`, and nothing else", do=_SEE)
        check_code(code, name=path)
        sources = []
        for index, text in enumerate(texts, 1):
            where = f"{path}: [{code}] templates, text {index}"
            if not isinstance(text, str) or not text.strip():
                raise UsageError(f"{where}: {text!r} is no text", do='Write it as "…"')
            source = Source(text, where)
            check(source, slots)
            sources.append(source)
        found[code] = tuple(sources)
    if not found:
        raise UsageError(f"{path} has no language", do=f"Write a table such as [en] with `templates`. {_SEE}")
    return found


def check(source: Source, slots: Collection[str]) -> None:
    """Whether a template holds nothing but what is allowed, and names slots that there are.

    Raises:
        UsageError: it does not.
    """
    from jinja2 import TemplateSyntaxError, nodes

    shown = source.text if len(source.text) <= 80 else source.text[:79] + "…"
    if len(source.text) > LONGEST:
        raise UsageError(f"{source.where} has {len(source.text)} characters", do=f"At most {LONGEST} are allowed")
    try:
        tree = _environment().parse(source.text)
    except TemplateSyntaxError as error:
        raise UsageError(f"{source.where}: {shown!r} is no template: {error.message}", do=_SEE) from None
    except RecursionError:
        raise UsageError(f"{source.where} is nested too deeply", do=_SEE) from None
    allowed = _allowed()
    for node in tree.find_all(nodes.Node):
        name = getattr(node, "name", "")
        if isinstance(node, nodes.Filter) and name not in FILTERS:
            raise UsageError(f"{source.where}: no filter {name!r}", do=nearest(name, FILTERS))
        if isinstance(node, nodes.Test) and name not in _TESTS:
            raise UsageError(f"{source.where}: no test {name!r}", do=nearest(name, _TESTS))
        if isinstance(node, nodes.Name) and name not in slots:
            raise UsageError(f"{source.where}: no slot {name!r}", do=nearest_of(name, slots))
        if isinstance(node, nodes.TemplateData) and (open_slot := _OPEN.search(node.data)):
            raise UsageError(
                f"{source.where}: {open_slot.group()!r} would be written as it is",
                do="Slots have two braces: {{ topic }}",
            )
        if not isinstance(node, allowed):
            kind = type(node).__name__.lower()
            raise UsageError(
                f"{source.where}: {shown!r} holds what templates may not ({kind})",
                do=f"No loops, calls, arithmetic, attributes or assignments. {_SEE}",
            )
    _try(source, slots)


def _try(source: Source, slots: Collection[str]) -> None:
    """Whether it can be rendered when all slots are filled, so that a filter's complaint comes before any work."""
    values: dict[str, Any] = {name: name for name in slots}
    values["keywords"] = ["some", "keywords"]
    try:
        render(source, values)
    except KtodataError as error:
        raise UsageError(error.what, do=error.do) from None


def render(source: Source, slots: Mapping[str, Any]) -> str | None:
    """What the template writes, in one line; None if it asks for a slot that is not filled, or writes nothing.

    Raises:
        KtodataError: it fails for another reason: names file and template.
    """
    from jinja2 import UndefinedError

    try:
        text = " ".join(_template(source.text).render(slots).split())
    except UndefinedError:
        return None
    except _UnfitError as error:
        raise KtodataError(f"{source.where}: {error}", do=_SEE) from None
    except Exception:  # noqa: BLE001 - whatever a filter may raise on what it is given
        # Python's own words say nothing about the template.
        raise KtodataError(
            f"{source.where}: a filter or comparison is given what it cannot take",
            do=f"`join` is for keywords, the others for texts; compare texts with texts. {_SEE}",
        ) from None
    if len(text) > LONGEST:
        raise KtodataError(f"{source.where} writes {len(text)} characters", do=f"At most {LONGEST} are allowed")
    return text or None


class _UnfitError(Exception):
    """What a filter cannot take, in words for the user."""


@functools.cache
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    environment.filters = {name: environment.filters[name] for name in FILTERS} | {"join": _join}
    environment.tests = {name: environment.tests[name] for name in _TESTS}
    environment.globals = {}
    return environment


@functools.cache
def _allowed() -> tuple[type, ...]:
    from jinja2 import nodes

    return (
        *(nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.If, nodes.CondExpr, nodes.Filter),
        *(nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Concat, nodes.Keyword),
        *(nodes.Template,),
    )


@functools.lru_cache(maxsize=4096)
def _template(text: str) -> Any:
    return _environment().from_string(text)


def _join(value: Any, between: str = "") -> str:
    # Jinja's joins the characters of a string too, which squares its length.
    if not isinstance(value, list | tuple):
        raise _UnfitError("join is for lists, such as keywords")
    return str(between).join(map(str, value))

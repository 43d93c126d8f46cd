"""OpenAssistant's trees, flat (a message a record) and nested (a tree a record).

People ranked the replies to one message. Of the replies that are left (ranked, not deleted, not empty, of the wanted
language) the best is desirable and the worst undesirable; what is between them is ambiguous and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ktodata.errors import RowError
from ktodata.schema import Message, named
from ktodata.sources.contract import Example, Piece, Record, Skip, Source, flag, optional_number, string
from ktodata.sources.messages import reply_of
from ktodata.sources.transcript import asks_nothing

CIRCLE = "messages in a circle"
ROLES = {"prompter": "user", "assistant": "assistant"}


class Node(NamedTuple):
    """A message of a tree. `parent` is "" for the first; `rank` is None where nobody ranked it, and 0 is the best."""

    id: str
    parent: str
    text: str
    role: str
    rank: float | None
    lang: str
    deleted: bool


def read_flat(record: Record, where: str) -> Iterator[Piece | Skip]:
    """One message. The others of its tree have the same `message_tree_id`. A prompt that is its own parent counts as a
    completion that cannot be used."""
    parent = record.get("parent_id")
    if parent is not None and not isinstance(parent, str):
        raise RowError(f"parent_id is {named(parent)}, not a string or null", where=where)
    tree = record.get("message_tree_id")
    node = _node(record, string(record, "message_id", where), parent, where)
    if node.role != "assistant" and node.parent == node.id:
        yield Skip(CIRCLE)  # no reply, of which `join` gives account
    yield Piece("" if tree is None else str(tree), node)


def read_tree(record: Record, where: str, *, lang: str = "") -> Iterator[Example | Skip]:
    """A whole tree: `prompt` is its first message, and each message has its `replies`."""
    return (found for _, found in join(_flattened(record.get("prompt"), where), lang=lang))


def _flattened(root: object, where: str) -> list[Node]:
    """The messages of a tree, each named by its place in the list, since a nested export may leave ids out."""
    nodes: list[Node] = []
    waiting: list[tuple[object, str | None, str]] = [(root, None, "prompt")]
    while waiting:
        message, parent, name = waiting.pop()
        if not isinstance(message, dict):
            raise RowError(f"{name} is {named(message)}, not a message with text and replies", where=where)
        replies = message.get("replies") or []
        if not isinstance(replies, list):
            raise RowError(f"{name}.replies is {named(replies)}, not a list", where=where)
        own = str(len(nodes))
        nodes.append(_node(message, own, parent, where))
        waiting += [(reply, own, f"{name}.replies[{place}]") for place, reply in reversed(list(enumerate(replies)))]
    return nodes


def _node(message: Record, name: str, parent: str | None, where: str) -> Node:
    role, lang = string(message, "role", where), message.get("lang")
    if role not in ROLES:
        raise RowError(f"role is {role!r}, not {' or '.join(ROLES)}", where=where)
    rank = optional_number(message, "rank", where) if "rank" in message else None
    if rank is not None and (rank < 0 or rank != int(rank)):
        raise RowError(f"rank is {named(message['rank'])}, not a whole number from 0", where=where)
    deleted = message.get("deleted")
    return Node(
        name,
        parent or "",
        string(message, "text", where),
        ROLES[role],
        rank,
        str(lang or ""),
        deleted is not None and deleted == deleted and flag(message, "deleted", where),  # pandas writes null as NaN
    )


def join(nodes: Sequence[Node], *, lang: str = "") -> Iterator[tuple[int, Example | Skip]]:
    """The replies of one tree, labelled. `lang` keeps those of one language; en takes en-GB too."""
    place = {node.id: index for index, node in enumerate(nodes)}
    families: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        if node.role == "assistant":
            families.setdefault(node.parent, []).append(index)
    for parent, family in families.items():
        prompt, problem = _path(nodes, place, parent)
        reasons = {index: problem or _unusable(nodes[index], lang) for index in family}
        ranks = {index: nodes[index].rank for index in family if not reasons[index]}
        best, worst = min(ranks.values(), default=0), max(ranks.values(), default=0)  # type: ignore[type-var]
        for index in family:
            reason, rank = reasons[index], ranks.get(index)
            if not reason and best == worst:
                reason = "tie" if len(ranks) > 1 else "no other reply to compare with"
            elif not reason and rank not in (best, worst):
                reason = "middle rank"
            if reason:
                yield index, Skip(reason)
            else:
                yield index, Example(prompt, reply_of(nodes[index].text), rank == best)


def _unusable(node: Node, lang: str) -> str:
    if node.deleted:
        return "deleted"
    if lang and node.lang.lower() != lang.lower() and not node.lang.lower().startswith(f"{lang.lower()}-"):
        return "another language"
    if not node.text.strip():
        return "empty completion"
    return "not ranked" if node.rank is None else ""


def _path(nodes: Sequence[Node], place: dict[str, int], name: str) -> tuple[list[Message], str]:
    """The turns from the first message to the one of this name, and why they make no prompt, "" if they do."""
    turns: list[Message] = []
    seen: set[str] = set()
    if not name:
        return turns, "no prompt"
    while name:
        if name not in place or name in seen:
            return [], "a message above it is missing" if name not in place else CIRCLE
        seen.add(name)
        node = nodes[place[name]]
        if node.deleted:
            return [], "below a deleted message"
        turns.append({"role": node.role, "content": node.text})
        name = node.parent
    return turns[::-1], "no prompt" if asks_nothing(turns) else ""


def _is_message(record: Record) -> bool:
    """Whether it is one of a tree, as other chats have such columns too."""
    return "parent_id" in record or "message_tree_id" in record or record["role"] in tuple(ROLES)


def _is_tree(record: Record) -> bool:
    root: Any = record["prompt"]
    return isinstance(root, dict) and "text" in root and "replies" in root


OASST = Source(
    name="oasst",
    about="OpenAssistant's messages, one a record: of the ranked replies to one, the best and the worst",
    # A tree's first message may come without the key of its parent.
    columns=(
        ("message_id", "parent_id", "text", "role"),
        ("message_id", "message_tree_id", "text", "role"),
        ("message_id", "text", "role"),
    ),
    detect=_is_message,
    read=read_flat,
    join=join,
    unit="messages",
    completions=1,
    origin="rated",
    kind="chat",
    hub_id="OpenAssistant/oasst1",
    licence="Apache-2.0",
    kin=("OpenAssistant/oasst2",),
)
OASST_TREES = Source(
    name="oasst-trees",
    about="OpenAssistant's export of whole trees: prompt with text and replies, and theirs",
    columns=(("message_tree_id", "prompt"), ("prompt",)),
    read=read_tree,
    detect=_is_tree,
    unit="trees",
    completions=1,
    origin="rated",
    kind="chat",
    licence="Apache-2.0",
)

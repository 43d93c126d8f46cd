"""What each strategy does to one row: for `ktodata strategies`, and for `ktodata negatives --try`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ktodata.negatives.choose import Use, use
from ktodata.negatives.contract import Strategy
from ktodata.negatives.synthesize import synthesize
from ktodata.schema import Kind, Row, make_row, plain

# Each strategy is shown on the first; `contaminate` lends from the others.
EXAMPLES = (
    (
        "hey, are you coming to the garden party on saturday?",
        "yeah sure, gonna be there around 8 lol 😊 should I bring drinks?",
    ),
    ("my laptop won't start, any ideas?", "ugh, hold the power button for ten secs, then plug it in and try again!"),
    ("what should i cook tonight?", "make a big pot of chili, it's super easy and you'll have leftovers"),
    ("did you finish the book i lent you?", "almost!! two chapters left and I still can't guess who did it"),
    ("how was the museum with the kids?", "so good, they loved the dinosaurs and cried when we had to leave haha"),
)
# And to rows in other languages that have no file beside them.
_LENDERS = (
    ("che fai stasera?", "boh, forse un giro in bici se non piove, poi divano 😅"),
    ("hai sentito marta?", "sì!! parte lunedì per lisbona e le serve una valigia più grande"),
    ("¿qué tal el examen?", "uf, fatal, me quedé en blanco con la segunda pregunta jaja"),
    ("¿dónde compraste esa lámpara?", "en el mercadillo del puerto, me la dejaron por cinco euros!"),
    ("tu fais quoi ce week-end ?", "j'aide mon frère à repeindre sa cuisine, il a choisi du jaune mdr"),
    ("il est bien ce vélo ?", "ouais trop bien, mais les freins grincent dès qu'il pleut"),
    ("wie war das konzert?", "mega, aber wir standen ganz hinten und haben nur hüte gesehen haha"),
    ("hast du den schlüssel?", "nee, der liegt noch bei oma auf dem kühlschrank, ich hol ihn später"),
)
EXAMPLES_NAME = "the built-in examples"


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """A strategy's negatives of one row, and its reasons where it made none.

    `pool` says whose replies it draws from, where it does.
    """

    name: str
    replies: list[str]
    skipped: list[str]
    pool: str = ""


def example_rows() -> list[Row]:
    """The rows that strategies are shown on, the first of all."""
    return [make_row(prompt, reply, True, source="examples", origin="feedback") for prompt, reply in EXAMPLES]


def row_of(prompt: str, reply: str, kind: Kind = "text") -> Row:
    """A desirable row as `--try` gives it; of a chat, with one message on either side."""
    if kind == "text":
        return make_row(prompt, reply, True, source="--try", origin="feedback")
    asked, said = [{"role": "user", "content": prompt}], [{"role": "assistant", "content": reply}]
    return make_row(asked, said, True, source="--try", origin="feedback")  # type: ignore[arg-type]  # plain dicts


def shown(
    row: Row, uses: Sequence[Use], *, others: Sequence[Row] = (), source: str = "", per_row: int = 1, seed: int = 0
) -> list[Shown]:
    """What each of the `uses` makes of one row. `others` are the rest of its file, `source`; without them, a strategy
    that needs others draws from the built-in examples.

    Raises:
        KtodataError: a strategy cannot work with its options.
    """
    found = []
    for one in uses:
        alone = dataclasses.replace(one, weight=None)
        pool = str(one.options.get("pool") or source or EXAMPLES_NAME) if one.strategy.whole else ""
        beside = _lenders() if pool == EXAMPLES_NAME and not others else others
        done = synthesize([row, *beside], [alone], per_row=per_row, seed=seed, only_of={row.id})
        replies = [_reply(made) for made in done.negatives]
        name = one.strategy.name
        found.append(Shown(name, replies, [reason.removeprefix(f"{name}: ") for reason in done.skipped], pool))
        done.finish()
    return found


def _lenders() -> list[Row]:
    # Without the first: who tries something tries what it answers.
    pairs = (*EXAMPLES[1:], *_LENDERS)
    return [make_row(prompt, reply, True, source="examples", origin="feedback") for prompt, reply in pairs]


def _reply(row: Row) -> str:
    return row.completion if isinstance(row.completion, str) else plain(row.completion[-1:])


def example_of(strategy: Strategy) -> str:
    """What a strategy makes of the first example at its defaults; where it needs something, what it once made."""
    if strategy.needs:
        return strategy.example
    row, *others = example_rows()
    (made,) = shown(row, [use(strategy.name, known={strategy.name: strategy})], others=others)
    return made.replies[0] if made.replies else ""

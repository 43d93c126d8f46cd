"""`ktodata label`."""

from __future__ import annotations

import re
from typing import Any

import click

from ktodata import cli_common as common
from ktodata.chats import voice
from ktodata.chats.export import chat_records, is_chat
from ktodata.chats.tables import Fields
from ktodata.clean import ON_CONFLICT
from ktodata.commands.written import check_files, set_aside, summarise, write_stream
from ktodata.errors import UsageError
from ktodata.expressions import FUNCTIONS, Expression
from ktodata.io import room_beside
from ktodata.label import ON_BOTH, Edits, Judge, OnBoth, Outcomes, Texts, Thumbs, outcome_records
from ktodata.unpair import stream_records

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LANGUAGE = "\n".join(
    [
        "\b",
        "Conditions are made of",
        "  columns         outcome, meta.rating, `user-rating`",
        "  values          'sale' 3 4.5 true null",
        "  comparisons     == != < <= > >=, in, not in, is null, is not null",
        "  logic           and or not ( )",
        "  arithmetic      + - * / // %",
        *(f"  {f'{name}(…)':<16}{function.about}" for name, function in FUNCTIONS.items()),
        "Functions can follow a value too: reply.lower().contains('thanks'). A comparison with null does not hold.",
        "",
        common.example(
            """ktodata label log.csv -o rows.parquet --desirable "outcome == 'sale'" """
            """--undesirable "outcome == 'none' and turns > 3" """.rstrip(),
            "ktodata label log.jsonl -o rows.parquet --thumbs feedback --messages conversation",
            "ktodata label drafts.csv -o rows.parquet --original draft --edited sent --prompt request",
            "ktodata label result.json -o rows.parquet --speaker Anna",
        ),
    ]
)


@click.command(cls=common.Command, epilog=LANGUAGE)
@common.source_argument
@common.output_option
@click.option("--desirable", metavar="EXPR", help="A condition: where it holds, the completion is desirable.")
@click.option("--undesirable", metavar="EXPR", help="A condition: where it holds, the completion is undesirable.")
@click.option(
    "--on-both",
    type=click.Choice(ON_BOTH),
    default="error",
    show_default=True,
    help="What to do with a record that both hold for: stop, or skip and count it.",
)
@click.option("--thumbs", metavar="COL", help="A column of thumbs: up, 👍, like, 1, true and such, or their opposites.")
@click.option("--original", metavar="COL", help="The reply as it was made: undesirable where its user edited it.")
@click.option("--edited", metavar="COL", help="The reply as its user edited it: desirable.")
@click.option("--prompt", default="", metavar="COL", help="The prompt, text or messages. Left out: by its usual names.")
@click.option("--completion", default="", metavar="COL", help="The completion. Left out: by its usual names.")
@click.option("--messages", default="", metavar="COL", help="Whole conversations; the last turn is the completion.")
@click.option(
    "--speaker", multiple=True, metavar="NAME", help="Of a chat export: whose replies to take, all desirable."
)
@click.option(
    "--context", default=voice.CONTEXT, show_default=True, type=click.IntRange(min=1), metavar="N",
    help="Turns before a reply of a chat that are its prompt, at most.",
)  # fmt: skip
@click.option(
    "--gap", default="6h", show_default=True, metavar="TIME", help="A pause that ends a conversation: 30m, 2d."
)
@click.option("--author", default="", metavar="COL", help="Of a file with a message a record: who said it.")
@click.option("--time", default="", metavar="COL", help="… when: ISO, a date, or seconds since 1970.")
@click.option("--text", default="", metavar="COL", help="… what.")
@click.option("--chat", default="", metavar="COL", help="… and in which chat, if there are several.")
@click.option("--split", default="", metavar="NAME", help="Which split of a folder or Hub dataset; train if left out.")
@click.option("--one-per-prompt", is_flag=True, help="Keep one completion of each prompt.")
@click.option(
    "--on-conflict",
    type=click.Choice(ON_CONFLICT),
    default="drop",
    show_default=True,
    help="What to do with a completion that carries both labels for one prompt, as with `ktodata unpair`.",
)
@click.option("--as", "as_kind", type=click.Choice(["text", "chat"]), help="The kind of rows. Left out: SOURCE's own.")
@common.limit_option
@common.seed_option
@common.workers_option
@common.engine_option
@common.quarantine_option
def label(
    source: str | None,
    output: str | None,
    desirable: str | None,
    undesirable: str | None,
    on_both: OnBoth,
    thumbs: str | None,
    original: str | None,
    edited: str | None,
    prompt: str,
    completion: str,
    messages: str,
    speaker: tuple[str, ...],
    context: int,
    gap: str,
    author: str,
    time: str,
    text: str,
    chat: str,
    split: str,
    limit: int | None,
    quarantine: str | None,
    **rest: Any,
) -> None:
    """Turn logged outcomes into rows of prompt, completion and label.

    What decides is a condition on the columns for each label (--desirable, --undesirable), a column of thumbs
    (--thumbs), or what users made of a reply (--original, --edited). Of a chat (Telegram's result.json, WhatsApp's
    .txt, or any file with author, time and text) it takes the replies of one speaker, with the turns before as their
    prompts, and calls them desirable; `ktodata negatives` makes the other half.

    Records for which no condition holds are counted, like everything else that is not written.
    """
    source = common.resolve_source(source)
    fields = Fields(author, time, text, chat)
    chatting = bool(speaker) or any(fields) or is_chat(source)
    judge = _judge(desirable, undesirable, on_both, thumbs, original, edited, chatting)
    speaking = voice.voice_of(speaker, context=context, gap=_seconds(gap))
    _refuse_idle(judge)
    output = common.resolve_output(output, source)
    check_files(source, output, quarantine)
    with set_aside(quarantine) as (files, refused):
        if judge is None:
            layout, raws = chat_records(source, speaking, fields=fields, limit=limit, strict=refused is None)
        else:
            texts = Texts(prompt, completion, messages)
            layout, raws = outcome_records(source, judge, texts=texts, split=split, limit=limit, strict=refused is None)
        with (
            common.progress("labelling", limit) as advance,
            stream_records(
                layout, raws, quarantine=refused, folder=room_beside(output), advance=advance, **rest
            ) as found,
        ):
            write_stream(found, source, output, files)
    summarise(found.account, output, quarantine, advice="; `ktodata negatives` makes some")
    if layout.about:
        common.say(f"note: {layout.about}")


def _refuse_idle(judge: Judge | None) -> None:
    """Raises UsageError for options of another way than the one chosen, which would do nothing."""
    if judge is None:
        common.refuse_given(["prompt", "completion", "messages", "on_both", "split"], "on a chat")
        return
    common.refuse_given(["context", "gap"], "on what is no chat", do="Leave it out, or name a --speaker")
    if not isinstance(judge, Outcomes):
        common.refuse_given(["on_both"], "without conditions")
    if isinstance(judge, Edits):
        common.refuse_given(["completion"], "on edits", do="--original and --edited are the completions")


def _judge(
    desirable: str | None,
    undesirable: str | None,
    on_both: OnBoth,
    thumbs: str | None,
    original: str | None,
    edited: str | None,
    chatting: bool,
) -> Judge | None:
    """What decides about the labels; None for a chat. Raises UsageError if it is nothing, or two things."""
    given = {
        "conditions": desirable is not None or undesirable is not None,
        "--thumbs": thumbs is not None,
        "--original and --edited": original is not None or edited is not None,
        "a chat": chatting,
    }
    ways = [name for name, there in given.items() if there]
    if not ways:
        raise UsageError("nothing says what is desirable", do="Name --desirable and --undesirable; see --help for more")
    if len(ways) > 1:
        raise UsageError(f"{' and '.join(ways)} do not go together", do="Choose one way of telling what is desirable")
    if chatting:
        return None
    if thumbs is not None:
        return Thumbs(thumbs)
    if original is not None or edited is not None:
        if original is None or edited is None:
            raise UsageError("--original and --edited need each other", do="Name both columns")
        return Edits(original, edited)
    conditions = (("--desirable", desirable), ("--undesirable", undesirable))
    good, bad = (Expression(text, name) if text is not None else None for name, text in conditions)
    return Outcomes(good, bad, on_both)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
    if match is None:
        raise UsageError(f"--gap is {text!r}", do="Write a number and s, m, h or d, such as 30m or 6h")
    return float(match[1]) * _UNITS[match[2]]

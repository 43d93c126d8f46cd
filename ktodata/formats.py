"""The formats of other trainers: a row as each of them has it, and what to tell it of the file.

Formats as of TRL 1.16; Axolotl's `user_defined`, `prompt_pairs` and `argilla_chat` of its KTO strategies (the last for
several turns since July 2026); LLaMA-Factory 0.9 `sharegpt` with `kto_tag`; HALOs' `binary_feedback`. Which columns
these read was looked up in their source, and they were not run: axolotl-ai-cloud/axolotl
`src/axolotl/prompt_strategies/kto/{chatml,llama3,user_defined}.py` (at 2320973, 21bac7c, 22ae21a), ContextualAI/HALOs
`train/dataloader.py: get_feedback` (at 059a9ee).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from ktodata.errors import UsageError, nearest
from ktodata.io import STDOUT
from ktodata.schema import Kind, Message, Row, Text, content_hash
from ktodata.sources.halos import BINARY

Made = dict[str, Any] | str
"""A record, or the reason why there is none."""


@dataclasses.dataclass(frozen=True)
class Format:
    """What a trainer reads.

    Attributes:
        name: for --to.
        about: the trainer, and its name for the format.
        kind: the kind of rows it takes; None: either.
        make: a row to a record of its own columns, or the reason why it cannot hold it.
        columns: these columns and their types, by the rows' kind: `text`, `turns`, `bool`, `int`, `float`.
        reader: the name of the preset that reads it back, by the rows' kind.
        suffixes: of the files that the trainer reads, `.gz` and all.
        snippet: what to put into its configuration, for a file and kind.
        any_case: whether the trainer knows these suffixes in capitals too.
        groups_by: what the trainer tells prompts apart by, where it is less than the whole prompt.
    """

    name: str
    about: str
    kind: Kind | None
    make: Callable[[Row], Made]
    columns: Callable[[Kind], dict[str, str]]
    reader: Callable[[Kind], str]
    suffixes: tuple[str, ...]
    snippet: Callable[[str, Kind], str]
    any_case: bool = True
    groups_by: Callable[[Text], str] | None = None

    def check_output(self, output: str) -> None:
        """Refuse a file that the trainer does not read.

        Args:
            output: one that `ktodata.io.check_output` passes; `-` is JSON lines.

        Raises:
            UsageError: it is one.
        """
        reads = f"It reads {', '.join(self.suffixes)}"
        if output == STDOUT:
            if ".jsonl" not in self.suffixes:
                raise UsageError(f"{self.name} reads no JSON lines, which stdout gets", do=f"{reads}: name one with -o")
        # A name that ends in .jsonl.gz ends in no other suffix of the list.
        elif not (output.lower() if self.any_case else output).endswith(self.suffixes):
            small = " (in small letters)" if output.lower().endswith(self.suffixes) else ""
            raise UsageError(f"{self.name} reads no such file as {output}", do=f"{reads}{small}")


def get_format(name: str) -> Format:
    """The format of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}", do=nearest(name, FORMATS))
    return FORMATS[name]


def _trl(row: Row) -> Made:
    return {"prompt": row.prompt, "completion": row.completion, "label": row.label}


def _axolotl(row: Row) -> Made:
    if isinstance(row.prompt, str):
        return _trl(row)
    system, turns = _without_system(_turns(row.prompt))
    if len(turns) != 1 or len(row.completion) != 1:
        return "several turns"
    if _roles(turns) != ["user"] or _roles(row.completion) != ["assistant"]:
        return "roles that have no place there"
    content = {"prompt": turns[0]["content"], "completion": _last(row.completion)["content"], "label": row.label}
    return {"system": system, **content}


def _axolotl_chat(row: Row) -> Made:
    prompt, completion = _turns(row.prompt), _turns(row.completion)
    if len(completion) != 1 or _roles(completion) != ["assistant"]:
        return "a completion of several turns"
    users = [turn["content"] for turn in prompt if turn["role"] == "user"]
    if not users:
        return "no user turn"
    return {"prompt": users[-1], "completion": [*prompt, *completion], "label": row.label}


def _llama_factory(row: Row) -> Made:
    prompt, completion = _turns(row.prompt), _turns(row.completion)
    if len(completion) != 1:
        return "a completion of several turns"
    _, turns = _without_system(prompt)
    # Its converter drops anything else, with no more than a warning.
    if _roles([*turns, *completion]) != ["user", "assistant"] * ((len(turns) + 1) // 2) or len(turns) % 2 == 0:
        return "turns that do not alternate"
    return {"messages": [*prompt, *completion], "label": row.label}


def _halos(row: Row) -> Made:
    return {
        # An id stands for one prompt there: it is that of the exact text, not our prompt_id, which two may share.
        "prompt_id": content_hash(row.prompt),
        "prompt": row.prompt,
        "output": row.completion,
        "label": int(row.label),
        "reward": float(row.label),
        "type": BINARY,
    }


def _halos_group(prompt: Text) -> str:
    """What its `get_feedback` puts outputs together by: the roles, and where a turn ends, are not in it."""
    return " ".join(turn["content"] for turn in _turns(prompt))


def _turns(text: Text) -> Sequence[Message]:
    assert not isinstance(text, str), "rows were made chat for this format"
    return text


def _without_system(turns: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    if turns and turns[0]["role"] == "system":
        return turns[0]["content"], turns[1:]
    return "", turns


def _roles(turns: Text | Sequence[Message]) -> list[str]:
    return [turn["role"] for turn in turns if not isinstance(turn, str)]


def _last(turns: Text) -> Message:
    return _turns(turns)[-1]


def _stem(path: str) -> str:
    name = PurePath(path).name
    return name.partition(".")[0] or "data"


def _file_type(path: str) -> str:
    return "parquet" if path.lower().endswith(".parquet") else "json"


def _trl_snippet(path: str, kind: Kind) -> str:
    return (
        "from datasets import load_dataset\n"
        f'train_dataset = load_dataset("{_file_type(path)}", data_files="{path}", split="train")\n'
        "trainer = KTOTrainer(model=model, args=args, processing_class=tokenizer, train_dataset=train_dataset)"
    )


def _axolotl_snippet(path: str, kind: Kind) -> str:
    head = f"rl: kto\nremove_unused_columns: false\ndatasets:\n  - path: {path}\n    ds_type: {_file_type(path)}\n"
    if kind == "chat":
        return f"{head}    type: chatml.prompt_pairs  # or llama3.prompt_pairs: the template of your model"
    return (
        f"{head}    # Where Axolotl stops at this type (its issue 2757), leave it out: the columns are TRL's already.\n"
        "    type:\n      field_prompt: prompt\n      field_completion: completion\n      field_label: label\n"
        '      prompt_format: "{prompt}"'
    )


def _axolotl_chat_snippet(path: str, kind: Kind) -> str:
    return (
        f"rl: kto\nremove_unused_columns: false\ndatasets:\n  - path: {path}\n    ds_type: {_file_type(path)}\n"
        "    type: chatml.argilla_chat  # or llama3.argilla_chat; before July 2026 these read the first turn only"
    )


def _llama_factory_snippet(path: str, kind: Kind) -> str:
    import json

    entry = {
        "file_name": PurePath(path).name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "kto_tag": "label"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    return f'"{_stem(path)}": {json.dumps(entry, indent=2)}'


def _halos_snippet(path: str, kind: Kind) -> str:
    # Its oldest versions call them datasets=, and know no files.
    return f"accelerate launch launch.py loss=kto train_datasets=[{path}] …"


_TEXT = {"prompt": "text", "completion": "text", "label": "bool"}
_CHAT = {"prompt": "turns", "completion": "turns", "label": "bool"}
_LOADED = (".jsonl", ".jsonl.gz", ".json", ".parquet")  # by `datasets`, which is told the type
_ALL = (
    Format(
        "trl",
        "TRL's unpaired preferences: prompt, completion, label",
        None,
        _trl,
        lambda kind: _TEXT if kind == "text" else _CHAT,
        lambda kind: "rows",
        _LOADED,
        _trl_snippet,
    ),
    Format(
        "axolotl",
        "Axolotl's user_defined (text) and prompt_pairs (chats of one turn): system, prompt, completion, label",
        None,
        _axolotl,
        lambda kind: _TEXT if kind == "text" else {"system": "text", **_TEXT},
        lambda kind: "rows" if kind == "text" else "axolotl-kto",
        _LOADED,
        _axolotl_snippet,
    ),
    Format(
        "axolotl-chat",
        "Axolotl's argilla_chat, for chats of any number of turns: prompt, completion with the whole chat, label",
        "chat",
        _axolotl_chat,
        lambda kind: {"prompt": "text", "completion": "turns", "label": "bool"},
        lambda kind: "kto-mix",
        _LOADED,
        _axolotl_chat_snippet,
    ),
    Format(
        "llama-factory",
        "LLaMA-Factory's sharegpt with kto_tag: messages, label",
        "chat",
        _llama_factory,
        lambda kind: {"messages": "turns", "label": "bool"},
        lambda kind: "llama-factory-kto",
        (".json", ".jsonl", ".parquet"),
        _llama_factory_snippet,
        any_case=False,  # its loader goes by the last suffix, as it stands
    ),
    Format(
        "halos",
        "HALOs' binary_feedback, one JSON array: prompt_id, prompt, output, label, reward, type",
        "chat",
        _halos,
        lambda kind: {
            "prompt_id": "text",
            "prompt": "turns",
            "output": "turns",
            "label": "int",
            "reward": "float",
            "type": "text",
        },
        lambda kind: "halos-kto",
        (".json",),
        _halos_snippet,
        groups_by=_halos_group,
    ),
)
FORMATS: dict[str, Format] = {form.name: form for form in _ALL}

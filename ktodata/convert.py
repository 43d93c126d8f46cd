"""Rows in the formats of other trainers, and back.

Back is `unpair`, which knows these formats by their columns. What a format cannot hold is not written and counted by
reason; what is written reads back as the same prompt, completion and label, which is checked of every row. Provenance
goes along in columns of its own, which all of these trainers pass over, unless only theirs are wanted.

Formats as of TRL 1.16; Axolotl's `user_defined`, `prompt_pairs` and `argilla_chat` of its KTO strategies (the last for
several turns since July 2026); LLaMA-Factory 0.9 `sharegpt` with `kto_tag`; HALOs' `binary_feedback`. Which columns
these read was looked up in their source, and they were not run: axolotl-ai-cloud/axolotl
`src/axolotl/prompt_strategies/kto/{chatml,llama3,user_defined}.py` (at 2320973, 21bac7c, 22ae21a), ContextualAI/HALOs
`train/dataloader.py: get_feedback` (at 059a9ee).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ktodata.errors import UsageError, nearest
from ktodata.io import Quarantine, Table, rows_of
from ktodata.schema import Kind, Message, Row, Text, content_hash, to_record
from ktodata.sources import Example, Source, get_source
from ktodata.sources.halos import BINARY

PROVENANCE = ("source", "origin", "strategy", "parent_id")
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
        suffixes: of the files that the trainer reads.
        snippet: what to put into its configuration, for a file and kind.
    """

    name: str
    about: str
    kind: Kind | None
    make: Callable[[Row], Made]
    columns: Callable[[Kind], dict[str, str]]
    reader: Callable[[Kind], str]
    suffixes: tuple[str, ...]
    snippet: Callable[[str, Kind], str]


def get_format(name: str) -> Format:
    """The format of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}", do=nearest(name, FORMATS))
    return FORMATS[name]


class Converting:
    """Rows to records of a format, with an account of those that it cannot hold."""

    def __init__(self, form: Format, kind: Kind, *, bare: bool = False, quarantine: Quarantine | None = None) -> None:
        """`bare` leaves provenance out; `quarantine` gets the rows that the format cannot hold."""
        self.form, self.kind, self.bare, self.quarantine = form, kind, bare, quarantine
        self.reader: Source = get_source(form.reader(kind))
        self.written = self.desirable = 0
        self.skipped: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()  # of what is written
        self.synthetic = 0

    def records(self, tables: Iterator[Table]) -> Iterator[dict[str, Any]]:
        """The records of all rows that the format holds, in their order."""
        for row in rows_of(tables):
            made = self.form.make(row)
            if not isinstance(made, str) and not self._reads_back(made, row):
                made = "would not read back as it is"
            if isinstance(made, str):
                self.skipped[made] += 1
                if self.quarantine is not None:
                    self.quarantine.add(made, where=row.source, record=to_record(row), completions=1, detail="")
                continue
            self.written += 1
            self.desirable += row.label
            self.sources[row.source] += 1
            self.synthetic += row.origin == "synthetic"
            yield made if self.bare else made | {name: getattr(row, name) for name in PROVENANCE}

    def schema(self) -> Mapping[str, str]:
        """The columns that records have, and their types."""
        return self.form.columns(self.kind) | ({} if self.bare else dict.fromkeys(PROVENANCE, "text"))

    def _reads_back(self, made: dict[str, Any], row: Row) -> bool:
        found = list(self.reader.read(made, ""))
        if len(found) != 1 or not isinstance(found[0], Example):
            return False
        one = found[0]
        return (one.prompt, one.completion, one.label) == (row.prompt, row.completion, row.label)


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
        # Its reader puts the outputs of one id under one prompt: the id is that of the exact text, not our prompt_id.
        "prompt_id": content_hash(row.prompt),
        "prompt": row.prompt,
        "output": row.completion,
        "label": int(row.label),
        "reward": float(row.label),
        "type": BINARY,
    }


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
    return "parquet" if path.endswith(".parquet") else "json"


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
_ALL = (
    Format(
        "trl",
        "TRL's unpaired preferences: prompt, completion, label",
        None,
        _trl,
        lambda kind: _TEXT if kind == "text" else _CHAT,
        lambda kind: "rows",
        (".jsonl", ".json", ".parquet"),
        _trl_snippet,
    ),
    Format(
        "axolotl",
        "Axolotl's user_defined (text) and prompt_pairs (chats of one turn): system, prompt, completion, label",
        None,
        _axolotl,
        lambda kind: _TEXT if kind == "text" else {"system": "text", **_TEXT},
        lambda kind: "rows" if kind == "text" else "axolotl-kto",
        (".jsonl", ".json", ".parquet"),
        _axolotl_snippet,
    ),
    Format(
        "axolotl-chat",
        "Axolotl's argilla_chat, for chats of any number of turns: prompt, completion with the whole chat, label",
        "chat",
        _axolotl_chat,
        lambda kind: {"prompt": "text", "completion": "turns", "label": "bool"},
        lambda kind: "kto-mix",
        (".jsonl", ".json", ".parquet"),
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
    ),
)
FORMATS: dict[str, Format] = {form.name: form for form in _ALL}

"""Recipes and row files that nobody would write on purpose: what `benchmarks.fuzz` feeds to the commands.

Everything is drawn from the generator that is handed in, so a case can be made again from its number.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MEGABYTE = 2**20
RECIPE = """[model]
path = "{home}/model"
reference_logps = "auto"
[adapter]
rank = 4
alpha = 8
target_modules = "all-linear"
[data]
train = ["{home}/rows.jsonl"]
eval = ["{home}/eval.jsonl"]
max_length = 64
shuffle = true
[loss]
kind = "kto"
beta = 0.1
desirable_weight = "auto"
[optim]
learning_rate = 5e-6
betas = [0.9, 0.999]
warmup = 0.1
[train]
output_dir = "{home}/run"
max_steps = 3
batch_size = 4
pack_tokens = 256
precision = "no"
trackers = []
[samples]
count = 0
"""
# Values as TOML has them: of every type, too large, not numbers, deep, dates, and some that are not TOML at all.
VALUES = (
    "true", "false", "0", "-1", "1", "3", "0.5", "-0.0", "nan", "inf", "-inf", "1e308", "1e400", "5e-324",
    "9223372036854775807", "99999999999999999999999999", "0x7fffffffffffffff", "1_000", "07", "1__0",
    '""', '"x"', "''", '"\\u0000"', '"\\u001b[2J\\u001b[31mred"', '"\\ud800"', '"\\U0001F600"', '"\\u202e"', '"a\\nb"',
    '"""a\nb"""', "[]", "[[]]", "{}", "{a = 1}", "[1, \"a\"]", "[true, 1.5]", "[nan, inf]", '["", ""]', "1979-05-27",
    "1979-05-27T07:32:00Z", "07:32:00", "auto", '"auto"', '"bf16"', '"kto"', '"none"', '"-"', '"."', '".."',
    '"/"', '"~"',
    '"/dev/null"', '"/dev/zero"', '"{home}"', '"{home}/nowhere"', '"{home}/empty.jsonl"', '"{home}/rows.jsonl"',
    '"file:///etc/passwd"', '"https://example.invalid/x"', '"../../.."', '"a/b/c/d"', '"{{ 7 * 7 }}"',
    '"%s%n"', '"$HOME"',
)  # fmt: skip
WORDS = (
    "rank", "betas", "model", "train", "hub_token", "learning-rate", "Path", "", "__class__", "a.b", "ключ", "🙂",
    "x" * 300,
)  # fmt: skip


def _large(rng: random.Random) -> str:
    """A value that is much too long or too deep."""
    depth = rng.choice((50, 500, 20_000))
    return rng.choice(
        (
            "9" * rng.choice((400, 5000, 100_000)),
            '"' + "x" * MEGABYTE + '"',
            "[" * depth + "]" * depth,
            "{a = " * min(depth, 500) + "1" + "}" * min(depth, 500),
            "[" + "1," * 50_000 + "]",
            "0." + "1" * 50_000,
        )
    )


def value(rng: random.Random, home: Path) -> str:
    """A value of a key."""
    text = _large(rng) if rng.random() < 0.04 else rng.choice(VALUES)
    return text.replace("{home}", str(home))


def recipe(rng: random.Random, home: Path) -> bytes:
    """A recipe with one to four things wrong with it, or none."""
    lines = RECIPE.format(home=home).splitlines()
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 4))):
        rng.choice(_LINE_CHANGES)(rng, lines, home)
    data = "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"
    return damaged(rng, data) if rng.random() < 0.15 else data


def _keys(lines: Sequence[str]) -> list[int]:
    return [place for place, line in enumerate(lines) if " = " in line] or [0]


def _change_value(rng: random.Random, lines: list[str], home: Path) -> None:
    place = rng.choice(_keys(lines))
    name, _, old = lines[place].partition(" = ")
    new = value(rng, home)
    if rng.random() < 0.7:  # of the same type, which gets further
        for _ in range(50):
            if _type(new) == _type(old):
                break
            new = value(rng, home)
    lines[place] = f"{name} = {new}"


def _type(text: str) -> str:
    return "number" if text[:1].isdigit() or text[:1] == "-" else text[:1]


def _add_key(rng: random.Random, lines: list[str], home: Path) -> None:
    name = rng.choice((rng.choice(WORDS), json.dumps(rng.choice(WORDS)), ".".join(["a"] * rng.choice((2, 900)))))
    lines.insert(rng.randrange(len(lines) + 1), f"{name} = {value(rng, home)}")


def _add_table(rng: random.Random, lines: list[str], _: Path) -> None:
    name = rng.choice((*WORDS, "loss", "optim", "a.b.c", ".".join(["t"] * 900)))
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(("[{}]", "[[{}]]", "[ {} ]", "[{}", "{}]")).format(name))


def _double(rng: random.Random, lines: list[str], _: Path) -> None:
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines or [""]))


def _drop(rng: random.Random, lines: list[str], _: Path) -> None:
    if lines:
        del lines[rng.randrange(len(lines))]


def _shuffle(rng: random.Random, lines: list[str], _: Path) -> None:
    rng.shuffle(lines)


_LINE_CHANGES: tuple[Callable[[random.Random, list[str], Path], None], ...] = (
    *[_change_value] * 7, _add_key, _add_table, _double, _drop, _shuffle,
)  # fmt: skip


def override(rng: random.Random, home: Path) -> str:
    """An argument of --set; bytes that are not UTF-8 come as Python has them from a command line."""
    table = rng.choice(("model", "adapter", "data", "loss", "optim", "train", "samples", rng.choice(WORDS)))
    name = rng.choice(("path", "rank", "train", "beta", "betas", "seed", "output_dir", "trackers", rng.choice(WORDS)))
    text = rng.choice((value(rng, home), rng.choice(WORDS), "\udcff\udcfe", "\x1b]0;title\x07", "[", "= ="))
    return f"{table}.{name}={text[:4000]}".replace("\x00", "")


CONDITIONS = (
    "__import__('os')", "prompt.x", "lambda: 1", "9 ** 9 ** 9", "'a' * 10 ** 12", "(" * 500 + ")" * 500, "", "\x1b[2J",
    "label = true", "label and", "prompt like '%'", "-" * 3000 + "1", "not " * 3000 + "label", "1 < label < 'x'",
    "completion == null", "[1] == label", "missing > 3", "1 / 0 > 1", "len(label) > 1",
    *["label == true", "label == false", "prompt != ''", "len(completion) > 3", "completion is null"] * 6,
)  # fmt: skip


def condition(rng: random.Random) -> str:
    """A condition of `ktodata label`."""
    text = rng.choice(CONDITIONS)
    if rng.random() < 0.2:
        text = f"{text} {rng.choice(('and', 'or', '==', '<', '+', 'in'))} {rng.choice(CONDITIONS)}"
    return text


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut off, put in, or in another encoding."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not raw:
            break
        place, kind = rng.randrange(len(raw)), rng.randrange(8)
        if kind <= 2:
            raw[place] ^= 1 << rng.randrange(8)
        elif kind == 3:
            del raw[place:]
        elif kind == 4:
            raw[place:place] = rng.choice(
                (b"\x00", b"\x1b", b"\xff", b"\xed\xa0\x80", b"\r", b"\xe2\x80\xa8", b"\n", b'"')
            )
        elif kind == 5:
            del raw[place : place + rng.randrange(1, 40)]
        elif kind == 6:
            raw[place:place] = raw[place : place + rng.randrange(1, 200)]
        elif rng.random() < 0.3:
            codec = rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32"))
            raw = bytearray(bytes(raw).decode("utf-8", "replace").encode(codec, "replace"))
    return bytes(raw)


# --- rows ---------------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 1.5, float("nan"), float("inf"), 10**400, "", " ", "x", "true", "False", "\ud800",
    "\udfff tail", "\x00", "\x1b[2J", "\u2028", "\u202e", "🙂" * 50, "</s>", "<|im_start|>", [], {}, [[]], [{}], ["a"],
    {"a": 1},
    [{"role": "user"}], [{"role": 1, "content": "x"}], [{"role": "user", "content": None}],
    [{"role": "user", "content": "Hello"}], [{"role": "tool", "content": "Hello"}], [{"role": "", "content": ""}],
    [{"from": "human", "value": "Hello"}], "\n\nHuman: hi\n\nAssistant:", "{{ 7 * 7 }}", "=1+1",
)  # fmt: skip
SUFFIXES = (".jsonl", ".jsonl", ".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.gz", ".json.gz")


def records(rng: random.Random, *, pairs: bool, chat: bool) -> list[dict[str, Any]]:
    """Some rows or pairs, with some values that are not what they should be."""
    made: list[dict[str, Any]] = []
    for number in range(rng.choice((1, 2, 6, 12))):
        prompt, reply = f"What is {number} plus {number}?", f"It is {2 * number}, I should think, or near it."
        one: dict[str, Any] = {"prompt": prompt, "completion": " " + reply, "label": number % 2 == 0}
        if pairs:
            one = {"prompt": prompt, "chosen": reply, "rejected": f"No idea about {number}, and no wish to know."}
        if chat:
            names = {"prompt": "user"}
            one = {
                key: text if key == "label" else [{"role": names.get(key, "assistant"), "content": text}]
                for key, text in one.items()
            }
        made.append(one)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 5))):
        record = rng.choice(made)
        key = rng.choice((*record, "source", "origin", "system", rng.choice(WORDS)))
        change = rng.randrange(5)
        if change == 0 and key in record:
            del record[key]
        elif change == 1:
            record.clear()
        else:
            record[key] = rng.choice(ODD)
    if rng.random() < 0.03:
        rng.choice(made)["completion"] = "word " * (MEGABYTE // 5)
    return made


def row_file(rng: random.Random, folder: Path, name: str, *, pairs: bool, chat: bool) -> Path:
    """A file of such rows, in a format by chance, possibly damaged or called by another suffix."""
    suffix = rng.choice(SUFFIXES)
    data = _encode(rng, records(rng, pairs=pairs, chat=chat), suffix)
    if rng.random() < 0.2:
        data = damaged(rng, data)
    if suffix.endswith(".gz"):
        data = gzip.compress(data, 1)
        if rng.random() < 0.3:
            data = damaged(rng, data)
    if rng.random() < 0.03:
        data = rng.choice(
            (b"", b"\n", b"\xef\xbb\xbf", b"[]", b"{}", b"null", b"[" * 100_000, b'{"a":' * 5000, b"PAR1PAR1")
        )
    if rng.random() < 0.05:
        suffix = rng.choice((*SUFFIXES, "", ".txt", ".JSONL"))
    path = folder / f"{name}{suffix}"
    path.write_bytes(data)
    return path


def _encode(rng: random.Random, made: list[dict[str, Any]], suffix: str) -> bytes:
    plain = suffix.removesuffix(".gz")
    escaped = rng.random() < 0.5
    if plain == ".parquet":
        return _parquet(made)
    if plain == ".csv":
        return _csv(made)
    lines = [json.dumps(one, ensure_ascii=escaped).encode("utf-8", "surrogatepass") for one in made]
    if plain == ".json":
        return b"[" + rng.choice((b",", b",\n", b" , ")).join(lines) + b"]"
    return rng.choice((b"\n", b"\n", b"\r\n", b"\n\n")).join(lines) + rng.choice((b"\n", b""))


def _csv(made: list[dict[str, Any]]) -> bytes:
    import csv

    names = list(dict.fromkeys(key for one in made for key in one)) or ["prompt"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    for one in made:
        cells = [one.get(name, "") for name in names]
        writer.writerow([json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in cells])
    return text.getvalue().encode("utf-8", "surrogatepass")


def _parquet(made: list[dict[str, Any]]) -> bytes:
    """Columns of one type where Arrow can have them, else as text."""
    import pyarrow
    import pyarrow.parquet

    names = list(dict.fromkeys(key for one in made for key in one)) or ["prompt"]
    columns = {}
    for name in names:
        cells = [one.get(name) for one in made]
        try:
            columns[name or "_"] = pyarrow.array(cells)
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
            columns[name or "_"] = pyarrow.array([repr(cell) for cell in cells])
    stream = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    except pyarrow.ArrowException:  # an empty struct has no place in parquet
        return b"PAR1"
    return stream.getvalue()

"""Damaged files of every format through every command: a result, or one line that says what is wrong; never more.

By default few of them; `make slow` tries many. Records with one thing wrong are in test_data_malformed.py.
"""

import contextlib
import gzip
import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktodata.cli import main
from ktodata.encoded import DEEPEST
from ktodata.io import read_records, read_rows, write_rows
from ktodata.schema import make_row

ROWS: list[dict[str, Any]] = [
    {"prompt": f"What is {n}?\n", "completion": f"It is “{n}”, and a bit.", "label": n % 3 > 0} for n in range(40)
]


def as_lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def as_parquet(records: list[dict[str, Any]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), sink, compression="none", use_dictionary=False)
    return bytes(sink.getvalue().to_pybytes())


def as_csv(records: list[dict[str, Any]]) -> bytes:
    lines = [f'"{one["prompt"]}","{one["completion"]}",{str(one["label"]).lower()}\n' for one in records]
    return ("prompt,completion,label\n" + "".join(lines)).encode()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    ".jsonl": as_lines,
    ".jsonl.gz": lambda records: gzip.compress(as_lines(records), mtime=0),
    ".json": lambda records: json.dumps(records, indent=1, ensure_ascii=False).encode(),
    ".csv": as_csv,
    ".csv.gz": lambda records: gzip.compress(as_csv(records), mtime=0),
    ".parquet": as_parquet,
}
COMMANDS: dict[str, list[str]] = {
    "unpair": ["-o", "OUT", "--quarantine", "BAD"],
    "label": ["-o", "OUT", "--quarantine", "BAD", "--thumbs", "label"],
    "negatives": ["-o", "OUT", "--quarantine", "BAD", "--strategy", "template", "--no-leakage"],
    "balance": [],
    "check": [],
    "mix": ["-o", "OUT", "--quarantine", "BAD"],
    "split": ["-o", "OUT", "--eval", "EVAL"],
    "convert": ["-o", "OUT", "--quarantine", "BAD", "--to", "trl"],
}
WHOLE = {suffix: make(ROWS) for suffix, make in FORMATS.items()}
# Bytes that mean something to a format, besides any.
BYTES = st.sampled_from(b'"\\{}[],:\n\r\x00\xff\x80') | st.integers(0, 255)


@st.composite
def damage(draw: st.DrawFn, suffix: str) -> bytes:
    """A file of this format with some bytes changed, taken out, put in, or cut off."""
    content = bytearray(WHOLE[suffix])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        how = draw(st.sampled_from(["change", "cut", "take out", "put in"]))
        if how == "change" and place < len(content):
            content[place] = draw(BYTES)
        elif how == "cut" and draw(st.booleans()):
            del content[place:]
        elif how == "take out":
            del content[place : place + draw(st.integers(1, 30))]
        elif how == "put in":
            content[place:place] = bytes(draw(st.lists(BYTES, max_size=4)))
    return bytes(content)


def no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def checked(command: str, source: Path, *, stdin: bytes | None = None) -> Result:
    """Run a command, and look at what must hold whatever the file is."""
    folder = source.parent / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = {name: str(folder / f"{name.lower()}.jsonl") for name in ("OUT", "EVAL", "BAD")}
    arguments = [command, "-" if stdin is not None else str(source), *(names.get(o, o) for o in COMMANDS[command])]
    result = CliRunner().invoke(main, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    there = {path.name for path in folder.iterdir()}
    failed_check = command == "check" and result.exit_code == 1 and result.stdout
    if result.exit_code == 0:
        assert "OUT" not in COMMANDS[command] or "out.jsonl" in there, there
    elif not failed_check:
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("error: ")
        assert len(result.stderr) < 2000
        assert there <= {"bad.jsonl"}, "nothing is half-written"
    if "bad.jsonl" in there:
        for line in (folder / "bad.jsonl").read_text(encoding="utf-8").splitlines():
            kept = json.loads(line, parse_constant=no_json)
            assert kept["reason"]
            assert kept["where"]
            assert "record" in kept
    return result


QUICK = settings(max_examples=3, suppress_health_check=list(HealthCheck), deadline=None)
MANY = settings(QUICK, max_examples=60)


@pytest.mark.parametrize("effort", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    command: str, suffix: str, effort: settings, tmp_path: Path
) -> None:
    @effort
    @given(content=damage(suffix))
    def fuzz(content: bytes) -> None:
        source = tmp_path / f"rows{suffix}"
        source.write_bytes(content)
        checked(command, source)

    fuzz()


@pytest.mark.parametrize("command", COMMANDS)
@QUICK
@given(data=st.data())
def test_whatever_comes_through_a_pipe(
    command: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    checked(command, tmp_path_factory.mktemp("fuzz") / "none", stdin=data.draw(damage(".jsonl")))


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_sound_goes_through(command: str, tmp_path: Path) -> None:
    for suffix, content in WHOLE.items():
        (tmp_path / f"rows{suffix}").write_bytes(content)
        assert checked(command, tmp_path / f"rows{suffix}").exit_code in ((0, 1) if command == "check" else (0,))
    assert checked(command, tmp_path / "rows", stdin=WHOLE[".jsonl"]).exit_code in (0, 1)


def test_a_damaged_folder_of_datasets_is_one_line_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    """Arrow maps these files and trusts what they say: a length of text that goes beyond the file ended the process."""
    import datasets

    datasets.disable_progress_bars()
    rows = pyarrow.Table.from_pylist(ROWS)
    folder = tmp_path / "saved"
    datasets.Dataset(rows).save_to_disk(str(folder))
    (file,) = folder.glob("*.arrow")
    content = file.read_bytes()
    lengths = rows.column("prompt").chunk(0).buffers()[1].to_pybytes()[:40]
    place = content.index(lengths)
    for bad in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x01\x00\x00\x40"):
        file.unlink()  # it may be mapped
        file.write_bytes(content[: place + 8] + bad + content[place + 12 :])
        result = checked("unpair", folder)
        assert result.exit_code == 1
        assert "saved: not a readable dataset folder: " in result.stderr


def test_a_line_without_an_end_is_refused_before_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktodata.io.records.LONGEST", 2**21)
    for name, begin in (("a.jsonl", b""), ("a.json", b'[{"prompt": "'), ("a.csv", b'prompt,completion,label\n"')):
        (tmp_path / name).write_bytes(begin + b"x" * 2**23)
        result = checked("unpair", tmp_path / name)
        assert result.exit_code == 1
        assert "longer than 256 MiB" in result.stderr or "field larger than field limit" in result.stderr


def test_the_quarantine_file_has_every_byte_of_a_bad_row(tmp_path: Path) -> None:
    good = as_lines(ROWS[:1])
    bad_text = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pyarrow.py_buffer(b"pq\xe9")]
    )
    table = pyarrow.table({"prompt": bad_text, "completion": ["c", "d"], "label": [True, False]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes(good + b'{"prompt": "q\xe9", "completion": "d"}\n')
    (tmp_path / "a.csv").write_bytes(b"prompt,completion,label\np,c,true\nq\xe9,d,false\n")
    (tmp_path / "a.json").write_bytes(b"[" + good + b', {"prompt": "q\xe9", "completion": "d"}]')
    places = {".parquet": "a.parquet: row 2", ".jsonl": "a.jsonl:2", ".csv": "a.csv:3", ".json": "a.json:2"}
    for suffix, place in places.items():
        assert checked("unpair", tmp_path / f"a{suffix}").exit_code == 0
        (line,) = (tmp_path / "out" / "bad.jsonl").read_text(encoding="utf-8").splitlines()
        kept = json.loads(line)
        assert kept["where"].endswith(place)
        assert "not UTF-8" in kept["detail"]
        assert "\\xe9" in str(kept["record"])


ENDS = st.sampled_from(["", ".5", "e5", "e-400"])
# Levels about the bound, and about those of the parsers; digits about those of 64 bits, of floats, and of Python.
LEVELS = st.sampled_from([1, DEEPEST - 1, DEEPEST, DEEPEST + 1, 975, 1023, 1024, 1025, 5000]) | st.integers(1, 1100)
DIGITS = st.sampled_from([19, 20, 39, 309, 310, 4300, 4301, 6000]) | st.integers(1, 400)
VALUES = st.one_of(
    LEVELS.map(lambda levels: "[" * levels + "]" * levels),
    LEVELS.map(lambda levels: '{"a":' * levels + "1" + "}" * levels),
    LEVELS.map(lambda levels: "[" * levels),
    LEVELS.map(lambda levels: f'[{{"role": "user", "content": {"[" * levels + "]" * levels}}}]'),
    st.builds(lambda sign, digits, end: f"{sign}{'9' * digits}{end}", st.sampled_from(["", "-"]), DIGITS, ENDS),
    st.sampled_from(["true", "false", '"true"', "null", "NaN", "1", '"', "", '"\\ud83d"', '{"a": 1, "a": 2}']),
)


def marked_json(number: int, column: str, value: str) -> str:
    """A record with marks of its own, and some JSON, which need not be any, for one of its columns or beside them."""
    columns = {"prompt": f'"m{number}x"', "completion": f'"c m{number}x"', "label": "true"} | {column: value}
    return "{" + ", ".join(f'"{name}": {text}' for name, text in columns.items()) + "}"


def marked_csv(number: int, column: str, value: str) -> str:
    cells = {"prompt": f"m{number}x", "completion": f"c m{number}x", "label": "true", "more": ""}
    return ",".join(f'"{text.replace(chr(34), chr(34) * 2)}"' for text in (cells | {column: value}).values())


@contextlib.contextmanager
def usual_stack() -> Iterator[None]:
    """As many calls within each other as a command may make: hypothesis allows more."""
    before, depth, frame = sys.getrecursionlimit(), 0, inspect.currentframe()
    while frame:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(depth + 1000)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


WHOLE_FILES: dict[str, Callable[[list[tuple[str, str]]], str]] = {
    ".jsonl": lambda odd: "\n".join(marked_json(number, *one) for number, one in enumerate(odd)),
    ".json": lambda odd: "[\n" + ",\n".join(marked_json(number, *one) for number, one in enumerate(odd)) + "\n]",
    ".csv": lambda odd: "\n".join(
        ["prompt,completion,label,more", *(marked_csv(number, *one) for number, one in enumerate(odd))]
    ),
}


@pytest.mark.parametrize("effort", [settings(QUICK, max_examples=8), pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", WHOLE_FILES)
@pytest.mark.parametrize("command", ["unpair", "label", "negatives", "mix", "convert"])
def test_every_record_is_written_or_set_aside(command: str, suffix: str, effort: settings, tmp_path: Path) -> None:
    """However deep its values are and however large its numbers: none is lost, and none ends the command."""

    @effort
    @given(odd=st.lists(st.tuples(st.sampled_from(["prompt", "completion", "label", "more"]), VALUES), max_size=6))
    def fuzz(odd: list[tuple[str, str]]) -> None:
        source = tmp_path / f"rows{suffix}"
        records = [("more", "true"), *odd, ("more", "false")]
        source.write_text(WHOLE_FILES[suffix](records), encoding="utf-8")
        with usual_stack():
            result = checked(command, source)
        assert result.exit_code == 0, result.stderr
        kept = "".join((tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("out.jsonl", "bad.jsonl"))
        assert {int(number) for number in re.findall(r"m(\d+)x", kept)} == set(range(len(records)))

    fuzz()


PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# Text that is a message as JSON, or what else looks like a cell of a chat's file.
LIKE_CHAT = st.builds(
    lambda names, role, content, form: form % json.dumps(dict(zip(names, (role, content), strict=True))),
    st.sampled_from([("role", "content"), ("from", "value")]),
    st.sampled_from(["user", "assistant", "human", "x"]),
    PLAIN,
    st.sampled_from(["%s", "[%s]", "[%s] ", " %s", "{%s"]),
)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.tuples(
            PLAIN | LIKE_CHAT,
            PLAIN.map(lambda text: f"c {text}") | LIKE_CHAT,
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_any_text_comes_back_from_any_format(
    suffix: str, tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, str, bool]]
) -> None:
    rows = [make_row(prompt, text, good, source=prompt or "s", origin="pair") for prompt, text, good in values]
    path = str(tmp_path_factory.mktemp("any") / f"rows{suffix}")
    write_rows(rows, path)
    assert read_rows(path) == rows


MILLISECONDS = pyarrow.timestamp("ms")
STAMPS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 253402300800000, -62135596800001])
UNITS = st.sampled_from(["s", "ms", "us", "ns"])
SCALARS = st.one_of(
    st.builds(
        lambda unit, zone: pyarrow.timestamp(unit, zone),
        UNITS,
        st.sampled_from([None, "UTC", "+05:30", "Europe/Berlin", "Mars/Phobos", "nonsense"]),
    ),
    st.builds(pyarrow.duration, UNITS),
    st.sampled_from(
        [
            pyarrow.date32(),
            pyarrow.date64(),
            pyarrow.time32("s"),
            pyarrow.time64("ns"),
            pyarrow.decimal128(38, 3),
            pyarrow.decimal256(76, 2),
            pyarrow.binary(),
            pyarrow.large_string(),
            pyarrow.binary(5),
            pyarrow.float16(),
            pyarrow.float64(),
            pyarrow.uint64(),
            pyarrow.bool_(),
            pyarrow.null(),
        ]
    ),
)


def column_of(draw: st.DrawFn, kind: pyarrow.DataType, size: int) -> pyarrow.Array:
    """A column of any values of a type, nulls among them."""
    whole = {"date32[day]": pyarrow.int32(), "time32[s]": pyarrow.int32()}.get(str(kind), pyarrow.int64())
    if pyarrow.types.is_temporal(kind):
        numbers = draw(st.lists(st.none() | STAMPS, min_size=size, max_size=size))
        shrunk = [n if n is None or whole.bit_width == 64 else n >> 32 for n in numbers]
        return pyarrow.array(shrunk, whole).view(kind)
    values: dict[str, st.SearchStrategy[Any]] = {
        "halffloat": st.just(float("nan")),
        "double": st.floats(),
        "uint64": st.integers(0, 2**64 - 1),
        "bool": st.booleans(),
        "binary": st.binary(max_size=4),
        "fixed_size_binary[5]": st.binary(min_size=5, max_size=5),
        "large_string": st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
        "null": st.none(),
    }
    anything = values.get(str(kind), st.integers(-(10**9), 10**9).map(lambda n: Decimal(n * 100)))
    return pyarrow.array(draw(st.lists(st.none() | anything, min_size=size, max_size=size)), kind)


@st.composite
def columns(draw: st.DrawFn, size: int = 3) -> pyarrow.Array:
    """A column of any type, in a struct, a list, a map or a dictionary too."""
    column = column_of(draw, draw(SCALARS), size)
    for _ in range(draw(st.integers(0, 2))):
        how = draw(st.sampled_from(["struct", "list", "map", "dictionary"]))
        if how == "struct":
            column = pyarrow.StructArray.from_arrays([column], ["a"])
        elif how == "list":
            column = pyarrow.ListArray.from_arrays(list(range(size + 1)), column)
        elif how == "map":
            column = pyarrow.MapArray.from_arrays(list(range(size + 1)), list("abc"), column)
        elif not pyarrow.types.is_nested(column.type) and not pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_encode()
    return column


TYPES = [settings(QUICK, max_examples=40), pytest.param(settings(MANY, max_examples=400), marks=pytest.mark.slow)]


@pytest.mark.parametrize("effort", TYPES, ids=["few", "many"])
def test_columns_of_any_type_beside_those_of_a_row(effort: settings, tmp_path: Path) -> None:
    """They are nobody's business but the quarantine file's, which gets them with the second row, and must be JSON."""
    path = tmp_path / "a.parquet"

    @effort
    @given(more=columns())
    def fuzz(more: pyarrow.Array) -> None:
        rows = {"prompt": list("pqr"), "completion": ["a", "", "c"], "label": [True, False, False]}
        try:
            pyarrow.parquet.write_table(pyarrow.table({**rows, "more": more}), path)
        except (pyarrow.ArrowException, OSError):
            return  # no such column in parquet
        result = checked("unpair", path)
        assert result.exit_code == 0, result.stderr
        assert len((tmp_path / "out" / "bad.jsonl").read_bytes().splitlines()) == 1

    fuzz()


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        (pyarrow.array([253402300800000], pyarrow.timestamp("ms")), "10000-01-01 00:00:00.000"),
        (pyarrow.array([253402300800000], pyarrow.timestamp("ms", "UTC")), "10000-01-01 00:00:00.000Z"),
        (pyarrow.array([0], pyarrow.timestamp("ms", "Mars/Phobos")), "1970-01-01 00:00:00.000Z"),
        (pyarrow.array([2932897], pyarrow.date32()), "10000-01-01"),
        (pyarrow.array([[253402300800000]], pyarrow.list_(MILLISECONDS)), ["10000-01-01 00:00:00.000"]),
        (
            pyarrow.array([{"a": 253402300800000}], pyarrow.struct([("a", MILLISECONDS)])),
            {"a": "10000-01-01 00:00:00.000"},
        ),
    ],
)
def test_times_that_python_does_not_have_are_text(column: pyarrow.Array, shown: object, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["p"], "created": column}), tmp_path / "a.parquet")
    (raw,) = read_records(str(tmp_path / "a.parquet"))
    assert raw.values() == {"prompt": "p", "created": shown}

"""Reading files of records: every format, every way in which one can be broken."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ktodata.errors import KtodataError, RowError, SourceError
from ktodata.io import Quarantine, find_parts, read_records, read_rows, write_rows
from ktodata.io.resolve import choose_files, split_of
from ktodata.schema import COLUMNS, Row, make_row

AWKWARD = [
    "\n\nHuman: hi\n\nAssistant:",
    "  two spaces, \ttab\r\nand CRLF ",
    "line\u2028separator, \x0b vertical tab, \x85 next line",
    'quotes "" and, commas; a lone \r return',
    "emoji 🎉👩‍👩‍👧, ﬁ ligature, ß, 漢字, עברית",
    '[{"looks": "like json"}]',
    "",
    "null",
    "true",
    '[{"role": "user", "content": "like a message"}]',
    '{"from": "gpt", "value": "like another"}',
]


def text_rows() -> list[Row]:
    return [
        make_row(text, f" reply {place}{text}", place % 2 == 0, source="made/up.jsonl", origin="pair")
        for place, text in enumerate(AWKWARD)
    ]


def chat_rows() -> list[Row]:
    return [
        make_row(
            [{"role": "system", "content": text}, {"role": "user", "content": "q"}],
            [{"role": "assistant", "content": f"{text}!"}],
            place % 2 == 0,
            source="s",
            origin="synthetic",
            strategy="corrupt",
            parent_id="abc",
        )
        for place, text in enumerate(AWKWARD)
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("make", [text_rows, chat_rows])
def test_rows_come_back_verbatim(tmp_path: Path, suffix: str, make: Callable[[], list[Row]]) -> None:
    out = tmp_path / "new" / "folder" / f"rows{suffix}"
    assert write_rows(iter(make()), str(out)) == len(AWKWARD)
    assert read_rows(str(out)) == make()
    assert [path.name for path in out.parent.iterdir()] == [out.name], "a temporary file was left"


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("one", "two"):
        write_rows(text_rows(), str(tmp_path / f"{name}{suffix}"))
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


@pytest.mark.parametrize("make", [text_rows, chat_rows])
def test_a_parquet_file_loads_in_pandas_and_datasets(tmp_path: Path, make: Callable[[], list[Row]]) -> None:
    import datasets
    import pandas

    rows, out = make(), tmp_path / "rows.parquet"
    write_rows(rows, str(out))
    frame = pandas.read_parquet(out)
    assert list(frame.columns) == list(COLUMNS)
    assert frame["label"].dtype == bool
    data = datasets.Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "cache"))
    assert data[1]["completion"] == rows[1].completion
    assert data.features["label"].dtype == "bool"
    assert not frame.isna().to_numpy().any()


def test_a_large_array_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktodata.io.records.BLOCK", 7)  # every item straddles the end of a block
    records = [{"chosen": "x" * size, "n": size, "nested": [{"a": [1.5, None]}]} for size in range(40)]
    for indent in (None, 2):
        path = tmp_path / f"{indent}.json"
        path.write_text(json.dumps(records, indent=indent), encoding="utf-8")
        assert [raw.values() for raw in read_records(str(path))] == records
    places = [raw.where for raw in read_records(str(tmp_path / "2.json"))]
    lines = (tmp_path / "2.json").read_text(encoding="utf-8").splitlines()
    assert all(lines[int(place.rpartition(":")[2]) - 1].strip() == "{" for place in places)


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_white_space_before_an_array_is_no_end(tmp_path: Path, suffix: str) -> None:
    content = b"\xef\xbb\xbf" + b" \n" * 200_000 + f"[{ROW}]".encode()  # more than any buffer holds
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(content) if suffix.endswith("z") else content)
    assert len(read_rows(str(tmp_path / f"a{suffix}"))) == 1


TURNS = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "content": "b"}]'
TWICE = {
    "at the top": '{"prompt": "p", "completion": "c", "label": true, "label": false}',
    "by an escape": '{"prompt": "p", "completion": "c", "label": true, "l\\u0061bel": false}',
    "after a space": '{"prompt": "p \\": ", "completion": ": c", "label"\t: true, "label" : false}',
    "in a message": f'{{"prompt": {TURNS}, "completion": [], "label": true}}',
    "deep down": '{"prompt": "p", "completion": "c", "label": true, "more": [[{"a": {"b": 1, "b": 2}}]]}',
}
ONCE = {
    "as a value": '{"prompt": "label", "completion": "completion", "label": true}',
    "in a text": '{"prompt": "{\\"label\\": 1, \\"label\\" : 2}", "completion": ": \\\\", "label": true}',
    "in two messages": '{"prompt": "p", "completion": "c", "label": true, "more": [{"a": 1}, {"a": ":"}]}',
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_of_two_values_of_one_key_neither_is_taken(tmp_path: Path, suffix: str) -> None:
    for what, record in (TWICE | ONCE).items():
        path = tmp_path / f"a{suffix}"
        path.write_text(f"{ROW}\n{record}\n" if suffix == ".jsonl" else f"[{ROW},\n{record}]", encoding="utf-8")
        first, second = read_records(str(path))
        assert first.values()["label"] is True
        if what in ONCE:
            assert second.values() == json.loads(record)
            continue
        with pytest.raises(RowError, match=r"is there more than once\. Leave one of its values") as caught:
            second.values()
        assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize("case", ["columns", "fields", "fields in a list", "fields in a map"])
def test_of_two_columns_of_one_name_neither_is_taken(tmp_path: Path, case: str) -> None:
    import pyarrow
    import pyarrow.parquet

    names = ["prompt", "completion", "label", "more"]
    twice = pyarrow.StructArray.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    more = {
        "columns": pyarrow.array(["p"]),
        "fields": twice,
        "fields in a list": pyarrow.ListArray.from_arrays([0, 1], twice),
        "fields in a map": pyarrow.MapArray.from_arrays([0, 1], ["k"], twice),
    }[case]
    if case == "columns":
        names[3] = "prompt"
    table = pyarrow.table([["p"], ["c"], [True], more], names=names)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet: a column is named twice \(.*\)\. Rename one"):
        read_rows(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_that_is_called_jsonl_is_read_as_one(
    tmp_path: Path, suffix: str, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktodata.io.records.BLOCK", 7)
    content = b"\xef\xbb\xbf\n" + json.dumps([json.loads(ROW)] * 3, indent=indent).encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("z") else content)
    assert [row.completion for row in read_rows(str(path))] == [" c"] * 3


def test_a_first_line_that_is_an_array_is_a_bad_line_among_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"[1]\n{ROW}\n", encoding="utf-8")
    with Quarantine(tmp_path / "bad") as refused:
        assert len(read_rows(str(tmp_path / "a.jsonl"), quarantine=refused)) == 1
    assert refused.count == 1


def test_text_that_looks_like_messages_stays_text(tmp_path: Path) -> None:
    like = '[{"role": "user", "content": "q"}]'
    rows = [make_row(like, like, label, source=like, origin="pair") for label in (True, False)]
    path = tmp_path / "a.csv"
    write_rows(rows, str(path))
    assert read_rows(str(path)) == rows
    # Without an id, as in files of others, it is a chat.
    header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text(header.replace("id", "name", 1) + "".join(lines), encoding="utf-8")
    assert [raw.values()["prompt"] for raw in read_records(str(path))] == [json.loads(like)] * 2
    # A single object is no chat.
    cell = like.strip("[]").replace('"', '""')
    path.write_text(f'prompt,completion,label\n"{cell}",c,true\n', encoding="utf-8")
    assert [raw.values()["prompt"] for raw in read_records(str(path))] == [like.strip("[]")]


def test_blank_lines_in_csv_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\nprompt,completion,label\n\np,c,true\n\n", encoding="utf-8")
    assert [row.completion for row in read_rows(str(tmp_path / "a.csv"))] == ["c"]


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"n": 1}\n{"n": 2}\n', encoding="utf-8")
    assert [raw.values()["n"] for raw in read_records(str(tmp_path / "a.json"))] == [1, 2]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_and_crlf_line_ends_do_no_harm(tmp_path: Path, suffix: str) -> None:
    write_rows(text_rows()[:1], str(tmp_path / f"plain{suffix}"))
    content = (tmp_path / f"plain{suffix}").read_bytes()
    if suffix != ".csv":  # there, a line feed may be inside a cell
        content = content.replace(b"\n", b"\r\n")
    else:
        content = content.replace(b",parent_id\n", b",parent_id\r\n").removesuffix(b"\n") + b"\r\n"
    (tmp_path / f"dos{suffix}").write_bytes(b"\xef\xbb\xbf" + content)
    assert read_rows(str(tmp_path / f"dos{suffix}")) == text_rows()[:1]


ROW = '{"prompt": "p", "completion": " c", "label": true}'
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.jsonl", b"", "a.jsonl: the file is empty"),
    "only blank lines": ("a.jsonl", b"\n \n", "a.jsonl: the file is empty"),
    "empty array": ("a.json", b" [ ] ", "a.json: the file is empty"),
    "header only": ("a.csv", b"prompt,completion,label\n", "a.csv: the file is empty"),
    "truncated gzip": ("a.jsonl.gz", gzip.compress(ROW.encode() * 50)[:-20], "ends early or is damaged"),
    "damaged gzip": ("a.jsonl.gz", gzip.compress(ROW.encode())[:12] + b"\0" * 30, "not gzip data, or damaged"),
    "not gzip": ("a.jsonl.gz", ROW.encode(), "not gzip data"),
    "wrong JSON": ("a.jsonl", f"{ROW}\n{{nope\n".encode(), "a.jsonl:2: not JSON"),
    "not an object": ("a.jsonl", b"[1]\n", "a.jsonl:1: a JSON array, not an object"),
    "not UTF-8": ("a.jsonl", b'{"prompt": "\xff"}\n', "a.jsonl:1: byte 13 of the record is not UTF-8"),
    "half an emoji": ("a.jsonl", b'{"prompt": "\\ud83d"}\n', "a.jsonl:1: half of a surrogate pair"),
    "half an emoji in an array": ("a.json", b'[\n{"prompt": "\\ude00"}]', "a.json:2: half of a surrogate pair"),
    "half an emoji in csv": (
        "a.csv",
        b'prompt,completion,label\n"[{""role"": ""user"", ""content"": ""\\ud83d""}]",c,true\n"[]",c,1\n',
        "a.csv:2: half of a surrogate pair",
    ),
    "nested": ("a.jsonl", b"[" * 100_000 + b"\n", "a.jsonl:1: "),
    "array cut off": ("a.json", f"[{ROW},\n".encode(), "a.json:2: not JSON"),
    "comma too many": ("a.json", f"[{ROW},\n\n]".encode(), "a.json:3: not JSON: Expecting value. `ktodata unpair"),
    "a quote that stays open": (
        "a.csv",
        b'prompt,completion,label\n"p,c,true\n',
        "a quote that is never closed. A text",
    ),
    "array not closed": ("a.json", f"[{ROW}\n".encode(), "a.json:2: the JSON array is not closed"),
    "array without comma": ("a.json", f"[{ROW}\n{ROW}]".encode(), "a.json:2: ',' or ']' expected"),
    "array and more": ("a.json", f"[{ROW}]\n[]".encode(), "a.json:2: something follows the JSON array"),
    "object over lines": ("a.json", b'{\n "prompt": ["p"]\n}', "one JSON object over many lines"),
    "no JSON at all": ("a.json", b"hello", "neither a JSON array of objects nor JSON lines"),
    "array not UTF-8": ("a.json", b'[{"prompt": "\xff"}]', "a.json:1: byte 13 of the record is not UTF-8"),
    "UTF-16": ("a.jsonl", ROW.encode("utf-16"), "a.jsonl: UTF-16, not UTF-8. Convert the file"),
    "UTF-16 csv": ("a.csv", "prompt,completion,label\np,c,true\n".encode("utf-16"), "a.csv: UTF-16, not UTF-8"),
    "UTF-32": ("a.jsonl", ROW.encode("utf-32"), "a.jsonl: UTF-32, not UTF-8. Convert the file"),
    "UTF-32 of the other order": ("a.csv", "\ufeffa,b\n".encode("utf-32-be"), "a.csv: UTF-32, not UTF-8"),
    "gzip called parquet": ("a.parquet", gzip.compress(b"PAR1"), "a.parquet: gzip data. Unpack it first"),
    "gzip by another name": ("a.jsonl", gzip.compress(ROW.encode()), "a.jsonl.gz"),
    "gzip twice": ("a.jsonl.gz", gzip.compress(gzip.compress(ROW.encode())), "gzip data. Unpack it first"),
    "wrong checksum": ("a.jsonl.gz", gzip.compress(ROW.encode())[:-8] + b"12345678", "damaged: CRC check failed"),
    "more after gzip": ("a.jsonl.gz", gzip.compress(ROW.encode()) + b"more", "not gzip data, or damaged"),
    "a pointer of Git LFS": (
        "a.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "`git lfs pull`",
    ),
    "parquet of no byte": ("a.parquet", b"", "a.parquet: not a readable parquet file"),
    "NUL bytes": ("a.jsonl", b"\0" * 50 + b"\n", "a.jsonl:1: not JSON"),
    "NUL bytes in an array": ("a.json", b"[" + b"\0" * 50, "a.json:1: not JSON"),
    "a page": ("a.json", b"<!DOCTYPE html><html>", "neither a JSON array of objects nor JSON lines"),
    "an object that ends in a comma": ("a.jsonl", f"{ROW},\n".encode(), "a.jsonl:1: not JSON: Extra data at character"),
    "old line ends": ("a.jsonl", f"{ROW}\r{ROW}\r".encode(), "a.jsonl:1: not JSON: Extra data"),
    "null": ("a.jsonl", b"null\n", "a.jsonl:1: a JSON null, not an object"),
    "numbers": ("a.json", b"[1, 2]", "a.json:1: a JSON number, not an object"),
    "a number of 5,000 digits": (
        "a.jsonl",
        b'{"n": ' + b"9" * 5000 + b"}",
        "a.jsonl:1: not JSON: a number of too many",
    ),
    "csv not UTF-8": ("a.csv", b"prompt,completion,label\np\xe9,c,true\n", "a.csv:2: b'\\xe9' is not UTF-8"),
    "csv header not UTF-8": ("a.csv", b"pr\xe9,completion,label\np,c,true\n", "a.csv:1: b'\\xe9' is not UTF-8"),
    "text after a quote": ("a.csv", b'prompt,completion,label\n"p"x,c,true\n', "a.csv:2: not csv: ',' expected"),
    "ragged csv": ("a.csv", b"prompt,completion,label\np,c\n", "a.csv:2: 2 cells, but the header names 3 columns"),
    "open quote in csv": ("a.csv", b'prompt,completion,label\n"p,c,true\n', "a.csv:2: not csv"),
    "column twice": (
        "a.csv",
        b"prompt,prompt,label\np,c,true\n",
        "a.csv:1: a column is named twice (prompt, prompt, label). Rename one",
    ),
    "label 1 in csv": ("a.csv", b"prompt,completion,label\np,c,1\n", "a.csv:2: label is str '1', not true or false"),
    "not parquet": ("a.parquet", b"PAR1 nope", "a.parquet: not a readable parquet file"),
    "unknown suffix": ("a.tsv", b"x", "a.tsv: unknown suffix '.tsv'. Known: .jsonl"),
    "label as text": ("a.jsonl", ROW.replace("true", '"true"').encode(), "a.jsonl:1: label is str 'true'"),
    "label 1": ("a.jsonl", ROW.replace("true", "1").encode(), "a.jsonl:1: label is int 1"),
    "null completion": ("a.jsonl", ROW.replace('" c"', "null").encode(), "a.jsonl:1: completion is null"),
    "number as completion": ("a.jsonl", ROW.replace('" c"', "7").encode(), "a.jsonl:1: completion is int 7"),
    "no label": ("a.jsonl", b'{"prompt": "p", "completion": "c"}', "no column 'label' (columns seen: prompt"),
    "two kinds": (
        "a.jsonl",
        f'{ROW}\n{{"prompt": [], "completion": [], "label": true}}'.encode(),
        "a.jsonl:2: a chat row in a file of text rows",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, case: str) -> None:
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError) as caught:
        read_rows(str(tmp_path / name))
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value), "the error does not say where"
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        read_rows(str(tmp_path / "none.jsonl"))
    with pytest.raises(SourceError, match="no data files"):
        read_rows(str(tmp_path))


def test_unreadable_rows_go_to_the_quarantine_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{ROW}\nnope\n{ROW.replace('true', '3')}\n{ROW}\n", encoding="utf-8")
    with Quarantine(tmp_path / "bad.jsonl") as quarantine:
        assert len(read_rows(str(tmp_path / "a.jsonl"), quarantine=quarantine)) == 2
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["where"].rpartition(":")[2] for line in lines] == ["2", "3"]
    assert lines[0]["record"] == "nope"
    assert lines[1]["record"]["label"] == 3


def test_limit_and_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO("\n".join([ROW] * 5).encode()))
    monkeypatch.setattr("sys.stdin", stream)
    rows = read_rows("-", limit=3)
    assert len(rows) == 3
    assert rows[0].source == "stdin"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SourceError, match="nothing came in"):
        read_rows("-")


def test_splits_are_told_by_file_and_folder_names() -> None:
    assert split_of("harmless-base/train.jsonl.gz") == "train"
    assert split_of("data/train_prefs-00000-of-00001.parquet") == "train_prefs"
    assert split_of("data/test-00000-of-00002-0a1b2c3d.parquet") == "test"
    assert split_of("my_dev_set.csv") == "validation"
    assert split_of("val/part1.json") == "validation"
    assert split_of("trainings.jsonl") == ""
    assert split_of("red-team-attempts/red_team_attempts.jsonl.gz") == ""


def test_the_files_of_a_split() -> None:
    names = ["b/train.jsonl", "a/train.jsonl.gz", "a/test.jsonl.gz", "README.md", ".cache/train.jsonl", "c/x.json"]
    assert choose_files(names, split="train") == ["a/train.jsonl.gz", "b/train.jsonl"]
    assert choose_files(names, split="test") == ["a/test.jsonl.gz"]
    assert choose_files(names, split="train", folders=("b", "none")) == ["b/train.jsonl"]
    assert choose_files(["one.csv", "two.csv", "dataset_infos.json"], split="train") == ["one.csv", "two.csv"]
    with pytest.raises(SourceError, match=r"no split 'validation'.*It has: test, train"):
        choose_files(names, split="validation", where="there")
    with pytest.raises(SourceError, match="no split 'test'"):
        choose_files(["one.csv"], split="test")


def test_a_folder_of_files_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for place, name in enumerate(["b/train.jsonl", "a/train.jsonl.gz", "a/test.csv"]):
        rows = [make_row(f"p{place}", "c", True, source="", origin="pair")]
        write_rows(rows, str(tmp_path / "local" / name))
    rows = read_rows(str(tmp_path / "local"))
    assert [(row.prompt, row.source) for row in rows] == [
        ("p1", "local/a/train.jsonl.gz"),
        ("p0", "local/b/train.jsonl"),
    ]
    assert [part.path for part in find_parts(str(tmp_path / "local"), split="test")] == ["a/test.csv"]


def test_a_folder_written_by_datasets(tmp_path: Path) -> None:
    import datasets

    rows = chat_rows()
    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    data = datasets.Dataset.from_dict(columns)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "extra": data.select([0])}).save_to_disk(str(tmp_path / "many"))
    assert read_rows(str(tmp_path / "one")) == rows
    assert read_rows(str(tmp_path / "many"), split="extra") == rows[:1]
    with pytest.raises(SourceError, match=r"no split 'dev'.*It has: extra, train"):
        read_rows(str(tmp_path / "many"), split="dev")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"damaged")
    with pytest.raises(SourceError, match="not a readable dataset folder"):
        read_rows(str(tmp_path / "one"))


def test_provenance_names_no_more_of_the_machine_than_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "data").mkdir(parents=True)
    (tmp_path / "deep" / "data" / "a.jsonl").write_text(ROW, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "deep")
    for typed in ("data/a.jsonl", str(tmp_path / "deep" / "data" / "a.jsonl"), "./data/../data/a.jsonl"):
        assert read_rows(typed)[0].source == "data/a.jsonl"


def test_every_error_is_of_our_own() -> None:
    assert issubclass(RowError, SourceError)
    assert issubclass(SourceError, KtodataError)


def make_folder(folder: Path, kind: str) -> None:
    """A SOURCE that is no file of rows."""
    good = folder / "good.jsonl"
    good.write_text(ROW, encoding="utf-8")
    place = folder / "a.jsonl"
    if kind in ("empty", "no data", "splits", "no parts", "no rows", "other split"):
        place.mkdir()
    if kind == "no data":
        (place / "README.md").write_text("hello", encoding="utf-8")
    elif kind == "splits":
        (place / "dataset_dict.json").write_text('{"splits": ["train"]}', encoding="utf-8")
    elif kind == "no parts":
        (place / "dataset_dict.json").write_text('{"splits": ', encoding="utf-8")
    elif kind == "no rows":
        (place / "state.json").write_text("{}", encoding="utf-8")
        (place / "dataset_info.json").write_text("{}", encoding="utf-8")
    elif kind == "other split":
        (place / "test.jsonl").write_text(ROW, encoding="utf-8")
    elif kind == "circle":
        place.symlink_to(folder / "b.jsonl")
        (folder / "b.jsonl").symlink_to(place)
    elif kind == "dangling":
        place.symlink_to(folder / "gone.jsonl")
    elif kind == "null device":
        place.symlink_to("/dev/null")
    elif kind == "below a file":
        place.symlink_to(good / "a.jsonl")


FOLDERS = {
    "empty": "no data files. It needs",
    "no data": "no data files. It needs",
    "splits": "not a readable dataset folder: No such files",
    "no parts": "not a readable dataset folder: Expecting value",
    "no rows": "not a readable dataset folder: no '_data_files'",
    "other split": "no split 'train'. It has: test",
    "circle": "no such file or folder",
    "dangling": "no such file or folder",
    "null device": "the file is empty: no rows in it",
    "below a file": "",
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_what_is_no_file_of_rows_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    make_folder(tmp_path, kind)
    with pytest.raises(SourceError) as caught:
        read_rows(str(tmp_path / "a.jsonl"))
    assert str(caught.value).startswith(f"{tmp_path / 'a.jsonl'}: {FOLDERS[kind]}")
    assert "\n" not in str(caught.value)

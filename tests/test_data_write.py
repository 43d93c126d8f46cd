"""Writing: atomic, checked before any work, deterministic."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktodata.errors import UsageError, WriteError
from ktodata.io import Quarantine, atomic_file, check_output, read_rows, write_rows
from ktodata.schema import Row, make_row


def rows(count: int = 3) -> list[Row]:
    return [make_row(f"p{n}", f"c{n}", n % 2 == 0, source="s", origin="pair") for n in range(count)]


def failing() -> Iterator[Row]:
    yield from rows()
    raise RuntimeError("in the middle")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"rows{suffix}"
    out.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError, match="in the middle"):
        write_rows(failing(), str(out))
    assert out.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_file(out) as stream:
        stream.write(b"half")
        stream.flush()
        assert not out.exists()
    assert out.read_bytes() == b"half"


def test_permissions_are_those_of_a_new_file_or_of_the_old_one(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_rows(rows(), str(tmp_path / "new.jsonl"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new.jsonl").stat().st_mode) == 0o640
    (tmp_path / "new.jsonl").chmod(0o604)
    write_rows(rows(), str(tmp_path / "new.jsonl"))
    assert stat.S_IMODE((tmp_path / "new.jsonl").stat().st_mode) == 0o604


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old", encoding="utf-8")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    write_rows(rows(), str(tmp_path / "link.jsonl"))
    assert (tmp_path / "link.jsonl").is_symlink()
    assert "p0" in (tmp_path / "real.jsonl").read_text(encoding="utf-8")


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown suffix '.foo'. Known: .jsonl, .jsonl.gz, .json, .csv, .parquet"):
        check_output(str(tmp_path / "a.foo"))
    with pytest.raises(UsageError, match="no suffix that tells the format"):
        check_output(str(tmp_path / "rows"))
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UsageError, match="is a pipe, not a file to write"):
        check_output(str(tmp_path / "pipe.jsonl"))
    with pytest.raises(UsageError, match="is a device"):
        Quarantine("/dev/null")
    assert (tmp_path / "pipe.jsonl").is_fifo()
    with pytest.raises(UsageError, match="is a folder"):
        check_output(str(tmp_path / "folder.jsonl"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(WriteError, match="is not a folder"):
        check_output(str(tmp_path / "file" / "below" / "a.jsonl"))
    check_output(str(tmp_path / "many" / "new" / "folders" / "a.jsonl"))
    check_output("-")
    assert not (tmp_path / "many").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="No permission"):
        check_output(str(tmp_path / "a.jsonl"))


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match=r"a\.jsonl: cannot be written: No space left on device"):
        write_rows(rows(), str(tmp_path / "a.jsonl"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_holds_one_kind(tmp_path: Path) -> None:
    chat = make_row([], [{"role": "assistant", "content": "c"}], True, source="s", origin="pair")
    with pytest.raises(WriteError, match="rows of both kinds, text and chat"):
        write_rows([*rows(), chat], str(tmp_path / "a.parquet"))
    assert list(tmp_path.iterdir()) == []


def test_the_quarantine_file_is_always_made_but_not_after_an_error(tmp_path: Path) -> None:
    with Quarantine(tmp_path / "empty.jsonl"):
        pass
    assert (tmp_path / "empty.jsonl").read_bytes() == b""

    def fail() -> None:
        with Quarantine(tmp_path / "none.jsonl") as quarantine:
            quarantine.add("bad", where="here", record={})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not (tmp_path / "none.jsonl").exists()
    with Quarantine(None) as quarantine:
        quarantine.add("bad", where="here", record={})
    assert quarantine.count == 1


def test_a_carriage_return_in_csv_is_text(tmp_path: Path) -> None:
    rows = [
        make_row("p\rq", "c\r", True, source="s", origin="pair"),
        make_row("p", "c", True, source="s", origin="pair"),
    ]
    write_rows(rows, str(tmp_path / "a.csv"))
    assert read_rows(str(tmp_path / "a.csv")) == rows
    assert b"\np,c,true," in (tmp_path / "a.csv").read_bytes(), "other rows get no quotes"

"""Chats with a message a record: read twice, and not held; what can be read only once is set aside."""

import json
import os
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner

from ktodata.chats.export import chat_records
from ktodata.chats.tables import Fields
from ktodata.chats.voice import voice_of
from ktodata.cli import main


def written(path: Path, count: int) -> str:
    lines = (
        json.dumps({"chat": f"c{n // 40}", "author": "Anna" if n % 2 else "Bob", "time": n * 60, "text": f"{n} " * 99})
        for n in range(count)
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_messages_are_not_held(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", 12_000)
    tracemalloc.start()
    try:
        _, raws = chat_records(source, voice_of(["Anna"]), fields=Fields())
        assert sum(1 for _ in raws) == 12_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < Path(source).stat().st_size / 2


def test_what_comes_by_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", 1500)
    options = ["--speaker", "Anna", "--limit", "1200"]
    outs = {name: tmp_path / f"{name}.jsonl" for name in ("file", "stdin", "pipe")}
    pipe = tmp_path / "named.jsonl"
    os.mkfifo(pipe)
    feed = threading.Thread(target=lambda: pipe.write_bytes(Path(source).read_bytes()))
    feed.start()
    for name, where in (("file", source), ("stdin", "-"), ("pipe", str(pipe))):
        given = Path(source).read_bytes() if name == "stdin" else None
        result = CliRunner().invoke(main, ["label", where, "-o", str(outs[name]), *options], input=given)
        assert result.exit_code == 0, result.stderr
    feed.join()
    ids = [sorted(json.loads(line)["id"] for line in out.read_text().splitlines()) for out in outs.values()]
    assert ids[0] == ids[1] == ids[2]
    assert len(ids[0]) == 600


def test_no_room_for_what_comes_by_a_pipe_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    line = json.dumps({"author": "Anna", "time": 1, "text": "x"})
    result = CliRunner().invoke(main, ["label", "-", "-o", "-", "--speaker", "Anna"], input=line)
    assert result.exit_code == 1
    assert "what came in cannot be set aside: No space left on device. Free some space there" in result.stderr
    assert result.stderr.count("\n") == 1

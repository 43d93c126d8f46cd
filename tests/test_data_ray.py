"""`--engine ray`: the per-row work on a Ray cluster of two workers, with the bytes that this machine alone gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


pytest.importorskip("ray", reason="the extra `ray` is not installed")


def ktodata(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Without an address, a cluster of so many workers is started on loopback, and ended again.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-m", "ktodata", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def save(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What is {n} and {n}?", "chosen": f"That makes {2 * n}, as anybody would say.", "rejected": "No."}
        for n in range(count)
    ]


def test_a_cluster_gives_the_bytes_of_this_machine(tmp_path: Path) -> None:
    source = save(tmp_path / "pairs.jsonl", pairs(1700))
    for name, options in (("local", []), ("ray", ["--engine", "ray", "--workers", "2"])):
        rows = str(tmp_path / f"{name}.parquet")
        done = ktodata("unpair", source, "-o", rows, *options)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        out = str(tmp_path / f"{name}-negatives.jsonl")
        more = ["--strategy", "corrupt", "--only", "--no-leakage"]
        done = ktodata("negatives", rows, "-o", out, *more, *options)
        assert done.returncode == 0, done.stderr
    for name in (".parquet", "-negatives.jsonl"):
        local, on_ray = ((tmp_path / f"{engine}{name}").read_bytes() for engine in ("local", "ray"))
        if name == "-negatives.jsonl":  # the provenance of a file that names none is the file's name
            local = local.replace(b"local.parquet", b"ray.parquet")
        assert local == on_ray


def test_a_bad_record_on_a_worker_is_one_line(tmp_path: Path) -> None:
    source = save(tmp_path / "pairs.jsonl", [*pairs(600), {"prompt": "p", "chosen": 3, "rejected": "r"}])
    done = ktodata("unpair", source, "-o", str(tmp_path / "o.jsonl"), "--engine", "ray")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"{source}:601: chosen is int 3" in done.stderr
    assert not (tmp_path / "o.jsonl").exists()

"""`--engine ray`: the per-row work on a Ray cluster of two workers, with the bytes that this machine alone gives."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ktodata.cli import main

pytestmark = pytest.mark.slow


pytest.importorskip("ray", reason="the extra `ray` is not installed")


def ktodata(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ktodata", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(autouse=True)
def a_cluster_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address, a cluster of so many workers is started on loopback, and ended again."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


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


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "nobody answers at 127.0.0.1:1 (Connection refused)"),
        ("ray://127.0.0.1:1", "nobody answers at ray://127.0.0.1:1"),
        ("nonsense", "Invalid address format: nonsense"),
        ("127.0.0.1:99999", "Port out of range"),
    ],
)
def test_where_no_cluster_answers_it_is_said_at_once(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    done = ktodata(
        "unpair", save(tmp_path / "pairs.jsonl", pairs(3)), "-o", str(tmp_path / "o.jsonl"), "--engine", "ray"
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"error: no Ray cluster: {message}" in done.stderr
    assert done.stderr.endswith("Look at RAY_ADDRESS\n")


def test_without_ray_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    source = save(tmp_path / "pairs.jsonl", pairs(3))
    done = CliRunner().invoke(main, ["unpair", source, "-o", str(tmp_path / "o.jsonl"), "--engine", "ray"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "--engine ray needs Ray, which is not installed. pip install 'ktokit[ray]'" in done.stderr

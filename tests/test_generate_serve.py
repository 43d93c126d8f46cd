"""`base` against a real server, `transformers serve` with the tiny model, behind a proxy that fails."""

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from forked import Forked
from model_server import Body, forwarding, serving

from ktodata.io import read_rows, write_rows

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "recipes" / "quickstart"
missing = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"`transformers serve` needs {', '.join(missing)}"),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL of a real server, without /v1, and the name of its model."""
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(QUICKSTART / "model", folder)
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    # `transformers serve` takes a temperature, but samples only if the model's own settings say so.
    (folder / "generation_config.json").write_text(json.dumps(settings | {"do_sample": True}), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", serve, "serve", str(folder), "--host", "127.0.0.1", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for _ in range(600):
            assert process.poll() is None, "the server did not start"
            with contextlib.suppress(OSError), opener.open(f"{url}/health", timeout=2):
                break
            time.sleep(0.2)
        yield url, str(folder)
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.timeout(900)
def test_with_failures_and_five_kills_it_gives_what_a_quiet_run_gives(
    real_server: tuple[str, str], tmp_path: Path
) -> None:
    url, model = real_server
    write_rows(read_rows(str(QUICKSTART / "chats.jsonl"))[:24], str(tmp_path / "rows.jsonl"))
    out, rng, failed = tmp_path / "out.jsonl", random.Random(5), list[str]()

    def fail(number: int, body: Body) -> str:
        what = rng.choice(["429 0.05", "500", "503", "half", "drop", "malformed", "hang", *[""] * 14])
        if what == "hang" and what in failed:  # each takes the client's whole timeout
            what = ""
        failed.append(what)
        return what

    def command(at: str) -> list[str]:
        # One at a time: this server has one random state for all requests, which each seeds anew.
        settings = {
            "url": f"{at}/v1",
            "model": model,
            "max_tokens": 40,
            "concurrency": 1,
            "backoff": 0.01,
            "timeout": 10,  # a busy machine is no failing server
            "retries": 15,
        }
        sets = [part for name, value in settings.items() for part in ("--set", f"base.{name}={value}")]
        return ["-m", "ktodata", "negatives", str(tmp_path / "rows.jsonl"), "-o", str(out), "--only",
                "--strategy", "base", *sets]  # fmt: skip

    def lines() -> int:
        return sum(path.read_bytes().count(b"\n") - 1 for path in tmp_path.glob("*.journal"))

    with serving(fail, answer=forwarding(url)) as proxy:
        at, kept = proxy.url.removesuffix("/v1"), 0
        for _ in range(5):
            process = Forked(*command(at), env=ENVIRONMENT)
            wanted = kept + rng.randrange(1, 5)
            while process.poll() is None and lines() < wanted:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.1)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, process.communicate()[1]
            kept = lines()
            assert kept >= wanted
            assert not out.exists()
        done = forked.run(*command(at), env=ENVIRONMENT, timeout=120)
        assert done.returncode == 0, done.stderr
        assert f"continuing with {kept} replies" in done.stderr
        assert {"500", "half", "malformed"} & set(failed)
        assert proxy.answered <= 24 + 5, "no finished reply is asked for twice"
        resumed = out.read_bytes()
        out.unlink()
        proxy.fail = lambda number, body: ""
        done = forked.run(*command(at), env=ENVIRONMENT, timeout=120)
        assert done.returncode == 0, done.stderr
    assert out.read_bytes() == resumed
    replies = {json.loads(line)["completion"][0]["content"] for line in resumed.splitlines()}
    assert len(replies) >= 22, "sampled, not one reply to all"


def test_text_rows_several_at_a_time_and_its_errors(real_server: tuple[str, str], tmp_path: Path) -> None:
    url, model = real_server
    texts = [{"prompt": f"User: hi number {n}\n\nAssistant:", "completion": " yo", "label": True} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")

    def run(*settings: str) -> subprocess.CompletedProcess[str]:
        sets = [part for one in (f"url={url}/v1", "max_tokens=24", *settings) for part in ("--set", f"base.{one}")]
        command = ["-m", "ktodata", "negatives", str(tmp_path / "rows.jsonl"), "--strategy", "base", "--only"]
        return forked.run(*command, "-o", str(tmp_path / "out.jsonl"), *sets, env=ENVIRONMENT, timeout=120)

    wrong = run("model=other")
    assert wrong.returncode == 1
    assert "Server is pinned to" in wrong.stderr
    strict = run(f"model={model}", "min_p=0.1")
    assert strict.returncode == 1
    assert "422" in strict.stderr
    assert "Options that the server does not know must stay at their defaults" in strict.stderr
    done = run(f"model={model}", "concurrency=4", "cut=keep")
    assert done.returncode == 0, done.stderr
    rows = read_rows(str(tmp_path / "out.jsonl"))
    assert len(rows) >= 10
    assert not any("\nUser:" in str(row.completion) for row in rows)

"""The back end for OpenAI-compatible servers, against a stand-in that fails in every way we know."""

import asyncio
import logging
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from model_server import Body, reply_to, serving

from ktodata.cli import main
from ktodata.errors import ModelError, UsageError
from ktodata.generate.contract import REFUSED, TOO_LONG, Outcome, Reply, Request, Sampling
from ktodata.generate.openai import Server
from ktodata.io import read_rows, write_rows
from ktodata.schema import Message, make_row

ONCE = ["429", "429 0.01", "500", "503", "half", "drop", "malformed", "page", "no choices", "hang"]
KEY = "sk-very-secret-0123456789"


def chat(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def requests(count: int) -> list[Request]:
    return [Request(f"k{n}", chat(f"question {n}"), 100 + n) for n in range(count)]


def ask(url: str, count: int = 1, **settings: Any) -> dict[str, Outcome]:
    known = settings.pop("known", ())
    options = {"model": "tiny", "sampling": Sampling(), "backoff": 0.001, "timeout": 20, **settings}
    asked = settings.get("requests") or requests(count)
    options.pop("requests", None)
    return {request.key: outcome for request, outcome in Server(url, **options).generate(asked, known=known)}


def expected(request: Request) -> Reply:
    return Reply(reply_to({"messages": request.prompt, "seed": request.seed}), "stop")


@pytest.mark.parametrize("failure", ONCE)
def test_what_passes_is_tried_again(failure: str) -> None:
    failed: set[int] = set()

    def fail(number: int, body: Body) -> str:
        if number > 0 and body["seed"] % 2 == 0 and body["seed"] not in failed:
            failed.add(body["seed"])
            return failure
        return ""

    with serving(fail) as stub:
        found = ask(stub.url, 12, timeout=0.3 if failure == "hang" else 20)
    assert found == {request.key: expected(request) for request in requests(12)}
    assert len(failed) >= 5
    assert len(stub.bodies) == 12 + len(failed)


def test_known_replies_are_not_asked_for() -> None:
    with serving() as stub:
        found = ask(stub.url, 6, known={"k1", "k4"})
    assert set(found) == {"k0", "k2", "k3", "k5"}
    assert len(stub.bodies) == 4


def test_requests_are_under_way_together_and_no_more_than_allowed() -> None:
    with serving(pace=0.05) as stub:
        ask(stub.url, 20, concurrency=5)
    assert stub.most_at_once == 5


def test_replies_come_as_they_finish() -> None:
    def fail(number: int, body: Body) -> str:
        if body["seed"] == 100:
            time.sleep(0.5)
        return ""

    with serving(fail) as stub:
        found = list(ask(stub.url, 4, concurrency=4))
    assert found[-1] == "k0"


def test_a_rate_limit_spreads_requests_evenly() -> None:
    with serving() as stub:
        ask(stub.url, 5, per_minute=1200.0)
    gaps = [later - earlier for earlier, later in zip(stub.times, stub.times[1:], strict=False)]
    assert stub.times[-1] - stub.times[0] >= 4 * 0.05 - 0.03, gaps


def test_retry_after_holds_all_requests() -> None:
    with serving(lambda number, body: "429 0.4" if number == 0 else "") as stub:
        ask(stub.url, 6, concurrency=1)
    assert stub.times[1] - stub.times[0] >= 0.39


def test_a_server_that_wants_hours_is_not_waited_for() -> None:
    with serving(lambda number, body: "429 7200") as stub, pytest.raises(ModelError, match="come back in 120 minutes"):
        ask(stub.url)


def test_what_a_request_holds() -> None:
    sampling = Sampling(temperature=1.3, top_p=0.9, top_k=50, min_p=0.05, repetition_penalty=1.1, max_tokens=7)
    text = "\n\nHuman: hi\n\nAssistant: yo\n\nHuman: bye\n\nAssistant:"
    both = [Request("a", chat("hi"), 1), Request("b", text, 2)]
    with serving() as stub:
        found = ask(stub.url, requests=both, sampling=sampling, extra='{"top_k": 3, "user": "x", "max_tokens": null}')
    bodies = {body["seed"]: body for body in stub.bodies}
    common = {"model": "tiny", "temperature": 1.3, "top_p": 0.9, "min_p": 0.05}
    common |= {"repetition_penalty": 1.1, "top_k": 3, "user": "x"}
    assert bodies[1] == {**common, "seed": 1, "messages": chat("hi")}
    assert bodies[2] == {**common, "seed": 2, "prompt": text, "stop": ["\nHuman:", "\nAssistant:"]}
    assert found["b"] == Reply(" " + reply_to({"prompt": text, "seed": 2}), "stop")
    with serving() as stub:
        ask(stub.url)
    assert set(stub.bodies[0]) == {"model", "seed", "temperature", "messages", "max_tokens"}, (
        "not all servers know more"
    )


def test_chats_as_plain_text() -> None:
    def talkative(path: str, body: Body) -> tuple[int, Any]:
        assert path.endswith("/v1/completions")
        return 200, {"choices": [{"text": " sure\n\nUser: and then?\n\nAssistant: no", "finish_reason": "length"}]}

    with serving(answer=talkative) as stub:
        found = ask(stub.url, chat="transcript")
    assert stub.bodies[0]["prompt"] == "User: question 0\n\nAssistant:"
    assert stub.bodies[0]["stop"] == ["\nUser:", "\nAssistant:"]
    assert found["k0"] == Reply(" sure\n", "stop"), "some servers do not stop"


@pytest.mark.parametrize(
    ("choice", "outcome"),
    [
        ({"message": {"content": "cut o"}, "finish_reason": "length"}, Reply("cut o", "length")),
        ({"message": {"content": None}, "finish_reason": "stop"}, Reply("", "stop")),
        ({"message": {"content": "x"}, "finish_reason": "content_filter"}, REFUSED),
        ({"message": {"content": "half \ud83d of a pair"}, "finish_reason": "stop"}, Reply("half � of a pair", "stop")),
    ],
)
def test_ways_to_finish(choice: Body, outcome: Outcome) -> None:
    with serving(answer=lambda path, body: (200, {"choices": [choice]})) as stub:
        assert ask(stub.url) == {"k0": outcome}


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        ("400 This model's maximum context length is 256 tokens. However, you requested 300.", TOO_LONG),
        ("400 the request exceeds the available context size: context length 512", TOO_LONG),
        ("400 blocked by content_filter", REFUSED),
    ],
)
def test_what_one_request_cannot_have_is_a_skip(failure: str, outcome: Outcome) -> None:
    with serving(lambda number, body: failure if body["seed"] == 100 else "") as stub:
        found = ask(stub.url, 3)
    assert found == {"k0": outcome, "k1": expected(requests(3)[1]), "k2": expected(requests(3)[2])}


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("500 out of memory", "the server answers 500 Internal Server Error: out of memory, in 3 tries"),
        ("half", r"the connection broke \(.*\), in 3 tries"),
        ("malformed", "the answer is no JSON object, in 3 tries"),
        ("no choices", "the answer holds no reply, in 3 tries"),
        ("429 0", "429 Too Many Requests: slow down, in 3 tries"),
        ("403 not yours", "403 Forbidden: not yours. Name the environment variable"),
        ("400 no chat_template", "400 Bad Request: no chat_template. If its model has no chat template"),
        ("400 not supported in the v1/completions endpoint", "It takes chats only: `ktodata unpair FILE --as chat`"),
        ("422 Unexpected fields: min_p", "422 .*min_p. Options that the server does not know"),
    ],
)
def test_what_does_not_pass_is_one_error(failure: str, message: str) -> None:
    with serving(lambda number, body: failure) as stub, pytest.raises(ModelError, match=message):
        ask(stub.url, 4, retries=2)
    assert "Traceback" not in message


def test_what_was_answered_before_an_error_is_handed_over() -> None:
    found: list[str] = []
    with serving(lambda number, body: "403 enough" if number >= 5 else "") as stub:
        server = Server(stub.url, model="tiny", sampling=Sampling(), concurrency=1)
        replies = server.generate(requests(9), known=())
        with pytest.raises(ModelError):
            found.extend(request.key for request, _ in replies)
    assert len(found) == 5


def test_inside_an_event_loop_it_says_what_to_do() -> None:
    async def inside(url: str) -> tuple[str, dict[str, Outcome]]:
        with pytest.raises(ModelError, match=r"as in a notebook\. Call it by asyncio") as caught:
            ask(url)
        return str(caught.value), await asyncio.to_thread(ask, url)

    with serving() as stub:
        assert asyncio.run(inside(stub.url))[1] == {"k0": expected(requests(1)[0])}


def test_the_only_model_is_found() -> None:
    with serving() as stub:
        assert Server(stub.url, sampling=Sampling()).model == "tiny"
    many = {"data": [{"id": "a"}, {"id": "b"}]}
    with serving(answer=lambda path, body: (200, many)) as stub, pytest.raises(ModelError, match="It lists: a, b"):
        Server(stub.url, sampling=Sampling())


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://", "", "http://me:pass@host/v1", "http://h/v1?k=1"]
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Server(url, model="x", sampling=Sampling())
    assert "pass@" not in str(caught.value)


# -------------------------------------------------------------------------------- the command line


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [
        make_row(chat(f"prompt {n}"), [{"role": "assistant", "content": f"fine {n}"}], True, source="s", origin="pair")
        for n in range(40)
    ]
    write_rows(rows, str(tmp_path / "rows.jsonl"))
    return tmp_path / "rows.jsonl"


def arguments(source: Path, url: str, *settings: str) -> list[str]:
    given = [f"base.url={url}", "base.model=tiny", "base.backoff=0.001", *settings]
    sets = [part for setting in given for part in ("--set", setting)]
    return ["negatives", str(source), "-o", str(source.with_name("out.jsonl")), "--strategy", "base", "--only", *sets]


def run(source: Path, url: str, *settings: str) -> Result:
    return CliRunner().invoke(main, arguments(source, url, *settings))


def journals(source: Path) -> list[Path]:
    return sorted(source.parent.glob("*.journal"))


def test_from_the_command_line(source: Path) -> None:
    with serving() as stub:
        result = run(source, stub.url)
    assert result.exit_code == 0, result.output
    rows = read_rows(str(source.with_name("out.jsonl")))
    assert len({row.completion[0]["content"] for row in rows}) == 40  # type: ignore[index, call-overload]
    assert {row.strategy for row in rows} == {"base"}
    assert not journals(source), "the output holds what it did"


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (lambda number, body: "500", "500 Internal Server Error"),
        (lambda number, body: "401", "401 Unauthorized"),
        (lambda number, body: "malformed", "the answer is no JSON object"),
    ],
)
def test_errors_are_one_line_and_leave_nothing_half_written(
    source: Path, failure: Callable[[int, Body], str], message: str
) -> None:
    with serving(failure) as stub:
        result = run(source, stub.url, "base.retries=1")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {stub.url}: the ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not source.with_name("out.jsonl").exists()


def test_a_server_that_is_down(source: Path) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        result = run(source, f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "base.retries=2")
    assert result.exit_code == 1
    assert "the server cannot be reached" in result.stderr
    assert "in 3 tries. Is the server up" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_wrong_model_name_is_told_in_the_servers_words(source: Path) -> None:
    with serving() as stub:
        misspelt = [part.replace("base.model=tiny", "base.model=tinny") for part in arguments(source, stub.url)]
        result = CliRunner().invoke(main, misspelt)
    assert result.exit_code == 1
    assert "404 Not Found: The model `tinny` does not exist. Asked for model 'tinny'; look at its name" in result.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("base.key_env=KTOKIT_TEST_KEY", "the environment variable KTOKIT_TEST_KEY is not set"),
        (f"base.key_env={KEY}", "base.key_env is no name of an environment variable"),
        ("base.chat=template", "A server applies its own"),
        ("base.extra=[1]", "base.extra is no JSON object"),
        ("base.backend=vllm", "base.url is for the back end openai"),
    ],
)
def test_options_that_do_not_fit(source: Path, setting: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KTOKIT_TEST_KEY", raising=False)
    result = run(source, "http://127.0.0.1:9/v1", setting)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert KEY not in result.output


@pytest.mark.slow
def test_the_key_is_sent_and_shown_nowhere(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KTOKIT_TEST_KEY", KEY)
    shown = []
    with caplog.at_level(logging.DEBUG):
        for failure in ("401", "500", "half", "malformed", ""):
            with serving(lambda number, body, failure=failure: failure if number else "") as stub:
                result = run(source, stub.url, "base.key_env=KTOKIT_TEST_KEY", "base.retries=1", "base.concurrency=1")
            assert {name.lower(): value for name, value in stub.headers[0].items()}["authorization"] == f"Bearer {KEY}"
            shown += [result.output, repr(result.exception)]
            if failure == "401":
                assert "Incorrect API key provided: Bearer [key]" in result.stderr
                assert "finished replies are kept in" in result.stderr
    written = [path.read_text(encoding="utf-8") for path in source.parent.iterdir() if path.is_file()]
    assert len(written) >= 2
    assert KEY not in "".join([*shown, *written, caplog.text])


def test_no_key_is_sent_unasked(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as stub:
        assert run(source, stub.url).exit_code == 0
    assert not any("authorization" in {name.lower() for name in headers} for headers in stub.headers)


@pytest.mark.slow
def test_a_run_that_failed_goes_on_where_it_was(source: Path) -> None:
    with serving(lambda number, body: "403 enough" if number >= 15 else "") as stub:
        result = run(source, stub.url, "base.concurrency=1")
        assert "15 finished replies are kept in" in result.stderr
        assert "run the same again" in result.stderr
        assert len(journals(source)) == 1
        stub.fail = lambda number, body: ""
        assert run(source, stub.url, "base.temperature=1").exit_code == 0, "another temperature: another journal"
        assert len(stub.bodies) == 16 + 40
        assert len(journals(source)) == 1
        again = run(source, stub.url, "base.concurrency=3")
        assert again.exit_code == 0, again.output
        assert len(stub.bodies) == 16 + 40 + 25, "nothing is asked twice"
    assert not journals(source)
    resumed = source.with_name("out.jsonl").read_bytes()
    with serving() as stub:
        assert run(source, stub.url).exit_code == 0
    assert source.with_name("out.jsonl").read_bytes() == resumed


@pytest.mark.slow
def test_killed_five_times_it_gives_what_an_undisturbed_run_gives(source: Path) -> None:
    rng, out = random.Random(7), source.with_name("out.jsonl")
    odd: set[int] = set()

    def fail(number: int, body: Body) -> str:
        if body["seed"] % 5 == 0 and body["seed"] not in odd:
            odd.add(body["seed"])
            return rng.choice(["429 0", "500", "half", "drop", "malformed"])
        return ""

    with serving(fail, pace=0.02) as stub:
        command = [
            sys.executable,
            "-m",
            "ktodata",
            *arguments(source, stub.url, "base.concurrency=2"),
            "--per-row",
            "3",
        ]
        kept = 0
        for kill in range(5):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            wanted = kept + rng.randrange(3, 18)
            while process.poll() is None and _lines(source) < wanted:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.02)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, f"kill {kill} came too late"
            assert not out.exists()
            assert _lines(source) >= wanted
            kept = _lines(source)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "continuing with" in done.stderr
        assert stub.answered <= 120 + 5 * 2, "only what was under way when it was killed is asked again"
        resumed = out.read_bytes()
        out.unlink()
        assert CliRunner().invoke(main, [*command[3:]]).exit_code == 0
    assert out.read_bytes() == resumed
    assert len(resumed.splitlines()) == 120


def _lines(source: Path) -> int:
    return sum(path.read_bytes().count(b"\n") - 1 for path in journals(source))

"""A stand-in for an OpenAI-compatible server, on loopback, that fails as it is told; also a proxy before a real one."""

import contextlib
import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Failure = Callable[[int, Body], str]
"""What to do with request number n (from 0): "" to answer it, or one of the handler's `FAILURES`."""


def reply_to(body: Body) -> str:
    """A reply that the prompt and the seed decide, as a real model's."""
    prompt = body.get("prompt") or json.dumps(body.get("messages"))
    return "well, " + hashlib.sha256(f"{prompt}/{body.get('seed')}".encode()).hexdigest()[:20]


def answer(path: str, body: Body) -> tuple[int, Any]:
    """What a working server says."""
    if path.endswith("/models"):
        return 200, {"object": "list", "data": [{"id": "tiny"}]}
    if body.get("model") != "tiny":
        return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist.", "code": "not_found"}}
    if path.endswith("/chat/completions"):
        choice = {"message": {"role": "assistant", "content": reply_to(body)}, "finish_reason": "stop"}
    else:
        choice = {"text": " " + reply_to(body), "finish_reason": "stop"}
    return 200, {"choices": [{"index": 0, **choice}]}


class Stub(ThreadingHTTPServer):
    """The server: `bodies`, `headers` and `times` of all requests so far, and how many were `answered`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, fail: Failure, answer: Callable[[str, Body], tuple[int, Any]], pace: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fail, self.answer, self.pace = fail, answer, pace
        self.bodies: list[Body] = []
        self.headers: list[Mapping[str, str]] = []
        self.times: list[float] = []
        self.answered = self.most_at_once = self._now = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed break connections: nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle({})

    def do_POST(self) -> None:
        self._handle(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _handle(self, body: Body) -> None:
        stub = self.server
        with stub.lock:
            number = len(stub.bodies)
            stub.bodies.append(body)
            stub.headers.append(dict(self.headers))
            stub.times.append(time.monotonic())
            stub._now += 1
            stub.most_at_once = max(stub.most_at_once, stub._now)
        try:
            what = stub.fail(number, body)
            time.sleep(stub.pace)
            if what:
                self._fail(what)
                return
            status, found = stub.answer(self.path, body)
            self._send(status, json.dumps(found).encode())
            with stub.lock:
                stub.answered += status == 200
        finally:
            with stub.lock:
                stub._now -= 1

    def _fail(self, what: str) -> None:
        key = self.headers.get("authorization", "")
        if what == "half":
            self._send(200, b'{"choices": [{"message": {"content": "half a re', length=4000)
            self.close_connection = True
        elif what == "drop":
            self.close_connection = True
        elif what == "hang":
            self.server.over.wait(30)
            self.close_connection = True
        elif what == "malformed":
            self._send(200, b'{"choices": [{"mess')
        elif what == "page":
            self._send(200, b"<html>the proxy says hello</html>")
        elif what == "no choices":
            self._send(200, b'{"choices": []}')
        elif what.startswith("429"):
            self._send(429, b'{"error": {"message": "slow down"}}', headers={"Retry-After": what[4:]})
        elif what == "401":
            self._send(401, json.dumps({"error": {"message": f"Incorrect API key provided: {key}."}}).encode())
        else:
            status, _, message = what.partition(" ")
            self._send(int(status), json.dumps({"error": {"message": message or "no luck"}}).encode())

    def _send(self, status: int, data: bytes, *, length: int = 0, headers: Mapping[str, str] | None = None) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(length or len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)


@contextlib.contextmanager
def serving(
    fail: Failure = lambda number, body: "",
    *,
    answer: Callable[[str, Body], tuple[int, Any]] = answer,
    pace: float = 0.0,
) -> Iterator[Stub]:
    """A server while the block runs; `pace` is how many seconds it takes for each request."""
    stub = Stub(fail, answer, pace)
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.over.set()
        stub.shutdown()
        stub.server_close()


def forwarding(url: str) -> Callable[[str, Body], tuple[int, Any]]:
    """Answers by the server at `url` (without /v1), for a proxy that fails now and then."""

    def forward(path: str, body: Body) -> tuple[int, Any]:
        request = urllib.request.Request(
            url + path, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, {"error": {"message": error.read().decode(errors="replace")}}

    return forward

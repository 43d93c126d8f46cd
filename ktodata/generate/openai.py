"""Replies by any server that speaks OpenAI's API: vLLM, llama.cpp, TGI, Ollama, `transformers serve`, the real one.

Messages go to `/chat/completions`, where the server applies the model's template, text to `/completions`. Only settings
that differ from the API's defaults are sent, since servers refuse fields that they do not know (`top_k`, `min_p` and
`repetition_penalty` are extensions). Each request carries its seed; what a server makes of it is the server's.

What passes is tried again: no connection, a connection that breaks or hangs, half a reply, no JSON, 408, 409, 425, 429
and 5xx, after a pause that doubles, with jitter, or as long as `Retry-After` says, for all requests. What does not
pass, such as a wrong key or model name, stops the run with the server's own words, the key taken out of them.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import AsyncGenerator, Callable, Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from ktodata.errors import ModelError, UsageError
from ktodata.generate.contract import REFUSED, TOO_LONG, Outcome, Reply, Request, Sampling
from ktodata.generate.render import size, stops_of, transcript, trim
from ktodata.generate.tokens import ChatForm
from ktodata.negatives.contract import Skip

if TYPE_CHECKING:
    import httpx2

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_LONGEST_PAUSE = 60.0  # seconds between two tries, unless the server asks for more
_MOST_PATIENCE = 600.0  # a server that asks for a longer pause than this has to be come back to
_SHOWN = 300  # characters of a server's message in an error
T = TypeVar("T")
Parse: TypeAlias = Callable[[dict[str, Any]], T]


class _Passing(Exception):  # noqa: N818 (never seen by a user)
    """Something that may be over at the next try; `after` seconds, if the server says when."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        super().__init__(what)
        self.after = after


class Server:
    """An OpenAI-compatible server as a back end. Nothing is sent before the first reply is asked for, but for the name
    of the model where none is given.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        key: str = "",
        sampling: Sampling,
        chat: ChatForm = "auto",
        concurrency: int = 8,
        retries: int = 6,
        backoff: float = 0.5,
        timeout: float = 300.0,
        per_minute: float = 0.0,
        extra: str = "",
    ) -> None:
        """`url` ends where `/chat/completions` is to follow, usually in `/v1`.

        Args:
            model: as the server calls it; if empty, the only one that it lists.
            key: sent as a bearer token, and shown nowhere.
            chat: "transcript" sends messages as plain text (see `ktodata.generate.render`) to `/completions`.
            concurrency: requests under way at a time.
            retries: more tries for a request that fails in a way that may pass.
            backoff: seconds before the first of those; twice as long before each next, up to a minute.
            timeout: seconds for one reply.
            per_minute: most requests started in a minute, evenly; 0 for no limit.
            extra: more fields of every request, as a JSON object; they go over ours, and null takes one out.

        Raises:
            UsageError: `url` is none or holds a password, or `extra` is no JSON object.
            ModelError: `model` is empty, and the server cannot be asked or has not exactly one.
        """
        self.url = _checked(url)
        self._key, self._sampling, self._chat = key, sampling, chat
        self._concurrency, self._retries, self._backoff = concurrency, retries, backoff
        self._timeout, self._pause = timeout, 60.0 / per_minute if per_minute else 0.0
        self._extra = _object(extra)
        self._slot = self._resume = 0.0  # when the next request may start: by our own limit, by the server's word
        self.model = model or self._only_model()

    @property
    def revision(self) -> str:
        """Which weights it is is the server's affair: all that can be told apart is where."""
        return self.url

    def generate(self, requests: Sequence[Request], *, known: Container[str]) -> Iterator[tuple[Request, Outcome]]:
        """See `Backend.generate`.

        Raises:
            ModelError: the server refuses, or fails for as many tries as there are.
        """
        missing = [request for request in requests if request.key not in known]
        _outside_of_loops()
        missing.sort(key=lambda request: (-size(request.prompt), request.key))  # longest first, as everywhere
        with asyncio.Runner() as runner:
            replies = self._replies(missing)

            async def following() -> tuple[Request, Outcome] | None:
                return await anext(replies, None)

            try:
                while (found := runner.run(following())) is not None:
                    yield found
            finally:
                runner.run(replies.aclose())

    async def _replies(self, requests: list[Request]) -> AsyncGenerator[tuple[Request, Outcome]]:
        todo, running = iter(requests), set[asyncio.Task[tuple[Request, Outcome]]]()
        async with self._client() as client:
            try:
                while True:
                    while len(running) < self._concurrency and (request := next(todo, None)) is not None:
                        running.add(asyncio.create_task(self._reply(client, request)))
                    if not running:
                        return
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    # What is there is handed over before anything is said of what went wrong.
                    for task in sorted(done, key=lambda task: task.exception() is not None):
                        yield task.result()
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def _reply(self, client: httpx2.AsyncClient, request: Request) -> tuple[Request, Outcome]:
        path, body, stops = self._body(request)
        return request, await self._tried(client, "POST", path, body, lambda answer: _read(answer, stops))

    def _body(self, request: Request) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        sampling = self._sampling
        stops: tuple[str, ...] = ()
        body: dict[str, Any] = {"model": self.model, "seed": request.seed, "temperature": sampling.temperature}
        if isinstance(request.prompt, str):
            path, stops = "completions", stops_of(request.prompt)
            body["prompt"] = request.prompt
        elif self._chat == "transcript":
            path = "completions"
            body["prompt"], stops = transcript(request.prompt)
        else:
            path = "chat/completions"
            body["messages"] = [dict(message) for message in request.prompt]
        body["max_tokens"] = sampling.max_tokens
        optional = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        changed = {name: getattr(sampling, name) for name in optional if getattr(sampling, name) != optional[name]}
        whole = {**body, **changed, **({"stop": list(stops)} if stops else {}), **self._extra}
        return path, {name: value for name, value in whole.items() if value is not None}, stops

    async def _tried(
        self, client: httpx2.AsyncClient, method: str, path: str, body: Mapping[str, Any] | None, parse: Parse[T]
    ) -> T | Skip:
        """The server's answer, tried for as often as is allowed; a Skip where it cannot serve this one request."""
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
        from tenacity.wait import wait_random_exponential

        growing = wait_random_exponential(multiplier=self._backoff, max=_LONGEST_PAUSE, min=self._backoff / 2)

        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(growing(state), error.after if isinstance(error, _Passing) else 0.0)

        trying = AsyncRetrying(
            stop=stop_after_attempt(self._retries + 1),
            wait=pause,
            retry=retry_if_exception_type(_Passing),
            reraise=True,
        )
        try:
            return await trying(self._once, client, method, path, body, parse)
        except _Passing as error:
            raise ModelError(
                f"{error}, in {self._retries + 1} tries",
                where=self.url,
                do="Is the server up, and is that its URL? More patience is the options retries and timeout",
            ) from None

    async def _once(
        self, client: httpx2.AsyncClient, method: str, path: str, body: Mapping[str, Any] | None, parse: Parse[T]
    ) -> T | Skip:
        import httpx2

        await self._turn()
        try:
            async with asyncio.timeout(self._timeout):
                response = await client.request(method, path, json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise _Passing(f"the server cannot be reached ({self._safe(error)})") from None
        except (TimeoutError, httpx2.TimeoutException):
            raise _Passing(f"no answer within {self._timeout:g} seconds") from None
        except httpx2.TransportError as error:
            raise _Passing(f"the connection broke ({self._safe(error)})") from None
        except httpx2.HTTPError as error:  # redirected, or encoded in a way that cannot be undone
            raise ModelError(f"the answer cannot be read: {self._safe(error)}", where=self.url) from None
        if response.status_code == 200:
            return parse(_json(response.text))
        return self._refusal(response)

    async def _turn(self) -> None:
        """Wait until the next request may start."""
        now = time.monotonic()
        start = max(now, self._slot)
        if self._pause:
            self._slot = start + self._pause
        while (wait := max(start, self._resume) - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def _refusal(self, response: httpx2.Response) -> Skip:
        """What an error status means: a Skip for this request, a `_Passing` for another try, the end for all."""
        status, (message, code) = response.status_code, _message(response.text)
        said = f"the server answers {status} {response.reason_phrase}".rstrip()
        said += f": {self._safe(message)}" if message else ""
        if status in PASSING and code != "insufficient_quota":
            after = _retry_after(response.headers.get("retry-after", ""))
            if after <= _MOST_PATIENCE:
                self._resume = max(self._resume, time.monotonic() + after)
                raise _Passing(said, after)
            raise ModelError(said, where=self.url, do=f"It asks to come back in {after / 60:.0f} minutes")
        if status in (400, 413, 422):
            words = f"{code} {message}".lower()
            if "context" in words and any(sign in words for sign in ("length", "maximum", "exceed", "long", "window")):
                return TOO_LONG
            if "content_filter" in words or "content_policy" in words:
                return REFUSED
        raise ModelError(said, where=self.url, do=self._advice(status, message))

    def _advice(self, status: int, message: str) -> str:
        if status in (401, 403):
            if self._key:
                return "Look at the key in the environment variable that the option key_env names"
            return "Name the environment variable that holds the key with the option key_env"
        if "chat template" in message or "chat_template" in message:
            return "If its model has no chat template, set the option chat to transcript"
        if "v1/completions" in message:
            return "It takes chats only: `ktodata unpair FILE --as chat` makes chats of text"
        if status in (404, 405):
            return f"Asked for model {self.model!r}; look at its name, and whether the URL should end in /v1"
        if status == 422 or any(word in message.lower() for word in ("unexpected", "unknown", "unsupported")):
            return "Options that the server does not know must stay at their defaults; null in extra takes a field out"
        return ""

    def _client(self) -> httpx2.AsyncClient:
        import httpx2

        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        return httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(self._timeout, connect=min(10.0, self._timeout), pool=None),
            limits=httpx2.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency),
            trust_env=not local,  # a proxy cannot reach this machine's own servers
        )

    def _only_model(self) -> str:
        async def listed() -> list[str] | Skip:
            async with self._client() as client:
                return await self._tried(client, "GET", "models", None, _names)

        _outside_of_loops()
        try:
            names = asyncio.run(listed())
        except ModelError as error:
            raise ModelError(error.what, where=self.url, do=f"{error.do}, or name the model to begin with") from error
        if isinstance(names, Skip) or len(names) != 1:
            known = (
                f"It lists: {', '.join(sorted(names)[:20])}"
                if names and not isinstance(names, Skip)
                else "It lists none"
            )
            do = f"Name one with the option model. {known}"
            raise ModelError("which of the server's models is to reply is not said", where=self.url, do=do)
        return names[0]

    def _safe(self, message: object) -> str:
        """A message on one line, not too long, and without the key, which some servers repeat."""
        text = " ".join(str(message).split()) or type(message).__name__
        text = text.replace(self._key, "[key]") if self._key else text
        return (text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…").rstrip(".")


def _outside_of_loops() -> None:
    """A loop of ours cannot run inside another: in a notebook, say.

    Raises:
        ModelError: there is one.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ModelError("an event loop is running here, as in a notebook", do="Call it by asyncio.to_thread(…)")


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is no URL of a server", do="Such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise UsageError("the URL of the server holds a password", do="Keep it in an environment variable: key_env")
    if parts.query or parts.fragment:
        raise UsageError("the URL of the server ends in a query", do="Further fields go into the option extra")
    return url.rstrip("/")


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError("extra is no JSON object", do='Such as {"top_k": 50}')
    return found


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _Passing("the answer is no JSON object")
    return found


def _read(answer: Mapping[str, Any], stops: Sequence[str]) -> Outcome:
    """The reply in an answer of either endpoint.

    Raises:
        _Passing: there is none; as from a server that is overloaded, or a proxy's page.
    """
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise _Passing("the answer holds no reply")
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    if choice.get("finish_reason") == "content_filter":
        return REFUSED
    if not isinstance(text, str | None) or (text is None and not isinstance(message, dict)):
        raise _Passing("the answer holds no reply")
    # JSON can spell half of a surrogate pair, which no file can hold.
    text, stopped = trim((text or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace"), stops)
    return Reply(text, "length" if choice.get("finish_reason") == "length" and not stopped else "stop")


def _names(answer: Mapping[str, Any]) -> list[str]:
    """The models in an answer of `/models`."""
    data = answer.get("data")
    return [str(entry.get("id")) for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def _message(text: str) -> tuple[str, str]:
    """What a server says about an error, and its code: there are as many forms as servers."""
    try:
        found = json.loads(text)
    except ValueError:
        return ("" if text.lstrip().startswith("<") else text, "")
    if not isinstance(found, dict):
        return str(found), ""
    error = found.get("error", found)
    if not isinstance(error, dict):
        return str(error), ""
    message = next((error[name] for name in ("message", "detail", "msg", "error") if error.get(name)), "")
    return (message if isinstance(message, str) else json.dumps(message)), str(
        error.get("code") or error.get("type") or ""
    )


def _retry_after(value: str) -> float:
    """Seconds that a `Retry-After` header asks for, as a number or a date; 0 if it says nothing that can be read."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0

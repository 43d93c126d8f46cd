"""The options of every strategy that asks a model, and the back end they choose."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ktodata.errors import ModelError, UsageError
from ktodata.generate.contract import Backend, Sampling
from ktodata.negatives.contract import Option

MODEL_OPTIONS: Mapping[str, Option] = {
    "model": Option(kind="text", default="", reads=True, help="A Hub id or a folder; on a server, its name there."),
    "url": Option(
        kind="text",
        default="",
        help="An OpenAI-compatible server that has the model, such as http://127.0.0.1:8000/v1.",
    ),
    "backend": Option(
        kind="choice",
        default="auto",
        choices=("auto", "transformers", "openai", "vllm"),
        help="Who runs the model; auto is openai where there is a url, else transformers.",
    ),
    "revision": Option(kind="text", default="", help="A branch, tag or commit of a Hub id; the newest if empty."),
    "temperature": Option(
        kind="float", default=1.0, low=0, help="How far sampling strays from the likeliest tokens; 0 takes those."
    ),
    "top_p": Option(
        kind="float",
        default=1.0,
        low=0,
        high=1,
        open_low=True,
        help="Sample from the likeliest tokens that make up this share of the probability.",
    ),
    "top_k": Option(kind="int", default=0, low=0, help="Sample from this many likeliest tokens; 0 for all."),
    "min_p": Option(
        kind="float",
        default=0.0,
        low=0,
        high=1,
        help="Leave out tokens less likely than this share of the likeliest one's probability.",
    ),
    "repetition_penalty": Option(
        kind="float",
        default=1.0,
        low=0,
        open_low=True,
        help="Divide the score of tokens that have occurred; 1 for none, below 1 makes a model repeat itself.",
    ),
    "max_tokens": Option(kind="int", default=256, low=1, help="Most tokens of a reply."),
    "cut": Option(
        kind="choice",
        default="sentence",
        choices=("sentence", "keep", "skip"),
        help="A reply that max_tokens broke off: back to its last whole sentence, kept as it is, or not used.",
    ),
    "chat": Option(
        kind="choice",
        default="auto",
        choices=("auto", "template", "transcript"),
        help="How a chat is put to the model: by its chat template, as plain text with names before the turns, or by "
        "the template if it has one (a server is taken to have one).",
    ),
    "batch": Option(kind="int", default=32, low=1, help="Replies made at once (transformers and vllm)."),
    "batching": Option(
        kind="choice",
        default="static",
        choices=("static", "continuous"),
        help="continuous lets the next prompt in as soon as a reply is done, for replies of very different lengths "
        "(transformers).",
    ),
    "device": Option(
        kind="choice",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="Where the model runs (transformers).",
    ),
    "precision": Option(
        kind="choice",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="Type of the weights; auto is float32 on a CPU, else the checkpoint's own.",
    ),
    "concurrency": Option(kind="int", default=8, low=1, help="Requests to a server that are under way at a time."),
    "per_minute": Option(
        kind="float", default=0.0, low=0, help="Most requests to a server in a minute; 0 for no limit."
    ),
    "retries": Option(
        kind="int", default=6, low=0, help="More tries of a request that fails in a way that may pass (429, 500 …)."
    ),
    "backoff": Option(
        kind="float", default=0.5, low=0, help="Seconds before the first of those; twice as many before each next."
    ),
    "timeout": Option(kind="float", default=300.0, low=0, open_low=True, help="Seconds to wait for one reply."),
    "key_env": Option(
        kind="text",
        default="",
        help="Name of the environment variable that holds the server's key; without one, no key is sent.",
    ),
    "extra": Option(
        kind="text", default="", help="More fields for every request to a server, as JSON; null takes one out."
    ),
}
# What decides a reply; the rest (concurrency, patience, batch sizes) may change between a killed run and the next.
DECISIVE = (
    "backend",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_tokens",
    "chat",
    "device",
    "precision",
    "extra",
)


def sampling_of(options: Mapping[str, Any]) -> Sampling:
    """The part of the options that is about sampling."""
    return Sampling(
        temperature=options["temperature"],
        top_p=options["top_p"],
        top_k=options["top_k"],
        min_p=options["min_p"],
        repetition_penalty=options["repetition_penalty"],
        max_tokens=options["max_tokens"],
    )


def backend_of(options: Mapping[str, Any]) -> str:
    """The back end that the options mean, `auto` resolved."""
    named: str = options["backend"]
    if named != "auto":
        return named
    return "openai" if options["url"] else "transformers"


def open_backend(options: Mapping[str, Any], *, strategy: str) -> Backend:
    """The back end that the options choose.

    Raises:
        UsageError: no model and no URL, one that does not go with the other, a key that is not there.
        ModelError: see the back ends.
    """
    kind, model = backend_of(options), options["model"]
    common = {"sampling": sampling_of(options), "chat": options["chat"]}
    if kind == "openai":
        if not options["url"]:
            raise UsageError(
                f"{strategy}.url is not given", do=f"Such as --set {strategy}.url=http://127.0.0.1:8000/v1"
            )
        if options["chat"] == "template":
            raise UsageError(f"{strategy}.chat is 'template'", do="A server applies its own: leave it at auto")
        from ktodata.generate.openai import Server

        names = ("concurrency", "retries", "backoff", "timeout", "per_minute", "extra")
        more = {name: options[name] for name in names}
        key = _key(options["key_env"], strategy)
        try:
            return Server(options["url"], model=model, key=key, **common, **more)
        except UsageError as error:
            # It knows its own arguments, not what they are called here.
            what = error.what if error.what.startswith("extra ") else f"url: {error.what}"
            do = re.sub(r"\b(key_env|option extra)$", lambda found: f"{strategy}.{found[0].split()[-1]}", error.do)
            raise UsageError(f"{strategy}.{what}", do=do) from None
    if options["url"]:
        raise UsageError(f"{strategy}.url is for the back end openai", do=f"Leave out {strategy}.backend, or the url")
    if not model:
        raise UsageError(
            f"{strategy}.model is not given",
            do=f"--set {strategy}.model=FOLDER or a Hub id, or --set {strategy}.url=http://… for a server",
        )
    local = {"revision": options["revision"], "batch": options["batch"], "precision": options["precision"]}
    if kind == "vllm":
        from ktodata.generate.vllm import Vllm

        return Vllm(model, **common, **local)
    from ktodata.generate.transformers import Transformers

    return Transformers(model, batching=options["batching"], device=options["device"], **common, **local)


def _key(variable: str, strategy: str) -> str:
    """The key in an environment variable; it never shows in what is raised.

    Raises:
        UsageError: that is no name of a variable (a key itself, perhaps).
        ModelError: there is none, or none that a header can hold.
    """
    if not variable:
        return ""
    if not re.fullmatch("[A-Z_][A-Z0-9_]*", variable):  # which no key is
        raise UsageError(
            f"{strategy}.key_env is no name of an environment variable",
            do="It takes a name in capitals, such as OPENAI_API_KEY, never the key itself",
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ModelError(f"the environment variable {variable} is not set", do="It should hold the server's key")
    if not key.isascii() or not key.isprintable():
        raise ModelError(f"the environment variable {variable} holds no key: it is not plain ASCII")
    return key

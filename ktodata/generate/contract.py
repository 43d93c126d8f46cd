"""What a back end is: something that replies to requests, each with a seed of its own.

A back end knows nothing of rows, strategies or journals. What it yields for a request depends on the request and on
its own settings; where floats or another's server decide more than that, its module says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence
from typing import Literal, Protocol, TypeAlias

from ktodata.negatives.contract import Skip
from ktodata.schema import Text

TOO_LONG = Skip("prompt longer than the model's context")
REFUSED = Skip("refused by the server's content filter")
UNRENDERED = Skip("the chat template refuses the conversation")


@dataclasses.dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the likeliest; `top_k` 0, `top_p` 1, `min_p` 0 and
    `repetition_penalty` 1 leave the distribution as it is; `max_tokens` is the most a reply may have.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 256


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One question. `key` names it in the journal; `prompt` is text to be continued verbatim, or the messages before
    the reply; `seed`, below 2**31, decides every draw.
    """

    key: str
    prompt: Text
    seed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What a model said, without stop strings and special tokens. `finish` is "length" where it had no room left."""

    text: str
    finish: Literal["stop", "length"]


Outcome: TypeAlias = Reply | Skip


class Backend(Protocol):
    """A model that can be asked. `model` and `revision` say which one, for journal and card."""

    @property
    def model(self) -> str:
        """Hub id, folder, or the name that a server has for it."""

    @property
    def revision(self) -> str:
        """The commit of a Hub id, a hash of a folder's files, or the URL of a server."""

    def generate(self, requests: Sequence[Request], *, known: Container[str]) -> Iterator[tuple[Request, Outcome]]:
        """Outcomes in the order in which they finish, of every request whose key is not `known`.

        All requests are given, the known ones too: what is computed together may depend on the whole list, never on
        how much of it was known.

        Raises:
            ModelError: the model or its server cannot be used.
        """

"""What may be shown of a text that somebody else wrote: no credentials, no control characters, no end of it.

Everything that goes to stderr passes through `printable`. ktotrain.redact is the same for the other package, which
may not import this one; a test holds the two together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "[hidden]"
LONGEST = 10_000
# What stands before the host of an address: https://user:password@host
_IN_ADDRESS = re.compile(r"(?<=://)(?:[^/@\s'\"]+|[^@\s'\"]*:[^@\s'\"]*)(?=@)")
_IN_QUERY = re.compile(
    r"(?<=[?&])([\w.-]*(?:token|key|secret|password|signature|credential)=)[^&#\s'\"]+", re.IGNORECASE
)
# Tokens of the Hugging Face Hub, OpenAI and its like, GitHub, AWS, Slack, by the beginnings that they have for this.
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[A-Z0-9]{16}|xox[abprs]-[\w-]{10,})"
)
_SECRET_NAME = re.compile(
    r"(?:token|secret|passw(?:or)?d|passphrase|credentials?|(?:api|access|private|secret)_?key)$", re.IGNORECASE
)
# C0 and C1 control characters, which could move a terminal's cursor, and marks that turn the direction of text round.
# Newline and tab stay.
_CONTROLS = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*(set(range(0x20)) - {0x09, 0x0A}), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def is_secret_name(name: str) -> bool:
    """Whether a key or variable of this name holds a secret: `hub_token`, `WANDB_API_KEY`."""
    return bool(_SECRET_NAME.search(name.strip().replace("-", "_")))


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text with every password, token and secret of the environment in it replaced."""
    for name, value in environment.items():
        if len(value) >= 8 and is_secret_name(name):
            text = text.replace(value, HIDDEN)
    text = _IN_QUERY.sub(rf"\g<1>{HIDDEN}", _IN_ADDRESS.sub(HIDDEN, text))
    return _TOKEN.sub(HIDDEN, text)


def printable(text: object, longest: int = LONGEST) -> str:
    """A text fit for a terminal or a log: redacted, control characters spelled out, and cut if it is very long."""
    shown = redacted(str(text)).replace("\r\n", "\n").translate(_CONTROLS).encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= longest else f"{shown[: longest // 2]} … {shown[-longest // 4 :]}"

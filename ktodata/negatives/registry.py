"""All strategies for synthetic negatives. One file each; to add one, write its file and name it here."""

from __future__ import annotations

from ktodata.negatives.base import BASE
from ktodata.negatives.contract import Strategy
from ktodata.negatives.corrupt import CORRUPT

STRATEGIES: dict[str, Strategy] = {
    "base": BASE,
    "corrupt": CORRUPT,
}

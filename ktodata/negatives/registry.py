"""All strategies for synthetic negatives. One file each; to add one, write its file and name it here."""

from __future__ import annotations

from ktodata.negatives.base import BASE
from ktodata.negatives.contaminate import CONTAMINATE
from ktodata.negatives.contextual import CONTEXTUAL
from ktodata.negatives.contract import Strategy
from ktodata.negatives.corrupt import CORRUPT
from ktodata.negatives.rewrite import PARAPHRASE
from ktodata.negatives.template import TEMPLATE

STRATEGIES: dict[str, Strategy] = {
    "base": BASE,
    "corrupt": CORRUPT,
    "contaminate": CONTAMINATE,
    "template": TEMPLATE,
    "contextual": CONTEXTUAL,
    "paraphrase": PARAPHRASE,
}

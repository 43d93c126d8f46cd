"""How many tokens rows have, and how many would be cut or dropped."""

from __future__ import annotations

from array import array
from typing import Any

from ktodata.check.finding import Finding, Verdict
from ktodata.check.look import Look
from ktodata.errors import ModelError
from ktodata.schema import Row, plain

BATCH = 256  # rows that are tokenized together
CUT = 0.10  # share of rows of which more than that is a failure
PERCENTILES = (50, 90, 99, 100)


class Lengths:
    """Token lengths with a tokenizer, and characters without: 9 bytes a row."""

    def __init__(self, tokenizer: Any = None, max_length: int | None = None) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self._prompts, self._wholes, self._labels = array("q"), array("q"), array("b")
        self._waiting: list[Row] = []
        self._refused = 0

    def add(self, look: Look) -> None:
        """See one row."""
        row = look.row
        if self.tokenizer is None:
            self._prompts.append(len(plain(row.prompt)))
            self._wholes.append(len(plain(row.prompt)) + len(plain(row.completion)))
            self._labels.append(row.label)
            return
        self._waiting.append(row)
        if len(self._waiting) >= BATCH:
            self._tokenize()

    def _tokenize(self) -> None:
        """As a trainer renders rows: chats by the template, text with an end of its own."""
        texts: list[str] = []
        rows: list[Row] = []
        for row in self._waiting:
            both = self._rendered(row)
            if both is None:
                self._refused += 1
                continue
            rows.append(row)
            texts += both
        chat = bool(rows) and rows[0].kind == "chat"
        ids = self.tokenizer(texts, add_special_tokens=not chat, verbose=False)["input_ids"] if texts else []
        for row, prompt, whole in zip(rows, ids[::2], ids[1::2], strict=True):
            self._prompts.append(len(prompt))
            ends = chat or whole[-1:] == [self.tokenizer.eos_token_id]
            self._wholes.append(len(whole) + (not ends))
            self._labels.append(row.label)
        self._waiting = []

    def _rendered(self, row: Row) -> tuple[str, str] | None:
        import jinja2

        if isinstance(row.prompt, str):
            return row.prompt, row.prompt + plain(row.completion)
        if not self.tokenizer.chat_template:
            raise ModelError(
                "the rows are chats and the tokenizer has no chat template",
                do="Name an instruction-tuned model's tokenizer, or make the rows text: `ktodata unpair --as text`",
            )
        assert not isinstance(row.completion, str), "the kinds of a row agree"
        template = self.tokenizer.apply_chat_template
        try:
            return (
                template(row.prompt, add_generation_prompt=True, tokenize=False),
                template([*row.prompt, *row.completion], tokenize=False),
            )
        except (jinja2.TemplateError, ValueError, IndexError):  # roles out of turn, a system turn, no turn at all
            return None

    def findings(self) -> list[Finding]:
        """Percentiles, and what `max_length` would do."""
        import numpy as np

        if self._waiting:
            self._tokenize()
        unit = "characters" if self.tokenizer is None else "tokens"
        wholes, prompts = np.array(self._wholes), np.array(self._prompts)
        labels = np.array(self._labels, dtype=bool)
        if not len(wholes):
            return [Finding(f"{unit} per row", "fail", "the chat template refuses every row")]
        at = {str(p): int(np.percentile(wholes, p)) for p in PERCENTILES}
        said = f"half of the rows have up to {at['50']} {unit}, 90 % up to {at['90']}, all up to {at['100']}"
        figures: dict[str, Any] = {"unit": unit, "percentiles": at}
        for label, name in ((True, "desirable"), (False, "undesirable")):
            completions = (wholes - prompts)[labels == label]
            if len(completions):
                figures[f"{name}_completion_mean"] = round(float(completions.mean()), 1)
        if self.tokenizer is None:
            return [Finding("lengths", "pass", f"{said}; --tokenizer tells tokens", figures)]
        verdict: Verdict = "pass"
        do = ""
        if self._refused:
            figures["refused"] = self._refused
            verdict, said = "warn", f"{said}; the chat template refuses {self._refused} rows"
        if self.max_length is not None:
            dropped = int((prompts >= self.max_length).sum())
            cut = int((wholes > self.max_length).sum()) - dropped
            figures |= {"max_length": self.max_length, "cut": cut, "dropped": dropped}
            said += f"; of {self.max_length} tokens, {cut} rows would be cut and {dropped} dropped (no room to reply)"
            if cut or dropped:
                verdict = "fail" if cut + dropped > CUT * len(wholes) else "warn"
                do = f"A --max-length of {at['99']} holds 99 %"
        return [Finding("lengths", verdict, said, figures, do=do)]

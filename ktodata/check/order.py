"""The order of the file, as a trainer that does not shuffle meets it, and the ratio of the classes."""

from __future__ import annotations

from array import array
from typing import Any

from ktodata.balance import balance_weights, spell
from ktodata.check.finding import Finding, Verdict, graded
from ktodata.check.look import Look
from ktodata.errors import KtodataError
from ktodata.keys import MAX_RUN, longest_run

BATCHES = (4, 8, 16, 32, 64)
USUAL = 8  # TRL's default batch size on one device
MANY = 0.25  # share of one-label batches that is a failure
FAR, TOO_FAR = 3.0, 100.0  # class ratios


class Order:
    """One-label runs, neighbours of one prompt, class ratio: 17 bytes a row."""

    def __init__(self) -> None:
        self.prompts, self.completions, self.labels = array("Q"), array("Q"), array("b")

    def add(self, look: Look) -> None:
        """See one row."""
        self.prompts.append(look.prompt)
        self.completions.append(look.completion)
        self.labels.append(look.row.label)

    def findings(self) -> list[Finding]:
        """Runs, neighbours, ratio."""
        import numpy as np

        labels = np.array(self.labels, dtype=bool)
        prompts, completions = (np.array(numbers, dtype=np.uint64) for numbers in (self.prompts, self.completions))
        return [_runs(labels), _neighbours(prompts, completions), _ratio(labels)]


def _runs(labels: Any) -> Finding:
    classes = int(labels.sum()), int((~labels).sum())
    # Longer runs than these are in no order of such classes that is any good.
    allowed = max(MAX_RUN, int(2 * max(classes) / max(1, min(classes))) + 2)
    longest = longest_run(labels)
    single: dict[str, float] = {}
    expected: dict[str, float] = {}
    share = classes[0] / max(1, len(labels))
    for size in BATCHES:
        blocks = labels[: len(labels) // size * size].reshape(-1, size).sum(axis=1)
        if len(blocks):
            single[str(size)] = float(((blocks == 0) | (blocks == size)).mean())
            expected[str(size)] = share**size + (1 - share) ** size  # in a shuffled file
    bad = min(classes) > 0 and longest > allowed
    usual = single.get(str(USUAL), 0.0)
    verdict: Verdict = "pass"
    if bad:
        verdict = "fail" if usual > max(MANY, 3 * expected.get(str(USUAL), 0.0)) else "warn"
    told = ", ".join(f"{size}: {value:.1%}" for size, value in single.items())
    return Finding(
        "one-label runs",
        verdict,
        f"longest run {longest} rows{f'; batches of one label, by batch size: {told}' if told else ''}",
        {"longest": longest, "allowed": allowed, "one_label_batches": single, "if_shuffled": expected},
        do="A trainer that does not shuffle sees one class for long: `ktodata unpair` puts rows in order"
        if bad
        else "",
    )


def _neighbours(prompts: Any, completions: Any) -> Finding:
    import numpy as np

    def count(numbers: Any) -> int:
        return int((numbers[1:] == numbers[:-1]).sum())

    same_prompt, same_completion = count(prompts), count(completions)
    largest = int(np.unique(prompts, return_counts=True)[1].max()) if len(prompts) else 0
    unavoidable = max(0, 2 * largest - len(prompts) - 1)
    inside: dict[str, float] = {}
    for size in BATCHES:
        # TRL pairs each prompt of a batch with its neighbour's completion, the first with the last's.
        blocks = prompts[: len(prompts) // size * size].reshape(-1, size)
        if len(blocks):
            inside[str(size)] = float((blocks == np.roll(blocks, 1, axis=1)).mean())
    bad = same_prompt > unavoidable
    told = ", ".join(f"{size}: {share:.1%}" for size, share in inside.items())
    return Finding(
        "same-prompt neighbours",
        graded(int(bad), fail=same_prompt > MANY * max(1, len(prompts))),
        f"{same_prompt} neighbours share a prompt, {same_completion} a completion"
        + (f"; rows that meet their own prompt in a batch, by batch size: {told}" if same_prompt else ""),
        {
            "prompt": same_prompt,
            "completion": same_completion,
            "unavoidable": unavoidable,
            "meeting_their_own_prompt": inside,
        },
        do="TRL then pairs a prompt with a reply of its own: `ktodata unpair` puts rows in order" if bad else "",
    )


def _ratio(labels: Any) -> Finding:
    desirable, undesirable = int(labels.sum()), int((~labels).sum())
    figures: dict[str, Any] = {"desirable": desirable, "undesirable": undesirable}
    said = f"{desirable} desirable, {undesirable} undesirable"
    try:
        weights = balance_weights(desirable, undesirable)
    except KtodataError:
        return Finding("class ratio", "fail", said, figures, do="KTO needs both classes: `ktodata negatives` makes one")
    ratio = max(desirable, undesirable) / min(desirable, undesirable)
    value = weights.desirable if weights.free == "desirable_weight" else weights.undesirable
    figures |= {"ratio": ratio, weights.free: float(value)}
    verdict: Verdict = "pass" if ratio <= FAR else "warn" if ratio <= TOO_FAR else "fail"
    return Finding(
        "class ratio",
        verdict,
        f"{said} ({ratio:.3g}:1)",
        figures,
        do=f"Set {weights.free} to {spell(value)}: `ktodata balance`" if verdict != "pass" else "",
    )

"""Peak memory of the LM head alone, forward and backward, as scored tokens grow.

    python -m benchmarks.head [--hidden 896] [--vocabulary 151936] [--tokens 512 2048 8192]

Each measurement is a process of its own; shown is what its peak grew by after the inputs were there. Beside ours, the
plain way: all logits, log_softmax, and autograd.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of the LM head.")
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--child", choices=["frozen", "trained", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(grown(options.child, options.tokens[0], options.hidden, options.vocabulary) / 2**20)
        return
    print(f"hidden {options.hidden}, vocabulary {options.vocabulary:,}, float32; MiB")
    print(f"{'tokens':>8}{'frozen head':>14}{'trained head':>14}{'plain':>14}")
    for tokens in options.tokens:
        cells = []
        for kind in ("frozen", "trained", "plain"):
            command = [sys.executable, "-m", "benchmarks.head", "--child", kind, "--tokens", str(tokens)]
            command += ["--hidden", str(options.hidden), "--vocabulary", str(options.vocabulary)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            cells.append(f"{float(done.stdout):14,.0f}" if not done.returncode else f"{'failed':>14}")
        print(f"{tokens:8,}{''.join(cells)}", flush=True)


def grown(kind: str, tokens: int, hidden: int, vocabulary: int) -> float:
    """Bytes that a forward and backward pass adds to the peak of this process."""
    import torch

    from ktotrain.logps import Head, token_logps

    hidden_NH = torch.randn(tokens, hidden).requires_grad_()
    weight_VH = torch.randn(vocabulary, hidden).mul_(0.02).requires_grad_(kind != "frozen")
    target_N = torch.randint(0, vocabulary, (tokens,))
    # What the first use loads.
    (torch.randn(64, 64, requires_grad=True) @ torch.randn(64, 64)).sum().backward()  # type: ignore[no-untyped-call]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if kind == "plain":
        logits = hidden_NH @ weight_VH.T
        logps_N = logits.log_softmax(-1).gather(1, target_N[:, None])[:, 0]
    else:
        logps_N = token_logps(hidden_NH, target_N, Head(weight_VH))
    logps_N.sum().backward()  # type: ignore[no-untyped-call]
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024.0


if __name__ == "__main__":
    main()

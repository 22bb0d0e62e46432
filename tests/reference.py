"""The float64 transformers reference that nano's greedy tokens are held against."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

TIE = 1e-4  # of the logits' standard deviation: nearer than this, either token is right


@dataclass
class Verdict:
    tokens: int = 0
    ties: int = 0

    def __iadd__(self, other: Verdict) -> Verdict:
        self.tokens += other.tokens
        self.ties += other.ties
        return self


@functools.lru_cache(maxsize=64)
def load(path: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    # Eager experts: torch's grouped matrix product has no float64.
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, experts_implementation="eager").eval()


def judge(path: Path, prompt: list[int], output: list[int]) -> Verdict:
    """Asserts that each token of `output` is the reference's greedy choice after what stands before it.

    One forward pass over prompt + output: as long as every token agrees, it is the reference's own continuation.
    """
    with torch.inference_mode():
        logits = load(path)(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
    verdict = Verdict(tokens=len(output))
    for i, token in enumerate(output):
        row = logits[i]
        best = int(row.argmax())
        if best == token:
            continue
        gap = float(row[best] - row[token])
        limit = TIE * float(row.std())
        assert gap < limit, (
            f"token {i} of {len(output)}: expected {best}, got {token}: logits differ by {gap:.3g}, a tie is "
            f"< {limit:.3g}; prompt {prompt}, output {output}"
        )
        verdict.ties += 1
        print(f"tie at token {i}: {best} and {token} differ by {gap:.3g}")
    return verdict

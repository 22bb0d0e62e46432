"""Qwen3-30B-A3B's experts, bf16 and fp8, from one token to a prefill chunk, beside the device's limits.

The bytes are those of the experts that the tokens touch; torch._grouped_mm's two products alone stand beside bf16.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch
from graph_timing import copy_tbs, graph_us, matmul_tfs

from nano.engine.kernels.moe import FEW_TOKENS, MoeScratch, experts, few_experts, route
from nano.engine.kernels.quantize import FP8

EXPERTS, TOP_K, HIDDEN, INNER = 128, 8, 2048, 768
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 8192)
BF16 = torch.bfloat16


class Layer:
    def __init__(self, fp8: bool) -> None:
        self.fp8 = fp8
        dtype = FP8 if fp8 else BF16
        self.w13 = torch.randn(EXPERTS, 2 * INNER, HIDDEN, dtype=BF16, device="cuda").mul_(HIDDEN**-0.5).to(dtype)
        self.w2 = torch.randn(EXPERTS, HIDDEN, INNER, dtype=BF16, device="cuda").mul_(INNER**-0.5).to(dtype)
        self.s13 = torch.ones(EXPERTS, 2 * INNER // 128, HIDDEN // 128, device="cuda") if fp8 else None
        self.s2 = torch.ones(EXPERTS, HIDDEN // 128, INNER // 128, device="cuda") if fp8 else None

    def measure(self, tokens: int) -> tuple[float, float, float, float]:
        """Microseconds of experts, of routing; bytes touched; and torch's grouped products (NaN for fp8)."""
        sets = []
        for _ in range(8 if tokens < 64 else 2):
            h = torch.randn(tokens, HIDDEN, dtype=BF16, device="cuda")
            weights = torch.empty(tokens, TOP_K, device="cuda")
            ids = torch.empty(tokens, TOP_K, dtype=torch.int32, device="cuda")
            logits = torch.randn(tokens, EXPERTS, dtype=BF16, device="cuda")
            route(logits, TOP_K, True, weights, ids)
            sets.append((h, logits, weights, ids))
        out = torch.empty(tokens, HIDDEN, dtype=BF16, device="cuda")
        scratch = MoeScratch(tokens, TOP_K, EXPERTS, HIDDEN, INNER, BF16, "cuda")

        def run(h: torch.Tensor, logits: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> None:
            if tokens <= FEW_TOKENS:  # with their routing
                few_experts(h, logits, TOP_K, True, self.w13, self.w2, out, scratch, self.s13, self.s2)
                return
            experts(h, weights, ids, self.w13, self.w2, out, scratch, self.s13, self.s2)

        us = graph_us([lambda one=one: run(*one) for one in sets])  # type: ignore[misc]
        run(*sets[0])
        h, _, weights, ids = sets[0]
        self._check(h, weights, ids, out)
        touched = sum(len(one[-1].unique()) for one in sets) / len(sets)
        routing = graph_us([lambda: route(sets[0][1], TOP_K, True, weights, ids)] * 8)
        return us, routing, touched * 3 * HIDDEN * INNER * self.w2.element_size(), self._grouped_mm(ids)

    def _check(self, h: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, out: torch.Tensor) -> None:
        """The first token, in float64."""
        wanted = torch.zeros(HIDDEN, dtype=torch.float64, device="cuda")
        for share, expert in zip(weights[0].double(), ids[0].tolist(), strict=True):
            both = self.w13[expert].double() @ h[0].double()
            act = torch.nn.functional.silu(both[:INNER]) * both[INNER:]
            wanted += share * (self.w2[expert].double() @ act)
        error = float((out[0].double() - wanted).abs().max() / wanted.abs().max())
        assert error < (8e-2 if self.fp8 else 1.5e-2), f"relative error {error}"

    def _grouped_mm(self, ids: torch.Tensor) -> float:
        if self.fp8:
            return float("nan")
        pairs = ids.numel()
        ends = torch.bincount(ids.flatten().long(), minlength=EXPERTS).cumsum(0).int()
        x = torch.randn(pairs, HIDDEN, dtype=BF16, device="cuda")
        act = torch.randn(pairs, INNER, dtype=BF16, device="cuda")

        def call() -> None:
            torch._grouped_mm(x, self.w13.transpose(1, 2), ends)
            torch._grouped_mm(act, self.w2.transpose(1, 2), ends)

        return graph_us([call] * 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="*", type=int, default=list(TOKENS))
    args = parser.parse_args()
    copy, rate = copy_tbs(), matmul_tfs()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: copy {copy:.2f} TB/s, matmul {rate:.0f} TF/s")
    for fp8 in (False, True):
        layer = Layer(fp8)
        table: list[list[Any]] = []
        for tokens in args.tokens:
            us, routing, touched, theirs = layer.measure(tokens)
            tbs, tfs = touched / us / 1e6, tokens * TOP_K * 6 * HIDDEN * INNER / us / 1e6
            table.append([tokens, us, tbs, f"{tbs / copy:.0%}", tfs, f"{tfs / rate:.0%}", routing, theirs])
        columns = ["tokens", "us", "TB/s of weights", "of copy", "TF/s", "of matmul", "route us", "grouped_mm us"]
        report.table("fp8, blocks of 128" if fp8 else "bf16", columns, table)


if __name__ == "__main__":
    main()

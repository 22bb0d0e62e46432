"""Fused elementwise kernels beside a device copy of as many bytes.

    python bench/cuda/elementwise.py [--hidden 4096] [--intermediate 12288] [--repeats 10]

Their answers are held against float64 by tests/kernels. Times are those of a call in a CUDA graph of several, whose
buffers together exceed the L2 cache; bytes are those read and written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch
from attention import graph_us

from nano.engine.kernels.activation import silu_mul
from nano.engine.kernels.norm import add_rms_norm
from nano.engine.kernels.rope import qk_norm_rope_write

HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 32, 8, 128, 64


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


def measure(tokens: int, hidden: int, intermediate: int, repeats: int) -> list[list[object]]:
    copies = max(1, min(36, (256 << 20) // (tokens * 2 * intermediate * 2)))
    fp8 = {"dtype": torch.float8_e4m3fn, "device": "cuda"}
    residuals, deltas = ([random(tokens, hidden) for _ in range(copies)] for _ in range(2))
    gates = [random(tokens, 2 * intermediate) for _ in range(copies)]
    heads = [random(tokens, (HEADS + 2 * KV_HEADS) * HEAD_DIM) for _ in range(copies)]
    weight, head_norm = torch.ones(hidden, device="cuda"), torch.ones(HEAD_DIM, device="cuda")
    normed, normed8 = random(tokens, hidden), torch.empty(tokens, hidden, **fp8)
    gated, gated8 = random(tokens, intermediate), torch.empty(tokens, intermediate, **fp8)
    norm_scales = torch.empty(hidden // 128, tokens, device="cuda").T
    gate_scales = torch.empty(intermediate // 128, tokens, device="cuda").T
    pool = random(-(-tokens // BLOCK_SIZE), 2, KV_HEADS, BLOCK_SIZE, HEAD_DIM)
    q = random(tokens, HEADS, HEAD_DIM)
    table, slots = torch.randn(tokens, HEAD_DIM, device="cuda"), torch.arange(tokens, device="cuda")
    positions = slots.int()

    def add_norm(scales: torch.Tensor | None) -> None:
        for residual, delta in zip(residuals, deltas, strict=True):
            add_rms_norm(residual, delta, weight, 1e-6, normed if scales is None else normed8, scales)

    def gate(scales: torch.Tensor | None) -> None:
        for gate_up in gates:
            silu_mul(gate_up, gated if scales is None else gated8, scales)

    def rope() -> None:
        for qkv in heads:
            qk_norm_rope_write(qkv, head_norm, head_norm, 1e-6, table, positions, slots, pool[:, 0], pool[:, 1], q)

    calls = [
        ("add + norm", lambda: add_norm(None), 8 * hidden),
        ("add + norm to fp8", lambda: add_norm(norm_scales), 7 * hidden),
        ("silu * up", lambda: gate(None), 6 * intermediate),
        ("silu * up to fp8", lambda: gate(gate_scales), 5 * intermediate),
        ("norms, RoPE, write", rope, 4 * (HEADS + 2 * KV_HEADS) * HEAD_DIM),
    ]
    rows: list[list[object]] = []
    for name, call, size in calls:
        source = torch.empty(size * tokens // 2, dtype=torch.uint8, device="cuda")
        sources, target = [source.clone() for _ in range(copies)], torch.empty_like(source)
        us = graph_us(call, repeats) / copies
        copy = graph_us(lambda sources=sources, target=target: [target.copy_(x) for x in sources], repeats) / copies
        rows.append([name, tokens, us, size * tokens / us / 1e6, f"{copy / us:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=12288)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    rows = [row for t in (1, 256, 8192) for row in measure(t, args.hidden, args.intermediate, args.repeats)]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, medians of {args.repeats}")
    report.table("elementwise kernels", ["kernel", "tokens", "us", "TB/s", "copy's time / its"], rows)


if __name__ == "__main__":
    main()

"""Paged attention beside the limits of the device: decode against a copy's bytes, prefill against a matrix product.

    python bench/cuda/attention.py [--heads 32] [--kv-heads 8] [--head-dim 128] [--block-size 64] [--repeats 10]

Each answer is checked against float64 on some rows, then timed: layers of one block-major pool one after another in a
CUDA graph, so that no call finds its cache in L2. Decode counts the bytes of K and V; prefill the products of causal
attention. The last table has the pool's two layouts side by side: a block with all its layers, or a layer with all its
blocks, together.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch
from graph_timing import copy_tbs, graph_us, matmul_tfs

from nano.engine.kernels.attention import DecodeScratch, decode_attention, prefill_attention
from nano.engine.kernels.rope import qk_norm_rope_write

DECODE = [(1, 128), (1, 1024), (1, 4096), (8, 1024), (32, 1024), (64, 2048), (256, 512), (256, 2048)]
LAYOUTS = [(1, 4096, 1), (32, 1024, 1), (256, 2048, 1), (1, 4096, 4096), (16, 1024, 1024)]  # with queries
PREFILL = [(1, 128), (1, 1024), (1, 4096), (16, 1024), (4, 4096)]


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    head_dim: int
    block_size: int


class Step:
    """`sequences` of `context` positions in shuffled blocks, the last `queries` of each asked for."""

    def __init__(self, shape: Shape, sequences: int, context: int, queries: int, layer_major: bool = False) -> None:
        blocks = -(-context // shape.block_size)
        layer = 2 * sequences * blocks * shape.kv_heads * shape.block_size * shape.head_dim
        self.layers = max(4, min(36, (256 << 20) // layer))
        order = (self.layers, 2, sequences * blocks) if layer_major else (sequences * blocks, self.layers, 2)
        self.pool = torch.empty(
            *order, shape.kv_heads, shape.block_size, shape.head_dim, dtype=torch.bfloat16, device="cuda"
        ).normal_()
        if layer_major:
            self.pool = self.pool.permute(2, 0, 1, 3, 4, 5)
        self.tables = torch.randperm(sequences * blocks, device="cuda").view(sequences, blocks).int()
        self.lens = torch.full((sequences,), context, dtype=torch.int32, device="cuda")
        self.cu = torch.arange(sequences + 1, dtype=torch.int32, device="cuda") * queries
        self.q = torch.randn(sequences * queries, shape.heads, shape.head_dim, dtype=torch.bfloat16, device="cuda")
        self.qkv = torch.randn(
            len(self.q), (shape.heads + 2 * shape.kv_heads) * shape.head_dim, dtype=torch.bfloat16, device="cuda"
        )
        self.norm = torch.ones(shape.head_dim, device="cuda")
        self.rope = torch.randn(context, shape.head_dim, device="cuda")
        positions = torch.arange(context - queries, context, device="cuda")
        blocks_of = self.tables.long()[:, positions // shape.block_size]
        self.slots = (blocks_of * shape.block_size + positions % shape.block_size).flatten()
        self.positions = positions.int().repeat(sequences)
        self.out = torch.empty_like(self.q)
        self.scale = shape.head_dim**-0.5
        self.scratch = DecodeScratch(sequences, shape.heads, shape.head_dim, "cuda")
        self.views = [(self.pool[:, i, 0], self.pool[:, i, 1]) for i in range(self.layers)]

    def decode(self) -> None:
        for k, v in self.views:
            decode_attention(self.q, k, v, self.tables, self.lens, self.out, self.scale, self.scratch)

    def prefill(self) -> None:
        for k, v in self.views:
            prefill_attention(self.q, k, v, self.tables, self.cu, self.lens, self.out, self.scale)

    def write(self) -> None:
        for k, v in self.views:
            qk_norm_rope_write(
                self.qkv, self.norm, self.norm, 1e-6, self.rope, self.positions, self.slots, k, v, self.q
            )

    def check(self) -> None:
        """The last layer's output, which is what stands in `out`: the last query of the last sequence."""
        k, v = (x[self.tables[-1].long()].transpose(1, 2).flatten(0, 1).double() for x in self.views[-1])
        context, group = int(self.lens[-1]), self.q.shape[1] // k.shape[1]
        q = self.q[-1].double().unflatten(0, (k.shape[1], group))
        shares = (torch.einsum("hgd,chd->hgc", q, k[:context]) * self.scale).softmax(-1)
        want = torch.einsum("hgc,chd->hgd", shares, v[:context]).flatten(0, 1)
        error = float((self.out[-1].double() - want).abs().max() / want.abs().max())
        assert error < 2e-2, f"relative error {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    shape = Shape(args.heads, args.kv_heads, args.head_dim, args.block_size)

    copy, matmul = copy_tbs(), matmul_tfs()

    decodes = []
    for sequences, context in DECODE:
        step = Step(shape, sequences, context, 1)
        step.decode()
        step.check()
        us = graph_us([step.decode], args.repeats) / step.layers
        rate = 4 * sequences * context * shape.kv_heads * shape.head_dim / us / 1e6
        decodes.append([f"{sequences} x {context}", us, rate, f"{rate / copy:.2f}"])
    prefills = []
    for sequences, context in PREFILL:
        step = Step(shape, sequences, context, context)
        step.prefill()
        step.check()
        us = graph_us([step.prefill], args.repeats) / step.layers
        rate = 2 * shape.heads * shape.head_dim * sequences * context * (context + 1) / us / 1e6
        prefills.append([f"{sequences} x {context}", us, rate, f"{rate / matmul:.2f}"])

    both = []
    for sequences, context, queries in LAYOUTS:
        times: list[float] = []
        for layer_major in (False, True):
            step = Step(shape, sequences, context, queries, layer_major)
            attend = step.decode if queries == 1 else step.prefill
            attend()
            step.check()
            times += [graph_us([call], args.repeats) / step.layers for call in (attend, step.write)]
        a, write, other_a, other_write = times
        ratios = f"{other_a / a:.2f}", f"{other_write / write:.2f}"
        both.append([f"{sequences} x {queries} of {context}", a, other_a, ratios[0], write, other_write, ratios[1]])

    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; copy {copy:.2f} TB/s (read and written), bf16 "
        f"product {matmul:.0f} TF/s; {shape}; the best of {args.repeats}"
    )
    report.table(
        "decode, a layer",
        ["sequences x context", "us", "TB/s", "share of the copy's"],
        decodes,
    )
    report.table("prefill, a layer", ["sequences x tokens", "us", "TF/s", "share of the product's"], prefills)
    report.table(
        "block-major and layer-major pools, us a layer",
        ["sequences x queries", "attention, block", "layer", "ratio", "RoPE and write, block", "layer", "ratio"],
        both,
    )


if __name__ == "__main__":
    main()

"""Relayout of KV blocks between tensor-parallel degrees and block sizes, beside one device-to-device copy of as much.

    python bench/cuda/relayout.py [--mib 256] [--repeats 20]

Each answer is checked against torch, then timed. GB/s are payload; the memory moves twice as many bytes. A run is what
lies together on both sides: the smaller block's tokens of one head, or all heads where both sides have them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch
from block_copy import device_ms

from nano import _cuda
from nano._core.kv import PoolLayout

ROW = 256  # bytes: 128 elements of bf16
LAYERS = 8
# (tokens of a block, heads) of the source's pool and of the destination's; the destination's heads begin at 0
CASES = [
    ((64, 8), (64, 8)), ((64, 8), (64, 2)), ((64, 2), (64, 8)), ((16, 8), (64, 8)), ((64, 8), (16, 8)),
    ((16, 8), (64, 2)), ((8, 8), (64, 2)), ((128, 8), (64, 4)),
]  # fmt: skip


def pool(tokens: int, size: int, heads: int) -> tuple[PoolLayout, torch.Tensor, torch.Tensor]:
    """Layout, memory and a table in random order that holds `tokens`; half of the blocks are others'."""
    used = tokens // size
    layout = PoolLayout(2 * used, LAYERS, heads, size, ROW)
    memory = torch.randint(0, 256, (layout.nbytes,), dtype=torch.uint8, device="cuda")
    return layout, memory, torch.randperm(2 * used, device="cuda")[:used].int()


def sequence(layout: PoolLayout, memory: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """[layers, 2, heads, tokens, row bytes]"""
    blocks = memory.view(layout.blocks, LAYERS, 2, layout.heads, layout.block_size, ROW)[table.long()]
    return blocks.permute(1, 2, 3, 0, 4, 5).flatten(3, 4)


def measure(source: tuple[int, int], target: tuple[int, int], payload: int, repeats: int) -> list[Any]:
    heads = min(source[1], target[1])
    tokens = payload // (LAYERS * 2 * heads * ROW) // 256 * 256
    a, b = pool(tokens, *source), pool(tokens, *target)
    stream = torch.cuda.current_stream().cuda_stream

    def run() -> int:
        return _cuda.relayout(
            a[1].data_ptr(), a[0], a[2].data_ptr(), b[1].data_ptr(), b[0], b[2].data_ptr(), tokens, stream=stream
        )

    copied = run()
    assert torch.equal(sequence(*b)[:, :, :heads], sequence(*a)[:, :, :heads])
    x, y = (torch.empty(copied, dtype=torch.uint8, device="cuda") for _ in range(2))
    copy, relayout = device_ms(lambda: y.copy_(x), repeats), device_ms(run, repeats)
    whole = source == target and source[1] == target[1]
    bytes_ = (LAYERS * 2 * heads if whole else 1) * min(source[0], target[0]) * ROW
    gb = copied / 1e6
    return [
        f"{source[0]} x {source[1]}", f"{target[0]} x {target[1]}", f"{bytes_ >> 10} KiB", gb / copy, gb / relayout,
        f"{copy / relayout:.2f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256, help="payload of a call")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    rows = [measure(source, target, args.mib << 20, args.repeats) for source, target in CASES]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {args.mib} MiB, medians of {args.repeats}")
    columns = ["from tokens x heads", "to", "run", "copy GB/s", "relayout", "ratio"]
    report.table(
        "relayout, payload GB/s, and ratio to the device-to-device copy (goal 0.75 at 2 KiB, 0.90 from 16 KiB)",
        columns,
        rows,
    )


if __name__ == "__main__":
    main()

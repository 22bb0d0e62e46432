"""Products of a step's rows and a model's weights, bf16 and fp8, beside cuBLAS and the device's limits.

`--search` times every tile for up to 64 rows instead and prints what belongs in nano/engine/kernels/linear_tiles.py.
Weights rotate over several times the L2 cache; each answer is checked against a float64 product of some of its columns.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch
from graph_timing import copies, copy_tbs, graph_us, matmul_tfs

from nano.engine.kernels.linear import FUSED_ROWS, linear, linear_fp8
from nano.engine.kernels.linear_tiles import Lanes, Tile
from nano.engine.kernels.quantize import FP8, new_scales, quantize

BF16 = torch.bfloat16
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 4096)
SHAPES = {
    "8B qkv": (6144, 4096), "8B o": (4096, 4096), "8B gate_up": (24576, 4096), "8B down": (4096, 12288),
    "8B lm_head": (151936, 4096), "0.6B qkv": (4096, 1024), "0.6B o": (1024, 2048), "0.6B gate_up": (6144, 1024),
    "0.6B down": (1024, 3072), "0.6B lm_head": (151936, 1024), "30B qkv": (5120, 2048), "30B o": (2048, 4096),
    "30B router": (128, 2048), "30B lm_head": (151936, 2048),
}  # fmt: skip
FP8_SHAPES = ("8B qkv", "8B o", "8B gate_up", "8B down", "30B qkv", "30B o")


class Product:
    """One shape: rotating weights, `rows` activations, and the calls that multiply them."""

    def __init__(self, rows: int, n: int, k: int, fp8: bool) -> None:
        self.fp8, self.bytes = fp8, n * k * (1 if fp8 else 2)
        generator = torch.Generator("cuda").manual_seed(0)
        wide = [torch.randn(n, k, dtype=BF16, device="cuda", generator=generator) for _ in range(copies(self.bytes))]
        self.weights = [weight.to(FP8) if fp8 else weight for weight in wide]
        self.scales = torch.full((-(-n // 128), -(-k // 128)), k**-0.5, device="cuda")
        self.x = torch.randn(rows, k, dtype=BF16, device="cuda", generator=generator)
        self.x8, self.x_scales = torch.empty_like(self.x, dtype=FP8), new_scales(rows, k, "cuda")
        if fp8:
            quantize(self.x, self.x8, self.x_scales)
        self.out = torch.empty(rows, n, dtype=BF16, device="cuda")

    def us(self, tile: Tile | Lanes | None = None) -> float:
        def call(weight: torch.Tensor) -> None:
            if not self.fp8:
                linear(self.x, weight, self.out, tile)
            elif len(self.x) <= FUSED_ROWS:
                linear_fp8(self.x, None, weight, self.scales, self.out, tile)
            else:
                linear_fp8(self.x8, self.x_scales, weight, self.scales, self.out, tile)

        return graph_us(self._each(call))

    def torch_us(self) -> float:
        """cuBLAS; NaN where it has no such product."""

        def call(weight: torch.Tensor) -> None:
            if self.fp8:
                torch._scaled_mm(
                    self.x8, weight.T, scale_a=self.x_scales, scale_b=self.scales.T, out_dtype=BF16, out=self.out
                )
            else:
                torch.mm(self.x, weight.T, out=self.out)

        try:
            return graph_us(self._each(call))
        except RuntimeError:
            return float("nan")

    def check(self) -> None:
        """The last call's answer, in 64 columns."""
        columns = slice(0, 64)
        weight = self.weights[-1][columns].double() * (float(self.scales[0, 0]) if self.fp8 else 1.0)
        wanted = self.x.double() @ weight.T
        error = float((self.out[:, columns].double() - wanted).abs().max() / wanted.abs().max())
        assert error < (4e-2 if self.fp8 else 8e-3), f"relative error {error}"

    def _each(self, call: Callable[[torch.Tensor], None]) -> list[Callable[[], None]]:
        return [lambda weight=weight: call(weight) for weight in self.weights]  # type: ignore[misc]


def candidates(rows: int, n: int, k: int, fp8: bool) -> Iterator[Tile | Lanes]:
    if rows == 1:
        warps, sizes = (
            ((4, 1), (8, 1), (2, 1), (2, 2), (1, 4), (2, 4), (1, 8)),
            ((1, 2), (2, 1), (1, 4), (2, 2), (4, 1)),
        )
        for (wide, deep), (each, chunks) in itertools.product(warps, sizes):
            if chunks * deep * 512 <= k * (1 if fp8 else 2):
                yield Lanes(each * wide, wide, deep, chunks)
    for height, depth, warps, parts in itertools.product((16, 32, 64, 128), (64, 128, 256), (4, 8), (1, 2, 4)):
        tiles = -(-n // height)
        small = tiles * parts < 64 <= n // 16
        if height * depth > 128 * 128 or k % depth or small or (parts > 1 and tiles * parts > 900):
            continue
        for stages in (3, 4):
            yield Tile(height, depth, parts, warps, stages)


def search(name: str, fp8: bool) -> None:
    n, k = SHAPES[name]
    for rows in (1, 16) if fp8 else (1, 16, 64):
        product = Product(rows, n, k, fp8)
        timed = sorted((product.us(tile), index, tile) for index, tile in enumerate(candidates(rows, n, k, fp8)))
        best = timed[0][2]
        timed += [(product.us(replace(best, ahead=ahead)), -1, replace(best, ahead=ahead)) for ahead in (0, 2048)]
        us, _, best = min(timed)
        print(f"{name} ({n}, {k}, {fp8}) {rows}: {us:.1f} us {product.bytes / us / 1e6:.2f} TB/s {best}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rows", nargs="*", type=int, default=list(ROWS))
    args = parser.parse_args()
    if args.search:
        for name in args.shapes:
            for fp8 in (False, True) if name in FP8_SHAPES else (False,):
                search(name, fp8)
        return
    copy, rate = copy_tbs(), matmul_tfs()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: copy {copy:.2f} TB/s, matmul {rate:.0f} TF/s")
    for fp8 in (False, True):
        table: list[list[Any]] = []
        for name in args.shapes:
            if fp8 and name not in FP8_SHAPES:
                continue
            n, k = SHAPES[name]
            for rows in args.rows:
                if rows > 256 and n > 100_000:  # logits are taken of one row a sequence
                    continue
                product = Product(rows, n, k, fp8)
                theirs, us = product.torch_us(), product.us()
                product.check()
                tbs, tfs = product.bytes / us / 1e6, 2 * rows * n * k / us / 1e6
                table.append([f"{name} {rows}", us, tbs, f"{tbs / copy:.0%}", tfs, theirs, f"{theirs / us:.2f}"])
        columns = ["rows", "us", "TB/s of weights", "of copy", "TF/s", "cuBLAS us", "faster"]
        report.table(f"{'fp8, blocks of 128' if fp8 else 'bf16'}", columns, table)


if __name__ == "__main__":
    main()

"""What compile_kernels.py launches of the products: each tile that the models' shapes are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from nano.engine.kernels import (
    expert_products,
    hopper_linear,
    linear,
    moe,
    quantize,
    routing,
    row_experts,
    row_products,
)
from nano.engine.kernels.linear_tiles import TILES, Lanes, Tile

MODULES = (expert_products, hopper_linear, linear, quantize, routing, row_experts, row_products)
HALF, FP8 = torch.bfloat16, torch.float8_e4m3fn
EXPERTS, TOP_K, HIDDEN, INNER = 128, 8, 2048, 768


def _row(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, lanes: Lanes) -> None:
    n, k = weight.shape
    scales = torch.empty(-(-n // 128), k // 128) if weight.dtype == FP8 else None
    row_products.linear_row(x, weight, scales, out, lanes)
    if k <= n:
        norm = linear.Norm(x, torch.empty(k), 1e-6, torch.empty_like(x), torch.empty_like(x))
        row_products.linear_row(x, weight, scales, out, lanes, norm)
        row_products.linear_row(x, weight, scales, out[:, : n // 2], lanes, norm, gated=True)


def launches() -> Iterator[str]:
    """Yields what it launches next."""
    made: set[tuple[Tile | Lanes, int, bool]] = set()
    for (n, k, fp8), tiles in TILES.items():
        for most, tile in tiles.items():
            if tile is None or most == 64:
                continue
            # The rest is no matter of compiling.
            same = (
                replace(tile, ahead=0) if isinstance(tile, Lanes) else replace(tile, parts=min(tile.parts, 2), ahead=0)
            )
            kernel = same, most, fp8
            if kernel in made:
                continue
            made.add(kernel)
            yield f"{most} rows, {'fp8' if fp8 else 'bf16'}, {tile}"
            x, out = torch.empty(most, k, dtype=HALF), torch.empty(most, n, dtype=HALF)
            if isinstance(tile, Lanes):
                _row(x, torch.empty(n, k, dtype=FP8 if fp8 else HALF), out, tile)
                continue
            if fp8:
                scales = torch.empty(-(-n // 128), k // 128)
                linear.linear_fp8(x, None, torch.empty(n, k, dtype=FP8), scales, out)
            else:
                linear.linear(x, torch.empty(n, k, dtype=HALF), out)
    yield "1 row, a weight of 1 row"
    _row(torch.empty(1, 64, dtype=HALF), torch.empty(1, 64, dtype=HALF), torch.empty(1, 1, dtype=HALF), Lanes(8, 4))
    x, out = torch.empty(512, 1024, dtype=HALF), torch.empty(512, 3072, dtype=HALF)
    yield "512 rows, bf16, SiLU at the end"
    linear.linear_silu(x, torch.empty(6144, 1024, dtype=HALF), out)
    yield "64 rows, fp8, K in parts"
    hopper_linear.linear_hopper(
        torch.empty(64, 4096, dtype=FP8), torch.empty(32, 64).T, torch.empty(4096, 4096, dtype=FP8),
        torch.empty(32, 32), torch.empty(64, 4096, dtype=HALF), 2, torch.empty(1 << 20),
        torch.zeros(32, dtype=torch.int32),
    )  # fmt: skip
    yield "experts"
    logits, shares = torch.empty(64, EXPERTS, dtype=HALF), torch.empty(64, TOP_K)
    ids = torch.zeros(64, TOP_K, dtype=torch.int32)
    moe.route(logits, TOP_K, True, shares, ids)
    for dtype in (HALF, FP8):
        fp8 = dtype == FP8
        w13 = torch.empty(EXPERTS, 2 * INNER, HIDDEN, dtype=dtype)
        w2 = torch.empty(EXPERTS, HIDDEN, INNER, dtype=dtype)
        s13 = torch.empty(EXPERTS, 2 * INNER // 128, HIDDEN // 128) if fp8 else None
        s2 = torch.empty(EXPERTS, HIDDEN // 128, INNER // 128) if fp8 else None
        yield f"few tokens, {dtype}"
        h = torch.empty(1, HIDDEN, dtype=HALF)
        scratch = moe.MoeScratch(1, TOP_K, EXPERTS, HIDDEN, INNER, HALF, "cpu")
        moe.few_experts(h, logits[:1], TOP_K, True, w13, w2, h.clone(), scratch, s13, s2)
        for tokens in (64, 256, 4096):
            yield f"{tokens} tokens, {dtype}"
            h = torch.empty(tokens, HIDDEN, dtype=HALF)
            shares = torch.empty(tokens, TOP_K)
            ids = torch.empty(tokens, TOP_K, dtype=torch.int32)
            scratch = moe.MoeScratch(tokens, TOP_K, EXPERTS, HIDDEN, INNER, HALF, "cpu")
            moe.experts(h, shares, ids, w13, w2, h.clone(), scratch, s13, s2)

"""Experts of few tokens: a program multiplies weight rows of a pair's expert by the pair's one activation row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nano.engine.kernels.expert_products import Tile
from nano.engine.kernels.expert_products import ahead as prefetched
from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.linear_kernels import silu_gate
from nano.engine.kernels.prefetch import prefetch, start


@triton.jit
def _direct_gate_up_kernel(
    x,  # [T, K], rows x_stride apart
    ids,  # [T * TOP_K]
    weight,  # [E, 2N, K]
    weight_scales,  # FP8: [E, ceil(2N/128), ceil(K/128)]
    out,  # [T * TOP_K, N]
    N, K, x_stride,
    TOP_K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, FP8: tl.constexpr,
    STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    column, pair = tl.program_id(0), tl.program_id(1)
    n = column * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    start(PDL)
    expert = tl.load(ids + pair).to(tl.int64)
    w_at = weight + (expert * N * 2 + tl.minimum(n, N - 1))[:, None] * K + depth[None, :]
    up = N.to(tl.int64) * K
    groups = tl.cdiv(K, 128)
    acc = tl.zeros([BN, BK], tl.float32)
    acc_up = tl.zeros([BN, BK], tl.float32)
    for at in tl.range(0, K, BK, num_stages=STAGES):
        k = at + depth
        inside = k < K
        if EVEN:
            w = tl.load(w_at + at, eviction_policy="evict_first")
            u = tl.load(w_at + up + at, eviction_policy="evict_first")
        else:
            w = tl.load(w_at + at, mask=inside[None, :], other=0.0)
            u = tl.load(w_at + up + at, mask=inside[None, :], other=0.0)
        piece = tl.load(x + pair // TOP_K * x_stride + k, mask=inside, other=0.0).to(tl.float32)
        piece_up = piece
        if FP8:
            scales = weight_scales + (expert * tl.cdiv(2 * N, 128) + column * BN // 128) * groups + k // 128
            piece *= tl.load(scales, mask=inside, other=0.0)
            piece_up *= tl.load(scales + N // 128 * groups, mask=inside, other=0.0)
        acc += w.to(tl.float32) * piece[None, :]
        acc_up += u.to(tl.float32) * piece_up[None, :]
    result = silu_gate(tl.sum(acc, axis=1), tl.sum(acc_up, axis=1))
    tl.store(out + pair * N + n, result.to(out.dtype.element_ty), mask=n < N)


@triton.jit
def _direct_down_kernel(
    x,  # [T * TOP_K, K]
    ids,  # [T * TOP_K]
    shares,  # [T * TOP_K]
    weight,  # [E, N, K]
    weight_scales,  # FP8: [E, ceil(N/128), ceil(K/128)]
    out,  # [T, N], rows stride apart
    N, K, stride, ahead,
    TOP_K: tl.constexpr, SLOTS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, FP8: tl.constexpr,
    STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    column, token = tl.program_id(0), tl.program_id(1)
    n = column * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    slot = tl.arange(0, SLOTS)
    groups = tl.cdiv(K, 128)
    pair = token * TOP_K + tl.minimum(slot, TOP_K - 1)
    expert = tl.load(ids + pair, cache_modifier=".cg").to(tl.int64)  # from before the kernel that makes x
    row = (expert[:, None] * N + tl.minimum(n, N - 1)[None, :]) * K
    if PDL and ahead > 0:
        prefetch(tl.reshape(weight + row, [SLOTS * BN]), ahead, SLOTS * BN)
    start(PDL, True)
    share = tl.where(slot < TOP_K, tl.load(shares + pair), 0.0)
    scale_row = (expert * tl.cdiv(N, 128) + column * BN // 128) * groups
    acc = tl.zeros([SLOTS, BN, BK], tl.float32)
    for at in tl.range(0, K, BK, num_stages=STAGES):
        k = at + depth
        inside = k < K
        if EVEN:
            w = tl.load(weight + row[:, :, None] + k[None, None, :], eviction_policy="evict_first")
        else:
            w = tl.load(weight + row[:, :, None] + k[None, None, :], mask=inside[None, None, :], other=0.0)
        piece = (
            tl.load(x + pair[:, None] * K + k[None, :], mask=inside[None, :], other=0.0).to(tl.float32) * share[:, None]
        )
        if FP8:
            piece *= tl.load(weight_scales + scale_row[:, None] + k[None, :] // 128, mask=inside[None, :], other=0.0)
        acc += w.to(tl.float32) * piece[:, None, :]
    result = tl.sum(tl.sum(acc, axis=2), axis=0)
    tl.store(out + token * stride + n, result.to(out.dtype.element_ty), mask=n < N)


def direct(
    h: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    out: torch.Tensor,
    act: torch.Tensor,
    w13_scales: torch.Tensor | None,
    w2_scales: torch.Tensor | None,
    tiles: tuple[Tile, Tile],
) -> None:
    """All of `experts` for few tokens, in two kernels; act [T * top_k, I] is scratch."""
    tokens, top_k = ids.shape
    _, hidden, inner = w2.shape
    pdl = dependent_launch(h.device)
    up, down = tiles
    flags = {"TOP_K": top_k, "FP8": w13_scales is not None, "PDL": pdl, "launch_pdl": pdl}
    _direct_gate_up_kernel[(-(-inner // up.rows), tokens * top_k)](
        h, ids, w13, w13_scales, act, inner, hidden, h.stride(0), BN=up.rows, BK=up.depth,
        EVEN=hidden % up.depth == 0, STAGES=up.stages, num_warps=up.warps, **flags,
    )  # fmt: skip
    _direct_down_kernel[(-(-hidden // down.rows), tokens)](
        act, ids, weights, w2, w2_scales, out, hidden, inner, out.stride(0), prefetched(w2, 4096),
        SLOTS=triton.next_power_of_2(top_k), BN=down.rows, BK=down.depth,
        EVEN=inner % down.depth == 0, STAGES=down.stages, num_warps=down.warps, **flags,
    )  # fmt: skip

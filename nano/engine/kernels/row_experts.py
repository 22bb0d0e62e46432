"""Experts of few tokens: a program multiplies weight rows of chosen experts by the one activation row of a token.

Every program finds the token's experts in the router's logits itself, which takes less than a kernel of its own would.
"""

from __future__ import annotations

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.linear_kernels import silu_gate
from nano.engine.kernels.linear_tiles import Lanes
from nano.engine.kernels.prefetch import start, start_early
from nano.engine.kernels.row_products import activations, add_product, prefetch_pieces, times, weights

MOST_CHOSEN = 32  # experts of a token

_CHOSEN, _LEAST = gl.constexpr(MOST_CHOSEN), gl.constexpr(-(1 << 31))


@gluon.jit
def _chosen(logits, experts, NORMALIZE: gl.constexpr, TOP_K: gl.constexpr, EXPERTS: gl.constexpr, SLOT: gl.constexpr,
            SLOTS: gl.constexpr):  # fmt: skip
    """As `routing.route`: ids int32 [SLOTS] and shares fp32 [SLOTS] of a token; every warp finds them for itself."""
    L: gl.constexpr = gl.BlockedLayout([EXPERTS // 32], [32], [gl.num_warps()], [0])
    expert = gl.arange(0, EXPERTS, L)
    slot = gl.arange(0, SLOTS, SLOT)
    values = gl.load(logits + expert, mask=expert < experts, other=float("-inf"))
    values = gl.where(values == values, values, float("-inf"))  # rows of padding may hold NaN; their ids are experts'
    # One integer orders by logit, then by smaller index; the bits of a float below zero order the other way round.
    bits = values.to(gl.int16, bitcast=True).to(gl.int32)
    keys = (gl.where(bits < 0, bits ^ 0x7FFF, bits) << 16) | (0xFFFF - expert)
    keys = gl.where(expert < experts, keys, _LEAST)
    values = values.to(gl.float32)
    top = gl.max(values, axis=0)
    whole = gl.sum(gl.exp(values - top), axis=0)
    ids = gl.zeros([SLOTS], gl.int32, SLOT)
    shares = gl.zeros([SLOTS], gl.float32, SLOT)
    for i in gl.static_range(TOP_K):
        best = gl.max(keys, axis=0)
        keys = gl.where(keys == best, _LEAST, keys)
        high = best >> 16
        logit = gl.where(high < 0, high ^ 0x7FFF, high).to(gl.int16).to(logits.dtype.element_ty, bitcast=True)
        ids = gl.where(slot == i, 0xFFFF - (best & 0xFFFF), ids)
        shares = gl.where(slot == i, gl.exp(logit.to(gl.float32) - top), shares)
    if NORMALIZE:
        whole = gl.sum(shares, axis=0)
    return ids, shares / whole


@gluon.jit
def _gate_up_kernel(
    x,  # [T, K], rows x_stride apart
    logits,  # bf16 [T, E]
    weight,  # [E, 2N, K], gate's rows, then up's
    weight_scales,  # FP8: [E, 2N/128, K/128]
    out,  # [T * TOP_K, N]
    N, K, x_stride, experts,
    TOP_K: gl.constexpr, EXPERTS: gl.constexpr, BN: gl.constexpr, CHUNKS: gl.constexpr, V: gl.constexpr,
    WN: gl.constexpr, WK: gl.constexpr, EVEN: gl.constexpr, FP8: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Lanes as in row_kernel; a program's rows are a pair's."""
    L: gl.constexpr = gl.BlockedLayout([1, 1, V], [1, 32, 1], [WN, WK, 1], [2, 1, 0])
    ROW_PIECE: gl.constexpr = gl.SliceLayout(2, L)
    PIECE_ITEM: gl.constexpr = gl.SliceLayout(0, L)
    SLOT: gl.constexpr = gl.BlockedLayout([1], [32], [WN * WK], [0])
    P: gl.constexpr = CHUNKS * WK * 32
    BK: gl.constexpr = P * V
    first, pair = gl.program_id(0) * BN, gl.program_id(1)
    token = pair // TOP_K
    n = first + gl.arange(0, BN, gl.SliceLayout(1, ROW_PIECE))
    piece = gl.expand_dims(gl.arange(0, P, gl.SliceLayout(1, PIECE_ITEM)), 1)
    k = piece * V + gl.expand_dims(gl.arange(0, V, gl.SliceLayout(0, PIECE_ITEM)), 0)
    wide_k = gl.expand_dims(k, 0)
    group = gl.expand_dims(gl.arange(0, P, gl.SliceLayout(0, ROW_PIECE)), 0) * V
    place = gl.expand_dims(gl.expand_dims(gl.minimum(n, N - 1), 1), 2).to(gl.int64) * K + wide_k
    up = gl.cast(N, gl.int64) * K
    start(PDL)  # not earlier: the second kernel reads logits before its own wait
    ids, _ = _chosen(logits + token * experts, experts, False, TOP_K, EXPERTS, SLOT, _CHOSEN)
    expert = gl.sum(gl.where(gl.arange(0, _CHOSEN, SLOT) == pair % TOP_K, ids, 0), axis=0).to(gl.int64)
    w_at = weight + expert * 2 * up + place
    scales, up_scales = weight_scales, weight_scales
    if FP8:
        groups = gl.cdiv(K, 128)
        scales = weight_scales + (expert * (2 * N // 128) + first // 128) * groups
        up_scales = scales + N // 128 * groups
    acc = gl.zeros([BN, P], gl.float32, ROW_PIECE)
    acc_up = acc
    for at in range(0, K, BK):
        w = weights(w_at + at, wide_k + at, K, EVEN)
        u = weights(w_at + up + at, wide_k + at, K, EVEN)
        values = activations(x + token * x_stride + k + at, k + at, K, EVEN)
        acc = add_product(acc, w, values, scales, group + at, K, FP8)
        acc_up = add_product(acc_up, u, values, up_scales, group + at, K, FP8)
    result, result_up = gl.sum(acc, axis=1), gl.sum(acc_up, axis=1)
    gl.store(out + pair * N + n, silu_gate(result, result_up).to(out.dtype.element_ty), mask=n < N)


@gluon.jit
def _down_kernel(
    x,  # [T * TOP_K, K]
    logits,  # bf16 [T, E]
    weight,  # [E, N, K]
    weight_scales,  # FP8: [E, N/128, K/128]
    out,  # [T, N], rows stride apart
    N, K, stride, experts, ahead,
    NORMALIZE: gl.constexpr, TOP_K: gl.constexpr, EXPERTS: gl.constexpr, SLOTS: gl.constexpr, BN: gl.constexpr,
    V: gl.constexpr, STEPS: gl.constexpr, WARPS: gl.constexpr, EVEN: gl.constexpr, FP8: gl.constexpr,
    PDL: gl.constexpr,
):  # fmt: skip
    """BN rows of all of a token's experts, one or more experts a warp; STEPS times 32 * V columns cover K."""
    L: gl.constexpr = gl.BlockedLayout([1, 1, 1, V], [1, 1, 32, 1], [WARPS, 1, 1, 1], [3, 2, 1, 0])
    LANES: gl.constexpr = gl.SliceLayout(3, L)  # [SLOTS, BN, 32]
    ROWS: gl.constexpr = gl.SliceLayout(2, LANES)  # [SLOTS, BN]
    X: gl.constexpr = gl.SliceLayout(1, L)  # [SLOTS, 32, V]
    token = gl.program_id(1)
    n = gl.program_id(0) * BN + gl.arange(0, BN, gl.SliceLayout(0, ROWS))
    lane = gl.expand_dims(gl.expand_dims(gl.arange(0, 32, gl.SliceLayout(0, gl.SliceLayout(0, LANES))), 0), 0)
    x_slot = gl.expand_dims(gl.expand_dims(gl.arange(0, SLOTS, gl.SliceLayout(1, gl.SliceLayout(2, X))), 1), 2)
    x_lane = gl.expand_dims(gl.expand_dims(gl.arange(0, 32, gl.SliceLayout(0, gl.SliceLayout(2, X))), 0), 2)
    x_item = gl.expand_dims(gl.expand_dims(gl.arange(0, V, gl.SliceLayout(0, gl.SliceLayout(0, X))), 0), 0)
    k = x_lane * V + x_item
    wide_k = gl.expand_dims(k, 1)
    # The logits are from before the kernel that makes x.
    ids, shares = _chosen(logits + token * experts, experts, NORMALIZE, TOP_K, EXPERTS, gl.SliceLayout(1, ROWS), SLOTS)
    expert = gl.expand_dims(ids.to(gl.int64), 1)
    row = expert * N + gl.expand_dims(gl.minimum(n, N - 1), 0)
    w_at = weight + gl.expand_dims(gl.expand_dims(row, 2), 3) * K + wide_k
    if PDL and ahead > 0:
        SIZE: gl.constexpr = weight.dtype.element_ty.primitive_bitwidth // 8
        begin = lane * 128
        at = weight.to(gl.int64, bitcast=True) + gl.expand_dims(row, 2) * K * SIZE + begin
        size = gl.minimum(ahead, K * SIZE) // 16 * 16
        prefetch_pieces(at, gl.minimum(size - begin, 128) + gl.zeros([SLOTS, BN, 32], gl.int32, LANES))
    w = weights(w_at, wide_k, K, EVEN)
    start_early(PDL)
    scales = weight_scales
    if FP8:
        scale_row = expert * gl.cdiv(N, 128) + gl.program_id(0) * BN // 128
        scales = weight_scales + gl.expand_dims(scale_row * gl.cdiv(K, 128), 2)
    x_at = x + (token * TOP_K + gl.minimum(x_slot, TOP_K - 1)) * K + k
    acc = gl.zeros([SLOTS, BN, 32], gl.float32, LANES)
    for step in gl.static_range(STEPS):
        at = step * 32 * V
        if step > 0:
            w = weights(w_at + at, wide_k + at, K, EVEN)
        part = times(w, gl.expand_dims(activations(x_at + at, k + at, K, EVEN), 1), 3)
        if FP8:
            group = at + lane * V
            part *= gl.load(scales + group // 128, mask=group < K, other=0.0)
        acc += part
    result = gl.sum(gl.sum(acc, axis=2) * gl.expand_dims(shares, 1), axis=0)
    gl.store(out + token * stride + n, result.to(out.dtype.element_ty), mask=n < N)


def expert_rows(
    x: torch.Tensor,
    logits: torch.Tensor,
    top_k: int,
    normalize: bool,
    w13: torch.Tensor,
    w2: torch.Tensor,
    out: torch.Tensor,
    act: torch.Tensor,
    w13_scales: torch.Tensor | None,
    w2_scales: torch.Tensor | None,
    lanes: tuple[Lanes, Lanes],
) -> None:
    """`moe.experts` with `routing.route` for few tokens.

    logits [T, E] of 16 bits an element; act [T * top_k, I] is scratch;
    `lanes` (gate_up, down), of which down's are `wide` warps.
    """
    tokens, (experts, hidden, inner) = len(x), w2.shape
    up, down = lanes
    pdl = dependent_launch(x.device)
    size = w13.element_size()
    items, down_items = up.bytes // size, down.bytes // size
    flags = {
        "TOP_K": top_k, "EXPERTS": max(triton.next_power_of_2(experts), 32), "FP8": w13_scales is not None, "PDL": pdl,
        "launch_pdl": pdl,
    }  # fmt: skip
    _gate_up_kernel[(-(-inner // up.rows), tokens * top_k)](
        x, logits, w13, w13_scales, act, inner, hidden, x.stride(0), experts, BN=up.rows, CHUNKS=up.chunks,
        V=items, WN=up.wide, WK=up.deep, EVEN=hidden % (up.chunks * up.deep * 32 * items) == 0,
        num_warps=up.wide * up.deep, **flags,
    )  # fmt: skip
    _down_kernel[(-(-hidden // down.rows), tokens)](
        act, logits, w2, w2_scales, out, hidden, inner, out.stride(0), experts, 0 if inner * size % 16 else down.ahead,
        NORMALIZE=normalize, SLOTS=triton.next_power_of_2(top_k), BN=down.rows, V=down_items,
        STEPS=-(-inner // (32 * down_items)), WARPS=down.wide, EVEN=inner % (32 * down_items) == 0,
        num_warps=down.wide, **flags,
    )  # fmt: skip

"""Products of one activation row on plain lanes: every lane holds the same columns of all its weight rows.

So the loop over K has no exchange between lanes, the next step's weights are on their way while this one's are
multiplied, and the first step's are before the kernel that makes the activations has ended.
"""

from __future__ import annotations

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language.extra import cuda as tlx

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.linear_tiles import Lanes


@gluon.jit
def _start(PDL: gl.constexpr, EARLY: gl.constexpr):
    if PDL:
        if EARLY and PDL == 2:
            tlx.gdc_launch_dependents()
            tlx.gdc_wait()
        else:
            tlx.gdc_wait()
            tlx.gdc_launch_dependents()


@gluon.jit
def _ask(base, first, rows, size, pitch, ROWS: gl.constexpr, WARPS: gl.constexpr):
    """Brings `size` bytes from `first` on of each of `rows` rows, `pitch` bytes apart, into L2; a thread a piece."""
    EACH: gl.constexpr = (WARPS * 32) // ROWS if WARPS * 32 > ROWS else 1
    L: gl.constexpr = gl.BlockedLayout([1, 1], [32 // EACH if EACH < 32 else 1, EACH if EACH < 32 else 32],
                                       [WARPS if EACH < 32 else 32 * WARPS // EACH, 1 if EACH < 32 else EACH // 32],
                                       [1, 0])  # fmt: skip
    row = gl.expand_dims(first + gl.arange(0, ROWS, gl.SliceLayout(1, L)), 1)
    piece = gl.maximum(gl.cdiv(size, EACH * 128) * 128, 128)
    begin = gl.expand_dims(gl.arange(0, EACH, gl.SliceLayout(0, L)), 0) * piece
    left = gl.where(row < rows, gl.minimum(size - begin, piece), 0)
    at = base.to(gl.int64, bitcast=True) + row.to(gl.int64) * pitch + begin
    gl.inline_asm_elementwise(
        "{ .reg .pred p; setp.gt.s32 p, $2, 0; @p cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }",
        "=r,l,r",
        [at, left],
        dtype=gl.int32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def _weights(at, k, K, EVEN: gl.constexpr):
    if EVEN:
        return gl.load(at, eviction_policy="evict_first")
    return gl.load(at, mask=k < K, other=0.0, eviction_policy="evict_first")


@gluon.jit
def _activations(at, k, K, EVEN: gl.constexpr):
    if EVEN:
        return gl.load(at).to(gl.float32)
    return gl.load(at, mask=k < K, other=0.0).to(gl.float32)


@gluon.jit
def _times(w, x, axis: gl.constexpr):
    return gl.sum(w.to(gl.float32) * x, axis=axis)


@gluon.jit
def _row_values(x, delta, gain, x_out, squares, k, at, K, first, EVEN: gl.constexpr):
    """A step's activations fp32 [P, V]; with `gain` those of the norm but for its factor, whose squares are added up."""
    values = _activations(x + at + k, at + k, K, EVEN)
    if gain is not None:
        if delta is not None:
            values += _activations(delta + at + k, at + k, K, EVEN)
            values = values.to(x.dtype.element_ty).to(gl.float32)
        if x_out is not None:
            if first == 0:
                gl.store(x_out + at + k, values.to(x_out.dtype.element_ty), mask=at + k < K)
        squares += gl.sum(values * values, axis=1)
        values *= _activations(gain + at + k, at + k, K, EVEN)
    return values, squares


@gluon.jit
def _add(acc, w, values, scale_at, group, at, K, FP8: gl.constexpr):
    part = _times(w, gl.expand_dims(values, 0), 2)
    if FP8:
        part *= gl.load(scale_at + (at + group) // 128, mask=at + group < K, other=0.0)
    return acc + part


@gluon.jit
def row_kernel(
    x,  # [K]
    delta,  # with gain: [K], added to x, or null
    gain,  # null, or fp32 [K]: x is the residual, and its norm is multiplied
    x_out,  # with gain: [K], x + delta, or null
    weight,  # [N, K]; GATED: [2N, K], gate's rows, then up's
    weight_scales,  # FP8: [rows/128, K/128] rounded up
    out,  # [N]
    N, K, ahead, eps,
    BN: gl.constexpr, CHUNKS: gl.constexpr, V: gl.constexpr, WN: gl.constexpr, WK: gl.constexpr, EVEN: gl.constexpr,
    GATED: gl.constexpr, FP8: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    L: gl.constexpr = gl.BlockedLayout([1, 1, V], [1, 32, 1], [WN, WK, 1], [2, 1, 0])
    ROW_PIECE: gl.constexpr = gl.SliceLayout(2, L)
    PIECE_ITEM: gl.constexpr = gl.SliceLayout(0, L)
    P: gl.constexpr = CHUNKS * 32 * WK
    BK: gl.constexpr = P * V
    first = gl.program_id(0) * BN
    n = first + gl.arange(0, BN, gl.SliceLayout(1, ROW_PIECE))
    piece = gl.arange(0, P, gl.SliceLayout(1, PIECE_ITEM))
    k = gl.expand_dims(piece, 1) * V + gl.expand_dims(gl.arange(0, V, gl.SliceLayout(0, PIECE_ITEM)), 0)
    group = gl.expand_dims(gl.arange(0, P, gl.SliceLayout(0, ROW_PIECE)), 0) * V
    row = gl.expand_dims(gl.expand_dims(gl.minimum(n, N - 1), 1), 2).to(gl.int64) * K
    k3 = gl.expand_dims(k, 0)
    w_at = weight + row + k3
    up = N.to(gl.int64) * K
    groups = gl.cdiv(K, 128)
    scale_at = weight_scales if weight_scales is None else weight_scales + first // 128 * groups
    if PDL and ahead > 0:
        SIZE: gl.constexpr = weight.dtype.element_ty.primitive_bitwidth // 8
        size, pitch = gl.minimum(ahead, K * SIZE) // 16 * 16, K.to(gl.int64) * SIZE
        _ask(weight, first, N, size, pitch, BN, WN * WK)
        if GATED:
            _ask(weight + up, first, N, size, pitch, BN, WN * WK)
    w = _weights(w_at, k3, K, EVEN)
    if GATED:
        u = _weights(w_at + up, k3, K, EVEN)
    _start(PDL, True)
    squares = gl.zeros([P], gl.float32, gl.SliceLayout(1, PIECE_ITEM))
    acc = gl.zeros([BN, P], gl.float32, ROW_PIECE)
    acc_up = acc
    values, squares = _row_values(x, delta, gain, x_out, squares, k, 0, K, first, EVEN)
    acc = _add(acc, w, values, scale_at, group, 0, K, FP8)
    if GATED:
        up_scale_at = scale_at if scale_at is None else scale_at + N // 128 * groups
        acc_up = _add(acc_up, u, values, up_scale_at, group, 0, K, FP8)
    for at in range(BK, K, BK):
        w = _weights(w_at + at, k3 + at, K, EVEN)
        if GATED:
            u = _weights(w_at + up + at, k3 + at, K, EVEN)
        values, squares = _row_values(x, delta, gain, x_out, squares, k, at, K, first, EVEN)
        acc = _add(acc, w, values, scale_at, group, at, K, FP8)
        if GATED:
            acc_up = _add(acc_up, u, values, up_scale_at, group, at, K, FP8)
    total = gl.sum(acc, axis=1)
    if gain is not None:
        factor = gl.rsqrt(gl.sum(squares, axis=0) / K + eps)
        total *= factor
    if GATED:
        total_up = gl.sum(acc_up, axis=1)
        if gain is not None:
            total_up *= factor
        total = total / (1.0 + gl.exp(-total)) * total_up
    gl.store(out + n, total.to(out.dtype.element_ty), mask=n < N)


@gluon.jit
def _chosen(logits, experts, NORMALIZE: gl.constexpr, TOP_K: gl.constexpr, EXPERTS: gl.constexpr, SLOT: gl.constexpr,
            SLOTS: gl.constexpr):  # fmt: skip
    """As route_kernel: experts int32 [SLOTS] and shares fp32 [SLOTS] of a token's bf16 logits; every warp for itself."""
    EACH: gl.constexpr = EXPERTS // 32 if EXPERTS > 32 else 1
    L: gl.constexpr = gl.BlockedLayout([EACH], [32], [gl.num_warps()], [0])
    expert = gl.arange(0, EXPERTS, L)
    slot = gl.arange(0, SLOTS, SLOT)
    values = gl.load(logits + expert, mask=expert < experts, other=float("-inf"))
    values = gl.where(values == values, values, float("-inf"))  # rows of padding may hold NaN; ids are to be experts
    # One integer orders by logit, then by smaller index: the bits of a negative float order the other way.
    bits = values.to(gl.int16, bitcast=True).to(gl.int32)
    keys = (gl.where(bits < 0, bits ^ 0x7FFF, bits) << 16) | (0xFFFF - expert)
    keys = gl.where(expert < experts, keys, -2147483648)
    top = gl.max(values.to(gl.float32), axis=0)
    whole = gl.sum(gl.exp(values.to(gl.float32) - top), axis=0)
    ids = gl.zeros([SLOTS], gl.int32, SLOT)
    shares = gl.zeros([SLOTS], gl.float32, SLOT)
    for i in gl.static_range(TOP_K):
        best = gl.max(keys, axis=0)
        keys = gl.where(keys == best, -2147483648, keys)
        high = best >> 16
        logit = gl.where(high < 0, high ^ 0x7FFF, high).to(gl.int16).to(gl.bfloat16, bitcast=True).to(gl.float32)
        ids = gl.where(slot == i, 0xFFFF - (best & 0xFFFF), ids)
        shares = gl.where(slot == i, gl.exp(logit - top), shares)
    if NORMALIZE:
        whole = gl.sum(shares, axis=0)
    return ids, shares / whole


@gluon.jit
def expert_gate_up_kernel(
    x,  # [T, K], rows x_stride apart
    gain,  # null, or fp32 [K]: x is the residual, and its norm is multiplied
    ids,  # [T * TOP_K], or null
    logits,  # where there are no ids: bf16 [T, E]
    weight,  # [E, 2N, K]
    weight_scales,  # FP8: [E, 2N/128, K/128]
    out,  # [T * TOP_K, N]
    N, K, x_stride, eps, experts,
    NORMALIZE: gl.constexpr, EXPERTS: gl.constexpr, TOP_K: gl.constexpr, BN: gl.constexpr, CHUNKS: gl.constexpr, V: gl.constexpr, WN: gl.constexpr, WK: gl.constexpr,
    EVEN: gl.constexpr, FP8: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    L: gl.constexpr = gl.BlockedLayout([1, 1, V], [1, 32, 1], [WN, WK, 1], [2, 1, 0])
    ROW_PIECE: gl.constexpr = gl.SliceLayout(2, L)
    PIECE_ITEM: gl.constexpr = gl.SliceLayout(0, L)
    P: gl.constexpr = CHUNKS * 32 * WK
    BK: gl.constexpr = P * V
    column, pair = gl.program_id(0), gl.program_id(1)
    n = column * BN + gl.arange(0, BN, gl.SliceLayout(1, ROW_PIECE))
    piece = gl.arange(0, P, gl.SliceLayout(1, PIECE_ITEM))
    k = gl.expand_dims(piece, 1) * V + gl.expand_dims(gl.arange(0, V, gl.SliceLayout(0, PIECE_ITEM)), 0)
    group = gl.expand_dims(gl.arange(0, P, gl.SliceLayout(0, ROW_PIECE)), 0) * V
    groups = gl.cdiv(K, 128)
    row = gl.expand_dims(gl.expand_dims(gl.minimum(n, N - 1), 1), 2).to(gl.int64) * K
    place = row + gl.expand_dims(k, 0)
    up = N.to(gl.int64) * K
    _start(PDL, False)  # down reads ids or logits before its own wait
    if ids is None:
        SLOT: gl.constexpr = gl.BlockedLayout([1], [32], [WN * WK], [0])
        token = pair // TOP_K
        chosen, _ = _chosen(logits + token * experts, experts, NORMALIZE, TOP_K, EXPERTS, SLOT, 32)
        expert = gl.sum(gl.where(gl.arange(0, 32, SLOT) == pair % TOP_K, chosen, 0), axis=0).to(gl.int64)
    else:
        expert = gl.load(ids + pair).to(gl.int64)
    w_at = weight + expert * 2 * up + place
    k3 = gl.expand_dims(k, 0)
    acc = gl.zeros([BN, P], gl.float32, ROW_PIECE)
    acc_up = gl.zeros([BN, P], gl.float32, ROW_PIECE)
    x_row = x + pair // TOP_K * x_stride
    squares = gl.zeros([P], gl.float32, gl.SliceLayout(1, PIECE_ITEM))
    scale_at = (
        weight_scales if weight_scales is None
        else weight_scales + (expert * gl.cdiv(2 * N, 128) + column * BN // 128) * groups
    )  # fmt: skip
    up_scale_at = scale_at if scale_at is None else scale_at + N // 128 * groups
    for at in range(0, K, BK):
        w = _weights(w_at + at, k3 + at, K, EVEN)
        u = _weights(w_at + up + at, k3 + at, K, EVEN)
        values, squares = _row_values(x_row, None, gain, None, squares, k, at, K, column, EVEN)
        acc = _add(acc, w, values, scale_at, group, at, K, FP8)
        acc_up = _add(acc_up, u, values, up_scale_at, group, at, K, FP8)
    gate, total_up = gl.sum(acc, axis=1), gl.sum(acc_up, axis=1)
    if gain is not None:
        factor = gl.rsqrt(gl.sum(squares, axis=0) / K + eps)
        gate *= factor
        total_up *= factor
    result = gate / (1.0 + gl.exp(-gate)) * total_up
    gl.store(out + pair * N + n, result.to(out.dtype.element_ty), mask=n < N)


@gluon.jit
def expert_down_kernel(
    x,  # [T * TOP_K, K]
    ids,  # [T * TOP_K], or null
    shares,  # as ids
    logits,  # where there are no ids: bf16 [T, E]
    weight,  # [E, N, K]
    weight_scales,  # FP8: [E, N/128, K/128]
    out,  # [T, N], rows stride apart
    N, K, stride, experts, ahead,
    NORMALIZE: gl.constexpr, EXPERTS: gl.constexpr, TOP_K: gl.constexpr, SLOTS: gl.constexpr, BN: gl.constexpr, V: gl.constexpr, STEPS: gl.constexpr,
    WS: gl.constexpr, EVEN: gl.constexpr, FP8: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """STEPS * 32 * V columns cover K."""
    L: gl.constexpr = gl.BlockedLayout([1, 1, 1, V], [1, 1, 32, 1], [WS, 1, 1, 1], [3, 2, 1, 0])
    NO_ITEM: gl.constexpr = gl.SliceLayout(3, L)  # [SLOTS, BN, 32]
    RESULT: gl.constexpr = gl.SliceLayout(2, NO_ITEM)  # [SLOTS, BN]
    X: gl.constexpr = gl.SliceLayout(1, L)  # [SLOTS, 32, V]
    SLOT: gl.constexpr = gl.SliceLayout(1, RESULT)
    column, token = gl.program_id(0), gl.program_id(1)
    slot = gl.arange(0, SLOTS, SLOT)
    n = column * BN + gl.arange(0, BN, gl.SliceLayout(0, RESULT))
    pair = token * TOP_K + gl.minimum(slot, TOP_K - 1)
    if ids is None:  # from before the kernel that makes x, as ids are
        chosen, share = _chosen(logits + token * experts, experts, NORMALIZE, TOP_K, EXPERTS, SLOT, SLOTS)
        expert = chosen.to(gl.int64)
    else:
        expert = gl.load(ids + pair, cache_modifier=".cg").to(gl.int64)
    row = gl.expand_dims(expert, 1) * N + gl.expand_dims(gl.minimum(n, N - 1), 0)
    lane = gl.arange(0, 32, gl.SliceLayout(0, gl.SliceLayout(0, NO_ITEM)))
    x_slot = gl.arange(0, SLOTS, gl.SliceLayout(1, gl.SliceLayout(2, X)))
    x_lane = gl.arange(0, 32, gl.SliceLayout(0, gl.SliceLayout(2, X)))
    x_item = gl.arange(0, V, gl.SliceLayout(0, gl.SliceLayout(0, X)))
    k = gl.expand_dims(gl.expand_dims(x_lane, 0), 2) * V + gl.expand_dims(gl.expand_dims(x_item, 0), 0)  # [1, 32, V]
    place = gl.expand_dims(gl.expand_dims(row, 2), 3) * K + gl.expand_dims(k, 1)
    if PDL and ahead > 0:
        SIZE: gl.constexpr = weight.dtype.element_ty.primitive_bitwidth // 8
        begin = gl.expand_dims(gl.expand_dims(lane, 0), 0) * 128
        at = weight.to(gl.int64, bitcast=True) + gl.expand_dims(row, 2) * K * SIZE + begin
        left = gl.minimum(gl.minimum(ahead, K * SIZE) // 16 * 16 - begin, 128) + gl.zeros([SLOTS, BN, 32], gl.int32, NO_ITEM)
        gl.inline_asm_elementwise(
            "{ .reg .pred p; setp.gt.s32 p, $2, 0; @p cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }",
            "=r,l,r", [at, left], dtype=gl.int32, is_pure=False, pack=1,
        )
    w = _weights(weight + place, gl.expand_dims(k, 1), K, EVEN)
    _start(PDL, True)
    x_pair = token * TOP_K + gl.minimum(x_slot, TOP_K - 1)
    x_at = x + gl.expand_dims(gl.expand_dims(x_pair, 1), 2) * K + k
    groups = gl.cdiv(K, 128)
    acc = gl.zeros([SLOTS, BN, 32], gl.float32, NO_ITEM)
    scale_row = gl.expand_dims(
        (gl.expand_dims(expert, 1) * gl.cdiv(N, 128) + column * BN // 128) * groups, 2
    )  # [SLOTS, 1, 1]
    for step in gl.static_range(STEPS):
        at = step * 32 * V
        if step > 0:
            w = _weights(weight + place + at, gl.expand_dims(k, 1) + at, K, EVEN)
        values = _activations(x_at + at, k + at, K, EVEN)
        part = _times(w, gl.expand_dims(values, 1), 3)
        if FP8:
            group = at + gl.expand_dims(gl.expand_dims(lane, 0), 0) * V
            part *= gl.load(weight_scales + scale_row + group // 128, mask=group < K, other=0.0)
        acc += part
    if ids is not None:
        share = gl.where(slot < TOP_K, gl.load(shares + pair), 0.0)
    total = gl.sum(gl.sum(acc, axis=2) * gl.expand_dims(share, 1), axis=0)
    n_out = column * BN + gl.arange(0, BN, gl.SliceLayout(0, RESULT))
    gl.store(out + token * stride + n_out, total.to(out.dtype.element_ty), mask=n_out < N)


def linear_row(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor | None,
    out: torch.Tensor,
    lanes: Lanes,
    delta: torch.Tensor | None = None,
    gain: torch.Tensor | None = None,
    x_out: torch.Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
) -> None:
    n, k = weight.shape
    n //= 2 if gated else 1
    pdl = dependent_launch(x.device)
    v = lanes.bytes // weight.element_size()
    row_kernel[(-(-n // lanes.rows),)](
        x, delta, gain, x_out, weight, scales, out, n, k, lanes.ahead, eps, BN=lanes.rows, CHUNKS=lanes.chunks, V=v,
        WN=lanes.wide, WK=lanes.deep, EVEN=k % (lanes.chunks * 32 * lanes.deep * v) == 0, GATED=gated,
        FP8=scales is not None, PDL=pdl, num_warps=lanes.wide * lanes.deep, launch_pdl=pdl,
    )  # fmt: skip


def expert_rows(
    h: torch.Tensor,
    weights: torch.Tensor | None,
    ids: torch.Tensor | None,
    w13: torch.Tensor,
    w2: torch.Tensor,
    out: torch.Tensor,
    act: torch.Tensor,
    w13_scales: torch.Tensor | None,
    w2_scales: torch.Tensor | None,
    up: Lanes,
    down: Lanes,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
    logits: torch.Tensor | None = None,
    top_k: int = 0,
    normalize: bool = False,
) -> None:
    tokens = h.shape[0]
    top_k = top_k if ids is None else ids.shape[1]
    experts, hidden, inner = w2.shape
    pdl = dependent_launch(h.device)
    fp8 = w13_scales is not None
    flags = {
        "NORMALIZE": normalize, "EXPERTS": max(1 << (experts - 1).bit_length(), 32), "TOP_K": top_k, "FP8": fp8,
        "PDL": pdl, "launch_pdl": pdl,
    }  # fmt: skip
    v = up.bytes // w13.element_size()
    expert_gate_up_kernel[(-(-inner // up.rows), tokens * top_k)](
        h, gain, ids, logits, w13, w13_scales, act, inner, hidden, h.stride(0), eps, experts, BN=up.rows,
        CHUNKS=up.chunks, V=v, WN=up.wide, WK=up.deep, EVEN=hidden % (up.chunks * 32 * up.deep * v) == 0,
        num_warps=up.wide * up.deep, **flags,
    )  # fmt: skip
    v = down.bytes // w2.element_size()
    slots = 1 << (top_k - 1).bit_length()
    expert_down_kernel[(-(-hidden // down.rows), tokens)](
        act, ids, weights, logits, w2, w2_scales, out, hidden, inner, out.stride(0), experts, down.ahead,
        SLOTS=slots, BN=down.rows, V=v, STEPS=-(-inner // (32 * v)), WS=down.wide, EVEN=inner % (32 * v) == 0,
        num_warps=down.wide, **flags,
    )  # fmt: skip

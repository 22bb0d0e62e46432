"""Mixture of experts for a step's tokens: routing, tokens in order of their experts, and products grouped by expert.

A pair is one (token, chosen expert). Few tokens: a program multiplies weight rows of a pair's expert by the pair's one
activation row. Else pairs are put in order of their experts, on the device, and a program multiplies a tile of weight
rows by up to `pairs` rows of one expert; the grid covers the worst split of pairs over experts, and programs without
work end at once. Each pair's result is written in its place and summed in a fixed order: results repeat bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.prefetch import prefetch, start
from nano.engine.kernels.quantize import FP8, GROUP, new_scales, quantize
from nano.errors import InvalidInput

DIRECT_TOKENS = 4  # up to so many tokens, pairs are multiplied one by one


@triton.jit
def _route_kernel(
    logits,  # [T, E], rows stride apart
    weights,  # [T, TOP_K]
    ids,  # [T, TOP_K]
    experts, stride,
    TOP_K: tl.constexpr, SLOTS: tl.constexpr, EXPERTS: tl.constexpr, NORMALIZE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    expert = tl.arange(0, EXPERTS)
    slot = tl.arange(0, SLOTS)
    start(PDL)
    values = tl.load(logits + token.to(tl.int64) * stride + expert, mask=expert < experts, other=float("-inf"))
    values = values.to(tl.float32)
    shares = tl.exp(values - tl.max(values, axis=0))
    shares = shares / tl.sum(shares, axis=0)
    shares = tl.where(shares == shares, shares, 0.0)  # rows of padding may hold NaN; their ids are to be experts still
    # One integer orders by share, then by smaller index: the bits of a float that is not negative order as it does.
    keys = (shares.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (EXPERTS - 1 - expert).to(tl.int64)
    keys = tl.where(expert < experts, keys, -1)
    chosen = tl.zeros([SLOTS], tl.int64)
    for i in tl.static_range(TOP_K):
        best = tl.max(keys, axis=0)
        chosen = tl.where(slot == i, best, chosen)
        keys = tl.where(keys == best, -1, keys)
    shares = (chosen >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    if NORMALIZE:
        shares = shares / tl.sum(shares, axis=0)
    tl.store(weights + token * TOP_K + slot, shares, mask=slot < TOP_K)
    tl.store(ids + token * TOP_K + slot, EXPERTS - 1 - (chosen & 0xFFFFFFFF).to(tl.int32), mask=slot < TOP_K)


def route(router_logits: torch.Tensor, top_k: int, normalize: bool, weights: torch.Tensor, ids: torch.Tensor) -> None:
    """The top_k experts of softmax(router_logits [T, E]), the smaller index first among equals.

    weights fp32 [T, top_k] are their shares, divided by their sum when `normalize`; ids int32 [T, top_k].
    """
    tokens, experts = router_logits.shape
    if not 1 <= top_k <= experts or weights.shape != (tokens, top_k) or ids.shape != (tokens, top_k):
        raise InvalidInput(
            f"route: expected weights and ids {(tokens, top_k)} with 1 <= top_k <= {experts}, "
            f"got {tuple(weights.shape)}, {tuple(ids.shape)}"
        )
    block = triton.next_power_of_2(experts)
    pdl = dependent_launch(router_logits.device)
    _route_kernel[(tokens,)](
        router_logits, weights, ids, experts, router_logits.stride(0), TOP_K=top_k,
        SLOTS=triton.next_power_of_2(top_k), EXPERTS=block, NORMALIZE=normalize, PDL=pdl,
        num_warps=min(max(block // 256, 1), 4), launch_pdl=pdl,
    )  # fmt: skip


@triton.jit
def _order_kernel(
    ids,  # [pairs]
    order,  # [pairs]: pairs in order of their experts
    offsets,  # [E + 1]: where each expert's pairs begin in order
    pairs,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    start(PDL)
    before = tl.zeros([BLOCK], tl.int32)
    for at in tl.range(0, pairs, BLOCK):
        id = tl.load(ids + at + lane, mask=at + lane < pairs, other=2147483647)
        before += (id < expert).to(tl.int32)
    base = tl.sum(before, axis=0)
    tl.store(offsets + expert, base)
    for at in tl.range(0, pairs, BLOCK):
        id = tl.load(ids + at + lane, mask=at + lane < pairs, other=2147483647)
        mine = id == expert
        place = tl.cumsum(mine.to(tl.int32), axis=0)
        tl.store(order + base + place - 1, at + lane, mask=mine)
        base += tl.sum(mine.to(tl.int32), axis=0)
    if expert == tl.num_programs(0) - 1:
        tl.store(offsets + expert + 1, base)


@triton.jit
def _silu_mul(gate, up):
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def _grouped_kernel(
    x,  # GATED: [T, K], a pair's row is its token's; else [pairs, K] in order
    x_scales,  # FP8: [rows of x, K/128], any strides
    weight,  # GATED: [E, 2N, K], gate rows, then up rows; else [E, N, K]; with TMA a descriptor of its rows, so is x
    weight_scales,  # FP8: [E, ceil(rows/128), ceil(K/128)]
    out,  # GATED: [pairs, N] in order; else [pairs, N]
    out_scales,  # QUANTIZE: [pairs, N/128], any strides
    order,  # [pairs]
    offsets,  # [E + 1]
    experts, N, K, x_stride, x_scale_row, x_scale_column, out_scale_row, out_scale_column, ahead,
    TOP_K: tl.constexpr, EXPERTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    EVEN: tl.constexpr, FP8: tl.constexpr, GATED: tl.constexpr, QUANTIZE: tl.constexpr, TMA: tl.constexpr,
    PDL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(N, BN)
    tile = tl.program_id(0) // columns
    column = tl.program_id(0) % columns
    if GATED:  # the second product's pairs were put in order two kernels ago
        start(PDL)
    index = tl.arange(0, EXPERTS)
    begins = tl.load(offsets + index, mask=index < experts, other=0, cache_modifier=".cg")
    ends = tl.load(offsets + index + 1, mask=index < experts, other=0, cache_modifier=".cg")
    tiles = tl.cdiv(ends - begins, BM)
    expert = tl.sum((tl.cumsum(tiles, axis=0) <= tile).to(tl.int32), axis=0)
    if expert >= experts:
        return
    first = tl.sum(tl.where(index == expert, begins, 0), axis=0)
    first += (tile - tl.sum(tl.where(index < expert, tiles, 0), axis=0)) * BM
    last = tl.sum(tl.where(index == expert, ends, 0), axis=0)
    place = first + tl.arange(0, BM)
    valid = place < last
    pair = tl.load(order + place, mask=valid, other=0, cache_modifier=".cg")
    row = pair // TOP_K if GATED else tl.minimum(place, last - 1)
    n = column * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    matrix = expert * N * (2 if GATED else 1)
    if PDL and not GATED:
        if not TMA and ahead > 0:
            prefetch(weight + (matrix.to(tl.int64) + tl.minimum(n, N - 1)) * K, ahead)
        start(PDL)
    if not TMA:
        w_at = weight + (matrix.to(tl.int64) + tl.minimum(n, N - 1))[:, None] * K + depth[None, :]
    if GATED or not TMA:
        x_at = x + row.to(tl.int64)[None, :] * x_stride + depth[:, None]
    groups = tl.cdiv(K, 128)
    if FP8:
        scale_rows = tl.cdiv(N * (2 if GATED else 1), 128)
        scale_at = weight_scales + (expert.to(tl.int64) * scale_rows + column * BN // 128) * groups
        x_scale_at = x_scales + row.to(tl.int64) * x_scale_row
    acc = tl.zeros([BN, BM], tl.float32)
    acc_up = tl.zeros([BN, BM] if GATED else [1, 1], tl.float32)
    for at in tl.range(0, K, BK):
        inside = at + depth < K
        if TMA and not GATED:
            piece = tl.trans(x.load([first, at]))
        elif EVEN:
            piece = tl.load(x_at + at)
        else:
            piece = tl.load(x_at + at, mask=inside[:, None], other=0.0)
        if TMA:
            w = weight.load([matrix + column * BN, at])
        elif EVEN:
            w = tl.load(w_at + at)
        else:
            w = tl.load(w_at + at, mask=inside[None, :], other=0.0)
        if FP8:
            x_scale = tl.load(x_scale_at + at // 128 * x_scale_column)
            acc += tl.dot(w, piece) * (tl.load(scale_at + at // 128) * x_scale)[None, :]
        else:
            acc = tl.dot(w, piece, acc, input_precision=PRECISION)
        if GATED:
            if TMA:
                u = weight.load([matrix + N + column * BN, at])
            elif EVEN:
                u = tl.load(w_at + N.to(tl.int64) * K + at)
            else:
                u = tl.load(w_at + N.to(tl.int64) * K + at, mask=inside[None, :], other=0.0)
            if FP8:
                acc_up += tl.dot(u, piece) * (tl.load(scale_at + N // 128 * groups + at // 128) * x_scale)[None, :]
            else:
                acc_up = tl.dot(u, piece, acc_up, input_precision=PRECISION)
    if GATED:
        acc = _silu_mul(acc, acc_up)
        place_out = place
    else:
        place_out = pair
    if QUANTIZE:
        scale = tl.maximum(tl.max(tl.abs(acc), axis=0), 1e-10) / 448.0
        tl.store(out_scales + place_out.to(tl.int64) * out_scale_row + column * out_scale_column, scale, mask=valid)
        acc = acc / scale[None, :]
    tl.store(out + place_out.to(tl.int64)[:, None] * N + n[None, :], tl.trans(acc.to(out.dtype.element_ty)),
             mask=valid[:, None] & (n < N)[None, :])  # fmt: skip


@triton.jit
def _combine_kernel(
    parts,  # [T, TOP_K, C]
    weights,  # [T, TOP_K]
    out,  # [T, C], rows stride apart
    columns, stride,
    TOP_K: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    start(PDL)
    acc = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(TOP_K):
        share = tl.load(weights + token * TOP_K + i)
        acc += share * tl.load(parts + (token * TOP_K + i) * columns + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * stride + column, acc.to(out.dtype.element_ty), mask=inside)


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
    result = _silu_mul(tl.sum(acc, axis=1), tl.sum(acc_up, axis=1))
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
        prefetch(weight + row, ahead)
    start(PDL)
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


@dataclass(frozen=True)
class Tile:
    """How a grouped product is cut: `pairs` activation rows by `rows` weight rows, `depth` columns at a time."""

    pairs: int
    rows: int
    depth: int
    warps: int = 4
    stages: int = 4
    tma: bool = False  # weights (and ordered activations) come by tensor descriptors; rows must divide the weight's


class MoeScratch:
    """Intermediate results of `experts` for up to max_tokens tokens of one layer; layers share it."""

    def __init__(
        self,
        max_tokens: int,
        top_k: int,
        experts: int,
        hidden: int,
        intermediate: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        pairs = max_tokens * top_k
        self.order = torch.empty(pairs, dtype=torch.int32, device=device)
        self.offsets = torch.empty(experts + 1, dtype=torch.int32, device=device)
        self.act = torch.empty(pairs, intermediate, dtype=dtype, device=device)
        self.parts = torch.empty(pairs, hidden, dtype=dtype, device=device)
        self.hidden_fp8: torch.Tensor | None = None
        self._sizes = (max_tokens, hidden, intermediate)
        self._device = device

    def fp8(self) -> None:
        """Adds what fp8 weights need; called at the first product with them."""
        if self.hidden_fp8 is None:
            max_tokens, hidden, intermediate = self._sizes
            pairs = len(self.order)
            self.hidden_fp8 = torch.empty(max_tokens, hidden, dtype=FP8, device=self._device)
            self.hidden_scales = new_scales(max_tokens, hidden, self._device)
            self.act_fp8 = self.act.view(FP8).view(-1)[: pairs * intermediate].view(pairs, intermediate)
            self.act_scales = new_scales(pairs, intermediate, self._device)


def choose(pairs: int, experts: int, gated: bool, dtype: torch.dtype) -> Tile:
    """The tile for `pairs` rows spread over `experts`, weights of `dtype`."""
    mean = pairs / experts
    if dtype.itemsize == 4:
        return Tile(16 if mean <= 16 else 32, 64, 32, stages=3)
    if dtype == FP8:  # the act of a tile's rows is quantised by groups of 128
        if mean <= 24:
            few = 16 if mean <= 8 else 32
            return Tile(few, 128, 128, stages=3, tma=few == 16 or not gated)
        return Tile(64 if gated else 128, 128, 128, warps=8, stages=3)
    if mean <= 24:
        if gated:
            return Tile(16 if mean <= 8 else 32, 128, 128, warps=8, stages=3)
        return Tile(16, 64, 128) if mean <= 8 else Tile(16, 128, 128, warps=8, stages=3)
    if mean <= 96:
        return Tile(64, 128, 64, warps=8)
    return Tile(128, 128, 64, warps=8, stages=4 if gated else 3, tma=True)


def _grouped(
    tile: Tile,
    x: torch.Tensor,
    x_scales: torch.Tensor | None,
    weight: torch.Tensor,
    weight_scales: torch.Tensor | None,
    out: torch.Tensor,
    out_scales: torch.Tensor | None,
    scratch: MoeScratch,
    pairs: int,
    top_k: int,
    gated: bool,
) -> None:
    experts, rows, k = weight.shape
    n = rows // (2 if gated else 1)
    tiles = min(pairs, -(-pairs // tile.pairs) + experts - 1)
    pdl = dependent_launch(x.device)
    x_in: torch.Tensor | TensorDescriptor = x
    w_in: torch.Tensor | TensorDescriptor = weight
    if tile.tma and k * weight.element_size() % 16 == 0:
        w_in = TensorDescriptor.from_tensor(weight.view(-1, k), [tile.rows, tile.depth])
        x_in = x if gated else TensorDescriptor.from_tensor(x, [tile.pairs, tile.depth])
    _grouped_kernel[(tiles * -(-n // tile.rows),)](
        x_in, x_scales, w_in, weight_scales, out, out_scales, scratch.order, scratch.offsets, experts, n, k,
        x.stride(0),
        *((0, 0) if x_scales is None else x_scales.stride()), *((0, 0) if out_scales is None else out_scales.stride()),
        _ahead(weight, 512),
        TOP_K=top_k, EXPERTS=triton.next_power_of_2(experts), BM=tile.pairs, BN=tile.rows, BK=tile.depth,
        EVEN=k % tile.depth == 0, FP8=x_scales is not None, GATED=gated, QUANTIZE=out_scales is not None,
        TMA=w_in is not weight, PDL=pdl,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=tile.warps, num_stages=tile.stages,
        launch_pdl=pdl,
    )  # fmt: skip


def _ahead(weight: torch.Tensor, most: int) -> int:
    """Bytes to prefetch of each of the weight's rows: up to `most`; none where rows do not begin at multiples of 16."""
    row = weight.shape[-1] * weight.element_size()
    return 0 if row % 16 else min(row, most)


def _direct(
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
        act, ids, weights, w2, w2_scales, out, hidden, inner, out.stride(0), _ahead(w2, 4096),
        SLOTS=triton.next_power_of_2(top_k), BN=down.rows, BK=down.depth,
        EVEN=inner % down.depth == 0, STAGES=down.stages, num_warps=down.warps, **flags,
    )  # fmt: skip


def experts(
    h: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    out: torch.Tensor,
    scratch: MoeScratch,
    w13_scales: torch.Tensor | None = None,
    w2_scales: torch.Tensor | None = None,
    tiles: tuple[Tile, Tile] | None = None,
    direct: bool | None = None,
) -> None:
    """out [T, C] = sum over a token's experts of weight * (silu(h @ gate.T) * (h @ up.T)) @ w2.T.

    h [T, C]; weights fp32, ids int32 [T, top_k] from `route`; w13 [E, 2I, C] (gate rows, then up rows); w2 [E, C, I].
    With fp8 weights the scales are fp32 [E, rows/128, columns/128] rounded up, and I and C multiples of 128. `tiles`
    (gate_up, down) and `direct` force how.
    """
    tokens, hidden = h.shape
    count, _, inner = w2.shape
    top_k = ids.shape[1]
    if w13.shape != (count, 2 * inner, hidden) or w2.shape[1] != hidden or out.shape != h.shape:
        raise InvalidInput(
            f"experts: expected h and out [T, C], w13 [E, 2I, C], w2 [E, C, I], got {tuple(h.shape)}, "
            f"{tuple(out.shape)}, {tuple(w13.shape)}, {tuple(w2.shape)}"
        )
    fp8 = w13_scales is not None
    if fp8 and (hidden % GROUP or inner % GROUP):
        raise InvalidInput(f"experts: fp8 needs sizes that are multiples of {GROUP}, got {hidden} and {inner}")
    pairs = tokens * top_k
    if pairs > len(scratch.order):
        raise InvalidInput(f"experts: the scratch holds {len(scratch.order)} pairs, got {pairs}")
    if tokens <= DIRECT_TOKENS if direct is None else direct:
        if tiles is None:
            tiles = (Tile(1, 4, 1024, 4, 1), Tile(1, 4, 256, 8, 1)) if fp8 else (
                Tile(1, 2, 1024, 2, 1), Tile(1, 1, 256, 1, 1)
            )  # fmt: skip
        _direct(h, weights, ids, w13, w2, out, scratch.act, w13_scales, w2_scales, tiles)
        return
    pdl = dependent_launch(h.device)
    block = min(triton.next_power_of_2(pairs), 8192)
    _order_kernel[(count,)](
        ids, scratch.order, scratch.offsets, pairs, BLOCK=block, PDL=pdl, num_warps=min(max(block // 512, 1), 16),
        launch_pdl=pdl,
    )  # fmt: skip
    tiles = tiles or (choose(pairs, count, True, w13.dtype), choose(pairs, count, False, w2.dtype))
    act, act_scales, x, x_scales = scratch.act[:pairs], None, h, None
    if fp8:
        scratch.fp8()
        assert scratch.hidden_fp8 is not None
        x, x_scales = scratch.hidden_fp8[:tokens], scratch.hidden_scales[:tokens]
        quantize(h, x, x_scales)
        act, act_scales = scratch.act_fp8[:pairs], scratch.act_scales[:pairs]
    _grouped(tiles[0], x, x_scales, w13, w13_scales, act, act_scales, scratch, pairs, top_k, True)
    _grouped(tiles[1], act, act_scales, w2, w2_scales, scratch.parts, None, scratch, pairs, top_k, False)
    block = min(triton.next_power_of_2(hidden), 1024)
    _combine_kernel[(tokens, -(-hidden // block))](
        scratch.parts, weights, out, hidden, out.stride(0), TOP_K=top_k, BLOCK=block, PDL=pdl, num_warps=4,
        launch_pdl=pdl,
    )  # fmt: skip

"""Products grouped by expert: a program multiplies a tile of an expert's weight rows by some of its pairs' rows.

The grid covers the worst split of pairs over experts, and programs without work end at once; with very many pairs,
programs stay and take one tile after another. Each pair's result is written in its place and summed in a fixed order:
results repeat bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from nano.engine.kernels.launch import dependent_launch, processors
from nano.engine.kernels.linear_kernels import silu_gate
from nano.engine.kernels.prefetch import prefetch, start
from nano.engine.kernels.quantize import FP8


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
            prefetch(weight + (matrix.to(tl.int64) + tl.minimum(n, N - 1)) * K, ahead, BN)
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
        if FP8:
            x_scale = tl.load(x_scale_at + at // 128 * x_scale_column)
            w_scale = tl.load(scale_at + at // 128)
            u_scale = tl.load(scale_at + N // 128 * groups + at // 128) if GATED else w_scale
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
        if GATED:
            if TMA:
                u = weight.load([matrix + N + column * BN, at])
            elif EVEN:
                u = tl.load(w_at + N.to(tl.int64) * K + at)
            else:
                u = tl.load(w_at + N.to(tl.int64) * K + at, mask=inside[None, :], other=0.0)
        if FP8:
            part = tl.dot(w, piece)
            if GATED:
                part_up = tl.dot(u, piece)
                acc_up += part_up * (u_scale * x_scale)[None, :]
            acc += part * (w_scale * x_scale)[None, :]
        else:
            acc = tl.dot(w, piece, acc, input_precision=PRECISION)
            if GATED:
                acc_up = tl.dot(u, piece, acc_up, input_precision=PRECISION)
    if GATED:
        acc = silu_gate(acc, acc_up)
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
def _many_kernel(
    x,  # GATED: [T, K], a pair's row is its token's; else a descriptor of [pairs, K] in order, blocks [BM, BK]
    x_scales,  # FP8: [rows of x, K/128], any strides
    weight,  # descriptor; GATED: of [E * 2, N, K], blocks [2, BN, BK]: gate and up; else of [E * N, K], blocks [BN, BK]
    weight_scales,  # FP8: [E, rows/128, K/128]
    out,  # GATED: [pairs, N] in order; else [pairs, N]
    out_scales,  # FP8 and GATED: [pairs, N/128], any strides
    order,  # [pairs]
    offsets,  # [E + 1]
    experts, N, K, x_stride, x_scale_row, x_scale_column, out_scale_row, out_scale_column,
    TOP_K: tl.constexpr, EXPERTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    EVEN: tl.constexpr, FP8: tl.constexpr, GATED: tl.constexpr, PROGRAMS: tl.constexpr, FLATTEN: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Programs that stay take one tile after another: BM pairs of an expert by BN columns, or BN of gate and of up."""
    start(PDL)
    index = tl.arange(0, EXPERTS)
    begins = tl.load(offsets + index, mask=index < experts, other=0)
    ends = tl.load(offsets + index + 1, mask=index < experts, other=0)
    tiles = tl.cdiv(ends - begins, BM)
    until = tl.cumsum(tiles, axis=0)
    columns = tl.cdiv(N, BN)
    depth = tl.arange(0, BK)
    WIDTH: tl.constexpr = 2 * BN if GATED else BN
    groups = tl.cdiv(K, 128)
    for unit in tl.range(tl.program_id(0), tl.sum(tiles, axis=0) * columns, PROGRAMS, flatten=FLATTEN):
        tile, column = unit // columns, unit % columns
        expert = tl.sum((until <= tile).to(tl.int32), axis=0)
        first = tl.sum(tl.where(index == expert, begins + (tile - until + tiles) * BM, 0), axis=0)
        last = tl.sum(tl.where(index == expert, ends, 0), axis=0)
        place = first + tl.arange(0, BM)
        pair = tl.load(order + tl.minimum(place, last - 1))
        if GATED:
            source = (pair // TOP_K).to(tl.int64)
            x_at = x + source[:, None] * x_stride + depth[None, :]
        else:
            source = tl.minimum(place, last - 1).to(tl.int64)
        if FP8:
            # The tile's rows lie in one or two rows of blocks: gate's and up's, or neighbours.
            scale_at = weight_scales + (expert * (N // 128 * (2 if GATED else 1)) + column * BN // 128) * groups
            apart = N // 128 * groups if GATED else groups
            second = tl.arange(0, WIDTH) >= 128
            x_scale_at = x_scales + source * x_scale_row
        acc = tl.zeros([BM, WIDTH], tl.float32)
        for at in tl.range(0, K, BK):
            if FP8:
                x_scale = tl.load(x_scale_at + at // 128 * x_scale_column)
                w_scale = tl.load(scale_at + at // 128)
                if WIDTH == 256:
                    w_scale = tl.where(second, tl.load(scale_at + apart + at // 128), w_scale)
                    scale = x_scale[:, None] * w_scale[None, :]
                else:
                    scale = (x_scale * w_scale)[:, None]
            if GATED:
                piece = tl.load(x_at + at) if EVEN else tl.load(x_at + at, mask=(at + depth < K)[None, :], other=0.0)
                w = tl.reshape(weight.load([expert * 2, column * BN, at]), [WIDTH, BK])
            else:
                piece = x.load([first, at])
                w = weight.load([expert * N + column * BN, at])
            if FP8:
                acc += tl.dot(piece, tl.trans(w)) * scale
            else:
                acc = tl.dot(piece, tl.trans(w), acc, input_precision="ieee")
        inside = place < last
        if GATED:
            gate, up = tl.split(tl.permute(tl.reshape(acc, [BM, 2, BN]), (0, 2, 1)))
            acc = silu_gate(gate, up)
            row = place.to(tl.int64)
            if FP8:
                scale = tl.maximum(tl.max(tl.abs(acc), axis=1), 1e-10) / 448.0
                tl.store(out_scales + row * out_scale_row + column * out_scale_column, scale, mask=inside)
                acc = acc / scale[:, None]
        else:
            row = pair.to(tl.int64)
        n = column * BN + tl.arange(0, BN)
        tl.store(out + row[:, None] * N + n[None, :], acc.to(out.dtype.element_ty),
                 mask=inside[:, None] & (n < N)[None, :])  # fmt: skip


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


@dataclass(frozen=True)
class Tile:
    """How a grouped product is cut: `pairs` activation rows by `rows` weight rows, `depth` columns at a time."""

    pairs: int
    rows: int
    depth: int
    warps: int = 4
    stages: int = 4
    tma: bool = False  # weights (and ordered activations) come by tensor descriptors
    stays: bool = (
        False  # as many programs as the device has multiprocessors take one tile after another; of fp8, 128 act columns
    )
    flatten: bool = False  # of `stays`: a tile's first loads are under way while the tile before is stored


def choose(pairs: int, experts: int, gated: bool, dtype: torch.dtype) -> Tile:
    """The tile for `pairs` rows spread over `experts`, weights of `dtype`."""
    mean = pairs / experts
    if dtype.itemsize == 4:
        return Tile(16 if mean <= 16 else 32, 64, 32, stages=3)
    if dtype == FP8:  # the act of a tile's rows is quantised by groups of 128
        if mean <= 40 or (gated and mean <= 96):
            return Tile(16 if mean <= 8 else 32, 128, 128, stages=3, tma=True)
        if mean <= 96:
            return Tile(64, 128, 128, stages=3, tma=True)
        return Tile(64, 256, 128, warps=8, stages=4, tma=True, stays=True)
    if mean <= 24:
        if gated:
            return Tile(16 if mean <= 8 else 32, 128, 128, warps=8, stages=3)
        return Tile(16, 64, 128) if mean <= 8 else Tile(16, 128, 128, warps=8, stages=3)
    if mean <= 96:
        return Tile(64, 128, 64, warps=8) if gated else Tile(64, 128, 64, stages=3, tma=True)
    return Tile(128, 128, 64, warps=8, stages=4 if gated else 3, tma=True)


def ahead(weight: torch.Tensor, most: int) -> int:
    """Bytes to prefetch of each of the weight's rows: up to `most`; none where rows do not begin at multiples of 16."""
    row = weight.shape[-1] * weight.element_size()
    return 0 if row % 16 else min(row, most)


def grouped(
    tile: Tile,
    x: torch.Tensor,
    x_scales: torch.Tensor | None,
    weight: torch.Tensor,
    weight_scales: torch.Tensor | None,
    out: torch.Tensor,
    out_scales: torch.Tensor | None,
    order: torch.Tensor,
    offsets: torch.Tensor,
    pairs: int,
    top_k: int,
    gated: bool,
) -> None:
    """One product of all pairs in order of their experts: gated, act [pairs, I] of x [T, C]; else [pairs, C] of act.

    With out_scales the act is quantised by groups of 128.
    """
    experts, rows, k = weight.shape
    n = rows // (2 if gated else 1)
    tiles = min(pairs, -(-pairs // tile.pairs) + experts - 1)
    pdl = dependent_launch(x.device)
    in_strides = (0, 0) if x_scales is None else x_scales.stride()
    strides = *in_strides, *((0, 0) if out_scales is None else out_scales.stride())
    if tile.stays and k * weight.element_size() % 16 == 0:
        block = tile.rows // 2 if gated else tile.rows
        views = weight.view(-1, n, k) if gated else weight.view(-1, k)
        programs = min(processors(x.device), tiles * -(-n // block))
        _many_kernel[(programs,)](
            x if gated else TensorDescriptor.from_tensor(x, [tile.pairs, tile.depth]), x_scales,
            TensorDescriptor.from_tensor(views, [2, block, tile.depth] if gated else [block, tile.depth]),
            weight_scales, out, out_scales, order, offsets, experts, n, k, x.stride(0), *strides, TOP_K=top_k,
            EXPERTS=triton.next_power_of_2(experts), BM=tile.pairs, BN=block, BK=tile.depth,
            EVEN=k % tile.depth == 0, FP8=x_scales is not None, GATED=gated, PROGRAMS=programs,
            FLATTEN=tile.flatten, PDL=pdl, num_warps=tile.warps, num_stages=tile.stages, launch_pdl=pdl,
        )  # fmt: skip
        return
    x_in: torch.Tensor | TensorDescriptor = x
    w_in: torch.Tensor | TensorDescriptor = weight
    if tile.tma and k * weight.element_size() % 16 == 0:
        w_in = TensorDescriptor.from_tensor(weight.view(-1, k), [tile.rows, tile.depth])
        x_in = x if gated else TensorDescriptor.from_tensor(x, [tile.pairs, tile.depth])
    _grouped_kernel[(tiles * -(-n // tile.rows),)](
        x_in, x_scales, w_in, weight_scales, out, out_scales, order, offsets, experts, n, k, x.stride(0), *strides,
        ahead(weight, 512), TOP_K=top_k, EXPERTS=triton.next_power_of_2(experts), BM=tile.pairs, BN=tile.rows,
        BK=tile.depth, EVEN=k % tile.depth == 0, FP8=x_scales is not None, GATED=gated,
        QUANTIZE=out_scales is not None, TMA=w_in is not weight, PDL=pdl,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=tile.warps, num_stages=tile.stages,
        launch_pdl=pdl,
    )  # fmt: skip


def combine(parts: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
    """out [T, C] = sum over k of weights [T, top_k] * parts [T * top_k, C], in order."""
    tokens, columns = out.shape
    block = min(triton.next_power_of_2(columns), 1024)
    pdl = dependent_launch(out.device)
    _combine_kernel[(tokens, -(-columns // block))](
        parts, weights, out, columns, out.stride(0), TOP_K=weights.shape[1], BLOCK=block, PDL=pdl, num_warps=4,
        launch_pdl=pdl,
    )  # fmt: skip

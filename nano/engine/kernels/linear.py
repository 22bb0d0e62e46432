"""out = x @ weight.T for a step's rows: own kernels up to 64 rows, where reading the weights is the work; else cuBLAS.

The kernels hold a tile of weight rows against all the activations' rows. Few weight rows (small N) are split along K
over several programs; the last of a tile's programs to arrive adds the parts in a fixed order, so that results repeat
bit by bit.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.linear_tiles import TILES, Tile
from nano.engine.kernels.prefetch import prefetch, start
from nano.engine.kernels.quantize import new_scales as new_scales
from nano.errors import InvalidInput

MAX_ROWS = 16  # the most rows for which the fp8 kernels take activations that are not quantised yet
OWN_ROWS = 64  # the own kernels' most rows
FUSED_ROWS = 16  # the most rows of linear_norm
ROWS_STEP = 4  # cuBLAS's block-scaled product takes multiples of it


@triton.jit
def _store(out, acc, n, m, M, N, out_stride):
    tl.store(out + m[:, None].to(tl.int64) * out_stride + n[None, :], tl.trans(acc).to(out.dtype.element_ty),
             mask=(m < M)[:, None] & (n < N)[None, :])  # fmt: skip


@triton.jit
def _silu_mul(gate, up):
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def _activation(x, delta, norm, residual, m, k, M, K, x_stride, keep, NORM: tl.constexpr, EVEN: tl.constexpr):
    """A [depth, rows] piece of the activations; with NORM of (x + delta) * norm, not yet divided by the rows' RMS."""
    mask = (m < M)[None, :]
    if not EVEN:
        mask = mask & (k < K)[:, None]
    at = m[None, :] * x_stride + k[:, None]
    piece = tl.load(x + at, mask=mask, other=0.0)
    square = piece
    if NORM:
        step = tl.load(delta + m[None, :] * K + k[:, None], mask=mask, other=0.0)
        total = (piece.to(tl.float32) + step.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(residual + m[None, :] * K + k[:, None], total, mask=mask & keep)
        square = total.to(tl.float32)
        scale = tl.load(norm + k, mask=k < K, other=0.0)
        piece = (square * scale[:, None]).to(x.dtype.element_ty)
        square = square * square
    return piece, square


@triton.jit(do_not_specialize=["M"])
def _rows_kernel(
    x,  # [M, K], rows x_stride apart
    x_scales,  # FP8 and not NORM: [M, K/128], any strides
    delta,  # NORM: [M, K]
    norm,  # NORM: [K]
    residual,  # NORM: [M, K]
    eps,
    weight,  # [N, K]; SILU: [2N, K], gate rows, then up rows
    weight_scales,  # FP8: [ceil(rows/128), ceil(K/128)]
    out,  # [M, N]
    partial,  # [parts, tiles, (gate | up,) BN, BM]
    counters,  # [tiles]
    M, N, K, x_stride, out_stride, scale_row, scale_column, parts, ahead,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, FP8: tl.constexpr, NORM: tl.constexpr,
    SILU: tl.constexpr, WIDE: tl.constexpr, PDL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, part, tiles = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    n = tile * BN + tl.arange(0, BN)
    m = tl.arange(0, BM)
    depth = tl.arange(0, BK)
    row = tl.minimum(n, N - 1).to(tl.int64) * K
    share = tl.cdiv(tl.cdiv(K, BK), parts) * BK
    begin = part * share
    end = tl.minimum(begin + share, K)
    if PDL and ahead > 0:
        size = tl.minimum(ahead, (end - begin) * (weight.dtype.element_ty.primitive_bitwidth // 8)) // 16 * 16
        prefetch(weight + row + begin, size)
        if SILU:
            prefetch(weight + row + begin + N.to(tl.int64) * K, size)
    start(PDL)
    acc = tl.zeros([BN, BM], tl.float32)
    acc_up = tl.zeros([BN, BM] if SILU else [1, 1], tl.float32)
    squares = tl.zeros([BM], tl.float32)
    groups = tl.cdiv(K, 128)
    scale_at = weight_scales if weight_scales is None else weight_scales + tile * BN // 128 * groups
    for at in tl.range(begin, end, BK):
        k = at + depth
        if EVEN:
            w = tl.load(weight + row[:, None] + k[None, :], eviction_policy="evict_first")
        else:
            w = tl.load(weight + row[:, None] + k[None, :], mask=(k < K)[None, :], other=0.0)
        piece, square = _activation(
            x, delta, norm, residual, m, k, M, K, x_stride, (at // BK) % tiles == tile, NORM, EVEN
        )
        if NORM:
            squares += tl.sum(square, axis=0)
        if WIDE:
            wide = piece.to(tl.float32) * 256.0
            if x.dtype.element_ty == weight.dtype.element_ty:
                wide *= tl.load(x_scales + m[None, :] * scale_row + (k // 128)[:, None] * scale_column,
                                mask=(m < M)[None, :] & (k < K)[:, None], other=0.0)  # fmt: skip
            scale = tl.load(scale_at + k // 128, mask=k < K, other=0.0)
            acc = tl.dot(w.to(tl.float16), (wide * scale[:, None]).to(tl.float16), acc)
        elif FP8:
            group = at // 128
            scale = tl.load(scale_at + group)
            if piece.dtype == w.dtype:
                x_scale = tl.load(x_scales + m * scale_row + group * scale_column, mask=m < M, other=0.0)
            else:
                wide = piece.to(tl.float32)
                x_scale = tl.maximum(tl.max(tl.abs(wide), axis=0), 1e-10) / 448.0
                piece = (wide / x_scale[None, :]).to(w.dtype)
            acc += tl.dot(w, piece) * (scale * x_scale)[None, :]
        else:
            acc = tl.dot(w, piece, acc, input_precision=PRECISION)
        if SILU:
            if EVEN:
                u = tl.load(weight + row[:, None] + k[None, :] + N.to(tl.int64) * K, eviction_policy="evict_first")
            else:
                u = tl.load(weight + row[:, None] + k[None, :] + N.to(tl.int64) * K, mask=(k < K)[None, :], other=0.0)
            if WIDE:
                scale = tl.load(scale_at + N // 128 * groups + k // 128, mask=k < K, other=0.0)
                acc_up = tl.dot(u.to(tl.float16), (wide * scale[:, None]).to(tl.float16), acc_up)
            elif FP8:
                acc_up += tl.dot(u, piece) * (tl.load(scale_at + N // 128 * groups + group) * x_scale)[None, :]
            else:
                acc_up = tl.dot(u, piece, acc_up, input_precision=PRECISION)
    if WIDE:
        acc *= 1.0 / 256.0
        if SILU:
            acc_up *= 1.0 / 256.0
    if NORM:
        inverse = tl.rsqrt(squares / K + eps)[None, :]
        acc *= inverse
        if SILU:
            acc_up *= inverse
    if parts > 1:
        local = tl.arange(0, BN)[:, None] * BM + m[None, :]
        WIDTH: tl.constexpr = 2 if SILU else 1
        here = partial + (part * tiles + tile) * (BN * BM * WIDTH) + local
        tl.store(here, acc)
        if SILU:
            tl.store(here + BN * BM, acc_up)
        tl.debug_barrier()  # every thread's part is written before this program counts as arrived
        if tl.atomic_add(counters + tile, 1, sem="acq_rel") == parts - 1:
            acc = tl.zeros([BN, BM], tl.float32)
            acc_up = tl.zeros([BN, BM] if SILU else [1, 1], tl.float32)
            for other in range(parts):
                there = partial + (other * tiles + tile) * (BN * BM * WIDTH) + local
                acc += tl.load(there, cache_modifier=".cg")
                if SILU:
                    acc_up += tl.load(there + BN * BM, cache_modifier=".cg")
            if SILU:
                acc = _silu_mul(acc, acc_up)
            _store(out, acc, n, m, M, N, out_stride)
            tl.store(counters + tile, 0)
    else:
        if SILU:
            acc = _silu_mul(acc, acc_up)
        _store(out, acc, n, m, M, N, out_stride)


@triton.jit
def _vector_kernel(
    x,  # [K]
    x_scales,  # FP8 and not NORM, and x fp8: [K/128], scale_column apart
    delta,  # NORM: [K]
    norm,  # NORM: [K]
    residual,  # NORM: [K]
    eps,
    weight,  # [N, K]; SILU: [2N, K]
    weight_scales,  # FP8: [ceil(rows/128), ceil(K/128)]
    out,  # [N]
    N, K, scale_column, ahead,
    BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, FP8: tl.constexpr, NORM: tl.constexpr, SILU: tl.constexpr,
    STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    n = tile * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    row = tl.minimum(n, N - 1).to(tl.int64) * K
    if PDL and ahead > 0:
        size = tl.minimum(ahead, K * (weight.dtype.element_ty.primitive_bitwidth // 8)) // 16 * 16
        prefetch(weight + row, size)
        if SILU:
            prefetch(weight + row + N.to(tl.int64) * K, size)
    start(PDL)
    acc = tl.zeros([BN, BK], tl.float32)
    acc_up = tl.zeros([BN, BK] if SILU else [1, 1], tl.float32)
    squares = tl.zeros([BK], tl.float32)
    groups = tl.cdiv(K, 128)
    for at in tl.range(0, K, BK, num_stages=STAGES):
        k = at + depth
        inside = k < K
        if EVEN:
            w = tl.load(weight + row[:, None] + k[None, :], eviction_policy="evict_first")
        else:
            w = tl.load(weight + row[:, None] + k[None, :], mask=inside[None, :], other=0.0)
        if SILU:
            if EVEN:
                u = tl.load(weight + row[:, None] + k[None, :] + N.to(tl.int64) * K, eviction_policy="evict_first")
            else:
                u = tl.load(weight + row[:, None] + k[None, :] + N.to(tl.int64) * K, mask=inside[None, :], other=0.0)
        piece = tl.load(x + k, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            step = tl.load(delta + k, mask=inside, other=0.0).to(tl.float32)
            total = (piece + step).to(x.dtype.element_ty)
            tl.store(residual + k, total, mask=inside & ((at // BK) % tl.num_programs(0) == tile))
            piece = total.to(tl.float32)
            squares += piece * piece
            piece = (piece * tl.load(norm + k, mask=inside, other=0.0)).to(x.dtype.element_ty).to(tl.float32)
        if FP8:
            if x.dtype.element_ty == weight.dtype.element_ty:
                piece *= tl.load(x_scales + k // 128 * scale_column, mask=inside, other=0.0)
            scales = weight_scales + tile * BN // 128 * groups + k // 128
            if SILU:
                acc_up += (
                    u.to(tl.float32) * (piece * tl.load(scales + N // 128 * groups, mask=inside, other=0.0))[None, :]
                )
            piece *= tl.load(scales, mask=inside, other=0.0)
        elif SILU:
            acc_up += u.to(tl.float32) * piece[None, :]
        acc += w.to(tl.float32) * piece[None, :]
    result = tl.sum(acc, axis=1)
    if NORM:
        inverse = tl.rsqrt(tl.sum(squares, axis=0) / K + eps)
        result *= inverse
    if SILU:
        up = tl.sum(acc_up, axis=1)
        if NORM:
            up *= inverse
        result = _silu_mul(result, up)
    tl.store(out + n, result.to(out.dtype.element_ty), mask=n < N)


@functools.cache
def _workspace(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # Shared by all products of a device: they run one after another, on one stream.
    counters = torch.zeros(4096, dtype=torch.int32, device=device)
    return torch.empty(1 << 22, dtype=torch.float32, device=device), counters


def _power(value: int) -> int:
    return 1 << (value - 1).bit_length()


def choose(rows: int, n: int, k: int, fp8: bool, silu: bool = False) -> Tile | None:
    """How `rows` activations and an [n, k] weight (with silu [2n, k]) are multiplied; None: by cuBLAS."""
    measured = TILES.get((n, k, fp8), {})
    least = next((most for most in measured if rows <= most), None)
    if least is not None and not silu:
        return measured[least]
    if rows == 1:
        return Tile(4, 1024, stages=1, vector=True)
    height = 64
    while height > 16 and -(-n // height) < 128:
        height //= 2
    return Tile(height, 128)


def _launch(
    tile: Tile,
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    x_scales: torch.Tensor | None = None,
    weight_scales: torch.Tensor | None = None,
    delta: torch.Tensor | None = None,
    norm: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    eps: float = 0.0,
    silu: bool = False,
) -> None:
    rows, k = x.shape
    n = weight.shape[0] // (2 if silu else 1)
    fp8 = weight_scales is not None
    tiles = -(-n // tile.rows)
    flags: dict[str, Any] = {"EVEN": k % tile.depth == 0, "FP8": fp8, "NORM": norm is not None, "SILU": silu}
    pdl = dependent_launch(x.device)
    ahead = 0 if k * weight.element_size() % 16 else tile.ahead  # what is prefetched begins at a multiple of 16 bytes
    flags |= {"num_warps": tile.warps, "PDL": pdl, "launch_pdl": pdl}
    if tile.vector:
        _vector_kernel[(tiles,)](
            x, x_scales, delta, norm, residual, eps, weight, weight_scales, out, n, k,
            0 if x_scales is None else x_scales.stride(1), ahead, BN=tile.rows, BK=tile.depth,
            STAGES=tile.stages, **flags,
        )  # fmt: skip
        return
    partial, counters = _workspace(x.device) if tile.parts > 1 else (None, None)
    block = max(16, _power(rows))
    if partial is not None and tiles * tile.parts * tile.rows * block * (2 if silu else 1) > partial.numel():
        raise InvalidInput(f"linear: [{rows}, {k}] x [{n}, {k}]: {tile.parts} parts do not fit the workspace")
    scale_strides = (0, 0) if x_scales is None else x_scales.stride()
    _rows_kernel[(tiles, tile.parts)](
        x, x_scales, delta, norm, residual, eps, weight, weight_scales, out, partial, counters,
        rows, n, k, x.stride(0), out.stride(0), *scale_strides, tile.parts, ahead,
        WIDE=fp8 and tile.wide, BM=block, BN=tile.rows, BK=tile.depth, num_stages=tile.stages,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", **flags,
    )  # fmt: skip


def _check(what: str, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, silu: bool = False) -> None:
    n = weight.shape[0] // (2 if silu else 1)
    if x.shape[1] != weight.shape[1] or out.shape != (x.shape[0], n) or x.stride(1) != 1 or out.stride(1) != 1:
        raise InvalidInput(
            f"{what}: expected x [M, K], weight [N, K], out [M, N], got {tuple(x.shape)}, "
            f"{tuple(weight.shape)}, {tuple(out.shape)}"
        )


def linear(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, tile: Tile | None = None) -> None:
    """out [M, N] = x [M, K] @ weight [N, K].T, accumulated in fp32; `tile` forces an own kernel."""
    _check("linear", x, weight, out)
    rows = x.shape[0]
    if tile is None and x.dtype != torch.float32 and rows <= OWN_ROWS:
        tile = choose(rows, weight.shape[0], weight.shape[1], fp8=False)
    if tile is None:
        torch.mm(x, weight.T, out=out)
    else:
        _launch(tile, x, weight, out)


def linear_fp8(
    x: torch.Tensor,
    x_scales: torch.Tensor | None,
    weight: torch.Tensor,
    weight_scales: torch.Tensor,
    out: torch.Tensor,
    tile: Tile | None = None,
) -> None:
    """out bf16 [M, N] = x fp8 [M, K] @ weight fp8 [N, K].T with x_scales [M, K/128] and weight_scales [N/128, K/128].

    Up to MAX_ROWS rows x may be bf16 with x_scales None: it is quantised on the way. For more rows, x_scales' strides
    are best (1, M), as `new_scales` makes them.
    """
    _check("linear_fp8", x, weight, out)
    rows = x.shape[0]
    if tile is None and rows <= MAX_ROWS:
        tile = choose(rows, weight.shape[0], weight.shape[1], fp8=True)
    if tile is not None:
        _launch(tile, x, weight, out, x_scales, weight_scales)
        return
    if x_scales is None:
        raise InvalidInput(f"linear_fp8: more than {MAX_ROWS} rows are to be quantised first, got {rows} rows of bf16")
    if rows % ROWS_STEP:  # cuBLAS wants whole steps; the engine's steps are padded to them
        more = -rows % ROWS_STEP
        whole = torch.empty((rows + more, out.shape[1]), dtype=out.dtype, device=out.device)
        x8 = torch.cat((x.view(torch.uint8), x[:more].view(torch.uint8))).view(x.dtype)
        linear_fp8(x8, torch.cat((x_scales, x_scales[:more])), weight, weight_scales, whole)
        out.copy_(whole[:rows])
        return
    if x_scales.stride() != (1, rows):
        x_scales = x_scales.T.contiguous().T
    torch._scaled_mm(x, weight.T, scale_a=x_scales, scale_b=weight_scales.T, out_dtype=out.dtype, out=out)


def linear_norm(
    residual: torch.Tensor,
    delta: torch.Tensor,
    norm: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    out: torch.Tensor,
    residual_out: torch.Tensor,
    weight_scales: torch.Tensor | None = None,
    silu: bool = False,
    tile: Tile | None = None,
) -> None:
    """residual_out = residual + delta; out = rms_norm(residual_out) @ weight.T, for up to 16 rows, all in one kernel.

    residual, delta, residual_out: [M, K] contiguous, residual_out another buffer than residual: every program reads all
    of residual. norm: fp32 [K]. With silu, weight is [2N, K] (gate | up) and out [M, N] = silu(gate) * up.
    """
    _check("linear_norm", residual, weight, out, silu)
    rows, k = residual.shape
    if rows > FUSED_ROWS or residual_out.data_ptr() == residual.data_ptr():
        raise InvalidInput(f"linear_norm: expected at most {FUSED_ROWS} rows and two residual buffers, got {rows} rows")
    n = weight.shape[0] // (2 if silu else 1)
    tile = tile or choose(rows, n, k, fp8=weight_scales is not None, silu=silu) or Tile(64, 128)
    tile = replace(tile, parts=1)  # a part of K does not know the rows' RMS
    _launch(tile, residual, weight, out, None, weight_scales, delta, norm, residual_out, eps, silu)


def linear_silu(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    x_scales: torch.Tensor | None = None,
    weight_scales: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> None:
    """out [M, N] = silu(x @ gate.T) * (x @ up.T), weight [2N, K] (gate | up), for up to 64 rows, in one kernel."""
    _check("linear_silu", x, weight, out, True)
    rows, k = x.shape
    tile = tile or choose(rows, weight.shape[0] // 2, k, fp8=weight_scales is not None, silu=True) or Tile(64, 128)
    _launch(tile, x, weight, out, x_scales, weight_scales, silu=True)

"""Products of one activation row on plain lanes, with the norm before and SiLU after them inside.

Every lane holds the same columns of all its weight rows, so that the loop over K exchanges nothing between lanes. The
first weights are on their way before the kernel that makes the activations has ended. A norm's factor is the same for
all of a row: it multiplies the product's end, and its squares are added up while the activations pass by.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.linear_kernels import silu_gate
from nano.engine.kernels.linear_tiles import Lanes
from nano.engine.kernels.prefetch import PREFETCH, start_early


@gluon.jit
def prefetch_pieces(at, sizes):
    """Brings `sizes` bytes (multiples of 16; none where <= 0) from the addresses `at` into L2, each lane its own."""
    gl.inline_asm_elementwise(PREFETCH, "=r,l,r", [at, sizes], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _prefetch_rows(base, first, rows, size, pitch, ROWS: gl.constexpr, WARPS: gl.constexpr):
    """`size` bytes of each of ROWS rows from `first` on, of `rows`, `pitch` bytes apart."""
    EACH: gl.constexpr = max(WARPS * 32 // ROWS, 1)  # threads a row
    ALONG: gl.constexpr = min(EACH, 32)
    L: gl.constexpr = gl.BlockedLayout([1, 1], [32 // ALONG, ALONG], [WARPS * ALONG // EACH, EACH // ALONG], [1, 0])
    row = gl.expand_dims(first + gl.arange(0, ROWS, gl.SliceLayout(1, L)), 1)
    piece = gl.maximum(gl.cdiv(size, EACH * 128) * 128, 128)
    begin = gl.expand_dims(gl.arange(0, EACH, gl.SliceLayout(0, L)), 0) * piece
    sizes = gl.where(row < rows, gl.minimum(size - begin, piece), 0)
    prefetch_pieces(base.to(gl.int64, bitcast=True) + row.to(gl.int64) * pitch + begin, sizes)


@gluon.jit
def weights(at, k, K, EVEN: gl.constexpr):
    if EVEN:
        return gl.load(at, eviction_policy="evict_first")
    return gl.load(at, mask=k < K, other=0.0, eviction_policy="evict_first")


@gluon.jit
def activations(at, k, K, EVEN: gl.constexpr):
    if EVEN:
        return gl.load(at).to(gl.float32)
    return gl.load(at, mask=k < K, other=0.0).to(gl.float32)


@gluon.jit
def times(w, x, axis: gl.constexpr):
    """The sum over a lane's own columns, of which `axis` consists."""
    return gl.sum(w.to(gl.float32) * x, axis=axis)


@gluon.jit
def add_product(acc, w, x, scales, group, K, FP8: gl.constexpr):
    """acc [BN, P] += w [BN, P, V] times x [P, V]; of fp8 a lane's columns share a scale."""
    part = times(w, gl.expand_dims(x, 0), 2)
    if FP8:
        part *= gl.load(scales + group // 128, mask=group < K, other=0.0)
    return acc + part


@gluon.jit
def _sum(x, delta, k, K, EVEN: gl.constexpr):
    """x + delta, rounded as x is."""
    return (activations(x + k, k, K, EVEN) + activations(delta + k, k, K, EVEN)).to(x.dtype.element_ty).to(gl.float32)


@gluon.jit
def _step(x, delta, gain, squares, k, K, EVEN: gl.constexpr):
    """Activations of the columns k [P, V], of a norm without its factor; and squares, added to."""
    if gain is None:
        values = activations(x + k, k, K, EVEN)
    else:
        values = _sum(x, delta, k, K, EVEN)
        squares += gl.sum(values * values, axis=1)
        values *= activations(gain + k, k, K, EVEN)
    return values, squares


@gluon.jit
def row_kernel(
    x,  # [K]
    delta,  # with gain: [K]
    gain,  # fp32 [K]: the norm of x + delta is multiplied; or null
    total,  # with gain: [K], becomes x + delta
    normed,  # with gain: [K], becomes the norm; or null
    weight,  # [N, K]; GATED: [2N, K], gate's rows, then up's
    weight_scales,  # FP8: [rows/128, K/128], rounded up
    out,  # [N]
    N, K, ahead, eps,
    BN: gl.constexpr, CHUNKS: gl.constexpr, V: gl.constexpr, WN: gl.constexpr, WK: gl.constexpr, EVEN: gl.constexpr,
    GATED: gl.constexpr, SHARE: gl.constexpr, FP8: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """P = CHUNKS * WK * 32 pieces of V columns at a time, by WN x WK warps; of a norm's results, SHARE columns."""
    L: gl.constexpr = gl.BlockedLayout([1, 1, V], [1, 32, 1], [WN, WK, 1], [2, 1, 0])
    ROW_PIECE: gl.constexpr = gl.SliceLayout(2, L)
    PIECE_ITEM: gl.constexpr = gl.SliceLayout(0, L)
    P: gl.constexpr = CHUNKS * WK * 32
    BK: gl.constexpr = P * V
    first = gl.program_id(0) * BN
    n = first + gl.arange(0, BN, gl.SliceLayout(1, ROW_PIECE))
    piece = gl.expand_dims(gl.arange(0, P, gl.SliceLayout(1, PIECE_ITEM)), 1)
    k = piece * V + gl.expand_dims(gl.arange(0, V, gl.SliceLayout(0, PIECE_ITEM)), 0)
    wide_k = gl.expand_dims(k, 0)
    group = gl.expand_dims(gl.arange(0, P, gl.SliceLayout(0, ROW_PIECE)), 0) * V
    row = gl.expand_dims(gl.expand_dims(gl.minimum(n, N - 1), 1), 2).to(gl.int64) * K
    w_at = weight + row + wide_k
    up = gl.cast(N, gl.int64) * K  # a size of 1 is a constant to the compiler
    if PDL and ahead > 0:
        SIZE: gl.constexpr = weight.dtype.element_ty.primitive_bitwidth // 8
        size, pitch = gl.minimum(ahead, K * SIZE) // 16 * 16, gl.cast(K, gl.int64) * SIZE
        _prefetch_rows(weight, first, N, size, pitch, BN, WN * WK)
        if GATED:
            _prefetch_rows(weight + up, first, N, size, pitch, BN, WN * WK)
    w = weights(w_at, wide_k, K, EVEN)
    if GATED:
        u = weights(w_at + up, wide_k, K, EVEN)
    start_early(PDL)
    if gain is not None:
        mine = gl.program_id(0) * SHARE + gl.arange(0, SHARE, gl.BlockedLayout([1], [32], [WN * WK], [0]))
        share = _sum(x, delta, mine, K, False)
        gl.store(total + mine, share.to(total.dtype.element_ty), mask=mine < K)
        share *= activations(gain + mine, mine, K, False)
    scales = weight_scales if weight_scales is None else weight_scales + first // 128 * gl.cdiv(K, 128)
    up_scales = weight_scales if weight_scales is None else scales + N // 128 * gl.cdiv(K, 128)
    squares = gl.zeros([P], gl.float32, gl.SliceLayout(1, PIECE_ITEM))
    acc = gl.zeros([BN, P], gl.float32, ROW_PIECE)
    acc_up = acc
    values, squares = _step(x, delta, gain, squares, k, K, EVEN)
    acc = add_product(acc, w, values, scales, group, K, FP8)
    if GATED:
        acc_up = add_product(acc_up, u, values, up_scales, group, K, FP8)
    for at in range(BK, K, BK):
        w = weights(w_at + at, wide_k + at, K, EVEN)
        if GATED:
            u = weights(w_at + up + at, wide_k + at, K, EVEN)
        values, squares = _step(x, delta, gain, squares, k + at, K, EVEN)
        acc = add_product(acc, w, values, scales, group + at, K, FP8)
        if GATED:
            acc_up = add_product(acc_up, u, values, up_scales, group + at, K, FP8)
    result = gl.sum(acc, axis=1)
    if gain is not None:
        factor = gl.rsqrt(gl.sum(squares, axis=0) / K + eps)
        result *= factor
        if normed is not None:
            gl.store(normed + mine, (share * factor).to(normed.dtype.element_ty), mask=mine < K)
    if GATED:
        result_up = gl.sum(acc_up, axis=1)
        if gain is not None:
            result_up *= factor
        result = silu_gate(result, result_up)
    gl.store(out + n, result.to(out.dtype.element_ty), mask=n < N)


class Norm(NamedTuple):
    """A product reads the norm of x + delta [1, K]; gain fp32 [K].

    `total` [1, K], not x, becomes that sum, and `normed` [1, K], if it is given, the norm.
    """

    delta: torch.Tensor
    gain: torch.Tensor
    eps: float
    total: torch.Tensor
    normed: torch.Tensor | None = None


def linear_row(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor | None,
    out: torch.Tensor,
    lanes: Lanes,
    norm: Norm | None = None,
    gated: bool = False,
) -> None:
    """out [1, N] = x [1, K] @ weight [N, K].T; `gated`: silu(x @ gate.T) * (x @ up.T), weight [2N, K] (gate | up).

    fp8 weights have `scales` fp32 [rows/128, K/128], rounded up; gated, N is a multiple of 128 then.
    """
    n, k = weight.shape
    n //= 2 if gated else 1
    size = weight.element_size()
    items = lanes.bytes // size
    pdl = dependent_launch(x.device)
    delta, gain, eps, total, normed = norm or (None, None, 0.0, None, None)
    programs = -(-n // lanes.rows)
    row_kernel[(programs,)](
        x, delta, gain, total, normed, weight, scales, out, n, k, 0 if k * size % 16 else lanes.ahead, eps,
        BN=lanes.rows, CHUNKS=lanes.chunks, V=items, WN=lanes.wide, WK=lanes.deep,
        EVEN=k % (lanes.chunks * lanes.deep * 32 * items) == 0, GATED=gated,
        SHARE=triton.next_power_of_2(-(-k // programs)), FP8=scales is not None, PDL=pdl,
        num_warps=lanes.wide * lanes.deep, launch_pdl=pdl,
    )  # fmt: skip

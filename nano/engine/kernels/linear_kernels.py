"""The kernels of linear.py: few rows against weights that are read once, many rows with SiLU in the product's end.

The first hold a tile of weight rows against all the activations' rows. Few weight rows (small N) are split along K
over several programs; the last of a tile's programs to arrive adds the parts in a fixed order, so that results repeat
bit by bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nano.engine.kernels.prefetch import prefetch, start


@triton.jit
def _store(out, acc, n, m, M, N, out_stride):
    tl.store(out + m[:, None].to(tl.int64) * out_stride + n[None, :], tl.trans(acc).to(out.dtype.element_ty),
             mask=(m < M)[:, None] & (n < N)[None, :])  # fmt: skip


@triton.jit
def silu_gate(gate, up):
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit(do_not_specialize=["M"])
def rows_kernel(
    x,  # [M, K], rows x_stride apart
    x_scales,  # fp8 x: [M, K/128], any strides
    weight,  # [N, K]
    weight_scales,  # FP8: [ceil(N/128), ceil(K/128)]
    out,  # [M, N]
    partial,  # [parts, tiles, BN, BM]
    counters,  # [tiles]
    M, N, K, x_stride, out_stride, scale_row, scale_column, parts, ahead,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, FP8: tl.constexpr, WIDE: tl.constexpr,
    PDL: tl.constexpr, PRECISION: tl.constexpr,
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
        prefetch(weight + row + begin, size, BN)
    start(PDL)
    acc = tl.zeros([BN, BM], tl.float32)
    groups = tl.cdiv(K, 128)
    scale_at = weight_scales if weight_scales is None else weight_scales + tile * BN // 128 * groups
    for at in tl.range(begin, end, BK):
        k = at + depth
        inside = (m < M)[None, :]
        if EVEN:
            w = tl.load(weight + row[:, None] + k[None, :], eviction_policy="evict_first")
        else:
            w = tl.load(weight + row[:, None] + k[None, :], mask=(k < K)[None, :], other=0.0)
            inside = inside & (k < K)[:, None]
        piece = tl.load(x + m[None, :] * x_stride + k[:, None], mask=inside, other=0.0)
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
    if WIDE:
        acc *= 1.0 / 256.0
    if parts > 1:
        local = tl.arange(0, BN)[:, None] * BM + m[None, :]
        tl.store(partial + (part * tiles + tile) * (BN * BM) + local, acc)
        tl.debug_barrier()  # every thread's part is written before this program counts as arrived
        if tl.atomic_add(counters + tile, 1, sem="acq_rel") == parts - 1:
            acc = tl.zeros([BN, BM], tl.float32)
            for other in range(parts):
                acc += tl.load(partial + (other * tiles + tile) * (BN * BM) + local, cache_modifier=".cg")
            _store(out, acc, n, m, M, N, out_stride)
            tl.store(counters + tile, 0)
    else:
        _store(out, acc, n, m, M, N, out_stride)


@triton.jit(do_not_specialize=["M"])
def many_silu_kernel(
    x,  # descriptor of [M, K], blocks [BM, BK]
    weight,  # descriptor of [2, N, K] (gate, up), blocks [2, BN, BK]
    out,  # descriptor of [M, N], blocks [BM, BN]
    M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Programs that stay take one tile after another; GROUP tiles of rows share a tile of weights while it is in L2."""
    start(PDL)
    tiles, columns = tl.cdiv(M, BM), tl.cdiv(N, BN)
    for unit in tl.range(tl.program_id(0), tiles * columns, PROGRAMS, flatten=True):
        first = unit // (GROUP * columns) * GROUP
        wide = tl.minimum(tiles - first, GROUP)
        row = (first + unit % (GROUP * columns) % wide) * BM
        column = unit % (GROUP * columns) // wide * BN
        acc = tl.zeros([BM, 2 * BN], tl.float32)
        for at in tl.range(0, K, BK):
            both = tl.reshape(weight.load([0, column, at]), [2 * BN, BK])
            acc = tl.dot(x.load([row, at]), tl.trans(both), acc)
        gate, up = tl.split(tl.permute(tl.reshape(acc, [BM, 2, BN]), (0, 2, 1)))
        out.store([row, column], silu_gate(gate, up).to(out.dtype))

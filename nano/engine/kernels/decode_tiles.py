"""What a program of decode attention does with tiles of the cache, with one query, and with the pieces of others."""

from __future__ import annotations

import triton
import triton.language as tl

from nano.engine.kernels.paging import MASKED_SCORE, dot, tile_rows


@triton.jit
def tiles_of(lengths, TILE: tl.constexpr):
    """Tiles of a sequence, at least one."""
    return tl.maximum(tl.cdiv(lengths, TILE), 1)


@triton.jit
def load_tile(k, v, table, tile, length, head, k_block, k_head, k_token, v_block, v_head, v_token,
               HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    inside = (tile * TILE + tl.arange(0, TILE) < length)[:, None]
    columns = tl.arange(0, HEAD_DIM)[None, :]
    k_rows = tile_rows(k, table, tile, length, head, k_block, k_head, k_token, BLOCK_SIZE, TILE, True)
    keys = tl.load(k_rows[:, None] + columns, mask=inside, other=0.0)
    v_rows = tile_rows(v, table, tile, length, head, v_block, v_head, v_token, BLOCK_SIZE, TILE, True)
    return keys, tl.load(v_rows[:, None] + columns, mask=inside, other=0.0)


@triton.jit
def add_tile(query, keys, values, tile, length, greatest, sums, acc, scale, ROWS: tl.constexpr, TILE: tl.constexpr):
    inside = tile * TILE + tl.arange(0, TILE) < length
    scores = dot(query, tl.trans(keys.to(query.dtype)), tl.zeros([ROWS, TILE], tl.float32))
    scores = tl.where(inside[None, :], scores * scale, MASKED_SCORE)
    new_greatest = tl.maximum(greatest, tl.max(scores, 1))
    shares = tl.exp2(scores - new_greatest[:, None])
    shrink = tl.exp2(greatest - new_greatest)
    sums = sums * shrink + tl.sum(shares, 1)
    acc = dot(shares.to(query.dtype), values.to(query.dtype), acc * shrink[:, None])
    return new_greatest, sums, acc


@triton.jit
def merge(partials, all_tops, all_wholes, out_base, out_head, pieces, v_scale,
           GROUP: tl.constexpr, GROUP_ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, PIECES: tl.constexpr):  # fmt: skip
    """Adds up what `pieces` programs left, PIECES at a time, and stores the result."""
    columns = tl.arange(0, HEAD_DIM)
    group = tl.arange(0, GROUP_ROWS)
    top = tl.full([GROUP_ROWS], MASKED_SCORE, tl.float32)
    whole = tl.zeros([GROUP_ROWS], tl.float32)
    result = tl.zeros([GROUP_ROWS, HEAD_DIM], tl.float32)
    for first in range(0, pieces, PIECES):
        some = tl.arange(0, PIECES)
        present = (first + some < pieces)[:, None] & (group < GROUP)[None, :]
        places = some[:, None] * GROUP + group[None, :]
        base = first * GROUP
        tops = tl.load(all_tops + base + places, mask=present, other=MASKED_SCORE, cache_modifier=".cg")
        wholes = tl.load(all_wholes + base + places, mask=present, other=0.0, cache_modifier=".cg")
        rows = partials + base * HEAD_DIM + (places[:, :, None] * HEAD_DIM + columns[None, None, :])
        parts = tl.load(rows, mask=present[:, :, None], other=0.0, cache_modifier=".cg")
        new_top = tl.maximum(top, tl.max(tops, 0))
        weights = tl.exp2(tops - new_top[None, :])
        shrink = tl.exp2(top - new_top)
        whole = whole * shrink + tl.sum(wholes * weights, 0)
        result = result * shrink[:, None] + tl.sum(parts * weights[:, :, None], 0)
        top = new_top
    result = result * (v_scale / tl.where(group < GROUP, whole, 1.0))[:, None]
    out_rows = out_base + group[:, None] * out_head + columns[None, :]
    tl.store(out_rows, result.to(out_base.dtype.element_ty), mask=group[:, None] < GROUP)


@triton.jit
def turned(heads, norm, other_norm, cosine, sine, inside, eps, HEAD_DIM: tl.constexpr):
    """Rows of `heads` [.] normed and rotated, fp32 [., HEAD_DIM]; the sines of a row's first half are negative."""
    columns = tl.arange(0, HEAD_DIM)[None, :]
    values = tl.load(heads[:, None] + columns, mask=inside[:, None], other=0.0).to(tl.float32)
    others = tl.load(heads[:, None] + (columns ^ (HEAD_DIM // 2)), mask=inside[:, None], other=0.0).to(tl.float32)
    if norm is not None:
        factor = tl.rsqrt(tl.sum(values * values, 1) / HEAD_DIM + eps)[:, None]
        values = values * factor * norm[None, :]
        others = others * factor * other_norm[None, :]
    return values * cosine[None, :] + others * sine[None, :]

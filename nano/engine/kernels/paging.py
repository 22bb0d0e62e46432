"""What attention kernels share: tiles of the paged cache, and matrix products.

K and V are one layer's views of the pool: [blocks, kv_heads, block_size, head_dim], any strides but a last one of 1.
Position p of sequence s lies in block tables[s, p // block_size]. Softmax is the online form of FlashAttention
(arXiv 2205.14135), in base 2. Slots at or beyond a sequence's context are never read: they may hold anything.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = 1.4426950408889634
# Scores of masked positions: finite, so that a row without any position stays finite.
MASKED_SCORE = tl.constexpr(-1.0e30)


@triton.jit
def tile_rows(pool, table, tile, length, head, block_stride, head_stride, token_stride,
              BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Pointers [TILE] to the rows of a tile of positions of one head; `table` points to the sequence's block table.

    MASKED: the tile may reach beyond `length`; its rows there point anywhere into the pool.
    """
    first = tile * TILE
    if TILE <= BLOCK_SIZE:
        if MASKED:
            block = tl.load(table + first // BLOCK_SIZE, mask=first < length, other=0)
        else:
            block = tl.load(table + first // BLOCK_SIZE)
        base = pool + block.to(tl.int64) * block_stride + head * head_stride + (first % BLOCK_SIZE) * token_stride
        return base + tl.arange(0, TILE) * token_stride
    positions = first + tl.arange(0, TILE)
    if MASKED:
        blocks = tl.load(table + positions // BLOCK_SIZE, mask=positions < length, other=0)
    else:
        blocks = tl.load(table + positions // BLOCK_SIZE)
    return pool + blocks.to(tl.int64) * block_stride + head * head_stride + (positions % BLOCK_SIZE) * token_stride


@triton.jit
def prefetch_rows(rows, HEAD_DIM: tl.constexpr):
    """Asks for rows [.] of HEAD_DIM elements to be brought into the L2 cache."""
    LINE: tl.constexpr = 128 // (rows.dtype.element_ty.primitive_bitwidth // 8)
    lines = tl.arange(0, (HEAD_DIM + LINE - 1) // LINE) * LINE
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [rows[:, None] + lines[None, :]], tl.int32, False, 1
    )


@triton.jit
def dot(a, b, acc):
    if a.dtype == tl.float32:
        return tl.dot(a, b, acc, input_precision="ieee")
    return tl.dot(a, b, acc)


@triton.jit
def to_cache(values, scale, dtype: tl.constexpr):
    if dtype == tl.float8e4nv:
        return tl.clamp(values * (1.0 / scale), -448.0, 448.0).to(dtype)
    return values.to(dtype)

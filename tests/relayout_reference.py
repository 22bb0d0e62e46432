"""A relayout by numpy, element by element of the pools' own shapes; shared by the CPU's and the GPU's tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nano._core.kv import PoolLayout

Bytes = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]


@dataclass
class Side:
    layout: PoolLayout
    memory: Bytes  # [layout.nbytes], random
    table: I32
    token: int


@dataclass
class Case:
    source: Side
    destination: Side
    tokens: int
    layers: tuple[int, int]

    def expected(self) -> tuple[Bytes, int]:
        """The destination's memory afterwards, and the bytes copied."""
        out = self.destination.memory.copy()
        a, b = view(self.source.memory, self.source.layout), view(out, self.destination.layout)
        copied = 0
        for i in range(self.tokens):
            s, d = self.source.token + i, self.destination.token + i
            from_block, from_row = self.source.table[s // a.shape[4]], s % a.shape[4]
            to_block, to_row = self.destination.table[d // b.shape[4]], d % b.shape[4]
            for head in range(self.source.layout.first_head, self.source.layout.first_head + a.shape[3]):
                here = head - self.destination.layout.first_head
                if not 0 <= here < b.shape[3]:
                    continue
                rows = slice(*self.layers)
                b[to_block, rows, :, here, to_row] = a[
                    from_block, rows, :, head - self.source.layout.first_head, from_row
                ]
                copied += (self.layers[1] - self.layers[0]) * 2 * a.shape[5]
        return out, copied


def view(memory: Bytes, layout: PoolLayout) -> Bytes:
    """[blocks, layers, 2, heads, block_size, row_bytes]"""
    shape = (layout.blocks, layout.layers, 2, layout.heads, layout.block_size, layout.row_bytes)
    return np.lib.stride_tricks.as_strided(memory, shape, (*layout.strides, 1))


def strided(order: tuple[int, ...], sizes: tuple[int, ...], row_bytes: int, gap: int) -> tuple[int, ...]:
    """Strides of [blocks, layers, 2, heads, tokens] in `order`, slowest first, `gap` bytes after each level."""
    out, pitch = [0] * 5, row_bytes
    for axis in reversed(order):
        out[axis] = pitch
        pitch = pitch * sizes[axis] + gap
    return tuple(out)


def side(
    rng: np.random.Generator, tokens: int, token: int, layers: int, heads: int, first_head: int, block_size: int,
    row_bytes: int, order: tuple[int, ...] | None = None, gap: int = 0,
) -> Side:  # fmt: skip
    """A pool with a few blocks to spare, and a sequence's table in random order."""
    used = -(-(token + tokens) // block_size)
    blocks = used + int(rng.integers(1, 4))
    strides = None
    if order is not None:
        strides = strided(order, (blocks, layers, 2, heads, block_size), row_bytes, gap)
    layout = PoolLayout(blocks, layers, heads, block_size, row_bytes, first_head, strides)
    memory = rng.integers(0, 256, layout.nbytes, dtype=np.uint8)
    return Side(layout, memory, rng.permutation(blocks)[:used].astype(np.int32), token)

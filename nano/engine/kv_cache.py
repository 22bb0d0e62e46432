"""The KV pool's memory and its layout: [blocks, layers, 2, kv_heads, block_size, head_dim], a block contiguous.

Everything sees the pool through `KVLayout`: strides in elements, and the equal groups of layers in which a block
travels between engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FP8 = "float8_e4m3fn"
ITEM_BYTES = {"float32": 4, "bfloat16": 2, FP8: 1}


@dataclass(frozen=True)
class KVLayout:
    num_layers: int
    num_kv_heads: int
    block_size: int  # tokens
    head_dim: int
    dtype: str  # torch's name
    groups: int  # pieces a block travels in; divides num_layers
    scales: str = ""  # names the factors of an fp8 cache; empty: all 1

    @property
    def pool_shape(self) -> tuple[int, ...]:
        """Of a pool's elements, whatever its number of blocks: [blocks, layers, 2, kv_heads, block_size, head_dim]."""
        return (-1, self.num_layers, 2, self.num_kv_heads, self.block_size, self.head_dim)

    @cached_property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ITEM_BYTES[self.dtype]

    @cached_property
    def head_stride(self) -> int:
        return self.block_size * self.head_dim

    @cached_property
    def kv_stride(self) -> int:
        """Elements from a layer's K to its V."""
        return self.num_kv_heads * self.head_stride

    @cached_property
    def layer_stride(self) -> int:
        return 2 * self.kv_stride

    @cached_property
    def block_stride(self) -> int:
        return self.num_layers * self.layer_stride

    @cached_property
    def block_bytes(self) -> int:
        return self.block_stride * self.itemsize

    @cached_property
    def layer_bytes(self) -> int:
        return self.layer_stride * self.itemsize

    @cached_property
    def group_layers(self) -> int:
        return self.num_layers // self.groups

    @cached_property
    def group_bytes(self) -> int:
        return self.group_layers * self.layer_bytes

    def piece_offsets(self, blocks: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Byte offsets in the pool of the pieces of `blocks`: block by block, group by group. [blocks * groups]."""
        base = blocks.astype(np.int64)[:, None] * self.block_bytes
        return (base + np.arange(self.groups, dtype=np.int64)[None, :] * self.group_bytes).reshape(-1)

    def __str__(self) -> str:
        """Equal on two engines when blocks of one may be copied to the other."""
        scales = f" with scales {self.scales}" if self.scales else ""
        return (
            f"{self.dtype}{scales}, {self.num_layers} layers in {self.groups} groups, {self.num_kv_heads} KV heads of "
            f"{self.head_dim}, blocks of {self.block_size}"
        )


def layer_groups(num_layers: int, wanted: int) -> int:
    """The smallest divisor of num_layers that is >= wanted."""
    return next(n for n in range(min(wanted, num_layers), num_layers + 1) if num_layers % n == 0)

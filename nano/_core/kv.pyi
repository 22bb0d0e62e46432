import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

I32 = npt.NDArray[np.int32]

class BlockPool:
    """KV blocks of one pool and the prefix index over them. Not thread-safe: one owner thread.

    A block is free (reusable; it may still be cached, found by prefix, evicted least recently used first), or held by
    `refs >= 1` holders. Only full blocks enter the index. A hit requires that the entry's parent is the node just
    verified (id and generation) and that the tokens are equal: a hash collision never serves another's cache.
    Prompts with different salts share nothing. Arrays of tokens and blocks are int32 (other dtypes: TypeError).
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        prefix_caching: bool = True,  # False: `match` finds nothing, `insert` does nothing
        hash_bits: int = 64,  # fewer make collisions, for tests: slower, never wrong
    ) -> None: ...
    num_blocks: int
    block_size: int
    num_free: int  # free now, cached or not
    num_cached: int  # blocks in the prefix index
    def allocate(self, count: int) -> I32:
        """Raises OutOfMemory, allocating nothing, when fewer than `count` are free."""
    def release(self, blocks: I32) -> None:
        """One holder less of each; in prompt order, so that the tail is evicted before the head. Raises InvalidInput,
        changing nothing, for a block that is not held (as often as it is named)."""
    def match(self, tokens: I32, salt: int = 0) -> int:
        """How many leading full blocks of `tokens` are cached; leaves at least one token to recompute."""
    def acquire(self, tokens: I32, salt: int = 0) -> I32:
        """The blocks that `match` counts, held once more each."""
    def insert(self, tokens: I32, blocks: I32, salt: int = 0) -> None:
        """Publishes the full, complete blocks of `tokens`; a block whose prefix is already cached stays private.
        Raises InvalidInput for too few blocks, and for one that is not held or is cached with other tokens (those
        before it are published)."""
    def clear(self) -> None:
        """Forgets every cached prefix."""
    def check(self) -> None:
        """Raises Internal when an invariant is broken (tests)."""

class PoolLayout:
    """A KV pool of [blocks, layers, 2, heads, block_size, head_dim], by byte strides in any order; head_dim elements
    (row_bytes) are one run. Heads are a rank's: first_head to first_head + heads - 1 of the model's.

    Raises InvalidInput for sizes that are not positive and strides that are negative.
    """

    def __init__(
        self,
        blocks: int,
        layers: int,
        heads: int,
        block_size: int,
        row_bytes: int,
        first_head: int = 0,
        # bytes from one block, layer, K to V, head, token to the next; None: no gaps, in that order
        strides: tuple[int, int, int, int, int] | None = None,
    ) -> None: ...
    blocks: int
    layers: int
    heads: int
    first_head: int
    block_size: int
    row_bytes: int
    strides: tuple[int, int, int, int, int]
    nbytes: int  # from the pool's first byte to the end of its last

def relayout(
    source: Buffer,
    source_layout: PoolLayout,
    source_blocks: I32,
    destination: Buffer,
    destination_layout: PoolLayout,
    destination_blocks: I32,
    tokens: int,
    *,
    source_token: int = 0,
    destination_token: int = 0,
    layers: tuple[int, int] | None = None,
) -> int:
    """Copies `tokens` tokens of a sequence from one pool to the other, of the heads that both hold; returns the bytes.

    source_blocks, destination_blocks: int32, the sequence's block table on each side; token i of the copy is its token
    source_token + i there and destination_token + i here. layers: a half-open range; None: all. The pools may differ in
    block size, heads and strides; layers and row_bytes must be equal. Raises InvalidInput, copying nothing, for tables
    that are too short or name no block, and for buffers smaller than their layout.
    """

def gather(source: Buffer, destination: Buffer, offsets: npt.NDArray[np.int64], length: int) -> None:
    """destination[i * length : (i + 1) * length] = source[offsets[i] : offsets[i] + length], in bytes, for each i.

    Raises InvalidInput, copying nothing, for a block outside its buffer.
    """

def scatter(source: Buffer, destination: Buffer, offsets: npt.NDArray[np.int64], length: int) -> None:
    """destination[offsets[i] : offsets[i] + length] = source[i * length : (i + 1) * length], in bytes, for each i.

    Raises InvalidInput, copying nothing, for a block outside its buffer.
    """

import numpy as np
import numpy.typing as npt

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

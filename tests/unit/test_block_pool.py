from __future__ import annotations

import numpy as np
import pytest

from nano import errors
from nano._core import counters
from nano._core.kv import BlockPool


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def publish(pool: BlockPool, tokens: np.ndarray, salt: int = 0) -> np.ndarray:
    """Computes `tokens` as a request would: cached blocks, new ones, all published. The caller holds them."""
    hits = pool.acquire(tokens, salt)
    blocks = np.concatenate([hits, pool.allocate(-(-len(tokens) // pool.block_size) - len(hits))])
    pool.insert(tokens, blocks, salt)
    return blocks


def test_allocate_takes_all_or_nothing() -> None:
    pool = BlockPool(4, 16)
    held = pool.allocate(3)
    assert len(set(held.tolist())) == 3
    with pytest.raises(errors.OutOfMemory, match=r"asked for 2 blocks, 1 of 4"):
        pool.allocate(2)
    assert pool.num_free == 1
    pool.release(held)
    assert pool.num_free == 4


def test_blocks_are_counted_while_held_and_returned_with_the_pool() -> None:
    before = counters()["blocks"]
    pool = BlockPool(8, 4)
    held = publish(pool, np.arange(8, dtype=np.int32))
    assert counters()["blocks"] == before + 2
    pool.release(held)
    assert counters()["blocks"] == before, "cached free blocks do not count"
    pool.allocate(5)
    del pool
    assert counters()["blocks"] == before


def test_a_match_leaves_a_token_to_recompute() -> None:
    pool = BlockPool(8, 4)
    tokens = np.arange(12, dtype=np.int32)
    publish(pool, tokens)
    assert pool.match(tokens[:3]) == 0
    assert pool.match(tokens[:4]) == 0
    assert pool.match(tokens[:5]) == 1
    assert pool.match(tokens) == 2
    assert pool.match(np.append(tokens, ids(7))) == 3
    assert pool.match(ids()) == 0


def test_only_full_blocks_are_published() -> None:
    pool = BlockPool(8, 4)
    tokens = np.arange(7, dtype=np.int32)
    publish(pool, tokens)
    assert pool.num_cached == 1
    assert pool.match(np.arange(20, dtype=np.int32)) == 1


def test_acquired_blocks_are_shared_and_outlive_their_first_holder() -> None:
    pool = BlockPool(4, 4)
    tokens = np.arange(9, dtype=np.int32)
    first = publish(pool, tokens)
    second = pool.acquire(tokens)
    assert second.tolist() == first[:2].tolist()
    pool.release(first)
    assert pool.num_free == 2
    pool.release(second)
    assert pool.num_free == 4


def test_the_least_recently_used_prefix_is_evicted_first_and_its_tail_before_its_head() -> None:
    pool = BlockPool(4, 2)
    old, young = ids(1, 1, 1, 1, 1), ids(2, 2, 2)
    for tokens in (young, old):
        pool.release(publish(pool, tokens[:-1]))
    assert (pool.match(old), pool.match(young)) == (2, 1)
    pool.release(pool.acquire(young))  # a use makes it the youngest
    pool.release(pool.allocate(1))  # the block that was never used goes first
    assert (pool.match(old), pool.match(young)) == (2, 1)
    pool.allocate(2)
    assert (pool.match(old), pool.match(young)) == (1, 1)
    pool.allocate(1)
    assert (pool.match(old), pool.match(young)) == (0, 1)


def test_a_collision_never_serves_anothers_cache() -> None:
    pool = BlockPool(64, 2, hash_bits=0)  # every hash is equal
    prompts = [ids(a, b, c, d, 0) for a in (1, 2) for b in (1, 2) for c in (1, 2) for d in (1, 2)]
    held = [publish(pool, prompt) for prompt in prompts]
    for prompt, blocks in zip(prompts, held, strict=True):
        assert pool.acquire(prompt).tolist() == blocks[:2].tolist()
    assert pool.match(ids(3, 1, 1, 1, 0)) == 0
    assert pool.match(ids(1, 1, 3, 1, 0)) == 1
    pool.check()


def test_equal_blocks_after_different_prefixes_are_different() -> None:
    pool = BlockPool(16, 2, hash_bits=0)
    publish(pool, ids(1, 1, 5, 5))
    publish(pool, ids(2, 2))
    assert pool.match(ids(2, 2, 5, 5, 0)) == 1


def test_salts_share_nothing() -> None:
    for hash_bits in (0, 64):
        pool = BlockPool(8, 2, hash_bits=hash_bits)
        publish(pool, ids(1, 2, 3, 4), salt=5)
        assert pool.match(ids(1, 2, 3, 4, 5)) == 0
        assert pool.match(ids(1, 2, 3, 4, 5), salt=6) == 0
        assert pool.match(ids(1, 2, 3, 4, 5), salt=5) == 2


def test_a_prefix_already_cached_keeps_its_block_and_the_second_stays_private() -> None:
    pool = BlockPool(8, 2)
    tokens = ids(1, 2, 3)
    first, second = pool.allocate(2), pool.allocate(2)
    pool.insert(tokens, first)
    pool.insert(tokens, second)
    assert pool.num_cached == 1
    assert pool.acquire(tokens).tolist() == [first[0]]


def test_children_of_an_evicted_block_are_not_found_until_published_anew() -> None:
    pool = BlockPool(4, 1)
    first, second = pool.allocate(1), pool.allocate(2)
    pool.insert(ids(1), first)
    pool.insert(ids(1, 2), second)  # its second block hangs from the first request's
    pool.release(first)
    assert pool.match(ids(1, 2, 0)) == 2
    pool.allocate(2)  # the one blank block and the parent
    assert pool.match(ids(1, 2, 0)) == 0
    pool.insert(ids(1, 2), second)
    assert pool.match(ids(1, 2, 0)) == 2
    pool.check()


def test_clear_forgets_prefixes_and_keeps_what_is_held() -> None:
    pool = BlockPool(8, 2)
    held = publish(pool, ids(1, 2, 3, 4))
    pool.release(publish(pool, ids(5, 6)))
    pool.clear()
    assert (pool.num_cached, pool.num_free) == (0, 6)
    assert pool.match(ids(1, 2, 3, 4, 5)) == 0
    pool.release(held)
    pool.check()


def test_without_prefix_caching_nothing_is_found() -> None:
    pool = BlockPool(8, 2, prefix_caching=False)
    pool.release(publish(pool, ids(1, 2, 3, 4)))
    assert (pool.num_cached, pool.match(ids(1, 2, 3, 4, 5))) == (0, 0)
    pool.check()


def test_wrong_blocks_are_refused_and_nothing_changes() -> None:
    pool = BlockPool(4, 2)
    held = pool.allocate(2)
    for wrong in (ids(4), ids(-1), ids(3), ids(held[0], held[0]), ids(held[0], 3)):
        with pytest.raises(errors.InvalidInput, match="release"):
            pool.release(wrong)
    assert pool.num_free == 2
    with pytest.raises(errors.InvalidInput, match="not held"):
        pool.insert(ids(1, 2), ids(3))
    with pytest.raises(errors.InvalidInput, match="fill 2 blocks, got 1"):
        pool.insert(ids(1, 2, 3, 4), held[:1])
    pool.insert(ids(1, 2), held[:1])
    with pytest.raises(errors.InvalidInput, match="other tokens"):
        pool.insert(ids(7, 7), held[:1])
    with pytest.raises(errors.InvalidInput, match="count must be >= 0"):
        pool.allocate(-1)
    pool.release(held)
    pool.check()


def test_other_dtypes_and_shapes_are_refused() -> None:
    pool = BlockPool(4, 2)
    for wrong in (np.arange(4), np.ones(4, np.float32)):
        with pytest.raises(TypeError):
            pool.match(wrong)
    with pytest.raises(errors.InvalidInput, match="expected 1 dimension, got 2"):
        pool.match(np.ones((2, 2), np.int32))


@pytest.mark.parametrize(("blocks", "size", "bits"), [(0, 1, 64), (1, 0, 64), (1 << 30, 1, 64), (1, 1, 65)])
def test_impossible_pools_are_refused(blocks: int, size: int, bits: int) -> None:
    with pytest.raises(errors.InvalidInput, match="must be in"):
        BlockPool(blocks, size, hash_bits=bits)

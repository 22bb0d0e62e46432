"""Block pool: time a block, as Python calls it. Limits: allocate + release 100 ns, prefix lookup 100 ns a block of 64.

Single blocks are allocated by the scheduler, in C++; called from Python they cost what a Python call costs.

pytest bench/test_block_pool.py
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from nano._core.kv import BlockPool

LIMIT_NS = 100


def report(benchmark: BenchmarkFixture, blocks: int) -> None:
    per_block = benchmark.stats.stats.median / blocks * 1e9
    benchmark.extra_info["ns_per_block"] = round(per_block, 1)
    benchmark.extra_info["share_of_limit"] = round(per_block / LIMIT_NS, 3)
    print(f"\n{benchmark.name}: {per_block:.1f} ns a block, {per_block / LIMIT_NS:.0%} of the limit of {LIMIT_NS} ns")


@pytest.mark.parametrize("count", [16, 1024])
def test_allocate_and_release(benchmark: BenchmarkFixture, count: int) -> None:
    pool = BlockPool(65536, 64)

    def cycle() -> None:
        pool.release(pool.allocate(count))

    benchmark.pedantic(cycle, rounds=200, iterations=max(1, 4096 // count), warmup_rounds=5)
    assert pool.num_free == pool.num_blocks
    report(benchmark, count)


def test_allocate_by_eviction(benchmark: BenchmarkFixture) -> None:
    """Every block handed out is cached and has to leave the index first."""
    pool = BlockPool(16384, 64)
    rng = np.random.default_rng(0)
    count = 256

    def fill() -> None:
        tokens = rng.integers(0, 1 << 30, count * 64, dtype=np.int32)
        blocks = pool.allocate(count)
        pool.insert(tokens, blocks)
        pool.release(blocks)

    while pool.num_cached < pool.num_blocks:
        fill()

    held: list[np.ndarray] = []

    def evict() -> None:
        held.append(pool.allocate(count))

    def restore() -> None:
        while held:
            pool.release(held.pop())
        while pool.num_cached < pool.num_blocks:
            fill()

    benchmark.pedantic(evict, setup=restore, rounds=200, iterations=1, warmup_rounds=5)
    restore()
    assert pool.num_free == pool.num_blocks
    report(benchmark, count)


@pytest.mark.parametrize("blocks", [16, 256])
@pytest.mark.parametrize("pool_blocks", [4096, 65536])
def test_prefix_lookup(benchmark: BenchmarkFixture, blocks: int, pool_blocks: int) -> None:
    """64 prompts in turn, so that the index comes from the outer caches as it would in service."""
    pool = BlockPool(pool_blocks, 64)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 1 << 30, blocks * 64 + 1, dtype=np.int32) for _ in range(min(64, pool_blocks // blocks))]
    for tokens in prompts:
        held = pool.allocate(blocks)
        pool.insert(tokens, held)
        pool.release(held)

    def look_up() -> int:
        return sum(pool.match(tokens) for tokens in prompts)

    found = benchmark.pedantic(look_up, rounds=100, iterations=4, warmup_rounds=5)
    assert found == blocks * len(prompts)
    report(benchmark, found)

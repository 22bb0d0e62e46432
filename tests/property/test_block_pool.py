"""The block pool against a model with whole prefixes for keys: no hashes, no parents, no generations."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nano import errors
from nano._core import counters
from nano._core.kv import BlockPool

Key = tuple[int, tuple[int, ...]]  # salt, every token up to the block's end

TOKENS = st.lists(st.integers(0, 1), max_size=14)  # two letters: prefixes are shared all the time
SALTS = st.sampled_from([0, 1])


@dataclass
class Model:
    num_blocks: int
    block_size: int
    refs: list[int] = field(init=False)
    blank: set[int] = field(init=False)  # free, without content
    lru: list[int] = field(default_factory=list)  # free and cached, oldest first
    entries: dict[Key, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  # cached, but a block of their prefix was evicted

    def __post_init__(self) -> None:
        self.refs = [0] * self.num_blocks
        self.blank = set(range(self.num_blocks))

    def cached(self) -> set[int]:
        return set(self.entries.values()) | self.lost

    def keys(self, tokens: list[int], salt: int) -> list[Key]:
        size = self.block_size
        return [(salt, tuple(tokens[: (i + 1) * size])) for i in range(len(tokens) // size)]

    def match(self, tokens: list[int], salt: int) -> list[int]:
        found = []
        for key in self.keys(tokens[:-1], salt):
            if key not in self.entries:
                break
            found.append(self.entries[key])
        return found

    def hold(self, blocks: list[int]) -> None:
        for block in blocks:
            if self.refs[block] == 0:
                self.lru.remove(block)
            self.refs[block] += 1

    def release(self, blocks: list[int]) -> None:
        cached = self.cached()
        for block in reversed(blocks):
            self.refs[block] -= 1
            if self.refs[block] == 0:
                if block in cached:
                    self.lru.append(block)
                else:
                    self.blank.add(block)

    def allocated(self, blocks: list[int]) -> None:
        """`blocks` must be what the rules allow: blank ones first, then the least recently used."""
        blank = blocks[: len(self.blank)]
        assert set(blank) <= self.blank
        assert len(set(blank)) == len(blank)
        self.blank -= set(blank)
        evicted = blocks[len(blank) :]
        assert evicted == self.lru[: len(evicted)]
        del self.lru[: len(evicted)]
        for block in evicted:
            self.evict(block)
        for block in blocks:
            self.refs[block] = 1

    def evict(self, block: int) -> None:
        self.lost.discard(block)
        gone = next((key for key, held in self.entries.items() if held == block), None)
        if gone is None:
            return
        del self.entries[gone]
        salt, prefix = gone
        for key in [key for key in self.entries if key[0] == salt and key[1][: len(prefix)] == prefix]:
            self.lost.add(self.entries.pop(key))

    def insert(self, tokens: list[int], blocks: list[int], salt: int) -> None:
        for key, block in zip(self.keys(tokens, salt), blocks, strict=False):
            if key not in self.entries:
                self.lost.discard(block)
                self.entries[key] = block

    def clear(self) -> None:
        self.entries.clear()
        self.lost.clear()
        self.blank |= set(self.lru)
        self.lru.clear()


@dataclass
class Holder:
    tokens: list[int]
    salt: int
    blocks: list[int]


def array(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


class PoolMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(1, 14), block_size=st.sampled_from([1, 2, 3]), hash_bits=st.sampled_from([0, 1, 4, 64])
    )
    def start(self, num_blocks: int, block_size: int, hash_bits: int) -> None:
        self.pool = BlockPool(num_blocks, block_size, hash_bits=hash_bits)
        self.model = Model(num_blocks, block_size)
        self.holders: list[Holder] = []
        self.blocks_before = counters()["blocks"]

    @rule(tokens=TOKENS, salt=SALTS, publish=st.booleans())
    def admit(self, tokens: list[int], salt: int, publish: bool) -> None:
        hits = self.pool.acquire(array(tokens), salt).tolist()
        assert hits == self.model.match(tokens, salt)
        self.model.hold(hits)
        missing = -(-len(tokens) // self.model.block_size) - len(hits)
        if missing > self.pool.num_free:
            with pytest.raises(errors.OutOfMemory):
                self.pool.allocate(missing)
            self.pool.release(array(hits))
            self.model.release(hits)
            return
        fresh = self.pool.allocate(missing).tolist()
        self.model.allocated(fresh)
        self.holders.append(Holder(tokens, salt, hits + fresh))
        if publish:
            self.publish(len(self.holders) - 1)

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 1000))
    def publish(self, which: int) -> None:
        holder = self.holders[which % len(self.holders)]
        self.pool.insert(array(holder.tokens), array(holder.blocks), holder.salt)
        self.model.insert(holder.tokens, holder.blocks, holder.salt)

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 1000))
    def release(self, which: int) -> None:
        holder = self.holders.pop(which % len(self.holders))
        self.pool.release(array(holder.blocks))
        self.model.release(holder.blocks)

    @rule(tokens=TOKENS, salt=SALTS)
    def match(self, tokens: list[int], salt: int) -> None:
        assert self.pool.match(array(tokens), salt) == len(self.model.match(tokens, salt))

    @rule(block=st.integers(-1, 15))
    def a_wrong_release_changes_nothing(self, block: int) -> None:
        held = [block for block, refs in enumerate(self.model.refs) if refs > 0]
        if block in held:
            return
        with pytest.raises(errors.InvalidInput):
            self.pool.release(array([*held, block]))

    @rule()
    def clear(self) -> None:
        self.pool.clear()
        self.model.clear()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check()
        held = sum(refs > 0 for refs in self.model.refs)
        assert self.pool.num_free == self.model.num_blocks - held
        assert self.pool.num_cached == len(self.model.cached())
        assert counters()["blocks"] - self.blocks_before == held

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for holder in self.holders:
            self.pool.release(array(holder.blocks))
        assert self.pool.num_free == self.pool.num_blocks
        self.pool.check()
        del self.pool


PoolMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBlockPool = PoolMachine.TestCase

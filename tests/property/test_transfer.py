"""Tags against an obviously right model: any order, duplicates, wrong pieces, forgets and re-expectations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nano.errors import Closed, Refused
from nano.transfer import Endpoint

BLOCK = 64
BLOCKS = 256


class Tags(RuleBasedStateMachine):
    """Every byte of the destination is what the model says, whatever was sent."""

    transport = "shm"

    def __init__(self) -> None:
        super().__init__()
        self.source = Endpoint("source", transports=(self.transport,))
        self.sink = Endpoint("sink", transports=(self.transport,))
        self.src = self.source.allocate(BLOCK * BLOCKS, "kv")
        self.dst = self.sink.allocate(BLOCK * BLOCKS, "kv")
        self.peer = self.source.connect(self.sink.descriptor())
        self.memory = np.zeros((BLOCKS, BLOCK), np.uint8)
        self.tags: dict[int, tuple[list[int], set[int]]] = {}
        self.completed: list[int] = []
        self.value = 0

    @initialize()
    def begin(self) -> None:
        self.sink.poll()

    @rule(tag=st.integers(1, 4), blocks=st.lists(st.integers(0, BLOCKS - 1), max_size=90, unique=True))
    def expect(self, tag: int, blocks: list[int]) -> None:
        if tag in self.tags:
            return
        self.sink.expect(tag, self.dst, np.array(blocks, dtype=np.int64) * BLOCK, BLOCK)
        self.tags[tag] = (blocks, set())
        if not blocks:
            self.completed.append(tag)

    @rule(tag=st.integers(1, 5), data=st.data())
    def write(self, tag: int, data: st.DataObject) -> None:
        blocks = self.tags.get(tag, ([0], set()))[0] or [0]
        pieces = data.draw(st.lists(st.integers(0, len(blocks) - 1), min_size=1, max_size=120))
        wrong = data.draw(st.sampled_from(["", "", "", "place", "piece"]))
        self.value = self.value % 255 + 1
        self.src.array[:] = self.value
        dst = np.array([blocks[p] for p in pieces], dtype=np.int64) * BLOCK
        numbers = np.array(pieces, dtype=np.int32)
        if wrong == "place":
            dst[0] = (dst[0] + BLOCK) % (BLOCK * BLOCKS)
        elif wrong == "piece":
            numbers[0] = len(blocks)
        good = not wrong and tag in self.tags and bool(self.tags[tag][0])
        transfer = self.peer.write(self.src, "kv", dst * 0, dst, BLOCK, tag=tag, pieces=numbers)
        if good:
            transfer.wait()
            landed = self.tags[tag][1]
            for piece in pieces:
                if piece not in landed:
                    self.memory[blocks[piece]] = self.value
            if len(landed) < len(blocks) and len(landed | set(pieces)) == len(blocks):
                self.completed.append(tag)
            landed.update(pieces)
        else:
            with pytest.raises(Refused):
                transfer.wait()
            if tag in self.tags:  # chunks after the refused one may have landed: take what the endpoint says
                self.resync(tag, pieces, numbers, dst)

    def resync(self, tag: int, pieces: list[int], numbers: np.ndarray, dst: np.ndarray) -> None:
        """A refusal ends the operation; of its other chunks each landed wholly or not at all, at its own place."""
        # Whatever was still under way is over once a later operation of the same connection is.
        self.peer.write(self.src, "kv", [0], [BLOCK * (BLOCKS - 1)], BLOCK).wait()
        self.memory[BLOCKS - 1] = self.value
        blocks, landed = self.tags[tag]
        now = set(range(len(blocks))) - set(self.sink.missing(tag).tolist())
        assert landed <= now
        assert now - landed <= {n for n, d in zip(numbers.tolist(), dst.tolist(), strict=True)
                                if n < len(blocks) and blocks[n] * BLOCK == d}  # fmt: skip
        for piece in now - landed:
            self.memory[blocks[piece]] = self.value
        if len(landed) < len(blocks) and len(now) == len(blocks):
            self.completed.append(tag)
        landed.update(now)

    @rule(tag=st.integers(1, 5))
    def forget(self, tag: int) -> None:
        self.sink.forget(tag)
        self.tags.pop(tag, None)

    @invariant()
    def what_is_missing_is_known(self) -> None:
        for tag, (blocks, landed) in self.tags.items():
            assert set(self.sink.missing(tag).tolist()) == set(range(len(blocks))) - landed
            assert set(np.flatnonzero(self.sink.landed(tag)).tolist()) == landed
        for tag in set(range(1, 6)) - set(self.tags):
            with pytest.raises(Closed):
                self.sink.missing(tag)

    @invariant()
    def every_byte_is_right(self) -> None:
        assert np.array_equal(self.dst.array.reshape(BLOCKS, BLOCK), self.memory)

    @invariant()
    def a_tag_completes_once(self) -> None:
        got = [event.tag for event in self.sink.poll() if event.kind == "complete"]
        assert got == self.completed
        self.completed = []

    def teardown(self) -> None:
        self.source.close()
        self.sink.close()


class TagsOverTcp(Tags):
    transport = "tcp"


chosen = settings(max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestTagsByShm = Tags.TestCase
TestTagsByShm.settings = chosen
TestTagsByTcp = TagsOverTcp.TestCase
TestTagsByTcp.settings = chosen

"""Large regions, many registrations, many connections: nothing is left behind."""

from __future__ import annotations

import os

import numpy as np

from nano._core import counters
from nano.transfer import Endpoint

MIB = 1 << 20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_block_larger_than_a_devices_message_arrives_whole() -> None:
    """Soft-RoCE's messages have at most 8 MiB; a tagged block still lands as one piece."""
    with Endpoint("source", transports=("verbs",)) as source, Endpoint("sink", transports=("verbs",)) as sink:
        src, dst = source.allocate(20 * MIB, "kv"), sink.allocate(20 * MIB, "kv")
        src.array[:] = np.random.default_rng(1).integers(0, 256, src.nbytes, dtype=np.uint8)
        peer = source.connect(sink.descriptor(), timeout=20)
        sink.expect(1, dst, [4096], 19 * MIB)
        peer.write(src, "kv", [0], [4096], 19 * MIB, tag=1).wait()
        assert np.array_equal(dst.array[4096 : 4096 + 19 * MIB], src.array[: 19 * MIB])
        assert not dst.array[:4096].any()
        sink.forget(1)
        dst.array[:] = 3
        peer.read(src, "kv", [0], [0], 20 * MIB).wait()
        assert (src.array == 3).all()


def test_four_thousand_small_blocks_of_one_tag() -> None:
    with Endpoint("source", transports=("verbs",)) as source, Endpoint("sink", transports=("verbs",)) as sink:
        src, dst = source.allocate(4 * MIB, "kv"), sink.allocate(4 * MIB, "kv")
        src.array[:] = np.random.default_rng(1).integers(0, 256, src.nbytes, dtype=np.uint8)
        peer = source.connect(sink.descriptor(), timeout=20)
        offsets = np.arange(4096, dtype=np.int64) * 1024
        targets = np.random.default_rng(2).permutation(offsets)
        sink.expect(1, dst, targets, 1024)
        peer.write(src, "kv", offsets, targets, 1024, tag=1).wait()
        assert sink.missing(1).size == 0
        assert np.array_equal(dst.array.reshape(4096, 1024)[targets // 1024], src.array.reshape(4096, 1024))
        sink.forget(1)


def test_regions_come_and_go_beside_a_connection() -> None:
    with Endpoint("source", transports=("verbs",)) as source, Endpoint("sink", transports=("verbs",)) as sink:
        src = source.allocate(MIB, "kv")
        peer = source.connect(sink.descriptor(), timeout=20)
        before = None
        for i in range(100):
            with sink.allocate(MIB, "kv") as dst:
                if i % 10 == 0:
                    src.array[:] = i + 1
                    peer.write(src, "kv", [0], [0], MIB).wait()
                    assert (dst.array == i + 1).all()
            before = before or (counters(), descriptors())
        assert (counters(), descriptors()) == before

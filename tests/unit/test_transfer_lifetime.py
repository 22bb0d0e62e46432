"""Nothing is left behind: ten thousand transfers and a thousand connections, counted before and after."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nano._core import counters
from nano.transfer import Endpoint

SLACK_KIB = 2048  # of resident memory: the allocator's own


def held() -> dict[str, int]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        **counters(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "memfd mappings": sum("memfd:nano" in line for line in maps),
    }


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def flat(ends: tuple[Endpoint, Endpoint], some: Callable[[int], None], warm: int, rounds: int) -> None:
    """What is held after `rounds` more is what was held after `warm`."""

    def settled(expected: dict[str, int] | None) -> dict[str, int]:
        deadline = time.monotonic() + 5
        last: dict[str, int] = {}
        while time.monotonic() < deadline:
            for endpoint in ends:
                endpoint.poll()
            gc.collect()
            now = held()
            if now == expected or (expected is None and now == last):
                break
            last = now
            time.sleep(0.05)  # the workers bury what has ended
        return now

    some(warm)
    before, memory = settled(None), resident_kib()
    some(rounds)
    assert settled(before) == before
    assert resident_kib() - memory < SLACK_KIB


@pytest.fixture(params=["shm", "cma", "tcp"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Endpoint, Endpoint]]:
    with (
        Endpoint("source", transports=(request.param,)) as source,
        Endpoint("sink", transports=(request.param,)) as sink,
    ):
        yield source, sink


def test_ten_thousand_transfers_leave_nothing_behind(ends: tuple[Endpoint, Endpoint]) -> None:
    source, sink = ends
    region, target = source.allocate(1 << 20, "kv"), sink.allocate(1 << 20, "kv")
    peer = source.connect(sink.descriptor())
    offsets = np.arange(16) * 8192
    prepared = peer.prepare_read(region, "kv", offsets, offsets, 4096)
    tags = iter(range(1, 1 << 20))

    def some(rounds: int) -> None:
        """Five transfers a round: landed, read, refused, confirmed, and one that ends in whatever way."""
        for _ in range(rounds):
            tag = next(tags)
            sink.expect(tag, target, offsets, 4096)
            write = peer.write(region, "kv", offsets, offsets, 4096, tag=tag, imm=tag)
            read = prepared.post()
            peer.write(region, "nothing", 0, 0, 1)
            peer.send(b"x")
            write.wait()
            read.wait()
            sink.forget(tag)
            peer.write(region, "kv", offsets, offsets, 4096, tag=tag, timeout=0.0 if tag % 2 else 30.0)
            if tag % 3 == 0:
                peer.cancel(tag)
            sink.poll()
        peer.send(b"last").wait()

    flat(ends, some, 200, 2000)


def test_a_thousand_connections_leave_nothing_behind(ends: tuple[Endpoint, Endpoint]) -> None:
    source, sink = ends
    region, _target = source.allocate(65536, "kv"), sink.allocate(65536, "kv")

    def some(rounds: int) -> None:
        for round_ in range(rounds):
            with source.connect(sink.descriptor()) as peer:
                transfer = peer.write(region, "kv", 0, 0, 65536)
                if round_ % 2:
                    transfer.wait()
                if round_ % 3 == 0:
                    source.allocate(4096, "extra").close()
            for endpoint in ends:
                endpoint.poll()

    flat(ends, some, 50, 1000)

"""Moving blocks between endpoints, by both transports."""

from __future__ import annotations

import gc
import select
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from nano.errors import Closed, InvalidInput, NanoError, Refused
from nano.transfer import Endpoint, Event, Peer, Region

MIB = 1 << 20


def events_until(endpoint: Endpoint, kind: str, seconds: float = 5.0) -> Event:
    """The next event of that kind; others are dropped."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        select.select([endpoint], [], [], max(0.0, deadline - time.monotonic()))
        for event in endpoint.poll():
            if event.kind == kind:
                return event
    raise AssertionError(f"no {kind} event within {seconds} s")


class Pair:
    """Two connected endpoints with a region "kv" each."""

    def __init__(self, transport: str, nbytes: int = 4 * MIB) -> None:
        self.source = Endpoint("source", transports=(transport,))
        self.sink = Endpoint("sink", transports=(transport,))
        self.src: Region = self.source.allocate(nbytes, "kv")
        self.dst: Region = self.sink.allocate(nbytes, "kv")
        self.peer: Peer = self.source.connect(self.sink.descriptor())

    def close(self) -> None:
        self.source.close()
        self.sink.close()


@pytest.fixture(params=["shm", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


def blocks(rng: np.random.Generator, n: int, length: int, room: int) -> np.ndarray:
    return rng.permutation(room // length)[:n].astype(np.int64) * length


@pytest.mark.parametrize(("n", "length"), [(1, 4096), (1, 1), (64, 1024), (100, 10000), (1000, 4096), (3, MIB)])
def test_scattered_blocks_arrive_where_they_should_and_nowhere_else(pair: Pair, n: int, length: int) -> None:
    rng = np.random.default_rng(n)
    pair.src.array[:] = rng.integers(0, 256, pair.src.nbytes, dtype=np.uint8)
    pair.dst.array[:] = rng.integers(0, 256, pair.dst.nbytes, dtype=np.uint8)
    src, dst = blocks(rng, n, length, pair.src.nbytes), blocks(rng, n, length, pair.dst.nbytes)
    expected = pair.dst.array.copy()
    for s, d in zip(src, dst, strict=True):
        expected[d : d + length] = pair.src.array[s : s + length]
    pair.peer.write(pair.src, "kv", src, dst, length).wait()
    assert np.array_equal(pair.dst.array, expected)


@pytest.mark.parametrize(("n", "length"), [(1, 4096), (64, 1024), (1000, 4096), (3, MIB)])
def test_reads_bring_the_peers_blocks(pair: Pair, n: int, length: int) -> None:
    rng = np.random.default_rng(n)
    pair.dst.array[:] = rng.integers(0, 256, pair.dst.nbytes, dtype=np.uint8)
    src, dst = blocks(rng, n, length, pair.src.nbytes), blocks(rng, n, length, pair.dst.nbytes)
    expected = pair.src.array.copy()
    for s, d in zip(src, dst, strict=True):
        expected[d : d + length] = pair.dst.array[s : s + length]
    pair.peer.read(pair.src, "kv", dst, src, length).wait()
    assert np.array_equal(pair.src.array, expected)


def test_a_transport_is_what_it_says(pair: Pair) -> None:
    joined = events_until(pair.sink, "joined")
    assert joined.peer is not None
    assert joined.peer.name == "source"
    assert joined.peer.transport == pair.peer.transport
    assert pair.peer.name == "sink"

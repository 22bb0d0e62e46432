"""Times between two endpoints: single small operations, and many blocks, whose bytes are checked on both sides."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nano._core.transfer import Endpoint, Region, Transfer
from nano.errors import Internal, InvalidInput
from nano.transfer.responder import REGION, Far, checksum, needed, places

Offsets = npt.NDArray[np.int64] | list[int]
Move = Callable[[Region, str, Offsets, Offsets, int], Transfer]


@dataclass
class Latency:
    """Of one operation, from the Python call until it has ended, in microseconds."""

    operation: str
    nbytes: int
    minimum: float
    median: float
    p99: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Rate:
    """Of `count` scattered blocks moved by one operation."""

    operation: str
    length: int
    count: int
    microseconds: float  # the median operation
    gb_per_s: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def latencies(endpoint: Endpoint, far: Far, sizes: list[int], rounds: int) -> list[Latency]:
    """A message's round trip, then writes and reads of one block of each size."""
    largest = max(sizes)
    if largest > far.nbytes:
        raise InvalidInput(f"ping: a block of {largest} bytes does not fit the far region of {far.nbytes}")
    message = b'{"do": "echo"}'
    out = [latency("message round trip", len(message), lambda: far.echo(message), rounds)]
    with endpoint.allocate(largest, "nano.ping") as region:
        for length in sizes:
            for operation, move in (("write", far.peer.write), ("read", far.peer.read)):
                out.append(latency(operation, length, once(move, region, [0], [0], length), rounds))
    return out


def once(move: Move, region: Region, here: Offsets, there: Offsets, length: int) -> Callable[[], object]:
    """One operation, from the Python call until it has ended."""
    return lambda: move(region, REGION, here, there, length).wait()


def latency(operation: str, nbytes: int, call: Callable[[], object], rounds: int) -> Latency:
    times = np.array(timed(call, rounds)) * 1e6
    return Latency(operation, nbytes, float(times.min()), float(np.median(times)), float(np.percentile(times, 99)))


def timed(call: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each of `rounds` calls, after a tenth as many to warm up."""
    for _ in range(max(1, rounds // 10)):
        call()
    out = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        out.append(time.perf_counter() - began)
    return out


def rates(endpoint: Endpoint, far: Far, lengths: list[int], count: int, rounds: int) -> list[Rate]:
    """Writes and reads of up to `count` blocks of each length, as many as fit the far region, verified before timed."""
    out = []
    with endpoint.allocate(far.nbytes, "nano.bench") as region:
        rng = np.random.default_rng(8)
        for length in lengths:
            n = min(count, (far.nbytes // length + 1) // 2)
            if n == 0:
                raise InvalidInput(f"bench: a block of {length} bytes does not fit the far region of {far.nbytes}")
            here, there = places(n, length, 1), places(n, length, 2)
            for operation, move in (("write", far.peer.write), ("read", far.peer.read)):
                region.array[: needed(n, length)] = rng.integers(0, 256, needed(n, length), dtype=np.uint8)
                call = once(move, region, here, there, length)
                call()
                expected, got = checksum(region.array, here, length), far.checksum(n, length, 2)
                if expected != got:
                    blocks = f"{operation} of {n} x {length} bytes"
                    raise Internal(f"bench: {blocks}: expected CRC {expected:08x}, got {got:08x}")
                seconds = float(np.median(timed(call, rounds)))
                out.append(Rate(operation, length, n, seconds * 1e6, n * length / seconds / 1e9))
    return out

"""Transfers between two processes, against the smallest program that does only that.

    pytest bench/test_transfer.py -s --benchmark-json=transfer.json

Each cell moves blocks that lie scattered at twice their length, checks every byte on the other side, then times the
median of a Python call until the data is in. Its limit is measured just before, in the same processes: for shm the
better of memcpy and non-temporal stores in one thread, for TCP two processes that spin in sendmsg and recvmsg_into.
Each process has a core of its own, so that a busy machine's scheduler does not put both on one.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from nano._core.transfer import copy_limit, streaming_copy_name
from nano.transfer import Endpoint, Peer, Region

CELLS = [(1, 4096), (64, 1024), (1024, 4096), (1024, 16384), (1024, 65536), (1, 64 << 20)]
NBYTES = 130 << 20
VECTORS = 64


def places(n: int, length: int, seed: int) -> np.ndarray:
    """[n] byte offsets of distinct blocks at stride 2 * length, in random order."""
    return np.random.default_rng(seed).permutation(n).astype(np.int64) * (2 * length if n > 1 else 0)


def checksum(data: np.ndarray, offsets: np.ndarray, length: int) -> int:
    value = 0
    for offset in offsets:
        value = zlib.crc32(data[offset : offset + length], value)
    return value


def views(data: np.ndarray, offsets: np.ndarray, length: int) -> list[memoryview]:
    whole = memoryview(data)
    return [whole[offset : offset + length] for offset in offsets.tolist()]


def spin(blocks: list[memoryview], move: Callable[[list[memoryview]], int]) -> None:
    """Moves all blocks over a non-blocking socket, never sleeping."""
    at, total = 0, len(blocks)
    pending = blocks[:VECTORS]
    while at < total:
        try:
            moved = move(pending)
        except BlockingIOError:
            continue
        while moved and moved >= len(pending[0]):
            moved -= len(pending.pop(0))
            at += 1
        if moved:
            pending[0] = pending[0][moved:]
        if not pending:
            pending = blocks[at : at + VECTORS]


def receive_all(sock: socket.socket, blocks: list[memoryview]) -> None:
    spin(blocks, lambda pending: sock.recvmsg_into(pending)[0])


def send_all(sock: socket.socket, blocks: list[memoryview]) -> None:
    spin(blocks, sock.sendmsg)


def take_core(index: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[index % len(cores)]})


def far(transport: str) -> None:
    """The other process's whole life; it ends with its standard input."""
    take_core(1)
    listener = socket.create_server(("127.0.0.1", 0))
    with Endpoint("far", transports=(transport,)) as endpoint:
        region = endpoint.allocate(NBYTES, "kv")
        region.array[:] = np.random.default_rng(7).integers(0, 256, NBYTES, dtype=np.uint8)
        print(endpoint.descriptor().hex(), listener.getsockname()[1], flush=True)
        for line in sys.stdin:
            command, *numbers = line.split()
            n, length, seed, rounds = map(int, numbers)
            offsets = places(n, length, seed)
            if command == "checksum":
                print(checksum(region.array, offsets, length), flush=True)
            elif command == "receive":
                print("ready", flush=True)
                sock, _ = listener.accept()
                with sock:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setblocking(False)
                    blocks = views(region.array, offsets, length)
                    answer = [memoryview(b"x")]
                    for _ in range(rounds):
                        receive_all(sock, blocks)
                        send_all(sock, list(answer))


class Far:
    def __init__(self, transport: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, transport],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the same nano
        )
        take_core(0)
        self.near = Endpoint("near", transports=(transport,))
        self.region: Region = self.near.allocate(NBYTES, "near")
        self.region.array[:] = np.random.default_rng(8).integers(0, 256, NBYTES, dtype=np.uint8)
        descriptor, port = self.readline().split()
        self.port = int(port)
        self.peer: Peer = self.near.connect(bytes.fromhex(descriptor))

    def readline(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], "the other process is silent"
        return self.process.stdout.readline()

    def ask(self, command: str, n: int, length: int, seed: int, rounds: int = 0) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command} {n} {length} {seed} {rounds}\n")
        self.process.stdin.flush()
        return self.readline()

    def close(self) -> None:
        self.near.close()
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module", params=["shm", "tcp"])
def link(request: pytest.FixtureRequest) -> Iterator[Far]:
    cores = os.sched_getaffinity(0)
    made = Far(request.param)
    yield made
    made.close()
    os.sched_setaffinity(0, cores)


def median(fn: Callable[[], object], rounds: int) -> float:
    """Seconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        fn()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def copy_seconds(src: np.ndarray, dst: np.ndarray, n: int, length: int, rounds: int) -> tuple[float, str]:
    """The better of the two ways to copy those blocks in one thread."""
    a, b = places(n, length, 1), places(n, length, 2)
    plain = median(lambda: copy_limit(dst, src, b, a, length, False), rounds)
    streaming = median(lambda: copy_limit(dst, src, b, a, length, True), rounds)
    return (plain, "memcpy") if plain < streaming else (streaming, streaming_copy_name())


def socket_seconds(link: Far, n: int, length: int, rounds: int) -> tuple[float, str]:
    """Those blocks through a bare socket, and one byte back."""
    blocks = views(link.region.array, places(n, length, 1), length)
    assert link.ask("receive", n, length, 2, rounds).strip() == "ready"
    with socket.create_connection(("127.0.0.1", link.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        answer = [memoryview(bytearray(1))]

        def round_() -> None:
            send_all(sock, blocks)
            receive_all(sock, list(answer))

        return median(round_, rounds), "spinning sockets"


@pytest.mark.parametrize(("n", "length"), CELLS)
@pytest.mark.parametrize("op", ["write", "read"])
def test_blocks(benchmark: Any, capsys: pytest.CaptureFixture[str], link: Far, op: str, n: int, length: int) -> None:
    """[n] blocks of `length` bytes; the ratio is limit time ÷ our time."""
    here, there = places(n, length, 1), places(n, length, 2)
    peer, region = link.peer, link.region

    def move() -> None:
        if op == "write":
            peer.write(region, "kv", here, there, length).wait()
        else:
            peer.read(region, "kv", here, there, length).wait()

    move()
    assert int(link.ask("checksum", n, length, 2)) == checksum(region.array, here, length)
    rounds = 200 if n * length <= 1 << 20 else 30
    scratch = np.ones(NBYTES, np.uint8) if peer.transport == "shm" else None
    if scratch is not None:
        limit, name = copy_seconds(region.array, scratch, n, length, rounds)
    else:
        limit, name = socket_seconds(link, n, length, rounds)
    benchmark.pedantic(move, rounds=rounds, warmup_rounds=5)
    ours = benchmark.stats.stats.median
    ratio = limit / ours
    benchmark.extra_info.update(
        transport=peer.transport, gbps=n * length / ours / 1e9, limit_gbps=n * length / limit / 1e9, limit=name,
        ratio=ratio,
    )  # fmt: skip
    with capsys.disabled():
        print(
            f"\n{peer.transport} {op:5} {n:5} x {length:8}: {ours * 1e6:9.1f} us {n * length / ours / 1e9:6.2f} GB/s; "
            f"{name}: {limit * 1e6:9.1f} us {n * length / limit / 1e9:6.2f} GB/s; ratio {ratio:.2f}"
        )


def test_submitting(benchmark: Any, capsys: pytest.CaptureFixture[str], link: Far) -> None:
    """The Python call alone, a block of a list of 1024."""
    n, length = 1024, 1024
    here, there = places(n, length, 1), places(n, length, 2)
    posted = []

    def post() -> None:
        posted.append(link.peer.write(link.region, "kv", here, there, length))

    def settle() -> None:
        while posted:
            posted.pop().wait()

    benchmark.pedantic(post, setup=settle, rounds=100, warmup_rounds=5)
    settle()
    assert int(link.ask("checksum", n, length, 2)) == checksum(link.region.array, here, length)
    cost = benchmark.stats.stats.median / n * 1e9
    benchmark.extra_info.update(transport=link.peer.transport, ns_a_block=cost)
    with capsys.disabled():
        print(f"\n{link.peer.transport} submit: {cost:.1f} ns a block (goal 60)")


def test_connecting(benchmark: Any, capsys: pytest.CaptureFixture[str], link: Far) -> None:
    """Handshake to close."""
    with Endpoint("other") as other:
        benchmark.pedantic(lambda: link.near.connect(other.descriptor()).close(), rounds=30, warmup_rounds=2)
    with capsys.disabled():
        print(f"\n{link.peer.transport} connect: {benchmark.stats.stats.median * 1e6:.0f} us")


if __name__ == "__main__":
    far(sys.argv[1])

"""Transfers between two processes, against the smallest program that does only that.

    pytest bench/test_transfer.py -s --benchmark-json=transfer.json

A cell moves blocks that lie scattered at twice their length, checks every byte on the other side, then times the median
of a Python call until the data is in. Its limit is measured just before, in the same processes: for shm the better of
memcpy and non-temporal stores in one thread, for cma process_vm_readv in one call, for TCP two processes that spin in
sendmsg and recvmsg_into. bench/transfer holds the other process and the limits.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nano.transfer import Endpoint

sys.path.insert(0, str(Path(__file__).parent / "transfer"))
from blocks import median, places
from pair import Pair

CELLS = [(64, 1024), (1024, 4096), (1024, 16384), (1024, 65536), (1, 64 << 20)]
GOALS = {"shm": (1.0, 1.5), "cma": (2.0, 2.0), "tcp": (12.0, 12.0)}  # us of one 4 KiB read and write, spinning


@pytest.fixture(scope="module", params=["shm", "cma", "tcp"])
def link(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


def mover(link: Pair, op: str, n: int, length: int) -> Callable[[], None]:
    """One operation from the call to its end."""
    here, there = places(n, length, 1), places(n, length, 2)
    peer, region = link.peer, link.region
    if op == "write":
        return lambda: peer.write(region, "kv", here, there, length).wait()
    return lambda: peer.read(region, "kv", here, there, length).wait()


@pytest.mark.parametrize(("n", "length"), CELLS)
@pytest.mark.parametrize("op", ["write", "read"])
def test_blocks(benchmark: Any, capsys: pytest.CaptureFixture[str], link: Pair, op: str, n: int, length: int) -> None:
    """[n] blocks of `length` bytes; the ratio is limit time ÷ our time."""
    move = mover(link, op, n, length)
    move()
    link.verify(n, length)
    rounds = 200 if n * length <= 1 << 20 else 30
    limit, name = link.limit(n, length, rounds)
    benchmark.pedantic(move, rounds=rounds, warmup_rounds=5)
    ours = benchmark.stats.stats.median
    gbps, most = n * length / ours / 1e9, n * length / limit / 1e9
    benchmark.extra_info.update(
        transport=link.transport, gbps=gbps, limit_gbps=most, limit=name, ratio=limit / ours
    )  # fmt: skip
    with capsys.disabled():
        print(
            f"\n{link.transport} {op:5} {n:5} x {length:8}: {ours * 1e6:9.1f} us {gbps:6.2f} GB/s; "
            f"{name}: {limit * 1e6:9.1f} us {most:6.2f} GB/s; ratio {limit / ours:.2f}"
        )


@pytest.mark.parametrize("transport", ["shm", "cma", "tcp"])
@pytest.mark.parametrize("other_side", ["spins", "sleeps"])
def test_one_operation(benchmark: Any, capsys: pytest.CaptureFixture[str], transport: str, other_side: str) -> None:
    """4 KiB, around the Python calls, when the far worker polls and when it has to be woken first."""
    length, rounds = 4096, 2000 if other_side == "spins" else 300
    link = Pair(transport, spin=60.0 if other_side == "spins" else 0.0)
    try:
        peer, region = link.peer, link.region
        write = peer.prepare_write(region, "kv", 4096, 8192, length)
        read = peer.prepare_read(region, "kv", 4096, 8192, length)
        calls: dict[str, Callable[[], None]] = {
            "read, prepared": lambda: read.post().wait(),
            "read, fresh": lambda: peer.read(region, "kv", 4096, 8192, length).wait(),
            "write, prepared": lambda: write.post().wait(),
            "write, fresh": lambda: peer.write(region, "kv", 4096, 8192, length).wait(),
        }
        seconds, limit = link.limit(1, length, rounds)
        lines = [f"{transport} limit, 4 KiB by {limit} in Python: {seconds * 1e6:.2f} us"]
        for name, call in calls.items():
            for _ in range(100):
                call()
            seconds = median(call, rounds)
            goal = f" (goal {GOALS[transport][name.startswith('write')]})" if other_side == "spins" else ""
            lines.append(f"{transport} one 4 KiB {name}, the other side {other_side}: {seconds * 1e6:.2f} us{goal}")
            benchmark.extra_info[name] = seconds * 1e6
        benchmark.pedantic(calls["read, prepared"], rounds=rounds)
        with capsys.disabled():
            print("\n" + "\n".join(lines))
    finally:
        link.close()


def test_submitting(benchmark: Any, capsys: pytest.CaptureFixture[str], link: Pair) -> None:
    """The Python call alone, a block of a list of 1024, merging included."""
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
    link.verify(n, length)
    cost = benchmark.stats.stats.median / n * 1e9
    benchmark.extra_info.update(transport=link.transport, ns_a_block=cost)
    with capsys.disabled():
        print(f"\n{link.transport} submit: {cost:.1f} ns a block (goal 60)")


def test_a_worker_alone(benchmark: Any, capsys: pytest.CaptureFixture[str], link: Pair) -> None:
    """1024 x 16 KiB when nobody waits in Transfer.wait, so that the near worker does it all; against one who does."""
    n, length = 1024, 16384
    here, there = places(n, length, 1), places(n, length, 2)
    ended = threading.Event()

    def move() -> None:
        ended.clear()
        link.peer.write(link.region, "kv", here, there, length).add_done_callback(lambda _: ended.set())
        ended.wait(30)

    waiting = median(mover(link, "write", n, length), 30)
    benchmark.pedantic(move, rounds=30, warmup_rounds=5)
    link.verify(n, length)
    ours = benchmark.stats.stats.median
    benchmark.extra_info.update(transport=link.transport, ratio=waiting / ours)
    with capsys.disabled():
        print(
            f"\n{link.transport} worker alone: {n * length / ours / 1e9:.2f} GB/s, {waiting / ours:.2f} of a waiter's"
        )


def test_idling(benchmark: Any, capsys: pytest.CaptureFixture[str], link: Pair) -> None:
    """Processor time of both processes while nothing happens, with a connection open."""
    mover(link, "write", 1, 4096)()
    time.sleep(0.05)  # past the spinning
    seconds = 2.0
    there, here = int(link.ask("cpu")), time.process_time_ns()
    benchmark.pedantic(lambda: time.sleep(seconds), rounds=1)
    here, there = time.process_time_ns() - here, int(link.ask("cpu")) - there
    percent = max(here, there) / seconds / 1e7
    benchmark.extra_info.update(transport=link.transport, percent=percent)
    with capsys.disabled():
        print(f"\n{link.transport} idle: {percent:.2f} % of a core (goal 1)")


def test_connecting(benchmark: Any, capsys: pytest.CaptureFixture[str], link: Pair) -> None:
    """Handshake to close."""
    with Endpoint("other") as other:
        benchmark.pedantic(lambda: link.near.connect(other.descriptor()).close(), rounds=30, warmup_rounds=2)
    with capsys.disabled():
        print(f"\n{link.transport} connect: {benchmark.stats.stats.median * 1e6:.0f} us")

"""What a fault does to a transfer: which error, and after how long. Each is injected for real, between two processes.

python bench/transfer/faults.py [--transports shm,cma,tcp] [--repeats 3]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nano.errors import NanoError
from nano.transfer import Endpoint, Event

sys.path.insert(0, str(Path(__file__).parents[1]))

import report

NBYTES = 64 << 20
BLOCK = 16384
OFFSETS = np.arange(NBYTES // BLOCK, dtype=np.int64) * BLOCK
Outcome = tuple[str, float]  # the error's name, seconds


def target(transport: str) -> None:
    """The other process's whole life; it ends with its standard input."""
    with Endpoint("target", transports=(transport,)) as endpoint:
        region = endpoint.allocate(NBYTES, "kv")
        endpoint.expect(1, region, [0], BLOCK)
        print(endpoint.descriptor().hex(), flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def started(transport: str) -> Iterator[tuple[subprocess.Popen[str], bytes]]:
    command = [sys.executable, __file__, "--child", transport]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, bytes.fromhex(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def caught(call: Callable[[], Any], began: float | None = None) -> Outcome:
    began = time.monotonic() if began is None else began
    try:
        call()
    except NanoError as error:
        return type(error).__name__, time.monotonic() - began
    return "none", time.monotonic() - began


def lost(endpoint: Endpoint, began: float) -> Outcome:
    while time.monotonic() - began < 30:
        select.select([endpoint], [], [], 1)
        events: list[Event] = endpoint.poll()
        if any(event.kind == "lost" for event in events):
            return "PeerLost", time.monotonic() - began
    return "none", 30.0


def busy(transport: str, fault: int, **options: Any) -> Outcome:
    """Signals the target in the middle of eight large writes; the last one's end."""
    with started(transport) as (process, descriptor), Endpoint("source", transports=(transport,), **options) as source:
        region = source.allocate(NBYTES, "kv")
        peer = source.connect(descriptor)
        limit = 0.5 if fault == signal.SIGSTOP and not options else 30.0
        transfers = [peer.write(region, "kv", OFFSETS, OFFSETS, BLOCK, timeout=30) for _ in range(4)]
        transfers[0].wait(30)
        began = time.monotonic()
        os.kill(process.pid, fault)
        if limit < 30:
            return caught(lambda: peer.write(region, "kv", OFFSETS, OFFSETS, BLOCK, timeout=limit).wait(), began)
        if options:
            return lost(source, began)
        return caught(transfers[-1].wait, began)


def refused(transport: str, make: Callable[[Any, Any], Any]) -> Outcome:
    with started(transport) as (_, descriptor), Endpoint("source", transports=(transport,)) as source:
        region = source.allocate(NBYTES, "kv")
        peer = source.connect(descriptor)
        peer.write(region, "kv", [0], [BLOCK], BLOCK).wait()
        return caught(lambda: make(peer, region).wait())


def wrong_secret(transport: str) -> Outcome:
    with (
        Endpoint("a", transports=(transport,), secret=b"one") as a,
        Endpoint("b", transports=(transport,), secret=b"another") as b,
    ):
        return caught(lambda: a.connect(b.descriptor()))


def nobody(transport: str) -> Outcome:
    with Endpoint("a", transports=(transport,)) as a:
        with Endpoint("gone", transports=(transport,)) as gone:
            descriptor = gone.descriptor()
        return caught(lambda: a.connect(descriptor))


def stranger(transport: str) -> Outcome:
    """A raw read of the region on the port, without a handshake."""
    with Endpoint("target", transports=(transport,)) as endpoint:
        endpoint.allocate(BLOCK, "kv")
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as s:
            s.sendall(b"GET kv" + bytes(122))
            with contextlib.suppress(ConnectionResetError):
                if s.recv(1):
                    return "answered", time.monotonic() - began
        return "dropped", time.monotonic() - began


def connects(transport: str, count: int) -> str:
    """Growth of open files and memory over that many connect, write, close; none is expected."""

    def state() -> tuple[int, float]:
        return len(os.listdir("/proc/self/fd")), report.rss_mb()

    with started(transport) as (_, descriptor), Endpoint("source", transports=(transport,)) as source:
        region = source.allocate(1 << 20, "kv")

        def cycle() -> None:
            with source.connect(descriptor) as peer:
                peer.write(region, "kv", [0], [BLOCK], BLOCK).wait()

        for _ in range(50):
            cycle()
        before = state()
        for _ in range(count):
            cycle()
        deadline = time.monotonic() + 5
        while (after := state())[0] > before[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        return f"{after[0] - before[0]:+d} files, {after[1] - before[1]:+.1f} MB"


FAULTS: dict[str, Callable[[str], Outcome]] = {
    "target killed in the middle": lambda t: busy(t, signal.SIGKILL),
    "target frozen, timeout of 0.5 s": lambda t: busy(t, signal.SIGSTOP),
    "target frozen, silence of 1 s": lambda t: busy(t, signal.SIGSTOP, heartbeat=0.2, silence=1.0),
    "past the region's end": lambda t: refused(t, lambda p, r: p.write(r, "kv", [0], [NBYTES], BLOCK)),
    "region of no such name": lambda t: refused(t, lambda p, r: p.write(r, "other", [0], [0], BLOCK)),
    "piece at another place": lambda t: refused(t, lambda p, r: p.write(r, "kv", [0], [BLOCK], BLOCK, 1)),
    "wrong secret": wrong_secret,
    "nobody listens": nobody,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transports", default="shm,cma,tcp", help="comma-separated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--connects", type=int, default=1000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        target(flags.child)
        return
    transports = flags.transports.split(",")
    rows: list[list[Any]] = []
    results: dict[str, Any] = {}
    for name, inject in FAULTS.items():
        cells = []
        for transport in transports:
            outcomes = [inject(transport) for _ in range(flags.repeats)]
            errors = sorted({error for error, _ in outcomes})
            seconds = report.median([seconds for _, seconds in outcomes])
            cells.append(f"{'/'.join(errors)}, {seconds * 1e3:.3g} ms")
            results[f"{name}/{transport}"] = {"errors": errors, "seconds": [seconds for _, seconds in outcomes]}
        rows.append([name, *cells])
    if "tcp" in transports:
        outcome, seconds = stranger("tcp")
        rows.append(["a stranger's raw read", *["-"] * (len(transports) - 1), f"{outcome}, {seconds * 1e3:.3g} ms"])
    rows.append([f"{flags.connects:,} connects", *(connects(transport, flags.connects) for transport in transports)])
    print(report.machine())
    report.table("fault: error, time from the fault (median)", ["fault", *transports], rows)
    report.write_json("transfer_faults", results)


if __name__ == "__main__":
    main()

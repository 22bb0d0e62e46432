"""Transfers by RDMA beside perftest's `ib_write_bw` and `ib_read_bw`, on one device and one machine.

    PYTHONPATH=. python bench/transfer/verbs.py [DEVICE]          # on a machine with an RDMA device
    tests/rdma/guest/softroce-run -- env PYTHONPATH=. python bench/transfer/verbs.py     # in an emulated one

Two processes; every byte is checked; medians. perftest runs with as many queue pairs, and moves as many bytes without a
pause as we do: four operations of 16 MiB, posted at once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from nano.transfer import Endpoint, Peer, Region, Request

NBYTES = 16 << 20
MIB = 1 << 20
OPERATIONS = 4
PORT = 18515

FAR = """
import sys
import numpy as np
from nano.transfer import Endpoint
with Endpoint("far", transports=("verbs",), devices=[sys.argv[1]]) as ep:
    region = ep.allocate(int(sys.argv[2]), "far")
    print(ep.descriptor().hex(), flush=True)
    for line in sys.stdin:
        if line.strip() == "sum":
            print(int(region.array.view(np.uint64).sum(dtype=np.uint64)), flush=True)
        else:
            first, count, length = map(int, line.split())
            for tag in range(first, first + count):
                if tag > count:
                    ep.forget(tag - count)
                ep.expect(tag, region, np.arange(region.nbytes // length, dtype=np.int64) * length, length)
            print("ready", flush=True)
"""


def perftest(program: str, device: str, size: int, iterations: int, *options: str) -> tuple[float, float]:
    """MiB/s and million messages a second, as perftest measures them."""
    command = [
        program,
        "-d",
        device,
        "-p",
        str(PORT),
        "-s",
        str(size),
        "-n",
        str(iterations),
        "-q",
        "2",
        "-F",
        *options,
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(50):
            time.sleep(0.2)
            client = subprocess.run([*command, "127.0.0.1"], capture_output=True, text=True, check=False, timeout=120)
            rows = re.findall(r"^\s*(\d+)\s+\d+\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s*$", client.stdout, re.MULTILINE)
            if rows and float(rows[-1][2]) > 0:
                return float(rows[-1][2]), float(rows[-1][3])
    finally:
        server.kill()
        server.wait()
    raise RuntimeError(f"{' '.join(command)} measured nothing:\n{client.stdout}{client.stderr}")


def median(run: Callable[[], object], rounds: int = 5) -> float:
    """Seconds; the first, unmeasured run warms up."""
    run()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def bandwidth(peer: Peer, region: Region, far: subprocess.Popen[str], device: str) -> None:
    def ask(line: str) -> str:
        assert far.stdin is not None
        assert far.stdout is not None
        far.stdin.write(line + "\n")
        far.stdin.flush()
        return far.stdout.readline().strip()

    def verify() -> None:
        here = int(region.array.view(np.uint64).sum(dtype=np.uint64))
        assert int(ask("sum")) == here, "the two sides differ"

    def all_of(requests: list[Request]) -> None:
        for transfer in [request.post() for request in requests]:
            transfer.wait()

    def row(name: str, length: int, seconds: float, limit: float) -> None:
        rate = OPERATIONS * NBYTES / MIB / seconds
        print(f"{f'{name}, {length >> 10} KiB':28}{rate:10.1f}{limit:10.1f}{rate / limit:8.2f}")

    print(f"{'MiB/s, 4 x 16 MiB at once':28}{'nano':>10}{'perftest':>10}{'ratio':>8}")
    tag = 1
    for length in (64 << 10, MIB):
        offsets = np.arange(NBYTES // length, dtype=np.int64) * length
        # Neighbours would be merged: each block has a place of its own on the other side.
        targets = np.random.default_rng(3).permutation(offsets)
        region.array[:] = np.random.default_rng(length).integers(0, 256, NBYTES, dtype=np.uint8)
        iterations = OPERATIONS * NBYTES // length
        limit = perftest("ib_write_bw", device, length, iterations)[0]
        writes = [peer.prepare_write(region, "far", offsets, targets, length)] * OPERATIONS
        seconds = median(partial(all_of, writes))
        verify()
        row("write", length, seconds, limit)
        times = []
        for _ in range(6):
            assert ask(f"{tag} {OPERATIONS} {length}") == "ready"
            pieces = targets // length
            writes = [
                peer.prepare_write(region, "far", offsets, targets, length, tag=tag + i, pieces=pieces)
                for i in range(OPERATIONS)
            ]
            began = time.perf_counter()
            all_of(writes)
            times.append(time.perf_counter() - began)
            tag += OPERATIONS
        seconds = float(np.median(times[1:]))
        verify()
        row("tagged write", length, seconds, limit)
        limit = perftest("ib_read_bw", device, length, iterations)[0]
        region.array[:] = 0
        reads = [peer.prepare_read(region, "far", offsets, targets, length)] * OPERATIONS
        seconds = median(partial(all_of, reads))
        verify()
        row("read", length, seconds, limit)


def doorbells(peer: Peer, region: Region, device: str) -> None:
    print(f"\n{'8-byte writes a doorbell':28}{'nano/s':>10}{'perftest':>10}{'ratio':>8}{'CPU us':>8}")
    for batch in (1, 16, 64):
        offsets = np.arange(batch, dtype=np.int64) * 16  # no neighbours
        rounds = max(20, 1000 // batch)
        options = ["-l", str(batch)] if batch > 1 else []
        limit = perftest("ib_write_bw", device, 8, 128 * 8, *options)[1] * 1e6
        request = peer.prepare_write(region, "far", offsets, offsets, 8)  # perftest prepares its work requests, too
        request.post().wait()
        cpu, began = time.process_time(), time.perf_counter()
        for _ in range(rounds):
            request.post()
        peer.flush().wait()
        posts = rounds * batch
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        rate = posts / seconds
        print(f"{batch:<28}{rate:10.0f}{limit:10.0f}{rate / limit:8.2f}{cpu / posts * 1e6:8.1f}")


def main() -> None:
    device = sys.argv[1] if len(sys.argv) > 1 else sorted(os.listdir("/sys/class/infiniband"))[0]
    print(f"device {device}, {os.cpu_count()} processors, kernel {os.uname().release}")
    far = subprocess.Popen(
        [sys.executable, "-c", FAR, device, str(NBYTES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert far.stdout is not None
        with Endpoint("near", transports=("verbs",), devices=[device]) as near:
            region = near.allocate(NBYTES, "near")
            peer = near.connect(bytes.fromhex(far.stdout.readline().strip()), timeout=20)
            assert peer.transport == "verbs", peer.transports
            bandwidth(peer, region, far, device)
            doorbells(peer, region, device)
    finally:
        far.communicate(timeout=30)


if __name__ == "__main__":
    main()

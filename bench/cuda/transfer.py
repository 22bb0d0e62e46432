"""Device memory between processes: nano.transfer beside one device-to-device copy, and beside one pinned copy.

    python bench/cuda/transfer.py [--repeats 20]

The other process holds the destination and verifies it. GB/s are payload (device memory moves twice as many bytes).
The GEMM is measured in the destination's process while transfers run without a pause into it, and in the source's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import report
import torch

from nano.transfer import Endpoint, Peer, Region

SIZE = 256 << 20
# (source, destination, blocks, bytes of each, ratio to reach; None: shown only)
CELLS = [
    ("device", "device", 64, 1 << 20, 0.85), ("device", "device", 1024, 64 << 10, None),
    ("device", "device", 1024, 16 << 10, None), ("device", "device", 1024, 2 << 10, None),
    ("device", "device", 1, 2 << 10, None), ("device", "host", 1024, 64 << 10, 0.90),
    ("host", "device", 1024, 64 << 10, 0.90), ("device", "host", 1, 64 << 20, None),
    ("host", "device", 1, 64 << 20, None),
]  # fmt: skip


def offsets(count: int, length: int, seed: int) -> np.ndarray:
    """[count] places of blocks in random order, every second one free."""
    return np.random.default_rng(seed).permutation(SIZE // length)[:count].astype(np.int64) * length


def view(region: Region) -> torch.Tensor:
    return torch.from_numpy(region.array) if region.device is None else torch.as_tensor(region, device="cuda")


def gemm_ms(repeats: int) -> float:
    """Median time of an 8192 x 8192 x 8192 product in bf16 on this process's default stream."""
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for i in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.mm(x, y)
        end.record()
        end.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def child(pipe: Connection) -> None:
    with Endpoint("child") as endpoint:
        regions = {
            "device": endpoint.allocate(SIZE, "device", device="cuda"),
            "host": endpoint.allocate(SIZE, "host"),
        }
        pipe.send(endpoint.descriptor())
        while (request := pipe.recv()) is not None:
            if request[0] == "gemm":
                pipe.send(gemm_ms(request[1]))
            else:
                _, name, places, length = request
                blocks = view(regions[name]).view(-1, length)
                pipe.send(blocks[torch.from_numpy(places // length)].cpu().numpy())


def copy_ms(call: Callable[[], object], repeats: int) -> float:
    times = []
    for i in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def transfer_ms(peer: Peer, region: Region, remote: str, src: Any, dst: Any, length: int, depth: int, n: int) -> float:
    """Median wall time of one of `depth` prepared writes under way together."""
    times = []
    request = peer.prepare_write(region, remote, src, dst, length)
    for i in range(n + 2):
        started = time.perf_counter()
        for transfer in [request.post() for _ in range(depth)]:
            transfer.wait(30)
        if i >= 2:
            times.append((time.perf_counter() - started) * 1e3 / depth)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    with Endpoint("parent") as endpoint:
        sources = {
            "device": endpoint.allocate(SIZE, "device", device="cuda"),
            "host": endpoint.allocate(SIZE, "host"),
        }
        for region in sources.values():
            view(region).copy_(torch.randint(0, 256, (SIZE,), dtype=torch.uint8))
        torch.cuda.synchronize()
        a, b = (torch.empty(64 << 20, dtype=torch.uint8, device="cuda") for _ in range(2))
        pinned = torch.empty(64 << 20, dtype=torch.uint8).pin_memory()
        limits = {
            ("device", "device"): copy_ms(lambda: a.copy_(b), args.repeats),
            ("host", "device"): copy_ms(lambda: a.copy_(pinned, non_blocking=True), args.repeats),
            ("device", "host"): copy_ms(lambda: pinned.copy_(a, non_blocking=True), args.repeats),
        }
        limit = {key: (64 << 20) / 1e6 / ms for key, ms in limits.items()}
        rows = []
        with endpoint.connect(pipe.recv(), timeout=30) as peer:
            for source, target, count, length, goal in CELLS:
                src, dst = offsets(count, length, 1), offsets(count, length, 2)
                region = sources[source]
                ms = [transfer_ms(peer, region, target, src, dst, length, depth, args.repeats) for depth in (1, 4)]
                pipe.send(("read", target, dst, length))
                expected = view(region).view(-1, length)[torch.from_numpy(src // length)].cpu().numpy()
                np.testing.assert_array_equal(pipe.recv(), expected)
                gb = [count * length / 1e6 / t for t in ms]
                most = limit[source, target]
                rows.append([
                    f"{source} to {target}", f"{count} x {length >> 10} KiB", f"{ms[0] * 1e3:.0f}", gb[0], gb[1], most,
                    f"{gb[0] / most:.2f}", "" if goal is None else f"{goal:.2f}", f"{gb[1] / most:.2f}",
                ])  # fmt: skip
            print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
            columns = ["memory", "blocks", "us", "GB/s", "4 at once", "one copy", "ratio", "goal", "ratio of 4"]
            report.table("two processes, one GPU", columns, rows)
            stop, moved = threading.Event(), [0]

            def flood() -> None:
                src, dst = offsets(64, 1 << 20, 1), offsets(64, 1 << 20, 2)
                while not stop.is_set():
                    peer.write(sources["device"], "device", src, dst, 1 << 20).wait(30)
                    moved[0] += 64 << 20

            gemm: list[list[Any]] = []
            alone_ms = 0.0
            for where, alone in (("destination", True), ("destination", False), ("source", True), ("source", False)):
                stop.clear()
                moved[0] = 0
                thread = threading.Thread(target=flood)
                if not alone:
                    thread.start()
                    time.sleep(0.05)
                moved[0] = 0
                started = time.perf_counter()
                if where == "destination":
                    pipe.send(("gemm", 100))
                    ms_gemm = pipe.recv()
                else:
                    ms_gemm = gemm_ms(100)
                rate = moved[0] / 1e9 / (time.perf_counter() - started)
                stop.set()
                if not alone:
                    thread.join()
                alone_ms = ms_gemm if alone else alone_ms
                name = "alone" if alone else "with transfers"
                gemm.append([where, name, f"{ms_gemm:.3f}", f"{ms_gemm / alone_ms:.2f}", rate])
            columns = ["process", "", "ms", "of alone", "GB/s"]
            report.table("an 8192 cubed bf16 product beside transfers", columns, gemm)
        pipe.send(None)
        process.join(10)


if __name__ == "__main__":
    main()

"""Device memory between processes: nano.transfer beside the driver's own copies of as many bytes.

    python bench/cuda/transfer.py [--repeats 20]

The other process holds the destination and verifies it. All times are wall clock, from the call to the end of its wait,
on both sides of a ratio: one transfer at a time beside one copy and a wait for its stream (latency), and eight posted
together beside eight copies queued together (rate). GB/s are payload; memory inside one GPU moves twice as many bytes.
Where there is a second GPU, the other process holds memory of that one as well. The product runs in the destination's
process while transfers go on without a pause, and in the source's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import threading
import time
from collections import deque
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
DEPTH = 8
MIB = 1 << 20
# (source, destination, blocks, bytes of each, ratio to reach; None: shown only)
CELLS = [
    ("gpu", "gpu", 64, MIB, 0.85), ("gpu", "gpu", 1024, 64 << 10, None), ("gpu", "gpu", 1024, 16 << 10, None),
    ("gpu", "gpu", 1024, 2 << 10, None), ("gpu", "gpu", 1, 2 << 10, None),
    ("gpu", "host", 1, 64 * MIB, None), ("gpu", "host", 1024, 64 << 10, 0.90), ("gpu", "host", 1024, 16 << 10, None),
    ("host", "gpu", 1, 64 * MIB, None), ("host", "gpu", 1024, 64 << 10, 0.90), ("host", "gpu", 1024, 16 << 10, None),
    ("gpu", "gpu 1", 64, MIB, None), ("gpu", "gpu 1", 1024, 16 << 10, None),
]  # fmt: skip


def offsets(count: int, length: int, seed: int) -> np.ndarray:
    """[count] places of blocks in random order, others between them."""
    return np.random.default_rng(seed).permutation(SIZE // length)[:count].astype(np.int64) * length


def view(region: Region) -> torch.Tensor:
    on_host = region.device is None
    return torch.from_numpy(region.array) if on_host else torch.as_tensor(region, device=f"cuda:{region.device}")


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
        regions = {"gpu": endpoint.allocate(SIZE, "gpu", device="cuda"), "host": endpoint.allocate(SIZE, "host")}
        if torch.cuda.device_count() > 1:
            regions["gpu 1"] = endpoint.allocate(SIZE, "gpu 1", device="cuda:1")
        pipe.send(endpoint.descriptor())
        while (request := pipe.recv()) is not None:
            if request[0] == "gemm":
                pipe.send(gemm_ms(request[1]))
            else:
                _, name, places, length = request
                blocks = view(regions[name]).view(-1, length)
                pipe.send(blocks[torch.from_numpy(places // length)].cpu().numpy())


def wall_ms(post: Callable[[], object], wait: Callable[[list[Any]], object], depth: int, repeats: int) -> float:
    """Median wall time of one of `depth` calls that are posted together and then waited for."""
    times = []
    for i in range(repeats + 3):
        started = time.perf_counter()
        wait([post() for _ in range(depth)])
        if i >= 3:
            times.append((time.perf_counter() - started) * 1e3 / depth)
    return statistics.median(times)


def copy_ms(source: str, target: str, nbytes: int, depth: int, repeats: int) -> float:
    """The driver's copies of one piece of as many bytes, on one stream."""
    kinds = {"gpu": "cuda:0", "gpu 1": "cuda:1", "host": "cpu"}
    a, b = (
        torch.empty(nbytes, dtype=torch.uint8, device=kinds[kind], pin_memory=kind == "host")
        for kind in (target, source)
    )
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        return wall_ms(lambda: a.copy_(b, non_blocking=True), lambda _: stream.synchronize(), depth, repeats)


def transfer_ms(request: Any, depth: int, repeats: int) -> float:
    def wait(transfers: list[Any]) -> None:
        for transfer in transfers:
            transfer.wait(30)

    return wall_ms(request.post, wait, depth, repeats)


def cells(peer: Peer, sources: dict[str, Region], pipe: Connection, repeats: int) -> list[list[Any]]:
    rows = []
    for source, target, count, length, goal in CELLS:
        if target == "gpu 1" and torch.cuda.device_count() < 2:
            continue
        src, dst = offsets(count, length, 1), offsets(count, length, 2)
        request = peer.prepare_write(sources[source], target, src, dst, length)
        ours = [transfer_ms(request, depth, repeats) for depth in (1, DEPTH)]
        pipe.send(("read", target, dst, length))
        expected = view(sources[source]).view(-1, length)[torch.from_numpy(src // length)].cpu().numpy()
        np.testing.assert_array_equal(pipe.recv(), expected)
        copies = [copy_ms(source, target, count * length, depth, repeats) for depth in (1, DEPTH)]
        size = f"{count} x {length >> 20} MiB" if length >= MIB else f"{count} x {length >> 10} KiB"
        rows.append([
            f"{source} to {target}", size, f"{ours[0] * 1e3:.1f}", f"{copies[0] * 1e3:.1f}",
            f"{copies[0] / ours[0]:.2f}", count * length / 1e6 / ours[1], count * length / 1e6 / copies[1],
            f"{copies[1] / ours[1]:.2f}", "" if goal is None else f"{goal:.2f}",
        ])  # fmt: skip
    return rows


class Flood:
    """Four prepared writes under way at any time, in a thread of its own."""

    def __init__(self, peer: Peer, region: Region, remote: str, count: int, length: int) -> None:
        src, dst = offsets(count, length, 1), offsets(count, length, 2)
        self._request = peer.prepare_write(region, remote, src, dst, length)
        self._bytes = count * length
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.moved = 0

    def __enter__(self) -> Flood:
        self._thread.start()
        time.sleep(0.05)
        self.moved = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        under_way = deque(self._request.post() for _ in range(4))
        while under_way:
            under_way.popleft().wait(30)
            self.moved += self._bytes
            if not self._stop.is_set():
                under_way.append(self._request.post())


def products(peer: Peer, sources: dict[str, Region], pipe: Connection) -> list[list[Any]]:
    def product(where: str) -> float:
        if where == "source":
            return gemm_ms(100)
        pipe.send(("gemm", 100))
        return float(pipe.recv())

    rows: list[list[Any]] = []
    for where in ("destination", "source"):
        alone = product(where)
        rows.append([where, "nothing", f"{alone:.3f}", "1.00", ""])
        for source, target, count, length, how in (
            ("gpu", "gpu", 64, MIB, "kernel"),
            ("gpu", "host", 64, MIB, "engines"),
            ("host", "gpu", 64, MIB, "engines"),
            ("gpu", "host", 1024, 16 << 10, "kernel"),
            ("host", "gpu", 1024, 16 << 10, "kernel"),
        ):
            what = f"{source} to {target}, {count} x {length >> 10} KiB: {how}"
            with Flood(peer, sources[source], target, count, length) as flood:
                started = time.perf_counter()
                ms = product(where)
                rate = flood.moved / 1e9 / (time.perf_counter() - started)
            rows.append([where, what, f"{ms:.3f}", f"{ms / alone:.2f}", f"{rate:.0f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    with Endpoint("parent") as endpoint:
        sources = {"gpu": endpoint.allocate(SIZE, "gpu", device="cuda"), "host": endpoint.allocate(SIZE, "host")}
        for region in sources.values():
            view(region).copy_(torch.randint(0, 256, (SIZE,), dtype=torch.uint8))
        torch.cuda.synchronize()
        with endpoint.connect(pipe.recv(), timeout=30) as peer:
            print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, medians of {args.repeats}")
            columns = [
                "memory",
                "blocks",
                "us",
                "copy us",
                "ratio",
                f"{DEPTH}: GB/s",
                f"{DEPTH} copies",
                "ratio",
                "goal",
            ]
            report.table("two processes of one host", columns, cells(peer, sources, pipe, args.repeats))
            columns = ["process", "under way meanwhile", "ms", "of alone", "GB/s"]
            report.table("an 8192 cubed bf16 product", columns, products(peer, sources, pipe))
        pipe.send(None)
        process.join(10)


if __name__ == "__main__":
    main()

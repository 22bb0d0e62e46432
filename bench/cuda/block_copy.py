"""Gather and scatter of KV blocks beside one device-to-device copy of as many bytes, and torch's index_select.

    python bench/cuda/block_copy.py [--mib 256] [--repeats 30]

Each answer is checked, then timed. GB/s are payload; the memory moves twice as many bytes (read and written). The
payload is larger than the L2 cache, so that the copy is the limit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch

from nano import _cuda

LENGTHS = (2 << 10, 16 << 10, 64 << 10, 1 << 20)


def device_ms(call: Callable[[], object], repeats: int) -> float:
    """Median device time of one call, after three unmeasured ones."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def measure(length: int, payload: int, repeats: int) -> list[Any]:
    count = payload // length
    pool = torch.randint(0, 256, (2 * count, length), dtype=torch.uint8, device="cuda")
    rows = torch.randperm(2 * count, device="cuda")[:count]
    offsets = rows * length
    packed = torch.zeros(count, length, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(packed)
    stream = torch.cuda.current_stream().cuda_stream

    def gather() -> None:
        _cuda.gather(pool.data_ptr(), packed.data_ptr(), offsets.data_ptr(), count, length, stream)

    def scatter() -> None:
        _cuda.scatter(packed.data_ptr(), pool.data_ptr(), offsets.data_ptr(), count, length, stream)

    def select() -> None:  # rows of 16-byte elements, the widest that torch has
        torch.index_select(pool.view(torch.complex128), 0, rows, out=other.view(torch.complex128))

    gather()
    assert torch.equal(packed, pool[rows])
    pool[rows] = 0
    scatter()
    assert torch.equal(packed, pool[rows])
    copy = device_ms(lambda: other.copy_(packed), repeats)
    times = [device_ms(call, repeats) for call in (gather, scatter, select)]
    gb = count * length / 1e9
    gathered, scattered, selected = times
    return [
        f"{length >> 10} KiB", gb / copy * 1e3, gb / gathered * 1e3, gb / scattered * 1e3, gb / selected * 1e3,
        f"{copy / gathered:.2f}", f"{copy / scattered:.2f}", f"{copy / selected:.2f}",
    ]  # fmt: skip


def host_us(count: int = 16, length: int = 64 << 10, calls: int = 2000) -> float:
    """Host time of one call that only enqueues, microseconds."""
    pool = torch.zeros(2 * count * length, dtype=torch.uint8, device="cuda")
    offsets = torch.arange(count, device="cuda") * 2 * length
    packed = torch.zeros(count * length, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(calls // 5):
            _cuda.gather(pool.data_ptr(), packed.data_ptr(), offsets.data_ptr(), count, length, stream)
        best = min(best, (time.perf_counter() - started) / (calls // 5))
    return best * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256, help="payload of a call")
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    rows = [measure(length, args.mib << 20, args.repeats) for length in LENGTHS]
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {args.mib} MiB a call, medians of {args.repeats}"
    )
    columns = ["block", "copy GB/s", "gather", "scatter", "index_select", "gather/copy", "scatter/copy", "select/copy"]
    report.table(
        "payload GB/s, and ratio to the device-to-device copy (goal 0.75 at 2 KiB, 0.90 from 16 KiB)", columns, rows
    )
    print(f"host time of a gather call: {host_us():.1f} us")


if __name__ == "__main__":
    main()

"""Weights to the device: GB/s of a checkpoint from the page cache, and of made-up weights.

    python bench/cuda/loading.py [--gib 4] [--directory /dev/shm]

The checkpoint is written first, so it is in the page cache. Beside the loader: its own reads with nothing copied (what
the page cache gives to as many threads), one pinned copy to the device (what the bus gives), and safetensors' own load.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch
from safetensors.torch import load_file, save_file

from nano.engine import loader

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROWS, COLUMNS = 4096, 4096


def best_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def read_all(files: list[Path]) -> None:
    """Every byte into buffers that are used again, by as many threads as the loader has."""

    def read(part: int) -> None:
        buffer = bytearray(loader.SPAN_BYTES)
        for file in files:
            descriptor = os.open(file, os.O_RDONLY)
            size = os.path.getsize(file)
            for at in range(part * len(buffer), size, loader.READERS * len(buffer)):
                os.preadv(descriptor, [buffer], at)
            os.close(descriptor)

    with ThreadPoolExecutor(loader.READERS) as pool:
        list(pool.map(read, range(loader.READERS)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--directory", type=Path, default=None)
    args = parser.parse_args()
    count = max(int(args.gib * 2**30) // (ROWS * COLUMNS * 2), 4)
    memory = torch.zeros(count, ROWS, COLUMNS, dtype=torch.bfloat16, device=DEVICE)
    targets = {f"{i}.weight": memory[i] for i in range(count)}
    rows = []
    gb = count * ROWS * COLUMNS * 2 / 1e9
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        weight = torch.randn(ROWS, COLUMNS).bfloat16()
        files = []
        for shard in range(4):
            names = [f"{i}.weight" for i in range(shard * count // 4, (shard + 1) * count // 4)]
            files.append(Path(folder) / f"model-{shard}.safetensors")
            save_file({name: weight + int(name.split(".")[0]) for name in names}, files[-1])
        reads = best_seconds(lambda: read_all(files))
        loads = best_seconds(lambda: loader.load(Path(folder), targets))
        for i in (0, count // 2, count - 1):
            assert torch.equal(memory[i].cpu(), weight + i)
        one = best_seconds(lambda: [load_file(file, device=str(DEVICE)) for file in files], 2)
    limit = gb / reads
    rows.append(["reads alone, nothing copied", limit, "1.00"])
    if DEVICE.type == "cuda":
        pinned = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
        other = torch.empty(1 << 28, dtype=torch.uint8, device=DEVICE)
        bus = (1 << 28) / 1e9 / best_seconds(lambda: other.copy_(pinned, non_blocking=True), 9)
        rows.append(["one pinned copy to the device", bus, f"{bus / limit:.2f}"])
        limit = min(limit, bus)
    rows.append(["loader.load", gb / loads, f"{gb / loads / limit:.2f}"])
    rows.append(["safetensors load_file", gb / one, f"{gb / one / limit:.2f}"])
    made = best_seconds(lambda: loader.dummy(targets))
    rows.append(["loader.dummy, bf16", gb / made, ""])
    fp8 = memory.view(torch.float8_e4m3fn)
    experts = {f"{i}.weight": view for i, view in enumerate(fp8.view(-1, 1024, 2048))}
    made = best_seconds(lambda: loader.dummy(experts))
    rows.append([f"loader.dummy, fp8, {len(experts)} tensors", gb / made, ""])
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    readers = f"{loader.READERS} readers of {loader.SPAN_BYTES >> 20} MiB"
    print(f"{where}, torch {torch.__version__}, {gb:.1f} GB in 4 files, {readers}")
    report.table("GB/s, and ratio to the limit", ["", "GB/s", "ratio"], rows)


if __name__ == "__main__":
    main()

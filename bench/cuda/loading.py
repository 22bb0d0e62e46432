"""Weights to the device: GB/s of a checkpoint from the page cache and from disk, and of made-up weights.

    python bench/cuda/loading.py [--gib 6] [--directory /dev/shm] [--try 8x2,16x8]

The checkpoint, random bits in bf16, is written first, so it is in the page cache. Beside the loader, with as many
threads: its reads into pinned memory with nothing copied (what the page cache gives), and copies of as many pinned
buffers to the device (what the bus gives); the smaller is the limit. Each load is compared bit for bit. For the disk
the kernel is asked to forget the pages first; where it does not, that line shows the page cache's figure again.
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
SHARDS = 4
POISON = 0x7FC0


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def best_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    return min(seconds(call) for _ in range(repeats))


class Checkpoint:
    """`count` tensors of random bits in SHARDS files, and targets on the device."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.gb = count * ROWS * COLUMNS * 2 / 1e9
        self._bits = torch.randint(-(1 << 15), 1 << 15, (ROWS, COLUMNS), dtype=torch.int16)
        self.files = []
        for shard in range(SHARDS):
            numbers = range(shard * count // SHARDS, (shard + 1) * count // SHARDS)
            self.files.append(folder / f"model-{shard}.safetensors")
            save_file({f"{i}.weight": (self._bits ^ i).view(torch.bfloat16) for i in numbers}, self.files[-1])
        self.memory = torch.zeros(count, ROWS, COLUMNS, dtype=torch.bfloat16, device=DEVICE)
        self.targets = {f"{i}.weight": self.memory[i] for i in range(count)}

    def load(self) -> float:
        """Seconds of one load, which is then compared."""
        whole = self.memory.view(torch.int16)
        whole.fill_(POISON)
        seconds(lambda: None)
        took = seconds(lambda: loader.load(self.folder, self.targets))
        bits = self._bits.to(DEVICE)
        for i in range(self.count):
            assert torch.equal(whole[i], bits ^ i), f"{i}.weight differs from the file"
        return took

    def forget_pages(self) -> None:
        for file in self.files:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


class Limits:
    """The loader's threads and pinned buffers, with only one half of its work."""

    def __init__(self) -> None:
        self._readers, pinned = loader.READERS, DEVICE.type == "cuda"
        self._buffers = [
            torch.empty(loader.SPAN_BYTES, dtype=torch.uint8, pin_memory=pinned) for _ in range(self._readers)
        ]

    def read(self, files: list[Path]) -> None:
        sizes = {file: os.path.getsize(file) for file in files}
        spans = [(file, at) for file in files for at in range(0, sizes[file], loader.SPAN_BYTES)]
        descriptors = {file: os.open(file, os.O_RDONLY) for file in files}

        def read(part: int) -> None:
            memory = self._buffers[part].numpy().data
            for file, at in spans[part :: self._readers]:
                wanted = min(sizes[file] - at, loader.SPAN_BYTES)
                done = 0
                while done < wanted:
                    done += os.preadv(descriptors[file], [memory[done:wanted]], at + done)

        with ThreadPoolExecutor(self._readers) as pool:
            list(pool.map(read, range(self._readers)))
        for descriptor in descriptors.values():
            os.close(descriptor)

    def copy_rate(self) -> float:
        """GB/s of a copy of each buffer on a stream of its own."""
        targets = [torch.empty_like(buffer, device=DEVICE) for buffer in self._buffers]
        streams = [torch.cuda.Stream() for _ in targets]

        def copy() -> None:
            for _ in range(8):
                for target, buffer, stream in zip(targets, self._buffers, streams, strict=True):
                    with torch.cuda.stream(stream):
                        target.copy_(buffer, non_blocking=True)

        return 8 * self._readers * loader.SPAN_BYTES / 1e9 / best_seconds(copy)


def dummies(checkpoint: Checkpoint) -> list[list[object]]:
    """GB/s of made-up weights in the same memory."""
    made = best_seconds(lambda: loader.dummy(checkpoint.targets))
    rows: list[list[object]] = [["loader.dummy, bf16", checkpoint.gb / made]]
    fp8 = checkpoint.memory.view(torch.float8_e4m3fn)
    experts = {f"{i}.weight": view for i, view in enumerate(fp8.view(-1, 1024, 2048))}
    made = best_seconds(lambda: loader.dummy(experts))
    rows.append([f"loader.dummy, fp8, {len(experts)} tensors", checkpoint.gb / made])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=6.0)
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument(
        "--try", dest="others", default="4x8,16x8,8x2,16x2", help="threads x MiB a span, beside its own"
    )
    args = parser.parse_args()
    count = max(int(args.gib * 2**30) // (ROWS * COLUMNS * 2), SHARDS)
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    own = loader.READERS, loader.SPAN_BYTES >> 20
    others = [tuple(map(int, one.split("x"))) for one in args.others.split(",") if one]
    rows = []
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        written = time.perf_counter()
        checkpoint = Checkpoint(Path(folder), count)
        gb = checkpoint.gb
        written = time.perf_counter() - written
        print(f"{where}, torch {torch.__version__}, {len(os.sched_getaffinity(0))} CPUs")
        print(f"{gb:.1f} GB in {SHARDS} files, written in {written:.1f} s")
        first = checkpoint.load()
        print(f"first load of the process: {first:.2f} s, {gb / first:.1f} GB/s", flush=True)
        for readers, mib in [own, *others]:
            loader.READERS, loader.SPAN_BYTES = readers, mib << 20
            limits = Limits()
            reads = gb / best_seconds(lambda limits=limits: limits.read(checkpoint.files))  # type: ignore[misc]
            bus = limits.copy_rate() if DEVICE.type == "cuda" else float("inf")
            loads = gb / min(checkpoint.load() for _ in range(3))
            name = f"page cache, {readers} threads, {mib} MiB" + ", as it is" * ((readers, mib) == own)
            rows.append([name, reads, bus, loads, loads / min(reads, bus)])
        loader.READERS, loader.SPAN_BYTES = own[0], own[1] << 20
        limits = Limits()
        checkpoint.forget_pages()
        reads = gb / seconds(lambda: limits.read(checkpoint.files))
        checkpoint.forget_pages()
        loads = gb / checkpoint.load()
        rows.append(["disk, as it is", reads, "", loads, loads / reads])
        columns = ["GB/s", "reads alone", "pinned copies alone", "loader.load", "of the smaller"]
        report.table("a checkpoint", columns, rows)
        one = gb / best_seconds(lambda: [load_file(file, device=str(DEVICE)) for file in checkpoint.files], 2)
    report.table("beside it", ["", "GB/s"], [["safetensors load_file", one], *dummies(checkpoint)])


if __name__ == "__main__":
    main()

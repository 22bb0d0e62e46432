"""Weights to the device: GB/s of a checkpoint from the page cache and from disk, and of made-up weights.

    python bench/cuda/loading.py [--gib 6] [--directory /dev/shm] [--try 8x2x3,16x8x2]

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
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch
from safetensors.torch import load_file, save_file

from nano._core.load import Loading
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


class Setting(NamedTuple):
    threads: int
    mib: int  # a piece
    slots: int

    @classmethod
    def parse(cls, text: str) -> Setting:
        return cls(*map(int, text.split("x")))

    @classmethod
    def default(cls) -> Setting:
        return cls(loader.READERS, loader.PIECE_BYTES >> 20, loader.SLOTS)

    def use(self) -> None:
        loader.READERS, loader.PIECE_BYTES, loader.SLOTS = self.threads, self.mib << 20, self.slots

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.slots} pieces of {self.mib} MiB each"


class Limits:
    """The loader's threads and as much pinned memory, with only one half of its work."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._bytes = setting.mib << 20
        self._slots = [
            torch.empty(self._bytes, dtype=torch.uint8, pin_memory=DEVICE.type == "cuda")
            for _ in range(setting.threads * setting.slots)
        ]

    def read(self, files: list[Path]) -> None:
        runs: list[tuple[int, int, int, int]] = []
        for index, file in enumerate(files):
            size = file.stat().st_size
            for at in range(0, size, self._bytes):
                to = self._slots[len(runs) % len(self._slots)].data_ptr()
                runs.append((index, at, min(self._bytes, size - at), to))
        loading = Loading(
            list(map(str, files)), runs, device=None, threads=self._setting.threads, piece_bytes=self._bytes, slots=1
        )
        while not loading.wait(1.0):
            pass

    def copy_rate(self) -> float:
        """GB/s of copies of the slots, on a stream a thread."""
        targets = [torch.empty_like(slot, device=DEVICE) for slot in self._slots]
        streams = [torch.cuda.Stream() for _ in range(self._setting.threads)]
        rounds = -(-(1 << 30) // (len(targets) * self._bytes))

        def copy() -> None:
            for _ in range(rounds):
                for i, (target, slot) in enumerate(zip(targets, self._slots, strict=True)):
                    with torch.cuda.stream(streams[i % len(streams)]):
                        target.copy_(slot, non_blocking=True)

        return rounds * len(targets) * self._bytes / 1e9 / best_seconds(copy)


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
        "--try",
        dest="others",
        default="4x2x3,16x2x3,8x8x2",
        help="threads x MiB a piece x pieces a thread, beside its own",
    )
    args = parser.parse_args()
    count = max(int(args.gib * 2**30) // (ROWS * COLUMNS * 2), SHARDS)
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    own = Setting.default()
    others = [Setting.parse(one) for one in args.others.split(",") if one]
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
        for setting in [own, *others]:
            setting.use()
            limits = Limits(setting)
            reads = gb / best_seconds(lambda limits=limits: limits.read(checkpoint.files))  # type: ignore[misc]
            bus = limits.copy_rate() if DEVICE.type == "cuda" else float("inf")
            loads = gb / min(checkpoint.load() for _ in range(3))
            name = f"page cache, {setting}" + ", as it is" * (setting == own)
            rows.append([name, loads, reads, bus, loads / min(reads, bus)])
        own.use()
        limits = Limits(own)
        checkpoint.forget_pages()
        reads = gb / seconds(lambda: limits.read(checkpoint.files))
        checkpoint.forget_pages()
        loads = gb / checkpoint.load()
        rows.append(["disk, as it is", loads, reads, "", loads / reads])
        columns = ["", "loader.load, GB/s", "reads alone", "pinned copies alone", "of the smaller"]
        report.table("a checkpoint", columns, rows)
        one = gb / best_seconds(lambda: [load_file(file, device=str(DEVICE)) for file in checkpoint.files], 2)
    report.table("beside it", ["", "GB/s"], [["safetensors load_file", one], *dummies(checkpoint)])


if __name__ == "__main__":
    main()

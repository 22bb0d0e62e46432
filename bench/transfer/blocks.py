"""The blocks that are moved, and proof that they arrived."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable

import numpy as np

NBYTES = 130 << 20
CORES = sorted(os.sched_getaffinity(0))


def places(n: int, length: int, seed: int) -> np.ndarray:
    """[n] byte offsets of distinct blocks at stride 2 * length, in random order."""
    return np.random.default_rng(seed).permutation(n).astype(np.int64) * (2 * length if n > 1 else 0)


def checksum(data: np.ndarray, offsets: np.ndarray, length: int) -> int:
    value = 0
    for offset in offsets:
        value = zlib.crc32(data[offset : offset + length], value)
    return value


def take_core(index: int) -> None:
    """Each process has a core of its own, so that a busy machine's scheduler does not put both on one."""
    os.sched_setaffinity(0, {CORES[index % len(CORES)]})


def median(fn: Callable[[], object], rounds: int) -> float:
    """Seconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        fn()
        times.append(time.perf_counter() - began)
    return float(np.median(times))

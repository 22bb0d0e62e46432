"""Arrays for tests of CPU kernels: bf16 as uint16, addresses, outputs and caches filled with NaN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nano._core import cpu

Array = npt.NDArray[np.generic]
DTYPES = {"fp32": cpu.F32, "bf16": cpu.BF16}


def to_bf16(x: Array) -> Array:
    """Rounded to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def cast(x: Array, dtype: int) -> Array:
    return np.ascontiguousarray(x, np.float32) if dtype == cpu.F32 else to_bf16(x)


def float64(x: Array) -> Array:
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def poisoned(shape: tuple[int, ...], dtype: int) -> Array:
    return cast(np.full(shape, np.nan), dtype)


def at(x: Array | None) -> int:
    return 0 if x is None else int(x.ctypes.data)

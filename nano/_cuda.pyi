"""CUDA kernels on raw device pointers. Absent where nano was built without CUDA; imports without a driver.

The calls enqueue on `stream` (a cudaStream_t as an integer; 0 is the default stream) of the destination's device and
return: memory must live until the stream has passed. Offsets and lengths are in bytes; offsets are int64 [count] in
device memory and cannot be checked, so each block must lie inside the caller's memory. Blocks whose addresses and
length are multiples of 16 are copied fastest. Raises InvalidInput for negative sizes and for addresses that no device
reaches, SystemFault when CUDA refuses.
"""

from nano._core.kv import PoolLayout

def device_count() -> int:
    """CUDA devices that the driver shows; 0 without a driver. Raises SystemFault when the driver is broken."""

def gather(source: int, destination: int, offsets: int, count: int, length: int, stream: int = 0) -> None:
    """destination[i * length : (i + 1) * length] = source[offsets[i] : offsets[i] + length] for each i < count."""

def scatter(source: int, destination: int, offsets: int, count: int, length: int, stream: int = 0) -> None:
    """destination[offsets[i] : offsets[i] + length] = source[i * length : (i + 1) * length] for each i < count.

    Blocks of the destination must not overlap.
    """

def relayout(
    source: int,
    source_layout: PoolLayout,
    source_blocks: int,
    destination: int,
    destination_layout: PoolLayout,
    destination_blocks: int,
    tokens: int,
    *,
    source_token: int = 0,
    destination_token: int = 0,
    layers: tuple[int, int] | None = None,
    stream: int = 0,
) -> int:
    """nano._core.kv.relayout on device memory; returns the bytes that it copies.

    The block tables are int32 in device memory and cannot be checked: each must name enough blocks of its pool.
    """

"""Device time of calls replayed as one CUDA graph, as the engine runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

L2_BYTES = 64 << 20  # more than any Hopper's: operands that rotate over several times this come from memory


def copies(size: int) -> int:
    """How many operands of `size` bytes a graph goes through so that none is still in the L2 cache."""
    return max(2, min(32, -(-4 * L2_BYTES // size)))


def graph_us(calls: Sequence[Callable[[], object]], repeats: int = 5) -> float:
    """Microseconds of one call: the best of `repeats` replays of all of them, divided by their number."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    best = float("inf")
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return best * 1e3 / len(calls)


def copy_tbs(mib: int = 1024, repeats: int = 8) -> float:
    """TB/s of a device-to-device copy, bytes read and written: the limit of what reads weights.

    Not in a graph: its copy nodes reach two thirds of that.
    """
    source = torch.empty(mib << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return 2 * source.numel() / best / 1e9


def matmul_tfs(size: int = 8192) -> float:
    """TF/s of cuBLAS's bf16 product of square matrices: the limit of what multiplies many rows."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / graph_us([lambda: torch.mm(a, b, out=out)] * 4) / 1e6

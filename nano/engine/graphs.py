"""CUDA graphs of a step, one a shape: captured when a shape comes for the second time, all in one memory pool."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch


class Graphs:
    """The first run of a shape is eager, which compiles its kernels and allocates their scratch; the second captures.

    What runs must read and write fixed addresses only. Capture and replay happen on the current stream.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}
        self._pool = torch.cuda.graph_pool_handle() if enabled else None

    def __len__(self) -> int:
        return sum(graph is not None for graph in self._graphs.values())

    def run(self, shape: Hashable, work: Callable[[], None]) -> None:
        if not self._enabled:
            work()
            return
        graph = self._graphs.get(shape)
        if graph is None:
            if shape not in self._graphs:
                self._graphs[shape] = None
                work()
                return
            graph = self._graphs[shape] = self._capture(work)
        graph.replay()

    def _capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process (transfers) go on calling CUDA meanwhile.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
        return graph

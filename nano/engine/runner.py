"""How a batch becomes sampled tokens: at once on a CPU, one step behind on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nano.engine.models.qwen3 import Qwen3
from nano.engine.ops.cpu import CpuOps, sample_rows
from nano.engine.sampled import Sampled

if TYPE_CHECKING:
    from nano._core.sched import Batch

OnLayer = Callable[[int], None]


class Runner(Protocol):
    depth: int  # steps that may be under way before the oldest one's tokens are asked for

    @property
    def stream(self) -> int | None:
        """The CUDA stream that steps run on; None: the pool holds what `launch` computes when it returns."""

    def launch(self, batch: Batch, on_layer: OnLayer | None) -> Callable[[], Sampled]:
        """Starts a step; the result waits for what it samples, [num_samples], which stays valid for `depth` steps."""

    def close(self) -> None:
        """Waits for the steps under way, so that their memory can go."""


class CpuRunner:
    depth = 1
    stream = None

    def __init__(self, model: Qwen3, ops: CpuOps) -> None:
        self._model = model
        self._ops = ops

    def close(self) -> None:
        """No step outlives its launch."""

    def launch(self, batch: Batch, on_layer: OnLayer | None) -> Callable[[], Sampled]:
        self._ops.begin(batch)
        self._model.forward(batch.num_tokens, on_layer)
        if batch.num_samples == 0:
            return lambda: Sampled(np.empty(0, np.int32))
        logits = self._model.head(batch.num_samples)
        sampled = sample_rows(self._ops.context, logits.ptr, batch, logits.columns)
        return lambda: sampled

"""How a batch becomes sampled tokens: at once on a CPU, one step behind on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from nano.engine.models.qwen3 import Qwen3
from nano.engine.ops.cpu import CpuOps, sample_rows

if TYPE_CHECKING:
    from nano._core.sched import Batch

Tokens = npt.NDArray[np.int32]
OnLayer = Callable[[int], None]


class Runner(Protocol):
    depth: int  # steps that may be under way before the oldest one's tokens are asked for

    def launch(self, batch: Batch, on_layer: OnLayer | None) -> Callable[[], Tokens]:
        """Starts a step; the result waits for its sampled tokens, [num_samples], which stay valid for `depth` steps."""


class CpuRunner:
    depth = 1

    def __init__(self, model: Qwen3, ops: CpuOps) -> None:
        self._model = model
        self._ops = ops

    def launch(self, batch: Batch, on_layer: OnLayer | None) -> Callable[[], Tokens]:
        self._ops.begin(batch)
        self._model.forward(batch.num_tokens, on_layer)
        if batch.num_samples == 0:
            return lambda: np.empty(0, np.int32)
        logits = self._model.head(batch.num_samples)
        tokens = sample_rows(self._ops.context, logits.ptr, batch, logits.columns, batch.num_samples)
        return lambda: tokens

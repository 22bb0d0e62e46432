"""Sampling on a CUDA device: the plain case without a host array of its own, and what few requests ask for.

Penalties, logit bias and logprobs need arrays that differ from step to step; such steps sample outside the graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nano.engine.kernels.sampling import LogitBias, Logprobs, Penalties, Sampler, SamplingArrays
from nano.engine.sampled import Logprobs as HostLogprobs
from nano.engine.step_arrays import StepArrays

if TYPE_CHECKING:
    from nano._core.sched import Batch


class DeviceSampling:
    """`sampled` int32 [rows] holds what the last step sampled. All calls are on the engine's stream."""

    def __init__(self, arrays: StepArrays, vocab: int, device: torch.device) -> None:
        rows = arrays.limits.seqs
        self.sampled = torch.zeros(rows, dtype=torch.int32, device=device)
        self._arrays = arrays
        self._vocab = vocab
        self._device = device
        self._sampler = Sampler(rows, vocab, device)
        self._counts: torch.Tensor | None = None  # int16 [rows, vocab], made when a request has penalties
        self._slots: dict[int, int] = {}  # request -> its row of counts

    def plain(self, logits: torch.Tensor) -> None:
        """Samples every row of logits [rows, vocab] with the step's arrays alone."""
        self._sampler.sample(logits, self._params(logits.shape[0]), self.sampled[: logits.shape[0]])

    @staticmethod
    def is_plain(batch: Batch) -> bool:
        return not (batch.penalized.size or batch.bias_ids.size or (batch.num_logprobs >= 0).any())

    def special(self, logits: torch.Tensor, batch: Batch) -> Callable[[], HostLogprobs | None]:
        """As `plain`, with the batch's penalties, bias and logprobs; the result is read when the step has ended."""
        rows = logits.shape[0]
        logprobs = self._logprobs(batch, rows)
        self._sampler.sample(
            logits,
            self._params(rows),
            self.sampled[:rows],
            penalties=self._penalties(batch, rows),
            bias=self._bias(batch, rows, logits.dtype),
            logprobs=logprobs,
        )
        if logprobs is None:
            return lambda: None
        count, wanted = batch.num_samples, batch.num_logprobs.copy()
        down = [self._down(values[:count]) for values in (logprobs.token, logprobs.ids, logprobs.values)]
        return lambda: HostLogprobs(wanted, *(values.numpy() for values in down))

    def _params(self, rows: int) -> SamplingArrays:
        a = self._arrays
        return SamplingArrays(
            a.temperature[:rows], a.top_p[:rows], a.top_k[:rows], a.min_p[:rows], a.seeds[:rows],
            a.sample_positions[:rows],
        )  # fmt: skip

    def _up(self, values: npt.NDArray[Any]) -> torch.Tensor:
        host = torch.from_numpy(values)
        if self._device.type == "cuda":
            host = host.pin_memory()
        return host.to(self._device, non_blocking=True)

    def _down(self, values: torch.Tensor) -> torch.Tensor:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=self._device.type == "cuda")
        return host.copy_(values, non_blocking=True)

    def _penalties(self, batch: Batch, rows: int) -> Penalties | None:
        penalized = batch.penalized.tolist()
        if not penalized:
            return None
        if self._counts is None:
            shape = (self._arrays.limits.seqs, self._vocab)
            self._counts = torch.zeros(shape, dtype=torch.int16, device=self._device)
        ids = batch.ids[batch.sample_seqs].tolist()
        running = set(batch.ids.tolist())
        slots = np.full(rows, -1, np.int32)
        for row in penalized:
            slots[row] = self._slot(ids[row], batch, row, running)
        columns = []
        for values, neutral in (
            (batch.repetition_penalty, 1.0),
            (batch.presence_penalty, 0.0),
            (batch.frequency_penalty, 0.0),
        ):
            column = np.full(rows, neutral, np.float32)
            column[: batch.num_samples] = values
            columns.append(self._up(column))
        return Penalties(self._counts, self._up(slots), *columns)

    def _slot(self, id: int, batch: Batch, row: int, running: set[int]) -> int:
        """The request's row of counts. The sampler keeps it; it is filled when the request is first seen here."""
        if id in self._slots:
            return self._slots[id]
        assert self._counts is not None
        if len(self._slots) == len(self._counts):  # a step has no more requests than there are rows
            for gone in [other for other in self._slots if other not in running]:
                del self._slots[gone]
        slot = next(n for n in range(len(self._counts)) if n not in self._slots.values())
        self._slots[id] = slot
        prompt, outputs = (self._up(tokens.astype(np.int64)) for tokens in batch.history(row))
        Penalties.count(prompt, outputs, self._counts[slot])
        return slot

    def _bias(self, batch: Batch, rows: int, dtype: torch.dtype) -> LogitBias | None:
        if not batch.bias_ids.size:
            return None
        starts = np.full(rows + 1, batch.bias_start[-1], np.int32)
        starts[: batch.num_samples + 1] = batch.bias_start
        ids, values = self._up(batch.bias_ids.copy()), self._up(batch.bias_values.copy())
        return LogitBias(self._up(starts), ids, values, torch.empty(len(ids), dtype=dtype, device=self._device))

    def _logprobs(self, batch: Batch, rows: int) -> Logprobs | None:
        width = int(batch.num_logprobs.max(initial=-1))
        if width < 0:
            return None
        wanted = np.full(rows, -1, np.int32)
        wanted[: batch.num_samples] = batch.num_logprobs
        ids = torch.full((rows, max(width, 1)), -1, dtype=torch.int32, device=self._device)
        values = torch.zeros(rows, max(width, 1), device=self._device)
        return Logprobs(self._up(wanted), torch.zeros(rows, device=self._device), ids, values)

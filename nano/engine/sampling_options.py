"""What few requests ask of the device's sampler: penalties, logit bias, log-probabilities.

A step in which a row asks for one of them has its arrays made and sent up on their own; other steps know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nano.engine.kernels.sampling import LogitBias, Logprobs, Penalties
from nano.engine.sampled import Logprobs as SampledLogprobs
from nano.errors import Internal

if TYPE_CHECKING:
    from nano._core.sched import Batch

FIRST_SLOTS = 8


@dataclass(frozen=True)
class StepOptions:
    """Keyword arguments of `Sampler.sample`."""

    penalties: Penalties | None
    bias: LogitBias | None
    logprobs: Logprobs | None


@dataclass
class _Held:
    slot: int
    position: int  # of the token that it is ready for
    step: int  # the last that used it


class TokenCounts:
    """How often each token was seen, for the requests that have penalties: int16 [slots, vocab] on the device.

    A request's row is written from its history once; then the sampler itself counts what it draws, as the host learns
    of a token only after the next step has begun. A request that was away (preempted) may find its slot taken, and gets
    its row written anew.
    """

    def __init__(self, vocab: int, device: torch.device) -> None:
        self._vocab, self._device = vocab, device
        self.table = torch.zeros(0, vocab, dtype=torch.int16, device=device)
        self._held: dict[int, _Held] = {}
        self._free: list[int] = []

    def slots(self, batch: Batch, rows: int) -> npt.NDArray[np.int32]:
        """Each of the batch's rows' slot, or -1 where it has no penalties; [rows], padded with -1."""
        out = np.full(rows, -1, np.int32)
        for row in batch.penalized.tolist():
            id, position = int(batch.ids[batch.sample_seqs[row]]), int(batch.sample_positions[row])
            held = self._held.get(id)
            if held is None or held.position != position:
                slot = self._take(batch.step) if held is None else held.slot
                self._write(slot, *batch.history(row), position)
                held = self._held[id] = _Held(slot, position, batch.step)
            held.position, held.step = position + 1, batch.step
            out[row] = held.slot
        return out

    def _take(self, step: int) -> int:
        """A free slot, else that of a request which neither this step nor the one before it has, else a new one."""
        if not self._free:
            away = next((id for id, held in self._held.items() if held.step < step - 1), None)
            if away is not None:
                return self._held.pop(away).slot
            count = self.table.shape[0]
            larger = max(2 * count, FIRST_SLOTS)
            table = torch.zeros(larger, self._vocab, dtype=torch.int16, device=self._device)
            table[:count] = self.table
            self.table = table
            self._free = list(range(larger - 1, count - 1, -1))
        return self._free.pop()

    def _write(self, slot: int, prompt: npt.NDArray[np.int32], outputs: npt.NDArray[np.int32], position: int) -> None:
        if len(prompt) + len(outputs) != position:
            raise Internal(
                f"penalties: position {position}: expected as many tokens before it, got {len(prompt)} of the prompt "
                f"and {len(outputs)} outputs"
            )
        seen, made = (to_device(tokens.astype(np.int64), self._device) for tokens in (prompt, outputs))
        Penalties.count(seen, made, self.table[slot])


class SamplingOptions:
    """Not thread-safe: called in the order of the steps, on the stream that runs them."""

    def __init__(self, vocab: int, device: torch.device) -> None:
        self._device = device
        self._counts = TokenCounts(vocab, device)

    def upload(self, batch: Batch, rows: int) -> StepOptions | None:
        """For a step of `rows` rows, padding included; None when no row asks for anything."""
        penalties, bias, logprobs = self._penalties(batch, rows), self._bias(batch, rows), self._logprobs(batch, rows)
        if penalties is None and bias is None and logprobs is None:
            return None
        return StepOptions(penalties, bias, logprobs)

    def download(self, options: StepOptions, batch: Batch) -> Callable[[], SampledLogprobs] | None:
        """Enqueues the log-probabilities' way down. The result may be called once that has been waited for."""
        out, rows = options.logprobs, batch.num_samples
        if out is None:
            return None
        wanted = batch.num_logprobs.copy()
        token, ids, values = (self._down(array[:rows]) for array in (out.token, out.ids, out.values))
        return lambda: SampledLogprobs(wanted, token.numpy(), ids.numpy(), values.numpy())

    def _penalties(self, batch: Batch, rows: int) -> Penalties | None:
        if not batch.penalized.size:
            return None
        slots = self._up(self._counts.slots(batch, rows))
        repetition, presence, frequency = (
            self._up(_padded(values, rows, 0))
            for values in (batch.repetition_penalty, batch.presence_penalty, batch.frequency_penalty)
        )
        return Penalties(self._counts.table, slots, repetition, presence, frequency)

    def _bias(self, batch: Batch, rows: int) -> LogitBias | None:
        ids = batch.bias_ids
        if not ids.size:
            return None
        start = _padded(batch.bias_start.astype(np.int32), rows + 1, ids.size)
        saved = torch.empty(ids.size, device=self._device)
        return LogitBias(self._up(start), self._up(ids), self._up(batch.bias_values), saved)

    def _logprobs(self, batch: Batch, rows: int) -> Logprobs | None:
        width = int(batch.num_logprobs.max(initial=-1))
        if width < 0:
            return None
        wanted = self._up(_padded(batch.num_logprobs, rows, -1))
        token = torch.empty(rows, device=self._device)
        ids = torch.empty(rows, width, dtype=torch.int32, device=self._device)
        return Logprobs(wanted, token, ids, torch.empty(rows, width, device=self._device))

    def _up(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return to_device(values, self._device)

    def _down(self, values: torch.Tensor) -> torch.Tensor:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=self._device.type == "cuda")
        return host.copy_(values, non_blocking=True)


def to_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy of the array, on its way to the device when this returns."""
    host = torch.from_numpy(values.copy())
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def _padded(values: npt.NDArray[Any], size: int, fill: int) -> npt.NDArray[Any]:
    out = np.full(size, fill, values.dtype)
    out[: values.size] = values
    return out

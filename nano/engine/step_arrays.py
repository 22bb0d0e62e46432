"""A step's index and sampling arrays on the device: filled in pinned host memory, they go up in one copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from nano._core.sched import Batch

ALIGNMENT = 256  # bytes
TORCH = {
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float32): torch.float32,
}


@dataclass(frozen=True)
class Limits:
    tokens: int
    seqs: int
    width: int  # blocks of the longest request


def _fields(limits: Limits) -> list[tuple[str, type, tuple[int, ...]]]:
    t, s = limits.tokens, limits.seqs
    return [
        ("token_ids", np.int32, (t,)),
        ("token_sources", np.int32, (t,)),  # >= 0: the token that this row of the step before sampled
        ("positions", np.int32, (t,)),
        ("slots", np.int64, (t,)),  # -1: padding
        ("cu_query", np.int32, (s + 1,)),
        ("context_lens", np.int32, (s,)),
        ("sample_rows", np.int32, (s,)),
        ("seeds", np.int64, (s,)),
        ("sample_positions", np.int32, (s,)),
        ("temperature", np.float32, (s,)),
        ("top_p", np.float32, (s,)),
        ("top_k", np.int32, (s,)),
        ("min_p", np.float32, (s,)),
        ("tables", np.int32, (s, limits.width)),  # last: only the rows in use travel
    ]


class StepArrays:
    """Attributes are the device's tensors, named as above, at fixed addresses; `copies` steps may be on their way."""

    token_ids: torch.Tensor
    token_sources: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    cu_query: torch.Tensor
    context_lens: torch.Tensor
    sample_rows: torch.Tensor
    seeds: torch.Tensor
    sample_positions: torch.Tensor
    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    min_p: torch.Tensor
    tables: torch.Tensor

    def __init__(self, limits: Limits, device: torch.device, copies: int) -> None:
        self.limits = limits
        offsets, nbytes = [], 0
        for _, dtype, shape in _fields(limits):
            offsets.append(nbytes)
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            nbytes += -(-size // ALIGNMENT) * ALIGNMENT
        self._head_bytes = offsets[-1]
        self._row_bytes = limits.width * 4
        self._device = torch.zeros(nbytes, dtype=torch.uint8, device=device)
        pinned = device.type == "cuda"
        self._host = [torch.zeros(nbytes, dtype=torch.uint8, pin_memory=pinned) for _ in range(copies)]
        self._views: list[dict[str, npt.NDArray[Any]]] = [{} for _ in self._host]
        for (name, dtype, shape), offset in zip(_fields(limits), offsets, strict=True):
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            raw = self._device[offset : offset + size]
            setattr(self, name, raw.view(TORCH[np.dtype(dtype)]).view(shape))
            for host, views in zip(self._host, self._views, strict=True):
                views[name] = host.numpy()[offset : offset + size].view(dtype).reshape(shape)

    def clear(self) -> None:
        """A step of padding alone."""
        self._device.zero_()
        self.slots.fill_(-1)
        self.token_sources.fill_(-1)

    def upload(self, batch: Batch, tokens: int, seqs: int, samples: int, turn: int) -> None:
        """Fills copy `turn` from the batch, padded to `tokens`, `seqs` and `samples`, and enqueues its way up."""
        t, s, r = batch.num_tokens, batch.num_seqs, batch.num_samples
        to = self._views[turn]
        to["token_ids"][:t] = batch.token_ids
        to["token_sources"][:t] = batch.token_sources
        to["positions"][:t] = batch.positions
        to["slots"][:t] = batch.slots
        to["cu_query"][: s + 1] = batch.cu_query
        to["context_lens"][:s] = batch.context_lens
        tables = batch.block_tables
        to["tables"][:s, : tables.shape[1]] = tables
        if tokens > t:
            to["token_ids"][t:tokens] = 0
            to["token_sources"][t:tokens] = -1
            to["positions"][t:tokens] = 0
            to["slots"][t:tokens] = -1
        if seqs > s:
            to["cu_query"][s + 1 : seqs + 1] = t
            to["context_lens"][s:seqs] = 0
        if r:
            to["sample_rows"][:r] = batch.sample_rows
            to["seeds"][:r] = batch.seeds.view(np.int64)
            to["sample_positions"][:r] = batch.sample_positions
            to["temperature"][:r] = batch.temperature
            to["top_p"][:r] = batch.top_p
            to["top_k"][:r] = batch.top_k
            to["min_p"][:r] = batch.min_p
            if samples > r:
                to["sample_rows"][r:samples] = 0
                to["temperature"][r:samples] = 0.0
        nbytes = self._head_bytes + s * self._row_bytes
        self._device[:nbytes].copy_(self._host[turn][:nbytes], non_blocking=True)

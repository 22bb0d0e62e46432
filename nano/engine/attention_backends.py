"""What computes the attention of a GPU's steps: Triton's kernels or FlashInfer's, over the step's arrays.

A step is planned on the host before its kernels are enqueued or replayed, by the backend that then runs its layers.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from nano.engine.kernels import attention
from nano.engine.kernels.attention import Rope
from nano.engine.kernels.flashinfer_attention import FlashInferAttention, Shape
from nano.engine.step_arrays import StepArrays

if TYPE_CHECKING:
    from nano._core.sched import Batch


@dataclass(frozen=True)
class Step:
    """A step and what it is padded to."""

    batch: Batch
    tokens: int
    seqs: int
    decode: bool  # one query a sequence
    turn: int  # which copy of what the host writes travels

    @property
    def kind(self) -> str:
        """Which of a backend's kernels run it."""
        return "decode" if self.decode else "prefill"

    @property
    def load(self) -> str:
        """Its kind in the table of who is faster, where single queries among prompts are "mixed"."""
        if self.kind == "prefill" and (np.diff(self.batch.cu_query) == 1).any():
            return "mixed"
        return self.kind


@dataclass(frozen=True)
class LayerCache:
    """A layer's K and V, [blocks, kv_heads, block_size, head_dim]; fp8 values stand for `*_scale` times as much."""

    k: torch.Tensor
    v: torch.Tensor
    k_scale: float = 1.0  # 1 unless K is fp8
    v_scale: float = 1.0


class AttentionBackend(Protocol):
    name: str

    @property
    def turns(self) -> bool:
        """Whether `run` norms and rotates the step's q and k, and stores k and v, itself: it takes a Rope then."""

    def plan(self, step: Step) -> Hashable:
        """The host's part of a step, enqueued in stream order, never waiting for the device.

        Returns what a CUDA graph of the step depends on besides its padded shape.
        """

    def begin(self, seqs: int, decode: bool) -> None:
        """The device's part before the layers of a step padded to so many sequences."""

    def run(self, q: torch.Tensor | Rope, cache: LayerCache, out: torch.Tensor, scale: float) -> None:
        """A layer of the step; q, out [tokens, heads, head_dim]."""


class TritonBackend:
    """Needs no plan; serves every model and cache."""

    name = "triton"

    def __init__(self, shape: Shape, arrays: StepArrays, device: torch.device) -> None:
        self._arrays = arrays
        self._scratch = attention.DecodeScratch(arrays.limits.seqs, shape.heads, shape.head_dim, device)

    def plan(self, step: Step) -> Hashable:
        return None

    @property
    def turns(self) -> bool:
        return self._decode and self._seqs == 1

    def begin(self, seqs: int, decode: bool) -> None:
        self._seqs, self._decode = seqs, decode

    def run(self, q: torch.Tensor | Rope, cache: LayerCache, out: torch.Tensor, scale: float) -> None:
        arrays, s = self._arrays, self._seqs
        tables, lens = arrays.tables[:s], arrays.context_lens[:s]
        k, v, scales = cache.k, cache.v, (cache.k_scale, cache.v_scale)
        if self._decode:
            attention.decode_attention(q, k, v, tables, lens, out, scale, self._scratch, *scales)
        else:
            assert isinstance(q, torch.Tensor)
            attention.prefill_attention(q, k, v, tables, arrays.cu_query[: s + 1], lens, out, scale, *scales)


class FlashInferBackend:
    """For 16-bit caches, once `kernels` has its compiled modules."""

    name = "flashinfer"
    turns = False

    def __init__(self, shape: Shape, arrays: StepArrays, copies: int, device: torch.device) -> None:
        self._arrays = arrays
        self.kernels = FlashInferAttention(shape, arrays.limits.seqs, arrays.limits.width, copies, device)

    def plan(self, step: Step) -> Hashable:
        batch = step.batch
        return self.kernels.plan(step.kind, step.tokens, step.seqs, batch.cu_query, batch.context_lens, step.turn)

    def begin(self, seqs: int, decode: bool) -> None:
        self._seqs = seqs
        self.kernels.begin(self._arrays.tables[:seqs], self._arrays.context_lens[:seqs])

    def run(self, q: torch.Tensor | Rope, cache: LayerCache, out: torch.Tensor, scale: float) -> None:
        assert isinstance(q, torch.Tensor)
        self.kernels.run(q, cache.k, cache.v, self._arrays.cu_query[: self._seqs + 1], out, scale)

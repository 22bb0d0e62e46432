"""The attention of a GPU's steps: Triton's kernels always, FlashInfer's where they are compiled and measured faster.

A step is planned on the host before its kernels are enqueued or replayed, by the backend that then runs its layers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from nano.engine.config import AttentionBackendName
from nano.engine.kernels import attention, flashinfer_attention
from nano.engine.kernels.attention_choice import Choice, Heads
from nano.engine.kernels.flashinfer_attention import FlashInferAttention, Shape
from nano.engine.kernels.flashinfer_build import Build, require
from nano.engine.step_arrays import StepArrays
from nano.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from nano._core.sched import Batch

log = logging.getLogger(__name__)


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
        return "decode" if self.decode else "prefill"


class AttentionBackend(Protocol):
    name: str

    def plan(self, step: Step) -> Hashable:
        """The host's part of a step, in stream order. Returns what a CUDA graph of it depends on besides its shape."""

    def begin(self, seqs: int, decode: bool) -> None:
        """The device's part before the layers of a step padded to so many sequences."""

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scale: float) -> None:
        """A layer: q, out [T, H, D]; k, v [blocks, H_kv, block_size, D]."""


class TritonAttention:
    """Needs no plan."""

    name = "triton"

    def __init__(self, shape: Shape, arrays: StepArrays, device: torch.device) -> None:
        self._arrays = arrays
        self._scratch = attention.DecodeScratch(arrays.limits.seqs, shape.heads, shape.head_dim, device)

    def plan(self, step: Step) -> Hashable:
        return None

    def begin(self, seqs: int, decode: bool) -> None:
        self._seqs, self._decode = seqs, decode

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scale: float) -> None:
        arrays, s = self._arrays, self._seqs
        tables, lens = arrays.tables[:s], arrays.context_lens[:s]
        if self._decode:
            attention.decode_attention(q, k, v, tables, lens, out, scale, self._scratch)
        else:
            attention.prefill_attention(q, k, v, tables, arrays.cu_query[: s + 1], lens, out, scale)


class FlashInfer:
    """FlashInfer's kernels over the step's arrays, once their modules are bound."""

    name = "flashinfer"

    def __init__(self, shape: Shape, arrays: StepArrays, copies: int, device: torch.device) -> None:
        self._arrays = arrays
        self.kernels = FlashInferAttention(shape, arrays.limits.seqs, arrays.limits.width, copies, device)

    def plan(self, step: Step) -> Hashable:
        batch = step.batch
        return self.kernels.plan(step.decode, step.tokens, step.seqs, batch.cu_query, batch.context_lens, step.turn)

    def begin(self, seqs: int, decode: bool) -> None:
        self._seqs = seqs
        self.kernels.begin(self._arrays.tables[:seqs], self._arrays.context_lens[:seqs])

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scale: float) -> None:
        self.kernels.run(q, k, v, self._arrays.cu_query[: self._seqs + 1], out, scale)


class AttentionBackends:
    """Which backend a step gets. `auto`: FlashInfer where the table says that it wins, from the step on that finds its
    modules compiled (a process compiles them meanwhile); `flashinfer`: wherever it can run, after waiting for them.

    All memory is allocated here, and compilation begins with `start`. Raises MissingExtra or InvalidInput where
    `flashinfer` was asked for and is not installed or has nothing for this model on this device.
    """

    def __init__(
        self,
        name: AttentionBackendName,
        shape: Shape,
        cache_dtype: torch.dtype,
        arrays: StepArrays,
        copies: int,
        device: torch.device,
    ) -> None:
        self._triton = TritonAttention(shape, arrays, device)
        self.current: AttentionBackend = self._triton  # the step's
        self._shape, self._device = shape, device
        self._choice: Choice | None = None
        self._modules = flashinfer_attention.supports(shape, cache_dtype, device) if name != "triton" else {}
        if name == "flashinfer":
            if not self._modules:
                raise InvalidInput(
                    "attention_backend: flashinfer needs a GPU of compute capability 8.0 or more, a 16-bit model and "
                    f"cache and heads of 64 or 128; got {device}, {shape.dtype}, {cache_dtype}, {shape.head_dim}"
                )
            require()
        elif self._modules:
            self._choose()
        self._flashinfer = FlashInfer(shape, arrays, copies, device) if self._modules else None
        self._build: Build | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._closed = False

    def _choose(self) -> None:
        heads = Heads(self._shape.heads, self._shape.kv_heads, self._shape.head_dim)
        self._choice = choice = Choice(torch.cuda.get_device_name(self._device), heads)
        self._modules = {kind: module for kind, module in self._modules.items() if kind in choice.kinds}
        if self._modules:
            try:
                require()
            except MissingExtra as error:
                log.info("%s (here it would be faster for some steps)", error)
                self._modules = {}

    def start(self) -> None:
        """Begins to compile FlashInfer's modules where they are wanted; where they are asked for, waits for them.

        Raises SystemFault when they then do not compile or give wrong answers.
        """
        if not self._modules:
            return
        capability = torch.cuda.get_device_capability(self._device)
        self._build = Build(self._shape.dtype, self._shape.head_dim, self._modules.values(), capability)
        if self._choice is None:
            self._finish(self._build)
            return
        self._thread = threading.Thread(target=self._finish_later, args=(self._build,), name="flashinfer-build")
        self._thread.start()

    def _finish(self, build: Build) -> None:
        loaded = build.wait()
        modules = {kind: loaded[module] for kind, module in self._modules.items()}
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            flashinfer_attention.verify(self._shape, modules, self._device)
        assert self._flashinfer is not None
        self._flashinfer.kernels.bind(modules)
        self._ready.set()

    def _finish_later(self, build: Build) -> None:
        try:
            self._finish(build)
        except Exception as error:  # whatever it is, the engine serves on
            if not self._closed:
                log.warning("attention stays with Triton's kernels: %s", error)
        else:
            log.info("FlashInfer's attention kernels are there: steps where they are faster take them from now on")

    def plan(self, step: Step) -> Hashable:
        """Chooses the step's backend and plans it; the result belongs to the key of a CUDA graph of the step."""
        self.current = self._pick(step)
        return self.current.plan(step)

    def _pick(self, step: Step) -> AttentionBackend:
        flashinfer, batch = self._flashinfer, step.batch
        if flashinfer is None or not self._ready.is_set() or step.kind not in flashinfer.kernels.kinds:
            return self._triton
        if self._choice is None:
            return flashinfer
        queries, context = batch.num_tokens / batch.num_seqs, float(batch.context_lens.mean())
        wins = self._choice.takes_flashinfer(step.kind, batch.num_seqs, queries, context)
        return flashinfer if wins else self._triton

    def close(self) -> None:
        """Ends a build that is still under way."""
        self._closed = True
        if self._build is not None:
            self._build.cancel()
        if self._thread is not None:
            self._thread.join(30.0)

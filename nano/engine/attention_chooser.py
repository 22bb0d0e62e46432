"""Which attention backend a step gets."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable

import torch

from nano.engine.attention_backends import AttentionBackend, FlashInferBackend, Step, TritonBackend
from nano.engine.config import AttentionBackendName
from nano.engine.kernels.attention_choice import Choice, Heads
from nano.engine.kernels.flashinfer_attention import Shape, supports
from nano.engine.kernels.flashinfer_build import Build, require
from nano.engine.kernels.flashinfer_check import check
from nano.engine.step_arrays import StepArrays
from nano.errors import InvalidInput, MissingExtra

log = logging.getLogger(__name__)


class AttentionChooser:
    """`auto`: FlashInfer where the table says that it wins, from the step on that finds its modules compiled; `triton`:
    never; `flashinfer`: wherever it can run.

    All memory is allocated here, compilation begins with `start`. Raises MissingExtra or InvalidInput where
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
        self._triton = TritonBackend(shape, arrays, device)
        self.current: AttentionBackend = self._triton  # the step's
        self._shape, self._device = shape, device
        self._choice: Choice | None = None  # of `auto`
        self._modules = {} if name == "triton" else supports(shape, cache_dtype, device)
        if name == "flashinfer":
            self._require(cache_dtype)
        elif self._modules:
            self._choose()
        self._flashinfer = FlashInferBackend(shape, arrays, copies, device) if self._modules else None
        self._build: Build | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._closed = False

    def _require(self, cache_dtype: torch.dtype) -> None:
        if not self._modules:
            shape = self._shape
            raise InvalidInput(
                "attention_backend: flashinfer needs a GPU of compute capability 8.0 or more, a model and a KV cache "
                "in bfloat16, heads of 64 or 128, and at most 16 of them for a KV head; got "
                f"{self._device}, {shape.dtype}, {cache_dtype}, {shape.head_dim}, {shape.heads} for {shape.kv_heads}"
            )
        require()

    def _choose(self) -> None:
        heads = Heads(self._shape.heads, self._shape.kv_heads, self._shape.head_dim)
        self._choice = Choice(torch.cuda.get_device_name(self._device), heads)
        kinds = {"prefill" if kind == "mixed" else kind for kind in self._choice.kinds}
        self._modules = {kind: module for kind, module in self._modules.items() if kind in kinds}
        if not self._modules:
            return
        try:
            require()
        except MissingExtra as error:
            log.info("%s (here it would be faster for some steps)", error)
            self._modules = {}

    def start(self) -> None:
        """Begins to compile FlashInfer's modules where they are wanted: in the background for `auto`, else waiting.

        Raises SystemFault when `flashinfer` was asked for and they do not compile or answer wrongly.
        """
        if not self._modules:
            return
        capability = torch.cuda.get_device_capability(self._device)
        self._build = Build(self._shape.dtype, self._shape.head_dim, self._modules.values(), capability)
        if self._choice is None:
            self._finish(self._build)
            return
        self._thread = threading.Thread(
            target=self._finish_later, args=(self._build,), name="flashinfer-build", daemon=True
        )
        self._thread.start()

    def _finish(self, build: Build) -> None:
        loaded = build.wait()
        modules = {kind: loaded[module] for kind, module in self._modules.items()}
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            check(self._shape, modules, self._device)
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
            log.info("FlashInfer's attention kernels are compiled: steps where they are faster take them from now on")

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
        wins = self._choice.takes_flashinfer(step.load, batch.num_seqs, queries, context)
        return flashinfer if wins else self._triton

    def wait(self, deadline: float) -> bool:
        """Whether FlashInfer serves, once its modules are compiled or `deadline` seconds have passed."""
        if self._thread is not None:
            self._thread.join(deadline)
        return self._ready.is_set()

    def close(self) -> None:
        """Ends a build that is still under way."""
        self._closed = True
        if self._build is not None:
            self._build.cancel()
        if self._thread is not None:
            self._thread.join(30.0)

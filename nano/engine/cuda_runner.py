"""Steps on a CUDA device: arrays up in one copy, a graph for each padded shape, sampled tokens down behind it.

Two steps are under way at a time, so that the device never waits for the host: the next step takes a running
request's token from where the sampler left it on the device.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch

from nano.engine.attention_backends import Step
from nano.engine.graphs import Graphs
from nano.engine.kernels.sampling import Sampler, SamplingArrays
from nano.engine.kernels.tokens import resolve
from nano.engine.models.qwen3 import Qwen3
from nano.engine.ops.cuda import CudaOps
from nano.engine.runner import OnLayer
from nano.engine.sampled import Sampled
from nano.engine.sampling_options import SamplingOptions, StepOptions
from nano.engine.step_arrays import Limits, StepArrays
from nano.errors import Internal

if TYPE_CHECKING:
    from nano._core.sched import Batch

DEPTH = 2
# Steps that decode are padded to one of these many sequences.
DECODE_SIZES = (1, 2, 4, 8, *range(16, 257, 8), *range(272, 513, 16))
# Steps with prompts in them are padded to a multiple of this many tokens, the smaller up to SMALL tokens; a larger
# step that this would lengthen by more than MAX_PADDING runs without a graph.
SMALL, SMALL_STEP, STEP = 512, 32, 256
SEQS_STEP = 8
MAX_PADDING = 1 / 16


class CudaRunner:
    depth = DEPTH

    def __init__(self, model: Qwen3, ops: CudaOps, arrays: StepArrays, use_graphs: bool) -> None:
        self._model = model
        self._ops = ops
        self._arrays = arrays
        device = arrays.tables.device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._graphs = Graphs(use_graphs and self._stream is not None)
        seqs = arrays.limits.seqs
        # What goes down after a step: its tokens, then the sampler's count of rows that it could not sample.
        self._results = torch.zeros(seqs + 1, dtype=torch.int32, device=device)
        self._sampled = self._results[:seqs]
        self._sampler = Sampler(seqs, model.config.vocab_size, device, self._results[seqs:])
        self._options = SamplingOptions(model.config.vocab_size, device)
        pinned = self._stream is not None
        self._down = [torch.zeros(seqs + 1, dtype=torch.int32, pin_memory=pinned) for _ in range(DEPTH)]
        self._landed = [torch.cuda.Event() for _ in range(DEPTH)] if pinned else []  # type: ignore[no-untyped-call]
        self._turn = 0

    @property
    def stream(self) -> int | None:
        return None if self._stream is None else int(self._stream.cuda_stream)

    def dry_run(self) -> None:
        """The largest step, of padding alone: compiles kernels and allocates the scratch that steps need."""
        limits = self._arrays.limits
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            self._arrays.clear()
            self._forward(limits.tokens, limits.seqs, False)
            self._forward(1, 1, True)
            self._head(limits.seqs)
            self._results.zero_()
        if self._stream is not None:
            self._stream.synchronize()

    def close(self) -> None:
        """Waits for the steps under way, so that their memory can go."""
        self._ops.attention_chooser.close()
        if self._stream is not None:
            self._stream.synchronize()

    def launch(self, batch: Batch, on_layer: OnLayer | None) -> Callable[[], Sampled]:
        turn, self._turn = self._turn, (self._turn + 1) % DEPTH
        if self._stream is None:
            return self._launch(batch, turn, on_layer)
        with torch.cuda.stream(self._stream):
            return self._launch(batch, turn, on_layer)

    def _launch(self, batch: Batch, turn: int, on_layer: OnLayer | None) -> Callable[[], Sampled]:
        count, run = batch.num_samples, self._graphs.run
        decode = batch.num_tokens == batch.num_seqs
        tokens, seqs = self._padded(batch, decode)
        samples = _decode_size(count, self._arrays.limits.seqs) if count else 0
        self._arrays.upload(batch, tokens, seqs, samples, turn)
        attention = self._ops.attention_chooser.plan(Step(batch, tokens, seqs, decode, turn))
        options = self._options.upload(batch, samples)
        if decode and samples == tokens and on_layer is None and options is None:
            run(("step", tokens, attention), lambda: self._step(tokens))
        else:
            key = (decode, tokens, seqs, attention)
            if on_layer is None:
                run(key, lambda: self._forward(tokens, seqs, decode))
            else:  # a graph a group of layers, which then can travel
                layout = self._model.shape.layout
                for first in range(0, layout.num_layers, layout.group_layers):
                    layers = range(first, first + layout.group_layers)
                    run((*key, first), partial(self._forward, tokens, seqs, decode, layers))
                    on_layer(layers[-1])
            if options is not None:  # other arrays each time: no graph
                self._head(samples, options)
            elif samples:
                run(("head", samples), lambda: self._head(samples))
        down = self._down[turn]
        down.copy_(self._results, non_blocking=True)
        logprobs = None if options is None else self._options.download(options, batch)
        landed = self._landed[turn] if self._landed else None
        if landed is not None:
            landed.record()

        def sampled() -> Sampled:
            if landed is not None:
                landed.synchronize()
            if bad := int(down[-1]):
                raise Internal(f"sample: the logits of {bad} rows hold NaN or have no finite largest value")
            return Sampled(down[:count].numpy(), None if logprobs is None else logprobs())

        return sampled

    def _padded(self, batch: Batch, decode: bool) -> tuple[int, int]:
        """Tokens and sequences to run: a size that has a graph, or the batch's own."""
        t, s, limits = batch.num_tokens, batch.num_seqs, self._arrays.limits
        if decode:
            size = _decode_size(t, limits.seqs)
            return size, size
        step = SMALL_STEP if t <= SMALL else STEP
        padded = min(rounded(t, step), limits.tokens)
        if t > SMALL and padded - t > MAX_PADDING * t:
            return rounded(t, SMALL_STEP), s
        return padded, min(limits.seqs, padded)

    def _step(self, size: int) -> None:
        self._forward(size, size, True)
        self._head(size)

    def _forward(self, tokens: int, seqs: int, decode: bool, layers: range | None = None) -> None:
        arrays = self._arrays
        if layers is None or layers.start == 0:
            resolve(arrays.token_ids[:tokens], arrays.token_sources[:tokens], self._sampled)
        self._ops.begin(seqs, decode)
        self._model.forward(tokens, None, layers)

    def _head(self, samples: int, options: StepOptions | None = None) -> None:
        arrays = self._arrays
        logits = self._model.head(samples)
        params = SamplingArrays(
            arrays.temperature[:samples],
            arrays.top_p[:samples],
            arrays.top_k[:samples],
            arrays.min_p[:samples],
            arrays.seeds[:samples],
            arrays.sample_positions[:samples],
        )
        asked = {} if options is None else vars(options)
        self._sampler.sample(logits.tensor[:samples], params, self._sampled[:samples], **asked)


def limits_of(max_tokens: int, max_seqs: int, width: int) -> Limits:
    """Limits that the padded sizes fit."""
    return Limits(rounded(max_tokens, SMALL_STEP), rounded(max_seqs, SEQS_STEP), width)


def rounded(count: int, step: int) -> int:
    return -(-count // step) * step


def _decode_size(count: int, most: int) -> int:
    at = bisect_left(DECODE_SIZES, count)
    return min(DECODE_SIZES[at] if at < len(DECODE_SIZES) else count, most)

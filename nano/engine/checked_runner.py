"""Debugging: every step's arrays are validated, and its logits compared with those of a CPU twin of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from nano.engine.kv_cache import FP8
from nano.engine.kv_memory import PoolMemory
from nano.engine.kv_scales import KVScales
from nano.engine.models.qwen3 import Qwen3
from nano.engine.ops.cpu import CpuOps
from nano.engine.runner import OnLayer, Runner
from nano.engine.sampled import Sampled
from nano.errors import Internal

if TYPE_CHECKING:
    from nano._core.sched import Batch

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # norm of the difference, relative to the twin's norm
FP8_CACHE_TOLERANCE = 5e-2  # more with an fp8 KV cache: what is halfway between two values falls to either side

FP8_MAX = torch.finfo(torch.float8_e4m3fn).max


class CheckedRunner:
    """Runs each step on both, one at a time. The twin computes its own KV: none may come from other engines.

    With an fp8 KV cache the twin's, which has the model's dtype, holds fp8's values too: `scales` says times what.
    """

    depth = 1

    def __init__(
        self, runner: Runner, model: Qwen3, twin: Qwen3, twin_ops: CpuOps, pool: PoolMemory, scales: KVScales
    ) -> None:
        self.stream = runner.stream
        self._runner = runner
        self._model = model
        self._twin = twin
        self._twin_ops = twin_ops
        self._pool = pool  # the twin's, which its ops know by address alone
        self._scales = scales if model.shape.layout.dtype == FP8 else None
        self._num_blocks = pool.tensor.numel() // twin.shape.layout.block_bytes

    def close(self) -> None:
        self._runner.close()

    def launch(self, batch: Batch, on_layer: OnLayer | None) -> Callable[[], Sampled]:
        self._validate(batch)
        sampled = self._runner.launch(batch, on_layer)()
        self._twin_ops.begin(batch)
        self._twin.forward(batch.num_tokens, lambda layer: self._round(batch, layer))
        if batch.num_samples:
            got = self._model.logits.tensor[: batch.num_samples].float().cpu()
            self._compare(batch, got, self._twin.head(batch.num_samples).tensor[: batch.num_samples])
        return lambda: sampled

    def _round(self, batch: Batch, layer: int) -> None:
        """This step's K and V of the twin's layer, as the fp8 cache holds them."""
        if self._scales is None:
            return
        layout = self._twin.shape.layout
        pool = self._pool.tensor.view(self._twin_ops.dtype).view(layout.pool_shape)
        blocks, offsets = (torch.from_numpy(part) for part in np.divmod(batch.slots, layout.block_size))
        for which, scale in enumerate((self._scales.k[layer], self._scales.v[layer])):
            rows = pool[blocks, layer, which, :, offsets].float() / scale
            coarse = rows.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).float() * scale
            pool[blocks, layer, which, :, offsets] = coarse.to(pool.dtype)

    def _compare(self, batch: Batch, got: torch.Tensor, expected: torch.Tensor) -> None:
        errors = (got - expected).norm(dim=1) / expected.norm(dim=1)
        worst = int(errors.argmax())
        limit = TOLERANCE[self._twin_ops.dtype]
        if self._scales is not None:
            limit += FP8_CACHE_TOLERANCE
        if not errors[worst] <= limit:  # NaN too
            seq = int(batch.sample_seqs[worst])
            raise Internal(
                f"check: step {batch.step}, request {batch.ids[seq]}, {batch.context_lens[seq]} tokens: logits differ "
                f"from the CPU engine's by {float(errors[worst]):.3g} of their norm, expected at most {limit}"
            )

    def _validate(self, batch: Batch) -> None:
        """Raises Internal for index arrays that would make a kernel read or write where it must not."""
        size = self._twin.shape.layout.block_size
        blocks = batch.slots // size
        queries = np.diff(batch.cu_query)
        rules = {
            "cu_query: from 0 to num_tokens, rising": batch.cu_query[0] == 0
            and batch.cu_query[-1] == batch.num_tokens
            and bool((queries > 0).all()),
            "context_lens: at least the queries": bool((batch.context_lens >= queries).all()),
            "slots: inside the pool": bool(((blocks >= 0) & (blocks < self._num_blocks)).all()),
            "slots: each once": len(np.unique(batch.slots)) == batch.num_tokens,
            "token_ids: inside the vocabulary": bool(
                ((batch.token_ids >= 0) & (batch.token_ids < self._twin.config.vocab_size)).all()
            ),
            "sample_rows: the last rows of their sequences": bool(
                (batch.sample_rows == batch.cu_query[batch.sample_seqs + 1] - 1).all()
            ),
        }
        for seq in range(batch.num_seqs):
            begin, end, context = batch.cu_query[seq], batch.cu_query[seq + 1], batch.context_lens[seq]
            positions = np.arange(context - (end - begin), context)
            table = batch.block_tables[seq]
            rules["positions: the last of the context"] = bool((batch.positions[begin:end] == positions).all())
            rules["slots: where the block table says"] = bool(
                (batch.slots[begin:end] == table[positions // size] * size + positions % size).all()
            )
            for rule, holds in rules.items():
                if not holds:
                    raise Internal(f"check: step {batch.step}, request {batch.ids[seq]}: {rule}: does not hold")

"""One engine without its sockets: checkpoint, KV pool, scheduler and model; `step` makes tokens."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nano._core import kv, sched
from nano.engine import kv_scales
from nano.engine.backend import WATERMARK, Backend, Plan, Progress
from nano.engine.checkpoint import Checkpoint, locate
from nano.engine.config import EngineConfig
from nano.engine.kv_cache import FP8, KVLayout, layer_groups
from nano.engine.model_config import ModelConfig, load_model_config, require_fp8_device
from nano.engine.runner import OnLayer
from nano.engine.sampled import Sampled
from nano.errors import InvalidInput
from nano.sampling import MAX_LOGPROBS
from nano.wire import Int32Array, Sampling

if TYPE_CHECKING:
    from nano.transfer import Endpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _build(plan: Plan, device: str, threads: int) -> Backend:
    if device == "cpu":
        from nano.engine import cpu_backend

        return cpu_backend.build(plan, threads)
    from nano.engine import cuda_backend  # Triton is not on the way to a CPU engine

    return cuda_backend.build(plan, torch.device(device))


class Engine:
    """Not thread-safe: one owner thread. `endpoint`, when given, owns the KV pool's memory as its region "kv"."""

    def __init__(
        self, config: EngineConfig, endpoint: Endpoint | None = None, progress: Progress | None = None
    ) -> None:
        started = time.monotonic()
        self.config = config
        self.directory = locate(config.model)
        self.model_config: ModelConfig = load_model_config(self.directory)
        model = self.model_config
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if model.fp8 is not None:
            require_fp8_device(device, None if device == "cpu" else torch.cuda.get_device_capability(device))
        dtype = DTYPES[model.dtype if config.dtype == "auto" else config.dtype]
        self.threads = config.threads or len(os.sched_getaffinity(0))
        torch.set_num_threads(self.threads)
        self.dtype = str(dtype).removeprefix("torch.")
        scales = kv_scales.ones(model.num_layers)
        if config.kv_cache_dtype == "fp8" and config.load_format != "dummy":
            scales = kv_scales.read(Checkpoint(self.directory), model.num_layers)
        self.layout = KVLayout(
            num_layers=model.num_layers,
            num_kv_heads=model.num_kv_heads,
            block_size=config.kvcache_block_size,
            head_dim=model.head_dim,
            dtype=self.dtype if config.kv_cache_dtype == "auto" else FP8,
            groups=layer_groups(model.num_layers, config.transfer_layer_groups),
            scales=scales.digest(),
        )
        self.max_model_len = config.max_model_len or model.max_position
        if self.max_model_len > model.max_position:
            raise InvalidInput(
                f"max_model_len: the model has {model.max_position} positions, got {config.max_model_len}"
            )
        self.device = device
        plan = Plan(config, self.directory, model, self.layout, scales, dtype, self.max_model_len, endpoint, progress)
        backend = _build(plan, device, self.threads)
        self.model, self.runner, self.memory = backend.model, backend.runner, backend.memory
        self.num_blocks = backend.num_blocks
        grantable = self.num_blocks - int(WATERMARK * self.num_blocks)
        self.max_model_len = min(self.max_model_len, grantable * config.kvcache_block_size)
        if self.memory.region is not None:
            self.region = self.memory.region
        self.pool = kv.BlockPool(self.num_blocks, config.kvcache_block_size, config.prefix_caching)
        self.scheduler = sched.Scheduler(
            self.pool, config.max_num_batched_tokens, config.max_num_seqs, self.max_model_len, WATERMARK,
            depth=self.runner.depth,
        )  # fmt: skip
        self.sampled = Sampled(np.empty(0, np.int32))  # of the step that `step` ended last
        self._under_way: deque[Callable[[], Sampled]] = deque()
        self.load_seconds = time.monotonic() - started

    # --- requests

    def check(self, tokens: Int32Array, sampling: Sampling) -> None:
        """Raises InvalidInput for token ids that the model does not have, and for too many log-probabilities."""
        vocab = self.model_config.vocab_size
        if tokens.size and (int(tokens.min()) < 0 or int(tokens.max()) >= vocab):
            bad = next(int(t) for t in tokens if not 0 <= t < vocab)
            raise InvalidInput(f"token_ids: expected ids in [0, {vocab}), got {bad}")
        for id in sampling.logit_bias:
            if not 0 <= id < vocab:
                raise InvalidInput(f"logit_bias: expected ids in [0, {vocab}), got {id}")
        if sampling.logprobs > MAX_LOGPROBS:
            raise InvalidInput(f"logprobs: expected at most {MAX_LOGPROBS}, got {sampling.logprobs}")

    def stop_ids(self, sampling: Sampling) -> tuple[int, ...]:
        eos = () if sampling.ignore_eos else self.model_config.eos_token_ids
        return (*eos, *sampling.stop_token_ids)

    def add(self, id: int, tokens: Int32Array, sampling: Sampling, *, gated: bool = False, hold: bool = False) -> None:
        """Queues a request. Raises InvalidInput when it can never run; nothing is changed then."""
        self.check(tokens, sampling)
        self.scheduler.add(
            id, tokens, 1 if hold else sampling.max_tokens, **self.sampling_arguments(sampling),
            priority=sampling.priority, gated=gated, hold=hold,
        )  # fmt: skip

    def sampling_arguments(self, sampling: Sampling) -> dict[str, Any]:
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": sampling.logit_bias,
            "logprobs": sampling.logprobs,
            "seed": sampling.seed,
            "min_tokens": sampling.min_tokens,
            "stop_ids": self.stop_ids(sampling),
        }

    # --- steps

    def has_work(self) -> bool:
        """Is anything queued, running or under way?"""
        return bool(self._under_way) or self.scheduler.has_work()

    def step(
        self,
        before: Callable[[sched.Batch], None] | None = None,
        on_layer: OnLayer | None = None,
    ) -> sched.Committed | None:
        """Keeps as many steps under way as the runner takes, and ends the oldest; None when nothing can run.

        `before` sees each batch before the model does.
        """
        under_way = self._under_way
        while len(under_way) < self.runner.depth:
            batch = self.scheduler.schedule()
            if batch is None:
                break
            if before is not None:
                before(batch)
            under_way.append(self.runner.launch(batch, on_layer))
        if not under_way:
            return None
        self.sampled = under_way.popleft()()
        return self.scheduler.commit(self.sampled.tokens)

    def close(self) -> None:
        """Waits for the steps under way; nothing comes of them. Idempotent."""
        self._under_way.clear()
        self.runner.close()

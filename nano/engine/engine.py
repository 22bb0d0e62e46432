"""One engine without its sockets: checkpoint, KV pool, scheduler and model; `step` makes tokens."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nano._core import kv, sched
from nano.engine.checkpoint import Checkpoint, locate
from nano.engine.config import EngineConfig
from nano.engine.kv_cache import KVLayout, layer_groups
from nano.engine.model_config import ModelConfig, load_model_config, require_fp8_device
from nano.engine.models.qwen3 import Qwen3
from nano.engine.ops import Ops, pool_bytes_available
from nano.engine.ops.cpu import CpuOps
from nano.engine.ops.torch import TorchOps
from nano.errors import InvalidInput, OutOfMemory
from nano.wire import Int32Array, Sampling

if TYPE_CHECKING:
    from nano.transfer import Endpoint

# The default pool: room for this many tokens, within this many bytes. Pages are reserved at once, which takes time.
DEFAULT_POOL_TOKENS = 1 << 16
DEFAULT_POOL_BYTES = 1 << 30
WATERMARK = 0.01  # share of the pool kept free for the growth of running requests: no prompt can have it
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all


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
        if device != "cpu" and endpoint is not None:
            raise InvalidInput(f"device: {device}: KV in device memory cannot be transferred yet; use --mode hybrid")
        dtype = DTYPES[model.dtype if config.dtype == "auto" else config.dtype]
        self.threads = config.threads or len(os.sched_getaffinity(0))
        torch.set_num_threads(self.threads)
        self.layout = KVLayout(
            num_layers=model.num_layers,
            num_kv_heads=model.num_kv_heads,
            block_size=config.kvcache_block_size,
            head_dim=model.head_dim,
            itemsize=dtype.itemsize,
            groups=layer_groups(model.num_layers, config.transfer_layer_groups),
        )
        self.max_model_len = config.max_model_len or model.max_position
        if self.max_model_len > model.max_position:
            raise InvalidInput(
                f"max_model_len: the model has {model.max_position} positions, got {config.max_model_len}"
            )
        self.num_blocks = self._size_pool(torch.device(device))
        grantable = self.num_blocks - int(WATERMARK * self.num_blocks)
        self.max_model_len = min(self.max_model_len, grantable * config.kvcache_block_size)
        self.ops: Ops
        pool_bytes = self.num_blocks * self.layout.block_bytes
        if device == "cpu":
            cpu_ops = CpuOps(dtype, self.threads, config.cpu_isa)
            if endpoint is not None:
                self.region = endpoint.allocate(pool_bytes, "kv")
                cpu_ops.bind_pool(self.region.address)
            else:
                self.memory = torch.empty(pool_bytes, dtype=torch.uint8)
                cpu_ops.bind_pool(self.memory.data_ptr())
            self.ops = cpu_ops
        else:
            torch_ops = TorchOps(dtype, device)
            layout = self.layout
            torch_ops.bind_pool(
                torch.empty(
                    self.num_blocks, layout.num_layers, 2, layout.num_kv_heads, layout.block_size, layout.head_dim,
                    dtype=dtype, device=device,
                )
            )  # fmt: skip
            self.ops = torch_ops
        self.device = device
        self.dtype = str(dtype).removeprefix("torch.")
        self.model = Qwen3(model, self.ops, self.layout, config.max_num_batched_tokens, self.max_model_len)
        self._load(progress)
        self.pool = kv.BlockPool(self.num_blocks, config.kvcache_block_size, config.prefix_caching)
        self.scheduler = sched.Scheduler(
            self.pool, config.max_num_batched_tokens, config.max_num_seqs, self.max_model_len, WATERMARK
        )
        self.load_seconds = time.monotonic() - started

    def _size_pool(self, device: torch.device) -> int:
        """Blocks for the pool: what was asked for, else what the largest load needs, within the default and memory."""
        config, block_bytes = self.config, self.layout.block_bytes
        one = math.ceil(-(-self.max_model_len // config.kvcache_block_size) / (1 - WATERMARK))
        if config.kvcache_bytes:
            blocks = config.kvcache_bytes // block_bytes
            if blocks < 2:
                raise InvalidInput(f"kvcache_bytes: one block is {block_bytes} bytes, got {config.kvcache_bytes}")
        else:
            tokens = min(self.max_model_len * config.max_num_seqs, max(DEFAULT_POOL_TOKENS, self.max_model_len))
            blocks = min(max(-(-tokens // config.kvcache_block_size), one), DEFAULT_POOL_BYTES // block_bytes)
            if config.max_model_len:
                blocks = max(blocks, one)  # who names a length gets room for it
        blocks = max(blocks, 2)
        available = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else pool_bytes_available()
        if blocks * block_bytes > available:
            raise OutOfMemory(
                f"KV pool: {blocks} blocks need {blocks * block_bytes} bytes, {available} are available; "
                "lower --kvcache_bytes or --max_model_len"
            )
        return blocks

    def _load(self, progress: Progress | None) -> None:
        checkpoint = Checkpoint(self.directory)
        total, done = checkpoint.total_bytes, 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            if progress is not None:
                progress("weights", done, total)

        self.model.load(checkpoint, advance)

    # --- requests

    def check(self, tokens: Int32Array) -> None:
        """Raises InvalidInput for token ids that the model does not have."""
        vocab = self.model_config.vocab_size
        if tokens.size and (int(tokens.min()) < 0 or int(tokens.max()) >= vocab):
            bad = next(int(t) for t in tokens if not 0 <= t < vocab)
            raise InvalidInput(f"token_ids: expected ids in [0, {vocab}), got {bad}")

    def stop_ids(self, sampling: Sampling) -> tuple[int, ...]:
        eos = () if sampling.ignore_eos else self.model_config.eos_token_ids
        return (*eos, *sampling.stop_token_ids)

    def add(self, id: int, tokens: Int32Array, sampling: Sampling, *, gated: bool = False, hold: bool = False) -> None:
        """Queues a request. Raises InvalidInput when it can never run; nothing is changed then."""
        self.check(tokens)
        self.scheduler.add(
            id, tokens, 1 if hold else sampling.max_tokens, **self.sampling_arguments(sampling),
            priority=sampling.priority, gated=gated, hold=hold,
        )  # fmt: skip

    def sampling_arguments(self, sampling: Sampling) -> dict[str, Any]:
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
            "min_tokens": sampling.min_tokens,
            "stop_ids": self.stop_ids(sampling),
        }

    # --- steps

    def step(
        self,
        before: Callable[[sched.Batch], None] | None = None,
        on_layer: Callable[[int], None] | None = None,
    ) -> sched.Committed | None:
        """Schedules and runs one step; None when nothing can run. `before` sees the batch before the model does."""
        batch = self.scheduler.schedule()
        if batch is None:
            return None
        if before is not None:
            before(batch)
        self.ops.begin(batch)
        logits = self.model.forward(batch.num_tokens, batch.num_samples, on_layer)
        tokens: npt.NDArray[np.int32]
        if logits is None:
            tokens = np.empty(0, np.int32)
        else:
            tokens = self.ops.sample(logits, self.model_config.vocab_size, batch.num_samples)
        return self.scheduler.commit(tokens)

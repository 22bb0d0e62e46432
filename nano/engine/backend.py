"""What an engine computes with: its model, the runner of its steps, and the memory of its KV pool."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nano.engine.config import EngineConfig
from nano.engine.kv_cache import KVLayout
from nano.engine.kv_memory import PoolMemory
from nano.engine.kv_scales import KVScales
from nano.engine.models.qwen3 import Qwen3
from nano.engine.runner import Runner
from nano.errors import InvalidInput, OutOfMemory

if TYPE_CHECKING:
    import torch

    from nano.engine.model_config import ModelConfig
    from nano.transfer import Endpoint

# A CPU's default pool: room for this many tokens, within this many bytes. Pages are reserved at once, which takes time.
DEFAULT_POOL_TOKENS = 1 << 16
DEFAULT_POOL_BYTES = 1 << 30
WATERMARK = 0.01  # share of the pool kept free for the growth of running requests: no prompt can have it

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all


@dataclass(frozen=True)
class Plan:
    """What both kinds of backend are built from."""

    config: EngineConfig
    directory: Path
    model: ModelConfig
    layout: KVLayout
    kv_scales: KVScales
    dtype: torch.dtype
    max_model_len: int
    endpoint: Endpoint | None
    progress: Progress | None

    def blocks(self, available: int, usual: int, lower: str) -> int:
        """Blocks of the pool: those asked for, else `usual`; `available` bytes must hold them.

        Raises OutOfMemory saying what was needed and that `lower` can be lowered.
        """
        block_bytes, blocks = self.layout.block_bytes, self.asked
        if not blocks:
            blocks = usual
            if self.config.max_model_len:
                blocks = max(blocks, self.longest)  # who names a length gets room for it
        blocks = max(blocks, 2)
        if blocks * block_bytes > available:
            raise OutOfMemory(
                f"KV pool: {blocks} blocks need {blocks * block_bytes} bytes, {max(available, 0)} are available; "
                f"lower {lower}"
            )
        return blocks

    @property
    def asked(self) -> int:
        """Blocks that kvcache_bytes names; 0 where it names none."""
        nbytes, block_bytes = self.config.kvcache_bytes, self.layout.block_bytes
        if nbytes and nbytes < 2 * block_bytes:
            raise InvalidInput(f"kvcache_bytes: one block is {block_bytes} bytes, got {nbytes}")
        return nbytes // block_bytes

    @property
    def longest(self) -> int:
        """Blocks of a pool that holds one request of max_model_len tokens."""
        return math.ceil(-(-self.max_model_len // self.config.kvcache_block_size) / (1 - WATERMARK))

    @property
    def most(self) -> int:
        """Blocks that max_num_seqs requests of max_model_len tokens could use."""
        return -(-self.max_model_len * self.config.max_num_seqs // self.config.kvcache_block_size)


@dataclass
class Backend:
    model: Qwen3
    runner: Runner
    memory: PoolMemory
    num_blocks: int

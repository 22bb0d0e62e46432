"""The backend on a CPU: native kernels, weights packed as they are read."""

from __future__ import annotations

import torch

from nano.engine import kv_cache
from nano.engine.backend import DEFAULT_POOL_BYTES, DEFAULT_POOL_TOKENS, Backend, Plan
from nano.engine.checkpoint import Checkpoint
from nano.engine.kv_memory import allocate_pool
from nano.engine.models.qwen3 import Qwen3
from nano.engine.ops import pool_bytes_available
from nano.engine.ops.cpu import CpuOps
from nano.engine.runner import CpuRunner
from nano.errors import InvalidInput


def build(plan: Plan, threads: int) -> Backend:
    config, layout = plan.config, plan.layout
    if config.load_format != "auto":
        raise InvalidInput(f"load_format: {config.load_format} needs a GPU; `nano.demo` makes random checkpoints")
    if config.attention_backend != "auto":
        raise InvalidInput(f"attention_backend: {config.attention_backend} needs a GPU")
    if layout.dtype == kv_cache.FP8:
        raise InvalidInput("kv_cache_dtype: fp8 needs a CUDA device; this engine runs on a CPU, whose KV cache is auto")
    block_bytes = layout.block_bytes
    tokens = min(plan.max_model_len * config.max_num_seqs, max(DEFAULT_POOL_TOKENS, plan.max_model_len))
    usual = min(max(-(-tokens // layout.block_size), plan.longest), DEFAULT_POOL_BYTES // block_bytes)
    num_blocks = plan.blocks(pool_bytes_available(), usual, "--kvcache_bytes or --max_model_len")
    memory = allocate_pool(plan.endpoint, num_blocks * block_bytes, torch.device("cpu"))
    ops = CpuOps(plan.dtype, threads, config.cpu_isa)
    ops.bind_pool(memory.address)
    model = Qwen3(plan.model, ops, layout, config.max_num_batched_tokens, config.max_num_seqs, plan.max_model_len)
    load(plan, model)
    return Backend(model, CpuRunner(model, ops), memory, num_blocks)


def load(plan: Plan, model: Qwen3) -> None:
    """Packs every weight. Raises InvalidInput naming weights that are missing, unknown or of another shape."""
    checkpoint = Checkpoint(plan.directory)
    total, done = checkpoint.total_bytes, 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if plan.progress is not None:
            plan.progress("weights", done, total)

    expected = model.targets()
    for name, tensor in checkpoint.tensors(advance, checkpoint.entries):
        if name == "lm_head.weight" and plan.model.tied:
            continue
        if name not in expected:
            if name.endswith("rotary_emb.inv_freq"):
                continue
            raise InvalidInput(f"{checkpoint.directory}: unknown weight {name}")
        target = expected.pop(name)
        if tuple(tensor.shape) != target.shape:
            raise InvalidInput(f"{checkpoint.directory}: {name}: expected {target.shape}, got {tuple(tensor.shape)}")
        target.store(tensor)
    if expected:
        some = ", ".join(sorted(expected)[:3])
        raise InvalidInput(f"{checkpoint.directory}: {len(expected)} weights are missing: {some}, …")

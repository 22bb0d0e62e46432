"""The backend on a CUDA device: Triton kernels, graphs, a KV pool of what the weights and a dry run leave."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from nano.engine import cpu_backend, kv_cache, loader
from nano.engine.attention_chooser import AttentionChooser
from nano.engine.backend import Backend, Plan
from nano.engine.checked_runner import CheckedRunner
from nano.engine.cuda_runner import DEPTH, CudaRunner, limits_of
from nano.engine.gpu_memory import Usage, refuse_weights, weight_bytes, workspace_failed
from nano.engine.kernels.flashinfer_attention import Shape
from nano.engine.kv_memory import allocate_pool
from nano.engine.models.qwen3 import Qwen3
from nano.engine.ops.cpu import CpuOps
from nano.engine.ops.cuda import CudaOps
from nano.engine.step_arrays import StepArrays
from nano.errors import InvalidInput

FP8_CONVERSION = (8, 9)  # the least compute capability that converts from and to e4m3


def build(plan: Plan, device: torch.device) -> Backend:
    """Raises OutOfMemory saying what was needed and which option to change."""
    weights, (free, total) = weight_bytes(plan.model, plan.dtype.itemsize), _memory(device)
    refuse_weights(str(device), weights, free, total)
    try:
        return _build(plan, device, weights)
    except torch.cuda.OutOfMemoryError as error:
        raise workspace_failed(str(device), plan, weights, free, error) from None


def _build(plan: Plan, device: torch.device, weights: int) -> Backend:
    config, layout = plan.config, plan.layout
    if layout.dtype == kv_cache.FP8:
        _require_fp8_conversion(device)
    width = -(-plan.max_model_len // config.kvcache_block_size)
    limits = limits_of(config.max_num_batched_tokens, config.max_num_seqs, width)
    arrays = StepArrays(limits, device, DEPTH)
    ops = CudaOps(plan.dtype, device, arrays)
    model = Qwen3(plan.model, ops, layout, limits.tokens, limits.seqs, plan.max_model_len)
    targets = {name: target.view for name, target in model.targets().items() if target.view is not None}
    if config.load_format == "dummy":
        loader.dummy(targets, seed=0)
    else:
        loader.load(plan.directory, targets, plan.progress)
    heads = plan.model.num_heads, plan.model.num_kv_heads, plan.model.head_dim
    shape = Shape(*heads, layout.block_size, plan.dtype)
    cache_dtype = getattr(torch, layout.dtype)
    ops.bind_attention(AttentionChooser(config.attention_backend, shape, cache_dtype, arrays, DEPTH, device))
    runner = CudaRunner(model, ops, arrays, config.cuda_graphs)
    ops.bind_pool(_shaped(plan, allocate_pool(None, 2 * layout.block_bytes, device).tensor), plan.kv_scales)
    runner.dry_run()
    num_blocks = _usage(device, weights).blocks(plan)
    memory = allocate_pool(plan.endpoint, num_blocks * layout.block_bytes, device)
    ops.bind_pool(_shaped(plan, memory.tensor), plan.kv_scales)
    checked = _checked(plan, model, runner, num_blocks) if config.check else None
    ops.attention_chooser.start()
    return Backend(model, checked or runner, memory, num_blocks)


def _checked(plan: Plan, model: Qwen3, runner: CudaRunner, num_blocks: int) -> CheckedRunner:
    """With a twin on the CPU that has the same weights, and a KV pool of its own of as many blocks, in its dtype."""
    config = plan.config
    layout = replace(plan.layout, dtype=str(plan.dtype).removeprefix("torch."))
    if plan.endpoint is not None or config.load_format == "dummy" or plan.model.fp8 is not None:
        raise InvalidInput("check: expected a hybrid engine with the weights of a checkpoint that is not fp8")
    ops = CpuOps(plan.dtype, config.threads or len(os.sched_getaffinity(0)), config.cpu_isa)
    pool = allocate_pool(None, num_blocks * layout.block_bytes, torch.device("cpu"))
    ops.bind_pool(pool.address)
    twin = Qwen3(plan.model, ops, layout, config.max_num_batched_tokens, config.max_num_seqs, plan.max_model_len)
    cpu_backend.load(plan, twin)
    return CheckedRunner(runner, model, twin, ops, pool, plan.kv_scales)


def _require_fp8_conversion(device: torch.device) -> None:
    if device.type != "cuda":  # the interpreter's
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < FP8_CONVERSION:
        raise InvalidInput(
            f"kv_cache_dtype: fp8 needs a CUDA device of compute capability {FP8_CONVERSION[0]}.{FP8_CONVERSION[1]} or "
            f"more, got {device}, which has {capability[0]}.{capability[1]}"
        )


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes free and in all."""
    if device.type != "cuda":  # the interpreter's
        return 2 << 30, 2 << 30
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return int(free), int(total)


def _usage(device: torch.device, weights: int) -> Usage:
    free, total = _memory(device)
    if device.type != "cuda":
        return Usage(str(device), total, free, 0, 0)
    return Usage(str(device), total, free, weights, max(torch.cuda.memory_reserved(device) - weights, 0))


def _shaped(plan: Plan, memory: torch.Tensor) -> torch.Tensor:
    layout = plan.layout
    return memory.view(getattr(torch, layout.dtype)).view(layout.pool_shape)

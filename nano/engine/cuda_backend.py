"""The backend on a CUDA device: Triton kernels, graphs, a KV pool of what the weights and a dry run leave."""

from __future__ import annotations

import os

import torch

from nano.engine import cpu_backend, loader
from nano.engine.attention_backends import AttentionBackends
from nano.engine.backend import Backend, Plan
from nano.engine.checked_runner import CheckedRunner
from nano.engine.cuda_runner import DEPTH, CudaRunner, limits_of
from nano.engine.kernels.flashinfer_attention import Shape
from nano.engine.kv_memory import allocate_pool
from nano.engine.models.qwen3 import Qwen3
from nano.engine.ops.cpu import CpuOps
from nano.engine.ops.cuda import CudaOps
from nano.engine.step_arrays import StepArrays
from nano.errors import InvalidInput, OutOfMemory

GRAPHS_BYTES = 512 << 20  # for CUDA graphs, compiled kernels and the allocator's slack
LOWER = "--max_num_batched_tokens or --max_model_len, or raise --gpu_memory_utilization"


def build(plan: Plan, device: torch.device) -> Backend:
    config, layout = plan.config, plan.layout
    width = -(-plan.max_model_len // config.kvcache_block_size)
    limits = limits_of(config.max_num_batched_tokens, config.max_num_seqs, width)
    arrays = StepArrays(limits, device, DEPTH)
    ops = CudaOps(plan.dtype, device, arrays)
    try:
        model = Qwen3(plan.model, ops, layout, limits.tokens, limits.seqs, plan.max_model_len)
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemory(f"{device}: weights and workspace: {error}; lower --max_num_batched_tokens") from None
    targets = {name: target.view for name, target in model.targets().items() if target.view is not None}
    if config.load_format == "dummy":
        loader.dummy(targets, seed=0)
    else:
        loader.load(plan.directory, targets, plan.progress)
    model_heads = plan.model.num_heads, plan.model.num_kv_heads, plan.model.head_dim
    shape = Shape(*model_heads, config.kvcache_block_size, plan.dtype)
    ops.bind_attention(AttentionBackends(config.attention_backend, shape, plan.dtype, arrays, DEPTH, device))
    runner = CudaRunner(model, ops, arrays, config.cuda_graphs)
    ops.bind_pool(_shaped(plan, allocate_pool(None, 2 * layout.block_bytes, device).tensor))
    runner.dry_run()
    usual = min(_available(config.gpu_memory_utilization, device) // layout.block_bytes, plan.most)
    num_blocks = plan.blocks(_available(1.0, device), usual, LOWER)
    memory = allocate_pool(plan.endpoint, num_blocks * layout.block_bytes, device)
    ops.bind_pool(_shaped(plan, memory.tensor))
    checked = _checked(plan, model, runner, num_blocks) if config.check else None
    ops.attention_backends.start()
    return Backend(model, checked or runner, memory, num_blocks)


def _checked(plan: Plan, model: Qwen3, runner: CudaRunner, num_blocks: int) -> CheckedRunner:
    """With a twin on the CPU that has the same weights, and a KV pool of its own of the same size."""
    config = plan.config
    if plan.endpoint is not None or config.load_format == "dummy" or plan.model.fp8 is not None:
        raise InvalidInput("check: expected a hybrid engine with the weights of a checkpoint that is not fp8")
    ops = CpuOps(plan.dtype, config.threads or len(os.sched_getaffinity(0)), config.cpu_isa)
    pool = allocate_pool(None, num_blocks * plan.layout.block_bytes, torch.device("cpu"))
    ops.bind_pool(pool.address)
    twin = Qwen3(plan.model, ops, plan.layout, config.max_num_batched_tokens, config.max_num_seqs, plan.max_model_len)
    cpu_backend.load(plan, twin)
    return CheckedRunner(runner, model, twin, ops, pool)


def _available(utilization: float, device: torch.device) -> int:
    """Bytes for the pool, when weights and workspace are there, so that all of it is this share of the device."""
    if device.type != "cuda":  # the interpreter's
        return 64 << 20
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return int(free - (1.0 - utilization) * total) - GRAPHS_BYTES


def _shaped(plan: Plan, memory: torch.Tensor) -> torch.Tensor:
    layout = plan.layout
    shape = (-1, layout.num_layers, 2, layout.num_kv_heads, layout.block_size, layout.head_dim)
    return memory.view(plan.dtype).view(shape)

"""The CPU engine's matrix products against limits measured in the same run.

    pytest bench/test_linear.py --benchmark-json=linear.json

Weights: the share of the read bandwidth (the fastest of two programs that only read) at which products with few rows
go through Qwen3-0.6B's layers. Prefill: the rate of arithmetic beside torch's bf16 matmul.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from nano._core import cpu

THREADS = len(os.sched_getaffinity(0))
# Qwen3-0.6B: q + k + v, o, gate + up, down as [n, k], and how many layers there are.
LAYER = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072)]
LAYERS = 28


def best(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of some runs, after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.fixture(scope="module")
def context() -> cpu.Context:
    torch.set_num_threads(THREADS)
    return cpu.Context(THREADS, spin_us=1000)


@pytest.fixture(scope="module")
def bandwidth() -> float:
    """GB/s at which this machine reads 1 GiB."""
    data = np.ones(1 << 28, np.float32)
    tensor = torch.from_numpy(data)
    parts = np.array_split(data, THREADS)
    with ThreadPoolExecutor(THREADS) as threads:
        seconds = min(best(lambda: list(threads.map(np.max, parts))), best(tensor.sum))
    return data.nbytes / seconds / 1e9


def pack(context: cpu.Context, weight: torch.Tensor) -> cpu.Linear:
    linear = cpu.Linear(context, *weight.shape, cpu.BF16)
    linear.load(0, len(weight), weight.data_ptr(), cpu.BF16)
    return linear


def run(linear: cpu.Linear, x: torch.Tensor, y: torch.Tensor) -> None:
    linear.run(x.data_ptr(), len(x), x.stride(0), y.data_ptr(), y.stride(0))


def check(x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor) -> None:
    torch.testing.assert_close(y, x.float() @ weight.float().T, rtol=1e-4, atol=1e-3)


def report(benchmark: BenchmarkFixture, **facts: float | str) -> None:
    benchmark.extra_info.update(facts, threads=THREADS, isa=cpu.isas()[0], torch=torch.__version__)
    print(f"\n{benchmark.name}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))


@pytest.fixture(scope="module")
def layers(context: cpu.Context) -> list[cpu.Linear]:
    """As many weights as the model has, 880 MB: no cache holds them."""
    weights = [torch.randn(n, k).bfloat16() for n, k in LAYER]
    packed = [pack(context, weight) for _ in range(LAYERS) for weight in weights]
    for linear, weight in zip(packed, weights, strict=False):
        x, y = torch.randn(3, linear.k).bfloat16(), torch.empty(3, linear.n)
        run(linear, x, y)
        check(x, weight, y)
    return packed


@pytest.mark.parametrize("rows", [1, 4, 8, 16, 32])
def test_weights(benchmark: BenchmarkFixture, layers: list[cpu.Linear], bandwidth: float, rows: int) -> None:
    inputs = {k: torch.randn(rows, k).bfloat16() for _, k in LAYER}
    y = torch.empty(rows, max(n for n, _ in LAYER))

    def step() -> None:
        for linear in layers:
            run(linear, inputs[linear.k], y)

    benchmark.pedantic(step, rounds=8, warmup_rounds=1)
    seconds = benchmark.stats.stats.min
    reached = sum(linear.nbytes for linear in layers) / seconds / 1e9
    flops = 2 * rows * sum(linear.n * linear.k for linear in layers)
    report(
        benchmark,
        weights_gb_s=round(reached, 1),
        read_bandwidth_gb_s=round(bandwidth, 1),
        ratio=round(reached / bandwidth, 2),
        gflop_s=round(flops / seconds / 1e9),
    )


@pytest.mark.parametrize(("m", "n", "k"), [(1024, 3072, 1024), (1024, 1024, 3072), (128, 6144, 1024)])
def test_prefill(benchmark: BenchmarkFixture, context: cpu.Context, m: int, n: int, k: int) -> None:
    x, weight = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
    y, peer = torch.empty(m, n), torch.empty(m, n, dtype=torch.bfloat16)
    linear = pack(context, weight)
    run(linear, x, y)
    check(x, weight, y)
    benchmark.pedantic(lambda: run(linear, x, y), rounds=15, warmup_rounds=2)
    flops = 2 * m * n * k / 1e9
    ours = flops / benchmark.stats.stats.min
    torchs = flops / best(lambda: torch.mm(x, weight.T, out=peer), 15)
    report(benchmark, gflop_s=round(ours), torch_bf16_gflop_s=round(torchs), ratio=round(ours / torchs, 2))


@pytest.mark.parametrize(("n", "k"), [(8, 8), (256, 256), (1024, 256)])
def test_tiny(benchmark: BenchmarkFixture, context: cpu.Context, n: int, k: int) -> None:
    """What a call costs: Python, the wake-up of the team, and little arithmetic."""
    x, weight, y = torch.randn(1, k).bfloat16(), torch.randn(n, k).bfloat16(), torch.empty(1, n)
    linear = pack(context, weight)
    run(linear, x, y)
    check(x, weight, y)
    arguments = (x.data_ptr(), 1, k, y.data_ptr(), n)

    def calls() -> None:
        for _ in range(1000):
            linear.run(*arguments)

    benchmark.pedantic(calls, rounds=20, warmup_rounds=1)
    report(benchmark, microseconds_a_call=round(benchmark.stats.stats.min * 1e3, 2))


def test_load(benchmark: BenchmarkFixture, context: cpu.Context) -> None:
    """Packing into memory that the process already has; the first touch of fresh pages is the kernel's time."""
    weight = torch.randn(6144, 8192).bfloat16()
    linear = pack(context, weight)
    benchmark.pedantic(lambda: linear.load(0, len(weight), weight.data_ptr(), cpu.BF16), rounds=8)
    fresh = best(lambda: pack(context, weight), 3)
    report(
        benchmark,
        packed_gb_s=round(linear.nbytes / benchmark.stats.stats.min / 1e9, 1),
        with_fresh_pages_gb_s=round(linear.nbytes / fresh / 1e9, 1),
    )


@pytest.mark.parametrize("tokens", [1, 16, 512])
def test_experts(benchmark: BenchmarkFixture, context: cpu.Context, bandwidth: float, tokens: int) -> None:
    """Qwen3-30B-A3B's experts: hidden 2048, intermediate 768, 8 of (here) 48."""
    experts, hidden, inter, top_k = 48, 2048, 768, 8
    gate, up = (torch.randn(inter, hidden).bfloat16() / 45 for _ in range(2))
    down = torch.randn(hidden, inter).bfloat16() / 28
    packed = cpu.Experts(context, experts, hidden, inter, cpu.BF16)
    for e in range(experts):
        packed.load(e, gate.data_ptr(), up.data_ptr(), down.data_ptr(), cpu.BF16)
    x = torch.randn(tokens, hidden).bfloat16()
    weights = torch.full((tokens, top_k), 1 / top_k)
    y = torch.zeros(tokens, hidden)
    # Other experts in each round, so that none is in a cache.
    choices = [torch.stack([torch.randperm(experts)[:top_k] for _ in range(tokens)]).int() for _ in range(12)]

    def step(ids: torch.Tensor) -> None:
        packed.run(x.data_ptr(), tokens, ids.data_ptr(), weights.data_ptr(), top_k, y.data_ptr())

    step(choices[0])
    active = torch.nn.functional.silu(x.float() @ gate.float().T) * (x.float() @ up.float().T)
    torch.testing.assert_close(y, active.bfloat16().float() @ down.float().T, rtol=1e-2, atol=1e-2)
    rounds = iter(choices)
    benchmark.pedantic(step, setup=lambda: ((next(rounds),), {}), rounds=len(choices))
    seconds = benchmark.stats.stats.min
    touched = float(np.mean([len(ids.unique()) for ids in choices]))
    reached = touched * packed.nbytes / experts / seconds / 1e9
    report(
        benchmark,
        weights_gb_s=round(reached, 1),
        ratio_to_read_bandwidth=round(reached / bandwidth, 2),
        gflop_s=round(6 * tokens * top_k * hidden * inter / seconds / 1e9),
    )

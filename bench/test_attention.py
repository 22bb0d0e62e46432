"""The CPU engine's attention, fused ops and sampling against limits measured in the same run.

    pytest bench/test_attention.py --benchmark-json=attention.json

Prefill: the rate of arithmetic beside that of our own matrix products, and the share of a step of Qwen3-0.6B that it
takes. Decode: the share of the read bandwidth at which the cache is gone through.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from nano._core import cpu

THREADS = len(os.sched_getaffinity(0))
DTYPES = {"bf16": (cpu.BF16, torch.bfloat16), "fp32": (cpu.F32, torch.float32)}
LAYERS = 28  # Qwen3-0.6B's
LAYER_WEIGHTS = 4096 * 1024 + 1024 * 2048 + 6144 * 1024 + 1024 * 3072


def best(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of some runs, after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def report(benchmark: BenchmarkFixture, **facts: float | str) -> None:
    benchmark.extra_info.update(facts, threads=THREADS, isa=cpu.isas()[0], torch=torch.__version__)
    print(f"\n{benchmark.name}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))


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


def product_rate(context: cpu.Context, dtype: int, kind: torch.dtype, m: int) -> float:
    """GFLOP/s of our product of m rows with a weight [3072, 1024]."""
    x, weight, y = torch.randn(m, 1024).to(kind), torch.randn(3072, 1024).to(kind), torch.empty(m, 3072)
    linear = cpu.Linear(context, 3072, 1024, dtype)
    linear.load(0, 3072, weight.data_ptr(), dtype)
    return 2e-9 * m * 3072 * 1024 / best(lambda: linear.run(x.data_ptr(), m, 1024, y.data_ptr(), 3072), 15)


@dataclass
class Step:
    """One layer's attention of a batch of equal sequences."""

    rows: int
    length: int
    seqs: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    block_size: int = 64

    def __post_init__(self) -> None:
        blocks = -(-self.length // self.block_size)
        kind = DTYPES[self.dtype][1]
        shape = (self.seqs * blocks, 1, 2, self.kv_heads, self.block_size, self.head_dim)
        self.pool = torch.randn(shape).to(kind)
        self.table = torch.randperm(self.seqs * blocks).reshape(self.seqs, blocks).int()
        self.q = torch.randn(self.seqs * self.rows, self.heads, self.head_dim).to(kind)
        self.out = torch.full_like(self.q, torch.nan)
        self.cu = torch.arange(self.seqs + 1).int() * self.rows
        self.lengths = torch.full((self.seqs,), self.length).int()

    def run(self, context: cpu.Context) -> None:
        cpu.attention(
            context,
            self.q.data_ptr(),
            self.out.data_ptr(),
            self.pool.data_ptr(),
            self.cu.data_ptr(),
            self.lengths.data_ptr(),
            self.table.data_ptr(),
            self.seqs,
            self.table.shape[1],
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.block_size,
            self.pool.stride(0),
            self.pool.stride(2),
            self.pool.stride(3),
            self.head_dim**-0.5,
            DTYPES[self.dtype][0],
        )

    def check(self) -> None:
        """The first and the last sequence against torch."""
        for seq in {0, self.seqs - 1}:
            kv = self.pool[self.table[seq].long(), 0].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, : self.length].float()
            q = self.q[seq * self.rows : (seq + 1) * self.rows].float().transpose(0, 1)
            visible = torch.ones(self.rows, self.length).tril(self.length - self.rows).bool()
            want = torch.nn.functional.scaled_dot_product_attention(
                q, *kv.repeat_interleave(self.heads // self.kv_heads, 1), attn_mask=visible
            )
            got = self.out[seq * self.rows : (seq + 1) * self.rows].float().transpose(0, 1)
            error = ((got - want).abs().max() / want.abs().max()).item()
            assert error < (1e-2 if self.dtype == "bf16" else 1e-5), error

    @property
    def flops(self) -> int:
        seen = self.rows * (self.length - self.rows) + self.rows * (self.rows + 1) // 2
        return 4 * self.seqs * self.heads * self.head_dim * seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [128, 1024])
def test_prefill(benchmark: BenchmarkFixture, context: cpu.Context, rows: int, dtype: str) -> None:
    step = Step(rows, rows, 1, 16, 8, 128, dtype)
    step.run(context)
    step.check()
    benchmark.pedantic(lambda: step.run(context), rounds=15, warmup_rounds=2)
    seconds = benchmark.stats.stats.min
    rate = product_rate(context, *DTYPES[dtype], rows)
    products = 2e-9 * rows * LAYER_WEIGHTS / rate
    report(
        benchmark,
        gflop_s=round(step.flops / seconds / 1e9),
        products_gflop_s=round(rate),
        ratio=round(step.flops / seconds / 1e9 / rate, 2),
        share_of_step=f"{seconds / (seconds + products):.1%}",
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("seqs", "length"), [(1, 16384), (32, 1024), (128, 256)])
def test_decode(
    benchmark: BenchmarkFixture, context: cpu.Context, bandwidth: float, seqs: int, length: int, dtype: str
) -> None:
    step = Step(1, length, seqs, 16, 8, 128, dtype)  # 64 MB of K and V at 2 bytes each, more than the caches hold
    step.run(context)
    step.check()
    benchmark.pedantic(lambda: step.run(context), rounds=15, warmup_rounds=2)
    reached = step.pool.nbytes / benchmark.stats.stats.min / 1e9
    report(
        benchmark,
        kv_gb_s=round(reached, 1),
        read_bandwidth_gb_s=round(bandwidth, 1),
        ratio=round(reached / bandwidth, 2),
    )


@pytest.mark.parametrize(("seqs", "length"), [(1, 128), (32, 150)])
def test_tiny_decode(benchmark: BenchmarkFixture, context: cpu.Context, seqs: int, length: int) -> None:
    """A layer of a model of 4 layers and hidden size 256, where overhead rules."""
    step = Step(1, length, seqs, 8, 4, 32, "bf16")
    step.run(context)
    step.check()

    def calls() -> None:
        for _ in range(100):
            step.run(context)

    benchmark.pedantic(calls, rounds=15, warmup_rounds=2)
    report(benchmark, microseconds_a_call=round(benchmark.stats.stats.min * 1e4, 2))


def test_smallest_call(benchmark: BenchmarkFixture, context: cpu.Context) -> None:
    """What any kernel costs at least: Python's call, the arguments, the GIL."""
    x, weight, out = torch.randn(8), torch.ones(8), torch.empty(8)
    arguments = (context, x.data_ptr(), weight.data_ptr(), out.data_ptr(), 1, 8, 1e-6, cpu.F32)

    def calls() -> None:
        for _ in range(1000):
            cpu.rms_norm(*arguments)

    benchmark.pedantic(calls, rounds=20, warmup_rounds=1)
    torch.testing.assert_close(out, torch.nn.functional.rms_norm(x, (8,), weight, 1e-6))
    report(benchmark, microseconds_a_call=round(benchmark.stats.stats.min * 1e3, 2))


@pytest.mark.parametrize("how", ["greedy", "temperature", "top_k", "top_p"])
@pytest.mark.parametrize("rows", [1, 32])
def test_sample(benchmark: BenchmarkFixture, context: cpu.Context, rows: int, how: str) -> None:
    """Rows of Qwen3's vocabulary; flat logits, the worst case for top_p."""
    vocab = 151936
    logits = torch.randn(rows, vocab)
    temperature = torch.full((rows,), 0.0 if how == "greedy" else 0.6)
    top_p = torch.full((rows,), 0.9 if how == "top_p" else 1.0)
    top_k = torch.full((rows,), 50 if how == "top_k" else 0).int()
    seeds, positions, out = torch.arange(rows), torch.arange(rows).int(), torch.full((rows,), -1).int()
    arrays = [x.data_ptr() for x in (temperature, top_p, top_k, seeds, positions, out)]
    benchmark.pedantic(lambda: cpu.sample(context, logits.data_ptr(), rows, vocab, *arrays), rounds=30, warmup_rounds=3)
    rank = (logits > logits.gather(1, out[:, None].long())).sum(1)
    assert (rank < {"greedy": 1, "top_k": 50}.get(how, vocab)).all()
    torchs = best(lambda: logits.argmax(1), 15)
    seconds = benchmark.stats.stats.min
    report(
        benchmark,
        microseconds_a_row=round(seconds / rows * 1e6, 1),
        torch_argmax_microseconds_a_row=round(torchs / rows * 1e6, 1),
        ratio=round(torchs / seconds, 2),
    )

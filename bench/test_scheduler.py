"""Scheduler: time of schedule + commit as Python calls them. Limit: 10 us at 256 decoding sequences.

pytest bench/test_scheduler.py
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from nano._core.kv import BlockPool
from nano._core.sched import Scheduler

SEQUENCES = 256
LIMIT_US = 10


def report(benchmark: BenchmarkFixture) -> None:
    step = benchmark.stats.stats.median * 1e6
    benchmark.extra_info["us_per_step"] = round(step, 2)
    benchmark.extra_info["share_of_limit"] = round(step / LIMIT_US, 3)
    print(f"\n{benchmark.name}: {step:.1f} us a step, {step / LIMIT_US:.0%} of the limit of {LIMIT_US} us")


@pytest.fixture(params=[128, 4096], ids=lambda length: f"context{length}")
def decoding(request: pytest.FixtureRequest) -> Iterator[Scheduler]:
    """256 sequences with `param` tokens and more, each in its decode."""
    scheduler = Scheduler(BlockPool(40000, 64), 16384, SEQUENCES, 8192)
    for id in range(SEQUENCES):
        prompt = np.arange(id, id + request.param + id % 64, dtype=np.int32)
        scheduler.add(id, prompt, 8192, stop_ids=[1, 2], seed=id, temperature=0.6)
    while True:
        batch = scheduler.schedule()
        assert batch is not None
        decodes = batch.num_tokens == SEQUENCES
        scheduler.commit(np.full(batch.num_samples, 7, np.int32))
        if decodes:
            break
    yield scheduler
    for id in range(SEQUENCES):
        assert scheduler.abort(id)
    assert scheduler.stats()["free_blocks"] == 40000


def test_decode_step(benchmark: BenchmarkFixture, decoding: Scheduler) -> None:
    tokens = np.full(SEQUENCES, 7, np.int32)

    def step() -> tuple[int, int]:
        batch = decoding.schedule()
        assert batch is not None
        return batch.num_tokens, len(decoding.commit(tokens).ids)

    assert benchmark.pedantic(step, rounds=1500, iterations=1, warmup_rounds=50) == (SEQUENCES, SEQUENCES)
    report(benchmark)


def test_decode_step_one_behind(benchmark: BenchmarkFixture) -> None:
    """Each step is scheduled while the one before is under way."""
    scheduler = Scheduler(BlockPool(40000, 64), 16384, SEQUENCES, 8192, depth=2)
    for id in range(SEQUENCES):
        scheduler.add(id, np.arange(id, id + 128 + id % 64, dtype=np.int32), 8000, stop_ids=[1, 2], temperature=0.6)
    flight = [scheduler.schedule()]
    while scheduler.stats()["waiting"]:
        flight.append(scheduler.schedule())
        scheduler.commit(np.full(flight.pop(0).num_samples, 7, np.int32))
    scheduler.schedule()
    scheduler.commit(np.full(flight.pop(0).num_samples, 7, np.int32))
    tokens = np.full(SEQUENCES, 7, np.int32)

    def step() -> tuple[int, int]:
        batch = scheduler.schedule()
        assert batch is not None
        return int(batch.token_sources[-1]), len(scheduler.commit(tokens).ids)

    assert benchmark.pedantic(step, rounds=1500, iterations=1, warmup_rounds=50) == (SEQUENCES - 1, SEQUENCES)
    report(benchmark)


def test_decode_step_with_every_array_read(benchmark: BenchmarkFixture, decoding: Scheduler) -> None:
    tokens = np.full(SEQUENCES, 7, np.int32)

    def step() -> int:
        batch = decoding.schedule()
        assert batch is not None
        arrays = (
            batch.ids, batch.token_ids, batch.token_sources, batch.positions, batch.slots, batch.cu_query,
            batch.context_lens, batch.block_tables, batch.sample_rows, batch.sample_seqs, batch.sample_positions,
            batch.temperature, batch.top_p, batch.top_k, batch.min_p, batch.repetition_penalty,
            batch.presence_penalty, batch.frequency_penalty, batch.num_logprobs, batch.seeds, batch.penalized,
            batch.bias_start, batch.bias_ids, batch.bias_values, batch.preempted,
        )  # fmt: skip
        done = decoding.commit(tokens)
        return len(arrays) + len((done.ids, done.indices, done.tokens, done.finish, done.cached))

    assert benchmark.pedantic(step, rounds=1500, iterations=1, warmup_rounds=50) == 30
    report(benchmark)


def test_turnover_step(benchmark: BenchmarkFixture) -> None:
    """Each step one of 256 sequences ends and a prompt of 512 tokens, half of it cached, takes its place."""
    scheduler = Scheduler(BlockPool(20000, 64), 16384, SEQUENCES, 8192)
    shared = np.arange(256, dtype=np.int32)
    rng = np.random.default_rng(0)
    prompts = [np.concatenate([shared, rng.integers(0, 1 << 30, 256, dtype=np.int32)]) for _ in range(512)]
    added = 0

    def add() -> None:
        nonlocal added
        scheduler.add(added, prompts[added % len(prompts)], SEQUENCES)
        added += 1

    def step() -> int:
        add()
        batch = scheduler.schedule()
        assert batch is not None
        scheduler.commit(np.full(batch.num_samples, 7, np.int32))
        return batch.num_seqs

    for _ in range(SEQUENCES):
        step()
    assert benchmark.pedantic(step, rounds=1000, iterations=1, warmup_rounds=50) == SEQUENCES
    report(benchmark)

"""Sampling on the device against a float64 model, and against the CPU's sampler."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_device import CUDA, DEVICE
from sampling_model import drawn, kept, penalized, uniform

from nano.engine.kernels.sampling import LogitBias, Logprobs, Penalties, Sampler, SamplingArrays

# What a GPU computes with infinities is an alarm to NumPy, which interprets the kernels here.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

Array = np.ndarray
DTYPES = [torch.float32, torch.bfloat16]
# top_p, top_k, min_p
FILTERS = [
    (1.0, 0, 0.0), (1.0, 20, 0.0), (0.9, 0, 0.0), (0.7, 50, 0.0), (0.95, 3, 0.1), (1.0, 0, 0.05), (0.99, 700, 0.0),
    (0.5, 0, 0.3), (1.0, 1, 0.0), (1e-6, 0, 0.0), (1.0, 0, 1.0),
]  # fmt: skip


def up(values: object, dtype: Any, rows: int) -> torch.Tensor:
    array = np.array(np.broadcast_to(np.asarray(values, dtype), (rows,)))
    return torch.from_numpy(array.view(np.int64) if array.dtype == np.uint64 else array).to(DEVICE)


def arrays(
    rows: int, temperature: Any, top_p: Any, top_k: Any, min_p: Any, seeds: Any, positions: Any
) -> SamplingArrays:
    return SamplingArrays(
        up(temperature, np.float32, rows), up(top_p, np.float32, rows), up(top_k, np.int32, rows),
        up(min_p, np.float32, rows), up(seeds, np.uint64, rows), up(positions, np.int32, rows),
    )  # fmt: skip


def sample(
    logits: torch.Tensor,
    temperature: Any = 1.0,
    top_p: Any = 1.0,
    top_k: Any = 0,
    min_p: Any = 0.0,
    seeds: Any = 0,
    positions: Any = 0,
    sampler: Sampler | None = None,
    **more: Any,
) -> Array:
    rows, vocab = logits.shape
    sampler = sampler or Sampler(rows, vocab, DEVICE)
    out = torch.full((rows,), -1, dtype=torch.int32, device=DEVICE)
    params = arrays(rows, temperature, top_p, top_k, min_p, seeds, positions)
    before = logits.clone()
    sampler.sample(logits, params, out, **more)
    assert torch.equal(torch.nan_to_num(logits), torch.nan_to_num(before)), "the logits were changed"
    return out.cpu().numpy()


def normal(rows: int, vocab: int, spread: float, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Rows of logits within a wider, NaN array: nothing outside of them may be read."""
    values = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread
    wide = torch.full((rows, vocab + 37), math.nan, dtype=dtype)
    wide[:, :vocab] = values.to(dtype)
    return wide.to(DEVICE)[:, :vocab]


def plain(logits: torch.Tensor) -> Array:
    return logits.float().cpu().numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 2, 127, 128, 129, 5000] + [151936] * CUDA)
def test_greedy_takes_the_smallest_id_among_the_largest(vocab: int, dtype: torch.dtype) -> None:
    logits = normal(3, vocab, 1.0, dtype, vocab)
    np.testing.assert_array_equal(sample(logits, 0.0), plain(logits).argmax(1))
    for places in ([vocab - 1], [0, vocab - 1], [vocab // 2, min(vocab // 2 + 1, vocab - 1)], [vocab // 3, vocab - 1]):
        tied = logits.clone()
        tied[:, places] = 100.0
        assert (sample(tied, 0.0) == min(places)).all()
    assert (sample(torch.full_like(logits, -5.0), 0.0) == 0).all()
    zeros = torch.zeros_like(logits)
    zeros[:, : vocab // 2] = -0.0
    assert (sample(zeros, 0.0) == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("top_p", "top_k", "min_p"), FILTERS)
@pytest.mark.parametrize(("vocab", "temperature", "spread"), [(3, 1.0, 1.0), (700, 0.6, 4.0), (40000, 1.5, 1.0)])
def test_a_draw_inverts_the_distribution_of_what_is_kept(
    vocab: int, temperature: float, spread: float, top_p: float, top_k: int, min_p: float, dtype: torch.dtype
) -> None:
    rows = 64 if CUDA else min(3, 40000 // vocab)
    logits = normal(rows, vocab, spread, dtype, vocab)
    rng = np.random.default_rng(vocab)
    seeds = rng.integers(0, 2**64, rows, dtype=np.uint64)
    positions = rng.integers(0, 2**31, rows).astype(np.int32)
    got = sample(logits, temperature, top_p, top_k, min_p, seeds, positions)
    for row, token, seed, position in zip(plain(logits), got, seeds, positions, strict=True):
        p = kept(row, temperature, top_p, top_k, min_p)
        assert drawn(p, int(token), uniform(int(seed), int(position)))


def assert_drawn_from(allowed: set[int], got: Array) -> None:
    """All of them, where there are draws enough."""
    assert set(got.tolist()) <= allowed
    assert len(got) < 100 or set(got.tolist()) == allowed


def test_top_k_and_top_p_count_ties_by_smaller_id() -> None:
    draws = 400 if CUDA else 3
    positions = np.arange(draws)
    logits = torch.zeros(draws, 1000, device=DEVICE)
    logits[:, 900] = 1.0
    assert_drawn_from({0, 1, 2, 900}, sample(logits, top_k=4, positions=positions))
    assert_drawn_from({900}, sample(logits, top_k=1, positions=positions))
    equal = torch.zeros(draws, 640, dtype=torch.bfloat16, device=DEVICE)
    assert_drawn_from({0, 1, 2, 3}, sample(equal, top_p=0.0049, positions=positions))
    assert_drawn_from({0, 1, 2, 3}, sample(equal, top_p=0.9, top_k=4, positions=positions))
    assert_drawn_from({0, 1, 2}, sample(equal, top_p=0.7, top_k=4, positions=positions))


def test_masked_tokens_are_never_drawn() -> None:
    draws = 300 if CUDA else 2
    logits = torch.full((draws, 2500), -math.inf, device=DEVICE)
    allowed = [3, 1024, 2499]
    logits[:, allowed] = torch.tensor([0.0, 0.5, -0.5], device=DEVICE)
    for top_p, top_k, min_p in ((1.0, 0, 0.0), (0.9, 0, 0.0), (1.0, 2, 0.0), (0.9, 100, 0.1), (1.0, 2000, 0.0)):
        got = sample(logits, 1.0, top_p, top_k, min_p, 3, np.arange(draws))
        assert set(got.tolist()) <= set(allowed)
    logits[:, allowed[:2]] = -math.inf
    for top_p, top_k, min_p in ((1.0, 0, 0.0), (0.9, 0, 0.0), (1.0, 2, 0.5)):
        assert (sample(logits[:2], 1.0, top_p, top_k, min_p, 3) == 2499).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_without_a_finite_largest_give_token_0_and_are_counted(temperature: float) -> None:
    logits = torch.zeros(6, 1500, device=DEVICE)
    logits[:, 7] = 1000.0
    logits[1, 1499] = math.nan
    logits[2, 0] = -math.nan
    logits[3, 700] = math.inf
    logits[4] = -math.inf
    sampler = Sampler(8, 1500, DEVICE)
    for top_p, top_k in ((1.0, 0), (0.9, 5)):
        got = sample(logits, temperature, top_p, top_k, sampler=sampler)
        assert got.tolist() == [7, 0, 0, 0, 0, 7]
    assert sampler.errors.tolist() == [8]


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-7])
def test_temperatures_near_zero_are_greedy(temperature: float) -> None:
    logits = normal(3, 777, 1.0, torch.float32, 4)
    np.testing.assert_array_equal(sample(logits, temperature), plain(logits).argmax(1))


def test_a_token_depends_on_seed_and_position_but_not_on_the_batch() -> None:
    rows, vocab = (50, 20000) if CUDA else (6, 2000)
    logits = normal(rows, vocab, 1.0, torch.bfloat16, 1)
    rng = np.random.default_rng(1)
    temperature = rng.choice(np.array([0.0, 0.5, 1.0], np.float32), rows)
    top_p = rng.choice(np.array([0.5, 0.95, 1.0], np.float32), rows)
    top_k = rng.choice(np.array([0, 1, 40, 5000], np.int32), rows)
    min_p = rng.choice(np.array([0, 0.01, 0.2], np.float32), rows)
    seeds = rng.integers(0, 2**64, rows, dtype=np.uint64)
    positions = rng.integers(0, 4096, rows).astype(np.int32)
    together = sample(logits, temperature, top_p, top_k, min_p, seeds, positions)
    for i in range(rows):
        one = slice(i, i + 1)
        alone = sample(logits[one], temperature[one], top_p[one], top_k[one], min_p[one], seeds[one], positions[one])
        assert alone[0] == together[i]


def test_penalties_count_the_prompt_and_the_outputs() -> None:
    rows, vocab = (32, 3000) if CUDA else (4, 600)
    rng = np.random.default_rng(3)
    logits = normal(rows, vocab, 2.0, torch.float32, 3)
    counts = torch.full((rows + 2, vocab), 77, dtype=torch.int16, device=DEVICE)
    slots = rng.permutation(rows + 2)[:rows].astype(np.int32)
    slots[1] = -1
    repetition = rng.choice(np.array([1.0, 1.3, 0.8], np.float32), rows)
    presence = rng.choice(np.array([0.0, 0.7, -0.5], np.float32), rows)
    frequency = rng.choice(np.array([0.0, 0.3], np.float32), rows)
    prompts = [rng.integers(0, vocab, 40).tolist() for _ in range(rows)]
    outputs = [rng.integers(0, vocab // 20, 60).tolist() for _ in range(rows)]
    for slot, prompt, output in zip(slots, prompts, outputs, strict=True):
        if slot >= 0:
            Penalties.count(*(torch.tensor(t, device=DEVICE) for t in (prompt, output)), counts[int(slot)])
    penalties = Penalties(
        counts, up(slots, np.int32, rows), up(repetition, np.float32, rows), up(presence, np.float32, rows),
        up(frequency, np.float32, rows),
    )  # fmt: skip
    for step, (temperature, top_p, top_k) in enumerate(((0.0, 1.0, 0), (1.0, 1.0, 0), (0.8, 0.9, 40))):
        got = sample(logits, temperature, top_p, top_k, 0.0, 5, np.arange(rows) + step, penalties=penalties)
        for i, token in enumerate(got):
            row = plain(logits)[i]
            if slots[i] >= 0:
                row = penalized(row, prompts[i], outputs[i], repetition[i], presence[i], frequency[i])
            if temperature == 0.0:
                assert row[token] >= row.max() - 1e-5
            else:
                p = kept(row, temperature, top_p, top_k)
                assert drawn(p, int(token), uniform(5, i + step), 1e-5)
            outputs[i].append(int(token))
    for slot, prompt, output in zip(slots, prompts, outputs, strict=True):
        if slot >= 0:
            held = counts[int(slot)].cpu().numpy()
            np.testing.assert_array_equal(held & 0x7FFF, np.bincount(output, minlength=vocab))
            assert set(np.flatnonzero(held < 0).tolist()) == set(prompt)


def test_a_count_stays_at_its_largest() -> None:
    logits = torch.zeros(1, 200, device=DEVICE)
    logits[0, 9] = 50.0
    counts = torch.zeros(1, 200, dtype=torch.int16, device=DEVICE)
    counts[0, 9] = 32767
    one = up(1.0, np.float32, 1)
    sample(logits, 0.0, penalties=Penalties(counts, up(0, np.int32, 1), one, one * 0, one * 0))
    assert counts[0, 9] == 32767


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_is_added_for_the_draw_and_taken_back(dtype: torch.dtype) -> None:
    logits = normal(4, 2000, 1.0, dtype, 9)
    start = torch.tensor([0, 2, 2, 400, 401], dtype=torch.int32, device=DEVICE)
    ids = torch.cat([torch.tensor([1999, 3]), torch.arange(1000, 1398), torch.tensor([0]), torch.zeros(99).long()])
    values = torch.cat([torch.tensor([50.0, 49.0]), torch.full((398,), 20.0), torch.tensor([-math.inf])])
    values = torch.cat([values, torch.zeros(99)])
    bias = LogitBias(start, ids.int().to(DEVICE), values.to(DEVICE), torch.empty(500, device=DEVICE))
    got = sample(logits, 0.0, bias=bias)
    row = plain(logits)
    assert got[0] == 1999
    assert got[1] == row[1].argmax()
    assert got[2] == 1000 + (row[2, 1000:1398] + np.float32(20)).astype(np.float32).argmax() or dtype != torch.float32
    assert 1000 <= got[2] < 1398
    row[3, 0] = -np.inf
    assert got[3] == row[3].argmax()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logprobs_are_of_the_raw_logits_best_first(dtype: torch.dtype) -> None:
    vocab = 3000
    logits = normal(4, vocab, 2.0, dtype, 11)
    logits[2, 100:140] = 20.0
    width = 20
    wanted = np.array([5, 0, 20, -1], np.int32)
    out = Logprobs(
        up(wanted, np.int32, 4),
        torch.full((4,), math.nan, device=DEVICE),
        torch.full((4, width), -7, dtype=torch.int32, device=DEVICE),
        torch.full((4, width), math.nan, device=DEVICE),
    )
    start = torch.arange(5, dtype=torch.int32, device=DEVICE)
    ids = torch.full((4,), 17, dtype=torch.int32, device=DEVICE)
    bias = LogitBias(start, ids, torch.full((4,), 3.0, device=DEVICE), torch.empty(4, device=DEVICE))
    got = sample(logits, [1.0, 0.5, 0.0, 1.0], 0.9, 10, 0.0, 1, np.arange(4), bias=bias, logprobs=out)
    row = plain(logits).astype(np.float64)
    expected = row - (row.max(1) + np.log(np.exp(row - row.max(1, keepdims=True)).sum(1)))[:, None]
    for i, n in enumerate(wanted):
        if n < 0:
            assert math.isnan(out.token[i])
            assert (out.ids[i] == -7).all()
            continue
        assert abs(float(out.token[i]) - expected[i, got[i]]) < 1e-4
        order = np.argsort(-row[i], kind="stable")[:n]
        np.testing.assert_array_equal(out.ids[i, :n].cpu().numpy(), order)
        np.testing.assert_allclose(out.values[i, :n].cpu().numpy(), expected[i, order], atol=1e-4)
        assert (out.ids[i, n:] == -7).all()


def test_the_device_and_the_cpu_choose_the_same_tokens() -> None:
    native = pytest.importorskip("nano._core")
    if not hasattr(native, "cpu"):
        pytest.skip("the native code is not built")
    cpu = native.cpu
    rows, vocab = (64, 20000) if CUDA else (5, 2000)
    logits = normal(rows, vocab, 3.0, torch.float32, 5)
    rng = np.random.default_rng(5)
    temperature = rng.choice(np.array([0.0, 0.5, 1.0], np.float32), rows)
    top_p = rng.choice(np.array([0.5, 0.95, 1.0], np.float32), rows)
    top_k = rng.choice(np.array([0, 5, 40], np.int32), rows)
    min_p = rng.choice(np.array([0, 0.01, 0.2], np.float32), rows)
    seeds = rng.integers(0, 2**64, rows, dtype=np.uint64)
    positions = rng.integers(0, 4096, rows).astype(np.int32)
    got = sample(logits, temperature, top_p, top_k, min_p, seeds, positions)
    out, x = np.zeros(rows, np.int32), np.ascontiguousarray(plain(logits))
    fields = (temperature, top_p, top_k, seeds, positions, out, min_p)
    cpu.sample(cpu.Context(1), x.ctypes.data, rows, vocab, *(field.ctypes.data for field in fields))
    np.testing.assert_array_equal(got, out)


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_a_captured_graph_follows_its_arrays() -> None:
    rows, vocab = 33, 151936
    logits = normal(rows, vocab, 3.0, torch.bfloat16, 2)
    sampler = Sampler(rows, vocab, DEVICE)
    params = arrays(rows, 1.0, 1.0, 0, 0.0, 0, 0)
    out = torch.zeros(rows, dtype=torch.int32, device=DEVICE)
    sampler.sample(logits, params, out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sampler.sample(logits, params, out)
    for number, (temperature, top_p, top_k, min_p) in enumerate(
        ((0.0, 1.0, 0, 0.0), (1.0, 1.0, 0, 0.0), (0.7, 0.9, 0, 0.0), (1.0, 0.95, 20, 0.0), (2.0, 0.95, 9999, 0.01))
    ):
        logits.copy_(normal(rows, vocab, 3.0, torch.bfloat16, number))
        fresh = arrays(rows, temperature, top_p, top_k, min_p, 7, np.arange(rows))
        for name in ("temperature", "top_p", "top_k", "min_p", "seeds", "positions"):
            getattr(params, name).copy_(getattr(fresh, name))
        graph.replay()
        expected = sample(logits, temperature, top_p, top_k, min_p, 7, np.arange(rows))
        np.testing.assert_array_equal(out.cpu().numpy(), expected)


@settings(max_examples=200 if CUDA else 12, deadline=None)
@given(data=st.data())
def test_any_row_gets_the_token_that_the_model_of_sampling_says(data: st.DataObject) -> None:
    vocab = data.draw(st.sampled_from([1, 2, 16, 130, 384, 1000]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dtype = data.draw(st.sampled_from(DTYPES))
    values = rng.standard_normal((1, vocab)) * data.draw(st.sampled_from([0.0, 0.5, 3.0, 100.0]))
    values[0, rng.random(vocab) < data.draw(st.sampled_from([0.0, 0.5, 0.99]))] = -np.inf
    values[0, rng.integers(vocab)] = data.draw(st.sampled_from([-200.0, 0.0, 5.0]))
    logits = torch.from_numpy(values).to(dtype).to(DEVICE)
    temperature = data.draw(st.sampled_from([0.0, 0.3, 1.0, 5.0]))
    top_p = np.float32(data.draw(st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01])))
    top_k = data.draw(st.sampled_from([0, 1, 2, 7, 200, 5000]))
    min_p = np.float32(data.draw(st.sampled_from([0.0, 1e-6, 0.1, 0.7, 1.0])))
    seed, position = data.draw(st.integers(0, 2**64 - 1)), data.draw(st.integers(0, 2**31 - 1))
    token = int(sample(logits, temperature, top_p, top_k, min_p, np.uint64(seed), position)[0])
    row, u = plain(logits)[0], uniform(seed, position)
    if temperature == 0.0:
        assert token == row.argmax()
        return
    # A token right at the edge of what is kept may be on either side of it.
    near = [
        kept(row, temperature, float(top_p) * p, top_k, float(min_p) * m)
        for p in (1.0, 1 - 1e-5, 1 + 1e-5)
        for m in (1.0, 1 - 1e-5, 1 + 1e-5)
        if float(min_p) * m <= 1.0
    ]
    assert any(drawn(p, token, u, 1e-5) for p in near)

"""Sampling against a plain float64 model of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from cpu_arrays import Array, at

from nano._core import cpu
from nano.errors import Internal


@pytest.fixture(scope="module", params=cpu.isas())  # so that its threads are counted before and after each test
def context(request: pytest.FixtureRequest) -> cpu.Context:
    return cpu.Context(2, request.param)


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 (Salmon et al., 2011)."""
    x, k = list(counter), list(key)
    for _ in range(10):
        a, b = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [(b >> 32) ^ x[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ x[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return x


def uniform(seed: int, position: int) -> float:
    word = philox([position, 0, 0, 0], [seed & 0xFFFFFFFF, seed >> 32])
    return ((word[0] >> 5) * 2**26 + (word[1] >> 6)) / 2**53


def sample(
    context: cpu.Context,
    logits: Array,
    temperature: float | Array = 1.0,
    top_p: float | Array = 1.0,
    top_k: int | Array = 0,
    seeds: int | Array = 0,
    positions: int | Array = 0,
) -> Array:
    rows, vocab = logits.shape

    def full(value: object, dtype: type) -> Array:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype), (rows,)))

    t, p, k = full(temperature, np.float32), full(top_p, np.float32), full(top_k, np.int32)
    s, at_position = full(seeds, np.uint64), full(positions, np.int32)
    out = np.full(rows, -1, np.int32)
    cpu.sample(context, at(logits), rows, vocab, at(t), at(p), at(k), at(s), at(at_position), at(out))
    return out


def kept(logits: Array, temperature: float, top_p: float, top_k: int) -> Array:
    """Probabilities of the tokens that top_k, then top_p leave, in float64."""
    x = logits.astype(np.float64) / temperature
    p = np.exp(x - x.max())
    order = np.argsort(-logits, kind="stable")
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p < 1:
        reached = np.searchsorted(np.cumsum(p[order]), top_p)
        p[order[reached + 1 :]] = 0
        p /= p.sum()
    return p


def test_the_generator_gives_the_published_words() -> None:
    assert philox([0, 0, 0, 0], [0, 0]) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert philox([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]) == [
        0xD16CFE09,
        0x94FDCCEB,
        0x5001E420,
        0x24126EA1,
    ]


def test_greedy_takes_the_smallest_id_among_the_largest(context: cpu.Context) -> None:
    for vocab in (1, 2, 15, 16, 17, 63, 512, 2047, 2049, 5000, 151936):
        rng = np.random.default_rng(vocab)
        logits = rng.standard_normal((4, vocab)).astype(np.float32)
        np.testing.assert_array_equal(sample(context, logits, 0.0), logits.argmax(1))
        for places in ([vocab - 1], [0, vocab - 1], [vocab // 2, vocab // 2 + 1], [vocab // 3, 2 * vocab // 3]):
            tied = logits.copy()
            places = [min(p, vocab - 1) for p in places]
            tied[:, places] = 100.0
            np.testing.assert_array_equal(sample(context, tied, 0.0), min(places))
        assert (sample(context, np.zeros((3, vocab), np.float32), 0.0) == 0).all()
        assert (sample(context, np.full((3, vocab), -5.0, np.float32), 0.0) == 0).all()


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1, 1, 0), (0.6, 1, 20), (2, 0.9, 0), (1.5, 0.7, 50)])
def test_a_draw_inverts_the_distribution_of_what_is_kept(
    context: cpu.Context, temperature: float, top_p: float, top_k: int
) -> None:
    for vocab in (3, 16, 500, 3000):
        rng = np.random.default_rng(vocab)
        rows = 64
        logits = (rng.standard_normal((rows, vocab)) * 3).astype(np.float32)
        seeds = rng.integers(0, 2**64, rows, dtype=np.uint64)
        positions = rng.integers(0, 2**31, rows).astype(np.int32)
        got = sample(context, logits, temperature, top_p, top_k, seeds, positions)
        for i in range(rows):
            p = kept(logits[i], temperature, top_p, top_k)
            u = uniform(int(seeds[i]), int(positions[i]))
            below = np.cumsum(p)
            assert p[got[i]] > 0, "a token outside of the kept set"
            assert below[got[i]] >= u - 1e-6
            assert below[got[i]] - p[got[i]] <= u + 1e-6


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1, 1, 0), (0.7, 0.8, 0), (1.3, 1, 5), (1, 0.9, 9)])
def test_frequencies_follow_the_probabilities(
    context: cpu.Context, temperature: float, top_p: float, top_k: int
) -> None:
    vocab, draws = 24, 20000
    row = (np.random.default_rng(5).standard_normal(vocab) * 1.5).astype(np.float32)
    logits = np.tile(row, (draws, 1))
    got = sample(context, logits, temperature, top_p, top_k, 1234, np.arange(draws, dtype=np.int32))
    expected = kept(row, temperature, top_p, top_k) * draws
    counts = np.bincount(got, minlength=vocab)
    assert (counts[expected == 0] == 0).all()
    held = expected > 0
    chi_square = ((counts[held] - expected[held]) ** 2 / expected[held]).sum()
    freedom = held.sum() - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom) + 8


def test_a_token_depends_on_seed_and_position_but_not_on_the_batch(context: cpu.Context) -> None:
    rng = np.random.default_rng(1)
    rows, vocab = 50, 3000
    logits = rng.standard_normal((rows, vocab)).astype(np.float32)
    temperature = rng.choice(np.array([0.0, 0.5, 1.0], np.float32), rows)
    top_p = rng.choice(np.array([0.5, 0.95, 1.0], np.float32), rows)
    top_k = rng.choice(np.array([0, 1, 40, 5000], np.int32), rows)
    seeds = rng.integers(0, 2**64, rows, dtype=np.uint64)
    positions = rng.integers(0, 4096, rows).astype(np.int32)
    together = sample(context, logits, temperature, top_p, top_k, seeds, positions)
    for i in rng.permutation(rows):
        one = slice(i, i + 1)
        alone = sample(context, logits[one], temperature[one], top_p[one], top_k[one], seeds[one], positions[one])
        assert alone[0] == together[i]
    flat = np.zeros((400, vocab), np.float32)
    assert len(set(sample(context, flat, seeds=7, positions=np.arange(400)).tolist())) > 300
    assert len(set(sample(context, flat, seeds=np.arange(400), positions=7).tolist())) > 300


def test_top_k_breaks_ties_by_smaller_id(context: cpu.Context) -> None:
    logits = np.zeros((500, 1000), np.float32)
    logits[:, 900] = 1.0
    got = set(sample(context, logits, top_k=4, positions=np.arange(500)).tolist())
    assert got == {0, 1, 2, 900}
    assert (sample(context, logits, top_k=1, positions=np.arange(500)) == 900).all()


def test_top_p_keeps_the_fewest_that_reach_it(context: cpu.Context) -> None:
    row = np.log(np.array([0.1, 0.4, 0.2, 0.2, 0.1], np.float64)).astype(np.float32)
    logits = np.tile(row, (500, 1))

    def seen(top_p: float) -> set[int]:
        return set(sample(context, logits, top_p=top_p, positions=np.arange(500)).tolist())

    assert seen(1e-6) == {1}
    assert seen(0.39) == {1}
    assert seen(0.5) == {1, 2}
    assert seen(0.7) == {1, 2, 3}
    assert seen(0.85) == {0, 1, 2, 3}
    assert seen(0.999) == {0, 1, 2, 3, 4}
    equal = np.zeros((500, 64), np.float32)
    assert set(sample(context, equal, top_p=0.049, positions=np.arange(500)).tolist()) == {0, 1, 2, 3}


def test_masked_tokens_are_never_drawn(context: cpu.Context) -> None:
    rng = np.random.default_rng(2)
    logits = np.full((300, 2500), -np.inf, np.float32)
    allowed = [3, 1024, 2499]
    logits[:, allowed] = rng.standard_normal((300, 3))
    for top_p, top_k in ((1.0, 0), (0.9, 0), (1.0, 2), (0.9, 100), (1.0, 2000)):
        got = sample(context, logits, 1.0, top_p, top_k, 3, np.arange(300))
        assert set(got.tolist()) <= set(allowed)


def test_temperatures_near_zero_are_greedy(context: cpu.Context) -> None:
    logits = np.random.default_rng(4).standard_normal((20, 777)).astype(np.float32)
    for temperature in (1e-45, 1e-38, 1e-7):
        np.testing.assert_array_equal(sample(context, logits, temperature), logits.argmax(1))


def test_bad_logits_are_an_error_that_names_the_row(context: cpu.Context) -> None:
    for temperature, bad, place in itertools.product((0.0, 1.0), (np.nan, -np.nan, np.inf), (0, 1500, 2999)):
        logits = np.zeros((40, 3000), np.float32)
        logits[7, place] = logits[31, place] = bad
        with pytest.raises(Internal, match="row 7 of 40"):
            sample(context, logits, temperature)
    logits[:] = -np.inf
    with pytest.raises(Internal, match="row 0 of 40"):
        sample(context, logits)

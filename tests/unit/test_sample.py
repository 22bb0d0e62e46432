"""Sampling against a plain float64 model of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cpu_arrays import Array, at
from sampling_model import drawn, kept, penalized, philox, uniform

from nano._core import cpu
from nano.errors import Internal, InvalidInput


@pytest.fixture(scope="module", params=cpu.isas())  # so that its threads are counted before and after each test
def context(request: pytest.FixtureRequest) -> cpu.Context:
    return cpu.Context(2, request.param)


def sample(
    context: cpu.Context,
    logits: Array,
    temperature: float | Array = 1.0,
    top_p: float | Array = 1.0,
    top_k: int | Array = 0,
    seeds: int | Array = 0,
    positions: int | Array = 0,
    min_p: float | Array = 0.0,
    **more: object,
) -> Array:
    rows, vocab = logits.shape

    def full(value: object, dtype: type) -> Array:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype), (rows,)))

    t, p, k = full(temperature, np.float32), full(top_p, np.float32), full(top_k, np.int32)
    s, at_position = full(seeds, np.uint64), full(positions, np.int32)
    m = full(min_p, np.float32)
    out = np.full(rows, -1, np.int32)
    cpu.sample(
        context, at(logits), rows, vocab, at(t), at(p), at(k), at(s), at(at_position), at(out), at(m), **more
    )  # fmt: skip
    return out


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


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "min_p"),
    [
        (1, 1, 0, 0),
        (0.6, 1, 20, 0),
        (2, 0.9, 0, 0),
        (1.5, 0.7, 50, 0),
        (1, 1, 0, 0.05),
        (2, 0.9, 40, 0.3),
        (1, 1, 0, 1),
    ],
)
def test_a_draw_inverts_the_distribution_of_what_is_kept(
    context: cpu.Context, temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    for vocab in (3, 16, 500, 3000):
        rng = np.random.default_rng(vocab)
        rows = 64
        logits = (rng.standard_normal((rows, vocab)) * 3).astype(np.float32)
        seeds = rng.integers(0, 2**64, rows, dtype=np.uint64)
        positions = rng.integers(0, 2**31, rows).astype(np.int32)
        got = sample(context, logits, temperature, top_p, top_k, seeds, positions, min_p)
        for i in range(rows):
            p = kept(logits[i], temperature, top_p, top_k, min_p)
            assert drawn(p, int(got[i]), uniform(int(seeds[i]), int(positions[i])))


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


def ragged(lists: list[list[int]], dtype: type = np.int32) -> tuple[Array, Array]:
    """(starts int64 [rows + 1], the values one after the other)."""
    start = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return start, np.array(list(itertools.chain(*lists)), dtype)


@pytest.mark.parametrize("seed", range(20))
def test_bias_and_penalties_change_the_logits_as_the_model_says(context: cpu.Context, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, vocab = int(rng.integers(1, 5)), int(rng.integers(1, 40))
    logits = (rng.standard_normal((rows, vocab)) * 2).astype(np.float32)

    def some() -> list[int]:
        return rng.integers(0, vocab, rng.integers(0, 30)).tolist()

    before = logits.copy()
    prompts, outputs = ([some() for _ in range(rows)] for _ in range(2))
    biased = [sorted(set(some())) for _ in range(rows)]
    repetition, presence, frequency = (
        rng.choice(np.array(values, np.float32), rows)
        for values in ((1.0, 1.3, 0.7), (0.0, 0.8, -0.8), (0.0, 0.4, -0.2))
    )
    start, tokens = ragged([p + o for p, o in zip(prompts, outputs, strict=True)])
    lens = np.array([len(p) for p in prompts], np.int32)
    bias_start, ids = ragged(biased)
    values = (rng.standard_normal(ids.size) * 3).astype(np.float32)
    more = {
        "penalties": (at(start), at(tokens), at(lens), at(repetition), at(presence), at(frequency)),
        "bias": (at(bias_start), at(ids), at(values)),
    }
    temperature = float(seed % 2)
    got = sample(context, logits, temperature, 1.0, 0, 7, np.arange(rows), **more)
    np.testing.assert_array_equal(logits, before)
    for i in range(rows):
        row = logits[i].astype(np.float64)
        row[biased[i]] += values[bias_start[i] : bias_start[i + 1]]
        row = penalized(row, prompts[i], outputs[i], repetition[i], presence[i], frequency[i])
        if temperature == 0.0:
            assert row[got[i]] >= row.max() - 1e-5
        else:
            assert drawn(kept(row, 1.0), int(got[i]), uniform(7, i), 1e-5)


def test_ids_outside_of_the_vocabulary_are_refused(context: cpu.Context) -> None:
    logits = np.zeros((2, 10), np.float32)
    start, one = np.array([0, 0, 1], np.int64), np.ones(2, np.float32)
    lens = np.zeros(2, np.int32)
    for bad in (-1, 10):
        ids = np.array([bad], np.int32)
        with pytest.raises(InvalidInput, match=f"penalties: expected ids in .0, 10., got {bad}"):
            sample(context, logits, penalties=(at(start), at(ids), at(lens), at(one), at(one), at(one)))
        with pytest.raises(InvalidInput, match=f"bias: expected ids in .0, 10., got {bad}"):
            sample(context, logits, bias=(at(start), at(ids), at(one)))


def test_logprobs_are_of_the_raw_logits_best_first(context: cpu.Context) -> None:
    rows, vocab, width = 4, 3000, 20
    logits = (np.random.default_rng(3).standard_normal((rows, vocab)) * 2).astype(np.float32)
    logits[2, 100:140] = 20.0
    logits[1] = -np.inf
    logits[1, [5, 9]] = 0.0
    wanted = np.array([5, 3, 20, -1], np.int32)
    token = np.full(rows, np.nan, np.float32)
    ids, values = np.full((rows, width), -7, np.int32), np.full((rows, width), np.nan, np.float32)
    start, bias_ids, bias = np.arange(5), np.full(4, 9, np.int32), np.full(4, 3.0, np.float32)
    got = sample(
        context, logits, 0.5, 0.9, 10, 1, np.arange(rows), bias=(at(start), at(bias_ids), at(bias)),
        logprobs=(at(wanted), width, at(token), at(ids), at(values)),
    )  # fmt: skip
    x = logits.astype(np.float64)
    expected = x - (x.max(1) + np.log(np.exp(x - x.max(1, keepdims=True)).sum(1)))[:, None]
    for i in (0, 2):
        order = np.argsort(-x[i], kind="stable")[: wanted[i]]
        np.testing.assert_array_equal(ids[i, : wanted[i]], order)
        np.testing.assert_allclose(values[i, : wanted[i]], expected[i, order], atol=1e-5)
        assert abs(token[i] - expected[i, got[i]]) < 1e-5
        assert (ids[i, wanted[i] :] == -7).all()
    assert ids[1, :3].tolist() == [5, 9, -1]
    np.testing.assert_allclose(values[1, :3], [-np.log(2), -np.log(2), -np.inf], atol=1e-6)
    assert np.isnan(token[3])
    assert (ids[3] == -7).all()

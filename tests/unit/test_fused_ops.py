"""Norms, activation, rotation with the KV write, and routing, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_arrays import DTYPES, Array, at, cast, float64, poisoned

from nano._core import cpu


@pytest.fixture(scope="module", params=cpu.isas())  # so that its threads are counted before and after each test
def context(request: pytest.FixtureRequest) -> cpu.Context:
    return cpu.Context(2, request.param)


def assert_close(got: Array, want: Array, dtype: int, tolerance: float = 2e-6) -> None:
    """Equal to `tolerance` of each value in fp32, to one rounding on top in bf16."""
    got = float64(got)
    assert np.isfinite(got).all()
    allowed = tolerance if dtype == cpu.F32 else 2**-8
    assert (np.abs(got - want) <= allowed * np.abs(want) + 1e-6).all(), np.abs(got - want).max()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_rms_norm_matches_float64(context: cpu.Context, dtype: int) -> None:
    for rows, hidden in ((1, 8), (3, 50), (2, 256), (70, 768), (5, 1024), (4, 67)):
        rng = np.random.default_rng(hidden)
        x = (rng.standard_normal((rows, hidden)) * 10).astype(np.float32)
        weight = rng.standard_normal(hidden).astype(np.float32)
        out = poisoned((rows, hidden), dtype)
        cpu.rms_norm(context, at(x), at(weight), at(out), rows, hidden, 1e-6, dtype)
        wide = x.astype(np.float64)
        want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * weight
        assert_close(out, want, dtype)

        index = rng.permutation(rows)[: (rows + 1) // 2].astype(np.int32)
        some = poisoned((len(index), hidden), dtype)
        cpu.rms_norm(context, at(x), at(weight), at(some), len(index), hidden, 1e-6, dtype, at(index))
        np.testing.assert_array_equal(some, out[index])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_silu_mul_matches_float64(context: cpu.Context, dtype: int) -> None:
    for rows, intermediate in ((1, 8), (3, 50), (33, 3072), (2, 17)):
        rng = np.random.default_rng(intermediate)
        x = (rng.standard_normal((rows, 2 * intermediate)) * 5).astype(np.float32)
        out = poisoned((rows, intermediate), dtype)
        cpu.silu_mul(context, at(x), at(out), rows, intermediate, dtype)
        gate, up = np.split(x.astype(np.float64), 2, axis=1)
        assert_close(out, gate / (1 + np.exp(-gate)) * up, dtype)


def test_silu_mul_takes_any_finite_gate(context: cpu.Context) -> None:
    gates = np.array([0, -0.0, 80, -80, 86.5, -86.7, 88, -88.5, 89, -89, 1000, -1000, 3e38, -3e38], np.float32)
    x = np.concatenate([gates, np.ones_like(gates)])
    out = poisoned((len(gates),), cpu.F32)
    cpu.silu_mul(context, at(x), at(out), 1, len(gates), cpu.F32)
    with np.errstate(over="ignore"):
        want = gates / (1 + np.exp(-gates.astype(np.float64)))
    np.testing.assert_allclose(out, want, rtol=1e-6, atol=2e-36)


def test_the_exponential_is_accurate_to_two_ulp(context: cpu.Context) -> None:
    # through routing: with two experts the weights are 1 / (1 + e^-d) and e^-d / (1 + e^-d); far down that is e^-d
    d = np.linspace(17.5, 86.0, 20001, dtype=np.float32)
    logits = np.stack([np.zeros_like(d), -d], 1).copy()
    ids, weights = np.full((len(d), 2), -1, np.int32), np.full((len(d), 2), np.nan, np.float32)
    cpu.route(context, at(logits), len(d), 2, 2, False, at(ids), at(weights))
    want = np.exp(-d.astype(np.float64))
    assert (np.abs(weights[:, 1] / want - 1) <= 2 * 2.0**-23).all()


class Heads:
    """A fused projection and a pool to write its K and V to."""

    def __init__(self, rng: np.random.Generator, tokens: int, heads: int, kv_heads: int, head_dim: int, dtype: int):
        self.tokens, self.heads, self.kv_heads, self.head_dim, self.dtype = tokens, heads, kv_heads, head_dim, dtype
        self.block_size = 16
        blocks = tokens // self.block_size + 2
        self.qkv = (rng.standard_normal((tokens, heads + 2 * kv_heads, head_dim)) * 3).astype(np.float32)
        self.norms = [rng.standard_normal(head_dim).astype(np.float32) for _ in range(2)]
        self.positions = rng.integers(0, 500, tokens).astype(np.int32)
        self.slots = rng.permutation(blocks * self.block_size)[:tokens].astype(np.int64)
        self.angles = np.arange(500)[:, None] / 10000.0 ** (np.arange(head_dim // 2) / (head_dim // 2))
        self.cos_sin = np.concatenate([np.cos(self.angles), np.sin(self.angles)], 1).astype(np.float32)
        self.pool = poisoned((blocks, 2, 2, kv_heads, self.block_size, head_dim), dtype)
        self.q = poisoned((tokens, heads, head_dim), dtype)

    def write(self, context: cpu.Context, norm: bool) -> None:
        item = self.pool.itemsize
        cpu.rope_write(
            context,
            at(self.qkv),
            at(self.q),
            at(self.norms[0]) if norm else 0,
            at(self.norms[1]) if norm else 0,
            1e-6,
            at(self.cos_sin),
            at(self.positions),
            at(self.slots),
            at(self.pool[0, 1]),
            self.tokens,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.block_size,
            self.pool.strides[0] // item,
            self.pool.strides[2] // item,
            self.pool.strides[3] // item,
            self.dtype,
        )

    def turned(self, first: int, count: int, weight: Array | None) -> Array:
        x = self.qkv[:, first : first + count].astype(np.float64)
        if weight is not None:
            x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight
        a, b = np.split(x, 2, axis=-1)
        angle = self.angles[self.positions][:, None]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("norm", [True, False])
def test_rope_write_turns_heads_and_fills_only_its_slots(context: cpu.Context, dtype: int, norm: bool) -> None:
    for tokens, heads, kv_heads, head_dim in (
        (1, 4, 2, 8),
        (5, 3, 1, 24),
        (40, 8, 4, 32),
        (3, 2, 2, 80),
        (33, 16, 8, 128),
        (2, 1, 1, 256),
        (2, 2, 1, 6),
    ):
        h = Heads(np.random.default_rng(head_dim), tokens, heads, kv_heads, head_dim, dtype)
        h.write(context, norm)
        assert_close(h.q, h.turned(0, heads, h.norms[0] if norm else None), dtype, 1e-5)
        block, offset = h.slots // h.block_size, h.slots % h.block_size
        written = h.pool[block, 1, :, :, offset]  # [tokens, 2, kv_heads, head_dim]
        assert_close(written[:, 0], h.turned(heads, kv_heads, h.norms[1] if norm else None), dtype, 1e-5)
        np.testing.assert_array_equal(written[:, 1], cast(h.qkv[:, heads + kv_heads :], dtype))
        h.pool[block, 1, :, :, offset] = poisoned(written.shape, dtype)
        assert np.isnan(float64(h.pool)).all(), "a slot outside of the list was written"


def test_rows_do_not_depend_on_the_batch(context: cpu.Context) -> None:
    rng = np.random.default_rng(0)
    rows, hidden = 300, 768
    x = rng.standard_normal((rows, hidden)).astype(np.float32)
    weight = rng.standard_normal(hidden).astype(np.float32)
    together, alone = (poisoned((rows, hidden), cpu.F32) for _ in range(2))
    cpu.rms_norm(context, at(x), at(weight), at(together), rows, hidden, 1e-6, cpu.F32)
    for i in range(rows):
        cpu.rms_norm(context, at(x[i]), at(weight), at(alone[i]), 1, hidden, 1e-6, cpu.F32)
    np.testing.assert_array_equal(together, alone)


def route(context: cpu.Context, logits: Array, top_k: int, normalize: bool) -> tuple[Array, Array]:
    rows, experts = logits.shape
    ids, weights = np.full((rows, top_k), -1, np.int32), np.full((rows, top_k), np.nan, np.float32)
    cpu.route(context, at(logits), rows, experts, top_k, normalize, at(ids), at(weights))
    return ids, weights


@pytest.mark.parametrize("normalize", [True, False])
def test_route_picks_the_most_probable_experts(context: cpu.Context, normalize: bool) -> None:
    for rows, experts, top_k in ((1, 4, 2), (7, 8, 8), (65, 60, 4), (3, 128, 8), (2, 1, 1)):
        logits = (np.random.default_rng(experts).standard_normal((rows, experts)) * 3).astype(np.float32)
        ids, weights = route(context, logits, top_k, normalize)
        probabilities = np.exp(logits.astype(np.float64))
        probabilities /= probabilities.sum(-1, keepdims=True)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
        np.testing.assert_array_equal(ids, order)
        want = np.take_along_axis(probabilities, order, 1)
        if normalize:
            want /= want.sum(-1, keepdims=True)
        np.testing.assert_allclose(weights, want, rtol=2e-6)


def test_route_breaks_ties_by_smaller_id(context: cpu.Context) -> None:
    logits = np.tile(np.array([1, 2, 2, 0, 2, 1, 1, -np.inf], np.float32), (2, 5)).copy()
    ids, weights = route(context, logits, 20, True)
    np.testing.assert_array_equal(ids, np.argsort(-logits, axis=1, kind="stable")[:, :20])
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    flat, _ = route(context, np.zeros((1, 64), np.float32), 64, False)
    np.testing.assert_array_equal(flat[0], np.arange(64))


def test_route_keeps_ids_valid_and_passes_nan_on(context: cpu.Context) -> None:
    logits = np.zeros((1, 32), np.float32)
    logits[0, 9] = np.nan
    ids, weights = route(context, logits, 4, True)
    assert ((ids >= 0) & (ids < 32)).all()
    assert np.isnan(weights).all()


def test_route_refuses_more_than_all_experts(context: cpu.Context) -> None:
    with pytest.raises(ValueError, match=r"top_k must be in \[1, 4\], got 5"):
        route(context, np.zeros((1, 4), np.float32), 5, False)

"""Paged attention against float64 softmax, and its independence of batch, chunks and threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cpu_arrays import DTYPES, Array, at, cast, float64, poisoned

from nano._core import cpu


@pytest.fixture(scope="module", params=cpu.isas())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")  # so that its threads are counted before and after each test
def context(isa: str) -> cpu.Context:
    return cpu.Context(2, isa)


class Cache:
    """A paged cache whose unused slots hold NaN, with a few sequences of known K and V in it."""

    def __init__(
        self,
        rng: np.random.Generator,
        lengths: list[int],
        kv_heads: int,
        head_dim: int,
        block_size: int,
        dtype: int,
        layers: int = 3,
        spread: float = 1.0,
    ) -> None:
        self.kv_heads, self.head_dim, self.block_size, self.dtype = kv_heads, head_dim, block_size, dtype
        counts = [-(-n // block_size) for n in lengths]
        blocks = rng.permutation(sum(counts) + 3)
        self.pool = poisoned((len(blocks), layers, 2, kv_heads, block_size, head_dim), dtype)
        self.table = np.full((len(lengths), max(counts) + 2), -1, np.int32)
        self.kv = []  # [2, tokens, kv_heads, head_dim]
        for i, n in enumerate(lengths):
            values = cast(rng.standard_normal((2, n, kv_heads, head_dim)) * spread, dtype)
            self.kv.append(values)
            for j in range(counts[i]):
                block, blocks = int(blocks[0]), blocks[1:]
                self.table[i, j] = block
                part = values[:, j * block_size : (j + 1) * block_size]
                self.pool[block, 1, :, :, : part.shape[1]] = part.transpose(0, 2, 1, 3)

    def attend(
        self, context: cpu.Context, q: Array, query_lens: list[int], context_lens: list[int], seqs: list[int]
    ) -> Array:
        """q: [tokens, heads, head_dim] of `seqs`' rows; returns the same shape."""
        out = poisoned(q.shape, self.dtype)
        cu = np.concatenate([[0], np.cumsum(query_lens)]).astype(np.int32)
        lens = np.array(context_lens, np.int32)
        table = np.ascontiguousarray(self.table[seqs])
        item = self.pool.itemsize
        cpu.attention(
            context,
            at(q),
            at(out),
            at(self.pool[0, 1]),
            at(cu),
            at(lens),
            at(table),
            len(seqs),
            table.shape[1],
            q.shape[1],
            self.kv_heads,
            self.head_dim,
            self.block_size,
            self.pool.strides[0] // item,
            self.pool.strides[2] // item,
            self.pool.strides[3] // item,
            self.head_dim**-0.5,
            self.dtype,
        )
        return out

    def reference(self, q: Array, seq: int, length: int) -> Array:
        """float64 attention of the last rows of the first `length` tokens."""
        k, v = float64(self.kv[seq])[:, :length]
        rows, heads, _ = q.shape
        k, v = (np.repeat(x, heads // self.kv_heads, axis=1) for x in (k, v))
        scores = np.einsum("ihd,thd->hit", float64(q), k) * self.head_dim**-0.5
        visible = np.arange(length)[None, :] <= (length - rows + np.arange(rows))[:, None]
        scores = np.where(visible[None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hit,thd->ihd", weights, v)


def check(
    cache: Cache, context: cpu.Context, rng: np.random.Generator, group: int, rows: list[tuple[int, int]]
) -> None:
    """One batch of (query rows, context length) pairs against the reference."""
    q = cast(rng.standard_normal((sum(n for n, _ in rows), group * cache.kv_heads, cache.head_dim)), cache.dtype)
    got = float64(cache.attend(context, q, [n for n, _ in rows], [c for _, c in rows], list(range(len(rows)))))
    assert np.isfinite(got).all()
    begin = 0
    for seq, (n, length) in enumerate(rows):
        want = cache.reference(q[begin : begin + n], seq, length)
        error = np.abs(got[begin : begin + n] - want).max() / np.abs(want).max()
        # bf16 outputs are rounded to 2^-9, and prefill on bf16 instructions rounds its weights as well
        assert error < (2e-6 if cache.dtype == cpu.F32 else 1e-2), f"sequence {seq}, {n} rows of {length}: {error}"
        begin += n


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_head_size_matches_float64(context: cpu.Context, dtype: int) -> None:
    for head_dim in (8, 12, 16, 24, 64, 80, 128, 256):
        rng = np.random.default_rng(head_dim)
        rows = [(1, 300), (37, 37), (1, 1), (5, 290), (130, 400)]
        check(Cache(rng, [c for _, c in rows], 2, head_dim, 16, dtype), context, rng, 2, rows)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_group_size_matches_float64(context: cpu.Context, dtype: int) -> None:
    for group in range(1, 17):
        rng = np.random.default_rng(group)
        rows = [(70, 70), (1, 513), (3, 20), (1, 31)]
        check(Cache(rng, [c for _, c in rows], 1 + group % 3, 32, 64, dtype), context, rng, group, rows)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_block_size_matches_float64(context: cpu.Context, dtype: int) -> None:
    for block_size in (1, 7, 16, 64, 256):
        rng = np.random.default_rng(block_size)
        rows = [(1, 257), (64, 256), (100, 400), (1, 3)]
        check(Cache(rng, [c for _, c in rows], 2, 64, block_size, dtype), context, rng, 4, rows)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_random_batches_match_float64(context: cpu.Context, dtype: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        lengths = [int(n) for n in rng.integers(1, 600, rng.integers(1, 6))]
        rows = [(1 if rng.random() < 0.5 else int(rng.integers(1, n + 1)), n) for n in lengths]
        head_dim = int(rng.integers(1, 17)) * 8
        cache = Cache(rng, lengths, int(rng.integers(1, 5)), head_dim, int(rng.choice([16, 64, 256])), dtype)
        check(cache, context, rng, int(rng.integers(1, 5)), rows)


def test_large_scores_do_not_overflow(context: cpu.Context) -> None:
    rng = np.random.default_rng(0)
    rows = [(1, 600), (40, 600)]
    cache = Cache(rng, [600, 600], 1, 64, 16, cpu.F32, spread=300.0)
    q = cast(rng.standard_normal((41, 2, 64)), cpu.F32)
    got = float64(cache.attend(context, q, [1, 40], [600, 600], [0, 1]))
    assert np.isfinite(got).all()
    want = np.concatenate([cache.reference(q[:1], 0, 600), cache.reference(q[1:], 1, rows[1][1])])
    assert np.abs(got - want).max() / np.abs(want).max() < 1e-3  # scores of 1e4 keep 3 decimals in fp32


@pytest.mark.parametrize("head_dim", [8, 80])
def test_fp32_rows_do_not_depend_on_how_the_prompt_was_cut(isa: str, head_dim: int) -> None:
    rng = np.random.default_rng(head_dim)
    length = 700
    cache = Cache(rng, [length], 2, head_dim, 16, cpu.F32)
    q = cast(rng.standard_normal((length, 6, head_dim)), cpu.F32)
    context = cpu.Context(2, isa)
    whole = cache.attend(context, q, [length], [length], [0])
    for cuts in ([0, 1, 2, 3, 255, 256, 257, 600, 699, 700], [0, 333, 334, 700]):
        for begin, end in itertools.pairwise(cuts):
            part = cache.attend(context, q[begin:end].copy(), [end - begin], [end], [0])
            np.testing.assert_array_equal(part, whole[begin:end], err_msg=f"rows {begin} to {end}")
    for position in (0, 5, 15, 16, 255, 256, 511, 512, 650):
        one = cache.attend(context, q[position : position + 1].copy(), [1], [position + 1], [0])
        np.testing.assert_array_equal(one[0], whole[position], err_msg=f"decode row {position}")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_rows_depend_neither_on_the_batch_nor_on_the_threads(isa: str, dtype: int) -> None:
    rng = np.random.default_rng(7)
    rows = [(1, 900), (60, 60), (1, 20), (200, 520), (1, 2500), (9, 300)]
    cache = Cache(rng, [c for _, c in rows], 2, 64, 16, dtype)
    q = cast(rng.standard_normal((sum(n for n, _ in rows), 4, 64)), dtype)
    begins = np.concatenate([[0], np.cumsum([n for n, _ in rows])])
    alone = []
    single = cpu.Context(1, isa)
    for i, (n, length) in enumerate(rows):
        alone.append(cache.attend(single, q[begins[i] : begins[i + 1]].copy(), [n], [length], [i]))
    for threads in (1, 2, 3, 8):
        context = cpu.Context(threads, isa)
        for order in ([0, 1, 2, 3, 4, 5], [4, 2, 0], [5, 4, 3, 2, 1, 0], [4]):
            batch = np.concatenate([q[begins[i] : begins[i + 1]] for i in order])
            got = cache.attend(context, batch, [rows[i][0] for i in order], [rows[i][1] for i in order], order)
            np.testing.assert_array_equal(got, np.concatenate([alone[i] for i in order]))


def test_sequences_without_rows_are_skipped(context: cpu.Context) -> None:
    rng = np.random.default_rng(3)
    cache = Cache(rng, [10, 20, 30], 1, 16, 16, cpu.F32)
    q = cast(rng.standard_normal((3, 2, 16)), cpu.F32)
    got = cache.attend(context, q, [1, 0, 2], [10, 20, 30], [0, 1, 2])
    np.testing.assert_allclose(got[:1], cache.reference(q[:1], 0, 10), atol=1e-6)
    np.testing.assert_allclose(got[1:], cache.reference(q[1:], 2, 30), atol=1e-6)
    assert cache.attend(context, q[:0], [], [], []).shape == (0, 2, 16)


def test_heads_that_do_not_divide_are_refused(context: cpu.Context) -> None:
    rng = np.random.default_rng(3)
    cache = Cache(rng, [10], 2, 16, 16, cpu.F32)
    with pytest.raises(ValueError, match="heads must be 1 to 64 times kv_heads, got 3 and 2"):
        cache.attend(context, cast(np.zeros((1, 3, 16)), cpu.F32), [1], [10], [0])

"""nano._core.kv.relayout, gather and scatter against numpy, for any layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relayout_reference import Case, side

from nano._core import kv
from nano.errors import InvalidInput


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers, row_bytes, tokens = draw(st.integers(1, 4)), draw(st.sampled_from([1, 6, 16, 64])), draw(st.integers(0, 50))
    begin = draw(st.integers(0, layers))

    def one() -> tuple[int, int, int, int, tuple[int, ...] | None, int]:
        order = draw(st.none() | st.permutations(range(5)).map(tuple))
        return (
            draw(st.integers(0, 20)), draw(st.integers(1, 4)), draw(st.integers(0, 4)), draw(st.integers(1, 17)),
            order, draw(st.sampled_from([0, 5])),
        )  # fmt: skip

    sides = []
    for _ in range(2):
        token, heads, first_head, block_size, order, gap = one()
        sides.append(side(rng, tokens, token, layers, heads, first_head, block_size, row_bytes, order, gap))
    return Case(sides[0], sides[1], tokens, (begin, draw(st.integers(begin, layers))))


def run(case: Case) -> int:
    a, b = case.source, case.destination
    return kv.relayout(
        a.memory, a.layout, a.table, b.memory, b.layout, b.table, case.tokens,
        source_token=a.token, destination_token=b.token, layers=case.layers,
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(cases())
def test_relayout_moves_the_shared_heads_and_nothing_else(case: Case) -> None:
    expected, copied = case.expected()
    before = case.source.memory.copy()
    assert run(case) == copied
    np.testing.assert_array_equal(case.destination.memory, expected)
    np.testing.assert_array_equal(case.source.memory, before)


@pytest.mark.parametrize(("sizes", "heads"), [((16, 64), (8, 2)), ((64, 16), (2, 8)), ((32, 32), (4, 4))])
def test_ranks_of_two_tensor_parallel_degrees_give_each_other_whole_pools(
    sizes: tuple[int, int], heads: tuple[int, int]
) -> None:
    """8 heads on 8 // heads[0] ranks with blocks of sizes[0] tokens, to 8 // heads[1] ranks with sizes[1]."""
    rng = np.random.default_rng(7)
    tokens, layers = 200, 2
    sources = [side(rng, tokens, 0, layers, heads[0], first, sizes[0], 32) for first in range(0, 8, heads[0])]
    for first in range(0, 8, heads[1]):
        target = side(rng, tokens, 0, layers, heads[1], first, sizes[1], 32)
        copied = 0
        for source in sources:
            case = Case(source, target, tokens, (0, layers))
            expected, _ = case.expected()
            copied += run(case)
            np.testing.assert_array_equal(target.memory, expected)
        assert copied == tokens * layers * 2 * heads[1] * 32


def test_a_relayout_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = side(rng, 20, 0, 2, 2, 0, 4, 16), side(rng, 20, 0, 2, 2, 0, 8, 16)
    before = b.memory.copy()

    def call(**changes: object) -> None:
        arguments = {
            "source": a.memory, "source_layout": a.layout, "source_blocks": a.table, "destination": b.memory,
            "destination_layout": b.layout, "destination_blocks": b.table, "tokens": 20,
        } | changes  # fmt: skip
        kv.relayout(**arguments)  # type: ignore[arg-type]

    for changes, text in [
        ({"source_blocks": a.table[:-1]}, "source_blocks: tokens 0 to 20 need 5 blocks of 4, got 4"),
        ({"destination_blocks": b.table + 100}, r"destination_blocks\[0\]: expected a block in \[0, "),
        ({"source_blocks": a.table - 100}, r"source_blocks\[0\]: expected a block in \[0, "),
        ({"destination": b.memory[:-1]}, "expected pools of"),
        ({"tokens": -1}, "expected tokens in"),
        ({"layers": (0, 3)}, r"expected layers within \[0, 2\], got \[0, 3\)"),
        ({"source_layout": kv.PoolLayout(9, 2, 2, 4, 8)}, "expected equal layers and row_bytes"),
        ({"destination": bytes(b.memory)}, "expected a contiguous writable buffer"),
    ]:
        with pytest.raises(InvalidInput, match=text):
            call(**changes)
    np.testing.assert_array_equal(b.memory, before)
    for sizes in [(0, 1, 1, 1, 1), (1, 1, 1, 1, -1), (1 << 40, 1 << 20, 1, 16, 1)]:
        with pytest.raises(InvalidInput, match="PoolLayout"):
            kv.PoolLayout(*sizes)
    with pytest.raises(InvalidInput, match="strides >= 0"):
        kv.PoolLayout(2, 1, 1, 1, 16, 0, (-16, 16, 16, 16, 16))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_gather_and_scatter_move_each_block(count: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 256, (2 * count + 1) * length, dtype=np.uint8)
    rows = rng.permutation(2 * count + 1)[:count]
    packed = np.zeros(count * length, np.uint8)
    kv.gather(pool, packed, rows * length, length)
    np.testing.assert_array_equal(packed.reshape(count, length), pool.reshape(-1, length)[rows])
    target = np.zeros_like(pool)
    kv.scatter(packed, target, rows * length, length)
    expected = np.zeros_like(pool).reshape(-1, length)
    expected[rows] = packed.reshape(count, length)
    np.testing.assert_array_equal(target, expected.reshape(-1))


def test_gather_and_scatter_refuse_a_block_outside_and_copy_nothing() -> None:
    pool, packed = np.ones(100, np.uint8), np.zeros(20, np.uint8)
    for copy, arguments in [(kv.gather, (pool, packed)), (kv.scatter, (packed, pool))]:
        before = [a.copy() for a in arguments]
        for offsets in ([0, 91], [0, -1]):
            with pytest.raises(InvalidInput, match=r"offsets\[1\]: "):
                copy(*arguments, np.array(offsets), 10)
        with pytest.raises(InvalidInput, match="3 blocks of 10 bytes do not fit in 20"):
            copy(*arguments, np.array([0, 1, 2]), 10)
        for a, b in zip(arguments, before, strict=True):
            np.testing.assert_array_equal(a, b)

"""nano._core.cpu.Linear against float64 numpy, on every instruction set that this CPU has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano._core import cpu
from nano.errors import InvalidInput

F32 = npt.NDArray[np.float32]
ISAS = cpu.isas()
DTYPES = [cpu.F32, cpu.BF16]


def to_bf16(values: F32) -> npt.NDArray[np.uint16]:
    """Rounds to nearest even."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_float(values: npt.NDArray[np.uint16]) -> F32:
    return (values.astype(np.uint32) << 16).view(np.float32)


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: int) -> tuple[npt.NDArray, F32]:
    """Normal values as the kernels take them, and the same as fp32."""
    values = rng.standard_normal(shape, dtype=np.float32)
    if dtype == cpu.F32:
        return values, values
    raw = to_bf16(values)
    return raw, to_float(raw)


def make(context: cpu.Context, weight: npt.NDArray, dtype: int) -> cpu.Linear:
    linear = cpu.Linear(context, *weight.shape, dtype)
    linear.load(0, len(weight), weight.ctypes.data, dtype)
    return linear


def run(linear: cpu.Linear, x: npt.NDArray, y: F32 | None = None, accumulate: bool = False) -> F32:
    if y is None:
        y = np.full((len(x), linear.n), np.nan, np.float32)
    linear.run(x.ctypes.data, len(x), x.strides[0] // x.itemsize, y.ctypes.data, y.strides[0] // 4, accumulate)
    return y


def bound(x: F32, weight: F32) -> npt.NDArray[np.float64]:
    """What rounding of fp32 sums may cost: a few units in the last place of the sum of magnitudes."""
    return 4e-7 * (np.abs(x).astype(np.float64) @ np.abs(weight.T)) + 1e-30


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    k=st.integers(1, 700),
    m=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    pad=st.integers(0, 3),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_product_equals_float64(
    isa: str, n: int, k: int, m: int, dtype: int, pad: int, threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    raw_x, x = draw(rng, (m, k + pad), dtype)
    raw_w, w = draw(rng, (n, k), dtype)
    linear = make(cpu.Context(threads, isa), raw_w, dtype)
    y = np.full((m, n + pad), 7, np.float32)
    expected = x[:, :k].astype(np.float64) @ w.T.astype(np.float64)
    run(linear, raw_x, y)
    assert (np.abs(y[:, :n] - expected) <= bound(x[:, :k], w)).all()
    run(linear, raw_x, y, accumulate=True)
    assert (np.abs(y[:, :n] - 2 * expected) <= 3 * bound(x[:, :k], w)).all()
    assert (y[:, n:] == 7).all(), "written past a row's end"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(200, 1023), (64, 256), (1, 3000)])
def test_a_row_is_the_same_bits_in_every_batch(isa: str, n: int, k: int, dtype: int) -> None:
    rng = np.random.default_rng(1)
    raw_x, _ = draw(rng, (401, k), dtype)
    raw_w, _ = draw(rng, (n, k), dtype)
    start = rng.standard_normal((401, n), dtype=np.float32)
    linear = make(cpu.Context(2, isa), raw_w, dtype)
    alone = make(cpu.Context(1, isa), raw_w, dtype)
    for accumulate in (False, True):
        whole = run(linear, raw_x, start.copy(), accumulate)
        singles = np.concatenate(
            [run(alone, raw_x[i : i + 1], start[i : i + 1].copy(), accumulate) for i in range(401)]
        )
        assert (whole.view(np.uint32) == singles.view(np.uint32)).all()
        for begin, m in [(0, 2), (5, 3), (7, 7), (11, 13), (100, 32), (200, 193)]:
            part = run(linear, raw_x[begin : begin + m], start[begin : begin + m].copy(), accumulate)
            assert (part.view(np.uint32) == whole[begin : begin + m].view(np.uint32)).all(), (begin, m)


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_does_not_read_what_lies_behind_it(isa: str) -> None:
    rng = np.random.default_rng(2)
    raw_x, x = draw(rng, (3, 33), cpu.BF16)
    raw_w, w = draw(rng, (5, 33), cpu.BF16)
    padded = np.full((3, 40), 0x7FC0, np.uint16)  # NaN
    padded[:, :33] = raw_x
    y = run(make(cpu.Context(2, isa), raw_w, cpu.BF16), padded)
    assert (np.abs(y - x.astype(np.float64) @ w.T) <= bound(x, w)).all()


@settings(max_examples=60, deadline=None)
@given(
    isa=st.sampled_from(ISAS),
    parts=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    k=st.integers(1, 300),
    dtype=st.sampled_from(DTYPES),
    source=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_loading_by_parts_equals_the_whole_converted(
    isa: str, parts: list[int], k: int, dtype: int, source: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    raw, values = draw(rng, (sum(parts), k), source)
    linear = cpu.Linear(cpu.Context(2, isa), sum(parts), k, dtype)
    row = 0
    for rows in parts:
        part = raw[row : row + rows].copy()
        linear.load(row, rows, part.ctypes.data, source)
        row += rows
    ids = np.arange(sum(parts), dtype=np.int32)
    y = np.empty((len(ids), k), np.float32)
    linear.gather(ids.ctypes.data, len(ids), y.ctypes.data)
    expected = to_float(to_bf16(values)) if dtype == cpu.BF16 else values
    assert (y == expected).all()
    linear.run(raw.ctypes.data, 0, k, y.ctypes.data, linear.n)  # no rows: nothing happens


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_returns_the_rows_asked_for(isa: str, dtype: int) -> None:
    rng = np.random.default_rng(3)
    raw, values = draw(rng, (1000, 257), dtype)
    linear = make(cpu.Context(2, isa), raw, dtype)
    ids = rng.integers(0, 1000, 300, dtype=np.int32)
    y = np.empty((300, 257), np.float32)
    linear.gather(ids.ctypes.data, 300, y.ctypes.data)
    assert (y == values[ids]).all()


def test_what_does_not_fit_is_refused() -> None:
    context = cpu.Context(1)
    linear = cpu.Linear(context, 8, 4, cpu.F32)
    buffer = np.zeros(64, np.float32)
    address = buffer.ctypes.data
    with pytest.raises(InvalidInput, match=r"ids\[1\] is 8"):
        linear.gather(np.array([0, 8], np.int32).ctypes.data, 2, address)
    with pytest.raises(InvalidInput, match=r"rows must be in \[0, 8\)"):
        linear.load(6, 3, address, cpu.F32)
    with pytest.raises(InvalidInput, match="x_stride"):
        linear.run(address, 2, 3, address, 8)
    with pytest.raises(InvalidInput, match="dtype"):
        cpu.Linear(context, 8, 4, 2)
    with pytest.raises(InvalidInput, match="n and k"):
        cpu.Linear(context, 0, 4, cpu.F32)
    with pytest.raises(InvalidInput, match="isa"):
        cpu.Context(1, "mmx")


def test_nbytes_is_one_padded_copy() -> None:
    context = cpu.Context(1)
    assert cpu.Linear(context, 1024, 512, cpu.BF16).nbytes == 1024 * 512 * 2
    assert cpu.Linear(context, 3072, 1024, cpu.F32).nbytes == 3072 * 1024 * 4

"""nano._core.cpu.Experts against a plain float64 reference, on every instruction set that this CPU has."""

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


def to_bf16(values: F32) -> npt.NDArray[np.uint16]:
    """Rounds to nearest even."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_float(values: npt.NDArray[np.uint16]) -> F32:
    return (values.astype(np.uint32) << 16).view(np.float32)


class Mlps:
    """Random experts, packed and plain."""

    def __init__(
        self, isa: str, experts: int, hidden: int, inter: int, dtype: int, seed: int, threads: int = 2
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.hidden = hidden
        self.packed = cpu.Experts(cpu.Context(threads, isa), experts, hidden, inter, dtype)
        self.weights = []
        for e in range(experts):
            raw = [self.raw(rows, k) for rows, k in [(inter, hidden), (inter, hidden), (hidden, inter)]]
            self.packed.load(e, *(w.ctypes.data for w in raw), dtype)
            self.weights.append([self.plain(w).astype(np.float64) for w in raw])

    def raw(self, rows: int, k: int) -> npt.NDArray:
        values = self.rng.standard_normal((rows, k), dtype=np.float32) / np.float32(np.sqrt(k))
        return values if self.dtype == cpu.F32 else to_bf16(values)

    def plain(self, raw: npt.NDArray) -> F32:
        return raw if self.dtype == cpu.F32 else to_float(raw)

    def run(self, x: npt.NDArray, ids: npt.NDArray[np.int32], weights: F32, y: F32) -> F32:
        x, ids, weights = (np.ascontiguousarray(a) for a in (x, ids, weights))
        y = y.copy()
        self.packed.run(x.ctypes.data, len(x), ids.ctypes.data, weights.ctypes.data, ids.shape[1], y.ctypes.data)
        return y

    def reference(self, x: npt.NDArray, ids: npt.NDArray[np.int32], weights: F32, y: F32) -> npt.NDArray[np.float64]:
        out = y.astype(np.float64)
        for t, row in enumerate(self.plain(x).astype(np.float64)):
            for expert, weight in zip(ids[t], weights[t], strict=True):
                gate, up, down = self.weights[expert]
                g = gate @ row
                active = g / (1 + np.exp(-g)) * (up @ row)
                if self.dtype == cpu.BF16:
                    active = to_float(to_bf16(active.astype(np.float32)))
                out[t] += weight * (down @ active)
        return out


def batch(mlps: Mlps, m: int, experts: int, top_k: int) -> tuple[npt.NDArray, npt.NDArray[np.int32], F32, F32]:
    rng = mlps.rng
    x = rng.standard_normal((m, mlps.hidden), dtype=np.float32)
    ids = np.stack([rng.permutation(experts)[:top_k] for _ in range(m)]).astype(np.int32)
    weights = rng.random((m, top_k), dtype=np.float32)
    y = rng.standard_normal((m, mlps.hidden), dtype=np.float32)
    return (x if mlps.dtype == cpu.F32 else to_bf16(x)), ids, weights, y


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=25, deadline=None)
@given(
    experts=st.integers(1, 9),
    hidden=st.integers(1, 150),
    inter=st.integers(1, 150),
    m=st.integers(1, 24),
    top_k=st.integers(1, 4),
    dtype=st.sampled_from([cpu.F32, cpu.BF16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_experts_equal_float64(
    isa: str, experts: int, hidden: int, inter: int, m: int, top_k: int, dtype: int, seed: int
) -> None:
    mlps = Mlps(isa, experts, hidden, inter, dtype, seed)
    x, ids, weights, y = batch(mlps, m, experts, min(top_k, experts))
    # An activation on the edge between two bf16 values may round the other way: one part in 256 of one term.
    tolerance = 2e-5 if dtype == cpu.F32 else 2e-2
    np.testing.assert_allclose(
        mlps.run(x, ids, weights, y), mlps.reference(x, ids, weights, y), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [cpu.F32, cpu.BF16])
def test_a_token_is_the_same_bits_in_every_batch(isa: str, dtype: int) -> None:
    mlps = Mlps(isa, 5, 96, 70, dtype, seed=4)
    # More pairs than one pass takes (8192), and groups of more rows than one block of activations (192).
    x, ids, weights, y = batch(mlps, 2100, 5, 4)
    whole = mlps.run(x, ids, weights, y)
    for part in [slice(0, 1), slice(2, 3), slice(7, 20), slice(1900, 2099), slice(2099, 2100)]:
        alone = mlps.run(x[part], ids[part], weights[part], y[part])
        assert (alone.view(np.uint32) == whole[part].view(np.uint32)).all(), part


def test_extreme_gates_stay_finite() -> None:
    for isa in ISAS:
        experts = cpu.Experts(cpu.Context(1, isa), 1, 1, 1, cpu.F32)
        one = np.ones(1, np.float32)
        experts.load(0, one.ctypes.data, one.ctypes.data, one.ctypes.data, cpu.F32)
        x = np.array([[-200], [-90], [-1e-30], [0], [90], [200]], np.float32)
        y = np.zeros_like(x)
        ids = np.zeros((6, 1), np.int32)
        weights = np.ones((6, 1), np.float32)
        experts.run(x.ctypes.data, 6, ids.ctypes.data, weights.ctypes.data, 1, y.ctypes.data)
        np.testing.assert_allclose(y, [[0], [0], [0], [0], [8100], [40000]], atol=1e-30, rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    context = cpu.Context(1)
    experts = cpu.Experts(context, 2, 4, 4, cpu.F32)
    address = np.zeros(64, np.float32).ctypes.data
    ids = np.array([[0, 1], [1, 2]], np.int32)
    with pytest.raises(InvalidInput, match=r"ids\[1, 1\] is 2"):
        experts.run(address, 2, ids.ctypes.data, address, 2, address)
    with pytest.raises(InvalidInput, match="expert must be in"):
        experts.load(2, address, address, address, cpu.F32)
    with pytest.raises(InvalidInput, match="must be >= 1"):
        cpu.Experts(context, 2, 0, 4, cpu.F32)

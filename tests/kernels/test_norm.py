from __future__ import annotations

import math

import pytest
import torch
from kernel_device import CUDA, DEVICE, HALF, TOLERANCE, relative_error

from nano.engine.kernels.norm import add_rms_norm, add_rms_norm_rows, rms_norm

EPS = 1e-6
DTYPES = [torch.float32, HALF]
needs_fp8 = pytest.mark.skipif(not CUDA, reason="no CUDA device")


def rows_of(tokens: int, columns: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Rows that lie apart, the space between them NaN."""
    wide = torch.full((tokens, columns + 64), math.nan, dtype=dtype)
    wide[:, :columns] = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return wide.to(DEVICE)[:, :columns]


def reference(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.double().cpu()
    return x * (x.square().mean(1, keepdim=True) + EPS).rsqrt() * weight.double().cpu()


def dequantized(out: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return out.double() * scales.double().repeat_interleave(128, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "columns"), [(1, 64), (5, 96), (3, 1024), (2, 5120)])
def test_rms_norm_agrees_with_float64(tokens: int, columns: int, dtype: torch.dtype) -> None:
    x, weight = rows_of(tokens, columns, dtype, 0), torch.randn(columns, device=DEVICE)
    out = torch.full_like(x, math.nan)
    rms_norm(x, weight, EPS, out)
    assert relative_error(out, reference(x, weight)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "columns"), [(1, 96), (4, 2048)])
def test_add_rms_norm_rounds_the_sum_then_norms_it(tokens: int, columns: int, dtype: torch.dtype) -> None:
    residual, delta = rows_of(tokens, columns, dtype, 1), rows_of(tokens, columns, dtype, 2)
    weight = torch.randn(columns, device=DEVICE)
    out = torch.full_like(delta, math.nan)
    total = (residual.float() + delta.float()).to(dtype)
    add_rms_norm(residual, delta, weight, EPS, out)
    assert torch.equal(residual, total)
    assert relative_error(out, reference(total, weight)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_add_rms_norm_rows_takes_rows_and_leaves_the_residual(dtype: torch.dtype) -> None:
    residual, delta = rows_of(7, 256, dtype, 1), rows_of(7, 256, dtype, 2)
    weight, kept = torch.randn(256, device=DEVICE), residual.clone()
    rows = torch.tensor([6, 0, 3, 0], dtype=torch.int32, device=DEVICE)
    out = torch.full((4, 256), math.nan, dtype=dtype, device=DEVICE)
    add_rms_norm_rows(residual, delta, rows, weight, EPS, out)
    total = (residual.float() + delta.float()).to(dtype)[rows.long()]
    assert relative_error(out, reference(total, weight)) < TOLERANCE[dtype]
    assert torch.equal(residual, kept)


@needs_fp8
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("columns", [128, 640, 4096])
def test_quantised_norm_agrees_group_by_group(columns: int, transposed: bool) -> None:
    x, delta = rows_of(9, columns, HALF, 0), rows_of(9, columns, HALF, 1)
    x[3, :128] = 0
    delta[3, :128] = 0
    weight = torch.randn(columns, device=DEVICE)
    out = torch.empty(9, columns, dtype=torch.float8_e4m3fn, device=DEVICE)
    groups = columns // 128
    scales = torch.empty(groups, 9, device=DEVICE).T if transposed else torch.empty(9, groups, device=DEVICE)
    add_rms_norm(x, delta, weight, EPS, out, scales=scales)
    want = reference(x, weight)
    amax = want.unflatten(1, (groups, 128)).abs().amax(2)
    assert relative_error(scales, amax / 448) < 1e-4
    # A group's error is half a step of e4m3 at most: a 16th of the value.
    error = (dequantized(out, scales).cpu() - want).abs()
    assert bool((error <= want.abs() / 15 + amax.repeat_interleave(128, 1) / 448 / 256 + 1e-9).all())

from __future__ import annotations

import math

import pytest
import torch
from kernel_device import CUDA, DEVICE, HALF, TOLERANCE, relative_error

from nano.engine.kernels.activation import silu_mul


def reference(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.double().cpu().chunk(2, 1)
    return torch.nn.functional.silu(gate) * up


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize(("tokens", "width"), [(1, 96), (3, 768), (2, 3000)])
def test_silu_mul_agrees_with_float64(tokens: int, width: int, dtype: torch.dtype) -> None:
    gate_up = (4 * torch.randn(tokens, 2 * width)).to(dtype).to(DEVICE)
    out = torch.full((tokens, width), math.nan, dtype=dtype, device=DEVICE)
    silu_mul(gate_up, out)
    assert relative_error(out, reference(gate_up)) < TOLERANCE[dtype]


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@pytest.mark.parametrize("width", [128, 768, 12288])
def test_quantised_silu_mul_agrees_group_by_group(width: int) -> None:
    gate_up = (4 * torch.randn(5, 2 * width)).to(HALF).to(DEVICE)
    out = torch.empty(5, width, dtype=torch.float8_e4m3fn, device=DEVICE)
    scales = torch.empty(width // 128, 5, device=DEVICE).T
    silu_mul(gate_up, out, scales=scales)
    want = reference(gate_up)
    amax = want.unflatten(1, (width // 128, 128)).abs().amax(2)
    assert relative_error(scales, amax / 448) < 1e-4
    error = (out.double() * scales.double().repeat_interleave(128, 1)).cpu() - want
    assert bool((error.abs() <= want.abs() / 15 + amax.repeat_interleave(128, 1) / 448 / 256 + 1e-9).all())

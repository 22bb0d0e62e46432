"""Activations to fp8: each group of 128 columns of a row is divided by its scale, its greatest magnitude / 448."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.prefetch import start
from nano.errors import InvalidInput

GROUP = 128  # columns that share a scale; a weight's scale covers 128 x 128
FP8 = torch.float8_e4m3fn


def new_scales(rows: int, columns: int, device: torch.device | str) -> torch.Tensor:
    """Scales of [rows, columns] activations, fp32 [rows, columns/128], in the order that the fp8 product wants."""
    return torch.empty((-(-columns // GROUP), rows), dtype=torch.float32, device=device).T


@triton.jit
def quantize_groups(values, fp8):
    """values fp32 [rows, 128] -> (as dtype fp8, scales [rows]): one group a row."""
    scales = tl.maximum(tl.max(tl.abs(values), axis=1), 1e-10) / 448.0
    return (values / scales[:, None]).to(fp8), scales


@triton.jit
def _quantize_kernel(
    x,  # [T, C], rows x_stride apart
    out,  # [T, C], rows out_stride apart
    scales,  # [T, C/128], any strides
    groups, x_stride, out_stride, scale_row, scale_column,
    GROUPS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS)
    column = group[:, None] * 128 + tl.arange(0, 128)[None, :]
    inside = (group < groups)[:, None]
    start(PDL)
    values = tl.load(x + token * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    small, scale = quantize_groups(values, out.dtype.element_ty)
    tl.store(out + token * out_stride + column, small, mask=inside)
    tl.store(scales + token * scale_row + group * scale_column, scale, mask=group < groups)


def quantize(x: torch.Tensor, out: torch.Tensor, scales: torch.Tensor) -> None:
    """out float8_e4m3fn [T, C] and scales fp32 [T, C/128] of x [T, C]; C a multiple of 128."""
    tokens, columns = x.shape
    if columns % GROUP or out.shape != x.shape or scales.shape != (tokens, columns // GROUP):
        raise InvalidInput(
            f"quantize: expected x and out [T, C], C a multiple of {GROUP}, scales [T, C/{GROUP}], "
            f"got {tuple(x.shape)}, {tuple(out.shape)}, {tuple(scales.shape)}"
        )
    groups = columns // GROUP
    block = triton.next_power_of_2(groups)
    pdl = dependent_launch(x.device)
    _quantize_kernel[(tokens,)](
        x, out, scales, groups, x.stride(0), out.stride(0), *scales.stride(), GROUPS=block, PDL=pdl,
        num_warps=min(max(block // 8, 1), 8), launch_pdl=pdl,
    )  # fmt: skip

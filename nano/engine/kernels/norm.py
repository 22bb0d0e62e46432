"""Root-mean-square norms, alone and with the residual's addition; optionally quantised to fp8 on the way out."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.prefetch import start


@triton.jit
def store_quantized(
    values, row, first, out, scales, out_row, scale_row, scale_group, columns_total, BLOCK: tl.constexpr
):
    """Stores values [BLOCK] (columns first.. of a row) as float8_e4m3fn, one scale for each 128."""
    groups = tl.reshape(values, [BLOCK // 128, 128])
    greatest = tl.maximum(tl.max(tl.abs(groups), 1), 1e-12)
    scale = greatest / 448.0
    quantized = tl.clamp(groups / scale[:, None], -448.0, 448.0)
    group = first // 128 + tl.arange(0, BLOCK // 128)
    columns = group[:, None] * 128 + tl.arange(0, 128)[None, :]
    tl.store(out + row * out_row + columns, quantized.to(tl.float8e4nv), mask=columns < columns_total)
    tl.store(scales + row * scale_row + group * scale_group, scale, mask=group * 128 < columns_total)


@triton.jit(do_not_specialize=["scale_row", "scale_group"], do_not_specialize_on_alignment=["rows"])
def _rms_norm(
    x,  # [rows, columns_total]: the residual where there is a delta
    delta,  # as x, or null
    rows,  # int32: the rows to take, or null
    weight,  # fp32 [columns_total]
    out,
    scales,  # fp32 [rows, columns_total / 128], or null
    eps, x_row, delta_row, out_row, scale_row, scale_group, columns_total,
    BLOCK: tl.constexpr, UPDATE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < columns_total
    factor = tl.load(weight + columns, mask=inside, other=0.0)
    source = row
    if rows is not None:
        source = tl.load(rows + row).to(tl.int64)
    start(PDL)
    values = tl.load(x + source * x_row + columns, mask=inside, other=0.0)
    if delta is not None:
        added = tl.load(delta + source * delta_row + columns, mask=inside, other=0.0)
        values = (values.to(tl.float32) + added.to(tl.float32)).to(x.dtype.element_ty)
        if UPDATE:
            tl.store(x + source * x_row + columns, values, mask=inside)
    values = values.to(tl.float32)
    normed = values * tl.rsqrt(tl.sum(values * values, 0) / columns_total + eps) * factor
    if scales is not None:
        store_quantized(normed, row, 0, out, scales, out_row, scale_row, scale_group, columns_total, BLOCK)
    else:
        tl.store(out + row * out_row + columns, normed.to(out.dtype.element_ty), mask=inside)


def _launch(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    rows: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    scales: torch.Tensor | None,
    update: bool,
) -> None:
    columns = x.shape[1]
    block = max(triton.next_power_of_2(columns), 128 if scales is not None else 1)
    pdl = dependent_launch(x.device)
    _rms_norm[(out.shape[0],)](
        x, delta, rows, weight, out, scales, eps,
        x.stride(0), 0 if delta is None else delta.stride(0), out.stride(0),
        0 if scales is None else scales.stride(0), 0 if scales is None else scales.stride(1), columns,
        BLOCK=block, UPDATE=update, PDL=pdl, num_warps=min(max(block // 512, 1), 16), launch_pdl=pdl,
    )  # fmt: skip


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor, scales: torch.Tensor | None = None
) -> None:
    """out = x / rms(x) * weight.

    x, out [T, C]; weight fp32 [C]. With `scales` fp32 [T, C / 128] (any strides) `out` is float8_e4m3fn: each group of
    128 is divided by its scale, its greatest magnitude / 448.
    """
    _launch(x, None, None, weight, eps, out, scales, False)


def add_rms_norm(
    residual: torch.Tensor,
    delta: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    scales: torch.Tensor | None = None,
) -> None:
    """residual += delta, rounded to its dtype; out = rms_norm of that. All three [T, C]; else as rms_norm."""
    _launch(residual, delta, None, weight, eps, out, scales, True)


def add_rms_norm_rows(
    residual: torch.Tensor,
    delta: torch.Tensor,
    rows: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    scales: torch.Tensor | None = None,
) -> None:
    """out[i] = rms_norm(residual[rows[i]] + delta[rows[i]]), the residual unchanged.

    residual, delta [T, C]; rows int32 [R]; out [R, C]; scales [R, C / 128]; else as rms_norm.
    """
    _launch(residual, delta, rows, weight, eps, out, scales, False)

"""The gated activation between an MLP's two products; optionally quantised to fp8 on the way out."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.norm import store_quantized
from nano.engine.kernels.prefetch import start


@triton.jit(do_not_specialize=["scale_row", "scale_group"])
def _silu_mul(
    gate_up,  # [rows, 2 * width]
    out,  # [rows, width]
    scales,  # fp32 [rows, width / 128], or null
    width, in_row, out_row, scale_row, scale_group,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    columns = first + tl.arange(0, BLOCK)
    inside = columns < width
    start(PDL)
    gate = tl.load(gate_up + row * in_row + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * in_row + width + columns, mask=inside, other=0.0).to(tl.float32)
    values = gate * tl.sigmoid(gate) * up
    if scales is not None:
        store_quantized(values, row, first, out, scales, out_row, scale_row, scale_group, width, BLOCK)
    else:
        tl.store(out + row * out_row + columns, values.to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: torch.Tensor, out: torch.Tensor, scales: torch.Tensor | None = None) -> None:
    """out = silu(gate) * up.

    gate_up [T, 2 I], gate before up; out [T, I]. With `scales` fp32 [T, I / 128] (any strides) `out` is
    float8_e4m3fn: each group of 128 is divided by its scale, its greatest magnitude / 448.
    """
    tokens, width = out.shape
    block = min(max(triton.next_power_of_2(width), 128), 1024)
    pdl = dependent_launch(out.device)
    _silu_mul[(tokens, triton.cdiv(width, block))](
        gate_up, out, scales, width, gate_up.stride(0), out.stride(0),
        0 if scales is None else scales.stride(0), 0 if scales is None else scales.stride(1),
        BLOCK=block, PDL=pdl, num_warps=4 if block >= 1024 else 1, launch_pdl=pdl,
    )  # fmt: skip

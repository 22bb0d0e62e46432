"""out = x @ weight.T for a step's rows: own kernels for few, where reading the weights is all; else cuBLAS."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from nano.engine.kernels import hopper_linear
from nano.engine.kernels.launch import dependent_launch, processors
from nano.engine.kernels.linear_kernels import many_silu_kernel, rows_kernel, vector_kernel
from nano.engine.kernels.linear_tiles import PARTS, TILES, Tile
from nano.engine.kernels.quantize import new_scales as new_scales
from nano.errors import InvalidInput

MAX_ROWS = 64  # the own kernels' most rows
FUSED_ROWS = 16  # the most rows of fp8 products with activations that are not quantised yet
MANY_ROWS = 512  # from so many rows, gate, up and SiLU in one kernel beat a product and SiLU in turn
ROWS_STEP = 4  # cuBLAS's block-scaled product takes multiples of it
SCALES_STEP = 4  # columns of a weight's scales

# cuBLAS shares K out, as few rows of a long product want it, only where its workspace holds the parts; torch's own is
# too small for most. Read when the first such product runs.
os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", "65536")  # KiB


@functools.cache
def _workspace(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # Shared by all products of a device: they run one after another, on one stream.
    counters = torch.zeros(4096, dtype=torch.int32, device=device)
    return torch.empty(1 << 22, dtype=torch.float32, device=device), counters


def _power(value: int) -> int:
    return 1 << (value - 1).bit_length()


def choose(rows: int, n: int, k: int, fp8: bool) -> Tile | None:
    """How `rows` activations and an [n, k] weight are multiplied; None: by cuBLAS."""
    measured = TILES.get((n, k, fp8), {})
    least = next((most for most in measured if rows <= most), None)
    if least is not None:
        return measured[least]
    if rows == 1:
        return Tile(4, 1024, stages=1, vector=True)
    height = 64
    while height > 16 and -(-n // height) < 128:
        height //= 2
    return Tile(height, 128)


def _launch(
    tile: Tile,
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    x_scales: torch.Tensor | None = None,
    weight_scales: torch.Tensor | None = None,
) -> None:
    rows, k = x.shape
    n = weight.shape[0]
    fp8 = weight_scales is not None
    tiles = -(-n // tile.rows)
    flags: dict[str, Any] = {"EVEN": k % tile.depth == 0, "FP8": fp8}
    pdl = dependent_launch(x.device)
    ahead = 0 if k * weight.element_size() % 16 else tile.ahead  # what is prefetched begins at a multiple of 16 bytes
    flags |= {"num_warps": tile.warps, "PDL": pdl, "launch_pdl": pdl}
    if tile.vector:
        vector_kernel[(tiles,)](
            x, x_scales, weight, weight_scales, out, n, k, 0 if x_scales is None else x_scales.stride(1), ahead,
            BN=tile.rows, BK=tile.depth, STAGES=tile.stages, **flags,
        )  # fmt: skip
        return
    partial, counters = _workspace(x.device) if tile.parts > 1 else (None, None)
    block = max(16, _power(rows))
    if partial is not None and counters is not None:
        size = tiles * tile.parts * tile.rows * block
        if size > partial.numel() or tiles > counters.numel():
            raise InvalidInput(f"linear: [{rows}, {k}] x [{n}, {k}]: {tile.parts} parts do not fit the workspace")
    scale_strides = (0, 0) if x_scales is None else x_scales.stride()
    rows_kernel[(tiles, tile.parts)](
        x, x_scales, weight, weight_scales, out, partial, counters,
        rows, n, k, x.stride(0), out.stride(0), *scale_strides, tile.parts, ahead,
        WIDE=fp8 and tile.wide, BM=block, BN=tile.rows, BK=tile.depth, num_stages=tile.stages,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", **flags,
    )  # fmt: skip


def _check(what: str, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    n = weight.shape[0]
    if x.shape[1] != weight.shape[1] or out.shape != (x.shape[0], n) or x.stride(1) != 1 or out.stride(1) != 1:
        raise InvalidInput(
            f"{what}: expected x [M, K], weight [N, K], out [M, N], got {tuple(x.shape)}, "
            f"{tuple(weight.shape)}, {tuple(out.shape)}"
        )


def _parts(rows: int, weight: torch.Tensor) -> int | None:
    """In how many parts hopper_linear takes K; None: cuBLAS is faster."""
    measured = PARTS.get((weight.shape[0], weight.shape[1]), {})
    return next((parts for most, parts in measured.items() if rows <= most), None)


def linear(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, tile: Tile | None = None) -> None:
    """out [M, N] = x [M, K] @ weight [N, K].T, accumulated in fp32; `tile` forces an own kernel."""
    _check("linear", x, weight, out)
    rows = x.shape[0]
    if tile is None and x.dtype != torch.float32 and rows <= MAX_ROWS:
        tile = choose(rows, weight.shape[0], weight.shape[1], fp8=False)
    if tile is None:
        torch.mm(x, weight.T, out=out)
    else:
        _launch(tile, x, weight, out)


def linear_fp8(
    x: torch.Tensor,
    x_scales: torch.Tensor | None,
    weight: torch.Tensor,
    weight_scales: torch.Tensor,
    out: torch.Tensor,
    tile: Tile | None = None,
) -> None:
    """out bf16 [M, N] = x fp8 [M, K] @ weight fp8 [N, K].T with x_scales [M, K/128] and weight_scales [N/128, K/128].

    Up to FUSED_ROWS rows x may be bf16 with x_scales None: it is quantised on the way. For more rows, x_scales' strides
    are best (1, M), as `new_scales` makes them.
    """
    _check("linear_fp8", x, weight, out)
    rows = x.shape[0]
    if tile is None and rows <= FUSED_ROWS:
        tile = choose(rows, weight.shape[0], weight.shape[1], fp8=True)
    if tile is not None:
        _launch(tile, x, weight, out, x_scales, weight_scales)
        return
    if x_scales is not None and weight_scales.shape[1] % SCALES_STEP:  # cuBLAS reads a weight's scales in such steps
        for first in range(0, rows, MAX_ROWS):
            part = slice(first, first + MAX_ROWS)
            own = choose(min(rows - first, MAX_ROWS), weight.shape[0], weight.shape[1], fp8=True) or Tile(64, 128)
            _launch(own, x[part], weight, out[part], x_scales[part], weight_scales)
        return
    if x_scales is None:
        raise InvalidInput(
            f"linear_fp8: more than {FUSED_ROWS} rows are to be quantised first, got {rows} rows of bf16"
        )
    if (parts := _parts(rows, weight)) is not None and hopper_linear.takes(x, weight):
        partial, counters = _workspace(x.device)
        hopper_linear.linear_hopper(x, x_scales, weight, weight_scales, out, parts, partial, counters)
        return
    if rows % ROWS_STEP:  # cuBLAS wants whole steps; the engine's steps are padded to them
        more = -rows % ROWS_STEP
        whole = torch.empty((rows + more, out.shape[1]), dtype=out.dtype, device=out.device)
        x8 = torch.cat((x.view(torch.uint8), x[:more].view(torch.uint8))).view(x.dtype)
        linear_fp8(x8, torch.cat((x_scales, x_scales[:more])), weight, weight_scales, whole)
        out.copy_(whole[:rows])
        return
    if x_scales.stride() != (1, rows):
        x_scales = x_scales.T.contiguous().T
    torch._scaled_mm(x, weight.T, scale_a=x_scales, scale_b=weight_scales.T, out_dtype=out.dtype, out=out)


def fuses_silu(rows: int, weight: torch.Tensor) -> bool:
    """Whether `linear_silu` beats a product and SiLU in turn, for `rows` rows and a weight [2N, K]."""
    if weight.is_cuda and torch.cuda.get_device_capability(weight.device) < (9, 0):
        return False
    half = weight.dtype in (torch.bfloat16, torch.float16)
    return half and rows >= MANY_ROWS and weight.shape[1] % 64 == 0 and weight.shape[0] % 256 == 0


def linear_silu(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """out [M, N] = silu(x @ gate.T) * (x @ up.T), weight [2N, K] (gate | up), in one kernel, where `fuses_silu`."""
    rows, k = x.shape
    n = weight.shape[0] // 2
    if not fuses_silu(rows, weight) or weight.shape[1] != k or out.shape != (rows, n):
        raise InvalidInput(
            f"linear_silu: expected x [M, K], weight [2N, K], out [M, N] of what fuses_silu takes, got "
            f"{tuple(x.shape)}, {tuple(weight.shape)} of {weight.dtype}, {tuple(out.shape)}"
        )
    tall, wide, depth = 128, 128, 64
    programs = min(processors(x.device), -(-rows // tall) * -(-n // wide))
    pdl = dependent_launch(x.device)
    many_silu_kernel[(programs,)](
        TensorDescriptor.from_tensor(x, [tall, depth]),
        TensorDescriptor.from_tensor(weight.view(2, n, k), [2, wide, depth]),
        TensorDescriptor.from_tensor(out, [tall, wide]),
        rows, n, k, BM=tall, BN=wide, BK=depth, GROUP=8, PROGRAMS=programs, PDL=pdl, num_warps=8, num_stages=3,
        launch_pdl=pdl,
    )  # fmt: skip

"""Block-scaled fp8 products of some tens of rows for SM90: one warp brings tiles in, a warpgroup multiplies.

A program multiplies 64 activation rows by 128 weight rows, over all of K or a part of it: so few rows are held up by
reading weights, and a model's narrow weights alone do not fill the device. The last program of a tile to arrive adds
the parts in a fixed order, so that results repeat bit by bit.
"""

from __future__ import annotations

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra import cuda as tlx

from nano.engine.kernels.launch import dependent_launch

ROWS, COLUMNS = 64, 128  # of a tile: activation rows, and weight rows, which share a scale
DEPTH = 128  # columns of both that share a scale: one step
STAGES = 4
REGISTERS = 128  # a thread, so that two programs run on a multiprocessor and one multiplies while the other scales

_ROWS, _COLUMNS, _DEPTH = gl.constexpr(ROWS), gl.constexpr(COLUMNS), gl.constexpr(DEPTH)


@gluon.jit
def _bring(x_rows, w_rows, x_tiles, w_tiles, full, empty, row, column, first, steps,
           STAGES: gl.constexpr, PDL: gl.constexpr):  # fmt: skip
    """The producer: step by step of activations and weights into a ring of STAGES."""
    nbytes: gl.constexpr = w_rows.block_type.nbytes + x_rows.block_type.nbytes
    # Weights are on their way before the kernel that makes the activations has ended.
    for step in range(gl.minimum(steps, STAGES)):
        mbarrier.expect(full.index(step), nbytes)
        tma.async_copy_global_to_shared(
            w_rows, [column, (first + step) * _DEPTH], full.index(step), w_tiles.index(step)
        )
    if PDL:
        tlx.gdc_wait()
    for step in range(steps):
        stage = step % STAGES
        at = (first + step) * _DEPTH
        if step >= STAGES:
            mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(full.index(stage), nbytes)
            tma.async_copy_global_to_shared(w_rows, [column, at], full.index(stage), w_tiles.index(stage))
        tma.async_copy_global_to_shared(x_rows, [row, at], full.index(stage), x_tiles.index(stage))


@gluon.jit
def _multiply(x_scales, w_scales, out, partial, counter, x_tiles, w_tiles, full, empty, M, N, row, column, first, steps,
              part, parts, part_stride, out_stride, scale_row, scale_column,
              STAGES: gl.constexpr, PDL: gl.constexpr):  # fmt: skip
    """The consumer."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, _COLUMNS, 32])
    OUT: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    if PDL:
        tlx.gdc_wait()
        tlx.gdc_launch_dependents()
    nothing = gl.zeros([_ROWS, _COLUMNS], gl.float32, S)
    acc = nothing
    rows = row + gl.arange(0, _ROWS, gl.SliceLayout(1, S))
    scales_at = x_scales + rows.to(gl.int64) * scale_row
    x_scale = gl.load(scales_at + first * scale_column, mask=rows < M, other=0.0)
    w_scale = gl.load(w_scales + first)
    for step in range(steps):
        stage = step % STAGES
        # The next step's scales are on their way meanwhile.
        following = first + gl.minimum(step + 1, steps - 1)
        next_x = gl.load(scales_at + following * scale_column, mask=rows < M, other=0.0)
        next_w = gl.load(w_scales + following)
        mbarrier.wait(full.index(stage), (step // STAGES) & 1)
        w = w_tiles.index(stage).permute([1, 0])
        token = warpgroup_mma(x_tiles.index(stage), w, nothing, use_acc=False, is_async=True)
        product = warpgroup_mma_wait(0, deps=(token,))
        mbarrier.arrive(empty.index(stage), count=1)
        acc += product * (x_scale * w_scale)[:, None]
        x_scale, w_scale = next_x, next_w

    result = gl.convert_layout(acc, OUT)
    out_rows = row + gl.arange(0, _ROWS, gl.SliceLayout(1, OUT))
    columns = column + gl.arange(0, _COLUMNS, gl.SliceLayout(0, OUT))
    last = True
    if parts > 1:
        place = partial + (out_rows - row)[:, None] * _COLUMNS + (columns - column)[None, :]
        gl.store(place + part * part_stride, result)
        gl.thread_barrier()  # every thread's part is written before this program counts as arrived
        last = gl.atomic_add(counter, 1, sem="acq_rel") == parts - 1
        if last:
            result = gl.zeros_like(result)
            for other in range(parts):
                result += gl.load(place + other * part_stride, cache_modifier=".cg")
            gl.store(counter, 0)
    if last:
        at = out_rows[:, None].to(gl.int64) * out_stride + columns[None, :]
        inside = (out_rows < M)[:, None] & (columns < N)[None, :]
        gl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


@gluon.jit(do_not_specialize=["M", "steps", "parts"])
def _linear_hopper(
    x_rows,  # descriptor of [M, K], blocks [64, 128]
    w_rows,  # descriptor of [N, K], blocks [128, 128]
    x_scales,  # [M, K / 128], any strides
    w_scales,  # [ceil(N / 128), K / 128]
    out,  # [M, N]
    partial,  # [parts, tiles, 64, 128]
    counters,  # [tiles]
    M, N, steps, parts, out_stride, scale_row, scale_column,
    STAGES: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    X: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_ROWS, _DEPTH], x_rows.dtype)
    W: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_COLUMNS, _DEPTH], x_rows.dtype)
    x_tiles = gl.allocate_shared_memory(x_rows.dtype, [STAGES, _ROWS, _DEPTH], X)
    w_tiles = gl.allocate_shared_memory(x_rows.dtype, [STAGES, _COLUMNS, _DEPTH], W)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    fence_async_shared()
    gl.thread_barrier()
    part = gl.program_id(1)
    share = gl.cdiv(steps, parts)
    first = part * share
    mine = gl.maximum(gl.minimum(share, steps - first), 0)
    row, column = gl.program_id(2) * _ROWS, gl.program_id(0) * _COLUMNS
    tile = gl.program_id(2) * gl.num_programs(0) + gl.program_id(0)
    part_stride = gl.num_programs(0) * gl.num_programs(2) * (_ROWS * _COLUMNS)
    gl.warp_specialize(
        [
            (
                _multiply,
                (x_scales, w_scales + gl.program_id(0) * steps, out, partial + tile * (_ROWS * _COLUMNS),
                 counters + tile, x_tiles, w_tiles, full, empty, M, N, row, column, first, mine, part, parts,
                 part_stride, out_stride, scale_row, scale_column, STAGES, PDL),
            ),
            (_bring, (x_rows, w_rows, x_tiles, w_tiles, full, empty, row, column, first, mine, STAGES, PDL)),
        ],
        [1],
        [40],
    )  # fmt: skip


def takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether linear_hopper can multiply these, both fp8."""
    return (
        x.is_cuda
        and torch.cuda.get_device_capability(x.device)[0] == 9
        and weight.shape[1] % DEPTH == 0
        and x.data_ptr() % 16 == 0
        and weight.is_contiguous()
    )


def linear_hopper(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    weight_scales: torch.Tensor,
    out: torch.Tensor,
    parts: int,
    partial: torch.Tensor,
    counters: torch.Tensor,
) -> None:
    """linear_fp8 for what `takes` accepts, K in `parts`; partial fp32 and counters int32, zeros, hold every tile's."""
    rows, k = x.shape
    n = weight.shape[0]
    layout = gl.NVMMASharedLayout(DEPTH, 8, 2)
    pdl = dependent_launch(x.device)
    _linear_hopper[(-(-n // COLUMNS), parts, -(-rows // ROWS))](
        TensorDescriptor(x, [rows, k], [x.stride(0), 1], [ROWS, DEPTH], layout),
        TensorDescriptor(weight, [n, k], [k, 1], [COLUMNS, DEPTH], layout),
        x_scales, weight_scales, out, partial, counters, rows, n, k // DEPTH, parts, out.stride(0), *x_scales.stride(),
        STAGES=STAGES, PDL=pdl, num_warps=4, launch_pdl=pdl, maxnreg=REGISTERS,
    )  # fmt: skip

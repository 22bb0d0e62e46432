"""Products of some tens to hundreds of rows for SM90: one warp brings tiles in, one or two warpgroups multiply.

A program multiplies up to 256 activation rows by 128 weight rows, over all of K or a part of it: so few rows are held
up by reading weights, and a model's narrow weights alone do not fill the device. The last program of a tile to arrive
adds the parts in a fixed order, so that results repeat bit by bit.
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
    warpgroup_mma_init,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra import cuda as tlx

from nano.engine.kernels.launch import dependent_launch

SLAB = 64  # activation rows of one product of a warpgroup
COLUMNS = 128  # weight rows of a program: those that share a scale
ROW_BYTES = 128  # of a tile's row, activations and weights

_SLAB = gl.constexpr(SLAB)
_COLUMNS = gl.constexpr(COLUMNS)


@gluon.jit
def _bring(x_rows, w_rows, x_tiles, w_tiles, full, empty, row, column, first, steps,
           SLABS: gl.constexpr, STAGES: gl.constexpr, BK: gl.constexpr, PDL: gl.constexpr):  # fmt: skip
    """The producer: step by step of activations and weights into a ring of STAGES."""
    nbytes: gl.constexpr = w_rows.block_type.nbytes + SLABS * x_rows.block_type.nbytes
    for step in range(gl.minimum(steps, STAGES)):  # weights are there before the kernel that makes the activations ends
        mbarrier.expect(full.index(step), nbytes)
        tma.async_copy_global_to_shared(w_rows, [column, (first + step) * BK], full.index(step), w_tiles.index(step))
    if PDL:
        tlx.gdc_wait()
    for step in range(steps):
        stage = step % STAGES
        at = (first + step) * BK
        if step >= STAGES:
            mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(full.index(stage), nbytes)
            tma.async_copy_global_to_shared(w_rows, [column, at], full.index(stage), w_tiles.index(stage))
        for slab in gl.static_range(SLABS):
            tma.async_copy_global_to_shared(
                x_rows, [row + slab * _SLAB, at], full.index(stage), x_tiles.index(stage * SLABS + slab)
            )


@gluon.jit
def _scale(x_scales, w_scales, rows, M, group, scale_row, scale_column):
    x_scale = gl.load(x_scales + rows.to(gl.int64) * scale_row + group * scale_column, mask=rows < M, other=0.0)
    return x_scale * gl.load(w_scales + group)


@gluon.jit
def _store(out, acc, rows, columns, M, N, out_stride):
    at = rows[:, None].to(gl.int64) * out_stride + columns[None, :]
    gl.store(out + at, acc.to(out.dtype.element_ty), mask=(rows < M)[:, None] & (columns < N)[None, :])


@gluon.jit
def _add_parts(acc, partial, counter, place, part, parts, part_stride):
    """This program's sum put beside the others'; whether it is the last, and then the sum of all."""
    gl.store(partial + part * part_stride + place, acc)
    gl.thread_barrier()  # every thread's part is written before this program counts as arrived
    last = gl.atomic_add(counter, 1, sem="acq_rel") == parts - 1
    if last:
        acc = gl.zeros_like(acc)
        for other in range(parts):
            acc += gl.load(partial + other * part_stride + place, cache_modifier=".cg")
        gl.store(counter, 0)
    return acc, last


@gluon.jit
def _multiply(x_scales, w_scales, out, partial, counters, x_tiles, w_tiles, full, empty, M, N, row, column, first,
              steps, part, parts, tile, tiles, out_stride, scale_row, scale_column,
              GROUP: gl.constexpr, SLABS: gl.constexpr, GROUPS: gl.constexpr, STAGES: gl.constexpr, FP8: gl.constexpr,
              PDL: gl.constexpr):  # fmt: skip
    """One consumer: SLABS slabs of the tile's rows by its columns. GROUP of GROUPS warpgroups."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, _COLUMNS, 32 if FP8 else 16])
    OUT: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    if PDL:
        tlx.gdc_wait()
        if GROUP == 0:
            tlx.gdc_launch_dependents()
    nothing = gl.zeros([_SLAB, _COLUMNS], gl.float32, S)
    acc, acc_two = nothing, nothing
    base = row + GROUP * SLABS * _SLAB
    rows = base + gl.arange(0, _SLAB, gl.SliceLayout(1, S))
    if FP8:
        scale = _scale(x_scales, w_scales, rows, M, first, scale_row, scale_column)
        scale_two = _scale(x_scales, w_scales, rows + _SLAB, M, first, scale_row, scale_column) if SLABS == 2 else scale
        for step in range(steps):
            stage = step % STAGES
            mbarrier.wait(full.index(stage), (step // STAGES) & 1)
            w = w_tiles.index(stage).permute([1, 0])
            slab = (stage * GROUPS + GROUP) * SLABS
            token = warpgroup_mma(x_tiles.index(slab), w, nothing, use_acc=False, is_async=True)
            # The next step's scales are on their way meanwhile.
            group = first + gl.minimum(step + 1, steps - 1)
            if SLABS == 2:
                token_two = warpgroup_mma(x_tiles.index(slab + 1), w, nothing, use_acc=False, is_async=True)
                next_two = _scale(x_scales, w_scales, rows + _SLAB, M, group, scale_row, scale_column)
                next_scale = _scale(x_scales, w_scales, rows, M, group, scale_row, scale_column)
                product = warpgroup_mma_wait(1, deps=(token,))
                acc += product * scale[:, None]
                product = warpgroup_mma_wait(0, deps=(token_two,))
                mbarrier.arrive(empty.index(stage), count=1)
                acc_two += product * scale_two[:, None]
                scale_two = next_two
            else:
                next_scale = _scale(x_scales, w_scales, rows, M, group, scale_row, scale_column)
                product = warpgroup_mma_wait(0, deps=(token,))
                mbarrier.arrive(empty.index(stage), count=1)
                acc += product * scale[:, None]
            scale = next_scale
    else:
        for step in range(steps):
            stage = step % STAGES
            mbarrier.wait(full.index(stage), (step // STAGES) & 1)
            w = w_tiles.index(stage).permute([1, 0])
            slab = (stage * GROUPS + GROUP) * SLABS
            token = warpgroup_mma(x_tiles.index(slab), w, acc, is_async=True)
            if SLABS == 2:
                token_two = warpgroup_mma(x_tiles.index(slab + 1), w, acc_two, is_async=True)
                acc, acc_two = warpgroup_mma_wait(0, deps=(token, token_two))
            else:
                acc = warpgroup_mma_wait(0, deps=(token,))
            mbarrier.arrive(empty.index(stage), count=1)
    columns = column + gl.arange(0, _COLUMNS, gl.SliceLayout(0, OUT))
    out_rows = base + gl.arange(0, _SLAB, gl.SliceLayout(1, OUT))
    place = gl.arange(0, _SLAB, gl.SliceLayout(1, OUT))[:, None] * _COLUMNS
    place += gl.arange(0, _COLUMNS, gl.SliceLayout(0, OUT))[None, :]
    mine = (tile * GROUPS + GROUP) * SLABS
    part_stride = tiles * GROUPS * SLABS * _SLAB * _COLUMNS
    for slab in gl.static_range(SLABS):
        result = gl.convert_layout(acc if slab == 0 else acc_two, OUT)
        written = base + slab * _SLAB < M
        if parts > 1 and written:
            here = partial + (mine + slab) * (_SLAB * _COLUMNS)
            result, written = _add_parts(result, here, counters + mine + slab, place, part, parts, part_stride)
        if written:
            _store(out, result, out_rows + slab * _SLAB, columns, M, N, out_stride)


@gluon.jit(do_not_specialize=["M", "steps", "parts"])
def _linear_hopper(
    x_rows,  # descriptor of [M, K], blocks [64, BK]
    w_rows,  # descriptor of [N, K], blocks [128, BK]
    x_scales,  # FP8: [M, K / 128], any strides; else any memory
    w_scales,  # FP8: [ceil(N / 128), ceil(K / 128)]; else any memory
    out,  # [M, N]
    partial,  # [parts, tiles, rows of a tile, 128]
    counters,  # [tiles * slabs of a tile]
    M, N, steps, parts, out_stride, scale_row, scale_column,
    GROUPS: gl.constexpr, SLABS: gl.constexpr, STAGES: gl.constexpr, BK: gl.constexpr, FP8: gl.constexpr,
    PDL: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    ALL: gl.constexpr = GROUPS * SLABS
    DTYPE: gl.constexpr = x_rows.dtype
    X: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_SLAB, BK], DTYPE)
    W: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_COLUMNS, BK], DTYPE)
    x_tiles = gl.allocate_shared_memory(DTYPE, [STAGES * ALL, _SLAB, BK], X)
    w_tiles = gl.allocate_shared_memory(DTYPE, [STAGES, _COLUMNS, BK], W)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=GROUPS)
    fence_async_shared()
    gl.thread_barrier()
    part = gl.program_id(1)
    share = gl.cdiv(steps, parts)
    first = part * share
    mine = gl.maximum(gl.minimum(share, steps - first), 0)
    row = gl.program_id(2) * (ALL * _SLAB)
    column = gl.program_id(0) * _COLUMNS
    tile = gl.program_id(2) * gl.num_programs(0) + gl.program_id(0)
    tiles = gl.num_programs(0) * gl.num_programs(2)
    scale_of_tile = w_scales + gl.program_id(0) * steps
    if GROUPS == 2:
        gl.warp_specialize(
            [
                (
                    _multiply,
                    (x_scales, scale_of_tile, out, partial, counters, x_tiles, w_tiles, full, empty, M, N, row, column,
                     first, mine, part, parts, tile, tiles, out_stride, scale_row, scale_column,
                     0, SLABS, GROUPS, STAGES, FP8, PDL),
                ),
                (
                    _multiply,
                    (x_scales, scale_of_tile, out, partial, counters, x_tiles, w_tiles, full, empty, M, N, row, column,
                     first, mine, part, parts, tile, tiles, out_stride, scale_row, scale_column,
                     1, SLABS, GROUPS, STAGES, FP8, PDL),
                ),
                (
                    _bring,
                    (x_rows, w_rows, x_tiles, w_tiles, full, empty, row, column, first, mine, ALL, STAGES, BK, PDL),
                ),
            ],
            [4, 1],
            [REGISTERS, 40],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (
                    _multiply,
                    (x_scales, scale_of_tile, out, partial, counters, x_tiles, w_tiles, full, empty, M, N, row, column,
                     first, mine, part, parts, tile, tiles, out_stride, scale_row, scale_column,
                     0, SLABS, GROUPS, STAGES, FP8, PDL),
                ),
                (
                    _bring,
                    (x_rows, w_rows, x_tiles, w_tiles, full, empty, row, column, first, mine, ALL, STAGES, BK, PDL),
                ),
            ],
            [1],
            [40],
        )  # fmt: skip


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    x_scales: torch.Tensor | None,
    w_scales: torch.Tensor | None,
    workspace: tuple[torch.Tensor, torch.Tensor],
    groups: int,
    slabs: int,
    parts: int,
    stages: int,
    most_registers: int | None = None,
) -> None:
    """out [M, N] = x [M, K] @ weight [N, K].T; a program takes groups * slabs * 64 rows."""
    rows, k = x.shape
    n = weight.shape[0]
    depth = ROW_BYTES // x.element_size()
    layout = gl.NVMMASharedLayout(ROW_BYTES, 8 * x.element_size(), 2)
    pdl = dependent_launch(x.device)
    partial, counters = workspace
    grid = (-(-n // COLUMNS), parts, -(-rows // (groups * slabs * SLAB)))
    _linear_hopper[grid](
        TensorDescriptor(x, [rows, k], [x.stride(0), 1], [SLAB, depth], layout),
        TensorDescriptor(weight, [n, k], [k, 1], [COLUMNS, depth], layout),
        partial if x_scales is None else x_scales, partial if w_scales is None else w_scales, out, partial, counters, rows, n, -(-k // depth), parts, out.stride(0),
        *((0, 0) if x_scales is None else x_scales.stride()), GROUPS=groups, SLABS=slabs, STAGES=stages, BK=depth,
        FP8=w_scales is not None, PDL=pdl, REGISTERS=232 if most_registers is None else 2 * most_registers - 40,
        num_warps=4, launch_pdl=pdl, maxnreg=most_registers,
    )  # fmt: skip

"""Prefill attention for SM90: one warp brings tiles in, two warpgroups compute.

Chunks are those of prefill_attention; a program of each multiprocessor takes one after another. While one warpgroup
computes its softmax, the other's products keep the tensor cores busy (FlashAttention-3, arXiv 2407.08608), and each
adds up its values beside its own softmax. Tiles come by the tensor memory accelerator, so a tile lies in one block.
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

from nano.engine.kernels.launch import dependent_launch, processors
from nano.engine.kernels.paging import LOG2E

_MASKED_SCORE = gl.constexpr(-1.0e30)
_WARPGROUP_ROWS = gl.constexpr(64)


@gluon.jit
def _item(turn, chunks, kv_heads):
    """This program's chunk and KV head in round `turn`; every other round runs backwards, so that lengths even out."""
    programs = gl.num_programs(0)
    program = gl.program_id(0)
    item = turn * programs + gl.where(turn % 2 == 0, program, programs - 1 - program)
    # The last chunks of a sequence, the longest, come first; the heads of a chunk, which share no memory, together.
    return chunks - 1 - item // kv_heads, item % kv_heads


@gluon.jit
def _find(chunk, cu_query, context_lens, sequences, last_row,
          TOKENS: gl.constexpr, TILE: gl.constexpr, SEARCH: gl.constexpr, LANES: gl.constexpr):  # fmt: skip
    """A chunk's sequence, its rows begin..end, its first row's position, its sequence's length, its tiles.

    No tiles: an empty chunk, or rows behind the last sequence.
    """
    lanes = gl.arange(0, SEARCH, LANES)
    sequence = -1
    for first in range(0, sequences + 1, SEARCH):
        inside = first + lanes <= sequences
        begins = gl.load(cu_query + first + lanes, mask=inside, other=0)
        before = inside & (begins // TOKENS + first + lanes <= chunk)
        sequence += gl.sum(before.to(gl.int32), 0)
    known = chunk >= 0
    begin = gl.load(cu_query + sequence, mask=known, other=0)
    real = known & (sequence < sequences)
    end = gl.load(cu_query + sequence + 1, mask=real, other=last_row)
    length = gl.load(context_lens + sequence, mask=real, other=0)
    begin += (chunk - begin // TOKENS - sequence) * TOKENS
    position = length - (end - begin)
    tiles = gl.maximum(gl.cdiv(gl.minimum(position + TOKENS, length), TILE), 1)
    return sequence, begin, gl.where(known, end, begin), position, length, gl.where(real & (begin < end), tiles, 0)


@gluon.jit
def _bring(k_rows, v_rows, k_tiles, v_tiles, k_full, k_empty, v_full, v_empty, tables, cu_query, context_lens,
           sequences, table_stride, last_row, chunks, kv_heads, rounds, k_block, k_head, v_block, v_head,
           TOKENS: gl.constexpr, BLOCK_SIZE: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr,
           SEARCH: gl.constexpr):  # fmt: skip
    """The producer: tile by tile of K and V into a ring of STAGES. Strides are in rows of HEAD_DIM."""
    LANES: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    count = 0
    for turn in range(rounds):
        chunk, head = _item(turn, chunks, kv_heads)
        sequence, _, _, _, _, tiles = _find(
            chunk, cu_query, context_lens, sequences, last_row, TOKENS, TILE, SEARCH, LANES
        )
        table = tables + sequence.to(gl.int64) * table_stride
        for tile in range(tiles):
            stage = count % STAGES
            phase = (count // STAGES) & 1
            first = tile * TILE
            block = gl.load(table + first // BLOCK_SIZE)
            offset = first % BLOCK_SIZE
            mbarrier.wait(k_empty.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k_rows.block_type.nbytes)
            k_row = block * k_block + head * k_head + offset
            tma.async_copy_global_to_shared(k_rows, [k_row, 0], k_full.index(stage), k_tiles.index(stage))
            mbarrier.wait(v_empty.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v_rows.block_type.nbytes)
            v_row = block * v_block + head * v_head + offset
            tma.async_copy_global_to_shared(v_rows, [v_row, 0], v_full.index(stage), v_tiles.index(stage))
            count += 1


@gluon.jit
def _scores_to_shares(scores, greatest, sums, tile, free, positions, scale, TILE: gl.constexpr, P: gl.constexpr,
                      S: gl.constexpr, DTYPE: gl.constexpr):  # fmt: skip
    if tile >= free:
        columns = tile * TILE + gl.arange(0, TILE, gl.SliceLayout(0, S))
        scores = gl.where(columns[None, :] <= positions[:, None], scores, _MASKED_SCORE)
    new_greatest = gl.maximum(greatest, gl.max(scores, 1) * scale)
    shares = gl.exp2(scores * scale - new_greatest[:, None])
    shrink = gl.exp2(greatest - new_greatest)
    sums = sums * shrink + gl.sum(shares, 1)
    return gl.convert_layout(shares.to(DTYPE), P), shrink, new_greatest, sums


@gluon.jit
def _clear_beyond(values, tile, length, TILE: gl.constexpr, HEAD_DIM: gl.constexpr):
    """Zeros the rows of a tile of V at and beyond `length`: whatever they hold, it is multiplied by shares of zero.

    Both warpgroups may do so at once: what they write is the same.
    """
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    rows = tile * TILE + gl.arange(0, TILE, gl.SliceLayout(1, LAYOUT))
    kept = values.load(LAYOUT)
    values.store(gl.where((rows < length)[:, None], kept, gl.zeros_like(kept)))
    fence_async_shared()
    gl.thread_barrier()


@gluon.jit
def _load_queries(q, q_token, q_head, begin, end, head,
                  PART: gl.constexpr, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr, TOKENS: gl.constexpr):  # fmt: skip
    """This warpgroup's rows of a chunk: heads of a group within tokens."""
    LOADED: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    rows = PART * _WARPGROUP_ROWS + gl.arange(0, _WARPGROUP_ROWS, gl.SliceLayout(1, LOADED))
    tokens = (begin + rows // GROUP)[:, None]
    present = (tokens < end) & (rows // GROUP < TOKENS)[:, None]
    columns = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, LOADED))[None, :]
    heads = (head * GROUP + rows % GROUP)[:, None]
    return gl.load(q + tokens.to(gl.int64) * q_token + heads * q_head + columns, mask=present, other=0.0)


@gluon.jit
def _compute(q, queries, k_tiles, v_tiles, k_full, k_empty, v_full, v_empty, cu_query, context_lens, out,
             sequences, last_row, chunks, kv_heads, rounds, q_token, q_head, out_token, out_head, scale, v_scale,
             PART: gl.constexpr, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr, TOKENS: gl.constexpr,
             TILE: gl.constexpr, STAGES: gl.constexpr, SEARCH: gl.constexpr):  # fmt: skip
    """One consumer: 64 of a chunk's rows against every tile."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TILE, 16])
    A: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, A, 2)
    LANES: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    DTYPE: gl.constexpr = queries.dtype
    query = queries.index(PART)
    nothing = gl.zeros([_WARPGROUP_ROWS, TILE], gl.float32, S)
    s_rows = PART * _WARPGROUP_ROWS + gl.arange(0, _WARPGROUP_ROWS, gl.SliceLayout(1, S))
    rows = PART * _WARPGROUP_ROWS + gl.arange(0, _WARPGROUP_ROWS, gl.SliceLayout(1, A))
    columns = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, A))[None, :]

    count = 0
    chunk, head = _item(0, chunks, kv_heads)
    _, begin, end, position, length, tiles = _find(
        chunk, cu_query, context_lens, sequences, last_row, TOKENS, TILE, SEARCH, LANES
    )
    loaded = _load_queries(q, q_token, q_head, begin, end, head, PART, GROUP, HEAD_DIM, TOKENS)
    for turn in range(rounds):
        query.store(loaded)
        fence_async_shared()
        gl.thread_barrier()
        # The next chunk's queries are on their way while this one is computed.
        next_chunk, next_head = _item(turn + 1, chunks, kv_heads)
        _, next_begin, next_end, next_position, next_length, next_tiles = _find(
            next_chunk, cu_query, context_lens, sequences, last_row, TOKENS, TILE, SEARCH, LANES
        )
        loaded = _load_queries(q, q_token, q_head, next_begin, next_end, next_head, PART, GROUP, HEAD_DIM, TOKENS)

        acc = gl.zeros([_WARPGROUP_ROWS, HEAD_DIM], gl.float32, A)
        sums = gl.zeros([_WARPGROUP_ROWS], gl.float32, gl.SliceLayout(1, S))
        if tiles > 0:
            free = gl.maximum(position + 1, 0) // TILE
            positions = position + s_rows // GROUP
            greatest = gl.full([_WARPGROUP_ROWS], _MASKED_SCORE, gl.float32, gl.SliceLayout(1, S))
            stage = count % STAGES
            mbarrier.wait(k_full.index(stage), (count // STAGES) & 1)
            scores = warpgroup_mma(query, k_tiles.index(stage).permute([1, 0]), nothing, use_acc=False)
            mbarrier.arrive(k_empty.index(stage), count=1)
            shares, shrink, greatest, sums = _scores_to_shares(
                scores, greatest, sums, 0, free, positions, scale, TILE, P, S, DTYPE
            )
            stage = (count + 1) % STAGES
            mbarrier.wait(k_full.index(stage), ((count + 1) // STAGES) & 1, pred=tiles > 1)
            for tile in range(1, tiles):
                last_stage = count % STAGES
                last_phase = (count // STAGES) & 1
                count += 1
                stage = count % STAGES
                token = warpgroup_mma(
                    query, k_tiles.index(stage).permute([1, 0]), nothing, use_acc=False, is_async=True
                )
                mbarrier.wait(v_full.index(last_stage), last_phase)
                adding = warpgroup_mma(shares, v_tiles.index(last_stage), acc, is_async=True)
                scores = warpgroup_mma_wait(1, deps=(token,))
                mbarrier.arrive(k_empty.index(stage), count=1)
                new_shares, shrink, greatest, sums = _scores_to_shares(
                    scores, greatest, sums, tile, free, positions, scale, TILE, P, S, DTYPE
                )
                # A wait here also keeps the assembler from putting off the softmax until the values are added up.
                next_stage = (count + 1) % STAGES
                mbarrier.wait(k_full.index(next_stage), ((count + 1) // STAGES) & 1, pred=tile + 1 < tiles)
                acc, shares, new_shares = warpgroup_mma_wait(0, deps=(adding, shares, new_shares))
                mbarrier.arrive(v_empty.index(last_stage), count=1)
                acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, A))[:, None]
                shares = new_shares
            stage = count % STAGES
            mbarrier.wait(v_full.index(stage), (count // STAGES) & 1)
            values = v_tiles.index(stage)
            if tiles * TILE > length:
                _clear_beyond(values, tiles - 1, length, TILE, HEAD_DIM)
            acc = warpgroup_mma(shares, values, acc)
            mbarrier.arrive(v_empty.index(stage), count=1)
            count += 1

        factor = gl.where(sums > 0, v_scale / sums, 0.0)
        result = acc * gl.convert_layout(factor, gl.SliceLayout(1, A))[:, None]
        tokens = (begin + rows // GROUP)[:, None]
        out_rows = out + tokens.to(gl.int64) * out_token + (head * GROUP + rows % GROUP)[:, None] * out_head
        present = (tokens < end) & (rows // GROUP < TOKENS)[:, None]
        gl.store(out_rows + columns, result.to(out.dtype.element_ty), mask=present)
        head = next_head
        begin, end, position, length, tiles = next_begin, next_end, next_position, next_length, next_tiles


@gluon.jit(
    do_not_specialize=["sequences", "table_stride", "last_row", "chunks", "rounds"],
    do_not_specialize_on_alignment=["tables", "cu_query", "context_lens"],
)
def _prefill_hopper(
    q,  # [last_row, kv_heads * GROUP, HEAD_DIM]
    k_rows, v_rows,  # descriptors of the pool from k and v on, as rows of HEAD_DIM
    tables,  # int32 [sequences, .]
    cu_query,  # int32 [sequences + 1]
    context_lens,  # int32 [sequences]
    out,  # as q
    scale, v_scale, sequences, table_stride, last_row, chunks, kv_heads, rounds,
    q_token, q_head, k_block, k_head, v_block, v_head, out_token, out_head,
    GROUP: gl.constexpr, HEAD_DIM: gl.constexpr, BLOCK_SIZE: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr,
    SEARCH: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    TOKENS: gl.constexpr = 2 * _WARPGROUP_ROWS // GROUP
    SHARED: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TILE, HEAD_DIM], q.dtype.element_ty)
    queries = gl.allocate_shared_memory(q.dtype.element_ty, [2, _WARPGROUP_ROWS, HEAD_DIM], SHARED)
    k_tiles = gl.allocate_shared_memory(q.dtype.element_ty, [STAGES, TILE, HEAD_DIM], SHARED)
    v_tiles = gl.allocate_shared_memory(q.dtype.element_ty, [STAGES, TILE, HEAD_DIM], SHARED)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=2)
        mbarrier.init(v_empty.index(stage), count=2)
    fence_async_shared()
    gl.thread_barrier()
    if PDL:
        tlx.gdc_wait()
        tlx.gdc_launch_dependents()
    gl.warp_specialize(
        [
            (
                _compute,
                (q, queries, k_tiles, v_tiles, k_full, k_empty, v_full, v_empty, cu_query, context_lens, out,
                 sequences, last_row, chunks, kv_heads, rounds, q_token, q_head, out_token, out_head, scale, v_scale,
                 0, GROUP, HEAD_DIM, TOKENS, TILE, STAGES, SEARCH),
            ),
            (
                _compute,
                (q, queries, k_tiles, v_tiles, k_full, k_empty, v_full, v_empty, cu_query, context_lens, out,
                 sequences, last_row, chunks, kv_heads, rounds, q_token, q_head, out_token, out_head, scale, v_scale,
                 1, GROUP, HEAD_DIM, TOKENS, TILE, STAGES, SEARCH),
            ),
            (
                _bring,
                (k_rows, v_rows, k_tiles, v_tiles, k_full, k_empty, v_full, v_empty, tables, cu_query, context_lens,
                 sequences, table_stride, last_row, chunks, kv_heads, rounds, k_block, k_head, v_block, v_head,
                 TOKENS, BLOCK_SIZE, TILE, STAGES, SEARCH),
            ),
        ],
        [4, 1],
        [232, 40],
    )  # fmt: skip


def takes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether prefill_attention_hopper can serve these."""
    head_dim = q.shape[2]
    return (
        q.dtype in (torch.bfloat16, torch.float16)
        and k.dtype == v.dtype == q.dtype
        and q.is_cuda
        and torch.cuda.get_device_capability(q.device)[0] == 9
        and head_dim in (64, 128)
        and k.shape[2] >= 64
        and all(x.stride(2) == head_dim and x.stride(0) % head_dim == 0 and x.stride(1) % head_dim == 0 for x in (k, v))
    )


def _rows(pool: torch.Tensor, tile: int) -> TensorDescriptor:
    """A layer's K or V and the gaps between its blocks as one matrix of rows of head_dim elements."""
    blocks, kv_heads, block_size, head_dim = pool.shape
    rows = ((blocks - 1) * pool.stride(0) + (kv_heads - 1) * pool.stride(1)) // head_dim + block_size
    layout = gl.NVMMASharedLayout(128, 16, 2)
    return TensorDescriptor(pool, [rows, head_dim], [head_dim, 1], [tile, head_dim], layout)


def prefill_attention_hopper(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tables: torch.Tensor,
    cu_query: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    scale: float,
    v_scale: float,
    tile: int = 64,
    stages: int = 3,
) -> None:
    """prefill_attention for what `takes` accepts."""
    tokens, heads, head_dim = q.shape
    kv_heads, block_size = k.shape[1], k.shape[2]
    group = heads // kv_heads
    sequences = context_lens.shape[0]
    pdl = dependent_launch(q.device)
    chunks = tokens // (128 // group) + sequences + 1
    programs = min(processors(q.device), chunks * kv_heads)
    _prefill_hopper[(programs,)](
        q, _rows(k, tile), _rows(v, tile), tables, cu_query, context_lens, out,
        scale * LOG2E, v_scale, sequences, tables.stride(0), tokens, chunks, kv_heads,
        (chunks * kv_heads + programs - 1) // programs,
        q.stride(0), q.stride(1), k.stride(0) // head_dim, k.stride(1) // head_dim,
        v.stride(0) // head_dim, v.stride(1) // head_dim, out.stride(0), out.stride(1),
        GROUP=group, HEAD_DIM=head_dim, BLOCK_SIZE=block_size, TILE=tile, STAGES=stages,
        SEARCH=128 if sequences < 128 else 512, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip

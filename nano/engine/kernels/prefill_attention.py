"""Causal attention of any mix of chunks and single queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda as tlx

from nano.engine.kernels import hopper_attention
from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.paging import LOG2E, MASKED_SCORE, dot, tile_rows


@triton.jit
def _attend(query, greatest, sums, acc, k, v, table, low, high, length, positions, head, scale,
            k_block, k_head, k_token, v_block, v_head, v_token,
            HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
            STAGES: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Tiles low..high of one head; MASKED where a row's position or the context may end inside a tile."""
    for tile in tl.range(low, high, num_stages=STAGES):
        columns = tile * TILE + tl.arange(0, TILE)
        elements = tl.arange(0, HEAD_DIM)[None, :]
        k_rows = tile_rows(k, table, tile, length, head, k_block, k_head, k_token, BLOCK_SIZE, TILE, MASKED)
        v_rows = tile_rows(v, table, tile, length, head, v_block, v_head, v_token, BLOCK_SIZE, TILE, MASKED)
        if MASKED:
            keys = tl.load(k_rows[:, None] + elements, mask=(columns < length)[:, None], other=0.0)
            values = tl.load(v_rows[:, None] + elements, mask=(columns < length)[:, None], other=0.0)
        else:
            keys = tl.load(k_rows[:, None] + elements)
            values = tl.load(v_rows[:, None] + elements)
        scores = dot(query, tl.trans(keys.to(query.dtype)), tl.zeros([ROWS, TILE], tl.float32))
        if MASKED:
            scores = tl.where(columns[None, :] <= positions[:, None], scores, MASKED_SCORE)
        new_greatest = tl.maximum(greatest, tl.max(scores, 1) * scale)
        shares = tl.exp2(scores * scale - new_greatest[:, None])
        shrink = tl.exp2(greatest - new_greatest)
        sums = sums * shrink + tl.sum(shares, 1)
        acc = dot(shares.to(query.dtype), values.to(query.dtype), acc * shrink[:, None])
        greatest = new_greatest
    return greatest, sums, acc


@triton.jit(
    do_not_specialize=["sequences", "table_stride", "last_row"],
    do_not_specialize_on_alignment=["tables", "cu_query", "context_lens"],
)
def _prefill(
    q,  # [last_row, kv_heads * GROUP, HEAD_DIM]
    k, v,  # [blocks, kv_heads, BLOCK_SIZE, HEAD_DIM]
    tables,  # int32 [sequences, .]
    cu_query,  # int32 [sequences + 1]
    context_lens,  # int32 [sequences]
    out,  # as q
    scale, v_scale, sequences, table_stride, last_row,
    q_token, q_head, k_block, k_head, k_token, v_block, v_head, v_token, out_token, out_head,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, SEARCH: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program: TOKENS queries of one sequence, all query heads of one KV head.

    Sequence s owns the chunks from cu_query[s] // TOKENS + s on: enough for its queries whatever they are, without a
    sum over the sequences before it. What follows the last query counts as one more sequence, whose rows become zero.
    """
    TOKENS: tl.constexpr = ROWS // GROUP
    if PDL:
        tlx.gdc_wait()
        tlx.gdc_launch_dependents()
    # The longest rows first.
    chunk = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    lanes = tl.arange(0, SEARCH)
    sequence = -1
    for first in range(0, sequences + 1, SEARCH):
        inside = first + lanes <= sequences
        begins = tl.load(cu_query + first + lanes, mask=inside, other=0)
        before = inside & (begins // TOKENS + first + lanes <= chunk)
        sequence += tl.sum(before.to(tl.int32))
    begin = tl.load(cu_query + sequence)
    real = sequence < sequences
    end = tl.load(cu_query + sequence + 1, mask=real, other=last_row)
    skipped = (chunk - begin // TOKENS - sequence) * TOKENS
    begin += skipped
    if begin < end:
        rows = tl.arange(0, ROWS)
        tokens = rows // GROUP
        columns = tl.arange(0, HEAD_DIM)
        present = (tokens < end - begin) & (tokens < TOKENS)
        token_rows = tl.cast(begin + tokens, tl.int64)[:, None]
        heads = (head * GROUP + rows % GROUP)[:, None]
        out_rows = out + token_rows * out_token + heads * out_head + columns[None, :]
        if real:
            length = tl.load(context_lens + sequence)
            position = length - (end - begin)
            query = tl.load(
                q + token_rows * q_token + heads * q_head + columns[None, :], mask=present[:, None], other=0.0
            )
            table = tables + tl.cast(sequence, tl.int64) * table_stride
            greatest = tl.full([ROWS], MASKED_SCORE, tl.float32)
            sums = tl.zeros([ROWS], tl.float32)
            acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
            free = tl.maximum(position + 1, 0) // TILE
            visible = tl.cdiv(tl.minimum(position + TOKENS, length), TILE)
            greatest, sums, acc = _attend(
                query, greatest, sums, acc, k, v, table, 0, free, length, position + tokens, head, scale,
                k_block, k_head, k_token, v_block, v_head, v_token, HEAD_DIM, BLOCK_SIZE, ROWS, TILE, STAGES, False,
            )  # fmt: skip
            greatest, sums, acc = _attend(
                query, greatest, sums, acc, k, v, table, free, visible, length, position + tokens, head, scale,
                k_block, k_head, k_token, v_block, v_head, v_token, HEAD_DIM, BLOCK_SIZE, ROWS, TILE, STAGES, True,
            )  # fmt: skip
            result = acc * (v_scale / tl.where(sums > 0, sums, 1.0))[:, None]
            tl.store(out_rows, result.to(out.dtype.element_ty), mask=present[:, None])
        else:
            tl.store(out_rows, tl.zeros([ROWS, HEAD_DIM], out.dtype.element_ty), mask=present[:, None])


# Up to here more and smaller programs are faster than hopper_attention's.
_SHORT = 256


@dataclass(frozen=True)
class PrefillConfig:
    """How prefill attention is cut up."""

    rows: int  # tokens x a group's heads
    tile: int  # positions
    stages: int
    warps: int


def prefill_config(element_size: int) -> PrefillConfig:
    """Measured on an H100; `element_size` is the queries', in bytes."""
    if element_size == 4:
        return PrefillConfig(rows=32, tile=32, stages=1, warps=4)
    return PrefillConfig(rows=64, tile=64, stages=5, warps=4)


def prefill_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tables: torch.Tensor,
    cu_query: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    config: PrefillConfig | None = None,
) -> None:
    """Any mix of chunks and single queries, causal by absolute position: a sequence's queries are its last positions.

    q, out [T, H, D]; k, v [blocks, H_kv, block_size, D] (their dtype, or float8_e4m3fn times `k_scale`, `v_scale`);
    tables int32 [S, W]; cu_query int32 [S + 1], sequence s has queries cu_query[s]..cu_query[s + 1]; context_lens
    int32 [S], queries included. Rows from cu_query[S] on get zeros. `scale` multiplies q·k.
    """
    tokens, heads, head_dim = q.shape
    kv_heads, block_size = k.shape[1], k.shape[2]
    group = heads // kv_heads
    sequences = context_lens.shape[0]
    if config is None:
        if tokens > _SHORT and hopper_attention.takes(q, k, v):
            hopper_attention.prefill_attention_hopper(
                q, k, v, tables, cu_query, context_lens, out, scale * k_scale, v_scale
            )
            return
        config = prefill_config(q.element_size())
    pdl = dependent_launch(q.device)
    chunks = tokens // (config.rows // group) + sequences + 1
    _prefill[(chunks, kv_heads)](
        q, k, v, tables, cu_query, context_lens, out,
        scale * k_scale * LOG2E, v_scale, sequences, tables.stride(0), tokens,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        out.stride(0), out.stride(1),
        GROUP=group, HEAD_DIM=head_dim, BLOCK_SIZE=block_size, ROWS=config.rows, TILE=config.tile,
        STAGES=config.stages, SEARCH=16 if sequences < 16 else 256, PDL=pdl,
        num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip

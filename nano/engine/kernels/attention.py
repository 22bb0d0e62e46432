"""Attention over the paged KV cache.

K and V are one layer's views of the pool, [blocks, kv_heads, block_size, head_dim] with any strides but a last one of 1.
Position p of sequence s lies in block tables[s, p // block_size]. The query heads of a KV head are rows of one matrix
product, so K and V are read once for all of them. Softmax is the online form of FlashAttention (arXiv 2205.14135), in
base 2. Slots at or beyond a sequence's context are never read: they may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda as tlx

from nano.engine.kernels.launch import dependent_launch, processors

_LOG2E = 1.4426950408889634
# Scores of masked positions: finite, so that a row without any position stays finite.
_MASKED = tl.constexpr(-1.0e30)
_UNSPECIALIZED = ["sequences", "table_stride", "last_row"]
_UNALIGNED = ["tables", "context_lens", "cu_query"]


@triton.jit
def _tile_rows(pool, row, tile, length, head, block_stride, head_stride, token_stride,
               HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Pointers [TILE, HEAD_DIM] to a tile of positions of one head; `row` points to the sequence's block table."""
    first = tile * TILE
    columns = tl.arange(0, HEAD_DIM)
    if TILE <= BLOCK_SIZE:
        if MASKED:
            block = tl.load(row + first // BLOCK_SIZE, mask=first < length, other=0)
        else:
            block = tl.load(row + first // BLOCK_SIZE)
        base = pool + block.to(tl.int64) * block_stride + head * head_stride + (first % BLOCK_SIZE) * token_stride
        return base + tl.arange(0, TILE)[:, None] * token_stride + columns[None, :]
    positions = first + tl.arange(0, TILE)
    if MASKED:
        blocks = tl.load(row + positions // BLOCK_SIZE, mask=positions < length, other=0)
    else:
        blocks = tl.load(row + positions // BLOCK_SIZE)
    offsets = blocks.to(tl.int64) * block_stride + head * head_stride + (positions % BLOCK_SIZE) * token_stride
    return pool + offsets[:, None] + columns[None, :]


@triton.jit
def _dot(a, b, acc):
    if a.dtype == tl.float32:
        return tl.dot(a, b, acc, input_precision="ieee")
    return tl.dot(a, b, acc)


@triton.jit(do_not_specialize=_UNSPECIALIZED, do_not_specialize_on_alignment=_UNALIGNED)
def _decode(
    q,  # [sequences, kv_heads * GROUP, HEAD_DIM]
    k, v,  # [blocks, kv_heads, BLOCK_SIZE, HEAD_DIM]
    tables,  # int32 [sequences, .]
    context_lens,  # int32 [sequences]
    out,  # as q
    partials,  # fp32 [programs, 2, 16, HEAD_DIM]
    stats,  # fp32 [programs, 2, 16, 2]: greatest score, sum
    arrivals,  # int32 [sequences, kv_heads], zero before and after
    scale, v_scale, sequences, table_stride,
    q_sequence, q_head, k_block, k_head, k_token, v_block, v_head, v_token, out_sequence, out_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_ROWS: tl.constexpr, ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
    SEARCH: tl.constexpr, PIECES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """All tiles of all (sequence, KV head) in a row, shared out evenly among the programs.

    A (sequence, KV head) that spans several programs leaves a partial result in each; the last to arrive adds them up.
    """
    program = tl.program_id(0)
    lanes = tl.arange(0, SEARCH)
    total = 0
    for first in range(0, sequences, SEARCH):
        inside = first + lanes < sequences
        lengths = tl.load(context_lens + first + lanes, mask=inside, other=0)
        total += tl.sum(tl.where(inside, tl.maximum(tl.cdiv(lengths, TILE), 1), 0))
    total *= KV_HEADS
    share = tl.cdiv(total, tl.num_programs(0))
    unit = program * share
    end = tl.minimum(unit + share, total)

    # The sequence that `unit` falls into, and the first unit of it.
    sequence = 0
    start = 0
    passed = 0
    for first in range(0, sequences, SEARCH):
        inside = first + lanes < sequences
        lengths = tl.load(context_lens + first + lanes, mask=inside, other=0)
        units = tl.where(inside, tl.maximum(tl.cdiv(lengths, TILE), 1), 0) * KV_HEADS
        before = inside & (passed + tl.cumsum(units, 0) <= unit)
        sequence += tl.sum(before.to(tl.int32))
        start += tl.sum(tl.where(before, units, 0))
        passed += tl.sum(units)

    if PDL:
        tlx.gdc_wait()
        tlx.gdc_launch_dependents()

    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, HEAD_DIM)
    while unit < end:
        length = tl.load(context_lens + sequence)
        tiles = tl.maximum(tl.cdiv(length, TILE), 1)
        head = (unit - start) // tiles
        segment = start + head * tiles
        low = unit - segment
        high = tl.minimum(end - segment, tiles)

        q_rows = q + sequence.to(tl.int64) * q_sequence + (head * GROUP + rows[:, None]) * q_head + columns[None, :]
        query = tl.load(q_rows, mask=rows[:, None] < GROUP, other=0.0)
        table = tables + sequence.to(tl.int64) * table_stride
        greatest = tl.full([ROWS], _MASKED, tl.float32)
        sums = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
        for tile in tl.range(low, high, num_stages=STAGES):
            inside = tile * TILE + tl.arange(0, TILE) < length
            k_rows = _tile_rows(k, table, tile, length, head, k_block, k_head, k_token, HEAD_DIM, BLOCK_SIZE, TILE, True)
            keys = tl.load(k_rows, mask=inside[:, None], other=0.0)
            v_rows = _tile_rows(v, table, tile, length, head, v_block, v_head, v_token, HEAD_DIM, BLOCK_SIZE, TILE, True)
            values = tl.load(v_rows, mask=inside[:, None], other=0.0)
            scores = _dot(query, tl.trans(keys.to(query.dtype)), tl.zeros([ROWS, TILE], tl.float32))
            scores = tl.where(inside[None, :], scores * scale, _MASKED)
            new_greatest = tl.maximum(greatest, tl.max(scores, 1))
            shares = tl.exp2(scores - new_greatest[:, None])
            shrink = tl.exp2(greatest - new_greatest)
            sums = sums * shrink + tl.sum(shares, 1)
            acc = _dot(shares.to(query.dtype), values.to(query.dtype), acc * shrink[:, None])
            greatest = new_greatest

        first_program = segment // share
        last_program = (segment + tiles - 1) // share
        out_base = out + sequence.to(tl.int64) * out_sequence + head * GROUP * out_head
        if first_program == last_program:
            result = acc * (v_scale / sums)[:, None]
            out_rows = out_base + rows[:, None] * out_head + columns[None, :]
            tl.store(out_rows, result.to(out.dtype.element_ty), mask=rows[:, None] < GROUP)
        else:
            # A program has at most one piece that opens its segment without closing it, and one that does not open it.
            slot = program * 2 + (low == 0).to(tl.int32)
            tl.store(partials + (slot * 16 + rows[:, None]) * HEAD_DIM + columns[None, :], acc, mask=rows[:, None] < GROUP)
            tl.store(stats + (slot * 16 + rows) * 2, greatest, mask=rows < GROUP)
            tl.store(stats + (slot * 16 + rows) * 2 + 1, sums, mask=rows < GROUP)
            tl.debug_barrier()
            counter = arrivals + sequence * KV_HEADS + head
            arrived = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
            if arrived == last_program - first_program:
                tl.store(counter, 0)
                group = tl.arange(0, GROUP_ROWS)
                top = tl.full([GROUP_ROWS], _MASKED, tl.float32)
                whole = tl.zeros([GROUP_ROWS], tl.float32)
                result = tl.zeros([GROUP_ROWS, HEAD_DIM], tl.float32)
                for piece in range(0, last_program - first_program + 1, PIECES):
                    pieces = piece + tl.arange(0, PIECES)
                    present = (pieces <= last_program - first_program)[:, None] & (group < GROUP)[None, :]
                    slots = (first_program + pieces) * 2 + (pieces == 0).to(tl.int32)
                    places = slots[:, None] * 16 + group[None, :]
                    tops = tl.load(stats + places * 2, mask=present, other=_MASKED, cache_modifier=".cg")
                    wholes = tl.load(stats + places * 2 + 1, mask=present, other=0.0, cache_modifier=".cg")
                    piece_rows = partials + places[:, :, None] * HEAD_DIM + columns[None, None, :]
                    parts = tl.load(piece_rows, mask=present[:, :, None], other=0.0, cache_modifier=".cg")
                    new_top = tl.maximum(top, tl.max(tops, 0))
                    weights = tl.exp2(tops - new_top[None, :])
                    shrink = tl.exp2(top - new_top)
                    whole = whole * shrink + tl.sum(wholes * weights, 0)
                    result = result * shrink[:, None] + tl.sum(parts * weights[:, :, None], 0)
                    top = new_top
                result = result * (v_scale / tl.where(group < GROUP, whole, 1.0))[:, None]
                out_rows = out_base + group[:, None] * out_head + columns[None, :]
                tl.store(out_rows, result.to(out.dtype.element_ty), mask=group[:, None] < GROUP)

        unit = segment + high
        if unit == start + tiles * KV_HEADS:
            start = unit
            sequence += 1


@triton.jit
def _attend(query, greatest, sums, acc, k, v, table, low, high, length, positions, head, scale,
            k_block, k_head, k_token, v_block, v_head, v_token,
            HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
            STAGES: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Tiles low..high of one head; MASKED where a row's position or the context may end inside a tile."""
    for tile in tl.range(low, high, num_stages=STAGES):
        columns = tile * TILE + tl.arange(0, TILE)
        k_rows = _tile_rows(k, table, tile, length, head, k_block, k_head, k_token, HEAD_DIM, BLOCK_SIZE, TILE, MASKED)
        v_rows = _tile_rows(v, table, tile, length, head, v_block, v_head, v_token, HEAD_DIM, BLOCK_SIZE, TILE, MASKED)
        if MASKED:
            keys = tl.load(k_rows, mask=(columns < length)[:, None], other=0.0)
            values = tl.load(v_rows, mask=(columns < length)[:, None], other=0.0)
        else:
            keys = tl.load(k_rows)
            values = tl.load(v_rows)
        scores = _dot(query, tl.trans(keys.to(query.dtype)), tl.zeros([ROWS, TILE], tl.float32))
        if MASKED:
            scores = tl.where(columns[None, :] <= positions[:, None], scores, _MASKED)
        new_greatest = tl.maximum(greatest, tl.max(scores, 1) * scale)
        shares = tl.exp2(scores * scale - new_greatest[:, None])
        shrink = tl.exp2(greatest - new_greatest)
        sums = sums * shrink + tl.sum(shares, 1)
        acc = _dot(shares.to(query.dtype), values.to(query.dtype), acc * shrink[:, None])
        greatest = new_greatest
    return greatest, sums, acc


@triton.jit(do_not_specialize=_UNSPECIALIZED, do_not_specialize_on_alignment=_UNALIGNED)
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
        token_rows = (begin + tokens).to(tl.int64)[:, None]
        heads = (head * GROUP + rows % GROUP)[:, None]
        out_rows = out + token_rows * out_token + heads * out_head + columns[None, :]
        if real:
            length = tl.load(context_lens + sequence)
            position = length - (end - begin)
            query = tl.load(q + token_rows * q_token + heads * q_head + columns[None, :], mask=present[:, None], other=0.0)
            table = tables + sequence.to(tl.int64) * table_stride
            greatest = tl.full([ROWS], _MASKED, tl.float32)
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


@dataclass(frozen=True)
class DecodeConfig:
    """How decode attention is cut up: positions a tile, tiles in flight, warps, programs a multiprocessor."""

    tile: int
    stages: int
    warps: int
    programs: int


@dataclass(frozen=True)
class PrefillConfig:
    """How prefill attention is cut up: query rows (tokens x heads of a group), positions a tile, tiles in flight, warps."""

    rows: int
    tile: int
    stages: int
    warps: int
    registers: int | None = None


def decode_config(sequences: int, head_dim: int, element_size: int) -> DecodeConfig:
    """Measured on an H100; `element_size` is the cache's, in bytes."""
    if element_size == 4:
        return DecodeConfig(tile=32, stages=2, warps=4, programs=2)
    if sequences <= 8:
        return DecodeConfig(tile=64, stages=3, warps=4, programs=1)
    return DecodeConfig(tile=64, stages=3, warps=4, programs=2)


def prefill_config(head_dim: int, element_size: int) -> PrefillConfig:
    """Measured on an H100; `element_size` is the queries', in bytes."""
    if element_size == 4:
        return PrefillConfig(rows=32, tile=32, stages=1, warps=4)
    return PrefillConfig(rows=128, tile=64, stages=2, warps=8)


class DecodeScratch:
    """What decode attention keeps between its programs. One serves every layer of one stream.

    `max_seqs` and `heads` bound the sequences and query heads of a call, `head_dim` its heads' size.
    """

    MAX_PROGRAMS = 8  # a multiprocessor

    def __init__(self, max_seqs: int, heads: int, head_dim: int, device: torch.device | str) -> None:
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self.device = device
        programs = self.MAX_PROGRAMS * processors(device)
        self.partials = torch.empty(programs, 2, 16, head_dim, dtype=torch.float32, device=device)
        self.stats = torch.empty(programs, 2, 16, 2, dtype=torch.float32, device=device)
        self.arrivals = torch.zeros(max_seqs * heads, dtype=torch.int32, device=device)


def decode_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tables: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    scale: float,
    scratch: DecodeScratch,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    config: DecodeConfig | None = None,
) -> None:
    """One query a sequence, at its last position.

    q, out [S, H, D]; k, v [blocks, H_kv, block_size, D] (their dtype, or float8_e4m3fn times `k_scale`, `v_scale`);
    tables int32 [S, W], context_lens int32 [S]. A sequence of context 0 gets zeros. `scale` multiplies q·k.
    """
    sequences, heads, head_dim = q.shape
    kv_heads, block_size = k.shape[1], k.shape[2]
    group = heads // kv_heads
    if config is None:
        config = decode_config(sequences, head_dim, k.element_size())
    pdl = dependent_launch(q.device)
    _decode[(config.programs * processors(scratch.device),)](
        q, k, v, tables, context_lens, out, scratch.partials, scratch.stats, scratch.arrivals,
        scale * k_scale * _LOG2E, v_scale, sequences, tables.stride(0),
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        out.stride(0), out.stride(1),
        KV_HEADS=kv_heads, GROUP=group, GROUP_ROWS=triton.next_power_of_2(group), ROWS=16,
        HEAD_DIM=head_dim, BLOCK_SIZE=block_size, TILE=config.tile, STAGES=config.stages,
        SEARCH=16 if sequences <= 16 else 256, PIECES=16 if group <= 4 else 4, PDL=pdl,
        num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip


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
        config = prefill_config(head_dim, q.element_size())
    pdl = dependent_launch(q.device)
    chunks = tokens // (config.rows // group) + sequences + 1
    _prefill[(chunks, kv_heads)](
        q, k, v, tables, cu_query, context_lens, out,
        scale * k_scale * _LOG2E, v_scale, sequences, tables.stride(0), tokens,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        out.stride(0), out.stride(1),
        GROUP=group, HEAD_DIM=head_dim, BLOCK_SIZE=block_size, ROWS=config.rows, TILE=config.tile,
        STAGES=config.stages, SEARCH=16 if sequences < 16 else 256, PDL=pdl,
        num_warps=config.warps, launch_pdl=pdl, maxnreg=config.registers,
    )  # fmt: skip

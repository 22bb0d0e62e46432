"""Attention of one query a sequence, its context shared out among programs."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from nano.engine.kernels.decode_config import DecodeConfig, decode_config
from nano.engine.kernels.decode_tiles import add_tile, load_tile, merge, tiles_of, turned
from nano.engine.kernels.launch import dependent_launch, processors
from nano.engine.kernels.paging import LOG2E, MASKED_SCORE, prefetch_rows, tile_rows, to_cache
from nano.engine.kernels.prefetch import start as start_kernel
from nano.engine.kernels.prefetch import start_early
from nano.errors import InvalidInput


@triton.jit(do_not_specialize=["sequences", "table_stride"], do_not_specialize_on_alignment=["tables", "context_lens"])
def _decode(
    q,  # [sequences, KV_HEADS * GROUP, HEAD_DIM]; with rope: of one sequence's q, k and v, as the product gives them
    q_norm, k_norm,  # with rope: fp32 [HEAD_DIM], or null
    rope,  # fp32 [positions, HEAD_DIM]: cos | sin; then the last position's k and v are stored as well; or null
    k, v,  # [blocks, kv_heads, BLOCK_SIZE, HEAD_DIM]
    tables,  # int32 [sequences, .]
    context_lens,  # int32 [sequences]
    out,  # [sequences, KV_HEADS * GROUP, HEAD_DIM]
    partials,  # fp32 [pieces, GROUP, HEAD_DIM]
    tops, wholes,  # fp32 [pieces, GROUP]: greatest score, sum
    arrivals,  # int32 [sequences, kv_heads], zero before and after
    scale, k_scale, v_scale, eps, sequences, table_stride,
    q_sequence, k_block, k_head, v_block, v_head, out_sequence,
    q_head: tl.constexpr, k_token: tl.constexpr, v_token: tl.constexpr, out_head: tl.constexpr,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_ROWS: tl.constexpr, ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
    SEARCH: tl.constexpr, PIECES: tl.constexpr, LEAST: tl.constexpr, PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """All tiles of all (sequence, KV head) in a row, shared out evenly among the programs.

    A (sequence, KV head) that spans several programs leaves a piece of its result in each; the last to arrive adds them
    up. Programs and segments, as they follow each other, number the pieces: those of a segment are neighbours.
    """
    program = tl.program_id(0)
    # The sequence that the program's first unit falls into, and the first unit of it.
    sequence = 0
    start = 0
    if SEARCH == 1:
        tiles = tiles_of(tl.load(context_lens), TILE)
        total = tiles * KV_HEADS
        share = tl.maximum(tl.cdiv(total, tl.num_programs(0)), LEAST)
        # Adding up PIECES pieces takes about as long as two tiles: this is where both sums together are smallest.
        share = tl.maximum(share, tl.sqrt(2.0 * tiles / PIECES).to(tl.int32))
        unit = program * share
    else:
        lanes = tl.arange(0, SEARCH)
        total = 0
        for first in range(0, sequences, SEARCH):
            inside = first + lanes < sequences
            lengths = tl.load(context_lens + first + lanes, mask=inside, other=0)
            total += tl.sum(tl.where(inside, tiles_of(lengths, TILE), 0))
        total *= KV_HEADS
        share = tl.maximum(tl.cdiv(total, tl.num_programs(0)), LEAST)
        unit = program * share
        passed = 0
        for first in range(0, sequences, SEARCH):
            inside = first + lanes < sequences
            lengths = tl.load(context_lens + first + lanes, mask=inside, other=0)
            units = tl.where(inside, tiles_of(lengths, TILE), 0) * KV_HEADS
            before = inside & (passed + tl.cumsum(units, 0) <= unit)
            sequence += tl.sum(before.to(tl.int32))
            start += tl.sum(tl.where(before, units, 0))
            passed += tl.sum(units)
    end = tl.minimum(unit + share, total)
    if unit >= end:  # makes room for the next kernel's programs
        return

    if PDL and PREFETCH > 0:
        # No kernel of this step but one writes to these tiles, and that only to the last position.
        length = tl.load(context_lens + sequence)
        tiles = tiles_of(length, TILE)
        head = (unit - start) // tiles
        low = unit - start - head * tiles
        table = tables + tl.cast(sequence, tl.int64) * table_stride
        for tile in range(low, tl.minimum(tl.minimum(low + end - unit, tiles), low + PREFETCH)):
            rows = tile_rows(k, table, tile, length, head, k_block, k_head, k_token, BLOCK_SIZE, TILE, True)
            prefetch_rows(rows, HEAD_DIM)
            rows = tile_rows(v, table, tile, length, head, v_block, v_head, v_token, BLOCK_SIZE, TILE, True)
            prefetch_rows(rows, HEAD_DIM)
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, HEAD_DIM)
    if rope is not None:
        last = tl.maximum(tl.load(context_lens) - 1, 0)
        angles = rope + tl.cast(last, tl.int64) * HEAD_DIM + columns % (HEAD_DIM // 2)
        cosine = tl.load(angles)
        sine = tl.load(angles + HEAD_DIM // 2)
        sine = tl.where(columns < HEAD_DIM // 2, -sine, sine)
        q_gain, q_other, k_gain, k_other = q_norm, q_norm, k_norm, k_norm
        if q_norm is not None:
            q_gain, q_other = tl.load(q_norm + columns), tl.load(q_norm + (columns ^ (HEAD_DIM // 2)))
            k_gain, k_other = tl.load(k_norm + columns), tl.load(k_norm + (columns ^ (HEAD_DIM // 2)))
    if SEARCH == 1:
        start_early(PDL)
    else:
        start_kernel(PDL)

    while unit < end:
        length = tl.load(context_lens + sequence)
        tiles = tiles_of(length, TILE)
        head = (unit - start) // tiles
        segment = start + head * tiles
        low = unit - segment
        high = tl.minimum(end - segment, tiles)

        q_row = q + tl.cast(sequence, tl.int64) * q_sequence
        table = tables + tl.cast(sequence, tl.int64) * table_stride
        if rope is None:
            q_rows = q_row + (head * GROUP + rows[:, None]) * q_head + columns[None, :]
            query = tl.load(q_rows, mask=rows[:, None] < GROUP, other=0.0)
        else:
            heads = q_row + (head * GROUP + rows) * HEAD_DIM
            query = turned(heads, q_gain, q_other, cosine, sine, rows < GROUP, eps, HEAD_DIM).to(out.dtype.element_ty)
            if (high == tiles) & (length > 0):
                one = tl.arange(0, 1)
                new_k = q + (KV_HEADS * GROUP + head) * HEAD_DIM
                key = turned(new_k + one, k_gain, k_other, cosine, sine, one == 0, eps, HEAD_DIM)
                value = tl.load(new_k + KV_HEADS * HEAD_DIM + columns).to(tl.float32)
                block = tl.load(table + last // BLOCK_SIZE).to(tl.int64)
                k_at = k + block * k_block + head * k_head + (last % BLOCK_SIZE) * k_token
                v_at = v + block * v_block + head * v_head + (last % BLOCK_SIZE) * v_token
                tl.store(k_at + columns[None, :], to_cache(key, k_scale, k.dtype.element_ty))
                tl.store(v_at + columns, to_cache(value, v_scale, v.dtype.element_ty))
                tl.debug_barrier()  # this program reads them below
        greatest = tl.full([ROWS], MASKED_SCORE, tl.float32)
        sums = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
        for tile in tl.range(low, high, num_stages=STAGES):
            tile_keys, tile_values = load_tile(k, v, table, tile, length, head, k_block, k_head, k_token,
                                                v_block, v_head, v_token, HEAD_DIM, BLOCK_SIZE, TILE)  # fmt: skip
            greatest, sums, acc = add_tile(
                query, tile_keys, tile_values, tile, length, greatest, sums, acc, scale, ROWS, TILE
            )

        first_program = segment // share
        pieces = (segment + tiles - 1) // share - first_program + 1
        out_base = out + tl.cast(sequence, tl.int64) * out_sequence + head * GROUP * out_head
        if pieces == 1:
            result = acc * (v_scale / sums)[:, None]
            out_rows = out_base + rows[:, None] * out_head + columns[None, :]
            tl.store(out_rows, result.to(out.dtype.element_ty), mask=rows[:, None] < GROUP)
        else:
            counter = sequence * KV_HEADS + head
            piece = (program + counter) * GROUP
            piece_rows = partials + piece * HEAD_DIM + (rows[:, None] * HEAD_DIM + columns[None, :])
            tl.store(piece_rows, acc, mask=rows[:, None] < GROUP)
            tl.store(tops + piece + rows, greatest, mask=rows < GROUP)
            tl.store(wholes + piece + rows, sums, mask=rows < GROUP)
            tl.debug_barrier()
            arrived = tl.atomic_add(arrivals + counter, 1, sem="acq_rel", scope="gpu")
            if arrived == pieces - 1:
                tl.store(arrivals + counter, 0)
                piece = (first_program + counter) * GROUP
                merge(partials + piece * HEAD_DIM, tops + piece, wholes + piece, out_base, out_head, pieces, v_scale,
                       GROUP, GROUP_ROWS, HEAD_DIM, PIECES)  # fmt: skip

        unit = segment + high
        if unit == start + tiles * KV_HEADS:
            start = unit
            sequence += 1


class DecodeScratch:
    """What decode attention keeps between its programs. One serves every layer of one stream.

    `max_seqs` and `heads` bound the sequences and query heads of a call, `head_dim` its heads' size.
    """

    MAX_PROGRAMS = 4  # a multiprocessor

    def __init__(self, max_seqs: int, heads: int, head_dim: int, device: torch.device | str) -> None:
        device = torch.empty(0, device=device).device  # with its index
        self.device = device
        programs = self.MAX_PROGRAMS * processors(device)
        pieces = max_seqs * heads + programs * 16  # rows, a group's heads each
        self.partials = torch.empty(pieces, head_dim, dtype=torch.float32, device=device)
        self.tops = torch.empty(pieces, dtype=torch.float32, device=device)
        self.wholes = torch.empty(pieces, dtype=torch.float32, device=device)
        self.arrivals = torch.zeros(max_seqs * heads, dtype=torch.int32, device=device)


class Rope(NamedTuple):
    """What turns a product's q, k and v [1, (H + 2 H_kv) * D] of one sequence: as in `rope.qk_norm_rope_write`."""

    qkv: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    eps: float
    table: torch.Tensor | None


def decode_attention(
    q: torch.Tensor | Rope,
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
    """One query a sequence, at its last position; of one sequence, `Rope` also stores that position's k and v.

    q, out [S, H, D]; k, v [blocks, H_kv, block_size, D] (their dtype, or float8_e4m3fn times `k_scale`, `v_scale`);
    tables int32 [S, W], context_lens int32 [S]. A sequence of context 0 gets zeros. `scale` multiplies q·k.
    """
    sequences, heads, head_dim = out.shape
    kv_heads, block_size = k.shape[1], k.shape[2]
    group = heads // kv_heads
    if config is None:
        config = decode_config(sequences, k.element_size())
    programs = config.programs * processors(scratch.device)
    rows = (programs + sequences * kv_heads) * group
    if rows > scratch.partials.shape[0] or sequences * kv_heads > scratch.arrivals.shape[0]:
        raise InvalidInput(
            f"decode_attention: {sequences} sequences of {heads} heads need scratch of {rows} rows, "
            f"got {scratch.partials.shape[0]}"
        )
    pdl = dependent_launch(out.device)
    turn = q if isinstance(q, Rope) else Rope(q, None, None, 0.0, None)
    _decode[(programs,)](
        turn.qkv, turn.q_norm, turn.k_norm, turn.table, k, v, tables, context_lens, out,
        scratch.partials, scratch.tops, scratch.wholes, scratch.arrivals,
        scale * k_scale * LOG2E, k_scale, v_scale, turn.eps, sequences, tables.stride(0),
        turn.qkv.stride(0), k.stride(0), k.stride(1), v.stride(0), v.stride(1), out.stride(0),
        turn.qkv.stride(1), k.stride(2), v.stride(2), out.stride(1),
        KV_HEADS=kv_heads, GROUP=group, GROUP_ROWS=triton.next_power_of_2(group), ROWS=16,
        HEAD_DIM=head_dim, BLOCK_SIZE=block_size, TILE=config.tile, STAGES=config.stages,
        SEARCH=1 if sequences == 1 else 256, PIECES=config.pieces if group <= 4 else 4, LEAST=config.least,
        PREFETCH=config.prefetch, PDL=pdl,
        num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip

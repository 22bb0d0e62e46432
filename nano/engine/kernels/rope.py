"""What happens to a token's row before attention: its embedding; its heads' norms, rotation and place in the cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.paging import to_cache
from nano.engine.kernels.prefetch import start


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])
def _qk_norm_rope_write(
    qkv,  # [tokens, (HEADS + 2 * KV_HEADS) * HEAD_DIM]
    q_norm, k_norm,  # fp32 [HEAD_DIM], or null
    table,  # fp32 [positions, HEAD_DIM]: cos | sin
    positions,  # int32 [tokens]
    slots,  # int64 [tokens], -1: not written
    k, v,  # [blocks, KV_HEADS, BLOCK_SIZE, HEAD_DIM]
    q_out,  # [tokens, HEADS, HEAD_DIM]
    eps, k_scale, v_scale,
    qkv_row, q_token, q_head, k_block, k_head, k_token, v_block, v_head, v_token,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    CHUNK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program: CHUNK heads of one token. A row's first and second halves, which the rotation mixes, lie apart."""
    HALF: tl.constexpr = HEAD_DIM // 2
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    half = tl.arange(0, HALF)
    position = tl.load(positions + token).to(tl.int64)
    slot = tl.load(slots + token)
    cos = tl.load(table + position * HEAD_DIM + half)[None, :]
    sin = tl.load(table + position * HEAD_DIM + HALF + half)[None, :]
    is_q = heads < HEADS
    is_k = (heads >= HEADS) & (heads < HEADS + KV_HEADS)
    is_v = (heads >= HEADS + KV_HEADS) & (heads < HEADS + 2 * KV_HEADS)
    start(PDL)

    source = qkv + token * qkv_row + heads[:, None] * HEAD_DIM + half[None, :]
    inside = (heads < HEADS + 2 * KV_HEADS)[:, None]
    left = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    normed_left = left
    normed_right = right
    if q_norm is not None:
        q_left, q_right = tl.load(q_norm + half)[None, :], tl.load(q_norm + HALF + half)[None, :]
        k_left, k_right = tl.load(k_norm + half)[None, :], tl.load(k_norm + HALF + half)[None, :]
        factor = tl.rsqrt((tl.sum(left * left, 1) + tl.sum(right * right, 1)) / HEAD_DIM + eps)[:, None]
        normed_left = left * factor * tl.where(is_q[:, None], q_left, k_left)
        normed_right = right * factor * tl.where(is_q[:, None], q_right, k_right)
    turned_left = normed_left * cos - normed_right * sin
    turned_right = normed_right * cos + normed_left * sin

    q_rows = q_out + token * q_token + heads[:, None] * q_head + half[None, :]
    tl.store(q_rows, turned_left.to(q_out.dtype.element_ty), mask=is_q[:, None])
    tl.store(q_rows + HALF, turned_right.to(q_out.dtype.element_ty), mask=is_q[:, None])
    block = slot // BLOCK_SIZE
    offset = slot % BLOCK_SIZE
    k_mask = (is_k & (slot >= 0))[:, None]
    k_rows = k + block * k_block + offset * k_token + (heads - HEADS)[:, None] * k_head + half[None, :]
    tl.store(k_rows, to_cache(turned_left, k_scale, k.dtype.element_ty), mask=k_mask)
    tl.store(k_rows + HALF, to_cache(turned_right, k_scale, k.dtype.element_ty), mask=k_mask)
    v_mask = (is_v & (slot >= 0))[:, None]
    v_rows = v + block * v_block + offset * v_token + (heads - HEADS - KV_HEADS)[:, None] * v_head + half[None, :]
    tl.store(v_rows, to_cache(left, v_scale, v.dtype.element_ty), mask=v_mask)
    tl.store(v_rows + HALF, to_cache(right, v_scale, v.dtype.element_ty), mask=v_mask)


@triton.jit(do_not_specialize=["vocabulary"], do_not_specialize_on_alignment=["ids"])
def _embed(weight, ids, out, weight_row, out_row, vocabulary, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start(PDL)
    row = tl.load(ids + token).to(tl.int64)
    known = (row >= 0) & (row < vocabulary)
    values = tl.load(weight + row * weight_row + columns, mask=known & (columns < width), other=0.0)
    tl.store(out + token * out_row + columns, values.to(out.dtype.element_ty), mask=columns < width)


def qk_norm_rope_write(
    qkv: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
    table: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_out: torch.Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """Norms and rotates the heads of q and k (RoFormer, arXiv 2104.09864, halves apart), and stores k and v.

    qkv [T, (H + 2 H_kv) * D]; q_norm, k_norm fp32 [D], or None for no norm; table fp32 [P, D], cosines then sines;
    positions int32 [T]; slots int64 [T], block * block_size + offset, or -1 for a row that is not to be stored;
    k, v [blocks, H_kv, block_size, D], of the model's dtype, or float8_e4m3fn divided by `k_scale`, `v_scale`;
    q_out [T, H, D].
    """
    tokens, heads, head_dim = q_out.shape
    kv_heads, block_size = k.shape[1], k.shape[2]
    chunk = 8
    pdl = dependent_launch(q_out.device)
    _qk_norm_rope_write[(tokens, triton.cdiv(heads + 2 * kv_heads, chunk))](
        qkv, q_norm, k_norm, table, positions, slots, k, v, q_out, eps, k_scale, v_scale,
        qkv.stride(0), q_out.stride(0), q_out.stride(1),
        k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        HEADS=heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, BLOCK_SIZE=block_size, CHUNK=chunk, PDL=pdl,
        num_warps=2, launch_pdl=pdl,
    )  # fmt: skip


def embed(weight: torch.Tensor, ids: torch.Tensor, out: torch.Tensor) -> None:
    """out[t] = weight[ids[t]], zeros for an id outside the vocabulary. weight [V, C], ids int32 [T], out [T, C]."""
    vocabulary, width = weight.shape
    block = min(triton.next_power_of_2(width), 1024)
    pdl = dependent_launch(out.device)
    _embed[(out.shape[0], triton.cdiv(width, block))](
        weight, ids, out, weight.stride(0), out.stride(0), vocabulary, width,
        BLOCK=block, PDL=pdl, num_warps=4 if block >= 1024 else 1, launch_pdl=pdl,
    )  # fmt: skip

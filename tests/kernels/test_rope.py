from __future__ import annotations

import math

import pytest
import torch
from kernel_device import DEVICE, HALF, TOLERANCE, relative_error

from nano.engine.kernels.rope import embed, qk_norm_rope_write

EPS = 1e-6


def normed(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    if weight is None:
        return x
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight.double().cpu()


def rotated(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    cos, sin = rows[:, None, :half], rows[:, None, half:]
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def check(
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    layer_major: bool,
    dtype: torch.dtype,
    cache_dtype: torch.dtype | None = None,
    norms: bool = True,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    cache_dtype = cache_dtype or dtype
    tokens, blocks, layers = 6, 5, 3
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim).to(dtype).to(DEVICE)
    q_norm, k_norm = (torch.rand(head_dim, device=DEVICE) + 0.5 for _ in "qk") if norms else (None, None)
    angles = torch.arange(100)[:, None] * 10000.0 ** -(torch.arange(head_dim // 2) * 2 / head_dim)
    table = torch.cat([angles.cos(), angles.sin()], 1).to(DEVICE)
    positions = torch.tensor([0, 7, 99, 3, 0, 0], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([block_size * 4 + 1, 0, block_size - 1, 2 * block_size, -1, -1], device=DEVICE)
    if layer_major:
        pool = torch.full((layers, 2, blocks, kv_heads, block_size, head_dim), 3.0, dtype=dtype).to(cache_dtype)
        pool = pool.to(DEVICE).permute(2, 0, 1, 3, 4, 5)
    else:
        pool = torch.full((blocks, layers, 2, kv_heads, block_size, head_dim), 3.0, dtype=dtype).to(cache_dtype)
        pool = pool.to(DEVICE)
    q_out = torch.full((tokens, heads, head_dim), math.nan, dtype=dtype, device=DEVICE)
    qk_norm_rope_write(
        qkv, q_norm, k_norm, EPS, table, positions, slots, pool[:, 1, 0], pool[:, 1, 1], q_out, k_scale, v_scale
    )

    rows = table.double().cpu()[positions.long().cpu()]
    split = qkv.double().cpu().view(tokens, -1, head_dim)
    q, k, v = split.split([heads, kv_heads, kv_heads], 1)
    assert relative_error(q_out, rotated(normed(q, q_norm), rows)) < TOLERANCE[dtype]
    want = torch.full(pool.shape, 3.0, dtype=torch.float64)
    k, v = rotated(normed(k, k_norm), rows) / k_scale, v / v_scale
    for t, slot in enumerate(slots.tolist()):
        if slot >= 0:
            want[slot // block_size, 1, 0, :, slot % block_size] = k[t]
            want[slot // block_size, 1, 1, :, slot % block_size] = v[t]
    got = pool.to(torch.float64).cpu()
    assert relative_error(got, want) < TOLERANCE[cache_dtype]
    untouched = want == 3.0
    assert bool((got[untouched] == 3.0).all())


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("layer_major", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_size"), [(8, 2, 64, 16), (32, 8, 128, 64), (4, 1, 16, 256), (7, 1, 32, 32)]
)
def test_heads_are_normed_rotated_and_stored(
    heads: int, kv_heads: int, head_dim: int, block_size: int, layer_major: bool, dtype: torch.dtype
) -> None:
    check(heads, kv_heads, head_dim, block_size, layer_major, dtype)


def test_a_model_without_head_norms_is_rotated_alone() -> None:
    check(4, 2, 64, 16, False, torch.float32, norms=False)


def test_fp8_cache_takes_scaled_values() -> None:
    check(4, 2, 128, 64, False, HALF, torch.float8_e4m3fn, k_scale=0.5, v_scale=0.25)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("width", [48, 1500])
def test_embed_takes_rows_and_zeros_for_unknown_ids(width: int, dtype: torch.dtype) -> None:
    weight = torch.randn(11, width).to(dtype).to(DEVICE)
    ids = torch.tensor([10, 0, -1, 11, 4], dtype=torch.int32, device=DEVICE)
    out = torch.full((5, width), math.nan, dtype=dtype, device=DEVICE)
    embed(weight, ids, out)
    want = torch.stack([weight[10], weight[0], torch.zeros_like(weight[0]), torch.zeros_like(weight[0]), weight[4]])
    assert torch.equal(out, want)

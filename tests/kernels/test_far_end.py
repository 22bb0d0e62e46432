"""Blocks more than 2^32 elements into a pool are found: in memory that is there only where it is touched."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_device import CUDA, relative_error

from nano.engine.kernels import attention
from nano.engine.kernels.rope import qk_norm_rope_write

pytestmark = pytest.mark.skipif(CUDA, reason="tests/gpu/test_far_end.py does this on a device")

BLOCKS, KV_HEADS, HEADS, BLOCK_SIZE, HEAD_DIM, TOKENS = 6, 2, 4, 16, 16, 40


@pytest.mark.parametrize("chunked", [False, True])
def test_offsets_beyond_four_gi_elements_are_right(chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # The interpreter copies arguments back, which on a CPU are the same memory: all of it would be touched.
    monkeypatch.setattr(torch.UntypedStorage, "copy_", lambda storage, *_: storage)
    between = (5 << 30) // BLOCKS  # elements
    memory = torch.empty(BLOCKS * between, dtype=torch.float16)
    strides = (BLOCK_SIZE * HEAD_DIM, HEAD_DIM, 1)
    pool = memory.as_strided((BLOCKS, 2, KV_HEADS, BLOCK_SIZE, HEAD_DIM), (between, KV_HEADS * strides[0], *strides))
    k, v = pool[:, 0], pool[:, 1]
    tables = torch.tensor([[5, 4, 0]], dtype=torch.int32)
    pool[tables[0].long()] = math.nan

    qkv = torch.randn(TOKENS, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    rope = torch.cat([torch.ones(TOKENS, HEAD_DIM // 2), torch.zeros(TOKENS, HEAD_DIM // 2)], 1)  # turns by nothing
    positions = torch.arange(TOKENS, dtype=torch.int32)
    slots = tables[0].long()[positions.long() // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
    q = torch.empty(TOKENS, HEADS, HEAD_DIM)
    qk_norm_rope_write(qkv, None, None, 1e-6, rope, positions, slots, k, v, q)
    _, keys, values = qkv.view(TOKENS, -1, HEAD_DIM).half().float().split([HEADS, KV_HEADS, KV_HEADS], 1)
    for rows, cache in ((keys, k), (values, v)):
        assert torch.equal(cache[tables[0].long()].transpose(1, 2).flatten(0, 1)[:TOKENS].float(), rows)

    lens, scale, out = torch.tensor([TOKENS], dtype=torch.int32), HEAD_DIM**-0.5, torch.empty_like(q)
    keys, values = (x.repeat_interleave(HEADS // KV_HEADS, 1).transpose(0, 1) for x in (keys, values))
    want = torch.nn.functional.scaled_dot_product_attention(q.transpose(0, 1), keys, values, is_causal=True)
    if chunked:
        cu = torch.tensor([0, TOKENS], dtype=torch.int32)
        attention.prefill_attention(q, k, v, tables, cu, lens, out, scale)
    else:
        scratch = attention.DecodeScratch(1, HEADS, HEAD_DIM, "cpu")
        attention.decode_attention(q[-1:], k, v, tables, lens, out[-1:], scale, scratch)
        want, out = want[:, -1:], out[-1:]
    assert relative_error(out, want.transpose(0, 1)) < 1e-4

"""Kernels at the last blocks of a pool of 100 GB, laid out as the engine does, give what they give at the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

import kernel_device  # noqa: E402, F401  (before triton: other tests of this process interpret the same kernels)

from nano.engine.kernels import attention, hopper_attention  # noqa: E402
from nano.engine.kernels.rope import qk_norm_rope_write  # noqa: E402

pytestmark = pytest.mark.gpu

POOL_BYTES = 100 * 10**9
LAYERS, KV_HEADS, HEADS, BLOCK_SIZE, HEAD_DIM = 36, 8, 32, 64, 128  # Qwen3-8B's
CONTEXT = 300
USED = -(-CONTEXT // BLOCK_SIZE)


@pytest.fixture(scope="module", params=["block-major", "layer-major"])
def pool(request: pytest.FixtureRequest) -> Iterator[torch.Tensor]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    free = torch.cuda.mem_get_info()[0]
    if free < POOL_BYTES + (2 << 30):
        pytest.skip(f"needs {POOL_BYTES + (2 << 30)} bytes of free device memory, got {free}")
    block = LAYERS * 2 * KV_HEADS * BLOCK_SIZE * HEAD_DIM
    blocks = POOL_BYTES // (2 * block) + 1
    memory = torch.empty(blocks * block, dtype=torch.bfloat16, device="cuda")
    shape = (KV_HEADS, BLOCK_SIZE, HEAD_DIM)
    if request.param == "block-major":
        yield memory.view(blocks, LAYERS, 2, *shape)
    else:
        yield memory.view(LAYERS, 2, blocks, *shape).permute(2, 0, 1, 3, 4, 5)
    del memory
    torch.cuda.empty_cache()


@dataclass
class Results:
    written: torch.Tensor
    decoded: torch.Tensor
    prefilled: torch.Tensor
    hopper: torch.Tensor | None


def run(pool: torch.Tensor, first: int) -> Results:
    """A prompt's KV written into blocks first.. of the last layer, then attended to by its last and by all queries."""
    k, v = pool[:, LAYERS - 1, 0], pool[:, LAYERS - 1, 1]
    k[first : first + USED].fill_(float("nan"))
    v[first : first + USED].fill_(float("nan"))
    generator = torch.Generator("cuda").manual_seed(0)
    qkv = torch.randn(
        CONTEXT, (HEADS + 2 * KV_HEADS) * HEAD_DIM, generator=generator, device="cuda", dtype=torch.bfloat16
    )
    angles = torch.rand(CONTEXT, HEAD_DIM // 2, generator=generator, device="cuda") * 6
    table = torch.cat([angles.cos(), angles.sin()], 1)
    norm = torch.ones(HEAD_DIM, device="cuda")
    positions = torch.arange(CONTEXT, dtype=torch.int32, device="cuda")
    slots = first * BLOCK_SIZE + torch.arange(CONTEXT, device="cuda")
    q = torch.empty(CONTEXT, HEADS, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
    qk_norm_rope_write(qkv, norm, norm, 1e-6, table, positions, slots, k, v, q)
    tables = first + torch.arange(USED, dtype=torch.int32, device="cuda")[None]
    lens = torch.tensor([CONTEXT], dtype=torch.int32, device="cuda")
    cu, scale = torch.tensor([0, CONTEXT], dtype=torch.int32, device="cuda"), HEAD_DIM**-0.5
    decoded, prefilled = torch.empty_like(q[-1:]), torch.empty_like(q)
    scratch = attention.DecodeScratch(1, HEADS, HEAD_DIM, "cuda")
    attention.decode_attention(q[-1:], k, v, tables, lens, decoded, scale, scratch)
    config = attention.PrefillConfig(rows=64, tile=64, stages=2, warps=4)
    attention.prefill_attention(q, k, v, tables, cu, lens, prefilled, scale, config=config)
    hopper = None
    if hopper_attention.takes(q, k, v):
        hopper = torch.empty_like(q)
        hopper_attention.prefill_attention_hopper(q, k, v, tables, cu, lens, hopper, scale, 1.0)
    rows = torch.stack([x[first : first + USED].transpose(1, 2).flatten(0, 1)[:CONTEXT] for x in (k, v)])
    return Results(rows, decoded, prefilled, hopper)


def test_kernels_give_at_the_far_end_what_they_give_at_the_near_one(pool: torch.Tensor) -> None:
    near, far = run(pool, 0), run(pool, len(pool) - USED)
    assert not near.written.isnan().any()
    assert torch.equal(far.written, near.written)
    assert not near.decoded.isnan().any()
    assert torch.equal(far.decoded, near.decoded)
    assert torch.equal(far.prefilled, near.prefilled)
    # The last query of the prompt is the one that decode has.
    torch.testing.assert_close(near.prefilled[-1:], near.decoded, atol=2e-2, rtol=2e-2)
    if near.hopper is not None:
        assert far.hopper is not None
        assert torch.equal(far.hopper, near.hopper)
        torch.testing.assert_close(near.hopper, near.prefilled, atol=2e-2, rtol=2e-2)


def test_blocks_are_copied_from_and_to_the_far_end(pool: torch.Tensor) -> None:
    cuda = pytest.importorskip("nano._cuda", reason="nano was built without CUDA")
    length = pool[0, 0, 0].numel() * 2
    ends = pool[-USED:, LAYERS - 1, 1]
    values = torch.randint(0, 256, (USED, length), dtype=torch.uint8, device="cuda")
    at = torch.tensor([ends[i].data_ptr() - pool.data_ptr() for i in range(USED)], device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    cuda.scatter(values.data_ptr(), pool.data_ptr(), at.data_ptr(), USED, length, stream)
    assert torch.equal(ends.contiguous().view(torch.uint8).view(USED, length), values)
    out = torch.zeros_like(values)
    cuda.gather(pool.data_ptr(), out.data_ptr(), at.data_ptr(), USED, length, stream)
    assert torch.equal(out, values)

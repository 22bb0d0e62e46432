from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from kernel_device import CUDA, DEVICE, HALF, TOLERANCE, relative_error

from nano.engine.kernels import attention, rope
from nano.engine.kernels.attention import DecodeConfig, DecodeScratch, PrefillConfig


@dataclass
class Case:
    """A step: sequences of `contexts` positions of which the last `queries` ask; slots beyond the contexts hold NaN."""

    contexts: list[int]
    queries: list[int]
    group: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    cache_dtype: torch.dtype | None = None
    layer_major: bool = False
    pool_bytes: int = 0
    padding: int = 0
    k_scale: float = 1.0
    v_scale: float = 1.0
    seed: int = 0

    def build(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        cache_dtype = self.cache_dtype or self.dtype
        blocks_of = [math.ceil(c / self.block_size) for c in self.contexts]
        blocks, width, layers = sum(blocks_of) + 3, max([*blocks_of, 1]) + 2, 3
        heads = self.group * self.kv_heads
        shape = (blocks, layers, 2, self.kv_heads, self.block_size, self.head_dim)
        if self.layer_major:
            pool = torch.empty(layers, 2, blocks, *shape[3:], dtype=cache_dtype, device=DEVICE).permute(
                2, 0, 1, 3, 4, 5
            )
        elif self.pool_bytes:  # the blocks lie far apart
            memory = torch.empty(self.pool_bytes // cache_dtype.itemsize, dtype=cache_dtype, device=DEVICE)
            inner = torch.empty(shape[1:], device="meta").stride()
            pool = memory.as_strided(shape, (memory.numel() // blocks // 16 * 16, *inner))
        else:
            pool = torch.empty(shape, dtype=cache_dtype, device=DEVICE)
        pool.copy_(torch.tensor(math.nan).to(cache_dtype))
        order = torch.randperm(blocks, generator=generator).tolist()
        self.tables = torch.full((len(self.contexts) + self.padding, width), blocks - 1, dtype=torch.int32)
        self.dense: list[tuple[torch.Tensor, torch.Tensor]] = []
        for s, context in enumerate(self.contexts):
            keys, values = (
                torch.randn(context, self.kv_heads, self.head_dim, generator=generator).to(cache_dtype) for _ in "kv"
            )
            for i in range(blocks_of[s]):
                block = self.tables[s, i] = order.pop()
                for which, rows in enumerate((keys, values)):
                    part = rows[i * self.block_size : (i + 1) * self.block_size]
                    pool[block, 1, which, :, : len(part)] = part.transpose(0, 1).to(DEVICE)
            self.dense.append((keys.double() * self.k_scale, values.double() * self.v_scale))
        self.k, self.v = pool[:, 1, 0], pool[:, 1, 1]
        tokens = sum(self.queries)
        self.cu = torch.tensor([0, *torch.tensor(self.queries).cumsum(0).tolist(), *[tokens] * self.padding])
        # Rows of q and of the output are parts of wider ones.
        self.q = torch.randn(tokens + self.padding, heads + 2, self.head_dim, generator=generator).to(self.dtype)
        self.q = self.q.to(DEVICE)[:, :heads]
        self.out = torch.full_like(self.q, math.nan)
        self.scale = self.head_dim**-0.5
        self.lens = torch.tensor(self.contexts + [0] * self.padding, dtype=torch.int32, device=DEVICE)
        self.tables, self.cu = self.tables.to(DEVICE), self.cu.to(DEVICE, torch.int32)

    def reference(self) -> torch.Tensor:
        out = torch.zeros(self.q.shape, dtype=torch.float64)
        start = 0
        for (keys, values), queries in zip(self.dense, self.queries, strict=True):
            q = self.q[start : start + queries].cpu().double().unflatten(1, (self.kv_heads, self.group))
            scores = torch.einsum("qhgd,chd->hgqc", q, keys) * self.scale
            last = len(keys) - queries + torch.arange(queries)
            scores.masked_fill_(torch.arange(len(keys))[None, :] > last[:, None], -math.inf)
            attended = torch.einsum("hgqc,chd->qhgd", scores.softmax(-1), values)
            out[start : start + queries] = attended.flatten(1, 2)
            start += queries
        return out

    def check(self) -> None:
        assert relative_error(self.out, self.reference()) < TOLERANCE[self.dtype]


def decode(case: Case, scratch: DecodeScratch | None = None, config: DecodeConfig | None = None) -> None:
    case.build()
    scratch = scratch or DecodeScratch(len(case.lens), case.q.shape[1], case.head_dim, DEVICE)
    attention.decode_attention(
        case.q,
        case.k,
        case.v,
        case.tables,
        case.lens,
        case.out,
        case.scale,
        scratch,
        case.k_scale,
        case.v_scale,
        config,
    )
    case.check()
    assert not scratch.arrivals.any()


def prefill(case: Case, config: PrefillConfig | None = None) -> None:
    case.build()
    attention.prefill_attention(
        case.q,
        case.k,
        case.v,
        case.tables,
        case.cu,
        case.lens,
        case.out,
        case.scale,
        case.k_scale,
        case.v_scale,
        config,
    )
    case.check()


SHAPES = [
    pytest.param({"block_size": 16, "group": 4, "head_dim": 64}, id="small-blocks"),
    pytest.param({"block_size": 64, "group": 4, "head_dim": 128, "layer_major": True}, id="layer-major"),
    pytest.param({"block_size": 128, "group": 2, "head_dim": 32}, id="large-blocks"),
    pytest.param({"block_size": 256, "group": 1, "head_dim": 16}, id="one-head-a-group"),
    pytest.param({"block_size": 32, "group": 7, "head_dim": 64}, id="seven-heads-a-group"),
    pytest.param({"block_size": 16, "group": 16, "head_dim": 128, "kv_heads": 1}, id="sixteen-heads-a-group"),
]
# Interpreted, one shape in half precision shows that types go through.
CASES = [
    pytest.param(shape.values[0] | {"dtype": dtype}, id=f"{shape.id}-{dtype}")
    for shape in SHAPES
    for dtype in (torch.float32, HALF)
    if CUDA or dtype == torch.float32 or shape is SHAPES[0]
]


@pytest.mark.parametrize("shape", CASES)
def test_decode_agrees_with_float64(shape: dict[str, Any]) -> None:
    contexts = [1, 17, 64, 140, 3]
    decode(Case(contexts, [1] * len(contexts), padding=3, **shape))


@pytest.mark.parametrize("contexts", [[1], [5], [700], [1, 1, 400, 1]], ids=str)
def test_decode_splits_whatever_the_lengths(contexts: list[int]) -> None:
    for least in (1, 3):
        decode(Case(contexts, [1] * len(contexts)), config=DecodeConfig(16, 1, 4, 2, 0, least))


def test_decode_searches_many_sequences() -> None:
    contexts = [1 + 7 * i % 37 for i in range(600 if CUDA else 30)]
    decode(Case(contexts, [1] * len(contexts), head_dim=16, group=2, kv_heads=1, dtype=torch.float32))


@pytest.mark.parametrize("context", [1, 16, 17, 150])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_one_sequence_s_rope_and_decode_are_those_in_turn(context: int, normed: bool, dtype: torch.dtype) -> None:
    case = Case([context], [1], dtype=dtype)
    case.build()
    heads, size = case.q.shape[1] + 2 * case.kv_heads, case.head_dim
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(1, heads * size, generator=generator).to(dtype).to(DEVICE)
    gains = [torch.rand(size, generator=generator).to(DEVICE) + 0.5 if normed else None for _ in "qk"]
    table = torch.randn(256, size, generator=generator).to(DEVICE)
    place = context - 1
    slots = case.tables[:1, place // case.block_size].long() * case.block_size + place % case.block_size
    arguments = case.tables, case.lens, case.out, case.scale, DecodeScratch(1, heads, size, DEVICE)
    k, v, q = case.k.clone(), case.v.clone(), torch.empty_like(case.q)
    rope.qk_norm_rope_write(
        qkv, *gains, 1e-6, table, torch.tensor([place], dtype=torch.int32, device=DEVICE), slots, k, v, q
    )
    attention.decode_attention(q, k, v, *arguments)
    wanted = case.out.clone()
    case.out.fill_(math.nan)
    attention.decode_attention(attention.Rope(qkv, *gains, 1e-6, table), case.k, case.v, *arguments)
    assert relative_error(case.out, wanted) < TOLERANCE[dtype]
    for one, other in ((case.k, k), (case.v, v)):
        assert torch.equal(one.isnan(), other.isnan())
        assert relative_error(one.nan_to_num(), other.nan_to_num()) < TOLERANCE[dtype]


def test_decode_scratch_serves_step_after_step() -> None:
    scratch = DecodeScratch(8, 8, 64, DEVICE)
    for seed, contexts in enumerate([[300, 2], [5] * 8, [150]]):
        decode(Case(contexts, [1] * len(contexts), seed=seed), scratch)


@pytest.mark.parametrize("shape", CASES)
def test_prefill_agrees_with_float64(shape: dict[str, Any]) -> None:
    prefill(Case([40, 9, 100, 33], [40, 1, 20, 1], padding=3, **shape))


def test_prefill_of_nothing_but_padding_is_zero() -> None:
    prefill(Case([], [], padding=4))


def test_prefill_searches_many_sequences() -> None:
    queries = [1 + 3 * i % 5 for i in range(600 if CUDA else 20)]
    prefill(Case([q + 20 for q in queries], queries, head_dim=16, group=2, kv_heads=1))


HOPPER_SHAPES = [
    pytest.param({"block_size": 64, "group": 4, "head_dim": 128}, id="one-block-a-tile"),
    pytest.param({"block_size": 256, "group": 7, "head_dim": 64, "layer_major": True}, id="seven-heads-a-group"),
    pytest.param({"block_size": 128, "group": 1, "head_dim": 128, "kv_heads": 3}, id="one-head-a-group"),
    pytest.param({"block_size": 64, "group": 16, "head_dim": 64}, id="sixteen-heads-a-group"),
]


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@pytest.mark.parametrize("shape", HOPPER_SHAPES)
def test_prefill_of_long_and_short_chunks_agrees_with_float64(shape: dict[str, Any]) -> None:
    contexts, queries = [900, 64, 65, 1, 300, 700], [900, 64, 1, 1, 65, 130]
    prefill(Case(contexts * 4, queries * 4, dtype=HALF, padding=5, **shape))


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@pytest.mark.parametrize("chunked", [False, True])
def test_a_captured_call_serves_other_lengths(chunked: bool) -> None:
    case = Case([300, 200], [100, 200] if chunked else [1, 1], dtype=HALF, head_dim=128, block_size=64, padding=2)
    case.build()
    scratch = DecodeScratch(len(case.lens), case.q.shape[1], case.head_dim, DEVICE)

    def call() -> None:
        if chunked:
            attention.prefill_attention(case.q, case.k, case.v, case.tables, case.cu, case.lens, case.out, case.scale)
        else:
            attention.decode_attention(case.q, case.k, case.v, case.tables, case.lens, case.out, case.scale, scratch)

    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    case.lens[0] = 130
    case.dense[0] = (case.dense[0][0][:130], case.dense[0][1][:130])
    if chunked:
        case.queries = [120, 180]
        case.cu[1] = 120
    for _ in range(3):
        case.out.fill_(math.nan)
        graph.replay()
        case.check()


@pytest.mark.parametrize("kernel", [decode, prefill])
def test_fp8_cache_agrees_with_its_dequantised_values(kernel) -> None:  # type: ignore[no-untyped-def]
    queries = [1, 60, 64] if kernel is prefill else [1, 1, 1]
    kernel(
        Case([30, 100, 64], queries, dtype=HALF, cache_dtype=torch.float8_e4m3fn, head_dim=128,
             block_size=64, k_scale=0.5, v_scale=2.0)
    )  # fmt: skip


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@pytest.mark.parametrize("kernel", [decode, prefill])
def test_the_far_end_of_a_large_pool_is_reached(kernel) -> None:  # type: ignore[no-untyped-def]
    torch.cuda.empty_cache()
    size = min(torch.cuda.mem_get_info()[0] - (4 << 30), 100 << 30)
    if size < 12 << 30:
        pytest.skip(f"{size >> 30} GiB of device memory free: offsets need not be 64-bit")
    queries = [1, 60, 64] if kernel is prefill else [1, 1, 1]
    kernel(Case([300, 100, 64], queries, dtype=torch.bfloat16, head_dim=128, block_size=64, pool_bytes=size))
    torch.cuda.empty_cache()

"""Where tokens go: their experts by the router's logits, and the pairs of token and expert in order of the experts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nano.engine.kernels.launch import dependent_launch
from nano.engine.kernels.prefetch import start
from nano.errors import InvalidInput

FEW_PAIRS = 4096  # up to so many, every expert looks at all pairs
CHUNK = 256  # pairs of one program that puts more of them in order


@triton.jit
def _route_kernel(
    logits,  # [T, E], rows stride apart
    weights,  # [T, TOP_K]
    ids,  # [T, TOP_K]
    experts, stride,
    TOP_K: tl.constexpr, SLOTS: tl.constexpr, EXPERTS: tl.constexpr, NORMALIZE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    expert = tl.arange(0, EXPERTS)
    slot = tl.arange(0, SLOTS)
    start(PDL)
    values = tl.load(logits + token.to(tl.int64) * stride + expert, mask=expert < experts, other=float("-inf"))
    values = values.to(tl.float32)
    shares = tl.exp(values - tl.max(values, axis=0))
    shares = shares / tl.sum(shares, axis=0)
    shares = tl.where(shares == shares, shares, 0.0)  # rows of padding may hold NaN; their ids are to be experts still
    # One integer orders by share, then by smaller index: the bits of a float that is not negative order as it does.
    keys = (shares.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (EXPERTS - 1 - expert).to(tl.int64)
    keys = tl.where(expert < experts, keys, -1)
    chosen = tl.zeros([SLOTS], tl.int64)
    for i in tl.static_range(TOP_K):
        best = tl.max(keys, axis=0)
        chosen = tl.where(slot == i, best, chosen)
        keys = tl.where(keys == best, -1, keys)
    shares = (chosen >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    if NORMALIZE:
        shares = shares / tl.sum(shares, axis=0)
    tl.store(weights + token * TOP_K + slot, shares, mask=slot < TOP_K)
    tl.store(ids + token * TOP_K + slot, EXPERTS - 1 - (chosen & 0xFFFFFFFF).to(tl.int32), mask=slot < TOP_K)


def route(router_logits: torch.Tensor, top_k: int, normalize: bool, weights: torch.Tensor, ids: torch.Tensor) -> None:
    """The top_k experts of softmax(router_logits [T, E]), the smaller index first among equals.

    weights fp32 [T, top_k] are their shares, divided by their sum when `normalize`; ids int32 [T, top_k].
    """
    tokens, experts = router_logits.shape
    if not 1 <= top_k <= experts or weights.shape != (tokens, top_k) or ids.shape != (tokens, top_k):
        raise InvalidInput(
            f"route: expected weights and ids {(tokens, top_k)} with 1 <= top_k <= {experts}, "
            f"got {tuple(weights.shape)}, {tuple(ids.shape)}"
        )
    block = triton.next_power_of_2(experts)
    pdl = dependent_launch(router_logits.device)
    _route_kernel[(tokens,)](
        router_logits, weights, ids, experts, router_logits.stride(0), TOP_K=top_k,
        SLOTS=triton.next_power_of_2(top_k), EXPERTS=block, NORMALIZE=normalize, PDL=pdl,
        num_warps=min(max(block // 256, 1), 4), launch_pdl=pdl,
    )  # fmt: skip


@triton.jit
def _order_kernel(
    ids,  # [pairs]
    order,  # [pairs]: pairs in order of their experts
    offsets,  # [E + 1]: where each expert's pairs begin in order
    pairs,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    start(PDL)
    before = tl.zeros([BLOCK], tl.int32)
    for at in tl.range(0, pairs, BLOCK):
        id = tl.load(ids + at + lane, mask=at + lane < pairs, other=2147483647)
        before += (id < expert).to(tl.int32)
    base = tl.sum(before, axis=0)
    tl.store(offsets + expert, base)
    for at in tl.range(0, pairs, BLOCK):
        id = tl.load(ids + at + lane, mask=at + lane < pairs, other=2147483647)
        mine = id == expert
        place = tl.cumsum(mine.to(tl.int32), axis=0)
        tl.store(order + base + place - 1, at + lane, mask=mine)
        base += tl.sum(mine.to(tl.int32), axis=0)
    if expert == tl.num_programs(0) - 1:
        tl.store(offsets + expert + 1, base)


@triton.jit
def _count_kernel(
    ids,  # [pairs]
    counts,  # [chunks, E]
    pairs, experts,
    EXPERTS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    pair = chunk * BLOCK + tl.arange(0, BLOCK)
    index = tl.arange(0, EXPERTS)
    start(PDL)
    id = tl.load(ids + pair, mask=pair < pairs, other=0)
    count = tl.histogram(id, EXPERTS, mask=pair < pairs)
    tl.store(counts + chunk * experts + index, count, mask=index < experts)


@triton.jit
def _place_kernel(
    ids,  # [pairs]
    counts,  # [chunks, E]
    order,  # [pairs]
    offsets,  # [E + 1]
    pairs, experts,
    EXPERTS: tl.constexpr, BLOCK: tl.constexpr, CHUNKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chunk, chunks = tl.program_id(0), tl.num_programs(0)
    lane = tl.arange(0, BLOCK)
    pair = chunk * BLOCK + lane
    index = tl.arange(0, EXPERTS)
    start(PDL)
    total = tl.zeros([EXPERTS], tl.int32)
    before = tl.zeros([EXPERTS], tl.int32)
    for at in tl.range(0, chunks, CHUNKS):
        other = at + tl.arange(0, CHUNKS)
        mask = (other < chunks)[:, None] & (index < experts)[None, :]
        count = tl.load(counts + other[:, None] * experts + index[None, :], mask=mask, other=0)
        total += tl.sum(count, axis=0)
        before += tl.sum(tl.where((other < chunk)[:, None], count, 0), axis=0)
    base = tl.cumsum(total, axis=0) - total
    if chunk == 0:
        tl.store(offsets + index, base, mask=index < experts)
        tl.store(offsets + experts, pairs)
    id = tl.load(ids + pair, mask=pair < pairs, other=-1)
    earlier = (id[None, :] == id[:, None]) & (lane[None, :] < lane[:, None])
    place = tl.sum(tl.where(id[:, None] == index[None, :], (base + before)[None, :], 0), axis=1)
    tl.store(order + place + tl.sum(earlier.to(tl.int32), axis=1), pair, mask=pair < pairs)


def order_pairs(
    ids: torch.Tensor, experts: int, order: torch.Tensor, offsets: torch.Tensor, counts: torch.Tensor
) -> None:
    """Puts pairs in order of their experts: order int32 [pairs]; an expert's begin at offsets int32 [E + 1].

    ids int32 [T, top_k]; counts int32 [pairs / CHUNK rounded up, E] is
    """
    pairs = ids.numel()
    pdl = dependent_launch(ids.device)
    if pairs <= FEW_PAIRS:
        block = triton.next_power_of_2(pairs)
        _order_kernel[(experts,)](
            ids, order, offsets, pairs, BLOCK=block, PDL=pdl, num_warps=min(max(block // 512, 1), 16),
            launch_pdl=pdl,
        )  # fmt: skip
        return
    flags = {"EXPERTS": triton.next_power_of_2(experts), "BLOCK": CHUNK, "PDL": pdl, "launch_pdl": pdl}
    chunks = -(-pairs // CHUNK)
    _count_kernel[(chunks,)](ids, counts, pairs, experts, num_warps=4, **flags)
    _place_kernel[(chunks,)](ids, counts, order, offsets, pairs, experts, CHUNKS=32, num_warps=8, **flags)

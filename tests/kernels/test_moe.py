"""Routing and experts against float64: any split of tokens over experts, few tokens and many, fp8."""

from __future__ import annotations

import pytest
import torch
from kernel_device import CUDA, DEVICE, HALF, TOLERANCE, relative_error

from nano.engine.kernels.expert_products import Tile
from nano.engine.kernels.moe import MoeScratch, experts, route
from nano.engine.kernels.quantize import FP8, GROUP
from nano.engine.kernels.routing import FEW_PAIRS, order_pairs
from nano.errors import InvalidInput

FP8_TOLERANCE = 6e-2 if CUDA else 0.3


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def routed(tokens: int, count: int, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.full((tokens, top_k), float("nan"), device=DEVICE)
    ids = torch.full((tokens, top_k), -1, dtype=torch.int32, device=DEVICE)
    route(random(tokens, count, seed=7), top_k, True, weights, ids)
    return weights, ids


def reference(h: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor):
    """In float64, one expert after another."""
    out = torch.zeros(h.shape, dtype=torch.float64, device=h.device)
    inner = w2.shape[2]
    for expert in range(len(w2)):
        token, slot = (ids == expert).nonzero(as_tuple=True)
        both = h[token].double() @ w13[expert].T
        act = torch.nn.functional.silu(both[:, :inner]) * both[:, inner:]
        out.index_add_(0, token, act @ w2[expert].T * weights[token, slot, None].double())
    return out


def meaning(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    wide = scales.double().repeat_interleave(GROUP, 1).repeat_interleave(GROUP, 2)
    return weight.double() * wide[:, : weight.shape[1], : weight.shape[2]]


@pytest.mark.parametrize(("count", "top_k"), [(128, 8), (5, 5), (60, 3), (8, 1)])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_routing_is_the_softmax_s_greatest(count: int, top_k: int, normalize: bool, dtype: torch.dtype) -> None:
    logits = random(9, count, dtype=dtype) * 3
    weights = torch.full((9, top_k), float("nan"), device=DEVICE)
    ids = torch.full((9, top_k), -1, dtype=torch.int32, device=DEVICE)
    route(logits, top_k, normalize, weights, ids)
    shares = logits.double().softmax(1)
    wanted = shares.sort(1, descending=True).values[:, :top_k]
    assert relative_error(weights, wanted / wanted.sum(1, keepdim=True) if normalize else wanted) < 1e-5
    assert relative_error(shares.gather(1, ids.long()), wanted) < 1e-9
    assert all(len(set(row)) == top_k for row in ids.tolist())


def test_equal_experts_are_taken_in_order() -> None:
    weights, ids = torch.empty(1, 3, device=DEVICE), torch.empty(1, 3, dtype=torch.int32, device=DEVICE)
    route(torch.zeros(1, 8, device=DEVICE), 3, False, weights, ids)
    assert ids.tolist() == [[0, 1, 2]]
    assert weights.tolist() == [[0.125] * 3]


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(
    ("tokens", "tiles"),
    [
        (1, None),
        (3, None),
        (40, None),
        (40, (Tile(16, 32, 64), Tile(64, 64, 32))),
        (70, (Tile(128, 64, 64), Tile(32, 128, 64))),
        (70, (Tile(32, 32, 64, tma=True), Tile(16, 64, 32, tma=True))),
        (70, (Tile(16, 64, 64, stays=True), Tile(32, 64, 64, stays=True, flatten=True))),
    ],
)
def test_experts_give_what_each_token_s_experts_give(
    dtype: torch.dtype, tokens: int, tiles: tuple[Tile, Tile] | None
) -> None:
    count, top_k, hidden, inner = 6, 3, 144, 80
    h, (weights, ids) = random(tokens, hidden, dtype=dtype), routed(tokens, count, top_k)
    w13 = (random(count, 2 * inner, hidden, seed=1) / hidden**0.5).to(dtype)
    w2 = (random(count, hidden, inner, seed=2) / inner**0.5).to(dtype)
    out = torch.full_like(h, float("nan"))
    scratch = MoeScratch(tokens, top_k, count, hidden, inner, dtype, DEVICE)
    experts(h, weights, ids, w13, w2, out, scratch, tiles=tiles)
    assert relative_error(out, reference(h, weights, ids, w13.double(), w2.double())) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("split", ["one", "none", "last"])
def test_experts_may_get_all_tokens_or_none(split: str) -> None:
    count, top_k, hidden, inner, tokens = 5, 2, 64, 32, 21
    ids = torch.zeros(tokens, top_k, dtype=torch.int32, device=DEVICE)
    if split == "none":
        ids[:, 1] = 3
    if split == "last":
        ids[:] = count - 1
    h, weights = random(tokens, hidden, dtype=HALF), random(tokens, top_k, seed=3).abs()
    w13 = (random(count, 2 * inner, hidden, seed=1) / 8).to(HALF)
    w2 = (random(count, hidden, inner, seed=2) / 8).to(HALF)
    out = torch.full_like(h, float("nan"))
    experts(
        h, weights, ids, w13, w2, out, MoeScratch(64, top_k, count, hidden, inner, HALF, DEVICE),
        tiles=(Tile(16, 32, 64), Tile(16, 32, 32)),
    )  # fmt: skip
    assert relative_error(out, reference(h, weights, ids, w13.double(), w2.double())) < 2 * TOLERANCE[HALF]


@pytest.mark.parametrize(("pairs", "count"), [(1, 5), (40, 128), (FEW_PAIRS + 300, 7)])
def test_pairs_come_in_order_of_their_experts_and_their_own(pairs: int, count: int) -> None:
    ids = torch.randint(0, count, (pairs, 1), generator=torch.Generator().manual_seed(0)).to(DEVICE, torch.int32)
    ids[ids == 2] = 3  # an expert without pairs
    scratch = MoeScratch(pairs, 1, count, 16, 16, torch.float32, DEVICE)
    order_pairs(ids, count, scratch.order, scratch.offsets, scratch.counts)
    flat = ids.flatten().long()
    assert torch.equal(scratch.order.long(), flat.sort(stable=True).indices)
    assert scratch.offsets.tolist() == [0, *torch.bincount(flat, minlength=count).cumsum(0).tolist()]


STAY = (Tile(16, 256, 128, 8, stays=True), Tile(16, 128, 128, stays=True))


@pytest.mark.parametrize(("tokens", "tiles"), [(1, None), (3, None), (20, None), (20, STAY)])
def test_fp8_experts_give_what_their_weights_stand_for(tokens: int, tiles: tuple[Tile, Tile] | None) -> None:
    count, top_k, hidden, inner = 4, 2, 256, 128
    h, (weights, ids) = random(tokens, hidden, dtype=HALF), routed(tokens, count, top_k)
    w13, w2 = random(count, 2 * inner, hidden, seed=1).to(FP8), random(count, hidden, inner, seed=2).to(FP8)
    s13, s2 = random(count, 2, 2, seed=3).abs() / 16 + 0.03, random(count, 2, 1, seed=4).abs() / 16 + 0.03
    out = torch.full_like(h, float("nan"))
    scratch = MoeScratch(32, top_k, count, hidden, inner, HALF, DEVICE)
    experts(h, weights, ids, w13, w2, out, scratch, s13, s2, tiles)
    assert relative_error(out, reference(h, weights, ids, meaning(w13, s13), meaning(w2, s2))) < FP8_TOLERANCE


def test_what_does_not_fit_is_refused() -> None:
    h, (weights, ids) = random(4, 64), routed(4, 4, 2)
    w13, w2 = random(4, 64, 64), random(4, 64, 32)
    with pytest.raises(InvalidInput, match="the scratch holds 2 pairs, got 8"):
        experts(h, weights, ids, w13, w2, torch.empty_like(h), MoeScratch(1, 2, 4, 64, 32, torch.float32, DEVICE))
    with pytest.raises(InvalidInput, match="expected h and out"):
        experts(h, weights, ids, w2, w2, torch.empty_like(h), MoeScratch(4, 2, 4, 64, 32, torch.float32, DEVICE))
    with pytest.raises(InvalidInput, match="top_k"):
        route(random(4, 4), 5, True, weights, ids)

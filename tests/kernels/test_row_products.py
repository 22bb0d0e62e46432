"""Products of one row on plain lanes against float64: odd sizes, norms and SiLU inside, experts that find their own."""

from __future__ import annotations

import pytest
import torch
from kernel_device import CUDA, DEVICE, TOLERANCE, relative_error

from nano.engine.kernels import row_experts, row_products
from nano.engine.kernels.linear_tiles import Lanes
from nano.engine.kernels.moe import route
from nano.engine.kernels.quantize import FP8, GROUP

pytestmark = pytest.mark.skipif(not CUDA, reason="no CUDA device")

BF16 = torch.bfloat16
EPS = 1e-6
LANES = [Lanes(8, 4), Lanes(8, 2, 2, 2), Lanes(2, 1, 4, 1, ahead=4096), Lanes(16, 4, 1, 4, ahead=0)]


def random(*shape: int, dtype: torch.dtype = BF16, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def poisoned(*shape: int) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=BF16, device=DEVICE)


def weight_of(
    rows: int, columns: int, fp8: bool, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """The weight, its scales, and what they mean together, float64."""
    if not fp8:
        weight = random(rows, columns, seed=seed) / columns**0.5
        return weight, None, weight.double()
    weight = random(rows, columns, dtype=torch.float32, seed=seed).to(FP8)
    scales = random(-(-rows // GROUP), -(-columns // GROUP), dtype=torch.float32, seed=2).abs() / columns**0.5 + 0.01
    wide = scales.double().repeat_interleave(GROUP, 0)[:rows].repeat_interleave(GROUP, 1)[:, :columns]
    return weight, scales, weight.double() * wide


def normed(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    return wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt() * gain.double()


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize(("n", "k"), [(100, 208), (256, 4096), (1, 64), (24, 2176)])
@pytest.mark.parametrize("lanes", LANES)
def test_a_row_s_product_is_exact_to_its_dtype(n: int, k: int, fp8: bool, lanes: Lanes) -> None:
    x, out = random(1, k), poisoned(1, n)
    weight, scales, meant = weight_of(n, k, fp8)
    row_products.linear_row(x, weight, scales, out, lanes)
    assert relative_error(out, x.double() @ meant.T) < TOLERANCE[BF16]


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("lanes", LANES)
def test_norm_and_silu_inside_are_those_in_turn(fp8: bool, gated: bool, lanes: Lanes) -> None:
    n, k = 256, 1152
    x, delta, gain = random(1, k), random(1, k, seed=3), random(k, dtype=torch.float32, seed=4)
    weight, scales, meant = weight_of(2 * n if gated else n, k, fp8)
    out, total, h = poisoned(1, n), poisoned(1, k), poisoned(1, k)
    norm = row_products.Norm(delta, gain, EPS, total, h)
    row_products.linear_row(x, weight, scales, out, lanes, norm, gated)
    assert torch.equal(total, x + delta)
    assert relative_error(h, normed(x + delta, gain)) < TOLERANCE[BF16]
    wanted = normed(x + delta, gain) @ meant.T
    if gated:
        wanted = torch.nn.functional.silu(wanted[:, :n]) * wanted[:, n:]
    assert relative_error(out, wanted) < TOLERANCE[BF16]


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("lanes", [(Lanes(4, 4), Lanes(4, 8)), (Lanes(2, 1, 2, 2), Lanes(2, 4, bytes=8))])
def test_few_tokens_experts_give_what_each_one_gives(fp8: bool, lanes: tuple[Lanes, Lanes]) -> None:
    tokens, count, top_k, hidden, inner = 3, 40, 6, 512, 384
    h = random(tokens, hidden)
    logits = random(tokens, count, seed=5)
    logits[1, 7:12] = logits[1].max() + 1  # equals
    weights = torch.empty(tokens, top_k, device=DEVICE)
    ids = torch.empty(tokens, top_k, dtype=torch.int32, device=DEVICE)
    route(logits, top_k, True, weights, ids)
    parts = [weight_of(2 * inner, hidden, fp8, 10 + e) for e in range(count)]
    downs = [weight_of(hidden, inner, fp8, 60 + e) for e in range(count)]
    w13, w2 = torch.stack([part[0] for part in parts]), torch.stack([down[0] for down in downs])
    s13 = torch.stack([part[1] for part in parts]) if fp8 else None
    s2 = torch.stack([down[1] for down in downs]) if fp8 else None
    out, act = poisoned(tokens, hidden), poisoned(tokens * top_k, inner)
    row_experts.expert_rows(h, logits, top_k, True, w13, w2, out, act, s13, s2, lanes)
    wanted = torch.zeros(tokens, hidden, dtype=torch.float64, device=DEVICE)
    for token in range(tokens):
        for share, expert in zip(weights[token].tolist(), ids[token].tolist(), strict=True):
            both = parts[expert][2] @ h[token].double()
            wanted[token] += share * (downs[expert][2] @ (torch.nn.functional.silu(both[:inner]) * both[inner:]))
    assert relative_error(out, wanted) < TOLERANCE[BF16]

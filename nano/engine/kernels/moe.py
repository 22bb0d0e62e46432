"""Mixture of experts for a step's tokens: their experts, and the weighted sum of what those give.

A pair is one (token, chosen expert). Few tokens' pairs are multiplied one by one, more are put in order of their
experts first, all on the device.
"""

from __future__ import annotations

import torch

from nano.engine.kernels import row_experts
from nano.engine.kernels.expert_products import Tile, choose, combine, grouped
from nano.engine.kernels.linear_tiles import Lanes
from nano.engine.kernels.quantize import FP8, GROUP, new_scales, quantize
from nano.engine.kernels.routing import CHUNK, order_pairs
from nano.engine.kernels.routing import route as route
from nano.errors import InvalidInput

FEW_TOKENS = 4  # up to so many tokens, pairs are multiplied one by one
# fp8 -> how the products of gate and up, and of down, are cut then.
FEW = {False: (Lanes(2, 2, 2, 2), Lanes(4, 8)), True: (Lanes(8, 8), Lanes(4, 8, bytes=8))}


class MoeScratch:
    """Intermediate results of `experts` for up to max_tokens tokens of one layer; layers share it."""

    def __init__(
        self,
        max_tokens: int,
        top_k: int,
        experts: int,
        hidden: int,
        intermediate: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        pairs = max_tokens * top_k
        self.order = torch.empty(pairs, dtype=torch.int32, device=device)
        self.offsets = torch.empty(experts + 1, dtype=torch.int32, device=device)
        self.counts = torch.empty(-(-pairs // CHUNK), experts, dtype=torch.int32, device=device)
        self.act = torch.empty(pairs, intermediate, dtype=dtype, device=device)
        self.parts = torch.empty(pairs, hidden, dtype=dtype, device=device)
        self.hidden_fp8: torch.Tensor | None = None
        self._sizes = (max_tokens, hidden, intermediate)
        self._device = device

    def fp8(self) -> None:
        """Adds what fp8 weights need; called at the first product with them."""
        if self.hidden_fp8 is None:
            max_tokens, hidden, intermediate = self._sizes
            pairs = len(self.order)
            self.hidden_fp8 = torch.empty(max_tokens, hidden, dtype=FP8, device=self._device)
            self.hidden_scales = new_scales(max_tokens, hidden, self._device)
            self.act_fp8 = self.act.view(FP8).view(-1)[: pairs * intermediate].view(pairs, intermediate)
            self.act_scales = new_scales(pairs, intermediate, self._device)


def _check(
    h: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor, out: torch.Tensor, w13_scales: torch.Tensor | None
) -> None:
    hidden, (count, _, inner) = h.shape[1], w2.shape
    if w13.shape != (count, 2 * inner, hidden) or w2.shape[1] != hidden or out.shape != h.shape:
        raise InvalidInput(
            f"experts: expected h and out [T, C], w13 [E, 2I, C], w2 [E, C, I], got {tuple(h.shape)}, "
            f"{tuple(out.shape)}, {tuple(w13.shape)}, {tuple(w2.shape)}"
        )
    if w13_scales is not None and (hidden % GROUP or inner % GROUP):
        raise InvalidInput(f"experts: fp8 needs sizes that are multiples of {GROUP}, got {hidden} and {inner}")


def experts(
    h: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    out: torch.Tensor,
    scratch: MoeScratch,
    w13_scales: torch.Tensor | None = None,
    w2_scales: torch.Tensor | None = None,
    tiles: tuple[Tile, Tile] | None = None,
) -> None:
    """out [T, C] = sum over a token's experts of weight * (silu(h @ gate.T) * (h @ up.T)) @ w2.T.

    h [T, C]; weights fp32, ids int32 [T, top_k] from `route`; w13 [E, 2I, C] (gate rows, then up rows); w2 [E, C, I].
    With fp8 weights the scales are fp32 [E, rows/128, columns/128] rounded up, and I and C multiples of 128. `tiles`
    (gate_up, down) force how.
    """
    _check(h, w13, w2, out, w13_scales)
    (tokens, top_k), count = ids.shape, len(w2)
    fp8 = w13_scales is not None
    pairs = tokens * top_k
    if pairs > len(scratch.order):
        raise InvalidInput(f"experts: the scratch holds {len(scratch.order)} pairs, got {pairs}")
    order, offsets = scratch.order, scratch.offsets
    order_pairs(ids, count, order, offsets, scratch.counts)
    first, second = tiles or (choose(pairs, count, True, w13.dtype), choose(pairs, count, False, w2.dtype))
    act, act_scales, x, x_scales = scratch.act[:pairs], None, h, None
    if fp8:
        scratch.fp8()
        assert scratch.hidden_fp8 is not None
        x, x_scales = scratch.hidden_fp8[:tokens], scratch.hidden_scales[:tokens]
        quantize(h, x, x_scales)
        act, act_scales = scratch.act_fp8[:pairs], scratch.act_scales[:pairs]
    grouped(first, x, x_scales, w13, w13_scales, act, act_scales, order, offsets, pairs, top_k, True)
    grouped(second, act, act_scales, w2, w2_scales, scratch.parts, None, order, offsets, pairs, top_k, False)
    combine(scratch.parts, weights, out)


def takes_few(h: torch.Tensor, top_k: int) -> bool:
    """Whether `few_experts` takes them."""
    return h.is_cuda and h.dtype != torch.float32 and len(h) <= FEW_TOKENS and top_k <= row_experts.MOST_CHOSEN


def few_experts(
    h: torch.Tensor,
    router_logits: torch.Tensor,
    top_k: int,
    normalize: bool,
    w13: torch.Tensor,
    w2: torch.Tensor,
    out: torch.Tensor,
    scratch: MoeScratch,
    w13_scales: torch.Tensor | None = None,
    w2_scales: torch.Tensor | None = None,
) -> None:
    """`route` and `experts` in two kernels, where `takes_few`."""
    _check(h, w13, w2, out, w13_scales)
    lanes = FEW[w13_scales is not None]
    row_experts.expert_rows(h, router_logits, top_k, normalize, w13, w2, out, scratch.act, w13_scales, w2_scales, lanes)

"""A step's token ids, of which some are what the step before sampled."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _resolve(ids, sources, sampled, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(sources + at, mask=at < n, other=-1)
    token = tl.load(sampled + source, mask=source >= 0, other=0)
    tl.store(ids + at, token, mask=source >= 0)


def resolve(ids: torch.Tensor, sources: torch.Tensor, sampled: torch.Tensor) -> None:
    """ids[i] = sampled[sources[i]] where sources[i] >= 0. All int32; ids and sources [T], sampled [R]."""
    n = ids.shape[0]
    _resolve[(triton.cdiv(n, BLOCK),)](ids, sources, sampled, n, BLOCK=BLOCK)

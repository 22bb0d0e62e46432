"""FlashInfer's compiled modules, asked for a small step whose answer float64 gives, before any request gets theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nano.engine.kernels.flashinfer_attention import FlashInferAttention, Shape
from nano.errors import SystemFault

TOLERANCE = 2e-2  # of the greatest magnitude, in bf16
WIDTH = 4  # blocks of a sequence
LAYERS = 2


def check(shape: Shape, modules: Mapping[str, Any], device: torch.device) -> None:
    """A step of each kind on the current stream. Raises SystemFault if an answer is not float64's."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float32, device=device).to(shape.dtype)

    contexts = [3 * shape.block_size + 5, 1, shape.block_size]
    pool = normal(len(contexts) * WIDTH, LAYERS, 2, shape.kv_heads, shape.block_size, shape.head_dim)
    k, v = pool[:, 1, 0], pool[:, 1, 1]
    tables = torch.arange(len(pool), dtype=torch.int32, device=device).flip(0).view(len(contexts), WIDTH)
    lens, scale = np.array(contexts, np.int32), shape.head_dim**-0.5
    backend = FlashInferAttention(shape, len(contexts), WIDTH, 1, device)
    backend.bind(modules)
    for kind in modules:
        queries = [1, 1, 1] if kind == "decode" else [2 * shape.block_size, 1, 7]
        starts = np.cumsum([0, *queries], dtype=np.int32)
        q = normal(sum(queries), shape.heads, shape.head_dim)
        out = torch.zeros_like(q)
        backend.plan(kind, len(q), len(lens), starts, lens, 0)
        backend.begin(tables, torch.from_numpy(lens).to(device))
        backend.run(q, k, v, torch.from_numpy(starts).to(device), out, scale)
        for i, context in enumerate(contexts):
            rows = slice(int(starts[i]), int(starts[i + 1]))
            keys, values = (x[tables[i].long()].transpose(1, 2).flatten(0, 1)[:context] for x in (k, v))
            want = reference(q[rows], keys, values, scale)
            error = float((out[rows].double() - want).abs().max() / want.abs().max())
            if not error < TOLERANCE:  # NaN too
                raise SystemFault(f"flashinfer: {kind}: expected float64's answer, got one {error:.2g} away")


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention of a sequence's last queries in float64: q [n, heads, D]; k, v [context, kv_heads, D]."""
    n, context = len(q), len(k)
    grouped = q.double().unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("qhgd,chd->hgqc", grouped, k.double()) * scale
    positions = torch.arange(context, device=q.device)
    scores.masked_fill_(positions > positions[context - n :, None], -torch.inf)
    return torch.einsum("hgqc,chd->qhgd", scores.softmax(-1), v.double()).flatten(1, 2)

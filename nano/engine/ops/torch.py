"""Ops in plain torch, for any device that torch has: correct first; fast GPU kernels take its place one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nano._core import cpu
from nano.engine.ops import AttentionShape, Buffer
from nano.engine.ops.cpu import sample_rows

if TYPE_CHECKING:
    from nano._core.sched import Batch


class TorchOps:
    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self.dtype = dtype
        self.device = torch.device(device)
        self._sampler = cpu.Context(1)
        self._pool: torch.Tensor | None = None
        self._batch: Batch | None = None

    # --- memory

    def bind_pool(self, pool: torch.Tensor) -> None:
        """The KV pool, [blocks, layers, 2, kv_heads, block_size, head_dim]."""
        self._pool = pool

    def buffer(self, rows: int, columns: int, fp32: bool) -> Buffer:
        return Buffer(torch.empty(rows, columns, dtype=torch.float32 if fp32 else self.dtype, device=self.device))

    def vector(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.device, torch.float32, copy=True)

    def pack_linear(self, rows: int, columns: int) -> torch.Tensor:
        return torch.empty(rows, columns, dtype=self.dtype, device=self.device)

    def load_linear(self, weight: torch.Tensor, row: int, values: torch.Tensor) -> None:
        weight[row : row + values.shape[0]].copy_(values)

    def pack_experts(self, experts: int, hidden: int, intermediate: int) -> dict[str, torch.Tensor]:
        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(experts, *shape, dtype=self.dtype, device=self.device)

        return {
            "gate": empty(intermediate, hidden),
            "up": empty(intermediate, hidden),
            "down": empty(hidden, intermediate),
        }

    def load_expert(self, weight: dict[str, torch.Tensor], expert: int, part: str, values: torch.Tensor) -> None:
        weight[part][expert].copy_(values)

    # --- one step

    def begin(self, batch: Batch) -> None:
        self._batch = batch

        def up(array: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(array.copy()).to(self.device)

        self._ids, self._positions, self._slots = up(batch.token_ids), up(batch.positions), up(batch.slots)
        self._sample_rows = up(batch.sample_rows)
        self._cu_query, self._context_lens = batch.cu_query.tolist(), batch.context_lens.tolist()
        self._tables = up(batch.block_tables)

    def embed(self, weight: torch.Tensor, x: Buffer, n: int) -> None:
        x.tensor[:n] = weight[self._ids.long()]

    def rms_norm(self, x: Buffer, weight: torch.Tensor, eps: float, out: Buffer, n: int) -> None:
        out.tensor[:n] = _norm(x.tensor[:n], weight, eps)

    def rms_norm_samples(self, x: Buffer, weight: torch.Tensor, eps: float, out: Buffer, n: int) -> None:
        out.tensor[:n] = _norm(x.tensor[self._sample_rows.long()], weight, eps)

    def _product(self, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """a @ weight.T in fp32, [rows of a, rows of weight]: sums are not rounded to the operands' dtype."""
        if a.dtype == torch.float32:
            return a @ weight.T
        if a.is_cuda:
            return torch.mm(a, weight.T, out_dtype=torch.float32)
        return a.float() @ weight.float().T

    def linear(self, weight: torch.Tensor, h: Buffer, n: int, out: Buffer, accumulate: bool = False) -> None:
        y = self._product(h.tensor[:n], weight)
        if accumulate:
            out.tensor[:n] += y
        else:
            out.tensor[:n] = y

    def rope_write(
        self, qkv: Buffer, q: Buffer, q_norm: Any, k_norm: Any, table: Any, layer: int, shape: AttentionShape, n: int
    ) -> None:
        assert self._pool is not None
        heads, kv_heads, dim = shape.heads, shape.kv_heads, shape.head_dim
        rows = qkv.tensor[:n].view(n, -1, dim)
        q3, k3, v3 = rows[:, :heads], rows[:, heads : heads + kv_heads], rows[:, heads + kv_heads :]
        cos, sin = table[self._positions.long()].unsqueeze(1).chunk(2, dim=-1)
        q.tensor[:n] = _rotate(_norm(q3, q_norm, shape.eps), cos, sin).reshape(n, -1)
        block = self._slots // shape.layout.block_size
        offset = self._slots % shape.layout.block_size
        self._pool[block, layer, 0, :, offset] = _rotate(_norm(k3, k_norm, shape.eps), cos, sin).to(self.dtype)
        self._pool[block, layer, 1, :, offset] = v3.to(self.dtype)

    def attention(self, q: Buffer, out: Buffer, layer: int, shape: AttentionShape, n: int) -> None:
        assert self._pool is not None
        size = shape.layout.block_size
        for i, context in enumerate(self._context_lens):
            begin, end = self._cu_query[i], self._cu_query[i + 1]
            blocks = self._tables[i, : (context + size - 1) // size].long()
            # [blocks, 2, kv_heads, block_size, head_dim] -> K, V: [kv_heads, context, head_dim]
            k, v = self._pool[blocks, layer].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :context]
            rows = q.tensor[begin:end].view(end - begin, shape.heads, shape.head_dim).transpose(0, 1)
            position = torch.arange(context - (end - begin), context, device=self.device)[:, None]
            mask = torch.arange(context, device=self.device)[None, :] <= position
            a = torch.nn.functional.scaled_dot_product_attention(rows, k, v, attn_mask=mask, enable_gqa=True)
            out.tensor[begin:end] = a.transpose(0, 1).reshape(end - begin, -1)

    def silu_mul(self, gate_up: Buffer, out: Buffer, n: int) -> None:
        gate, up = gate_up.tensor[:n].chunk(2, dim=-1)
        out.tensor[:n] = torch.nn.functional.silu(gate) * up

    def experts(
        self, weight: Any, router_logits: Buffer, h: Buffer, x: Buffer, top_k: int, normalize: bool, n: int
    ) -> None:
        weights, ids = router_logits.tensor[:n].softmax(-1).topk(top_k, dim=-1)
        if normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        rows = h.tensor[:n]
        for expert in torch.unique(ids).tolist():
            token, slot = (ids == expert).nonzero(as_tuple=True)
            mine = rows[token]
            gate, up = (self._product(mine, weight[part][expert]) for part in ("gate", "up"))
            act = (torch.nn.functional.silu(gate) * up).to(self.dtype)
            y = self._product(act, weight["down"][expert]) * weights[token, slot, None]
            x.tensor.index_add_(0, token, y)

    def sample(self, logits: Buffer, vocab: int, n: int) -> npt.NDArray[np.int32]:
        assert self._batch is not None
        rows = logits.tensor[:n].cpu().contiguous()
        return sample_rows(self._sampler, rows.data_ptr(), self._batch, vocab, n)


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

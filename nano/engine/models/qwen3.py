"""Qwen3 and Qwen3-MoE decoders, after transformers' modeling_qwen3 and modeling_qwen3_moe.

One forward of a step: x is the fp32 residual stream; each layer adds attention's and the MLP's outputs to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nano.engine.checkpoint import Checkpoint
from nano.engine.kv_cache import KVLayout
from nano.engine.model_config import ModelConfig
from nano.engine.ops import AttentionShape, Buffer, Ops
from nano.engine.rope import cos_sin_table
from nano.errors import InvalidInput


@dataclass
class Layer:
    qkv: Any
    o: Any
    input_norm: Any = None
    post_norm: Any = None
    q_norm: Any = None
    k_norm: Any = None
    gate_up: Any = None  # dense
    down: Any = None
    router: Any = None  # MoE
    experts: Any = None


class Qwen3:
    """Weights, workspace and forward pass. `max_tokens` and `max_samples` bound a step."""

    def __init__(self, config: ModelConfig, ops: Ops, layout: KVLayout, max_tokens: int, max_position: int) -> None:
        self.config = config
        self.ops = ops
        self.shape = AttentionShape(config.num_heads, config.num_kv_heads, config.head_dim, config.rms_norm_eps, layout)
        hidden, q_size, kv_size = config.hidden_size, config.num_heads * config.head_dim, self._kv_size
        self.embed = ops.pack_linear(config.vocab_size, hidden)
        self.lm_head = self.embed if config.tied else ops.pack_linear(config.vocab_size, hidden)
        self.norm: Any = None
        self.layers = [
            Layer(ops.pack_linear(q_size + 2 * kv_size, hidden), ops.pack_linear(hidden, q_size))
            for _ in range(config.num_layers)
        ]
        for index, layer in enumerate(self.layers):
            if index in config.moe_layers:
                layer.router = ops.pack_linear(config.num_experts, hidden)
                layer.experts = ops.pack_experts(config.num_experts, hidden, config.moe_intermediate_size)
            else:
                layer.gate_up = ops.pack_linear(2 * config.intermediate_size, hidden)
                layer.down = ops.pack_linear(hidden, config.intermediate_size)
        self.table = ops.vector(torch.from_numpy(cos_sin_table(config.rope, config.head_dim, max_position)))
        self.x = ops.buffer(max_tokens, hidden, fp32=True)
        self.h = ops.buffer(max_tokens, hidden, fp32=False)
        self.qkv = ops.buffer(max_tokens, q_size + 2 * kv_size, fp32=True)
        self.q = ops.buffer(max_tokens, q_size, fp32=False)
        self.a = ops.buffer(max_tokens, q_size, fp32=False)
        self.gate_up = ops.buffer(max_tokens, 2 * config.intermediate_size, fp32=True)
        self.act = ops.buffer(max_tokens, config.intermediate_size, fp32=False)
        self.router_logits = ops.buffer(max_tokens, max(config.num_experts, 1), fp32=True)
        self.logits: Buffer | None = None

    @property
    def _kv_size(self) -> int:
        return self.config.num_kv_heads * self.config.head_dim

    def load(self, checkpoint: Checkpoint, progress: Callable[[int], None] | None = None) -> None:
        """Reads every weight. Raises InvalidInput naming weights that are missing, unknown or of another shape."""
        expected = self._expected()
        for name, tensor in checkpoint.tensors(progress):
            if name == "lm_head.weight" and self.config.tied:
                continue
            if name not in expected:
                if name.endswith("rotary_emb.inv_freq"):
                    continue
                raise InvalidInput(f"{checkpoint.directory}: unknown weight {name}")
            shape, store = expected.pop(name)
            if tuple(tensor.shape) != shape:
                raise InvalidInput(f"{checkpoint.directory}: {name}: expected {shape}, got {tuple(tensor.shape)}")
            store(tensor)
        if expected:
            some = ", ".join(sorted(expected)[:3])
            raise InvalidInput(f"{checkpoint.directory}: {len(expected)} weights are missing: {some}, …")

    def _expected(self) -> dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], None]]]:
        config, ops = self.config, self.ops
        hidden, q_size, kv_size = config.hidden_size, config.num_heads * config.head_dim, self._kv_size
        out: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], None]]] = {}

        def rows(name: str, weight: Any, row: int, shape: tuple[int, int]) -> None:
            out[name] = (shape, lambda values: ops.load_linear(weight, row, values))

        def vector(name: str, owner: object, attribute: str, size: int) -> None:
            out[name] = ((size,), lambda values: setattr(owner, attribute, ops.vector(values)))

        def expert(name: str, weight: Any, index: int, part: str, shape: tuple[int, int]) -> None:
            out[name] = (shape, lambda values: ops.load_expert(weight, index, part, values))

        rows("model.embed_tokens.weight", self.embed, 0, (config.vocab_size, hidden))
        if not config.tied:
            rows("lm_head.weight", self.lm_head, 0, (config.vocab_size, hidden))
        vector("model.norm.weight", self, "norm", hidden)
        for i, layer in enumerate(self.layers):
            prefix = f"model.layers.{i}."
            vector(prefix + "input_layernorm.weight", layer, "input_norm", hidden)
            vector(prefix + "post_attention_layernorm.weight", layer, "post_norm", hidden)
            vector(prefix + "self_attn.q_norm.weight", layer, "q_norm", config.head_dim)
            vector(prefix + "self_attn.k_norm.weight", layer, "k_norm", config.head_dim)
            rows(prefix + "self_attn.q_proj.weight", layer.qkv, 0, (q_size, hidden))
            rows(prefix + "self_attn.k_proj.weight", layer.qkv, q_size, (kv_size, hidden))
            rows(prefix + "self_attn.v_proj.weight", layer.qkv, q_size + kv_size, (kv_size, hidden))
            rows(prefix + "self_attn.o_proj.weight", layer.o, 0, (hidden, q_size))
            if layer.experts is None:
                size = config.intermediate_size
                rows(prefix + "mlp.gate_proj.weight", layer.gate_up, 0, (size, hidden))
                rows(prefix + "mlp.up_proj.weight", layer.gate_up, size, (size, hidden))
                rows(prefix + "mlp.down_proj.weight", layer.down, 0, (hidden, size))
            else:
                size = config.moe_intermediate_size
                rows(prefix + "mlp.gate.weight", layer.router, 0, (config.num_experts, hidden))
                for e in range(config.num_experts):
                    at = f"{prefix}mlp.experts.{e}."
                    expert(at + "gate_proj.weight", layer.experts, e, "gate", (size, hidden))
                    expert(at + "up_proj.weight", layer.experts, e, "up", (size, hidden))
                    expert(at + "down_proj.weight", layer.experts, e, "down", (hidden, size))
        return out

    def forward(self, n: int, samples: int, on_layer: Callable[[int], None] | None = None) -> Buffer | None:
        """The step that `ops.begin` took: n tokens, of which `samples` rows get logits (None when there are none).

        `on_layer(i)` is called when layer i's K and V of this step are in the pool.
        """
        ops, config, shape = self.ops, self.config, self.shape
        x, h, qkv, q, a, eps = self.x, self.h, self.qkv, self.q, self.a, config.rms_norm_eps
        ops.embed(self.embed, x, n)
        for index, layer in enumerate(self.layers):
            ops.rms_norm(x, layer.input_norm, eps, h, n)
            ops.linear(layer.qkv, h, n, qkv)
            ops.rope_write(qkv, q, layer.q_norm, layer.k_norm, self.table, index, shape, n)
            if on_layer is not None:
                on_layer(index)
            ops.attention(q, a, index, shape, n)
            ops.linear(layer.o, a, n, x, True)
            ops.rms_norm(x, layer.post_norm, eps, h, n)
            if layer.experts is None:
                ops.linear(layer.gate_up, h, n, self.gate_up)
                ops.silu_mul(self.gate_up, self.act, n)
                ops.linear(layer.down, self.act, n, x, True)
            else:
                ops.linear(layer.router, h, n, self.router_logits)
                top_k, normalize = config.experts_per_token, config.norm_topk_prob
                ops.experts(layer.experts, self.router_logits, h, x, top_k, normalize, n)
        if samples == 0:
            return None
        if self.logits is None or self.logits.tensor.shape[0] < samples:
            rows = 1 << (samples - 1).bit_length()
            self.logits = ops.buffer(rows, config.vocab_size, fp32=True)
        ops.rms_norm_samples(x, self.norm, eps, h, samples)
        ops.linear(self.lm_head, h, samples, self.logits)
        return self.logits

"""Qwen3 and Qwen3-MoE decoders, after transformers' modeling_qwen3 and modeling_qwen3_moe.

One forward of a step: x is the residual stream; each layer adds attention's and the MLP's outputs to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nano.engine.kv_cache import KVLayout
from nano.engine.model_config import ModelConfig
from nano.engine.ops import AttentionShape, Buffer, Ops, Target
from nano.engine.rope import cos_sin_table
from nano.errors import InvalidInput

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
EXPERT_PARTS = ("gate", "up", "down")


@dataclass
class Layer:
    qkv: Any
    o: Any
    input_norm: Buffer
    post_norm: Buffer
    q_norm: Buffer
    k_norm: Buffer
    gate_up: Any = None  # dense
    down: Any = None
    router: Any = None  # MoE
    experts: Any = None


class Qwen3:
    """Weights, workspace and forward pass. A step has at most `max_tokens` tokens and samples `max_samples` rows."""

    def __init__(
        self, config: ModelConfig, ops: Ops, layout: KVLayout, max_tokens: int, max_samples: int, max_position: int
    ) -> None:
        self.config = config
        self.ops = ops
        self.shape = AttentionShape(config.num_heads, config.num_kv_heads, config.head_dim, config.rms_norm_eps, layout)
        hidden, q_size, kv_size = config.hidden_size, config.num_heads * config.head_dim, self._kv_size
        self.embed = ops.pack_linear(config.vocab_size, hidden)
        self.lm_head = self.embed if config.tied else ops.pack_linear(config.vocab_size, hidden)
        self.norm = ops.vector(hidden)
        self._fp8: dict[str, bool] = {}  # by a projection's name
        self.layers = [self._layer(index) for index in range(config.num_layers)]
        self.table = ops.table(torch.from_numpy(cos_sin_table(config.rope, config.head_dim, max_position)))
        self.x = ops.residual(max_tokens, hidden)
        first = self.layers[0]
        self.h = ops.operand(max_tokens, hidden, first.qkv)
        self.qkv = ops.product(max_tokens, q_size + 2 * kv_size)
        self.q = ops.operand(max_tokens, q_size)
        self.a = ops.operand(max_tokens, q_size, first.o)
        dense = next((layer for layer in self.layers if layer.experts is None), None)
        if dense is not None:
            self.gate_up = ops.product(max_tokens, 2 * config.intermediate_size)
            self.act = ops.operand(max_tokens, config.intermediate_size, dense.down)
        if config.moe_layers:
            self.router_logits = ops.product(max_tokens, config.num_experts)
        self.last = ops.operand(max_samples, hidden)
        self.logits = ops.product(max_samples, config.vocab_size)

    @property
    def _kv_size(self) -> int:
        return self.config.num_kv_heads * self.config.head_dim

    def _layer(self, index: int) -> Layer:
        config, ops = self.config, self.ops
        hidden, q_size, kv_size = config.hidden_size, config.num_heads * config.head_dim, self._kv_size
        layer = Layer(
            ops.pack_linear(q_size + 2 * kv_size, hidden, self._is_fp8(index, *QKV)),
            ops.pack_linear(hidden, q_size, self._is_fp8(index, "self_attn.o_proj")),
            ops.vector(hidden),
            ops.vector(hidden),
            ops.vector(config.head_dim),
            ops.vector(config.head_dim),
        )
        if index in config.moe_layers:
            experts = [f"mlp.experts.{e}.{part}_proj" for e in range(config.num_experts) for part in EXPERT_PARTS]
            layer.router = ops.pack_linear(config.num_experts, hidden)
            layer.experts = ops.pack_experts(
                config.num_experts, hidden, config.moe_intermediate_size, self._is_fp8(index, *experts)
            )
        else:
            size = config.intermediate_size
            layer.gate_up = ops.pack_linear(2 * size, hidden, self._is_fp8(index, "mlp.gate_proj", "mlp.up_proj"))
            layer.down = ops.pack_linear(hidden, size, self._is_fp8(index, "mlp.down_proj"))
        return layer

    def _is_fp8(self, layer: int, *names: str) -> bool:
        """Whether the checkpoint holds these projections, which share one weight here, in fp8."""
        if self.config.fp8 is None:
            return False
        converted = {self.config.fp8.converts(f"model.layers.{layer}.{name}.weight") for name in names}
        first = self._fp8.setdefault(names[0], next(iter(converted)))
        if converted != {first}:
            raise InvalidInput(
                f"quantization_config: modules_to_not_convert: expected all of {', '.join(names[:3])}… in all layers, "
                f"or none of them; layer {layer} differs"
            )
        return first

    def targets(self) -> dict[str, Target]:
        """Every weight by its name in the checkpoint."""
        config, ops = self.config, self.ops
        q_size, kv_size = config.num_heads * config.head_dim, self._kv_size
        out: dict[str, Target] = {}

        def fp8(name: str) -> bool:
            return config.fp8 is not None and config.fp8.converts(name)

        def linear(name: str, weight: Any, row: int, rows: int) -> None:
            out[f"{name}.weight"] = ops.linear_target(weight, row, rows)
            if fp8(f"{name}.weight"):
                out[f"{name}.weight_scale_inv"] = ops.linear_scales_target(weight, row, rows)

        linear("model.embed_tokens", self.embed, 0, config.vocab_size)
        if not config.tied:
            linear("lm_head", self.lm_head, 0, config.vocab_size)
        out["model.norm.weight"] = ops.vector_target(self.norm)
        for i, layer in enumerate(self.layers):
            prefix = f"model.layers.{i}."
            out[prefix + "input_layernorm.weight"] = ops.vector_target(layer.input_norm)
            out[prefix + "post_attention_layernorm.weight"] = ops.vector_target(layer.post_norm)
            out[prefix + "self_attn.q_norm.weight"] = ops.vector_target(layer.q_norm)
            out[prefix + "self_attn.k_norm.weight"] = ops.vector_target(layer.k_norm)
            linear(prefix + "self_attn.q_proj", layer.qkv, 0, q_size)
            linear(prefix + "self_attn.k_proj", layer.qkv, q_size, kv_size)
            linear(prefix + "self_attn.v_proj", layer.qkv, q_size + kv_size, kv_size)
            linear(prefix + "self_attn.o_proj", layer.o, 0, config.hidden_size)
            if layer.experts is None:
                size = config.intermediate_size
                linear(prefix + "mlp.gate_proj", layer.gate_up, 0, size)
                linear(prefix + "mlp.up_proj", layer.gate_up, size, size)
                linear(prefix + "mlp.down_proj", layer.down, 0, config.hidden_size)
                continue
            linear(prefix + "mlp.gate", layer.router, 0, config.num_experts)
            for e in range(config.num_experts):
                for part in EXPERT_PARTS:
                    name = f"{prefix}mlp.experts.{e}.{part}_proj.weight"
                    out[name] = ops.expert_target(layer.experts, e, part)
                    if fp8(name):
                        out[f"{name}_scale_inv"] = ops.expert_scales_target(layer.experts, e, part)
        return out

    def forward(self, n: int, on_layer: Callable[[int], None] | None = None, layers: range | None = None) -> None:
        """The n tokens of the step that the ops have begun, through all layers or, in order, through some.

        `on_layer(i)` is called when layer i's K and V of this step are in the pool (on a GPU: enqueued).
        """
        ops, config, shape = self.ops, self.config, self.shape
        x, h, qkv, q, a, eps = self.x, self.h, self.qkv, self.q, self.a, config.rms_norm_eps
        layers = layers or range(len(self.layers))
        if layers.start == 0:
            ops.embed(self.embed, x, n)
        for index in layers:
            layer = self.layers[index]
            ops.norm_linear(x, layer.input_norm, eps, h, layer.qkv, qkv, n)
            ops.rope_write(qkv, q, layer.q_norm, layer.k_norm, self.table, index, shape, n)
            if on_layer is not None:
                on_layer(index)
            ops.attention(q, a, index, shape, n)
            ops.linear_add(layer.o, a, n, x, False)
            if layer.experts is None:
                ops.norm_gate_up(x, layer.post_norm, eps, h, layer.gate_up, self.gate_up, self.act, n)
                ops.linear_add(layer.down, self.act, n, x, index == layers[-1])
            else:
                ops.norm_linear(x, layer.post_norm, eps, h, layer.router, self.router_logits, n)
                top_k, normalize = config.experts_per_token, config.norm_topk_prob
                ops.experts(layer.experts, self.router_logits, h, x, top_k, normalize, n)

    def head(self, samples: int) -> Buffer:
        """Logits of the rows that sample, after `forward`."""
        self.ops.rms_norm_samples(self.x, self.norm, self.config.rms_norm_eps, self.last, samples)
        self.ops.linear(self.lm_head, self.last, samples, self.logits)
        return self.logits

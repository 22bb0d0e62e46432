"""A checkpoint's config.json and generation_config.json, as far as an engine needs them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano.errors import InvalidInput

ARCHITECTURES = ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM")


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: plain, linear or YaRN (arXiv 2309.00071)."""

    theta: float
    kind: str = "default"  # default | linear | yarn
    factor: float = 1.0
    original_max_position: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True)
class ModelConfig:
    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    max_position: int
    rope: Rope
    tied: bool
    dtype: str  # the checkpoint's: float32 | bfloat16 (float16 loads as bfloat16)
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False
    moe_layers: frozenset[int] = frozenset()
    quantized: bool = False  # fp8 weights in blocks of 128 x 128
    eos_token_ids: tuple[int, ...] = ()
    sampling_defaults: dict[str, float] = field(default_factory=dict)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidInput(f"{path}: expected an object, got {type(data).__name__}")
    return data


def _rope(raw: dict[str, Any], max_position: int) -> Rope:
    # transformers 5 writes one `rope_parameters`; earlier ones `rope_theta` beside `rope_scaling`.
    scaling = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = float(scaling.get("rope_theta", raw.get("rope_theta", 10000.0)))
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    if kind == "default":
        return Rope(theta)
    if kind not in ("linear", "yarn"):
        raise InvalidInput(f"rope_scaling: expected default, linear or yarn, got {kind!r}")
    factor = float(scaling["factor"])
    if kind == "linear":
        return Rope(theta, kind, factor)
    return Rope(
        theta,
        kind,
        factor,
        original_max_position=int(scaling.get("original_max_position_embeddings") or max_position),
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        attention_factor=scaling.get("attention_factor"),
        mscale=scaling.get("mscale"),
        mscale_all_dim=scaling.get("mscale_all_dim"),
        truncate=bool(scaling.get("truncate", True)),
    )


def _refuse_unsupported(raw: dict[str, Any], path: Path) -> str:
    architectures = raw.get("architectures") or []
    known = [name for name in architectures if name in ARCHITECTURES]
    if not known:
        raise InvalidInput(f"{path}: architectures: expected one of {', '.join(ARCHITECTURES)}, got {architectures}")
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "?")
        raise InvalidInput(f"{path}: quantization_config: quantised weights ({method}) are not supported")
    if raw.get("use_sliding_window") or "sliding_attention" in (raw.get("layer_types") or []):
        raise InvalidInput(f"{path}: use_sliding_window: sliding-window attention is not supported")
    if raw.get("auto_map"):
        raise InvalidInput(f"{path}: auto_map: remote code is not supported")
    if raw.get("attention_bias"):
        raise InvalidInput(f"{path}: attention_bias: biased projections are not supported")
    if raw.get("hidden_act", "silu") != "silu":
        raise InvalidInput(f"{path}: hidden_act: expected silu, got {raw['hidden_act']!r}")
    if (path.parent / "adapter_config.json").exists():
        raise InvalidInput(f"{path.parent}: adapter_config.json: LoRA adapters are not supported")
    return str(known[0])


def load_model_config(directory: Path) -> ModelConfig:
    """Reads a Hugging Face directory. Raises InvalidInput naming the field that is missing or not supported."""
    path = directory / "config.json"
    if not path.is_file():
        raise InvalidInput(f"{directory}: no config.json; expected a Hugging Face checkpoint directory")
    raw = _read(path)
    architecture = _refuse_unsupported(raw, path)
    moe = architecture == "Qwen3MoeForCausalLM"
    try:
        hidden, heads, layers = raw["hidden_size"], raw["num_attention_heads"], raw["num_hidden_layers"]
        max_position = raw.get("max_position_embeddings", 32768)
        experts = raw["num_experts"] if moe else 0
        moe_layers: frozenset[int] = frozenset()
        if experts:
            step, dense = raw.get("decoder_sparse_step", 1), set(raw.get("mlp_only_layers") or [])
            moe_layers = frozenset(i for i in range(layers) if i not in dense and (i + 1) % step == 0)
        dtype = str(raw.get("dtype") or raw.get("torch_dtype") or "float32")
        config = ModelConfig(
            architecture=architecture,
            vocab_size=raw["vocab_size"],
            hidden_size=hidden,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or hidden // heads,
            intermediate_size=raw["intermediate_size"],
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            max_position=max_position,
            rope=_rope(raw, max_position),
            tied=bool(raw.get("tie_word_embeddings", False)),
            dtype="float32" if dtype == "float32" else "bfloat16",
            num_experts=experts,
            experts_per_token=raw["num_experts_per_tok"] if moe else 0,
            moe_intermediate_size=raw["moe_intermediate_size"] if moe else 0,
            norm_topk_prob=bool(raw.get("norm_topk_prob", False)) if moe else False,
            moe_layers=moe_layers,
            **_generation(directory, raw),
        )
    except KeyError as error:
        raise InvalidInput(f"{path}: missing field {error.args[0]!r}") from None
    if config.num_heads % config.num_kv_heads:
        raise InvalidInput(f"{path}: num_attention_heads {heads} is no multiple of kv heads {config.num_kv_heads}")
    if config.head_dim % 2:
        raise InvalidInput(f"{path}: head_dim: expected an even number, got {config.head_dim}")
    return config


def _generation(directory: Path, raw: dict[str, Any]) -> dict[str, Any]:
    path = directory / "generation_config.json"
    generation = _read(path) if path.is_file() else {}
    eos = generation.get("eos_token_id", raw.get("eos_token_id"))
    ids = tuple(eos) if isinstance(eos, list) else (() if eos is None else (int(eos),))
    defaults: dict[str, float] = {}
    if generation.get("do_sample", True):
        names = ("temperature", "top_p", "top_k")
        defaults = {name: float(generation[name]) for name in names if generation.get(name) is not None}
    elif generation:
        defaults = {"temperature": 0.0}
    return {"eos_token_ids": ids, "sampling_defaults": defaults}

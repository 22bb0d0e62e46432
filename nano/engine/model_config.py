"""A checkpoint's config.json and generation_config.json, as far as an engine needs them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano.errors import InvalidInput

ARCHITECTURES = ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
FP8_BLOCK = 128  # rows and columns of a weight that share a scale
FP8_CAPABILITY = (9, 0)  # the least compute capability whose matrix units take e4m3 blocks


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
class Fp8:
    """Weights in fp8 e4m3, one scale for each 128 x 128 block; activations are quantised by groups of 128 on the way.

    The layout of the public Qwen3 FP8 checkpoints: beside a projection's `weight` stands `weight_scale_inv`, by which
    the stored values are multiplied.
    """

    unconverted: tuple[str, ...] = ()  # modules left as they were, by name or by a parent's or the last parts' name

    def converts(self, weight: str) -> bool:
        """Whether the checkpoint holds this weight (`model.layers.0.mlp.up_proj.weight`) in fp8."""
        module, _, kind = weight.rpartition(".")
        if kind != "weight" or not module.endswith("_proj"):
            return False
        dotted = f".{module}."
        return not any(f".{name.strip('.')}." in dotted for name in self.unconverted)

    def scales(self, weight: str, shape: tuple[int, int]) -> tuple[str, tuple[int, int]]:
        """The name and shape of the scales that belong to an fp8 weight of `shape`."""
        rows, columns = shape
        return f"{weight}_scale_inv", (-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK))


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
    eos_token_ids: tuple[int, ...] = ()
    sampling_defaults: dict[str, float] = field(default_factory=dict)
    fp8: Fp8 | None = None


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


def _fp8(raw: dict[str, Any], path: Path) -> Fp8 | None:
    quantization = raw.get("quantization_config")
    if not quantization:
        return None
    wanted = {
        "quant_method": "fp8",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
    }
    got = {"fmt": "e4m3"} | quantization
    for key, value in wanted.items():
        if got.get(key) != value:
            raise InvalidInput(
                f"{path}: quantization_config: {key}: expected {value!r} (fp8 in blocks of 128 x 128, activations "
                f"quantised as they come), got {got.get(key)!r}"
            )
    return Fp8(tuple(quantization.get("modules_to_not_convert") or ()))


def require_fp8_device(device: str, capability: tuple[int, int] | None) -> None:
    """Raises InvalidInput unless the device has fp8 matrix units; `capability` is a CUDA device's, None for others."""
    if capability is None or capability < FP8_CAPABILITY:
        what = "which is none" if capability is None else f"which has {capability[0]}.{capability[1]}"
        raise InvalidInput(
            f"device: fp8 weights need a CUDA device of compute capability {FP8_CAPABILITY[0]}.{FP8_CAPABILITY[1]} or "
            f"more, got {device}, {what}; use the model's bf16 checkpoint"
        )


def _refuse_unsupported(raw: dict[str, Any], path: Path) -> str:
    architectures = raw.get("architectures") or []
    known = [name for name in architectures if name in ARCHITECTURES]
    if not known:
        raise InvalidInput(f"{path}: architectures: expected one of {', '.join(ARCHITECTURES)}, got {architectures}")
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
            fp8=_fp8(raw, path),
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

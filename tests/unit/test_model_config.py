"""Configs are read as transformers reads them, and what is not supported is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nano.demo.random_checkpoint import make_checkpoint
from nano.engine.model_config import Rope, load_model_config, require_fp8_device
from nano.engine.rope import inverse_frequencies
from nano.errors import InvalidInput

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=64, vocab=320)
    return tmp_path


def edit(directory: Path, file: str = "config.json", **fields: Any) -> None:
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_fields_are_those_of_the_checkpoint(directory: Path) -> None:
    config = load_model_config(directory)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 16)
    assert config.eos_token_ids
    assert config.rope == Rope(1000000.0)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "architectures"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quant_method.*'gptq'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "weight_block_size.*None"),
        ({"quantization_config": FP8 | {"weight_block_size": [64, 64]}}, "weight_block_size.*64"),
        ({"quantization_config": FP8 | {"activation_scheme": "static"}}, "activation_scheme.*'static'"),
        ({"quantization_config": FP8 | {"fmt": "e5m2"}}, "fmt.*'e5m2'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "rope_scaling"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_key_value_heads": 3}, "num_attention_heads"),
    ],
)
def test_unsupported_is_refused_by_name(directory: Path, fields: dict[str, Any], named: str) -> None:
    edit(directory, **fields)
    with pytest.raises(InvalidInput, match=named):
        load_model_config(directory)


def test_fp8_blocks_name_their_weights_and_scales(directory: Path) -> None:
    kept = ["lm_head", "model.layers.0.mlp.gate", "model.layers.1.self_attn"]
    edit(directory, quantization_config=FP8 | {"modules_to_not_convert": kept})
    fp8 = load_model_config(directory).fp8
    assert fp8 is not None
    converted = {
        "model.layers.0.mlp.gate_proj.weight": True,
        "model.layers.0.self_attn.q_proj.weight": True,
        "model.layers.0.mlp.experts.7.down_proj.weight": True,
        "model.layers.10.self_attn.q_proj.weight": True,
        "model.layers.1.self_attn.q_proj.weight": False,
        "model.layers.0.mlp.gate.weight": False,
        "model.layers.1.mlp.gate.weight": False,
        "model.layers.0.input_layernorm.weight": False,
        "model.embed_tokens.weight": False,
        "lm_head.weight": False,
    }
    assert {name: fp8.converts(name) for name in converted} == converted
    name = "model.layers.0.mlp.down_proj.weight"
    assert fp8.scales(name, (4096, 12300)) == (f"{name}_scale_inv", (32, 97))


@pytest.mark.parametrize(("device", "capability"), [("cpu", None), ("cuda:0", (8, 9))])
def test_fp8_is_refused_where_there_are_no_units_for_it(device: str, capability: tuple[int, int] | None) -> None:
    with pytest.raises(InvalidInput, match=f"fp8.*9.0.*{device}"):
        require_fp8_device(device, capability)
    require_fp8_device("cuda:0", (9, 0))


def test_a_missing_field_is_named(directory: Path) -> None:
    path = directory / "config.json"
    raw = json.loads(path.read_text())
    del raw["hidden_size"]
    path.write_text(json.dumps(raw))
    with pytest.raises(InvalidInput, match="hidden_size"):
        load_model_config(directory)


def test_lora_is_refused(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidInput, match="LoRA"):
        load_model_config(directory)


def test_generation_config_gives_eos_list_and_defaults(directory: Path) -> None:
    fields = {"eos_token_id": [7, 9], "do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
    edit(directory, "generation_config.json", **fields)
    config = load_model_config(directory)
    assert config.eos_token_ids == (7, 9)
    assert config.sampling_defaults == {"temperature": 0.6, "top_p": 0.95, "top_k": 20.0}


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "beta_fast": 16, "beta_slow": 2},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 0.9},
    ],
)
def test_rope_equals_transformers(directory: Path, scaling: dict[str, Any]) -> None:
    from transformers import AutoConfig
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    edit(directory, rope_scaling=scaling)
    frequencies, factor = inverse_frequencies(load_model_config(directory).rope, 16)
    theirs = Qwen3RotaryEmbedding(AutoConfig.from_pretrained(directory))
    np.testing.assert_allclose(frequencies, theirs.inv_freq.double().numpy(), rtol=1e-6)
    assert factor == pytest.approx(theirs.attention_scaling, rel=1e-6)

"""Hugging Face checkpoints of random weights in any Qwen3 or Qwen3-MoE shape, for tests and benchmarks."""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nano.demo.tokenizer import ADDED, EOS, write_tokenizer
from nano.errors import InvalidInput

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
SAFETENSORS_NAME = {"float32": "F32", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Shape:
    """A model's shape; `experts` = 0 is the dense Qwen3, above it is Qwen3-MoE."""

    hidden: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    intermediate: int = 768
    vocab: int = 512
    experts: int = 0
    top_k: int = 2
    moe_intermediate: int = 128
    tied: bool = True
    max_position: int = 4096

    def check(self) -> None:
        """Raises InvalidInput where the fields cannot make a model."""
        for name, value in asdict(self).items():
            if name not in ("tied", "experts") and value < 1:
                raise InvalidInput(f"make_checkpoint: {name} must be at least 1, got {value}")
        if self.heads % self.kv_heads:
            raise InvalidInput(f"make_checkpoint: heads {self.heads} is no multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise InvalidInput(f"make_checkpoint: head_dim must be even for rotary positions, got {self.head_dim}")
        if self.vocab < 256 + len(ADDED):
            raise InvalidInput(f"make_checkpoint: vocab must hold {256 + len(ADDED)} tokens, got {self.vocab}")
        if self.experts and self.top_k > self.experts:
            raise InvalidInput(f"make_checkpoint: top_k {self.top_k} is above experts {self.experts}")


PRESETS = {
    "tiny": Shape(),
    "small": Shape(hidden=768, layers=12, heads=12, kv_heads=4, head_dim=64, intermediate=2048, vocab=16384),
    "0.6B": Shape(
        hidden=1024,
        layers=28,
        heads=16,
        kv_heads=8,
        head_dim=128,
        intermediate=3072,
        vocab=151936,
        max_position=40960,
    ),
    "8B": Shape(
        hidden=4096,
        layers=36,
        heads=32,
        kv_heads=8,
        head_dim=128,
        intermediate=12288,
        vocab=151936,
        tied=False,
        max_position=40960,
    ),
    "30B-A3B": Shape(
        hidden=2048,
        layers=48,
        heads=32,
        kv_heads=4,
        head_dim=128,
        intermediate=6144,
        vocab=151936,
        experts=128,
        top_k=8,
        moe_intermediate=768,
        tied=False,
        max_position=40960,
    ),
}


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and [out, in] (or [width] for a norm) of every weight, in file order."""
    query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (shape.hidden,)
        yield f"{at}.self_attn.q_proj.weight", (query, shape.hidden)
        yield f"{at}.self_attn.k_proj.weight", (kv, shape.hidden)
        yield f"{at}.self_attn.v_proj.weight", (kv, shape.hidden)
        yield f"{at}.self_attn.o_proj.weight", (shape.hidden, query)
        yield f"{at}.self_attn.q_norm.weight", (shape.head_dim,)
        yield f"{at}.self_attn.k_norm.weight", (shape.head_dim,)
        yield f"{at}.post_attention_layernorm.weight", (shape.hidden,)
        if shape.experts:
            yield f"{at}.mlp.gate.weight", (shape.experts, shape.hidden)
        width = shape.moe_intermediate if shape.experts else shape.intermediate
        for mlp in [f"{at}.mlp.experts.{i}" for i in range(shape.experts)] or [f"{at}.mlp"]:
            yield f"{mlp}.gate_proj.weight", (width, shape.hidden)
            yield f"{mlp}.up_proj.weight", (width, shape.hidden)
            yield f"{mlp}.down_proj.weight", (shape.hidden, width)
    yield "model.norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, shape.hidden)


def draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Random weights. Greedy output must depend on the whole context, so each layer adds to the residual stream
    far more than the token's embedding does: with tied embeddings the model would else repeat its last token."""
    values = rng.random(shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(2 * 3**0.5)  # uniform of mean 0 and standard deviation 1: faster than a normal draw
    if len(shape) == 1:
        values *= np.float32(0.2)
        values += np.float32(1.5 if name.endswith(("q_norm.weight", "k_norm.weight")) else 1.0)
    elif name in ("model.embed_tokens.weight", "lm_head.weight"):
        values *= np.float32(0.1)
    else:
        values *= np.float32(2.0 / shape[1] ** 0.5)
    return values


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper halves of the floats, rounded to nearest (ties away from zero)."""
    bits = values.view(np.uint32)
    bits += np.uint32(0x8000)
    upper: npt.NDArray[np.uint16] = (bits >> np.uint32(16)).astype(np.uint16)
    return upper


def write_safetensors(
    file: Path, entries: list[tuple[str, tuple[int, ...]]], dtype: str, rng: np.random.Generator
) -> int:
    """Writes one file tensor by tensor (https://github.com/huggingface/safetensors#format); returns its data bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in entries:
        size = int(np.prod(shape)) * ITEM_BYTES[dtype]
        header[name] = {
            "dtype": SAFETENSORS_NAME[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for name, shape in entries:
            values = draw(name, shape, rng)
            out.write((to_bfloat16(values) if dtype == "bfloat16" else values).data)
    return offset


def merges(count: int) -> list[tuple[str, str]]:
    """`count` merges of lower-case letters: pairs, then triples, then quadruples."""
    letters = string.ascii_lowercase
    every = itertools.chain.from_iterable(
        (("".join(left), right) for *left, right in itertools.product(letters, repeat=length)) for length in (2, 3, 4)
    )
    return list(itertools.islice(every, count))


def config(shape: Shape, dtype: str, added: dict[str, int], rope_scaling: dict[str, Any] | None) -> dict[str, Any]:
    """config.json in the form of Qwen3's published checkpoints."""
    values = {
        "architectures": ["Qwen3MoeForCausalLM" if shape.experts else "Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": added["<|endoftext|>"],
        "eos_token_id": added["<|im_end|>"],
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_position,
        "max_window_layers": shape.layers,
        "model_type": "qwen3_moe" if shape.experts else "qwen3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": rope_scaling,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": dtype,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab,
    }
    if shape.experts:
        values |= {
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": shape.moe_intermediate,
            "norm_topk_prob": True,
            "num_experts": shape.experts,
            "num_experts_per_tok": shape.top_k,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
        }
    return values


def make_config(path: str | Path, *, preset: str, dtype: str = "bfloat16", fp8: bool = False) -> Path:
    """Writes only config.json, for an engine with `load_format="dummy"`; fp8 as the published Qwen3 FP8 checkpoints."""
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    shape = PRESETS[preset]
    last = {"<|endoftext|>": shape.vocab - 2, "<|im_end|>": shape.vocab - 1}
    values = config(shape, dtype, last, None)
    if fp8:
        values["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
        }
    write_json(directory / "config.json", values)
    return directory


def split(entries: list[tuple[str, tuple[int, ...]]], shards: int) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Cuts the tensors into `shards` runs of about equal size, none empty."""
    total = sum(int(np.prod(shape)) for _, shape in entries)
    runs: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    done = 0
    for i, (name, shape) in enumerate(entries):
        missing = shards - len(runs)
        if runs[-1] and missing and (done * shards >= total * len(runs) or len(entries) - i == missing):
            runs.append([])
        runs[-1].append((name, shape))
        done += int(np.prod(shape))
    return runs


def make_checkpoint(
    path: str | Path,
    *,
    preset: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
    shards: int = 1,
    rope_scaling: dict[str, Any] | None = None,
    **shape: Any,
) -> Path:
    """Writes a Qwen3ForCausalLM or Qwen3MoeForCausalLM directory of random weights and returns its path.

    `shape` takes the fields of `Shape`, over those of `preset` (a key of PRESETS) where one is named; `dtype` is
    float32 or bfloat16. The last 1/128 of the vocabulary has no token, as in the published checkpoints, whose
    vocabulary is padded. Equal arguments give equal bytes. Raises InvalidInput for what cannot make a model.
    """
    if preset is not None and preset not in PRESETS:
        raise InvalidInput(f"make_checkpoint: preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    if dtype not in ITEM_BYTES:
        raise InvalidInput(f"make_checkpoint: dtype must be float32 or bfloat16, got {dtype!r}")
    full = Shape(**(asdict(PRESETS[preset]) if preset else {}) | shape)
    full.check()
    entries = list(tensors(full))
    if not 1 <= shards <= len(entries):
        raise InvalidInput(f"make_checkpoint: shards must be 1 to {len(entries)}, got {shards}")

    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    spare = min(full.vocab // 128, full.vocab - 256 - len(ADDED))
    added = write_tokenizer(directory, merges(full.vocab - spare - 256 - len(ADDED)), full.max_position)
    stop = [added[token] for token in EOS]
    write_json(directory / "config.json", config(full, dtype, added, rope_scaling))
    write_json(
        directory / "generation_config.json",
        {"bos_token_id": added["<|endoftext|>"], "eos_token_id": stop, "pad_token_id": added["<|endoftext|>"]},
    )

    rng = np.random.default_rng(seed)
    if shards == 1:
        write_safetensors(directory / "model.safetensors", entries, dtype, rng)
        return directory
    weight_map: dict[str, str] = {}
    total = 0
    for i, run in enumerate(split(entries, shards), start=1):
        file = f"model-{i:05d}-of-{shards:05d}.safetensors"
        total += write_safetensors(directory / file, run, dtype, rng)
        weight_map |= dict.fromkeys((name for name, _ in run), file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / "model.safetensors.index.json", index)
    return directory


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

"""An fp8 KV cache changes logits as rounding K and V does, and no more: on a CUDA device, or interpreted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernel_device import DEVICE
from safetensors.torch import load_file, save_file

from nano import LLM, SamplingParams
from nano.demo.random_checkpoint import make_checkpoint
from nano.engine.config import EngineConfig
from nano.engine.engine import Engine
from nano.errors import InvalidInput
from nano.wire import Sampling

transformers = pytest.importorskip("transformers")

# On a device dividing by zero is silent; interpreted, NumPy warns.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

LAYERS, FP8 = 2, torch.float8_e4m3fn
PROMPTS = [np.random.default_rng(n).integers(0, 256, n).astype(np.int32) for n in (1, 7, 40)]
TOKEN = 7  # what every prompt goes on with
GPU = "cpu:0" if DEVICE.type == "cpu" else "cuda"  # "cpu:0" is the GPU's backend, interpreted
OPTIONS = {"max_model_len": 128, "kvcache_bytes": 1 << 20, "kvcache_block_size": 16, "max_num_batched_tokens": 32}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_checkpoint(
        tmp_path, hidden=64, layers=LAYERS, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=512, tied=False,
        dtype="float32", max_position=512,
    )  # fmt: skip
    # Heads' norms that make scores large enough for attention to look somewhere.
    weights = load_file(tmp_path / "model.safetensors")
    for name, values in weights.items():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            values.fill_(2.0)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def add_scales(path: Path, scales: dict[str, float | torch.Tensor]) -> None:
    more = {name: torch.as_tensor(value) for name, value in scales.items()}
    save_file(load_file(path / "model.safetensors") | more, path / "model.safetensors", {"format": "pt"})


def logits(path: Path, kv_cache_dtype: str) -> list[torch.Tensor]:
    """Of all prompts, whatever steps they take, then of the step that decodes them, fed TOKEN; by prompt."""
    engine = Engine(
        EngineConfig(
            str(path), device=GPU, dtype="float32", kv_cache_dtype=kv_cache_dtype, max_num_seqs=4, threads=1,  # type: ignore[arg-type]
            **OPTIONS,  # type: ignore[arg-type]
        )
    )  # fmt: skip
    for id, prompt in enumerate(PROMPTS, start=1):
        engine.add(id, prompt, Sampling(max_tokens=2, seed=1, temperature=0.0, ignore_eos=True))
    out: dict[int, list[torch.Tensor]] = {}
    while (batch := engine.scheduler.schedule()) is not None:
        engine.runner.launch(batch, None)()
        rows = engine.model.logits.tensor[: batch.num_samples].cpu().clone()
        for row, seq in zip(rows, batch.sample_seqs.tolist(), strict=True):
            out.setdefault(int(batch.ids[seq]), []).append(row)
        engine.scheduler.commit(np.full(batch.num_samples, TOKEN, np.int32))
    engine.close()
    return [row for id in sorted(out) for row in out[id]]


def to_fp8(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-448, 448).to(FP8).float()


def expected(path: Path, scales: list[tuple[float, float]] | None) -> list[torch.Tensor]:
    """transformers' logits in fp32, with K and V as fp8 holds them unless `scales` is None."""

    def attend(
        module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **_: Any
    ) -> tuple[torch.Tensor, None]:
        if scales is not None:
            k, v = (to_fp8(x / scale) * scale for x, scale in zip((k, v), scales[module.layer_idx], strict=True))
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2), None

    transformers.AttentionInterface.register("rounded", attend)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="rounded"
    ).eval()
    inputs = [torch.tensor(ids.tolist())[None] for p in PROMPTS for ids in (p, np.append(p, TOKEN))]
    with torch.no_grad():
        return [model(ids).logits[0, -1] for ids in inputs]


def errors(got: list[torch.Tensor], want: list[torch.Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(got, want, strict=True)]


SCALED = {
    "model.layers.0.self_attn.k_proj.k_scale": 0.02, "model.layers.0.self_attn.v_proj.v_scale": torch.tensor([0.25]),
    "model.layers.1.self_attn.k_scale": 0.5, "model.layers.1.self_attn.v_scale": 1.5,
}  # fmt: skip


@pytest.mark.parametrize("scales", [{}, SCALED], ids=["no-scales", "scales"])
def test_logits_are_those_of_rounded_keys_and_values(scales: dict[str, Any], checkpoint: Path) -> None:
    exact = expected(checkpoint, None)
    factors = [float(value) for value in scales.values()] or [1.0] * 4
    rounded = expected(checkpoint, [(factors[0], factors[1]), (factors[2], factors[3])])
    add_scales(checkpoint, scales)
    assert max(errors(logits(checkpoint, "auto"), exact)) < 1e-4  # the scales are no matter of other caches
    changes = errors(rounded, exact)
    assert max(changes) > 5e-3
    # The odd value that is halfway between two of fp8 falls to the other side.
    for error, change in zip(errors(logits(checkpoint, "fp8"), rounded), changes, strict=True):
        print(f"{error:.2g} of {change:.2g}")
        assert error < 0.1 * change + 1e-4


@pytest.mark.parametrize("scales", [{}, SCALED], ids=["no-scales", "scales"])
def test_a_checked_engines_twin_rounds_as_well(scales: dict[str, Any], checkpoint: Path) -> None:
    add_scales(checkpoint, scales)
    params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    with LLM(
        str(checkpoint), device=GPU, dtype="float32", kv_cache_dtype="fp8", check=True, skip_tokenizer_init=True,
        threads=1, max_num_seqs=4, **OPTIONS,  # type: ignore[arg-type]
    ) as llm:  # fmt: skip
        outputs = llm.generate([prompt.tolist() for prompt in PROMPTS], params)
    assert [len(one.token_ids) for one in outputs] == [3, 3, 3]


def test_blocks_are_half_of_those_in_bf16(checkpoint: Path) -> None:
    sizes = {}
    for kv_cache_dtype in ("auto", "fp8"):
        engine = Engine(
            EngineConfig(str(checkpoint), device=GPU, dtype="bfloat16", kv_cache_dtype=kv_cache_dtype, **OPTIONS)  # type: ignore[arg-type]
        )
        sizes[kv_cache_dtype] = engine.num_blocks, engine.layout.block_bytes, engine.memory.tensor.numel()
        engine.close()
    (blocks, nbytes, room), (more, fewer, same) = sizes.values()
    assert (more, fewer, same) == (2 * blocks, nbytes // 2, room)


def test_cpu_engines_refuse_an_fp8_cache_by_name(checkpoint: Path) -> None:
    with pytest.raises(InvalidInput, match="kv_cache_dtype: fp8 needs a CUDA device"):
        Engine(EngineConfig(str(checkpoint), device="cpu", kv_cache_dtype="fp8"))
    with pytest.raises(InvalidInput, match="kv_cache_dtype: expected auto or fp8, got 'int8'"):
        EngineConfig(str(checkpoint), kv_cache_dtype="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.layers.0.self_attn.k_proj.k_scale", -1.0, "expected one positive number, got .* -1.0"),
        ("model.layers.0.self_attn.k_proj.k_scale", torch.ones(2), r"expected one positive number, got \(2,\)"),
        ("model.layers.0.self_attn.v_proj.k_scale", 1.0, "not a KV cache scale of this model's 2 layers"),
        ("model.layers.2.self_attn.v_scale", 1.0, "not a KV cache scale of this model's 2 layers"),
        ("model.layers.1.self_attn.v_scale", 2.0, "k_scale of layer 0 is missing"),
    ],
)
def test_scales_that_make_no_sense_are_refused(name: str, value: Any, message: str, checkpoint: Path) -> None:
    add_scales(checkpoint, {name: value})
    with pytest.raises(InvalidInput, match=f"(?s){name}: {message}" if "missing" not in message else message):
        logits(checkpoint, "fp8")


def test_layouts_of_other_dtypes_or_scales_differ_and_name_both(checkpoint: Path) -> None:
    options = {"device": GPU, "dtype": "float32", "threads": 1, **OPTIONS}
    layouts = [Engine(EngineConfig(str(checkpoint), **options)).layout]  # type: ignore[arg-type]
    layouts += [Engine(EngineConfig(str(checkpoint), kv_cache_dtype="fp8", **options)).layout]  # type: ignore[arg-type]
    add_scales(checkpoint, SCALED)
    layouts += [Engine(EngineConfig(str(checkpoint), kv_cache_dtype="fp8", **options)).layout]  # type: ignore[arg-type]
    assert len(set(map(str, layouts))) == 3
    assert str(layouts[0]).startswith("float32, 2 layers")
    assert str(layouts[1]).startswith("float8_e4m3fn, 2 layers")
    assert str(layouts[2]).startswith("float8_e4m3fn with scales ")

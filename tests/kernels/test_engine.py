"""The GPU's backend gives the CPU engine's greedy tokens: on a CUDA device, or interpreted on the CPU."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from kernel_device import DEVICE
from safetensors.torch import load_file, save_file

from nano import LLM, SamplingParams
from nano.demo.random_checkpoint import make_checkpoint
from nano.errors import Internal

# On a device dividing by zero is silent; interpreted, NumPy warns.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

PROMPTS = [np.random.default_rng(n).integers(0, 256, n).tolist() for n in (1, 7, 20, 50)]
DEVICES = ("cpu", "cpu:0" if DEVICE.type == "cpu" else "cuda")  # "cpu:0" is the GPU's backend, interpreted


@pytest.mark.parametrize(("experts", "temperature"), [(0, 0.0), (4, 1.0)])
def test_both_backends_give_the_same_tokens(experts: int, temperature: float, tmp_path: Path) -> None:
    make_checkpoint(
        tmp_path, hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=512, tied=False,
        experts=experts, moe_intermediate=32, dtype="float32", max_position=512,
    )  # fmt: skip
    params = SamplingParams(temperature=temperature, seed=7, max_tokens=8, ignore_eos=True)
    options = {"kvcache_block_size": 16, "kvcache_bytes": 4 << 20, "max_num_batched_tokens": 48, "max_num_seqs": 8}
    outputs = []
    for device in DEVICES:
        with LLM(
            str(tmp_path), device=device, dtype="float32", skip_tokenizer_init=True, threads=1, max_model_len=128,
            **options,
        ) as llm:  # fmt: skip
            outputs.append([one.token_ids for one in llm.generate(PROMPTS, params)])
    assert outputs[0] == outputs[1]


def test_both_backends_obey_penalties_bias_and_logprobs(tmp_path: Path) -> None:
    make_checkpoint(
        tmp_path, hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=512, tied=False,
        dtype="float32", max_position=512,
    )  # fmt: skip
    some = {"max_tokens": 6, "ignore_eos": True, "seed": 3}
    params = [
        SamplingParams(temperature=0.0, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.5, **some),
        SamplingParams(temperature=0.0, logit_bias={5: 100.0, 7: -100.0}, logprobs=3, **some),
        SamplingParams(temperature=1.0, min_p=0.1, presence_penalty=2.0, frequency_penalty=1.0, logprobs=0, **some),
        SamplingParams(temperature=0.0, **some),
    ]
    options = {"kvcache_block_size": 16, "kvcache_bytes": 4 << 20, "max_num_batched_tokens": 48, "max_num_seqs": 8}
    outputs = []
    for device in DEVICES:
        with LLM(
            str(tmp_path), device=device, dtype="float32", skip_tokenizer_init=True, threads=1, max_model_len=128,
            **options,
        ) as llm:  # fmt: skip
            outputs.append(llm.generate(PROMPTS, params))
    for one, other in zip(*outputs, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.logprobs is None) == (other.logprobs is None)
        for a, b in zip(one.logprobs or (), other.logprobs or (), strict=True):
            assert a == pytest.approx(b, abs=1e-4)
    assert set(outputs[0][1].token_ids) == {5}


def test_weights_that_make_nan_end_the_step_with_an_error(tmp_path: Path) -> None:
    make_checkpoint(
        tmp_path, hidden=64, layers=1, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=512, tied=False,
        dtype="float32", max_position=512,
    )  # fmt: skip
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"] * math.nan}, tmp_path / "model.safetensors")
    for device in DEVICES:
        with (
            LLM(
                str(tmp_path), device=device, dtype="float32", skip_tokenizer_init=True, threads=1, max_model_len=128,
                kvcache_bytes=4 << 20, kvcache_block_size=16, max_num_batched_tokens=48, max_num_seqs=8,
            ) as llm,
            pytest.raises(Internal, match="NaN"),
        ):  # fmt: skip
            llm.generate(PROMPTS[:2], SamplingParams(temperature=0.0, max_tokens=2))


def test_a_checked_engine_compares_every_step_with_its_cpu_twin(tmp_path: Path) -> None:
    make_checkpoint(
        tmp_path, hidden=64, layers=1, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=512, tied=False,
        dtype="float32", max_position=512,
    )  # fmt: skip
    params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    options = {"kvcache_bytes": 1 << 20, "kvcache_block_size": 16, "max_num_batched_tokens": 32, "max_num_seqs": 4}
    with LLM(
        str(tmp_path), device=DEVICES[1], dtype="float32", skip_tokenizer_init=True, threads=1, max_model_len=128,
        check=True, **options,
    ) as llm:  # fmt: skip
        llm.generate(PROMPTS[:2], params)
        llm._backend._engine.model.layers[0].qkv.values[0].add_(1.0)  # type: ignore[union-attr]
        with pytest.raises(Internal, match=r"check: step \d+, request \d+, \d+ tokens: logits differ"):
            llm.generate([list(range(40))], params)

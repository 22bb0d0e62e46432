"""The torch operations, run on torch's own CPU device, give the native kernels' greedy tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nano import LLM, SamplingParams
from nano.demo.random_checkpoint import make_checkpoint

PROMPTS = [np.random.default_rng(n).integers(0, 256, n).tolist() for n in (1, 7, 64, 130)]
TORCH_CPU = "cpu:0"  # any device but plain "cpu" runs on torch


@pytest.mark.parametrize("experts", [0, 4])
def test_torch_and_native_operations_give_the_same_tokens(experts: int, tmp_path: Path) -> None:
    make_checkpoint(
        tmp_path, hidden=64, layers=3, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=512, tied=False,
        experts=experts, moe_intermediate=32, dtype="float32", max_position=512,
    )  # fmt: skip
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    outputs = []
    for device in ("cpu", TORCH_CPU):
        options = {"kvcache_block_size": 16, "kvcache_bytes": 16 << 20, "max_num_batched_tokens": 48, "threads": 1}
        with LLM(str(tmp_path), device=device, dtype="float32", skip_tokenizer_init=True, **options) as llm:
            outputs.append([one.token_ids for one in llm.generate(PROMPTS, params)])
    assert outputs[0] == outputs[1]

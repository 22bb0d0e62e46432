"""A tiny fp32 model on a CUDA device, and the tokens that its engines make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nano import LLM, SamplingParams
from nano.demo.random_checkpoint import make_checkpoint


def tiny_checkpoint(path: Path) -> Path:
    make_checkpoint(
        path, layers=4, vocab=512, tied=False, dtype="float32", max_position=1024, hidden=128, heads=4, kv_heads=2,
        head_dim=64, intermediate=384,
    )  # fmt: skip
    return path


def prompts(*lengths: int) -> list[list[int]]:
    return [np.random.default_rng(n).integers(0, 256, n).tolist() for n in lengths]


def greedy(path: Path, prompts: list[list[int]], n: int = 32, **options: Any) -> list[list[int]]:
    """The prompts' next n tokens, which come again when the engines' prefix caches hold the prompts."""
    params = SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True)
    with LLM(str(path), skip_tokenizer_init=True, device="cuda", kvcache_bytes=64 << 20, **options) as llm:
        first = [one.token_ids for one in llm.generate(prompts, params)]
        assert [one.token_ids for one in llm.generate(prompts, params)] == first
        return first

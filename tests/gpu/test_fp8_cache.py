"""fp8 KV caches on a CUDA device: graphs, disaggregation, and pools of different dtypes (logits: tests/kernels)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nano import LLM, SamplingParams  # noqa: E402
from nano.demo.random_checkpoint import make_checkpoint  # noqa: E402
from nano.errors import NanoError  # noqa: E402

pytestmark = pytest.mark.gpu

PROMPTS = [np.random.default_rng(n).integers(0, 256, n).tolist() for n in (1, 15, 16, 64, 130, 300, 700)]
OPTIONS = {
    "kvcache_bytes": 64 << 20, "kvcache_block_size": 64, "max_num_batched_tokens": 512, "device": "cuda",
    "local_prefill_tokens": 0, "kv_cache_dtype": "fp8",
}  # fmt: skip


@pytest.fixture(autouse=True)
def fp8_conversion() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 KV caches need compute capability 8.9")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense")
    make_checkpoint(
        path, layers=4, vocab=512, tied=False, dtype="float32", max_position=1024, hidden=128, heads=4, kv_heads=2,
        head_dim=64, intermediate=384,
    )  # fmt: skip
    return path


def greedy(path: Path, prompts: list[list[int]] = PROMPTS, n: int = 32, **options: Any) -> list[list[int]]:
    params = SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True)
    with LLM(str(path), skip_tokenizer_init=True, **(OPTIONS | options)) as llm:
        first = [one.token_ids for one in llm.generate(prompts, params)]
        # Again, with what the prefix caches hold now.
        assert [one.token_ids for one in llm.generate(prompts, params)] == first
        return first


def test_tokens_do_not_depend_on_disaggregation_or_graphs(checkpoint: Path) -> None:
    expected = greedy(checkpoint)
    assert greedy(checkpoint, cuda_graphs=False) == expected
    assert greedy(checkpoint, disaggregated=True) == expected


def test_bf16_first_tokens_agree_with_those_of_a_bf16_cache(checkpoint: Path) -> None:
    prompts = [np.random.default_rng(seed).integers(0, 256, 20 + seed).tolist() for seed in range(64)]
    got, expected = (
        greedy(checkpoint, prompts, 1, dtype="bfloat16", kv_cache_dtype=dtype) for dtype in ("fp8", "auto")
    )
    agree = sum(a == b for a, b in zip(got, expected, strict=True))
    print(f"fp8 and bf16 KV caches: {agree} of {len(prompts)} first tokens agree")
    assert agree >= 2 / 3 * len(prompts)


def test_engines_of_different_cache_dtypes_are_refused_by_both_names(checkpoint: Path) -> None:
    with (
        pytest.raises(NanoError, match=r"float32, 4 layers.*; the decode engine's float8_e4m3fn, 4 layers"),
        LLM(
            str(checkpoint), skip_tokenizer_init=True, disaggregated=True, prefill={"kv_cache_dtype": "auto"}, **OPTIONS
        ) as llm,
    ):  # fmt: skip
        llm.generate(PROMPTS[-1:], SamplingParams(temperature=0.0, max_tokens=2))

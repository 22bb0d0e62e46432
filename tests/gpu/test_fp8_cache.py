"""fp8 KV caches on a CUDA device: graphs, disaggregation, and pools of different dtypes (logits: tests/kernels)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tiny_engine import greedy, prompts, tiny_checkpoint  # noqa: E402

from nano.errors import NanoError  # noqa: E402

pytestmark = pytest.mark.gpu

PROMPTS = prompts(1, 15, 16, 64, 130, 300, 700)
OPTIONS = {"kvcache_block_size": 64, "max_num_batched_tokens": 512, "local_prefill_tokens": 0}


@pytest.fixture(autouse=True)
def fp8_conversion() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 KV caches need compute capability 8.9")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("dense"))


def test_tokens_do_not_depend_on_disaggregation_or_graphs(checkpoint: Path) -> None:
    fp8: dict[str, Any] = OPTIONS | {"kv_cache_dtype": "fp8"}
    expected = greedy(checkpoint, PROMPTS, **fp8)
    assert greedy(checkpoint, PROMPTS, cuda_graphs=False, **fp8) == expected
    assert greedy(checkpoint, PROMPTS, disaggregated=True, **fp8) == expected


def test_bf16_first_tokens_agree_with_those_of_a_bf16_cache(checkpoint: Path) -> None:
    many = prompts(*range(20, 84))
    got, expected = (
        greedy(checkpoint, many, 1, dtype="bfloat16", kv_cache_dtype=dtype, **OPTIONS) for dtype in ("fp8", "auto")
    )
    agree = sum(a == b for a, b in zip(got, expected, strict=True))
    print(f"fp8 and bf16 KV caches: {agree} of {len(many)} first tokens agree")
    assert agree >= 2 / 3 * len(many)


def test_engines_of_different_cache_dtypes_are_refused_by_both_names(checkpoint: Path) -> None:
    with pytest.raises(NanoError, match=r"float32, 4 layers.*; the decode engine's float8_e4m3fn, 4 layers"):
        greedy(
            checkpoint, PROMPTS[-1:], 2, disaggregated=True, prefill={"kv_cache_dtype": "auto"}, kv_cache_dtype="fp8",
            **OPTIONS,
        )  # fmt: skip

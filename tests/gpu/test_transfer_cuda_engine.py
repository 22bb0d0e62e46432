"""A prefill and a decode engine on one GPU, with their KV pools there, give the tokens of one engine that does both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nano import LLM, SamplingParams  # noqa: E402
from nano.demo.random_checkpoint import make_checkpoint  # noqa: E402

pytestmark = pytest.mark.gpu

PROMPTS = [np.random.default_rng(n).integers(0, 256, n).tolist() for n in (1, 15, 16, 64, 130, 300, 301, 700)]
OPTIONS = {
    "kvcache_bytes": 64 << 20, "kvcache_block_size": 16, "max_num_batched_tokens": 128, "device": "cuda",
    "local_prefill_tokens": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense")
    make_checkpoint(
        path, layers=4, vocab=512, tied=False, dtype="float32", max_position=1024, hidden=128, heads=4, kv_heads=2,
        head_dim=64, intermediate=384,
    )  # fmt: skip
    return path


def greedy(path: Path, **options: Any) -> list[list[int]]:
    params = SamplingParams(temperature=0.0, max_tokens=32, ignore_eos=True)
    with LLM(str(path), skip_tokenizer_init=True, **OPTIONS, **options) as llm:
        first = [one.token_ids for one in llm.generate(PROMPTS, params)]
        # Again, with what the prefix caches of both engines hold now.
        assert [one.token_ids for one in llm.generate(PROMPTS, params)] == first
        return first


@pytest.mark.parametrize("transports", [("cuda_ipc", "shm", "tcp"), ("tcp",)])
def test_disaggregated_tokens_are_those_of_one_engine(checkpoint: Path, transports: tuple[str, ...]) -> None:
    assert greedy(checkpoint, disaggregated=True, transports=transports) == greedy(checkpoint)

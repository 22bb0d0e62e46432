"""A prefill and a decode engine on one GPU, with their KV pools there, give the tokens of one engine that does both."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tiny_engine import greedy, prompts, tiny_checkpoint  # noqa: E402

pytestmark = pytest.mark.gpu

PROMPTS = prompts(1, 15, 16, 64, 130, 300, 301, 700)
OPTIONS = {"kvcache_block_size": 16, "max_num_batched_tokens": 128, "local_prefill_tokens": 0}


@pytest.mark.parametrize("transports", [("cuda_ipc", "shm", "tcp"), ("tcp",)])
def test_disaggregated_tokens_are_those_of_one_engine(tmp_path: Path, transports: tuple[str, ...]) -> None:
    path = tiny_checkpoint(tmp_path)
    pair = greedy(path, PROMPTS, disaggregated=True, transports=transports, **OPTIONS)
    assert pair == greedy(path, PROMPTS, **OPTIONS)

"""A request's whole way, prefill engine to decode engine, with its KV blocks going over RDMA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from reference import judge

from nano import wire
from nano._core.transfer import address_descriptor
from nano.engine.client import EngineClient, Row
from nano.engine.config import EngineConfig
from nano.engine.server import EngineServer
from nano.transfer import Endpoint


def config(path: Path, role: str) -> EngineConfig:
    return EngineConfig(
        str(path), role=role, name=f"{role}-0", dtype="float32", device="cpu", threads=1, kvcache_block_size=16,
        kvcache_bytes=32 << 20, max_num_batched_tokens=64, max_num_seqs=16, local_prefill_tokens=0,
        transports=("verbs",),
    )  # fmt: skip


def test_tokens_are_exact_when_kv_blocks_travel_by_rdma(tiny: Path) -> None:
    with (
        EngineServer(config(tiny, "prefill")) as prefill,
        EngineServer(config(tiny, "decode")) as decode,
        EngineClient(decode.address) as client,
    ):
        prompts = {key: np.random.default_rng(key).integers(0, 256, 20 + 40 * key).tolist() for key in range(4)}
        for key, prompt in prompts.items():
            sampling = wire.Sampling(max_tokens=8, seed=1, temperature=0.0, ignore_eos=True)
            client.generate(key, prompt, sampling, "prefill-0", prefill.address)
        rows: dict[int, list[Row]] = {}
        while not all(key in rows and rows[key][-1].finish for key in prompts):
            for row in client.poll(0.5):
                rows.setdefault(row.key, []).append(row)
        for key, prompt in prompts.items():
            assert [row.index for row in rows[key]] == list(range(8))
            judge(tiny, prompt, [row.token for row in rows[key]])
        assert decode.engine.scheduler.stats()["steps"] >= 7
        side = prefill._prefill
        assert side is not None
        assert [peer.transport for peer in side._peers.values()] == ["verbs"]


def test_engines_use_rdma_between_hosts_and_shared_memory_within_one_unless_told_otherwise() -> None:
    transports = EngineConfig("any").transports
    with Endpoint("decode", transports=transports) as decode, Endpoint("prefill", transports=transports) as prefill:
        # Known by its TCP port alone, it may be on another host.
        far = prefill.connect(address_descriptor("127.0.0.1", decode.port), timeout=20)
        assert far.transport == "verbs", far.transports
        near = prefill.connect(decode.descriptor(), timeout=20)
        assert near.transport == "shm", near.transports

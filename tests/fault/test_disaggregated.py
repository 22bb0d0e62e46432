"""A prefill and a decode engine: streaming, and what happens when one of them, or the client, goes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference import judge

from nano import wire
from nano.engine.client import EngineClient, Row
from nano.engine.config import EngineConfig
from nano.engine.server import EngineServer

LONG = wire.Sampling(max_tokens=400, seed=1, temperature=0.0, ignore_eos=True)
SHORT = wire.Sampling(max_tokens=8, seed=1, temperature=0.0, ignore_eos=True)


def config(path: Path, role: str, **options: object) -> EngineConfig:
    base = EngineConfig(
        str(path), role=role, name=f"{role}-0", dtype="float32", device="cpu", threads=1, kvcache_block_size=16,  # type: ignore[arg-type]
        kvcache_bytes=64 << 20, max_num_batched_tokens=64, max_num_seqs=16, local_prefill_tokens=0,
    )  # fmt: skip
    return replace(base, **options)  # type: ignore[arg-type]


def tokens(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 256, n).tolist()


@contextmanager
def pair(path: Path, **options: object) -> Iterator[tuple[EngineServer, EngineServer, EngineClient]]:
    with (
        EngineServer(config(path, "prefill", **options)) as prefill,
        EngineServer(config(path, "decode", **options)) as decode,
        EngineClient(decode.address) as client,
    ):
        yield prefill, decode, client


def collect(
    client: EngineClient,
    until: Callable[[dict[int, list[Row]]], bool],
    seconds: float = 30,
    rows: dict[int, list[Row]] | None = None,
) -> dict[int, list[Row]]:
    """Polls until `until(rows)`; rows by request, added to those given."""
    rows = {} if rows is None else rows
    deadline = time.monotonic() + seconds
    while not until(rows):
        assert time.monotonic() < deadline, f"not within {seconds} s; so far {rows}"
        for row in client.poll(0.05):
            rows.setdefault(row.key, []).append(row)
    return rows


def ended(*keys: int) -> Callable[[dict[int, list[Row]]], bool]:
    return lambda rows: all(key in rows and rows[key][-1].finish for key in keys)


def wait(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def idle(server: EngineServer) -> bool:
    stats = server.engine.scheduler.stats()
    return stats["free_blocks"] == server.engine.num_blocks and not any(
        stats[name] for name in ("waiting", "gated", "running", "reserved", "held")
    )


class Spy:
    """Wraps a model's forward pass: what happened between the layers of a step."""

    def __init__(self, server: EngineServer, before_layer: Callable[[int], None]) -> None:
        attention = server.engine.model.ops.attention

        def spied(q: object, out: object, layer: int, shape: object, n: int) -> None:
            before_layer(layer)
            attention(q, out, layer, shape, n)  # type: ignore[arg-type]

        server.engine.model.ops.attention = spied  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_first_layers_land_before_the_last_is_computed(tiny: Path, transport: str) -> None:
    """The trace: pieces of layer 0 landed at the decode engine before the prefill engine began its last layer."""
    with pair(tiny, transports=(transport,)) as (prefill, decode, client):
        landed: list[list[int]] = []

        def look(layer: int) -> None:
            if layer != 2:
                return
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:  # the copy runs beside the model: give it its time, once
                tags = list(decode._decode._by_tag)
                times = [decode.endpoint.landed(tag) for tag in tags]  # type: ignore[union-attr]
                first = [t[::4] for t in times]  # 4 groups of one layer: every fourth piece is layer 0's
                if first and all((t > 0).any() for t in first):
                    landed.append([int(t[3::4].max()) for t in times])
                    return
                time.sleep(0.001)

        Spy(prefill, look)
        prompt = tokens(60)
        client.generate(1, prompt, SHORT, "prefill-0", prefill.address)
        rows = collect(client, ended(1))[1]
        judge(tiny, prompt, [row.token for row in rows])
        assert landed == [[0]], "layer 0 landed, and nothing of layer 3 had"


def test_token_one_comes_from_the_prefill_engine(tiny: Path) -> None:
    with pair(tiny) as (prefill, decode, client):
        prompts = {key: tokens(20 + 13 * key, key) for key in range(8)}
        for key, prompt in prompts.items():
            client.generate(key, prompt, SHORT, "prefill-0", prefill.address)
        rows = collect(client, ended(*prompts))
        for key, prompt in prompts.items():
            assert [row.index for row in rows[key]] == list(range(8))
            judge(tiny, prompt, [row.token for row in rows[key]])
        assert decode.engine.scheduler.stats()["steps"] >= 7
        wait(lambda: idle(prefill) and idle(decode))


def test_a_short_rest_is_prefilled_by_the_decode_engine(tiny: Path) -> None:
    with pair(tiny, local_prefill_tokens=32) as (prefill, _decode, client):
        client.generate(1, tokens(30), SHORT, "prefill-0", prefill.address)
        collect(client, ended(1))
        assert prefill.engine.scheduler.stats()["steps"] == 0
        client.generate(2, tokens(33, 1), SHORT, "prefill-0", prefill.address)
        collect(client, ended(2))
        assert prefill.engine.scheduler.stats()["steps"] > 0


def test_one_token_requests_end_with_the_first_token(tiny: Path) -> None:
    with pair(tiny) as (prefill, decode, client):
        client.generate(1, tokens(40), wire.Sampling(1, 1, temperature=0.0), "prefill-0", prefill.address)
        rows = collect(client, ended(1))[1]
        assert [(row.index, row.finish) for row in rows] == [(0, wire.LENGTH)]
        wait(lambda: idle(prefill) and idle(decode))


def test_too_long_is_refused_with_both_numbers_and_others_go_on(tiny: Path) -> None:
    with pair(tiny, max_model_len=256) as (prefill, decode, client):
        client.generate(1, tokens(40), SHORT, "prefill-0", prefill.address)
        client.generate(2, tokens(300), SHORT, "prefill-0", prefill.address)
        client.generate(3, [1, 2, 600], SHORT, "prefill-0", prefill.address)
        rows = collect(client, ended(1, 2, 3))
        assert "300" in rows[2][0].failure.message  # type: ignore[union-attr]
        assert "255" in rows[2][0].failure.message  # type: ignore[union-attr]
        assert "600" in rows[3][0].failure.message  # type: ignore[union-attr]
        judge(tiny, tokens(40), [row.token for row in rows[1]])
        wait(lambda: idle(prefill) and idle(decode))


@pytest.mark.parametrize("when", ["queued", "prefilling", "moving", "decoding"])
def test_abort(tiny: Path, when: str) -> None:
    """An aborted request frees everything on both engines, wherever it is; its neighbour finishes."""
    with pair(tiny) as (prefill, decode, client):
        reached: list[bool] = []

        def look(layer: int) -> None:
            stage = {"queued": 0, "prefilling": 1, "moving": 3}.get(when)
            if layer == stage and not reached:
                reached.append(True)
                client_aborts.append(1)

        client_aborts: list[int] = []
        Spy(prefill, look)
        client.generate(1, tokens(200, 1), LONG, "prefill-0", prefill.address)
        client.generate(2, tokens(50, 2), SHORT, "prefill-0", prefill.address)
        rows: dict[int, list[Row]] = {}
        if when == "decoding":
            collect(client, lambda rows: len(rows.get(1, [])) > 2, rows=rows)
        else:
            wait(lambda: bool(client_aborts))
        client.abort(1)
        collect(client, ended(2), rows=rows)
        judge(tiny, tokens(50, 2), [row.token for row in rows[2]])
        wait(lambda: idle(prefill) and idle(decode))


def test_two_pairs_on_one_host_do_not_meet(tiny: Path) -> None:
    with ExitStack() as stack:
        systems = [stack.enter_context(pair(tiny)) for _ in range(2)]
        for number, (prefill, _, client) in enumerate(systems):
            client.generate(1, tokens(50, number), SHORT, "prefill-0", prefill.address)
        for number, (_, _, client) in enumerate(systems):
            judge(tiny, tokens(50, number), [row.token for row in collect(client, ended(1))[1]])


def test_a_full_decode_pool_delays_grants_and_finishes_all(tiny: Path) -> None:
    blocks = 24 * 16 * 4 * 2 * 4 * 2 * 16
    with (
        EngineServer(config(tiny, "prefill")) as prefill,
        EngineServer(config(tiny, "decode", kvcache_bytes=blocks)) as decode,
        EngineClient(decode.address) as client,
    ):
        prompts = {key: tokens(60, key) for key in range(12)}
        for key, prompt in prompts.items():
            client.generate(key, prompt, SHORT, "prefill-0", prefill.address)
        rows = collect(client, ended(*prompts), 60)
        for key, prompt in prompts.items():
            judge(tiny, prompt, [row.token for row in rows[key]])
        wait(lambda: idle(prefill) and idle(decode))


class Process:
    """An engine in a process of its own, to be killed or frozen."""

    def __init__(self, path: Path, role: str) -> None:
        read, write = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "nano.engine", "--model", str(path), "--mode", role, "--dtype=float32",
                "--threads=1", "--kvcache_block_size=16", "--kvcache_bytes=67108864", "--local_prefill_tokens=0",
                "--max_num_batched_tokens=64", f"--ready_fd={write}", "--log_level=warning", "--name", f"{role}-0",
            ],
            pass_fds=(write,),
        )  # fmt: skip
        os.close(write)
        assert select.select([read], [], [], 60)[0], "the engine did not start within 60 s"
        with os.fdopen(read) as pipe:
            self.address: str = json.loads(pipe.readline())["address"]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)


def test_a_killed_prefill_engine_fails_what_it_had_and_nothing_else(tiny: Path) -> None:
    with (
        Process(tiny, "prefill") as victim,
        EngineServer(config(tiny, "prefill", name="prefill-1")) as other,
        EngineServer(config(tiny, "decode")) as decode,
        EngineClient(decode.address) as client,
    ):
        client.generate(1, tokens(30), LONG, "prefill-0", victim.address)  # decoding when it happens
        rows = collect(client, lambda rows: len(rows.get(1, [])) > 3)
        for key in range(2, 8):  # queued, computing or moving when it happens
            client.generate(key, tokens(1500, key), SHORT, "prefill-0", victim.address)
        wait(lambda: bool(decode._decode._by_tag))
        victim.signal(signal.SIGKILL)
        killed = time.monotonic()
        collect(client, ended(*range(2, 8)), rows=rows)
        assert time.monotonic() - killed < 5
        hit = [rows[key][-1].failure for key in range(2, 8) if rows[key][-1].finish == wire.FAILED]
        assert hit, "at least the one that was moving fails"
        for failure in hit:
            assert failure is not None
            assert failure.code == "peer_lost"
            assert failure.retryable
            assert "prefill-0" in failure.message
        client.generate(10, tokens(60, 9), SHORT, "prefill-1", other.address)
        collect(client, ended(1, 10), 60, rows)
        judge(tiny, tokens(60, 9), [row.token for row in rows[10]])
        assert [row.index for row in rows[1]] == list(range(400))
        wait(lambda: idle(decode) and idle(other))


def test_a_frozen_prefill_engine_is_noticed(tiny: Path) -> None:
    with (
        Process(tiny, "prefill") as victim,
        EngineServer(config(tiny, "decode")) as decode,
        EngineClient(decode.address) as client,
    ):
        client.generate(1, tokens(30), SHORT, "prefill-0", victim.address)
        collect(client, ended(1))
        victim.signal(signal.SIGSTOP)
        client.generate(2, tokens(100), SHORT, "prefill-0", victim.address)
        rows = collect(client, ended(2), 20)
        assert rows[2][0].failure is not None
        assert rows[2][0].failure.code == "peer_lost"
        client.generate(3, tokens(100), SHORT)  # prefilled here: this engine is not disturbed
        judge(tiny, tokens(100), [row.token for row in collect(client, ended(3))[3]])
        wait(lambda: idle(decode))


def test_a_killed_decode_engine_frees_the_prefill_engine(tiny: Path) -> None:
    with EngineServer(config(tiny, "prefill")) as prefill:
        with Process(tiny, "decode") as victim, EngineClient(victim.address) as client:
            for key in range(4):
                client.generate(key, tokens(1000, key), SHORT, "prefill-0", prefill.address)
            wait(lambda: prefill.engine.scheduler.stats()["running"] > 0)
            victim.signal(signal.SIGKILL)
            wait(lambda: idle(prefill), 15)
        with EngineServer(config(tiny, "decode")) as decode, EngineClient(decode.address) as client:
            client.generate(1, tokens(60), SHORT, "prefill-0", prefill.address)
            judge(tiny, tokens(60), [row.token for row in collect(client, ended(1))[1]])


def test_a_client_that_stops_pinging_loses_its_requests(tiny: Path) -> None:
    with EngineServer(config(tiny, "hybrid", max_model_len=2048)) as engine:
        Spy(engine, lambda layer: time.sleep(0.005))  # 2000 tokens would take 40 s
        client = EngineClient(engine.address)
        client.generate(1, tokens(20), wire.Sampling(2000, 1, temperature=1.0, ignore_eos=True))
        wait(lambda: engine.engine.scheduler.stats()["running"] == 1)
        client.close()
        wait(lambda: idle(engine), 15)
        assert engine.engine.scheduler.stats()["steps"] < 2000


def test_an_unreachable_prefill_engine_is_an_error_not_a_wait(tiny: Path) -> None:
    with EngineServer(config(tiny, "decode")) as decode, EngineClient(decode.address) as client:
        client.generate(1, tokens(50), SHORT, "prefill-9", "tcp://127.0.0.1:9")
        failure = collect(client, ended(1), 10)[1][0].failure
        assert failure is not None
        assert failure.code == "peer_lost"
        assert "prefill-9" in failure.message
        wait(lambda: idle(decode))


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("kvcache_block_size", 32, ("blocks of 32", "blocks of 16")), ("dtype", "bfloat16", ("bfloat16", "float32"))],
)
def test_engines_of_different_layouts_do_not_pair_and_name_both(
    option: str, value: object, named: tuple[str, str], tiny: Path
) -> None:
    with (
        EngineServer(config(tiny, "prefill", **{option: value})) as prefill,
        EngineServer(config(tiny, "decode")) as decode,
        EngineClient(decode.address) as client,
    ):
        client.generate(1, tokens(50), SHORT, "prefill-0", prefill.address)
        failure = collect(client, ended(1), 10)[1][0].failure
        assert failure is not None
        assert failure.code == "invalid"
        prefills, decodes = failure.message.split(";")
        assert named[0] in prefills
        assert named[1] in decodes


def test_a_client_that_reads_late_gets_every_token(tiny: Path) -> None:
    """2,000 messages wait in the queue; none is dropped."""
    with EngineServer(config(tiny, "hybrid", max_model_len=2048)) as engine, EngineClient(engine.address) as client:
        client.generate(1, tokens(20), wire.Sampling(2000, 1, temperature=1.0, ignore_eos=True))
        wait(lambda: engine.engine.scheduler.stats()["steps"] >= 2000, 20)
        rows = collect(client, ended(1), 20)[1]
        assert [row.index for row in rows] == list(range(2000))

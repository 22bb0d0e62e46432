"""Redis, registry service, router and two engines, each a process that was started by hand."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from launched import Launched, segments

import nano.demo
from nano.ctrl.embedded import EmbeddedRedis
from nano.ctrl.ports import pick_free

HOST = "127.0.0.1"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    with ExitStack() as stack:

        def run(module: str, *arguments: object) -> Launched:
            launched = Launched(module, *map(str, arguments), temporary=tmp_path)
            stack.callback(launched.end)
            return launched

        yield run


@pytest.mark.timeout(90)
def test_the_seeds_own_deployment_answers_and_ends_on_sigterm(start: Callable[..., Launched]) -> None:
    model = str(nano.demo.path())
    before = segments()
    with EmbeddedRedis() as redis:
        ctrl_port, router_port = pick_free(HOST), pick_free(HOST)
        ctrl = start("nano.ctrl", "--port", ctrl_port, "--redis_url", redis.url)
        ctrl.wait_line("registry on ")
        registry = ("--nanoctrl_address", f"{HOST}:{ctrl_port}", "--nanoctrl_scope", "nanoctrl-0")
        router = start("nano.router", "--port", router_port, *registry)
        engines = [
            start(
                "nano.engine", "--model", model, "--mode", mode, *registry, "--master_address", "127.0.0.1:6006",
                "--host", HOST, "--port", pick_free(HOST), "--attention_dp", 1, "--ffn_ep", 1,
                "--kvcache_block_size", 64, "--max_num_batched_tokens", 16384, "--max_model_len", 2048,
                "--ray_address", "auto",
            )
            for mode in ("decode", "prefill")
        ]  # fmt: skip
        for engine in engines:
            engine.wait_line("no Ray needed")
            engine.wait_line("ready ")
        router.wait_line("engine decode-.* connected")
        router.wait_line("engine prefill-.* connected")
        with httpx.Client(base_url=f"http://{HOST}:{router_port}", timeout=20) as http:
            body = {"model": model, "messages": [{"role": "user", "content": "1+1=?"}]}
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == model
            assert answer.json()["choices"][0]["message"]["content"] == "2"
            assert [one["id"] for one in http.get("/v1/models").json()["data"]] == [model]
        for launched in (router, *engines, ctrl):
            launched.process.send_signal(signal.SIGTERM)
            assert launched.process.wait(15) == 0, launched.lines
            assert not any("Traceback" in line for line in launched.lines), launched.lines
    assert segments() <= before


def test_more_than_one_rank_is_refused_by_name(start: Callable[..., Launched]) -> None:
    for flag in ("--attention_dp", "--ffn_ep"):
        engine = start("nano.engine", "--model", nano.demo.path(), "--mode", "decode", flag, 2)
        assert engine.process.wait(20) == 2
        engine.wait_line(flag, 1.0)

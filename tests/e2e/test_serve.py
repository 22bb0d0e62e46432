"""`python -m nano.serve` with real engines and a real router."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launched import Serve, all_gone, segments

from nano.ctrl.ports import pick_free
from nano.demo.random_checkpoint import make_checkpoint

TINY = ["--kvcache_block_size", "16", "--max_num_seqs", "4", "--max_model_len", "512", "--kvcache_bytes", "8388608"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_checkpoint(folder, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=64)
    return folder


@pytest.fixture
def start(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started: list[Serve] = []

    def launch(*arguments: str, port: int | None = None) -> Serve:
        serve = Serve(
            "--model", str(model), "--served_model_name", "tiny", *TINY, *arguments,
            port=port or pick_free("127.0.0.1"), temporary=tmp_path_factory.mktemp("t"),
        )  # fmt: skip
        started.append(serve)
        return serve

    yield launch
    for serve in started:
        serve.end()


@pytest.mark.parametrize(("mode", "number"), [([], signal.SIGINT), (["--hybrid"], signal.SIGTERM)])
def test_it_answers_and_a_signal_leaves_nothing_behind(start: Any, mode: list[str], number: int) -> None:
    before = segments()
    began = time.monotonic()
    serve = start(*mode)
    serve.wait_line("curl http://", timeout=10.0)
    assert time.monotonic() - began < 10.0
    serve.wait_line(r"^ready in [\d.]+ s$")
    status, answer = serve.chat()
    assert status == 200, answer
    assert answer["usage"]["completion_tokens"] >= 1
    processes = serve.tree()
    assert len(processes) >= (4 if mode else 5)
    serve.process.send_signal(number)
    assert serve.process.wait(20) == 0
    assert all_gone(processes)
    assert list(serve.temporary.iterdir()) == []
    assert segments() <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", serve.port), 1.0)


def test_a_busy_port_is_refused_by_its_flag_before_anything_starts(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        serve = start(port=busy.getsockname()[1])
        assert serve.process.wait(20) == 2
        serve.wait_line("--port", 1.0)
        assert len(serve.lines) == 1


def test_a_model_that_is_not_there_ends_the_launcher_with_2(start: Any, tmp_path: Path) -> None:
    serve = start("--model", str(tmp_path / "none"), "--hybrid")
    assert serve.process.wait(30) == 2
    assert any("none" in line for line in serve.lines)
    assert not any("Traceback" in line for line in serve.lines)


def test_a_killed_decode_engine_is_started_again_and_serves(start: Any) -> None:
    serve = start()
    serve.wait_line(r"^ready in ")
    assert serve.chat()[0] == 200
    seen = len(serve.lines)
    os.kill(serve.pid_of("decode-0"), signal.SIGKILL)
    serve.wait_line(r"decode-0 ended with SIGKILL; starting it again in 0\.2 s", 5.0, seen)
    serve.wait_line(r"decode-0 is ready again", begin=seen)
    returned = time.monotonic()
    while serve.chat()[0] != 200:
        assert time.monotonic() - returned < 1.0, "the router did not use the engine within a second of its return"
        time.sleep(0.02)


def test_a_second_signal_ends_everything_at_once(start: Any) -> None:
    serve = start("--hybrid", "--grace", "30")
    serve.wait_line("curl http://", timeout=10.0)
    processes = serve.tree()
    os.kill(processes[1].pid, signal.SIGSTOP)  # something that would not end by itself
    serve.process.send_signal(signal.SIGINT)
    serve.wait_line("stopping the router", 5.0)
    serve.process.send_signal(signal.SIGINT)
    serve.process.wait(5)
    assert all_gone(processes)


def test_a_killed_launcher_takes_everything_with_it(start: Any) -> None:
    serve = start()
    serve.wait_line(r"^ready in ")
    processes = serve.tree()
    serve.process.kill()
    assert all_gone(processes)

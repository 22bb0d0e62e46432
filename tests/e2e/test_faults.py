"""Kills and departures under `python -m nano.serve`: who is hit hears of it, everybody else goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from launched import Serve, all_gone, segments

from nano.demo.random_checkpoint import make_checkpoint

POOL_TOKENS = 16384
# 4 layers x 2 x 2 heads x 16 wide x 4 bytes a token; one request of the model's length fills the pool.
FLAGS = (
    "--served_model_name", "tiny", "--kvcache_block_size", "64", "--kvcache_bytes", str(POOL_TOKENS * 1024),
    "--max_num_batched_tokens", "512", "--local_prefill_tokens", "0",
)  # fmt: skip
LONG = 15_000  # tokens: seconds of prefill, and of decoding

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_checkpoint(
        folder, hidden=64, layers=4, heads=4, kv_heads=2, head_dim=16, intermediate=96, max_position=POOL_TOKENS
    )
    return folder


@pytest.fixture(scope="module")
def serve(model: Path, launch: Callable[..., Serve]) -> Serve:
    serve = launch("--model", str(model), *FLAGS)
    serve.wait_line(r"^ready in ")
    return serve


class Stream:
    """A streaming completion that would go on for many seconds, read by a thread of its own."""

    def __init__(self, serve: Serve, max_tokens: int = LONG) -> None:
        self.events: list[dict[str, Any]] = []
        self.status = 0
        self.done = False  # [DONE] came
        self._flowing = threading.Event()
        self._body = {"model": "tiny", "prompt": [65, 66, 67], "max_tokens": max_tokens, "ignore_eos": True,
                      "stream": True, "temperature": 0, "stream_options": {"include_usage": True}}  # fmt: skip
        self._url = f"{serve.url}/v1/completions"
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=60) as response:
            self.status = response.status_code
            try:
                for line in response.iter_lines():
                    if line == "data: [DONE]":
                        self.done = True
                    elif line.startswith("data: "):
                        self.events.append(json.loads(line[6:]))
                        if len(self.events) > 5:
                            self._flowing.set()
            except httpx.RemoteProtocolError:
                pass  # cut off: `done` stays False
            finally:
                self._flowing.set()

    def wait_flowing(self) -> None:
        assert self._flowing.wait(20), "no tokens came"

    def wait_end(self, timeout: float = 30) -> None:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the stream did not end within {timeout} s"

    @property
    def error(self) -> dict[str, Any] | None:
        return next((event["error"] for event in self.events if "error" in event), None)


def post(serve: Serve, prompt: list[int], timeout: float = 60, **more: Any) -> httpx.Response:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 4, "ignore_eos": True, "temperature": 0} | more
    return httpx.post(f"{serve.url}/v1/completions", json=body, timeout=timeout)


def metric(serve: Serve, name: str) -> float:
    lines = httpx.get(f"{serve.url}/metrics").text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " "))


def until(condition: Callable[[], bool], timeout: float) -> float:
    """Seconds until the condition held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout, f"not within {timeout} s"
        time.sleep(0.02)
    return time.monotonic() - began


def busy(process: psutil.Process, seconds: float = 0.3) -> float:
    """CPU seconds that it uses in a second."""
    return process.cpu_percent(seconds) / 100


@contextmanager
def leaving(serve: Serve, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A client that has sent its request, and closes the connection at the end of the block."""
    data = json.dumps({"model": "tiny", "ignore_eos": True, "temperature": 0} | body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    with socket.create_connection(("127.0.0.1", serve.port), 10) as link:
        link.settimeout(20)
        link.sendall(head.encode() + b"\r\n\r\n" + data)
        yield link


def assert_both_are_idle(serve: Serve) -> None:
    """Neither engine works on."""
    until(lambda: metric(serve, "nano_router_running") == 0, 5)
    for name in ("decode-0", "prefill-0"):
        until(lambda name=name: busy(serve.engine(name)) < 0.3, 5)  # type: ignore[misc]


def test_a_client_that_leaves_in_mid_stream_frees_the_engines(serve: Serve) -> None:
    before = metric(serve, "nano_router_disconnects_total")
    with leaving(serve, {"prompt": [65] * 10, "max_tokens": LONG, "stream": True}) as link:
        assert link.recv(4096).startswith(b"HTTP/1.1 200")
        assert busy(serve.engine("decode-0")) > 0.3
    until(lambda: metric(serve, "nano_router_disconnects_total") == before + 1, 5)
    assert_both_are_idle(serve)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_during_a_silent_prefill_frees_the_engines(serve: Serve, stream: bool) -> None:
    before = metric(serve, "nano_router_disconnects_total")
    prompt = [70 + stream] + [65] * LONG
    with leaving(serve, {"prompt": prompt, "max_tokens": 5, "stream": stream}) as link:
        until(lambda: busy(serve.engine("prefill-0")) > 0.3, 10)
        link.settimeout(0.01)
        with pytest.raises(TimeoutError):
            link.recv(1)
    until(lambda: metric(serve, "nano_router_disconnects_total") == before + 1, 5)
    assert_both_are_idle(serve)


def test_a_killed_decode_engine_ends_its_streams_with_an_error_and_comes_back(serve: Serve) -> None:
    streams = [Stream(serve) for _ in range(3)]
    for stream in streams:
        stream.wait_flowing()
    seen = len(serve.lines)
    serve.engine("decode-0").kill()
    killed = time.monotonic()
    for stream in streams:
        stream.wait_end(5)
        assert stream.status == 200
        assert not stream.done
        assert stream.error is not None
        assert stream.error["code"] == "peer_lost"
        assert "decode-0" in stream.error["message"]
    assert time.monotonic() - killed < 2
    refused = post(serve, [65])
    assert refused.status_code in (502, 503), refused.text
    assert "error" in refused.json()
    serve.wait_line(r"decode-0 ended with SIGKILL; starting it again", 5, seen)
    serve.wait_line("decode-0 is ready again", begin=seen)
    took = until(lambda: post(serve, [65, 66]).status_code == 200, 2)
    print(f"the router used the decode engine {took:.3f} s after it was registered again")
    assert took < 1.0


def test_a_killed_prefill_engine_fails_what_it_had_and_nothing_else(serve: Serve) -> None:
    decoding = Stream(serve)
    decoding.wait_flowing()
    seen = len(serve.lines)
    with ThreadPoolExecutor(3) as pool:
        hit = [pool.submit(post, serve, [80 + i] + [65] * 12_000) for i in range(3)]
        until(lambda: metric(serve, 'nano_router_engine_load{engine="prefill-0"}') == 3, 10)
        until(lambda: busy(serve.engine("prefill-0")) > 0.3, 10)
        serve.engine("prefill-0").kill()
        killed = time.monotonic()
        answers = [one.result(20) for one in hit]
    assert time.monotonic() - killed < 5
    for answer in answers:
        assert answer.status_code == 502, answer.text
        assert answer.json()["error"]["code"] == "peer_lost"
        assert "prefill-0" in answer.json()["error"]["message"]
    serve.wait_line("prefill-0 is ready again", begin=seen)
    took = until(lambda: post(serve, [65, 66]).status_code == 200, 2)
    assert took < 1.0
    decoding.wait_end(60)
    assert decoding.done
    assert decoding.error is None
    assert decoding.events[-1]["usage"]["completion_tokens"] == LONG
    assert_both_are_idle(serve)
    assert post(serve, [77] + [66] * (POOL_TOKENS - 500)).status_code == 200, "every block is free again"


def test_two_systems_on_one_host_do_not_meet(serve: Serve, model: Path, launch: Callable[..., Serve]) -> None:
    """One is killed whole, started again on the same port and stopped by Ctrl-C, while the other streams on."""
    before = segments()
    other = launch("--model", str(model), *FLAGS)
    other.wait_line(r"^ready in ")
    assert post(other, [65, 66]).json()["choices"][0]["text"] == post(serve, [65, 66]).json()["choices"][0]["text"]
    running = Stream(other)
    running.wait_flowing()
    neighbour = Stream(serve, 8000)
    processes = other.tree()
    other.process.kill()
    assert all_gone(processes)
    running.wait_end(5)
    assert not running.done

    again = launch("--model", str(model), *FLAGS, "--grace", "0.5", port=other.port)
    again.wait_line(r"^ready in ")
    assert post(again, [65, 66]).status_code == 200
    running = Stream(again)
    running.wait_flowing()
    second = Stream(serve, 8000)
    processes = again.tree()
    again.process.send_signal(signal.SIGINT)
    assert again.process.wait(15) == 0
    running.wait_end(5)
    assert running.error is not None
    assert all_gone(processes)
    assert os.listdir(again.temporary) == []
    assert segments() <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", again.port), 1.0)
    assert not any("Traceback" in line for line in again.lines)

    for stream in (neighbour, second):
        stream.wait_end(60)
        assert stream.done
        assert stream.error is None
        assert stream.events[-1]["usage"]["completion_tokens"] == 8000

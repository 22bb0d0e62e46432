"""A load generator over raw sockets: keep-alive connections that send one request after the other."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

CHECK_EVERY = 50  # responses are read through; in between their length and their end are compared


@dataclass
class Expected:
    """What every response must say. events: SSE events with text; 0: not a stream."""

    text: str
    tokens: int
    events: int


@dataclass
class Load:
    """What came of one run. latencies, gaps: seconds (gaps: between a stream's reads, if asked for)."""

    seconds: float = 0.0
    requests: int = 0
    events: int = 0
    latencies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    def __init__(self, requests: list[bytes], expected: Expected, load: Load, state: _State, gaps: bool) -> None:
        self._requests = requests
        self._expected = expected
        self._load = load
        self._state = state
        self._gaps = gaps
        self._data = bytearray()
        self._wanted = -1
        self._began = 0.0
        self._last = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if self._state.left <= 0:
            self._transport.close()
            self._state.ended()
            return
        self._state.left -= 1
        self._data.clear()
        self._wanted = -1
        self._last = 0.0
        self._began = time.perf_counter()
        self._transport.write(self._requests[self._state.left % len(self._requests)])  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._expected.events:
            if self._gaps:
                now = time.perf_counter()
                if self._last:
                    self._load.gaps.append(now - self._last)
                self._last = now
            if not data.endswith(b"\r\n0\r\n\r\n") and not self._data.endswith(b"\r\n0\r\n\r\n"):
                return
        else:
            if self._wanted < 0:
                head = self._data.find(b"\r\n\r\n")
                if head < 0:
                    return
                at = self._data.index(b"content-length: ") + 16
                self._wanted = head + 4 + int(self._data[at : self._data.index(b"\r\n", at)])
            if len(self._data) < self._wanted:
                return
        self._load.latencies.append(time.perf_counter() - self._began)
        try:
            self._check()
        except Exception as error:
            self._state.failed(error)
            self._transport.close()
            return
        self._next()

    def _check(self) -> None:
        load, expected = self._load, self._expected
        load.requests += 1
        if not self._data.startswith(b"HTTP/1.1 200 "):
            raise ValueError(f"expected 200, got {bytes(self._data[:300])!r}")
        if expected.events:
            events = self._data.count(b'"delta":{"content":"')
            load.events += events
            if events != expected.events:
                raise ValueError(f"expected {expected.events} events, got {events}")
        if load.requests % CHECK_EVERY == 1:
            text = _stream_text(self._data) if expected.events else _text(self._data)
            if text != expected.text:
                raise ValueError(f"expected {expected.text[:80]!r}, got {text[:80]!r}")

    def connection_lost(self, error: Exception | None) -> None:
        self._state.failed(error or ConnectionError("the router closed the connection"))


class _State:
    def __init__(self, requests: int, connections: int) -> None:
        self.left = requests
        self._open = connections
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(self) -> None:
        self._open -= 1
        if self._open == 0 and not self.done.done():
            self.done.set_result(None)

    def failed(self, error: Exception) -> None:
        if self.left > 0 and not self.done.done():
            self.done.set_exception(error)


def _text(response: bytearray) -> str:
    answer = json.loads(response[response.index(b"\r\n\r\n") + 4 :])
    text: str = answer["choices"][0]["message"]["content"]
    return text


def _stream_text(response: bytearray) -> str:
    rest = bytes(response[response.index(b"\r\n\r\n") + 4 :])
    body = b""
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    events = body.decode().removesuffix("\n\n").split("\n\n")
    if events[-1] != "data: [DONE]":
        raise ValueError(f"expected data: [DONE] at the end, got {events[-1][:80]!r}")
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events[:-1]]
    return "".join(delta.get("content", "") for delta in deltas)


async def run(
    port: int,
    bodies: list[dict[str, object]],
    expected: Expected,
    *,
    requests: int,
    connections: int,
    gaps: bool = False,
) -> Load:
    """Sends `requests` over `connections`, the bodies in turn. Raises on any answer that is not the expected one."""
    messages = []
    for body in bodies:
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(content)}\r\n\r\n"
        messages.append(head.encode() + content)
    loop = asyncio.get_running_loop()
    load = Load()
    connections = min(connections, requests)
    state = _State(requests, connections)
    began = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(messages, expected, load, state, gaps), "127.0.0.1", port)
    await asyncio.wait_for(state.done, 120)
    load.seconds = time.perf_counter() - began
    return load

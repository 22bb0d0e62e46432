"""Responses as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations

from typing import Protocol

import msgspec

from nano import wire
from nano.router._text import Choice, frame
from nano.router.answer import finish_reason, usage
from nano.router.errors import ApiError
from nano.router.generation import Generation
from nano.router.tools import Call, Parser

# The last is for nginx, which would hold events back.
HEADERS = [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")]
DONE = b"data: [DONE]\n\n"


class Transport(Protocol):
    """granian's response stream: what is sent is queued at once, so nothing needs to be awaited."""

    def send_bytes(self, data: bytes) -> object: ...


class Http(Protocol):
    """The part of granian's HTTP protocol that answers."""

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...

    def response_stream(self, status: int, headers: list[tuple[str, str]]) -> Transport: ...


class Frames:
    """The constant bytes around what changes, for one request."""

    def __init__(self, kind: str, request_id: str, created: int, model: str, include_usage: bool) -> None:
        head = {"id": request_id, "object": kind, "created": created, "model": model}
        self._head = b"data: " + msgspec.json.encode(head)[:-1]
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"

    def around(self, index: int, before: bytes, after: bytes) -> tuple[bytes, bytes]:
        """Prefix and suffix of a chunk whose text stands between `before` and `after`."""
        prefix = b'%b,"choices":[{"index":%d,%b' % (self._head, index, before)
        return prefix, b'%b,"logprobs":null,"finish_reason":null}]%b' % (after, self._tail)

    def chunk(self, index: int, delta: bytes, reason: str | None, logprobs: bytes = b"null") -> bytes:
        """delta: the member that carries the news, as `"delta":{…}`."""
        quoted = b"null" if reason is None else b'"%b"' % reason.encode()
        return b'%b,"choices":[{"index":%d,%b,"logprobs":%b,"finish_reason":%b}]%b' % (
            *(self._head, index, delta, logprobs, quoted, self._tail),
        )

    def usage(self, generation: Generation) -> bytes:
        return b'%b,"choices":[],"usage":%b}\n\n' % (self._head, msgspec.json.encode(usage(generation)))


CHAT = (b'"delta":{"content":"', b'"}')
COMPLETION = (b'"text":"', b'"')


class StreamSink:
    """Sends every choice's frames as they come. The response begins with the first token, so that a request that fails
    before has a status of its own."""

    def __init__(
        self, generation: Generation, protocol: Http, frames: Frames, *, chat: bool, include_usage: bool
    ) -> None:
        self._generation = generation
        self._protocol = protocol
        self._frames = frames
        self._chat = chat
        self._include_usage = include_usage
        self._transport: Transport | None = None
        self.status = 499  # of a client that left before the response began
        self._parsers: list[Parser] | None = None
        self._calls: list[int] = []
        self._around: list[tuple[bytes, bytes]] = []

    def parse_tools(self, choices: int) -> None:
        """Tool calls are looked for in the choices' text, which comes raw."""
        self._parsers = [Parser() for _ in range(choices)]
        self._calls = [0] * choices
        self._around = [self._frames.around(i, *CHAT) for i in range(choices)]

    def advance(self, choice: Choice) -> None:
        data = choice.take()
        report = self._generation.reports.get(choice.index)
        if report is not None:
            ended = choice.finish != wire.UNFINISHED
            data = self._reported(choice, data, report.take(len(data), last=ended and not choice.stopped))
        elif self._parsers is not None:
            data = self._parsed(choice, data.decode())
        if self._transport is None:
            self._transport = self._protocol.response_stream(200, HEADERS)
            self.status = 200
            data = self._opening() + data
        if choice.finish != wire.UNFINISHED:
            called = self._parsers is not None and self._parsers[choice.index].called
            delta = b'"delta":{}' if self._chat else b'"text":""'
            data += self._frames.chunk(choice.index, delta, finish_reason(choice, called))
        if data:
            self._transport.send_bytes(data)

    def finish(self) -> None:
        transport, self._transport = self._transport, None  # the response ends when nothing holds it
        if transport is not None:
            last = self._frames.usage(self._generation) if self._include_usage else b""
            transport.send_bytes(last + DONE)

    def fail(self, error: ApiError) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            self.status = error.status
            self._protocol.response_bytes(error.status, error.headers(), error.body())
        else:
            transport.send_bytes(b"data: %b\n\n" % error.body())

    def _opening(self) -> bytes:
        if not self._chat:
            return b""
        role = b'"delta":{"role":"assistant","content":""}'
        return b"".join(self._frames.chunk(choice.index, role, None) for choice in self._generation.choices)

    def _reported(self, choice: Choice, text: bytes, logprobs: bytes) -> bytes:
        """Text, or what it says and calls, with the log-probabilities of its tokens."""
        if self._parsers is not None:
            parsed = self._parsed(choice, text.decode())
            return parsed if logprobs == b"null" else parsed + self._chunk(choice, b"", logprobs)
        return self._chunk(choice, text, logprobs) if text or logprobs != b"null" else b""

    def _chunk(self, choice: Choice, text: bytes, logprobs: bytes) -> bytes:
        before, after = CHAT if self._chat else COMPLETION
        return self._frames.chunk(choice.index, frame(before, text.decode(), after), None, logprobs)

    def _parsed(self, choice: Choice, text: str) -> bytes:
        assert self._parsers is not None
        parser = self._parsers[choice.index]
        parts = parser.feed(text)
        if choice.finish != wire.UNFINISHED:
            parts += parser.finish()
        return b"".join(self._part(choice.index, part) for part in parts)

    def _part(self, index: int, part: str | Call) -> bytes:
        if isinstance(part, str):
            prefix, suffix = self._around[index]
            return frame(prefix, part, suffix)
        call = {
            "index": self._calls[index],
            "id": part.id,
            "type": "function",
            "function": {"name": part.name, "arguments": part.arguments},
        }
        self._calls[index] += 1
        delta = b'"delta":%b' % msgspec.json.encode({"tool_calls": [call]})
        return self._frames.chunk(index, delta, None)

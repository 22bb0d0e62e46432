"""A synchronous client of one engine: what the offline LLM and the tests drive engines with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import zmq

from nano import wire
from nano.errors import DeadlineExceeded, InvalidInput, PeerLost, Refused

PING_INTERVAL = 1.0


@dataclass(frozen=True)
class Row:
    """One token of one request, or its failure."""

    key: int
    index: int
    token: int
    finish: int
    cached: int
    failure: wire.Failure | None
    logprobs: wire.TokenLogprobs | None = None


class EngineClient:
    """Requests to the engine at `address`, results by `poll`. One thread; call `poll` at least every few seconds."""

    def __init__(self, address: str, name: str = "client", timeout: float = 10.0) -> None:
        self.address = address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.sndhwm = self._socket.rcvhwm = 0
        self._socket.connect(address)
        self._pinged = self._heard = time.monotonic()
        self._send(wire.Hello(wire.VERSION, name, wire.new_incarnation()))
        if not self._socket.poll(int(timeout * 1000)):
            self.close()
            raise DeadlineExceeded(f"engine at {address}: no answer to Hello within {timeout} s")
        answer = wire.decode(self._socket.recv())
        if not isinstance(answer, wire.Welcome):
            self.close()
            raise Refused(f"engine at {address}: {getattr(answer, 'reason', answer)}")

    def _send(self, message: wire.Message) -> None:
        self._socket.send(wire.encode(message))

    def generate(
        self, key: int, tokens: list[int], sampling: wire.Sampling, prefill_name: str = "", prefill_address: str = ""
    ) -> None:
        """Asks for one completion; with `prefill_address`, the engine there computes the prompt."""
        if any(not 0 <= token < 1 << 31 for token in tokens):
            raise InvalidInput("tokens: expected ids in [0, 2^31)")
        self._send(wire.Generate(key, wire.pack_ids(tokens), sampling, prefill_name, prefill_address))

    def abort(self, *keys: int) -> None:
        self._send(wire.Abort(keys))

    def poll(self, timeout: float = 1.0) -> list[Row]:
        """What has arrived, waiting at most `timeout` seconds for the first. Raises PeerLost after 10 s of silence."""
        now = time.monotonic()
        if now - self._pinged > PING_INTERVAL:
            self._pinged = now
            self._send(wire.Ping(time.monotonic_ns()))
        if now - self._heard > 10.0:
            raise PeerLost(f"engine at {self.address}: silent for {now - self._heard:.0f} s")
        rows: list[Row] = []
        if not self._socket.poll(int(min(timeout, PING_INTERVAL) * 1000)):
            return rows
        while True:
            try:
                message = wire.decode(self._socket.recv(zmq.DONTWAIT))
            except zmq.Again:
                return rows
            self._heard = time.monotonic()
            if isinstance(message, wire.Outputs):
                rows += _rows(message)
            elif isinstance(message, wire.Rejected):
                raise Refused(f"engine at {self.address}: {message.reason}")

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()

    def __enter__(self) -> EngineClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _rows(message: wire.Outputs) -> list[Row]:
    keys = np.frombuffer(message.keys, "<u8").tolist()
    columns = zip(
        keys,
        np.frombuffer(message.indices, "<u4").tolist(),
        np.frombuffer(message.tokens, "<i4").tolist(),
        message.finish,
        np.frombuffer(message.cached, "<u4").tolist(),
        strict=True,
    )
    logprobs = dict(wire.unpack_logprobs(message.logprobs))
    return [
        Row(key, index, token, finish, cached, message.failures.get(key), logprobs.get(row))
        for row, (key, index, token, finish, cached) in enumerate(columns)
    ]

"""An engine without a model: speaks nano.wire over ZMQ and answers with scripted tokens, at once or paced.

    python bench/router/engine_stub.py --name e0 --address tcp://127.0.0.1:5555 --tokens 65,66,67

As a class it runs in a thread, for tests: `Stub(...)` is up when it returns, `close()` frees the port, `requests` and
`aborted` are what it was asked.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import zmq

from nano import wire
from nano.wire import EngineInfo


@dataclass
class Script:
    """What the stub says to a request.

    tokens: repeated up to max_tokens when `repeat`; else they end with `stop_token`. burst: tokens of one request in
    one message. step_s: pause between messages. silent: says nothing at all. fail: how it ends, after the tokens.
    first_index: 0, unless the index shall be wrong.
    """

    tokens: Sequence[int] = (65,)
    repeat: bool = False
    stop_token: int = 0
    burst: int = 1
    step_s: float = 0.0
    silent: bool = False
    fail: wire.Failure | None = None
    cached: int = 0
    first_index: int = 0


@dataclass
class _Running:
    identity: bytes
    key: int
    tokens: list[int]
    stop: bool
    script: Script
    logprobs: int
    sent: int = 0
    due: float = field(default_factory=time.monotonic)


class Stub(threading.Thread):
    """respond: chooses the script of each request. address: as ZMQ binds it; tcp://127.0.0.1:* takes a free port."""

    def __init__(
        self,
        name: str,
        address: str,
        respond: Callable[[wire.Generate], Script],
        *,
        incarnation: int = 0,
    ) -> None:
        super().__init__(name=f"stub-{name}", daemon=True)
        self.engine_name = name
        self.incarnation = incarnation or wire.new_incarnation()
        self.requests: list[wire.Generate] = []
        self.aborted: list[int] = []
        self.peers: set[bytes] = set()
        self.news = threading.Condition()  # notified with every message
        self._respond = respond
        self._running: dict[tuple[bytes, int], _Running] = {}
        self._raw: list[tuple[bytes, list[bytes]]] = []
        self._stopping = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.sndhwm = self._socket.rcvhwm = 0
        self._socket.bind(address)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wake_in = self._context.socket(zmq.PAIR)
        self._wake_in.bind("inproc://wake")
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.connect("inproc://wake")
        self.start()

    def info(self, **changes: object) -> EngineInfo:
        return self.describe(self.address, incarnation=self.incarnation, **changes)

    @staticmethod
    def describe(address: str, **changes: object) -> EngineInfo:
        values: dict[str, object] = {
            "role": "hybrid",
            "address": address,
            "incarnation": 1,
            "models": ("demo",),
            "model_path": "",
            "max_model_len": 2048,
            "vocab_size": 512,
            "block_size": 16,
            "num_blocks": 1024,
            "layout": "00",
            "max_num_seqs": 256,
        }
        return EngineInfo(**{**values, **changes})  # type: ignore[arg-type]

    def close(self) -> None:
        """As a kill would: the connection breaks, nothing more is said."""
        if self.is_alive():
            self._stopping = True
            self._wake.send(b"")
            self.join(5.0)

    def send_raw(self, frames: list[bytes]) -> None:
        """Sends frames as they are to every peer."""
        self._raw.append((b"", frames))
        self._wake.send(b"")

    def wait_for(self, condition: Callable[[], bool], timeout: float = 5.0) -> bool:
        with self.news:
            return self.news.wait_for(condition, timeout)

    def run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_in, zmq.POLLIN)
        while not self._stopping:
            dues = [r.due for r in self._running.values() if not r.script.silent]
            wait = 1000.0 if not dues else max(0.0, (min(dues) - time.monotonic()) * 1000)
            ready = dict(poller.poll(wait))
            if self._wake_in in ready:
                self._wake_in.recv()
            while self._raw:
                _, frames = self._raw.pop()
                for peer in self.peers:
                    self._socket.send_multipart([peer, *frames])
            if self._socket in ready:
                self._read()
            self._step()
        self._socket.close()
        self._wake.close()
        self._wake_in.close()
        self._context.term()

    def _read(self) -> None:
        while True:
            try:
                identity, frame = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = wire.decode(frame)
            if isinstance(message, wire.Generate):
                self._begin(identity, message)
            elif isinstance(message, wire.Ping):
                self._send(identity, wire.Pong(message.stamp))
            elif isinstance(message, wire.Hello):
                self.peers.add(identity)
                self._send(identity, wire.Welcome(wire.VERSION, self.engine_name, self.incarnation))
            elif isinstance(message, wire.Abort):
                for key in message.keys:
                    self._running.pop((identity, key), None)
                    self.aborted.append(key)
            with self.news:
                self.news.notify_all()

    def _begin(self, identity: bytes, request: wire.Generate) -> None:
        self.requests.append(request)
        script = self._respond(request)
        limit = request.sampling.max_tokens
        tokens = list(script.tokens)
        if script.repeat:
            tokens = (tokens * (limit // len(tokens) + 1))[:limit]
        stop = len(tokens) < limit
        tokens = [*tokens, script.stop_token] if stop else tokens[:limit]
        self._running[identity, request.key] = _Running(
            identity, request.key, tokens, stop, script, request.sampling.logprobs
        )

    def _step(self) -> None:
        """One engine step: what is due, in one message a peer."""
        now = time.monotonic()
        rows: dict[bytes, list[tuple[int, int, int, int, int]]] = {}
        reported: dict[bytes, list[wire.TokenLogprobs | None]] = {}
        failures: dict[bytes, dict[int, wire.Failure]] = {}
        ended = []
        for at, running in self._running.items():
            script = running.script
            if script.silent or running.due > now:
                continue
            out = rows.setdefault(running.identity, [])
            until = min(running.sent + script.burst, len(running.tokens))
            for i in range(running.sent, until):
                finish = wire.UNFINISHED
                if i == len(running.tokens) - 1 and script.fail is None:
                    finish = wire.STOP if running.stop else wire.LENGTH
                cached = script.cached if i == 0 else 0
                out.append((running.key, i + script.first_index, running.tokens[i], finish, cached))
                reported.setdefault(running.identity, []).append(logprobs(running.tokens[i], running.logprobs))
            running.sent = until
            running.due = now + script.step_s
            if until == len(running.tokens):
                ended.append(at)
                if script.fail is not None:
                    out.append((running.key, until, -1, wire.FAILED, 0))
                    failures.setdefault(running.identity, {})[running.key] = script.fail
        for at in ended:
            del self._running[at]
        for identity, out in rows.items():
            self._send(identity, outputs(out, failures.get(identity, {}), reported.get(identity, ())))

    def _send(self, identity: bytes, message: wire.Message) -> None:
        self._socket.send_multipart([identity, wire.encode(message)])


def logprobs(token: int, count: int) -> wire.TokenLogprobs | None:
    """Made up: -0.5 for the token, which is the most probable, and one less for each of the next ids."""
    return None if count < 0 else wire.TokenLogprobs(-0.5, [(token + i, -0.5 - i) for i in range(count)])


def outputs(
    rows: Sequence[tuple[int, int, int, int, int]],
    failures: dict[int, wire.Failure],
    reported: Sequence[wire.TokenLogprobs | None],
) -> wire.Outputs:
    """rows: (key, index, token, finish, cached)."""
    keys, indices, tokens, finish, cached = zip(*rows, strict=True)
    return wire.Outputs(
        np.array(keys, "<u8").tobytes(),
        np.array(indices, "<u4").tobytes(),
        np.array(tokens, "<i4").tobytes(),
        np.array(finish, "u1").tobytes(),
        np.array(cached, "<u4").tobytes(),
        failures,
        wire.pack_logprobs(reported),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="stub")
    parser.add_argument("--address", default="tcp://127.0.0.1:5555")
    parser.add_argument("--tokens", default="65,66,67", help="ids, repeated up to max_tokens")
    parser.add_argument("--burst", type=int, default=1, help="tokens of one request in one message")
    parser.add_argument("--step_ms", type=float, default=0.0, help="pause between tokens")
    arguments = parser.parse_args()
    tokens = [int(token) for token in arguments.tokens.split(",")]
    script = Script(tokens, repeat=True, burst=arguments.burst, step_s=arguments.step_ms / 1000)
    stub = Stub(arguments.name, arguments.address, lambda request: script)
    print(stub.address, flush=True)
    stub.join()


if __name__ == "__main__":
    main()

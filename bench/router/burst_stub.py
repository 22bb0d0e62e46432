"""An engine that answers at once, as fast as Python can: one Outputs message a step for all running requests.

    python bench/router/burst_stub.py --address ipc:///tmp/e0 --tokens 65,66,67 [--step 8] [--step_ms 20]

Prints a line once it is bound. Ends with SIGTERM.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import zmq

from nano import wire

SLOTS = 4096


class BurstStub:
    """tokens: ids given in turn, up to max_tokens. step: tokens of each request in a message. step_s: pause between."""

    def __init__(self, name: str, address: str, tokens: list[int], step: int, step_s: float) -> None:
        self._name = name
        self._tokens = np.array(tokens, "<i4")
        self._step = step
        self._step_s = step_s
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.sndhwm = self._socket.rcvhwm = 0
        self._socket.bind(address)
        self._keys = np.zeros(SLOTS, "<u8")
        self._sent = np.zeros(SLOTS, "<u4")
        self._limit = np.zeros(SLOTS, "<u4")
        self._running = 0
        self._peer = b""

    def run(self) -> None:
        due = 0.0
        while True:
            if self._running == 0:
                self._socket.poll()
            elif self._step_s:
                self._socket.poll(max(0.0, (due - time.monotonic()) * 1000))
            self._read()
            if self._running and time.monotonic() >= due:
                due = max(due + self._step_s, time.monotonic())
                self._advance()

    def _read(self) -> None:
        while True:
            try:
                identity, frame = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = wire.decode(frame)
            if isinstance(message, wire.Generate):
                slot = self._running
                self._peer = identity
                self._keys[slot] = message.key
                self._sent[slot] = 0
                self._limit[slot] = message.sampling.max_tokens
                self._running += 1
            elif isinstance(message, wire.Ping):
                self._send(identity, wire.Pong(message.stamp))
            elif isinstance(message, wire.Hello):
                self._send(identity, wire.Welcome(wire.VERSION, self._name, 1))
            elif isinstance(message, wire.Abort):
                self._abort(message.keys)

    def _abort(self, keys: tuple[int, ...]) -> None:
        keep = ~np.isin(self._keys[: self._running], np.array(keys, "<u8"))
        self._keep(keep)

    def _keep(self, keep: np.ndarray) -> None:
        count = int(keep.sum())
        for column in (self._keys, self._sent, self._limit):
            column[:count] = column[: self._running][keep]
        self._running = count

    def _advance(self) -> None:
        n = self._running
        keys, sent, limit = self._keys[:n], self._sent[:n], self._limit[:n]
        counts = np.minimum(limit - sent, self._step)
        rows = np.repeat(np.arange(n), counts)
        starts = np.cumsum(counts) - counts
        indices = sent[rows] + (np.arange(rows.size) - starts[rows]).astype("<u4")
        finish = np.where(indices + 1 == limit[rows], wire.LENGTH, wire.UNFINISHED).astype("u1")
        outputs = wire.Outputs(
            keys[rows].tobytes(),
            indices.tobytes(),
            self._tokens[indices % self._tokens.size].tobytes(),
            finish.tobytes(),
            bytes(4 * rows.size),
        )
        self._send(self._peer, outputs)
        sent += counts.astype("<u4")
        if (sent == limit).any():
            self._keep(sent < limit)

    def _send(self, identity: bytes, message: wire.Message) -> None:
        self._socket.send_multipart([identity, wire.encode(message)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="e0")
    parser.add_argument("--address", required=True)
    parser.add_argument("--tokens", required=True, help="ids with commas between")
    parser.add_argument("--step", type=int, default=1, help="tokens of each request in a message")
    parser.add_argument("--step_ms", type=float, default=0.0, help="pause between messages")
    arguments = parser.parse_args()
    tokens = [int(token) for token in arguments.tokens.split(",")]
    stub = BurstStub(arguments.name, arguments.address, tokens, arguments.step, arguments.step_ms / 1000)
    print("bound", flush=True)
    stub.run()


if __name__ == "__main__":
    main()

"""The far side of `ping` and `bench`: an endpoint with one region that echoes, and says what its bytes are.

A message is JSON: {"do": "hello"} answers with the region's size; "echo" comes back as it is; "crc" has n, length and
seed, and answers with the CRC-32 of those blocks in that order.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nano._core.transfer import Endpoint, Event, Peer
from nano.errors import DeadlineExceeded, InvalidInput, PeerLost

REGION = "nano.responder"


def places(n: int, length: int, seed: int) -> npt.NDArray[np.int64]:
    """[n] byte offsets of blocks in random order, each at twice its length so that no two touch."""
    stride = 2 * length if n > 1 else 0
    return np.random.default_rng(seed).permutation(n).astype(np.int64) * stride


def checksum(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], length: int) -> int:
    value = 0
    for offset in offsets:
        value = zlib.crc32(data[offset : offset + length].data, value)
    return value


class Responder:
    """Serves peers until stop() is called or its process gets SIGTERM or SIGINT."""

    def __init__(self, endpoint: Endpoint, nbytes: int) -> None:
        self._endpoint = endpoint
        self._region = endpoint.allocate(nbytes, REGION)
        self._region.array[:] = np.random.default_rng(7).integers(0, 256, nbytes, dtype=np.uint8)
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def serve(self, parent: IO[str] | None = None) -> None:
        """Until stop(), or until `parent`, a pipe of whoever started this process, ends."""
        watched: list[Any] = [self._endpoint, *([parent] if parent else [])]
        while not self._stop.is_set():
            ready, _, _ = select.select(watched, [], [], 0.2)
            if parent in ready and not parent.readline():  # type: ignore[union-attr]
                return
            for event in self._endpoint.poll():
                if event.kind == "message" and event.peer is not None:
                    with contextlib.suppress(PeerLost):
                        event.peer.send(self._answer(event))

    def _answer(self, event: Event) -> bytes:
        try:
            request = json.loads(event.data)
            if request["do"] == "echo":
                return event.data
            if request["do"] == "hello":
                return json.dumps({"nbytes": self._region.nbytes}).encode()
            if request["do"] == "crc":
                n, length = int(request["n"]), int(request["length"])
                if 0 < n <= 1 << 20 and length > 0 and needed(n, length) <= self._region.nbytes:
                    crc = checksum(self._region.array, places(n, length, int(request["seed"])), length)
                    return json.dumps({"crc": crc}).encode()
            return b'{"error": "not understood"}'
        except (ValueError, KeyError, TypeError):
            return b'{"error": "not understood"}'


def needed(n: int, length: int) -> int:
    """Bytes of a region that holds the blocks of places()."""
    return length if n == 1 else (2 * n - 1) * length


class Far:
    """The connection to a responder: questions and their answers."""

    def __init__(self, endpoint: Endpoint, descriptor: bytes, transports: Sequence[str] | None, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self.peer: Peer = endpoint.connect(descriptor, timeout, transports)
        try:
            self.nbytes = int(self.ask(do="hello")["nbytes"])
        except KeyError:
            raise InvalidInput(f"{self.peer.name} is no responder: start one with `ping --listen` there") from None

    def ask(self, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.echo(json.dumps(request).encode()))
        if "error" in answer:
            raise InvalidInput(f"{self.peer.name} answered {answer['error']!r} to {request}")
        return answer

    def echo(self, data: bytes) -> bytes:
        """Sends a message and waits for the next one."""
        self.peer.send(data)
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0:
            select.select([self._endpoint], [], [], left)
            for event in self._endpoint.poll():
                if event.peer is None or event.peer.id != self.peer.id:
                    continue
                if event.kind == "message":
                    return event.data
                if event.kind == "lost":
                    raise PeerLost(f"{self.peer.name}: {event.reason}")
        raise DeadlineExceeded(f"{self.peer.name} did not answer within {self._timeout} s")

    def checksum(self, n: int, length: int, seed: int) -> int:
        return int(self.ask(do="crc", n=n, length=length, seed=seed)["crc"])


def stop_on_signals(responder: Responder) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: responder.stop())


@contextlib.contextmanager
def local_responder(nbytes: int, secret_file: Path | None, timeout: float = 30.0) -> Iterator[bytes]:
    """A responder in a process of its own on this host; gives its descriptor. It ends with the block, or with us."""
    command = [sys.executable, "-m", "nano.transfer", "ping", "--listen", "--json", "--child", "--size", str(nbytes)]
    if secret_file is not None:
        command += ["--secret_file", str(secret_file)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], timeout)[0]:
            raise DeadlineExceeded(f"the far process said nothing for {timeout} s")
        line = process.stdout.readline()
        if not line:
            raise PeerLost(f"the far process ended with status {process.wait(timeout)}")
        yield bytes.fromhex(json.loads(line)["descriptor"])
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()

"""A man in the middle of a transfer's TCP connection: cuts the stream into frames and mistreats some of them."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from transfer_frames import HEAD, KINDS, receive_frame

from nano._core.transfer import address_descriptor

ACTIONS = ("drop", "delay", "duplicate", "truncate", "reorder", "corrupt", "cut", "stall")


@dataclass(frozen=True)
class Rule:
    """The nth frame of a kind gets `action`, whichever way it goes; seconds: of a delay. stream: only frames on the
    connection that came as the stream-th are counted."""

    kind: str
    nth: int
    action: str
    seconds: float = 0.05
    stream: int | None = None


class Relay:
    """Listens on a port of its own; what connects there is relayed to `port`, by the rules. A context manager."""

    def __init__(self, port: int, rules: Sequence[Rule], seed: int = 0) -> None:
        self._port = port
        self._rules = {(KINDS[rule.kind], rule.nth, rule.stream): rule for rule in rules}
        self._random = random.Random(seed)
        self._seen: dict[tuple[int, int | None], int] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)

    @property
    def descriptor(self) -> bytes:
        return address_descriptor("127.0.0.1", self._listener.getsockname()[1])

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for s in self._sockets:
            s.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _cut(self) -> None:
        for s in self._sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            for stream in itertools.count():
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                for s in (near, far):
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [near, far]
                self._start(self._pump, near, far, stream)
                self._start(self._pump, far, near, stream)

    def _pump(self, source: socket.socket, target: socket.socket, stream: int) -> None:
        held: list[bytes] = []
        with contextlib.suppress(OSError):
            while frame := receive_frame(source):
                kind = HEAD.unpack_from(frame)[1]
                with self._lock:
                    rule = None
                    for counted in (stream, None):
                        nth = self._seen.get((kind, counted), 0)
                        self._seen[kind, counted] = nth + 1
                        rule = self._rules.get((kind, nth, counted), rule)
                if rule is not None and rule.action == "reorder":
                    held.append(frame)
                    continue
                for out in [frame] if rule is None else self._mistreat(frame, rule):
                    target.sendall(out)
                while held:
                    target.sendall(held.pop())
        for s in (source, target):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def _mistreat(self, frame: bytes, rule: Rule) -> list[bytes]:
        if rule.action == "drop":
            return []
        if rule.action == "delay":
            self._closing.wait(rule.seconds)
        elif rule.action == "duplicate":
            return [frame, frame]
        elif rule.action == "truncate":
            return [frame[: self._random.randrange(len(frame))]]
        elif rule.action == "corrupt":
            # A bit of its head or body; payloads have no check of nano's.
            changed = bytearray(frame)
            body = HEAD.unpack_from(frame)[5]
            changed[self._random.randrange(min(len(frame), HEAD.size + body))] ^= 1 << self._random.randrange(8)
            return [bytes(changed)]
        elif rule.action == "cut":
            self._cut()
        elif rule.action == "stall":
            self._closing.wait(30)  # as a link that is unplugged
        return [frame]


def wait_until(condition: object, seconds: float) -> bool:
    """Looks every millisecond, for what has no event of its own."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True

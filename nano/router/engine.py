"""The connection to one engine: requests out, tokens in, and notice at once when it is gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from nano import wire
from nano.router._text import Choice, dispatch, settle
from nano.wire import EngineInfo, Failure

log = logging.getLogger(__name__)

PING_S = 1.0
SILENT_S = 5.0  # an engine that answers no ping for so long is gone
RETRY_MS = 50  # between attempts to connect: an engine that is back is used within a second
MESSAGES_A_TURN = 64  # then others have the loop


class Owner(Protocol):
    """Whoever asked for a choice. Raises nothing."""

    def progress(self, choice: Choice) -> None:
        """The choice has new text, or its end."""

    def report(self, choice: Choice, token: int, logprobs: wire.TokenLogprobs) -> None:
        """The choice's next token, before `progress` has its text."""


class Engine:
    """One engine, connected for as long as it is registered.

    up: it has answered, so requests may go there. load: requests in flight that it decodes, or prefills.
    changed: called when `up` changes.
    """

    def __init__(
        self,
        name: str,
        info: EngineInfo,
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        hello: wire.Hello,
        changed: Callable[[Engine], None],
    ) -> None:
        self.name = name
        self.info = info
        self.up = False
        self.load = 0
        self.garbage = 0  # frames that were no messages
        self.retired = False  # left the registry: serves what it has and gets nothing new
        self._context = context
        self._loop = loop
        self._hello = wire.encode(hello)
        self._changed = changed
        self._live: dict[int, Choice] = {}
        self._touched: list[Choice] = []
        self._incarnation = info.incarnation  # of who answers
        self._closed = False
        self._again: asyncio.TimerHandle | None = None
        self._open()

    # --- requests ----------------------------------------------------------------------------------------------------

    def submit(self, choice: Choice, request: wire.Generate) -> None:
        self._live[choice.key] = choice
        self.load += 1
        self._send(request)

    def abort(self, choices: Iterable[Choice]) -> None:
        """Forgets the choices and tells the engine; their owners hear nothing more."""
        keys = tuple(choice.key for choice in choices if self._live.pop(choice.key, None) is not None)
        if keys:
            self.load -= len(keys)
            if self.up:
                self._send(wire.Abort(keys))
            self._close_if_idle()

    def expire(self, heard_before: float) -> None:
        """Fails the choices of which nothing was heard since."""
        late = [choice for choice in self._live.values() if choice.heard < heard_before]
        self.abort(late)
        for choice in late:
            self._fail(choice, Failure("deadline", f"engine {self.name}: no token came in time", True))

    # --- life --------------------------------------------------------------------------------------------------------

    def update(self, info: EngineInfo) -> None:
        """What the registry says now."""
        moved = info.address != self.info.address or info.incarnation != self._incarnation
        self.info = info
        self.retired = False
        if moved:
            self._incarnation = info.incarnation
            self.lose("it was restarted")

    def retire(self) -> None:
        self.retired = True
        self._close_if_idle()

    def tick(self) -> None:
        """Once every PING_S."""
        if self._closed or self._socket is None:
            return
        now = time.monotonic()
        if self.up and now - self._heard > SILENT_S:
            self.lose(f"it answered no ping for {SILENT_S:g} s")
        elif self.up:
            self._send(wire.Ping(time.monotonic_ns()))
        elif self._greeted and now - self._greeted > SILENT_S:
            self.lose(f"it sent no welcome for {SILENT_S:g} s")

    def lose(self, why: str, retry_s: float = 0.0) -> None:
        """Fails everything in flight and connects anew."""
        was_up, self.up = self.up, False
        log.log(
            logging.WARNING if was_up else logging.DEBUG,
            *("engine %s at %s: connection lost, %s", self.name, self.info.address, why),
        )
        self._close_socket()
        self._fail_all(Failure("peer_lost", f"engine {self.name}: connection lost, {why}", True))
        if was_up:
            self._changed(self)
        if self.retired:
            self._closed = True
        elif not self._closed:
            self._cancel_again()
            self._again = self._loop.call_later(retry_s, self._open)

    def close(self) -> None:
        self._closed = True
        self._cancel_again()
        self._close_socket()
        self.up = False
        self._fail_all(Failure("aborted", "the router is shutting down", True))

    @property
    def closed(self) -> bool:
        return self._closed

    def _cancel_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _close_if_idle(self) -> None:
        if self.retired and not self._live and not self._closed:
            self.close()
            self._changed(self)

    def _fail_all(self, failure: Failure) -> None:
        lost, self._live = self._live, {}
        self.load -= len(lost)
        for choice in lost.values():
            self._fail(choice, failure)

    def _fail(self, choice: Choice, failure: Failure) -> None:
        choice.fail(failure)
        owner: Owner = choice.owner
        owner.progress(choice)

    # --- socket ------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._closed:
            return
        self._again = None
        self._heard = time.monotonic()
        self._greeted = 0.0  # when the connection came about; 0: not yet
        self._socket: zmq.Socket[bytes] | None = None
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 0  # pings notice an engine that does not read
        socket.reconnect_ivl = RETRY_MS
        self._monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            socket.connect(self.info.address)
        except zmq.ZMQError as error:
            log.error("engine %s: cannot connect to %r: %s", self.name, self.info.address, error)
            socket.disable_monitor()
            self._monitor.close()
            socket.close()
            return
        self._socket = socket
        self._fd = socket.FD
        self._monitor_fd = self._monitor.FD
        self._loop.add_reader(self._fd, self._readable)
        self._loop.add_reader(self._monitor_fd, self._happened)
        socket.send(self._hello)
        self._loop.call_soon(self._happened)
        self._loop.call_soon(self._readable)

    def _close_socket(self) -> None:
        socket, self._socket = self._socket, None
        if socket is None:
            return
        self._loop.remove_reader(self._fd)
        self._loop.remove_reader(self._monitor_fd)
        socket.disable_monitor()
        self._monitor.close()
        socket.close()

    def _send(self, message: wire.Message) -> None:
        if self._socket is None:
            return
        self._socket.send(wire.encode(message), zmq.NOBLOCK)
        # ZMQ's descriptor is edge-triggered, and sending may have eaten the edge.
        if _has_message(self._socket):
            self._loop.call_soon(self._readable)

    def _happened(self) -> None:
        while self._socket is not None and _has_message(self._monitor):
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._greeted = time.monotonic()
            elif event == zmq.EVENT_DISCONNECTED:
                self._readable()  # what it still said
                self.lose("it closed the connection", retry_s=RETRY_MS / 1000)

    def _readable(self) -> None:
        socket = self._socket
        if socket is None:
            return
        for _ in range(MESSAGES_A_TURN):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if not self._receive(frames):
                break
        else:
            self._loop.call_soon(self._readable)
        self._deliver()

    def _receive(self, frames: list[bytes]) -> bool:
        """Whether the connection goes on."""
        self._heard = time.monotonic()
        try:
            if len(frames) != 1:
                raise ValueError(f"expected one frame, got {len(frames)}")
            message = wire.decode(frames[0])
            if isinstance(message, wire.Outputs):
                self._outputs(message)
                return True
        except (msgspec.DecodeError, ValueError, IndexError, RecursionError) as error:
            self.garbage += 1
            log.error("engine %s at %s: it sent what is no message: %s", self.name, self.info.address, error)
            self._deliver()
            self.lose(f"it sent what is no message: {error}", retry_s=0.2)
            return False
        if isinstance(message, wire.Welcome):
            return self._welcome(message)
        if isinstance(message, wire.Rejected):
            log.error("engine %s at %s: it rejected us: %s", self.name, self.info.address, message.reason)
            self.lose(f"it rejected us: {message.reason}", retry_s=1.0)
            return False
        return True

    def _welcome(self, message: wire.Welcome) -> bool:
        if message.version != wire.VERSION or message.name != self.name:
            log.error(
                "engine %s at %s: expected it with version %d, got %s with version %d",
                *(self.name, self.info.address, wire.VERSION, message.name, message.version),
            )
            self.lose("another answered", retry_s=1.0)
            return False
        self._incarnation = message.incarnation
        if not self.up:
            self.up = True
            log.info("engine %s at %s: connected", self.name, self.info.address)
            self._changed(self)
        return True

    def _outputs(self, message: wire.Outputs) -> None:
        dispatch(
            self._live,
            message.keys,
            message.indices,
            message.tokens,
            message.finish,
            message.cached,
            self._heard,
            self._touched,
        )
        if message.logprobs is not None:
            self._report(message)
        for key, failure in message.failures.items():
            choice = self._live.get(key)
            if choice is not None:
                choice.failure = failure

    def _report(self, message: wire.Outputs) -> None:
        keys, tokens = memoryview(message.keys).cast("Q"), memoryview(message.tokens).cast("i")
        for row, logprobs in wire.unpack_logprobs(message.logprobs):
            choice = self._live.get(keys[row])
            if choice is not None and message.finish[row] != wire.STOP:
                choice.owner.report(choice, tokens[row], logprobs)

    def _deliver(self) -> None:
        if not self._touched:
            return
        touched, self._touched = settle(self._touched), []
        broken = []
        for choice in touched:
            if choice.finish == wire.UNFINISHED:
                choice.owner.progress(choice)
                continue
            if choice.fault is not None:
                log.error("engine %s, request %x: %s", self.name, choice.key, choice.fault)
                choice.failure = Failure("internal", f"engine {self.name}: {choice.fault}", False)
            elif choice.finish == wire.FAILED and choice.failure is None:
                choice.failure = Failure("internal", f"engine {self.name}: the request failed without a reason", False)
            if choice.fault is not None or choice.stopped:
                broken.append(choice)  # the engine does not know that it is over
            elif self._live.pop(choice.key, None) is not None:
                self.load -= 1
            choice.owner.progress(choice)
        self.abort(broken)
        self._close_if_idle()


def _has_message(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

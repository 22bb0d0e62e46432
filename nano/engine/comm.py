"""An engine's communication thread: every ZMQ socket lives here, and nowhere else.

It decodes what arrives into the loop's inbox and sends what the loop leaves in its outbox. It relays a prefill
engine's first token to the router by itself, so that a long step here does not hold it back, and it keeps the leases:
whoever connected pings every second, and one that has been silent for LEASE seconds is reported gone.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Union

import msgspec
import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from nano import wire
from nano.engine.inbox import Inbox
from nano.errors import SystemFault

log = logging.getLogger("nano.engine")

PING_INTERVAL = 1.0
LEASE = 10.0  # silence after which the other side counts as gone
CONNECT_DEADLINE = 3.0  # for the first answer of an engine that we connect to


@dataclass(frozen=True)
class FromClient:
    """A message from whoever connected to us (a router or a decode engine)."""

    identity: bytes
    message: wire.Message


@dataclass(frozen=True)
class ClientGone:
    identity: bytes
    reason: str


@dataclass(frozen=True)
class FromEngine:
    """A message from an engine that we connected to."""

    address: str
    message: wire.Message


@dataclass(frozen=True)
class EngineLost:
    address: str
    reason: str


Incoming = Union[FromClient, ClientGone, FromEngine, EngineLost]  # noqa: UP007


@dataclass(frozen=True)
class Relay:
    """Where a first token goes, and when it is also the last."""

    identity: bytes
    key: int
    stop_ids: frozenset[int]
    min_tokens: int
    last: bool  # max_tokens is 1, or the model's length is reached

    def finish(self, token: int) -> int:
        if token in self.stop_ids and self.min_tokens <= 1:
            return wire.STOP
        return wire.LENGTH if self.last else wire.UNFINISHED


def outputs_row(
    key: int, index: int, token: int, finish: int, cached: int = 0, logprobs: wire.Logprobs | None = None
) -> wire.Outputs:
    return wire.Outputs(
        np.array([key], "<u8").tobytes(),
        np.array([index], "<u4").tobytes(),
        np.array([token], "<i4").tobytes(),
        bytes([finish]),
        np.array([cached], "<u4").tobytes(),
        logprobs=logprobs,
    )


def failed_row(key: int, failure: wire.Failure) -> wire.Outputs:
    return msgspec.structs.replace(outputs_row(key, 0, -1, wire.FAILED), failures={key: failure})


class _Link:
    """Our DEALER to one engine."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(address)
        self.address = address
        self.heard = time.monotonic()
        self.welcome = False

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)


class Comm(threading.Thread):
    """`inbox` belongs to the loop's thread; `reply`, `send`, `relay` and `stop` may be called from it."""

    def __init__(self, host: str, port: int, name: str, incarnation: int, inbox: Inbox[Incoming]) -> None:
        super().__init__(name=f"comm-{name}", daemon=True)
        self._name = name
        self._incarnation = incarnation
        self._inbox = inbox
        self._outbox: Inbox[tuple[bytes | str, wire.Message]] = Inbox()
        self._relays: dict[tuple[str, int], Relay] = {}
        self._links: dict[str, _Link] = {}
        self._heard: dict[bytes, float] = {}
        self._stopping = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 500
        self._router.sndhwm = self._router.rcvhwm = 0  # nothing is dropped: who does not read loses its lease
        self._router.router_mandatory = True
        try:
            if port:
                self._router.bind(f"tcp://{host}:{port}")
            else:
                port = self._router.bind_to_random_port(f"tcp://{host}")
        except zmq.ZMQError as error:
            self._router.close(0)
            self._context.term()
            self._outbox.close()
            raise SystemFault(f"engine {name}: cannot listen on {host}:{port} (--host, --port): {error}") from None
        self.address = f"tcp://{host}:{port}"

    # --- called by the loop's thread

    def reply(self, identity: bytes, message: wire.Message) -> None:
        self._outbox.put((identity, message))

    def send(self, address: str, message: wire.Message) -> None:
        self._outbox.put((address, message))

    def relay(self, address: str, key: int, relay: Relay) -> None:
        """The first token that the engine at `address` makes for `key` goes straight to the router."""
        self._relays[address, key] = relay

    def drop_relay(self, address: str, key: int) -> None:
        self._relays.pop((address, key), None)

    def stop(self) -> None:
        """Sends what is in the outbox, closes the sockets and ends the thread."""
        self._stopping = True
        self._outbox.put((b"", wire.Ping(0)))  # wakes the poll; never sent
        self.join(10.0)
        self._outbox.close()

    # --- the thread

    def run(self) -> None:
        try:
            self._serve()
        except Exception:
            log.exception("engine %s: the communication thread ended", self._name)
        finally:
            for link in self._links.values():
                link.close()
            self._router.close()
            self._context.term()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._outbox.fileno(), zmq.POLLIN)
        self._poller = poller
        beat = time.monotonic()
        while True:
            ready = dict(poller.poll(int(PING_INTERVAL * 500)))
            for target, message in self._outbox.drain():
                self._send(target, message)
            if self._stopping:
                return
            if self._router in ready:
                self._receive_clients()
            for link in list(self._links.values()):
                if link.socket in ready:
                    self._receive_engine(link)
                if link.monitor in ready:
                    recv_monitor_message(link.monitor)
                    self._lose(link, "it closed the connection")
            now = time.monotonic()
            if now - beat >= PING_INTERVAL:
                beat = now
                self._beat(now)

    def _send(self, target: bytes | str, message: wire.Message) -> None:
        if isinstance(target, str):
            link = self._links.get(target)
            if link is None:
                link = self._links[target] = _Link(self._context, target)
                self._poller.register(link.socket, zmq.POLLIN)
                self._poller.register(link.monitor, zmq.POLLIN)
                link.socket.send(wire.encode(wire.Hello(wire.VERSION, self._name, self._incarnation)))
            link.socket.send(wire.encode(message))
        elif target:
            try:
                self._router.send_multipart([target, wire.encode(message)], zmq.DONTWAIT)
            except zmq.ZMQError as error:  # it left: its lease ends what it asked for
                log.info("engine %s: a reply was dropped: %s", self._name, error)

    def _receive_clients(self) -> None:
        while True:
            try:
                identity, *frames = self._router.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                message = wire.decode(frames[0] if len(frames) == 1 else b"")
            except msgspec.DecodeError as error:
                log.warning("engine %s: refused a message that is not one of nano's: %s", self._name, error)
                self._send(identity, wire.Rejected(f"not a message of protocol version {wire.VERSION}: {error}"))
                continue
            if isinstance(message, wire.Hello):
                if message.version != wire.VERSION:
                    reason = f"protocol version: expected {wire.VERSION}, got {message.version}"
                    log.warning("engine %s: refused %s: %s", self._name, message.name, reason)
                    self._send(identity, wire.Rejected(reason))
                    continue
                self._heard[identity] = time.monotonic()
                self._send(identity, wire.Welcome(wire.VERSION, self._name, self._incarnation))
            elif identity not in self._heard:
                self._send(identity, wire.Rejected("expected Hello first (or the lease has lapsed)"))
            else:
                self._heard[identity] = time.monotonic()
                if isinstance(message, wire.Ping):
                    self._send(identity, wire.Pong(message.stamp))
                else:
                    self._inbox.put(FromClient(identity, message))

    def _receive_engine(self, link: _Link) -> None:
        while self._links.get(link.address) is link:
            try:
                message = wire.decode(link.socket.recv(zmq.DONTWAIT))
            except zmq.Again:
                return
            except msgspec.DecodeError as error:
                self._lose(link, f"it sent what is not one of nano's messages: {error}")
                return
            link.heard = time.monotonic()
            if isinstance(message, wire.Welcome):
                link.welcome = True
            elif isinstance(message, wire.Rejected):
                self._lose(link, message.reason)
            elif not isinstance(message, wire.Pong):
                if isinstance(message, wire.FirstToken):
                    relay = self._relays.pop((link.address, message.key), None)
                    if relay is not None:
                        finish = relay.finish(message.token)
                        row = outputs_row(relay.key, 0, message.token, finish, message.cached, message.logprobs)
                        self._send(relay.identity, row)
                self._inbox.put(FromEngine(link.address, message))

    def _lose(self, link: _Link, reason: str) -> None:
        if self._links.get(link.address) is not link:
            return
        del self._links[link.address]
        self._poller.unregister(link.socket)
        self._poller.unregister(link.monitor)
        link.close()
        for at in [at for at in self._relays if at[0] == link.address]:
            del self._relays[at]
        self._inbox.put(EngineLost(link.address, reason))

    def _beat(self, now: float) -> None:
        stamp = time.monotonic_ns()
        for link in list(self._links.values()):
            silence = now - link.heard
            if not link.welcome and silence > CONNECT_DEADLINE:
                self._lose(link, f"no answer to Hello within {CONNECT_DEADLINE:.0f} s")
            elif silence > LEASE:
                self._lose(link, f"silent for {silence:.1f} s")
            else:
                link.socket.send(wire.encode(wire.Ping(stamp)))
        for identity in [identity for identity, heard in self._heard.items() if now - heard > LEASE]:
            del self._heard[identity]
            self._inbox.put(ClientGone(identity, f"silent for more than {LEASE:.0f} s"))

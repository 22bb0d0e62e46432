"""Threads that tell the launcher which engines are registered, and when the router is ready."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from nano.ctrl import Event, Registry, Watch
from nano.errors import NanoError


@dataclass(frozen=True)
class Registered:
    """A change of the registry's engines."""

    event: Event


@dataclass(frozen=True)
class RouterReady:
    """The router has answered /ready with 200."""


@dataclass(frozen=True)
class Broken:
    """The registry cannot be watched any more."""

    error: NanoError


class EngineWatch:
    """Puts a Registered on `events` for every change."""

    def __init__(self, registry: Registry, events: SimpleQueue[Any]) -> None:
        self._watch: Watch = registry.watch("engine")
        self._events = events
        threading.Thread(target=self._run, name="nano-serve-watch", daemon=True).start()

    def close(self) -> None:
        self._watch.close()

    def _run(self) -> None:
        try:
            for event in self._watch:
                self._events.put(Registered(event))
        except NanoError as error:
            self._events.put(Broken(error))


class RouterProbe:
    """Asks the router every `interval` seconds until it is ready, puts one RouterReady on `events`, and ends."""

    def __init__(self, host: str, port: int, events: SimpleQueue[Any], interval: float = 0.1) -> None:
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self._port = port
        self._events = events
        self._interval = interval
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="nano-serve-probe", daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            if self._ready():
                self._events.put(RouterReady())
                return

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=2.0)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False  # it does not listen yet
        finally:
            connection.close()

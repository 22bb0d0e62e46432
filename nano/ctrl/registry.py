"""The registry as its users see it, whatever carries it."""

from __future__ import annotations

import logging
import secrets
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Literal

from nano.ctrl.entry import Entry, check_entry, check_kind, check_scope, encode_meta
from nano.ctrl.watch import Watch
from nano.errors import Closed, InvalidInput, NanoError, Refused

logger = logging.getLogger("nano.ctrl")

Answer = Literal["ok", "unknown", "replaced"]


class Registry(ABC):
    """One scope of a service registry. Thread-safe; every call has a deadline and raises PeerLost beyond it."""

    def __init__(self, address: str, scope: str, timeout: float) -> None:
        check_scope(scope)
        if not timeout > 0:
            raise InvalidInput(f"timeout: expected seconds > 0, got {timeout}")
        self.address = address
        self.scope = scope
        self.timeout = timeout

    def register(
        self, kind: str, name: str, meta: dict[str, Any], *, incarnation: int = 0, lease: float = 60.0
    ) -> Registration:
        """Adds `kind`/`name`, which stays while it is renewed within each `lease` (seconds, 0.5 to 86400).

        incarnation: names this run of the service; 0 draws one. An entry of another incarnation is replaced. Raises
        InvalidInput, PeerLost.
        """
        check_entry(kind, name, incarnation, lease)
        encode_meta(meta)
        registration = Registration(self, kind, name, meta, incarnation or secrets.randbits(52) + 1, lease)
        registration.renew()
        return registration

    @abstractmethod
    def list(self, kind: str | None = None) -> list[Entry]:
        """Entries whose lease runs, by kind and name."""

    def watch(self, kind: str | None = None) -> Watch:
        """Events of this scope, from a first snapshot on."""
        if kind is not None:
            check_kind(kind)
        return self._watch(kind)

    def remove(self, entry: Entry) -> bool:
        """Unregisters on behalf of a service that is known to be dead; False when that incarnation had gone already."""
        return self._unregister(entry.kind, entry.name, entry.incarnation) == "ok"

    @abstractmethod
    def close(self) -> None:
        """Closes the connections. Watches and registrations are closed by whoever made them, before. Idempotent."""

    @abstractmethod
    def _watch(self, kind: str | None) -> Watch: ...

    @abstractmethod
    def _register(self, kind: str, name: str, incarnation: int, lease: float, meta: dict[str, Any]) -> int: ...

    @abstractmethod
    def _heartbeat(self, kind: str, name: str, incarnation: int) -> Answer: ...

    @abstractmethod
    def _update(self, kind: str, name: str, incarnation: int, meta: dict[str, Any]) -> Answer: ...

    @abstractmethod
    def _unregister(self, kind: str, name: str, incarnation: int) -> Answer: ...

    @abstractmethod
    def _pause(self) -> Pause:
        """What a keep-alive thread waits on between heartbeats."""

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Pause(ABC):
    """A wait that ends early when the registry goes away, or when woken."""

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Raises PeerLost as soon as the registry's connection breaks, where the transport can tell."""

    @abstractmethod
    def wake(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Called by the waiting thread when it ends."""


class Registration:
    """An entry that this process registered. Thread-safe."""

    def __init__(
        self, registry: Registry, kind: str, name: str, meta: dict[str, Any], incarnation: int, lease: float
    ) -> None:
        self.kind = kind
        self.name = name
        self.incarnation = incarnation
        self.lease = lease
        self._registry = registry
        self._meta = meta
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._replaced = False
        self._thread: threading.Thread | None = None
        self._pause: Pause | None = None

    @property
    def meta(self) -> dict[str, Any]:
        return self._meta

    @property
    def replaced(self) -> bool:
        """Whether another incarnation was seen to have taken the name."""
        return self._replaced

    def renew(self) -> None:
        """Registers (again) with the present meta."""
        with self._lock:
            self._check_open()
            self._registry._register(self.kind, self.name, self.incarnation, self.lease, self._meta)

    def heartbeat(self) -> None:
        """Renews the lease; registers again if the registry lost the entry.

        Raises Refused when another incarnation has taken the name, Closed, PeerLost.
        """
        with self._lock:
            self._check_open()
            self._settle("heartbeat", self._registry._heartbeat(self.kind, self.name, self.incarnation))

    def update(self, meta: dict[str, Any]) -> None:
        """Replaces the meta and renews the lease. Raises as `heartbeat` does, and InvalidInput."""
        encode_meta(meta)
        with self._lock:
            self._check_open()
            self._meta = meta
            self._settle("update", self._registry._update(self.kind, self.name, self.incarnation, meta))

    def keep_alive(self, interval: float = 15.0) -> None:
        """Starts a daemon thread that renews the lease every `interval` seconds until `close`.

        It registers again when the registry lost the entry, and goes on trying while the registry is away. It ends,
        with an error in the log, when another incarnation takes the name.
        """
        if not 0 < interval < self.lease:
            raise InvalidInput(f"keep_alive: expected 0 < interval < lease ({self.lease} s), got {interval}")
        with self._lock:
            self._check_open()
            if self._thread is not None:
                raise InvalidInput(f"keep_alive: {self.kind}/{self.name} has a keep-alive thread already")
            self._pause = self._registry._pause()
            self._thread = threading.Thread(
                target=self._keep, args=(self._pause, interval), name=f"nano-lease-{self.name}", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Unregisters. Idempotent. When the registry is away, the entry ends with its lease (logged)."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        if self._thread is not None and self._pause is not None:
            self._pause.wake()
            self._thread.join(timeout=self._registry.timeout)
        try:
            self._registry._unregister(self.kind, self.name, self.incarnation)
        except NanoError as error:
            logger.warning("%s/%s stays registered until its lease ends: %s", self.kind, self.name, error)

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise Closed(f"registration {self.kind}/{self.name} is closed")

    def _settle(self, operation: str, answer: Answer) -> None:
        if answer == "unknown":
            logger.warning("%s/%s was not registered any more; registering again", self.kind, self.name)
            self._registry._register(self.kind, self.name, self.incarnation, self.lease, self._meta)
        elif answer == "replaced":
            self._replaced = True
            raise Refused(f"{operation}: another incarnation has taken the name {self.kind}/{self.name}")

    def _keep(self, pause: Pause, interval: float) -> None:
        try:
            self._keep_until_closed(pause, interval)
        finally:
            pause.close()

    def _keep_until_closed(self, pause: Pause, interval: float) -> None:
        away = False
        while not self._closing.is_set():
            try:
                if not away:
                    pause.wait(interval)
                self.heartbeat()
                if away:
                    logger.info("registry %s is back", self._registry.address)
                away = False
            except Closed:
                return
            except Refused as error:
                logger.error("keep-alive ends: %s", error)
                return
            except NanoError as error:
                if not away:
                    logger.warning("registry is away, trying on: %s", error)
                away = True
                self._closing.wait(min(interval, 0.5))

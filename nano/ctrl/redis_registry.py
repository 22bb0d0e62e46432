"""The registry on Redis 6.2 or newer (or Valkey)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from nano.ctrl.blocking import StreamWaiter
from nano.ctrl.entry import Entry, Event, check_kind, encode_meta
from nano.ctrl.redis_errors import printable, translated
from nano.ctrl.registry import Answer, Pause, Registry
from nano.ctrl.scripts import Scripts
from nano.ctrl.watch import Watch
from nano.errors import InvalidInput

EVENTS_KEPT = 1024  # in the capped stream; a watcher further behind takes a snapshot


class RedisRegistry(Registry):
    """Keys: see lua/prelude.lua. `events_kept` caps the event stream."""

    def __init__(
        self, url: str, scope: str = "default", timeout: float = 5.0, *, events_kept: int = EVENTS_KEPT
    ) -> None:
        super().__init__(printable(url), scope, timeout)
        self._url = url
        self._cap = events_kept
        try:
            self._client: redis.Redis = redis.Redis.from_url(
                url,
                protocol=2,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                # A timeout is not tried again: the caller's deadline is one timeout.
                retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 2, supported_errors=(redis.ConnectionError,)),
            )
        except ValueError as error:
            raise InvalidInput(f"connect: expected redis://, rediss:// or unix:// address, got {url!r}") from error
        self._scripts = Scripts(self._client, scope)

    def list(self, kind: str | None = None) -> list[Entry]:
        if kind is not None:
            check_kind(kind)
        entries = _entries(self._run("list"))
        return sorted((e for e in entries if kind in (None, e.kind)), key=lambda e: (e.kind, e.name))

    def close(self) -> None:
        self._client.close()

    def _run(self, name: str, *args: str | bytes | int) -> Any:
        with translated(name, self._url):
            return self._scripts(name, *args)

    def _register(self, kind: str, name: str, incarnation: int, lease: float, meta: dict[str, Any]) -> int:
        milliseconds = int(lease * 1000)
        args = (self._cap, f"{kind}/{name}", incarnation, milliseconds, encode_meta(meta))
        return int(self._run("register", *args))

    def _heartbeat(self, kind: str, name: str, incarnation: int) -> Answer:
        return _answer(self._run("heartbeat", self._cap, f"{kind}/{name}", incarnation))

    def _update(self, kind: str, name: str, incarnation: int, meta: dict[str, Any]) -> Answer:
        return _answer(self._run("update", self._cap, f"{kind}/{name}", incarnation, encode_meta(meta)))

    def _unregister(self, kind: str, name: str, incarnation: int) -> Answer:
        return _answer(self._run("unregister", self._cap, f"{kind}/{name}", incarnation))

    def _sweep(self) -> tuple[str, int, float]:
        """(epoch, revision, seconds until the next sweep)."""
        epoch, revision, interval = self._run("sweep", self._cap)
        return epoch.decode(), int(revision), interval / 1000

    def _snapshot(self) -> tuple[str, int, tuple[Entry, ...]]:
        """(epoch, revision, entries)."""
        epoch, revision, flat = self._run("snapshot")
        return epoch.decode(), int(revision), _entries(flat)

    def _watch(self, kind: str | None) -> Watch:
        return RedisWatch(self, kind)

    def _pause(self) -> Pause:
        # A stream that nobody writes to: the wait ends when the connection does.
        return self._waiter(f"nano:{{{self.scope}}}:nothing")

    def _waiter(self, key: str) -> StreamWaiter:
        return StreamWaiter(self._url, key, self.timeout)


class RedisWatch(Watch):
    """Reads the event stream, and sweeps."""

    def __init__(self, registry: RedisRegistry, kind: str | None) -> None:
        super().__init__(kind, f"{registry.scope}")
        self._registry = registry
        self._waiter = registry._waiter(registry._scripts.events_key)
        self._start()

    def _wake(self) -> None:
        self._waiter.wake()

    def _follow(self) -> None:
        registry, waiter = self._registry, self._waiter
        waiter.connect()
        _, _, interval = registry._sweep()
        epoch, revision, entries = registry._snapshot()
        self._offer(Event(type="snapshot", revision=revision, entries=entries))
        due = time.monotonic() + interval
        while not self._closing.is_set():
            for at, values in waiter.read(revision, due - time.monotonic()):
                if at != revision + 1:
                    return
                revision = at
                entry = _entry(values[b"id"], values[b"record"])
                type = values[b"type"].decode()
                if not self._offer(Event(type=type, revision=at, entry=entry)):
                    return
                if type == "added":
                    due = 0.0  # its lease may be shorter than all before
            if time.monotonic() >= due:
                now, latest, interval = registry._sweep()
                if now != epoch or latest < revision:
                    return
                due = time.monotonic() + interval

    def _run(self) -> None:
        try:
            super()._run()
        finally:
            self._waiter.close()


def _entries(flat: Sequence[bytes]) -> tuple[Entry, ...]:
    return tuple(_entry(at, record) for at, record in zip(flat[::2], flat[1::2], strict=True))


def _entry(at: bytes, record: bytes) -> Entry:
    kind, name = at.decode().split("/", 1)
    incarnation, revision, _, meta = record.split(b" ", 3)
    return Entry(kind, name, int(incarnation), msgspec.json.decode(meta), int(revision))


def _answer(answer: bytes) -> Answer:
    match answer:
        case b"ok":
            return "ok"
        case b"unknown":
            return "unknown"
        case _:
            return "replaced"

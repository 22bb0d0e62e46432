"""A Redis connection of its own for waiting on a stream, which another thread can wake."""

from __future__ import annotations

import threading
import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nano.ctrl.redis_errors import translated
from nano.ctrl.registry import Pause
from nano.errors import PeerLost

WAKE_SECONDS = 0.5  # that a wake may take; without it the reader looks up by itself, within its timeout


class StreamWaiter(Pause):
    """XREAD BLOCK on one stream. A broken connection is an error here, never a silent reconnect."""

    def __init__(self, url: str, key: str, timeout: float) -> None:
        self._url = url
        self._key = key
        self._timeout = timeout
        self._client: redis.Redis | None = None
        self._connection_id = 0
        self._woken = threading.Event()
        self._reading = threading.Lock()

    def connect(self) -> None:
        """Opens the connection anew."""
        self.close()
        with translated("watch", self._url):
            self._client = self._connected(self._timeout, single=True)
            self._connection_id = int(self._client.client_id())

    def read(self, last: int, seconds: float) -> list[tuple[int, dict[bytes, bytes]]]:
        """Events after revision `last`; waits up to `seconds` for one. Empty: none came, woken, or not connected."""
        deadline = time.monotonic() + seconds
        while True:
            with self._reading:
                left = deadline - time.monotonic()
                if self._client is None or left <= 0 or self._woken.is_set():
                    return []
                # Below the socket's timeout, so that only a Redis that does not answer trips it.
                block = max(1, int(min(left, self._timeout / 2) * 1000))
                with translated("watch", self._url):
                    answer: Any = self._client.xread({self._key: f"{last}-0"}, block=block)
            if answer:
                return [(int(at.split(b"-")[0]), values) for at, values in answer[0][1]]

    def wait(self, seconds: float) -> None:
        if self._client is None:
            self.connect()
        try:
            self.read(0, seconds)
        except PeerLost:
            self.close()
            raise

    def wake(self) -> None:
        self._woken.set()
        deadline = time.monotonic() + WAKE_SECONDS
        client = self._connected(WAKE_SECONDS, single=False)
        try:
            while not self._reading.acquire(timeout=0.002):
                if time.monotonic() > deadline or self._client is None:
                    return
                with translated("wake", self._url):
                    client.client_unblock(self._connection_id)
            self._reading.release()
        except PeerLost:
            return  # the reader's own connection is as dead, or its timeout is near
        finally:
            client.close()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self, timeout: float, single: bool) -> redis.Redis:
        return redis.Redis.from_url(
            self._url,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=single,
        )

"""A watch: a bounded queue of events, filled by one background thread."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from types import TracebackType

from nano.ctrl.entry import Event
from nano.errors import PeerLost, SystemFault

MAX_PENDING = 4096  # events that nobody took; beyond, they give way to a fresh snapshot
PING_SECONDS = 2.0  # over HTTP an idle watch carries a comment this often: silence is a dead connection
_RETRY_DELAYS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds between attempts to reach a registry that is away


class Watch(ABC):
    """Iterator over a registry's events: first a "snapshot", then changes, and a new "snapshot" wherever changes may
    have been missed (the watcher was slow or away, the registry restarted, the connection broke). While the registry
    cannot be reached nothing comes. `get` and iteration may be used from any thread.
    """

    def __init__(self, kind: str | None, label: str) -> None:
        self._kind = kind
        self._pending: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"nano-watch-{label}", daemon=True)

    def _start(self) -> None:
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None when `timeout` seconds passed without one, or the watch is closed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._pending:
                if self._failure is not None:
                    raise self._failure
                left = None if deadline is None else deadline - time.monotonic()
                if self._closing.is_set() or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)
            return None if self._closing.is_set() else self._pending.popleft()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self.get()
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Wakes whoever waits, and ends the thread. Idempotent."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._wake()
            # A registry that is frozen holds the thread until its socket times out; nothing waits for that.
            self._thread.join(timeout=1.0)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _follow(self) -> None:
        """Connects, offers a snapshot and then every change, until closed or behind (returns) or cut off (raises)."""

    @abstractmethod
    def _wake(self) -> None:
        """Makes a blocked `_follow` look at `_closing` soon."""

    def _offer(self, event: Event) -> bool:
        """Queues an event; False when it did not fit, and a snapshot must follow."""
        if self._kind is not None:
            if event.entry is not None and event.entry.kind != self._kind:
                return True
            event = Event(
                type=event.type,
                revision=event.revision,
                entry=event.entry,
                entries=tuple(entry for entry in event.entries if entry.kind == self._kind),
            )
        with self._changed:
            full = len(self._pending) >= MAX_PENDING
            if full:
                self._pending.clear()
            if not full or event.type == "snapshot":
                self._pending.append(event)
                self._changed.notify()
                return True
            return False

    def _run(self) -> None:
        attempt = 0
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                self._follow()
                attempt = 0
            except (PeerLost, SystemFault):
                if time.monotonic() - began > 5.0:
                    attempt = 0
                self._closing.wait(_RETRY_DELAYS[min(attempt, len(_RETRY_DELAYS) - 1)])
                attempt += 1
            except Exception as error:
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return

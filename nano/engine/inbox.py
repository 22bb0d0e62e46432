"""What other threads leave for a loop's thread: a queue that wakes a poll."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Many writers, one reader. `fileno()` is readable when something was put since the last `drain`."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._awake = False

    def fileno(self) -> int:
        return self._event

    def put(self, item: T) -> None:
        self._items.append(item)
        if not self._awake:  # one wake-up a drain is enough; a race costs one write more
            self._awake = True
            os.eventfd_write(self._event, 1)

    def drain(self) -> Iterator[T]:
        # Cleared before the queue is read: an item put from here on wakes the next poll.
        self._awake = False
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            pass  # nothing was put, or the writer has not reached its write yet: then the next drain reads it
        while self._items:
            yield self._items.popleft()

    def __len__(self) -> int:
        return len(self._items)

    def close(self) -> None:
        os.close(self._event)

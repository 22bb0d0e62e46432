"""A mesh of endpoints: one connection a pair, made when it is first needed and again after it was lost."""

from __future__ import annotations

import contextlib
import os
import random
import select
import threading
import time
from collections.abc import Iterable, Sequence

from nano._core.transfer import Endpoint, Event, Peer, parse_descriptor
from nano.errors import Closed, DeadlineExceeded, InvalidInput, NanoError, PeerLost

MAX_WAITING = 4096  # events taken in, and not yet polled


class Mesh:
    """Peers by name, over one endpoint; safe to use from many threads.

    Every member has a name of its own: that of its endpoint. A member's connection is made by the first call of
    peer() on either side, and both sides use it. When both sides dial at the same moment, both connections live, and
    both sides choose the one that the smaller name dialled; the other is closed at once if nobody has been handed it.
    The mesh reads the endpoint's events: call its poll() and fileno() instead of the endpoint's.

    descriptors: the members known from the start; one's own is skipped, so that all can be given the same list.
    transports: those to dial with. attempt: seconds that one attempt to connect may take. backoff: seconds until the
    second attempt and the longest time between two; it doubles from attempt to attempt and is shared by all threads.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        descriptors: Iterable[bytes] = (),
        *,
        transports: Sequence[str] | None = None,
        attempt: float = 5.0,
        backoff: tuple[float, float] = (0.05, 2.0),
    ) -> None:
        if attempt <= 0 or not 0 < backoff[0] <= backoff[1]:
            raise InvalidInput(f"Mesh: expected attempt > 0 and 0 < backoff[0] <= backoff[1], got {attempt}, {backoff}")
        self._endpoint = endpoint
        self._transports = transports
        self._attempt = attempt
        self._backoff = backoff
        self._changed = threading.Condition()
        self._members: dict[str, _Member] = {}
        self._events: list[Event] = []
        self._closed = False
        for descriptor in descriptors:
            self.add(descriptor)
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(endpoint.fileno(), select.EPOLLIN)
        self._epoll.register(self._ready, select.EPOLLIN)

    def add(self, descriptor: bytes) -> str:
        """Makes an endpoint a member, without connecting, and returns its name.

        Another descriptor for a known name means that it was started anew: connections dialled to the old one end.
        """
        name = parse_descriptor(descriptor)[0]
        if name == self._endpoint.name:
            if descriptor != self._endpoint.descriptor():
                raise InvalidInput(f"Mesh.add: {name} is this endpoint's own name; members need names of their own")
            return name
        stale: list[Peer] = []
        with self._changed:
            self._check_open()
            member = self._members.setdefault(name, _Member())
            if descriptor != member.descriptor:
                member.descriptor = descriptor
                member.attempts, member.not_before, member.error = 0, 0.0, None
                stale = [link.peer for link in member.links if link.dialled]
                member.links = [link for link in member.links if not link.dialled]
                self._changed.notify_all()
        for peer in stale:
            peer.close()
        return name

    def remove(self, name: str) -> None:
        """Ends the connections to a member and forgets it. Unknown names are ignored."""
        with self._changed:
            member = self._members.pop(name, None)
            self._changed.notify_all()
        for link in member.links if member else []:
            link.peer.close()

    def members(self) -> list[str]:
        """The names known, in alphabetical order, connected or not."""
        with self._changed:
            return sorted(self._members)

    def connected(self) -> dict[str, Peer]:
        """The members that have a live connection, and it."""
        with self._changed:
            self._check_open()
            self._drain()
            found = {name: self._best(name, member) for name, member in self._members.items()}
        return {name: peer for name, peer in sorted(found.items()) if peer is not None}

    def peer(self, name: str, timeout: float = 10.0) -> Peer:
        """The live connection to a member, made if there is none, within `timeout` seconds.

        While the member cannot be reached it is tried again with growing pauses. Raises Refused at once (secret,
        version, no transport in common), PeerLost or DeadlineExceeded with the last attempt's reason when the time is
        over, Closed, and InvalidInput for a name that is unknown.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                found = self._find(name, deadline)
                if isinstance(found, Peer):
                    return found
                member, descriptor = found, found.descriptor
                assert descriptor is not None
                member.dialling = True
            try:
                dialled = self._dial(name, member, descriptor, deadline)
            finally:
                with self._changed:
                    member.dialling = False
                    self._changed.notify_all()
            if dialled is not None:
                return dialled

    def poll(self) -> list[Event]:
        """The endpoint's events since the last call, in order; "joined" and "lost" are those of single connections."""
        with self._changed:
            self._check_open()
            self._drain()
            events, self._events = self._events, []
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._ready)
        return events

    def fileno(self) -> int:
        """A descriptor that is readable while poll() has something to return."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Ends the members' connections, not the endpoint. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            links = [link for member in self._members.values() for link in member.links]
            self._members.clear()
            self._changed.notify_all()
            self._epoll.close()
            os.close(self._ready)
        for link in links:
            link.peer.close()

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"Mesh of {self._endpoint.name}: closed")

    def _find(self, name: str, deadline: float) -> Peer | _Member:
        """Waits for a live connection or for this thread's turn to dial, which the member returned means."""
        while True:
            self._check_open()
            self._drain()
            member = self._members.get(name)
            if member is None:
                known = ", ".join(sorted(self._members)) or "none"
                raise InvalidInput(f"Mesh of {self._endpoint.name}: no member {name}, known: {known}")
            best = self._best(name, member)
            # While the smaller name dials, the other side may yet close what it dialled itself: that waits.
            if best is not None and not (member.dialling and self._endpoint.name < name):
                return best
            if member.descriptor is None:
                del self._members[name]  # it had dialled, and is gone
                continue
            now = time.monotonic()
            if now >= deadline:
                if member.error is not None:
                    raise type(member.error)(str(member.error))
                raise DeadlineExceeded(f"Mesh of {self._endpoint.name}: member {name} not connected within the timeout")
            if member.dialling:
                self._changed.wait(deadline - now)
            elif now < member.not_before:
                self._changed.wait(min(deadline, member.not_before) - now)
            else:
                return member

    def _dial(self, name: str, member: _Member, descriptor: bytes, deadline: float) -> Peer | None:
        """One attempt. None: it failed, or the member changed meanwhile."""
        limit = min(self._attempt, max(deadline - time.monotonic(), 0.001))
        try:
            peer = self._endpoint.connect(descriptor, limit, self._transports)
        except (PeerLost, DeadlineExceeded) as error:
            with self._changed:
                if member.descriptor == descriptor:
                    pause = min(self._backoff[0] * 2**member.attempts, self._backoff[1])
                    member.attempts = min(member.attempts + 1, 32)
                    # Uneven, so that two that dial each other do not stay in step.
                    member.not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
                    member.error = error
            return None
        if peer.name != name:
            peer.close()
            raise InvalidInput(f"Mesh of {self._endpoint.name}: expected {name} at its address, found {peer.name}")
        best = None
        with self._changed:
            self._drain()
            if not self._closed and self._members.get(name) is member and member.descriptor == descriptor:
                member.attempts, member.not_before, member.error = 0, 0.0, None
                best = self._best(name, member)
                if best is None or self._endpoint.name < name:
                    member.links.append(_Link(peer, dialled=True))
                    return peer
        peer.close()
        return best

    def _best(self, name: str, member: _Member) -> Peer | None:
        """The newest of those that the smaller name dialled, else the newest."""
        member.links = [link for link in member.links if not link.peer.closed]
        dialled = self._endpoint.name < name
        return (
            max(member.links, key=lambda link: (link.dialled == dialled, link.peer.id)).peer if member.links else None
        )

    def _drain(self) -> None:
        """Takes the endpoint's events in, under the lock. What nobody polls waits in the endpoint, which has limits."""
        if self._closed or len(self._events) >= MAX_WAITING:
            return
        events = self._endpoint.poll()
        for event in events:
            peer = event.peer
            if event.kind == "joined" and peer is not None:
                self._members.setdefault(peer.name, _Member()).links.append(_Link(peer, dialled=False))
            elif event.kind == "lost" and peer is not None and peer.name in self._members:
                member = self._members[peer.name]
                member.links = [link for link in member.links if link.peer.id != peer.id]
                if not member.links and member.descriptor is None:
                    del self._members[peer.name]
        if events:
            self._events += events
            os.eventfd_write(self._ready, 1)
            self._changed.notify_all()


class _Link:
    """One live connection to a member."""

    def __init__(self, peer: Peer, dialled: bool) -> None:
        self.peer = peer
        self.dialled = dialled  # by this side


class _Member:
    def __init__(self) -> None:
        self.descriptor: bytes | None = None  # None: it dialled us, and we cannot dial it
        self.links: list[_Link] = []
        self.dialling = False  # by one thread at a time
        self.attempts = 0  # failed ones in a row
        self.not_before = 0.0  # time.monotonic() of the next attempt
        self.error: NanoError | None = None  # of the last one

"""Redis frozen, killed and restarted; a watcher that was away; a registrant that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nano.ctrl import Event, connect
from nano.ctrl.embedded import find_server
from nano.ctrl.ports import pick_free
from nano.ctrl.redis_registry import RedisRegistry
from nano.ctrl.watch import Watch
from nano.errors import PeerLost


class Server:
    """A Redis that can be frozen, killed, and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "r.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [find_server(), "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", "/tmp"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 5
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        client.close()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(5)

    def close(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(5)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("r"))
    yield server
    server.close()


@pytest.fixture
def service(server: Server) -> Iterator[str]:
    """host:port of an HTTP service before that Redis."""
    port = pick_free("127.0.0.1")
    command = [sys.executable, "-m", "nano.ctrl", "--port", str(port), "--redis_url", server.url, "--timeout", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"registry on")
        deadline = time.monotonic() + 10
        while True:
            try:
                connect(f"127.0.0.1:{port}", timeout=2).list()
                break
            except PeerLost:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield f"127.0.0.1:{port}"
        process.terminate()
        assert process.wait(10) == 0


def get(watch: Watch, type: str, timeout: float = 5.0) -> Event:
    event = watch.get(timeout)
    assert event is not None, f"expected {type}, got nothing within {timeout} s"
    assert event.type == type, f"expected {type}, got {event}"
    return event


def view_until(watch: Watch, names: set[str], timeout: float = 5.0) -> Event:
    """Follows the watch until it says that exactly these are registered; returns the event that said so."""
    view: set[str] | None = None
    deadline = time.monotonic() + timeout
    while True:
        event = watch.get(max(0.0, deadline - time.monotonic()))
        assert event is not None, f"the view stayed {view} for {timeout} s, expected {names}"
        if event.type == "snapshot":
            view = {entry.name for entry in event.entries}
        else:
            assert event.entry is not None
            view = (view or set()) - {event.entry.name}
            if event.type in ("added", "updated"):
                view.add(event.entry.name)
        if view == names:
            return event


def test_redis_frozen_for_two_leases_ends_no_live_lease(server: Server) -> None:
    with connect(server.url, timeout=1.0) as registry, registry.watch() as watch:
        get(watch, "snapshot")
        with registry.register("engine", "live", {}, lease=1.0) as registration:
            registration.keep_alive(0.25)
            get(watch, "added")
            assert watch.get(0.6) is None  # sweeps ran
            server.signal(signal.SIGSTOP)
            time.sleep(2.0)
            server.signal(signal.SIGCONT)
            deadline = time.monotonic() + 2.5
            while (event := watch.get(max(0.0, deadline - time.monotonic()))) is not None:
                assert event.type == "snapshot", event
                assert [e.name for e in event.entries] == ["live"]
            assert [e.name for e in registry.list()] == ["live"]


def test_after_a_freeze_a_dead_entry_is_still_lost(server: Server) -> None:
    with connect(server.url, timeout=1.0) as registry, registry.watch() as watch:
        get(watch, "snapshot")
        registry.register("engine", "dead", {}, lease=1.0)
        get(watch, "added")
        server.signal(signal.SIGSTOP)
        time.sleep(1.5)
        server.signal(signal.SIGCONT)
        began = time.monotonic()
        view_until(watch, set())
        assert time.monotonic() - began < 2.5


def test_calls_to_a_frozen_redis_fail_at_their_deadline(server: Server) -> None:
    with connect(server.url, timeout=0.5) as registry:
        registry.list()
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(PeerLost):
            registry.list()
        assert 0.4 < time.monotonic() - began < 1.5
        server.signal(signal.SIGCONT)
        assert registry.list() == []


@pytest.mark.parametrize("over_http", [False, True])
def test_redis_killed_and_restarted_empty_gives_a_snapshot_and_everyone_back(
    server: Server, over_http: bool, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue("service") if over_http else server.url
    with connect(address, timeout=1.0) as registry, registry.watch() as watch:
        get(watch, "snapshot")
        with registry.register("engine", "a", {"x": 1}, lease=60.0) as registration:
            registration.keep_alive(15.0)
            get(watch, "added")
            server.signal(signal.SIGKILL)
            with pytest.raises(PeerLost):
                registry.list()
            time.sleep(0.5)
            server.start()
            began = time.monotonic()
            view_until(watch, {"a"})
            # Long before the next heartbeat: a keep-alive thread notices the broken connection.
            assert time.monotonic() - began < 3.0
            (entry,) = registry.list()
            assert (entry.meta, entry.incarnation) == ({"x": 1}, registration.incarnation)


def test_data_wiped_under_a_watcher_gives_a_snapshot(server: Server) -> None:
    with connect(server.url) as registry, registry.watch() as watch:
        get(watch, "snapshot")
        for name in "abc":
            registry.register("engine", name, {})
            get(watch, "added")
        client = redis.Redis.from_url(server.url)
        client.flushall()
        client.close()
        registry.register("engine", "after", {})
        assert view_until(watch, {"after"}).type == "snapshot"


def test_a_broken_connection_gives_a_snapshot(server: Server) -> None:
    with connect(server.url) as registry, registry.watch() as watch:
        get(watch, "snapshot")
        registry.register("engine", "a", {})
        get(watch, "added")
        client = redis.Redis.from_url(server.url)
        client.client_kill_filter(_type="normal", skipme=True)
        client.close()
        assert [e.name for e in get(watch, "snapshot").entries] == ["a"]


WATCHER = """
import sys
from nano.ctrl import connect
for event in connect(sys.argv[1]).watch():
    names = [e.name for e in event.entries] or [event.entry and event.entry.name]
    print(event.type, event.revision, *names, flush=True)
"""


def test_a_watcher_away_beyond_the_kept_events_gets_a_snapshot(server: Server) -> None:
    with (
        RedisRegistry(server.url, events_kept=16) as registry,
        subprocess.Popen([sys.executable, "-c", WATCHER, server.url], stdout=subprocess.PIPE, text=True) as watcher,
    ):
        assert watcher.stdout is not None
        assert watcher.stdout.readline().split()[:2] == ["snapshot", "0"]
        first = registry.register("engine", "first", {})
        assert watcher.stdout.readline().split() == ["added", "1", "first"]
        watcher.send_signal(signal.SIGSTOP)
        for i in range(40):
            first.update({"i": i})
        registry.register("engine", "second", {})
        watcher.send_signal(signal.SIGCONT)
        revision, names = 1, []
        while revision < 42:
            kind, at, *names = watcher.stdout.readline().split()
            # Whatever had reached its socket before is contiguous; then the gap is bridged by a snapshot.
            assert kind == "snapshot" or int(at) == revision + 1
            revision = int(at)
        assert kind == "snapshot"
        assert sorted(names) == ["first", "second"]
        watcher.kill()


def test_a_killed_registrant_is_lost_within_its_lease_and_a_sweep(server: Server) -> None:
    code = (
        "import sys\nfrom nano.ctrl import connect\n"
        "connect(sys.argv[1]).register('engine', 'victim', {}, lease=1.0).keep_alive(0.2)\ninput()"
    )
    with connect(server.url) as registry, registry.watch() as watch:
        get(watch, "snapshot")
        with subprocess.Popen([sys.executable, "-c", code, server.url], stdin=subprocess.PIPE) as victim:
            get(watch, "added", 10.0)
            victim.kill()
        began = time.monotonic()
        get(watch, "lost")
        assert time.monotonic() - began < 2.0


def test_closing_while_redis_is_gone_is_bounded(server: Server) -> None:
    with connect(server.url, timeout=1.0) as registry:
        watch = registry.watch()
        get(watch, "snapshot")
        registration = registry.register("engine", "a", {})
        registration.keep_alive()
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        registration.close()
        watch.close()
        assert time.monotonic() - began < 6.0
        server.signal(signal.SIGCONT)


def test_a_redis_that_asks_for_a_password_is_refused_clearly(server: Server) -> None:
    from nano.errors import Refused

    admin = redis.Redis.from_url(server.url)
    admin.config_set("requirepass", "secret")
    with connect(server.url) as registry, pytest.raises(Refused, match="credentials"):
        registry.list()
    with connect(f"unix://:secret@{server.socket}") as registry:
        assert registry.list() == []
    admin.close()

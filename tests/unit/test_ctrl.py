"""The registry's promises, each held over Redis itself and over the HTTP service."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from nano.ctrl import Event, Registry, connect
from nano.ctrl.embedded import EmbeddedRedis
from nano.ctrl.ports import pick_free
from nano.errors import Closed, InvalidInput, PeerLost, Refused


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="module")
def http_address(redis_url: str) -> Iterator[str]:
    port = pick_free("127.0.0.1")
    command = [sys.executable, "-m", "nano.ctrl", "--port", str(port), "--redis-url", redis_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.readline().startswith(b"registry on http://127.0.0.1:")
        address = f"127.0.0.1:{port}"
        wait_until_it_answers(address)
        yield address
        service.terminate()
        assert service.wait(10) == 0


def wait_until_it_answers(address: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            connect(address, timeout=2).list()
            return
        except PeerLost:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(params=["redis", "http"])
def address(request: pytest.FixtureRequest, redis_url: str) -> str:
    return redis_url if request.param == "redis" else request.getfixturevalue("http_address")


@pytest.fixture
def registry(address: str, request: pytest.FixtureRequest) -> Iterator[Registry]:
    scope = "".join(c if c.isalnum() else "-" for c in request.node.name)
    with connect(address, scope) as client:
        yield client


def expect(event: Event | None, type: str, name: str | None = None) -> Event:
    assert event is not None, f"expected {type}, got nothing"
    assert event.type == type
    if name is not None:
        assert event.entry is not None
        assert event.entry.name == name
    return event


def test_a_registered_entry_is_listed_with_all_it_said(registry: Registry) -> None:
    meta = {"address": "tcp://127.0.0.1:1", "models": ["a", "b"], "nested": {"π": 1.5, "none": None}}
    with registry.register("engine", "decode-0", meta, incarnation=(1 << 62) + 1):
        (entry,) = registry.list()
        assert (entry.kind, entry.name, entry.incarnation, entry.meta) == ("engine", "decode-0", (1 << 62) + 1, meta)
    assert registry.list() == []


def test_list_sorts_and_filters_by_kind(registry: Registry) -> None:
    held = [registry.register(kind, name, {}) for kind, name in [("router", "r"), ("engine", "b"), ("engine", "a/0")]]
    assert [(e.kind, e.name) for e in registry.list()] == [("engine", "a/0"), ("engine", "b"), ("router", "r")]
    assert [e.name for e in registry.list("engine")] == ["a/0", "b"]
    assert registry.list("none") == []
    for registration in held:
        registration.close()


def test_a_watch_begins_with_a_snapshot_and_tells_every_change_in_order(registry: Registry) -> None:
    first = registry.register("engine", "a", {"n": 0})
    with registry.watch() as watch:
        snapshot = expect(watch.get(5), "snapshot")
        assert [e.name for e in snapshot.entries] == ["a"]
        second = registry.register("router", "b", {})
        first.update({"n": 1})
        second.close()
        first.close()
        events = [
            expect(watch.get(5), "added", "b"),
            expect(watch.get(5), "updated", "a"),
            expect(watch.get(5), "removed", "b"),
            expect(watch.get(5), "removed", "a"),
        ]
        assert events[1].entry is not None
        assert events[1].entry.meta == {"n": 1}
        assert [e.revision for e in events] == list(range(snapshot.revision + 1, snapshot.revision + 5))
        assert watch.get(0.05) is None


def test_a_watch_of_one_kind_sees_no_other(registry: Registry) -> None:
    with registry.register("router", "r", {}), registry.watch("engine") as watch:
        assert expect(watch.get(5), "snapshot").entries == ()
        with registry.register("router", "s", {}), registry.register("engine", "e", {}):
            expect(watch.get(5), "added", "e")


def test_a_lease_that_is_not_renewed_ends_in_a_lost_event(registry: Registry) -> None:
    with registry.watch() as watch:
        expect(watch.get(5), "snapshot")
        began = time.monotonic()
        registration = registry.register("engine", "gone", {"x": 1}, lease=0.6)
        expect(watch.get(5), "added", "gone")
        lost = expect(watch.get(5), "lost", "gone")
        assert 0.55 < time.monotonic() - began < 2.5
        assert lost.entry is not None
        assert lost.entry.meta == {"x": 1}
        assert registry.list() == []
        registration.close()
        assert watch.get(0.05) is None


def test_an_ended_lease_is_not_listed_even_when_nobody_watches(registry: Registry) -> None:
    with registry.register("engine", "gone", {}, lease=0.5), registry.register("engine", "stays", {}, lease=60):
        deadline = time.monotonic() + 5
        while [e.name for e in registry.list()] != ["stays"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_heartbeats_keep_an_entry(registry: Registry) -> None:
    with registry.watch() as watch:
        expect(watch.get(5), "snapshot")
        with registry.register("engine", "a", {}, lease=1.0) as registration:
            registration.keep_alive(0.2)
            expect(watch.get(5), "added", "a")
            assert watch.get(2.5) is None
            assert [e.name for e in registry.list()] == ["a"]


def test_a_heartbeat_registers_again_what_the_registry_lost(registry: Registry) -> None:
    with registry.watch() as watch:
        expect(watch.get(5), "snapshot")
        with registry.register("engine", "a", {"x": 1}, lease=0.5) as registration:
            expect(watch.get(5), "added", "a")
            expect(watch.get(5), "lost", "a")
            registration.heartbeat()
            again = expect(watch.get(5), "added", "a")
            assert again.entry is not None
            assert again.entry.incarnation == registration.incarnation


def test_a_new_incarnation_takes_the_name_and_the_old_one_cannot_take_it_back(registry: Registry) -> None:
    with registry.watch() as watch:
        expect(watch.get(5), "snapshot")
        old = registry.register("engine", "a", {"who": "old"}, incarnation=7)
        new = registry.register("engine", "a", {"who": "new"}, incarnation=3)
        expect(watch.get(5), "added", "a")
        expect(watch.get(5), "removed", "a")
        expect(watch.get(5), "added", "a")
        with pytest.raises(Refused, match="engine/a"):
            old.heartbeat()
        with pytest.raises(Refused):
            old.update({"who": "old again"})
        assert old.replaced
        old.close()
        assert [e.meta for e in registry.list()] == [{"who": "new"}]
        new.close()


def test_keep_alive_of_a_replaced_incarnation_ends(registry: Registry) -> None:
    old = registry.register("engine", "a", {})
    old.keep_alive(0.1)
    with registry.register("engine", "a", {}) as new:
        deadline = time.monotonic() + 5
        while not old.replaced:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert [e.incarnation for e in registry.list()] == [new.incarnation]
        old.close()


def test_registering_again_with_the_same_incarnation_updates(registry: Registry) -> None:
    with registry.watch() as watch:
        expect(watch.get(5), "snapshot")
        with registry.register("engine", "a", {"n": 1}, incarnation=5):
            registry.register("engine", "a", {"n": 2}, incarnation=5)
            expect(watch.get(5), "added", "a")
            expect(watch.get(5), "updated", "a")


def test_close_is_idempotent_and_then_everything_else_is_refused(registry: Registry) -> None:
    registration = registry.register("engine", "a", {})
    registration.close()
    registration.close()
    with pytest.raises(Closed):
        registration.heartbeat()
    with pytest.raises(Closed):
        registration.update({})


def test_two_scopes_never_see_each_other(address: str) -> None:
    with connect(address, "scope-a") as a, connect(address, "scope-b") as b, b.watch() as watch:
        expect(watch.get(5), "snapshot")
        with a.register("engine", "same", {"scope": "a"}) as left, b.register("engine", "same", {"scope": "b"}):
            assert [e.meta for e in a.list()] == [{"scope": "a"}]
            assert [e.meta for e in b.list()] == [{"scope": "b"}]
            left.close()
            expect(watch.get(5), "added", "same")
            assert watch.get(0.05) is None


def test_closing_a_watch_wakes_who_waits_on_it(registry: Registry) -> None:
    watch = registry.watch()
    expect(watch.get(5), "snapshot")
    seen: list[Event | None] = []
    thread = threading.Thread(target=lambda: seen.append(watch.get()))
    thread.start()
    began = time.monotonic()
    watch.close()
    thread.join(5)
    assert seen == [None]
    assert time.monotonic() - began < 1.0
    assert list(watch) == []
    watch.close()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "a b"}, "kind"),
        ({"kind": ""}, "kind"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"lease": 0.1}, "lease"),
        ({"lease": 1e9}, "lease"),
        ({"incarnation": -1}, "incarnation"),
        ({"incarnation": 1 << 63}, "incarnation"),
        ({"meta": [1]}, "meta"),
        ({"meta": {"x": object()}}, "meta"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_the_name_of_its_field(
    registry: Registry, change: dict[str, object], word: str
) -> None:
    arguments: dict[str, object] = {"kind": "engine", "name": "a", "meta": {}, "incarnation": 0, "lease": 1.0, **change}
    with pytest.raises(InvalidInput, match=f"^{word}: expected"):
        registry.register(**arguments)  # type: ignore[arg-type]
    assert registry.list() == []


def test_many_threads_register_at_once_and_all_are_there(registry: Registry) -> None:
    with registry.watch() as watch:
        first = expect(watch.get(5), "snapshot").revision

        def work(thread: int) -> None:
            for i in range(5):
                registry.register("engine", f"{thread}-{i}", {})

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events = [expect(watch.get(5), "added") for _ in range(30)]
        assert [e.revision for e in events] == list(range(first + 1, first + 31))
        assert {e.entry.name for e in events if e.entry} == {f"{t}-{i}" for t in range(6) for i in range(5)}
        assert len(registry.list()) == 30


@pytest.mark.parametrize("address", ["ftp://x", "redis://127.0.0.1:notaport", "nohost", "host:99999", "https://h:1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"address|connect"):
        connect(address)


@pytest.mark.parametrize("scope", ["", "a b", "a{b}", "x" * 129])
def test_a_scope_that_is_none_is_refused(scope: str) -> None:
    with pytest.raises(InvalidInput, match="scope"):
        connect("redis://127.0.0.1:1", scope)


@pytest.mark.parametrize("scheme", ["redis://127.0.0.1:{port}", "127.0.0.1:{port}"])
def test_a_registry_that_is_not_there_is_named(scheme: str) -> None:
    address = scheme.format(port=pick_free("127.0.0.1"))
    with pytest.raises(PeerLost, match=r"list.*127\.0\.0\.1"):
        connect(address, timeout=1.0).list()

"""The registry against a dict, and a watcher's view against the registry, over random histories."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nano.ctrl import Entry, Registration, Registry, Watch
from nano.ctrl.embedded import EmbeddedRedis
from nano.ctrl.redis_registry import RedisRegistry
from nano.errors import Refused

KINDS = st.sampled_from(["engine", "router"])
NAMES = st.sampled_from(["a", "b", "c/d"])
METAS = st.dictionaries(st.text(max_size=3), st.none() | st.integers(-9, 9) | st.text(max_size=5), max_size=2)
_server: EmbeddedRedis | None = None
_scopes = iter(range(1 << 30))


def setup_module() -> None:
    global _server
    _server = EmbeddedRedis().start()


def teardown_module() -> None:
    assert _server is not None
    _server.close()


class RegistryMachine(RuleBasedStateMachine):
    registry: Registry
    watch: Watch

    @initialize(events_kept=st.sampled_from([1, 3, 1024]))
    def begin(self, events_kept: int) -> None:
        assert _server is not None
        # With few events kept the watcher falls behind now and then, and must get by with snapshots.
        self.registry = RedisRegistry(_server.url, f"scope-{next(_scopes)}", events_kept=events_kept)
        self.watch = self.registry.watch()
        self.model: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
        self.held: list[Registration] = []
        self.view: dict[tuple[str, str], Entry] = {}
        self.seen = -1

    @rule(kind=KINDS, name=NAMES, meta=METAS, incarnation=st.integers(1, 3))
    def register(self, kind: str, name: str, meta: dict[str, Any], incarnation: int) -> None:
        self.held.append(self.registry.register(kind, name, meta, incarnation=incarnation))
        self.model[kind, name] = (incarnation, meta)

    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        if self.held:
            self.touch(data.draw(st.sampled_from(self.held)), None)

    @rule(data=st.data(), meta=METAS)
    def update(self, data: st.DataObject, meta: dict[str, Any]) -> None:
        if self.held:
            self.touch(data.draw(st.sampled_from(self.held)), meta)

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if self.held:
            registration = data.draw(st.sampled_from(self.held))
            self.held.remove(registration)
            registration.close()
            if self.model.get((registration.kind, registration.name), (0, {}))[0] == registration.incarnation:
                del self.model[registration.kind, registration.name]

    @rule()
    def catch_up(self) -> None:
        expected = {key: (incarnation, meta) for key, (incarnation, meta) in self.model.items()}
        deadline = time.monotonic() + 5
        while {key: (entry.incarnation, entry.meta) for key, entry in self.view.items()} != expected:
            event = self.watch.get(max(0.0, deadline - time.monotonic()))
            assert event is not None, f"the watcher's view {self.view} never became {expected}"
            if event.type == "snapshot":
                self.view = {(entry.kind, entry.name): entry for entry in event.entries}
            else:
                assert event.revision == self.seen + 1
                assert event.entry is not None
                assert event.type != "lost"
                key = (event.entry.kind, event.entry.name)
                assert (event.type == "added") == (key not in self.view)
                if event.type == "removed":
                    del self.view[key]
                else:
                    self.view[key] = event.entry
            self.seen = event.revision

    @invariant()
    def the_list_is_the_model(self) -> None:
        if hasattr(self, "registry"):
            found = {(e.kind, e.name): (e.incarnation, e.meta) for e in self.registry.list()}
            assert found == self.model

    def touch(self, registration: Registration, meta: dict[str, Any] | None) -> None:
        key = (registration.kind, registration.name)
        holder = self.model.get(key)
        try:
            if meta is None:
                registration.heartbeat()
            else:
                registration.update(meta)
        except Refused:
            assert holder is not None
            assert holder[0] != registration.incarnation
            return
        assert holder is None or holder[0] == registration.incarnation
        # A registration the registry does not know comes back with its own meta; a known one keeps the last said.
        if holder is None or meta is not None:
            self.model[key] = (registration.incarnation, registration.meta)

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.catch_up()
            self.watch.close()
            self.registry.close()


RegistryMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestRegistryAgainstADict = RegistryMachine.TestCase

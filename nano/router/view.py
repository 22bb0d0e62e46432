"""The live view: which engines are there, and which of them can serve a model now."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import NamedTuple

import msgspec
import zmq

from nano import wire
from nano.errors import InvalidInput
from nano.router.engine import Engine
from nano.router.errors import ApiError, unavailable
from nano.router.model import Model
from nano.router.policy import Policy
from nano.wire import EngineInfo

log = logging.getLogger(__name__)

# An engine that answers although the registry has lost it is used on for so long: a registry that was restarted is
# empty until its services have registered again.
DOUBT_S = 10.0


class Route(NamedTuple):
    """decode: the engine that is asked. prefill: who prefills for it; None: it does so itself."""

    decode: Engine
    prefill: Engine | None
    max_model_len: int


class _Service:
    """The engines of one model name that are up, in the order of their names."""

    def __init__(self, policy: Callable[[], Policy]) -> None:
        self.engines: list[Engine] = []  # hybrids, and decode engines with a prefill engine of their layout
        self.prefills: dict[str, list[Engine]] = {}  # by layout
        self.lack = "no engine is up"
        self.decode_policy = policy()
        self.prefill_policy = policy()


class View:
    """Everything here runs on the event loop."""

    def __init__(self, policy: Callable[[], Policy], executor: Executor) -> None:
        self._policy = policy
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._hello = wire.Hello(wire.VERSION, f"router-{os.getpid()}-{secrets.token_hex(3)}", wire.new_incarnation())
        self._engines: dict[str, Engine] = {}
        self._services: dict[str, _Service] = {}
        self._models: dict[str, Model] = {}  # by path
        self._loading: set[asyncio.Task[None]] = set()
        self._doubted: dict[str, float] = {}  # name -> until when it has to be registered again
        self._broken: dict[str, str] = {}  # path -> why its tokenizer cannot be loaded

    # --- what is asked -----------------------------------------------------------------------------------------------

    def route(self, name: str) -> Route:
        """Raises ApiError: 404 for a name that was never there, 503 when it cannot be served now."""
        service = self._services.get(name)
        if service is None:
            if not self._services:
                raise unavailable("no engine is registered")
            raise ApiError(404, f"the model {name!r} does not exist", param="model", code="model_not_found")
        engines = service.engines
        if not engines:
            raise unavailable(f"model {name}: {service.lack}")
        engine = engines[service.decode_policy.pick(engines)]
        if engine.info.role != "decode":
            return Route(engine, None, engine.info.max_model_len)
        prefills = service.prefills[engine.info.layout]
        prefill = prefills[service.prefill_policy.pick(prefills)]
        return Route(engine, prefill, min(engine.info.max_model_len, prefill.info.max_model_len))

    def model(self, name: str) -> Model:
        """Of a name for which `route` found an engine."""
        return self._models[self._services[name].engines[0].info.model_path]

    def served(self) -> dict[str, tuple[Model, int]]:
        """Name -> model and longest sequence, of all models that can be served now."""
        return {
            name: (self.model(name), min(engine.info.max_model_len for engine in service.engines))
            for name, service in self._services.items()
            if service.engines
        }

    def lacks(self) -> str:
        """Why no model can be served; empty when one can."""
        if any(service.engines for service in self._services.values()):
            return ""
        if not self._services:
            return "no engine is registered"
        return "; ".join(f"model {name}: {service.lack}" for name, service in self._services.items())

    @property
    def engines(self) -> list[Engine]:
        return list(self._engines.values())

    # --- what changes ------------------------------------------------------------------------------------------------

    def snapshot(self, entries: Iterable[tuple[str, object]]) -> None:
        """All engines that are registered, as (name, meta)."""
        entries = list(entries)
        for name in self._engines.keys() - {name for name, _ in entries}:
            self.doubt(name)
        for name, meta in entries:
            self.put(name, meta)
        self._refresh()

    def put(self, name: str, meta: object) -> None:
        """An engine that is registered, new or changed; `meta` is EngineInfo as builtins."""
        try:
            info = msgspec.convert(meta, EngineInfo)
        except msgspec.ValidationError as error:
            log.error("engine %s: its registration makes no sense: %s", name, error)
            return
        self._doubted.pop(name, None)
        engine = self._engines.get(name)
        if engine is not None and not engine.closed:
            engine.update(info)
        else:
            self._engines[name] = Engine(
                name,
                info,
                context=self._context,
                loop=self._loop,
                hello=self._hello,
                changed=lambda _: self._refresh(),
            )
        if info.model_path not in self._models:
            self._load(info.model_path)
        self._refresh()

    def drop(self, name: str) -> None:
        """An engine that left: it finishes what it has."""
        self._doubted.pop(name, None)
        engine = self._engines.get(name)
        if engine is not None:
            engine.retire()
        self._refresh()

    def doubt(self, name: str) -> None:
        """An engine that the registry has lost."""
        if name in self._engines:
            self._doubted.setdefault(name, time.monotonic() + DOUBT_S)

    def tick(self, silent_since: float) -> None:
        """Once every engine.PING_S; requests without a sign of life since then fail."""
        for engine in self.engines:
            engine.tick()
            engine.expire(silent_since)
        now = time.monotonic()
        for name, until in list(self._doubted.items()):
            if now > until or not self._engines[name].up:
                self.drop(name)

    def close(self) -> None:
        for task in self._loading:
            task.cancel()
        for engine in self.engines:
            engine.close()
        self._context.term()

    def _load(self, path: str) -> None:
        if not any(task.get_name() == path for task in self._loading):
            task = self._loop.create_task(self._load_model(path), name=path)
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)

    async def _load_model(self, path: str) -> None:
        try:
            self._models[path] = await self._loop.run_in_executor(self._executor, Model, path)
            self._broken.pop(path, None)
        except (InvalidInput, OSError) as error:
            self._broken[path] = str(error)
            log.error("%s", error)
        self._refresh()

    def _refresh(self) -> None:
        """What can be served now. A name once known stays, without engines."""
        self._engines = {name: self._engines[name] for name in sorted(self._engines) if not self._engines[name].closed}
        members: dict[str, list[Engine]] = {name: [] for name in self._services}
        for engine in self._engines.values():
            if not engine.retired:
                for name in engine.info.models:
                    members.setdefault(name, []).append(engine)
        for name, engines in members.items():
            service = self._services.get(name)
            if service is None:
                service = self._services[name] = _Service(self._policy)
            self._fill(service, engines)

    def _fill(self, service: _Service, registered: list[Engine]) -> None:
        up = [engine for engine in registered if engine.up and engine.info.model_path in self._models]
        service.prefills = {}
        for engine in up:
            if engine.info.role == "prefill":
                service.prefills.setdefault(engine.info.layout, []).append(engine)
        service.engines = [
            engine
            for engine in up
            if engine.info.role == "hybrid" or (engine.info.role == "decode" and engine.info.layout in service.prefills)
        ]
        service.lack = "" if service.engines else self._lack(registered, up)

    def _lack(self, registered: list[Engine], up: list[Engine]) -> str:
        if not registered:
            return "no engine is registered"
        broken = {self._broken[e.info.model_path] for e in registered if e.info.model_path in self._broken}
        if broken:
            return "; ".join(sorted(broken))
        roles = {engine.info.role for engine in up}
        if "decode" in roles and "prefill" in roles:
            layouts = "; ".join(sorted({f"{e.info.role}: {e.info.layout}" for e in up if e.info.role != "hybrid"}))
            return f"no decode and prefill engine have the same KV layout ({layouts})"
        if "decode" in roles:
            return "a decode engine is up, but no prefill engine"
        if "prefill" in roles:
            return "a prefill engine is up, but no decode engine"
        return f"registered but not up: {', '.join(engine.name for engine in registered)}"

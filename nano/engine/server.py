"""An engine behind its socket: the step loop, both sides of disaggregation, and the registration.

One thread runs the loop below; `Comm` is the other. Between them there are two inboxes and nothing else.
"""

from __future__ import annotations

import itertools
import logging
import select
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Union

import msgspec

from nano import __version__, wire
from nano.cli import refuse_exposed
from nano.ctrl import Registration, Registry, connect
from nano.engine.backend import Progress
from nano.engine.comm import ClientGone, Comm, EngineLost, FromClient, FromEngine, Incoming
from nano.engine.config import EngineConfig
from nano.engine.decode import DecodeSide
from nano.engine.engine import Engine
from nano.engine.inbox import Inbox
from nano.engine.prefill import PrefillSide
from nano.transfer import Endpoint

log = logging.getLogger("nano.engine")

IDLE_TICK = 0.25  # seconds between looks at leases when nothing happens

Item = Union[Incoming, Callable[[], None]]  # noqa: UP007


class EngineServer:
    """`start` serves until `close`. A context manager; safe to run several in one process."""

    def __init__(self, config: EngineConfig, progress: Progress | None = None) -> None:
        if not config.name:
            config = replace(config, name=f"{config.role}-{wire.new_incarnation() & 0xFFFFFF:06x}")
        refuse_exposed(config.host, config.allow_remote)
        self.config = config
        self.incarnation = wire.new_incarnation()
        self._inbox: Inbox[Item] = Inbox()
        self.comm = Comm(config.host, config.port, config.name, self.incarnation, self._inbox)  # type: ignore[arg-type]
        self.endpoint: Endpoint | None = None
        try:
            if config.role != "hybrid":
                self.endpoint = Endpoint(
                    config.name, host=config.host, transports=config.transports, insecure=config.allow_remote
                )
            self.engine = Engine(config, self.endpoint, progress)
        except BaseException:
            self.comm.start()
            self.comm.stop()
            if self.endpoint is not None:
                self.endpoint.close()
            raise
        ids = itertools.count(1)
        self._decode = DecodeSide(self.engine, self.endpoint, self.comm, lambda: next(ids))
        self._prefill: PrefillSide | None = None
        if self.endpoint is not None:
            self._prefill = PrefillSide(self.engine, self.endpoint, self.comm, lambda: next(ids), self._inbox.put)
        self._registry: Registry | None = None
        self._registration: Registration | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"loop-{config.name}", daemon=True)
        self.fault: BaseException | None = None  # why the loop ended, if it ended by itself

    @property
    def address(self) -> str:
        return self.comm.address

    def info(self) -> wire.EngineInfo:
        engine, config = self.engine, self.config
        return wire.EngineInfo(
            role=config.role,
            address=self.address,
            incarnation=self.incarnation,
            models=config.models or (config.model,),
            model_path=str(engine.directory.resolve()),
            max_model_len=engine.max_model_len,
            vocab_size=engine.model_config.vocab_size,
            block_size=config.kvcache_block_size,
            num_blocks=engine.num_blocks,
            layout=str(engine.layout),
            max_num_seqs=config.max_num_seqs,
            eos_token_ids=engine.model_config.eos_token_ids,
            sampling_defaults=engine.model_config.sampling_defaults,
            version=__version__,
        )

    def start(self) -> EngineServer:
        self.comm.start()
        self._thread.start()
        return self

    def register(self, address: str, scope: str, lease: float = 60.0, interval: float = 15.0) -> None:
        """Registers under kind "engine" and heartbeats until `close`."""
        self._registry = connect(address, scope)
        meta: dict[str, Any] = msgspec.to_builtins(self.info())
        self._registration = self._registry.register(
            "engine", self.config.name, meta, incarnation=self.incarnation, lease=lease
        )
        self._registration.keep_alive(interval)

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    def close(self) -> None:
        """Unregisters, fails what is running, frees everything. Idempotent."""
        if self._stop.is_set():
            return
        if self._registration is not None:
            self._registration.close()
        if self._registry is not None:
            self._registry.close()
        self._stop.set()
        self._inbox.put(lambda: None)
        self._thread.join(30.0)
        self.comm.stop()
        self._inbox.close()

    def __enter__(self) -> EngineServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the loop's thread

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:
            log.exception("engine %s: the step loop ended", self.config.name)
            self.fault = error
        finally:
            self._decode.close()
            if self._prefill is not None:
                self._prefill.close()
            self.engine.close()
            if self.endpoint is not None:
                self.endpoint.close()
            del self._decode, self._prefill, self.engine

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._inbox.fileno(), select.POLLIN)
        if self.endpoint is not None:
            poll.register(self.endpoint.fileno(), select.POLLIN)
        before_step = self._prefill.before_step if self._prefill is not None else None
        on_layer = self._prefill.on_layer if self._prefill is not None else None
        idle = True
        while not self._stop.is_set():
            if idle:
                poll.poll(IDLE_TICK * 1000)
            for item in self._inbox.drain():
                self._handle(item)
            if self.endpoint is not None:
                self._handle_transfers(self.endpoint)
            now = time.monotonic()
            self._decode.tick(now)
            if self._prefill is not None:
                self._prefill.tick(now)
            idle = True
            if self.engine.has_work():
                committed = self.engine.step(before_step, on_layer)
                if committed is not None:
                    idle = False
                    self._decode.after_step(committed)
                    if self._prefill is not None:
                        self._prefill.after_step(committed)

    def _handle(self, item: Item) -> None:
        if isinstance(item, FromClient):
            self._handle_client(item.identity, item.message)
        elif isinstance(item, FromEngine):
            self._handle_engine(item.address, item.message)
        elif isinstance(item, EngineLost):
            self._decode.on_engine_lost(item.address, item.reason)
        elif isinstance(item, ClientGone):
            self._decode.on_client_gone(item.identity)
            if self._prefill is not None:
                self._prefill.on_client_gone(item.identity)
        else:
            item()

    def _handle_client(self, identity: bytes, message: wire.Message) -> None:
        prefill = self._prefill
        if isinstance(message, wire.Generate):
            self._decode.on_generate(identity, message)
        elif isinstance(message, wire.Abort):
            self._decode.on_abort(identity, message.keys)
        elif isinstance(message, wire.Prefill) and prefill is None:
            failure = wire.Failure("invalid", f"engine {self.config.name} is hybrid: it prefills for no other", False)
            self.comm.reply(identity, wire.PrefillFailed(message.key, failure))
        elif prefill is None:
            log.warning("engine %s: unexpected %s", self.config.name, type(message).__name__)
        elif isinstance(message, wire.Prefill):
            prefill.on_prefill(identity, message)
        elif isinstance(message, wire.Grant):
            prefill.on_grant(identity, message)
        elif isinstance(message, wire.Received):
            prefill.on_received(identity, message.key)
        elif isinstance(message, wire.Cancel):
            prefill.on_cancel(identity, message.key)
        else:
            log.warning("engine %s: unexpected %s", self.config.name, type(message).__name__)

    def _handle_engine(self, address: str, message: wire.Message) -> None:
        if isinstance(message, wire.Ready):
            self._decode.on_ready(address, message.key)
        elif isinstance(message, wire.FirstToken):
            self._decode.on_first_token(address, message.key, message.token)
        elif isinstance(message, wire.PrefillFailed):
            self._decode.on_prefill_failed(address, message.key, message.failure)
        else:
            log.warning("engine %s: unexpected %s from %s", self.config.name, type(message).__name__, address)

    def _handle_transfers(self, endpoint: Endpoint) -> None:
        for event in endpoint.poll():
            if event.kind == "complete":
                self._decode.on_complete(event.tag)
            elif event.kind == "lost" and event.peer is not None and self._prefill is not None:
                self._prefill.on_peer_lost(event.peer.id, event.reason)

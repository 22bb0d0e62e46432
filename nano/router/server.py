"""The router's process: one event loop with the HTTP server, the engines' connections and the registry's events."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from nano.errors import InvalidInput, SystemFault
from nano.router.app import WATCH_S, App
from nano.router.config import RouterConfig
from nano.router.engine import PING_S
from nano.router.errors import unavailable
from nano.router.policy import POLICIES
from nano.router.registry import RegistryWatch
from nano.router.view import View
from nano.wire import EngineInfo

log = logging.getLogger(__name__)

START_S = 5.0
MAX_CONNECTIONS = 16_384  # beyond, new ones wait
TEXT_THREADS = 2  # for tokenisers to load and long prompts to be encoded


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises InvalidInput naming the flag when it cannot be had.

    granian's own socket is SO_REUSEPORT: it would share a busy port in silence.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            what = "--port" if error.errno == errno.EADDRINUSE else "--host"
            raise InvalidInput(f"{what}: cannot listen on {host}:{port}: {error.strerror}") from error
        found: int = probe.getsockname()[1]
        return found


class Router:
    """engines: name -> info of engines to use without a registry; None: the registry says.

    listening: called with the port once connections are accepted.
    """

    def __init__(
        self,
        config: RouterConfig,
        engines: Mapping[str, EngineInfo] | None = None,
        listening: Callable[[int], None] | None = None,
    ) -> None:
        self._config = config
        self._engines = engines
        self._listening = listening
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Drains and ends `run`. To be called on the event loop."""
        self._stop.set()

    async def run(self) -> None:
        """Serves until `stop`. Raises InvalidInput when the port is taken."""
        config = self._config
        port = free_port(config.host, config.port)
        with ThreadPoolExecutor(TEXT_THREADS, "text") as executor:
            view = View(POLICIES[config.policy], executor)
            app = App(config, view, executor)
            watch = None
            if self._engines is None:
                watch = RegistryWatch(config.nanoctrl_address, config.nanoctrl_scope, view)
            else:
                view.snapshot((name, msgspec.to_builtins(info)) for name, info in self._engines.items())
            ticks = asyncio.create_task(self._tick(app, view))
            try:
                await self._serve(app, port)
            finally:
                ticks.cancel()
                if watch is not None:
                    watch.close()
                view.close()

    async def _serve(self, app: App, port: int) -> None:
        server = Server(
            app,
            address=self._config.host,
            port=port,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=4096,
            backpressure=MAX_CONNECTIONS,
            log_enabled=False,
        )
        serving = asyncio.ensure_future(server.serve())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await self._accepts(port)
            log.info("listening on http://%s:%d", self._config.host, port)
            if self._listening is not None:
                self._listening(port)
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            app.draining = True
            server.stop()  # type: ignore[no-untyped-call]
            await self._drain(app, serving)

    async def _accepts(self, port: int) -> None:
        """granian opens its socket in a thread of its own and tells nobody. Raises SystemFault if it never does."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._config.host, self._config.host)
        deadline = time.monotonic() + START_S
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise SystemFault(f"listen on {host}:{port}: not open after {START_S:g} s: {error}") from error
                await asyncio.sleep(0.005)
            else:
                writer.close()
                return

    async def _drain(self, app: App, serving: asyncio.Future[None]) -> None:
        """Running requests have drain_s to end by themselves; then they are ended."""
        if app.running:
            log.info("finishing %d requests", app.running)
        done, _ = await asyncio.wait((serving,), timeout=self._config.drain_s)
        if not done:
            app.stop(unavailable("the router is shutting down"))
            done, _ = await asyncio.wait((serving,), timeout=1.0)
        if not done:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        else:
            serving.result()

    async def _tick(self, app: App, view: View) -> None:
        next_ping = 0.0
        while True:
            await asyncio.sleep(WATCH_S)
            app.tick()
            now = time.monotonic()
            if now >= next_ping:
                next_ping = now + PING_S
                view.tick(now - self._config.silence_timeout_s)

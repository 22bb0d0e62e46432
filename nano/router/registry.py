"""The registry's events on the event loop: the one file that knows nano.ctrl."""

from __future__ import annotations

import asyncio
import logging
import threading

from nano.ctrl import Event, Watch, connect
from nano.errors import NanoError
from nano.router.view import View

log = logging.getLogger(__name__)

RETRY_S = 0.5
CALL_S = 2.0  # how long one call to the registry may take


class RegistryWatch:
    """Follows the engines of one scope in a thread of its own. A registry that is away leaves the view as it was."""

    def __init__(self, address: str, scope: str, view: View) -> None:
        self._address = address
        self._scope = scope
        self._view = view
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name="registry-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._watch is not None:
            self._watch.close()
        self._thread.join(CALL_S)

    def _run(self) -> None:
        reported = ""
        while not self._stop.is_set():
            try:
                self._follow()
            except (NanoError, OSError) as error:
                if str(error) != reported:
                    reported = str(error)
                    log.warning("registry at %s: %s; trying again", self._address, error)
            self._stop.wait(RETRY_S)

    def _follow(self) -> None:
        registry = connect(self._address, self._scope, CALL_S)
        try:
            with registry.watch("engine") as self._watch:
                while not self._stop.is_set():
                    event = self._watch.get(timeout=CALL_S)
                    if event is not None:
                        self._loop.call_soon_threadsafe(self._apply, event)
        finally:
            registry.close()

    def _apply(self, event: Event) -> None:
        if event.type == "snapshot":
            self._view.snapshot((entry.name, entry.meta) for entry in event.entries or ())
        elif event.entry is None:
            log.error("registry at %s: a %s event names no entry", self._address, event.type)
        elif event.type in ("added", "updated"):
            self._view.put(event.entry.name, event.entry.meta)
        elif event.type == "removed":
            self._view.drop(event.entry.name)
        else:
            self._view.doubt(event.entry.name)

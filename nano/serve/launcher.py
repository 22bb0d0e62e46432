"""Starts everything, keeps it running until a signal, and stops it in order: router, engines, Redis."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import nano
from nano.ctrl import Entry, Registry, connect
from nano.ctrl.embedded import EmbeddedRedis
from nano.ctrl.ports import check_free
from nano.errors import NanoError
from nano.serve import plan
from nano.serve.options import Options
from nano.serve.readiness import Broken, EngineWatch, Registered, RouterProbe, RouterReady
from nano.serve.supervisor import Exited, Supervisor, describe

PROGRESS_SECONDS = 5.0  # between lines that say what is still loading
ENGINE_GRACE = 5.0  # seconds that an engine has to end once asked
KILL_SECONDS = 5.0  # within which the kernel ends a killed process
FIRST_TRIES = 5  # starts of a process that has never become ready, before the launcher gives up
BAD_INPUT = 2  # the exit code of a process that cannot run as it was told to: trying again would not help


@dataclass(frozen=True)
class Signalled:
    number: int


@dataclass(frozen=True)
class RedisExited:
    code: int


class Launcher:
    """One run. `run` returns the exit code."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._supervisor = Supervisor(self._events, _print_line)
        self._redis: EmbeddedRedis | None = None
        self._entries: dict[str, Entry] = {}  # engines in the registry, by name
        self._once_ready: set[str] = set()  # engines that have registered before
        self._started = time.monotonic()
        self._announced = False
        self._code = 0

    def run(self) -> int:
        options = self._options
        check_free(options.host, options.port)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_signals_as_events(self._events))
            if not options.redis_url:
                self._redis = stack.enter_context(EmbeddedRedis())
                self._await_redis(self._redis)
            redis_url = self._redis.url if self._redis is not None else options.redis_url
            registry = stack.enter_context(connect(redis_url, plan.scope_of(options)))
            registry.list()  # an address where no registry answers is reported before anything starts
            made = plan.make(options, redis_url)
            self._names = tuple(engine.name for engine in made.engines)
            try:
                for spec in (*made.engines, made.router):
                    self._supervisor.start(spec)
                self._print_plan(made, registry)
                stack.callback(EngineWatch(registry, self._events).close)
                probe = RouterProbe(options.host, options.port, self._events)
                stack.callback(probe.close)
                self._serve(registry)
                self._drain()
            finally:
                self._supervisor.kill(self._supervisor.running())
                self._wait_for_end(self._supervisor.running(), KILL_SECONDS)
        return self._code

    def _serve(self, registry: Registry) -> None:
        """Handles events until told to stop."""
        progress = time.monotonic() + PROGRESS_SECONDS
        while True:
            waits = [self._supervisor.start_due(), None if self._announced else progress - time.monotonic()]
            event = self._next(min((wait for wait in waits if wait is not None), default=None))
            match event:
                case Signalled(number):
                    seconds = f"{self._options.grace:g} s"
                    _say(
                        f"{signal.Signals(number).name}: stopping the router (running requests have {seconds}), "
                        "then the engines, then Redis; Ctrl-C again ends all at once"
                    )
                    return
                case Exited() as exited:
                    if not self._on_exit(exited, registry):
                        return
                case Registered(change):
                    self._on_registered(change.type, change.entry, change.entries)
                case RedisExited(code):
                    self._revive_redis(code)
                case RouterReady():
                    self._announced = True
                    _say(f"ready in {time.monotonic() - self._started:.1f} s")
                case Broken(error):
                    _say(f"the registry cannot be watched: {error}")
                case None if not self._announced and time.monotonic() >= progress:
                    progress = time.monotonic() + PROGRESS_SECONDS
                    missing = [name for name in self._names if name not in self._entries] or ["router"]
                    _say(f"loading for {time.monotonic() - self._started:.0f} s: {', '.join(missing)}")

    def _await_redis(self, redis: EmbeddedRedis) -> None:
        threading.Thread(target=lambda: self._events.put(RedisExited(redis.wait())), daemon=True).start()

    def _revive_redis(self, code: int) -> None:
        """Everybody registers again by themselves."""
        if self._redis is not None:
            _say(f"redis ended with {describe(code)}; starting it again")
            self._redis.restart()
            self._await_redis(self._redis)

    def _on_exit(self, exited: Exited, registry: Registry) -> bool:
        """False: give up."""
        delay = self._supervisor.on_exit(exited)
        if not self._announced and exited.name not in self._once_ready:
            failures = self._supervisor.failures(exited.name)
            if exited.code == BAD_INPUT or failures >= FIRST_TRIES:
                _say(f"{exited.name} ended with {describe(exited.code)}, see its last lines above: giving up")
                self._code = BAD_INPUT if exited.code == BAD_INPUT else 1
                return False
        if delay is not None:
            _say(f"{exited.name} ended with {describe(exited.code)}; starting it again in {delay:g} s")
        entry = self._entries.get(exited.name)
        if entry is not None:
            # The router need not wait for the lease of an engine that is known to be dead.
            try:
                registry.remove(entry)
            except NanoError as error:
                _say(f"{exited.name} stays registered until its lease ends: {error}")
        return True

    def _on_registered(self, type: str, entry: Entry | None, entries: tuple[Entry, ...]) -> None:
        if type == "snapshot":
            self._entries = {}
            for each in entries:
                self._on_registered("added", each, ())
        elif entry is not None and entry.name in self._names:
            if type in ("removed", "lost"):
                self._entries.pop(entry.name, None)
                return
            if type == "added":
                again = " again" if entry.name in self._once_ready else ""
                _say(f"{entry.name} is ready{again}, {time.monotonic() - self._started:.1f} s after the start")
            self._entries[entry.name] = entry
            self._once_ready.add(entry.name)

    def _drain(self) -> None:
        for names, grace in (({"router"}, self._options.grace + 2.0), (set(self._names), ENGINE_GRACE)):
            self._supervisor.terminate(names)
            if not self._wait_for_end(names, grace):
                late = names & self._supervisor.running()
                _say(f"ending {', '.join(sorted(late))} at once")
                self._supervisor.kill(late)
                self._wait_for_end(late, KILL_SECONDS)

    def _wait_for_end(self, names: Iterable[str], seconds: float) -> bool:
        """Whether all of these have ended in time; a signal ends the wait (and everything)."""
        names = set(names)
        deadline = time.monotonic() + seconds
        while names & self._supervisor.running():
            event = self._next(deadline - time.monotonic())
            if isinstance(event, Exited):
                self._supervisor.on_exit(event)
            elif isinstance(event, Signalled):
                self._supervisor.kill(self._supervisor.running())
            elif event is None and time.monotonic() >= deadline:
                return False
        return True

    def _next(self, seconds: float | None) -> Any:
        try:
            return self._events.get(timeout=None if seconds is None else max(0.0, seconds))
        except Empty:
            return None

    def _print_plan(self, made: plan.Plan, registry: Registry) -> None:
        options = self._options
        url = f"http://{options.host}:{options.port}"
        body = {"model": options.names[0], "messages": [{"role": "user", "content": "1+1=?"}]}
        threads = "1 thread" if made.threads == 1 else f"{made.threads} threads"
        rows = [("redis", registry.address, "given" if options.redis_url else "private")]
        rows += [
            (each.name, f"{each.name.split('-')[0]} engine, {threads}", self._pid(each.name)) for each in made.engines
        ]
        rows += [("router", url, self._pid("router"))]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        _say(f"nano {nano.__version__} serves {made.model} as {', '.join(options.names)}")
        _say(f"{made.cpus} CPUs allowed, {threads} for each engine")
        for name, what, how in rows:
            _say(f"  {name:<{widths[0]}}  {what:<{widths[1]}}  {how}")
        _say(f"try, once it is ready:\n\n  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\")
        _say(f"    -d '{json.dumps(body)}'\n")

    def _pid(self, name: str) -> str:
        return f"pid {self._supervisor.pid(name)}"


@contextlib.contextmanager
def _signals_as_events(events: SimpleQueue[Any]) -> Iterator[None]:
    """SIGINT and SIGTERM become Signalled events. (SimpleQueue.put may be called from a signal handler.)"""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda n, _: events.put(Signalled(n))) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    # A reader of our output that has gone (`| head`) is no reason to stop serving.
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


def _print_line(name: str, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        # One write a line, so that the lines of several children never mix.
        sys.stderr.write(f"[{name}] {line}\n")

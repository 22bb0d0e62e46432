"""Child processes that are restarted when they end, and whose output is passed on line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from nano.ctrl import child

FIRST_DELAY = 0.2  # seconds before the first restart; doubled each time
LAST_DELAY = 10.0
STEADY = 30.0  # seconds alive after which the delay begins at FIRST_DELAY again


@dataclass(frozen=True)
class Spec:
    """argv[0] is a full path. environment: the whole of it; None is this process's."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Exited:
    """The event that a child has ended. code: as in subprocess, negative for a signal."""

    name: str
    pid: int
    code: int


class Supervisor:
    """Used from one thread, which takes events off `events` and gives each Exited to `on_exit`.

    log: called with (child's name, line) from reader threads.
    """

    def __init__(self, events: SimpleQueue[Any], log: Callable[[str, str], None]) -> None:
        self._events = events
        self._log = log
        self._children: dict[str, _Child] = {}

    def start(self, spec: Spec) -> None:
        self._children[spec.name] = running = _Child(spec)
        self._launch(running)

    def pid(self, name: str) -> int | None:
        """None while it is not running."""
        process = self._children[name].process
        return None if process is None else process.pid

    def running(self) -> set[str]:
        return {name for name, it in self._children.items() if it.process is not None}

    def failures(self, name: str) -> int:
        """How often it has ended since it was last alive for STEADY seconds."""
        return self._children[name].failures

    def on_exit(self, exited: Exited) -> float | None:
        """Takes note; returns the seconds until it is started again, None when it is not (it was told to stop)."""
        it = self._children[exited.name]
        if it.process is None or it.process.pid != exited.pid:
            return None
        it.process = None
        _kill_group(exited.pid)  # what the child itself had started, and left
        if it.stopping:
            return None
        if time.monotonic() - it.started >= STEADY:
            it.failures = 0
        delay: float = min(LAST_DELAY, FIRST_DELAY * 2 ** min(it.failures, 10))
        it.failures += 1
        it.due = time.monotonic() + delay
        return delay

    def start_due(self) -> float | None:
        """Starts again what is due; returns the seconds until the next one is, None when none waits."""
        now = time.monotonic()
        for it in self._children.values():
            if it.process is None and not it.stopping and it.due <= now:
                self._launch(it)
        waiting = [it.due for it in self._children.values() if it.process is None and not it.stopping]
        return max(0.0, min(waiting) - now) if waiting else None

    def terminate(self, names: Iterable[str]) -> None:
        """Asks these to end (SIGTERM); they are not started again."""
        for name in names:
            it = self._children[name]
            it.stopping = True
            if it.process is not None:
                it.process.send_signal(signal.SIGTERM)
                it.process.send_signal(signal.SIGCONT)

    def kill(self, names: Iterable[str]) -> None:
        """Ends these and whatever they had started, at once."""
        for name in names:
            it = self._children[name]
            it.stopping = True
            if it.process is not None:
                _kill_group(it.process.pid)

    def _launch(self, it: _Child) -> None:
        process = child.start(it.spec.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=it.spec.environment)
        it.process, it.started = process, time.monotonic()
        reader = threading.Thread(target=self._read, args=(it.spec.name, process), daemon=True)
        reader.start()
        threading.Thread(target=self._wait, args=(it.spec.name, process, reader), daemon=True).start()

    def _read(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._log(name, line.decode("utf-8", "replace").rstrip())

    def _wait(self, name: str, process: subprocess.Popen[bytes], reader: threading.Thread) -> None:
        code = process.wait()
        # Its last words come before the news of its end, unless a grandchild holds the pipe open.
        reader.join(timeout=1.0)
        self._events.put(Exited(name, process.pid, code))


@dataclass
class _Child:
    spec: Spec
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    due: float = 0.0
    stopping: bool = False


def _kill_group(pid: int) -> None:
    """A child leads a session, and so a process group, of its own."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing of it is left


def describe(code: int) -> str:
    """What an exit code says, in words."""
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"

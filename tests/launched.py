"""`python -m nano.serve` and its fellows as child processes whose output is read as it comes."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

READY_SECONDS = 60.0


class Launched:
    """A running `python -m MODULE`, and every line it has printed."""

    def __init__(self, module: str, *arguments: str, temporary: Path) -> None:
        self.temporary = temporary
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_line(self, pattern: str, timeout: float = READY_SECONDS, begin: int = 0) -> str:
        """The first line at or after number `begin` that matches."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self.lines[begin:]:
                    if re.search(pattern, line):
                        return line
                left = deadline - time.monotonic()
                assert left > 0, f"no line matched {pattern!r} in {timeout} s:\n" + "\n".join(self.lines)
                self._changed.wait(min(left, 0.5))

    def tree(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Serve(Launched):
    """The launcher."""

    def __init__(self, *arguments: str, port: int, temporary: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        super().__init__("nano.serve", "--port", str(port), *arguments, temporary=temporary)

    def pid_of(self, name: str) -> int:
        """Of a process as first started."""
        line = self.wait_line(rf"^ +{name} .*pid \d+$")
        return int(line.rsplit(" ", 1)[1])

    def engine(self, name: str) -> psutil.Process:
        """An engine as it runs now."""
        for process in self.tree():
            try:
                words = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if "nano.engine" in words and name in words:
                return process
        raise AssertionError(f"{name} does not run")

    def chat(self, timeout: float = 30.0) -> tuple[int, dict[str, Any]]:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "1+1=?"}], "max_tokens": 8, "seed": 1}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def segments() -> set[str]:
    """What is in shared memory by name."""
    return set(os.listdir("/dev/shm"))


def all_gone(processes: list[psutil.Process], timeout: float = 5.0) -> bool:
    _, alive = psutil.wait_procs(processes, timeout)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

"""Processes that hold an endpoint, driven over their standard input and output."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nano.transfer import Endpoint, Event, Mesh

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # children import the same nano


class Child:
    """A Python script as a process; its first line of output is `first`."""

    def __init__(self, script: str, *args: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self.first = self.readline()

    def readline(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        assert ready, "the child said nothing for 30 s"
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.readline()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def freeze(self) -> None:
        """Stops every thread of it, and waits until that is so."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            states = [Path(f"/proc/{self.process.pid}/task/{task}/stat").read_text().rsplit(")", 1)[1].split()[0]
                      for task in os.listdir(f"/proc/{self.process.pid}/task")]  # fmt: skip
            if set(states) == {"T"}:
                return
            time.sleep(0.001)
        raise AssertionError("it did not stop")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def child(script: str, *args: object) -> Iterator[Child]:
    made = Child(script, *args)
    try:
        yield made
    finally:
        made.close()


def wait_event(endpoint: Endpoint | Mesh, kind: str, seconds: float) -> Event:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        select.select([endpoint], [], [], max(0.0, deadline - time.monotonic()))
        for event in endpoint.poll():
            if event.kind == kind:
                return event
    raise AssertionError(f"no {kind} event within {seconds} s")

"""Supervision of real child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

import psutil
import pytest

from nano.serve.supervisor import Exited, Spec, Supervisor, describe


class Bench:
    """A supervisor with its event loop and its log."""

    def __init__(self) -> None:
        self.events: SimpleQueue[Any] = SimpleQueue()
        self.lines: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self.supervisor = Supervisor(self.events, lambda name, line: self.lines.put((name, line)))

    def start(self, name: str, code: str) -> None:
        self.supervisor.start(Spec(name, (sys.executable, "-u", "-c", code)))

    def exit(self, timeout: float = 10.0) -> Exited:
        event = self.events.get(timeout=timeout)
        assert isinstance(event, Exited)
        return event

    def finish(self) -> int:
        """Waits for an exit, lets the supervisor know, and returns the code."""
        ended = self.exit()
        self.supervisor.on_exit(ended)
        return ended.code

    def line(self, timeout: float = 10.0) -> tuple[str, str]:
        return self.lines.get(timeout=timeout)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.supervisor.kill(bench.supervisor.running())
    while bench.supervisor.running():
        bench.supervisor.on_exit(bench.exit())


def gone(pid: int, timeout: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


PARENT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid)
"""
FOREVER = "import signal\nprint('up')\nsignal.pause()"


def test_each_line_comes_with_its_name_from_both_outputs(bench: Bench) -> None:
    bench.start(
        "a", "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.stdout.buffer.write(b'\\xff no newline')"
    )
    assert [bench.line() for _ in range(3)] == [("a", "out"), ("a", "err"), ("a", "\ufffd no newline")]
    assert bench.finish() == 0


def test_a_child_that_ends_is_started_again_after_a_growing_delay(bench: Bench) -> None:
    bench.start("a", "raise SystemExit(3)")
    delays = []
    for _ in range(4):
        ended = bench.exit()
        assert ended.code == 3
        delay = bench.supervisor.on_exit(ended)
        assert delay is not None
        delays.append(delay)
        wait = bench.supervisor.start_due()
        assert wait is not None
        assert 0 < wait <= delay
        assert bench.supervisor.running() == set()
        time.sleep(wait)
        bench.supervisor.start_due()
        assert bench.supervisor.running() == {"a"}
    assert delays == [0.2, 0.4, 0.8, 1.6]


def test_the_delay_begins_anew_after_a_long_life(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nano.serve.supervisor.STEADY", 0.0)
    bench.start("a", "pass")
    for _ in range(3):
        assert bench.supervisor.on_exit(bench.exit()) == 0.2
        time.sleep(bench.supervisor.start_due() or 0)
        bench.supervisor.start_due()


def test_a_killed_child_is_started_again_with_another_pid(bench: Bench) -> None:
    bench.start("a", FOREVER)
    first = bench.supervisor.pid("a")
    assert first is not None
    bench.line()
    os.kill(first, signal.SIGKILL)
    ended = bench.exit()
    assert (ended.pid, ended.code) == (first, -signal.SIGKILL)
    bench.supervisor.on_exit(ended)
    time.sleep(bench.supervisor.start_due() or 0)
    bench.supervisor.start_due()
    assert bench.line() == ("a", "up")
    assert bench.supervisor.pid("a") not in (None, first)


def test_a_child_asked_to_end_is_not_started_again(bench: Bench) -> None:
    bench.start("a", FOREVER)
    bench.line()
    bench.supervisor.terminate({"a"})
    assert bench.supervisor.on_exit(bench.exit()) is None
    assert bench.supervisor.start_due() is None
    assert bench.supervisor.running() == set()


def test_a_child_that_waits_to_be_restarted_can_be_told_to_stop(bench: Bench) -> None:
    bench.start("a", "pass")
    bench.supervisor.on_exit(bench.exit())
    bench.supervisor.terminate({"a"})
    assert bench.supervisor.start_due() is None


def test_a_frozen_child_can_be_ended(bench: Bench) -> None:
    bench.start("a", FOREVER)
    bench.line()
    os.kill(bench.supervisor.pid("a") or 0, signal.SIGSTOP)
    bench.supervisor.terminate({"a"})
    assert bench.finish() == -signal.SIGTERM


def test_kill_takes_what_the_child_had_started_with_it(bench: Bench) -> None:
    bench.start(
        "a",
        PARENT + "signal.pause()",
    )
    grandchild = int(bench.line()[1])
    bench.supervisor.kill({"a"})
    assert bench.finish() == -signal.SIGKILL
    assert gone(grandchild)


def test_what_a_dead_child_had_started_dies_too(bench: Bench) -> None:
    bench.start(
        "a",
        PARENT,
    )
    grandchild = int(bench.line()[1])
    bench.supervisor.on_exit(bench.exit())
    assert gone(grandchild)


def test_children_die_with_a_supervisor_that_is_killed() -> None:
    code = (
        "import sys, signal\nfrom queue import SimpleQueue\nfrom nano.serve.supervisor import Spec, Supervisor\n"
        "supervisor = Supervisor(SimpleQueue(), lambda name, line: print(supervisor.pid('a'), flush=True))\n"
        f"supervisor.start(Spec('a', (sys.executable, '-u', '-c', {FOREVER!r})))\nsignal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    assert gone(pid)


def test_ctrl_c_of_the_terminal_does_not_reach_the_children(bench: Bench) -> None:
    bench.start("a", FOREVER)
    bench.line()
    pid = bench.supervisor.pid("a")
    assert pid is not None
    assert os.getpgid(pid) != os.getpgid(0)
    assert os.getsid(pid) == pid


def test_an_old_exit_is_not_taken_for_the_present_child(bench: Bench) -> None:
    bench.start("a", FOREVER)
    assert bench.supervisor.on_exit(Exited("a", pid=1 << 22, code=0)) is None
    assert bench.supervisor.running() == {"a"}
    with pytest.raises(Empty):
        bench.events.get(timeout=0.01)


def test_exit_codes_in_words() -> None:
    assert describe(1) == "code 1"
    assert describe(-9) == "SIGKILL"
    assert describe(-64) == "SIGRTMAX" if hasattr(signal, "SIGRTMAX") else "signal 64"

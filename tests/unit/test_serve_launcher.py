"""The launcher around small processes that register and answer /ready as engines and routers do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nano.ctrl.ports import pick_free

ENGINE = """
import signal, sys, threading
from nano.ctrl import connect
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
with connect(sys.argv[1], sys.argv[2]) as registry, registry.register("engine", sys.argv[3], {}) as registration:
    registration.keep_alive()
    print("up", flush=True)
    stop.wait()
    print("down", flush=True)
"""
ROUTER = """
import signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from nano.ctrl import connect
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if len(connect(sys.argv[2], sys.argv[3]).list("engine")) == 2 else 503)
        self.end_headers()
    def log_message(self, *_): pass
def stop(*_):
    print("down", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else stop)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
LAUNCH = f"""
import sys
from nano.serve import plan
from nano.serve.__main__ import main
from nano.serve.supervisor import Spec

def make(options, url):
    router, engine = {ROUTER!r}, {ENGINE!r}
    names = [f"decode-{{i}}" for i in range(options.decode)]
    engines = [Spec(n, (sys.executable, "-c", engine, url, plan.scope_of(options), n)) for n in names]
    if options.model == "broken":
        engines = [Spec(n, (sys.executable, "-c", "import sys; sys.exit('no such thing')")) for n in names]
    arguments = (str(options.port), url, plan.scope_of(options), options.model)
    routing = Spec("router", (sys.executable, "-c", router, *arguments))
    return plan.Plan("small", 2, 1, tuple(engines), routing)

plan.make = make
sys.exit(main(sys.argv[1:]))
"""


class Run:
    def __init__(self, temporary: Path, *arguments: str) -> None:
        self.port = pick_free("127.0.0.1")
        self.temporary = temporary
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, "--port", str(self.port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_line(self, pattern: str, begin: int = 0, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not any(re.search(pattern, line) for line in self.lines[begin:]):
                left = deadline - time.monotonic()
                assert left > 0, f"no line matched {pattern!r} within {timeout} s:\n" + "\n".join(self.lines)
                self._changed.wait(left)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, part: str) -> psutil.Process:
        (found,) = [child for child in self.children() if part in " ".join(child.cmdline())]
        return found

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Run(tmp_path_factory.mktemp("t"), "--decode", "2")
    yield run
    run.end()


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, 5.0)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_router_before_the_engines_and_leaves_nothing(run: Run, number: int) -> None:
    run.wait_line(r"^ready in [\d.]+ s$")
    processes = run.children()
    assert len(processes) == 4  # Redis, two engines, the router
    run.process.send_signal(number)
    assert run.process.wait(10) == 0
    assert gone(processes)
    run.end()
    ends = [line for line in run.lines if line.endswith("down")]
    assert ends[0] == "[router] down"
    assert sorted(ends[1:]) == ["[decode-0] down", "[decode-1] down"]
    assert list(run.temporary.glob("nano-redis-*")) == []


def test_it_says_what_runs_where_and_how_to_ask(run: Run) -> None:
    run.wait_line("^ready in ")
    run.wait_line("^decode-0 is ready")
    text = "\n".join(run.lines)
    assert re.search(r"^  decode-1 +decode engine, 1 thread +pid \d+$", text, re.M)
    assert re.search(r"^  redis +unix://\S+ +private$", text, re.M)
    assert f"curl http://127.0.0.1:{run.port}/v1/chat/completions" in text


def test_a_killed_engine_comes_back(run: Run) -> None:
    run.wait_line("^ready in ")
    seen = len(run.lines)
    run.child("decode-0").kill()
    run.wait_line(r"^decode-0 ended with SIGKILL; starting it again in 0\.2 s$", seen)
    run.wait_line("^decode-0 is ready again", seen)


def test_a_killed_redis_comes_back_and_the_engines_with_it(run: Run) -> None:
    run.wait_line("^ready in ")
    seen = len(run.lines)
    run.child("redis-server").kill()
    run.wait_line("^redis ended with SIGKILL; starting it again$", seen)
    run.wait_line("^decode-0 is ready again", seen)
    run.wait_line("^decode-1 is ready again", seen)


def test_a_second_signal_ends_at_once_what_would_not_end(tmp_path: Path) -> None:
    run = Run(tmp_path, "--decode", "2", "--grace", "30", "--model", "stubborn")
    run.wait_line("^ready in ")
    processes = run.children()
    run.process.send_signal(signal.SIGINT)
    run.wait_line("^SIGINT: stopping the router")
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(1)
    run.process.send_signal(signal.SIGINT)
    run.process.wait(3)
    assert gone(processes)
    run.end()


def test_what_does_not_end_within_its_grace_is_ended(tmp_path: Path) -> None:
    run = Run(tmp_path, "--decode", "2", "--grace", "0", "--model", "stubborn")
    run.wait_line("^ready in ")
    processes = run.children()
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(10) == 0
    assert gone(processes)
    run.end()
    assert "ending router at once" in run.lines


def test_a_killed_launcher_takes_everything_with_it(run: Run) -> None:
    run.wait_line("^ready in ")
    processes = run.children()
    run.process.kill()
    assert gone(processes)


def test_what_never_starts_is_given_up(tmp_path: Path) -> None:
    run = Run(tmp_path, "--model", "broken")
    assert run.process.wait(20) == 1
    run.end()
    assert any(line == "[decode-0] no such thing" for line in run.lines)
    assert any("giving up" in line for line in run.lines)


def test_a_redis_that_does_not_answer_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    run = Run(tmp_path, "--redis_url", f"redis://127.0.0.1:{pick_free('127.0.0.1')}")
    assert run.process.wait(20) == 1
    run.end()
    assert "cannot be reached" in run.lines[-1]
    assert len(run.lines) == 1

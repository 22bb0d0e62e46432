"""The Lua scripts beside this file, each one atomic step."""

from __future__ import annotations

import secrets
from importlib.resources import files
from typing import Any

import redis
from redis.commands.core import Script

NAMES = ("register", "heartbeat", "update", "unregister", "list", "sweep", "snapshot")


class Scripts:
    """Every script, bound to the keys of one scope."""

    def __init__(self, client: redis.Redis, scope: str) -> None:
        folder = files("nano.ctrl").joinpath("lua")
        prelude = folder.joinpath("prelude.lua").read_text("utf-8")
        # The braces are Redis Cluster's hash tag: all of a scope's keys live in one slot.
        self.keys = [f"nano:{{{scope}}}:{part}" for part in ("entries", "leases", "state", "events")]
        self._token = secrets.token_hex(8)
        self._scripts: dict[str, Script] = {
            name: client.register_script(prelude + folder.joinpath(f"{name}.lua").read_text("utf-8")) for name in NAMES
        }

    @property
    def events_key(self) -> str:
        return self.keys[3]

    def __call__(self, name: str, *args: str | bytes | int) -> Any:
        return self._scripts[name](keys=self.keys, args=[self._token, *args])

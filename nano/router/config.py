"""The router's settings and its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from nano.cli import add_flag, refuse_exposed
from nano.errors import InvalidInput
from nano.router.policy import POLICIES

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class RouterConfig:
    """nanoctrl_address: host:port of the registry service, redis://… or unix://…; empty: engines are given by hand.
    max_body_bytes: larger requests get 413. silence_timeout_s: how long an engine may say nothing about a request.
    drain_s: how long running requests have after a stop signal. allow_remote: without it only loopback is listened on.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    nanoctrl_address: str = "127.0.0.1:3000"
    nanoctrl_scope: str = "default"
    policy: str = "round_robin"
    log_level: str = "info"
    max_body_bytes: int = 32 << 20
    silence_timeout_s: float = 600.0
    drain_s: float = 5.0
    allow_remote: bool = False

    def __post_init__(self) -> None:
        refuse_exposed(self.host, self.allow_remote)
        if not 0 <= self.port < 1 << 16:
            raise InvalidInput(f"--port: expected 0 to 65535, got {self.port}")
        if self.policy not in POLICIES:
            raise InvalidInput(f"--policy: expected one of {', '.join(POLICIES)}, got {self.policy}")
        if self.max_body_bytes < 1:
            raise InvalidInput(f"--max_body_bytes: expected 1 or more, got {self.max_body_bytes}")
        if self.silence_timeout_s <= 0:
            raise InvalidInput(f"--silence_timeout_s: expected more than 0, got {self.silence_timeout_s}")


def parse_args(arguments: Sequence[str]) -> RouterConfig:
    """Flags with underscores or dashes. Exits with status 2 and a line on what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m nano.router",
        description="OpenAI-compatible HTTP front door for nano's engines.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = RouterConfig()

    def add(name: str, text: str, **options: object) -> None:
        add_flag(parser, name, default=getattr(default, name), help=text, **options)

    add("host", "address to listen on")
    add("port", "port to listen on; 0 takes a free one", type=int)
    add("nanoctrl_address", "registry: host:port, redis://… or unix://…")
    add("nanoctrl_scope", "registry scope: systems of different scopes never see each other")
    add("policy", "how engines are chosen", choices=tuple(POLICIES))
    add("log_level", "least severe messages to log", choices=LOG_LEVELS)
    add("max_body_bytes", "largest request body", type=int)
    add("silence_timeout_s", "seconds without a token after which a request fails", type=float)
    add("drain_s", "seconds that running requests have after a stop signal", type=float)
    add("allow_remote", "listen beyond this machine, without authentication", action="store_true")
    try:
        return RouterConfig(**vars(parser.parse_args(arguments)))
    except InvalidInput as error:
        parser.error(str(error))

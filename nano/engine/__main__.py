"""`python -m nano.engine --model PATH --mode prefill|decode|hybrid --nanoctrl_address …`: one engine process."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import msgspec

from nano.cli import add_fields, add_flag, from_flags
from nano.engine.config import EngineConfig
from nano.errors import NanoError


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nano.engine", description=__doc__)
    add_fields(parser, EngineConfig, skip=("role", "models"))
    add_flag(parser, "mode", choices=("prefill", "decode", "hybrid"), default="hybrid", help="this engine's role")
    add_flag(parser, "served_model_name", default="", help="comma-separated names; default: --model as given")
    add_flag(parser, "nanoctrl_address", default="", help="host:port of nano.ctrl, redis://… or unix://…")
    add_flag(parser, "nanoctrl_scope", default="default")
    add_flag(parser, "heartbeat_interval", type=float, default=15.0, help="seconds")
    add_flag(parser, "heartbeat_lease", type=float, default=60.0, help="seconds without a heartbeat until it is lost")
    add_flag(parser, "master_address", default="", help="host:port for ranks of one engine; unused by a single rank")
    add_flag(parser, "ray_address", default="", help="accepted and ignored: no Ray needed")
    add_flag(parser, "attention_dp", type=int, default=1)
    add_flag(parser, "ffn_ep", type=int, default=1)
    add_flag(parser, "ready_fd", type=int, default=-1, help="a pipe for one JSON line (EngineInfo) once it serves")
    add_flag(parser, "log_level", default="info", choices=("debug", "info", "warning", "error"))
    flags = parser.parse_args(arguments)
    for name in ("attention_dp", "ffn_ep"):
        if getattr(flags, name) != 1:
            parser.error(f"--{name}: only 1 is supported so far, got {getattr(flags, name)}")
    return flags


class _Report:
    """Loading progress as log lines, at most one a second."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= 1.0 or (done >= total and now - self._last >= 0.2):
            self._last = now
            logging.info("loading %s: %d of %d MB", stage, done >> 20, total >> 20)


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    flags = parse(arguments)
    logging.basicConfig(level=flags.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr)
    if flags.ray_address:
        logging.info("--ray_address %s: no Ray needed", flags.ray_address)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    names = tuple(name for name in flags.served_model_name.split(",") if name)
    try:
        config = replace(from_flags(EngineConfig, flags, role=flags.mode), models=names or (flags.model,))
        import torch  # noqa: F401  (timed apart: the rest of the start is ours)

        imported = time.monotonic()
        from nano.engine.server import EngineServer

        server = EngineServer(config, _Report())
    except NanoError as error:
        logging.error("%s", error)
        return 2
    with server:
        if flags.nanoctrl_address:
            try:
                server.register(
                    flags.nanoctrl_address, flags.nanoctrl_scope, flags.heartbeat_lease, flags.heartbeat_interval
                )
            except NanoError as error:
                logging.error("registry %s: %s", flags.nanoctrl_address, error)
                return 2
        engine = server.engine
        logging.info(
            "%s: %s on %s (%s, %d threads), %d KV blocks of %d tokens, at most %d tokens a request, at %s; "
            "ready %.2f s after the start, %.2f s of them to import torch",
            config.role, config.model, engine.device, engine.dtype, engine.threads, engine.num_blocks,
            config.kvcache_block_size, engine.max_model_len, server.address, time.monotonic() - started,
            imported - started,
        )  # fmt: skip
        del engine
        if flags.ready_fd >= 0:
            with os.fdopen(flags.ready_fd, "wb") as pipe:
                pipe.write(msgspec.json.encode(server.info()) + b"\n")
        while not stop.wait(0.5):
            if not server._thread.is_alive():
                logging.error("the engine ended: %s", server.fault)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

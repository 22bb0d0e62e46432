"""Which processes run: one name and command line each."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass

from nano.serve import cpus
from nano.serve.options import Options
from nano.serve.supervisor import Spec


@dataclass(frozen=True)
class Plan:
    model: str
    cpus: int
    threads: int
    engines: tuple[Spec, ...]
    router: Spec


def scope_of(options: Options) -> str:
    """Launchers that share a Redis must not share a scope; one that starts again gets its old one."""
    host = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname())
    return options.scope or f"serve-{host[:64]}-{options.port}"


def make(options: Options, redis_url: str) -> Plan:
    model = options.model
    if not model:
        import nano.demo

        model = str(nano.demo.path())
    roles = [
        *(("prefill", i) for i in range(options.prefill)),
        *(("decode", i) for i in range(options.decode)),
        *(("hybrid", i) for i in range(options.hybrid)),
    ]
    available = cpus.allowed()
    threads = options.threads or cpus.threads_each(available, len(roles))
    registry = ("--nanoctrl_address", redis_url, "--nanoctrl_scope", scope_of(options))
    # What torch and BLAS libraries read before an engine can tell them.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    engine_environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **environment}
    engines = tuple(
        Spec(
            name=f"{role}-{i}",
            argv=(
                sys.executable, "-m", "nano.engine", "--model", model, "--mode", role, "--name", f"{role}-{i}",
                "--served_model_name", ",".join(options.names), "--host", "127.0.0.1", "--port", "0",
                "--threads", str(threads), "--log_level", options.log_level, *registry, *options.engine_flags,
            ),
            environment=engine_environment,
        )
        for role, i in roles
    )  # fmt: skip
    router = Spec(
        name="router",
        argv=(
            sys.executable, "-m", "nano.router", "--host", options.host, "--port", str(options.port),
            "--drain_s", str(options.grace), "--log_level", options.log_level, *registry,
            *(("--policy", options.policy) if options.policy else ()),
            *(("--allow_remote",) if options.allow_remote else ()),
        ),
        environment=environment,
    )  # fmt: skip
    return Plan(model, available, threads, engines, router)

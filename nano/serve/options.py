"""The launcher's flags and configuration file."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nano.cli import add_fields, add_flag, parse_bool, refuse_exposed
from nano.engine.config import EngineConfig
from nano.errors import InvalidInput, MissingExtra

DEMO = "demo"
# Given to each engine by the launcher itself; every other field of EngineConfig is a flag here, and passed on.
_OWN = ("model", "role", "name", "host", "port", "models", "threads", "allow_remote")
DESCRIPTION = """Serves a model on this machine: starts a registry, prefill and decode engines and an OpenAI-compatible
router, and stops them together. Without arguments: the demo model on http://127.0.0.1:8080."""


@dataclass(frozen=True)
class Options:
    """model: empty is the demo model. names: what requests call it. hybrid: engines that do both, instead of prefill
    and decode ones. threads: of each engine, 0 shares the CPUs out. engine_flags: passed on as they are. grace: seconds
    that running requests have when the launcher is stopped.
    """

    model: str
    names: tuple[str, ...]
    prefill: int
    decode: int
    hybrid: int
    host: str
    port: int
    redis_url: str
    scope: str
    threads: int
    policy: str
    log_level: str
    grace: float
    allow_remote: bool
    engine_flags: tuple[str, ...]


def parse(arguments: list[str]) -> Options:
    """Raises InvalidInput naming a flag or a key of the configuration file; argparse's own errors exit with 2."""
    parser = _parser()
    config = parser.parse_known_args(arguments)[0].config
    if config:
        # Flags come after, and so win.
        arguments = [*_config_arguments(Path(config), parser), *arguments]
    flags = parser.parse_args(arguments)
    if not flags.hybrid and (flags.decode < 1 or flags.prefill < 0):
        raise InvalidInput(f"expected --decode >= 1 and --prefill >= 0, got {flags.decode} and {flags.prefill}")
    if flags.hybrid < 0 or flags.threads < 0 or flags.grace < 0:
        raise InvalidInput("expected --hybrid, --threads and --grace >= 0")
    refuse_exposed(flags.host, flags.allow_remote)
    names = tuple(name for name in flags.served_model_name.split(",") if name)
    return Options(
        model=flags.model,
        names=names or (flags.model or DEMO,),
        prefill=0 if flags.hybrid else flags.prefill,
        decode=0 if flags.hybrid else flags.decode,
        hybrid=flags.hybrid,
        host=flags.host,
        port=flags.port,
        redis_url=flags.redis_url,
        scope=flags.nanoctrl_scope,
        threads=flags.threads,
        policy=flags.policy,
        log_level=flags.log_level,
        grace=flags.grace,
        allow_remote=flags.allow_remote,
        engine_flags=_engine_flags(flags),
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m nano.serve", description=DESCRIPTION, allow_abbrev=False)
    add_flag(parser, "model", default="", help="Hugging Face directory or hub id (default: the demo model)")
    add_flag(parser, "served_model_name", default="", help="names for requests, comma-separated (default: --model)")
    add_flag(parser, "prefill", type=int, default=1, metavar="N", help="prefill engines (default: 1)")
    add_flag(parser, "decode", type=int, default=1, metavar="N", help="decode engines (default: 1)")
    add_flag(
        parser, "hybrid", type=_count, nargs="?", const=1, default=0, metavar="N",
        help="N engines (1) that prefill and decode, instead of separate ones",
    )  # fmt: skip
    add_flag(parser, "host", default="127.0.0.1", help="the router's address (default: 127.0.0.1)")
    add_flag(parser, "port", type=int, default=8080, help="the router's port (default: 8080)")
    add_flag(parser, "allow_remote", action="store_true", help="let --host be reachable from other machines")
    add_flag(parser, "redis_url", default="", help="redis:// or unix:// address (default: a private Redis is started)")
    add_flag(parser, "nanoctrl_scope", default="", help="registry scope (default: one of this launcher's own)")
    add_flag(parser, "threads", type=int, default=0, help="threads of each engine (default: CPUs / engines)")
    add_flag(parser, "policy", default="", help="how the router chooses engines (default: the router's)")
    add_flag(parser, "log_level", default="info", choices=("debug", "info", "warning", "error"), help="(default: info)")
    add_flag(parser, "grace", type=float, default=5.0, help="seconds for running requests when stopped (default: 5)")
    add_flag(parser, "config", default="", metavar="FILE.toml", help="keys are these flags' names; flags win")
    add_fields(parser, EngineConfig, skip=_OWN)  # passed on to every engine
    return parser


def _count(text: str) -> int:
    return int(text) if text.isdigit() else int(parse_bool(text))


def _engine_flags(flags: argparse.Namespace) -> tuple[str, ...]:
    """Those that were given another value than the engine's own default."""
    given: list[str] = []
    for field in dataclasses.fields(EngineConfig):
        if field.name not in _OWN and (value := getattr(flags, field.name)) != field.default:
            given += [f"--{field.name}", _as_text(value)]
    return tuple(given)


def _config_arguments(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    known = {action.dest for action in parser._actions} - {"help", "config"}
    arguments = []
    for key, value in _read_toml(path).items():
        name = key.replace("-", "_")
        if name not in known:
            raise InvalidInput(f"--config {path}: expected keys named as flags, got {key!r}")
        if isinstance(value, dict):
            raise InvalidInput(f"--config {path}: expected a value for {key!r}, got a table")
        arguments.append(f"--{name}={_as_text(value)}")
    return arguments


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
    except ImportError as error:
        raise MissingExtra("--config needs tomli on Python 3.10: pip install tomli") from error
    try:
        keys: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(f"--config {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"--config {path}: expected TOML: {error}") from error
    return keys


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(_as_text(part) for part in value)
    return str(value)

"""What every command line shares: flags from a typed config, in both spellings, and the check of what is exposed."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import typing
from typing import Any

from nano.errors import InvalidInput


def add_flag(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """Adds --some_name, also spelt --some-name."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    parser.add_argument(*spellings, dest=name, **options)


def add_fields(parser: argparse.ArgumentParser, config: type[Any], skip: tuple[str, ...] = ()) -> None:
    """A flag for each field of a dataclass, with its type and default; tuples are comma-separated."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name in skip:
            continue
        kind = hints[field.name]
        options: dict[str, Any] = {"default": field.default, "help": f"(default: {field.default!r})"}
        if field.default is dataclasses.MISSING:
            options = {"required": True}
        if kind is bool:
            options |= {"type": parse_bool, "metavar": "true|false", "nargs": "?", "const": True}
        elif typing.get_origin(kind) is typing.Literal:
            options |= {"choices": typing.get_args(kind)}
        elif typing.get_origin(kind) is tuple:
            options |= {"type": lambda text: tuple(part for part in text.split(",") if part)}
        else:
            options |= {"type": kind}
        add_flag(parser, field.name, **options)


def from_flags(config: type[Any], flags: argparse.Namespace, **more: Any) -> Any:
    """The config built from the flags that `add_fields` added."""
    names = {field.name for field in dataclasses.fields(config)}
    values = {name: value for name, value in vars(flags).items() if name in names}
    return config(**(values | more))


def refuse_exposed(host: str, allow_remote: bool) -> None:
    """Raises InvalidInput when `host` can be reached from other machines and nobody said that this is meant."""
    if not allow_remote and not is_loopback(host):
        raise InvalidInput(f"--host {host} can be reached from other machines: say --allow_remote if that is meant")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_bool(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")

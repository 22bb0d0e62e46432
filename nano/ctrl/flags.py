"""Command-line flags that may be spelt with underscores or dashes."""

from __future__ import annotations

import argparse
from typing import Any


def add(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """Adds `name` ("--redis_url"), and its twin with dashes ("--redis-url")."""
    spellings = dict.fromkeys((name, "--" + name[2:].replace("_", "-")))
    parser.add_argument(*spellings, **options)

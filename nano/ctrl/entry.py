"""What the registry holds, and what a watcher is told."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from nano.errors import InvalidInput

_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_NAME = re.compile(r"[^\x00-\x1f\x7f{}]{1,256}")
MIN_LEASE = 0.5  # seconds; shorter ones end by the ordinary jitter of a busy machine
MAX_LEASE = 86400.0


class Entry(msgspec.Struct, frozen=True):
    """One registered service. `revision` is that of its last change."""

    kind: str
    name: str
    incarnation: int
    meta: dict[str, Any]
    revision: int


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of the registry, or its whole content.

    type: "snapshot" (`entries` replaces all that was known), or "added" | "updated" | "removed" (unregistered, or taken
    over by another incarnation) | "lost" (its lease ended), with `entry`, for the last two as it was before.
    revision: of the registry after the change.
    """

    type: str
    revision: int
    entry: Entry | None = None
    entries: tuple[Entry, ...] = ()


def check_scope(scope: str) -> None:
    if not isinstance(scope, str) or not _WORD.fullmatch(scope):
        raise InvalidInput(f"scope: expected 1 to 128 of A-Z a-z 0-9 _ . : -, got {scope!r}")


def check_kind(kind: str) -> None:
    if not isinstance(kind, str) or not _WORD.fullmatch(kind):
        raise InvalidInput(f"kind: expected 1 to 128 of A-Z a-z 0-9 _ . : -, got {kind!r}")


def check_entry(kind: str, name: str, incarnation: int, lease: float) -> None:
    """Raises InvalidInput naming the field that the registry would not store."""
    check_kind(kind)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(f"name: expected 1 to 256 characters without braces and control characters, got {name!r}")
    if not 0 <= incarnation < 1 << 63:
        raise InvalidInput(f"incarnation: expected 0 to 2^63 - 1, got {incarnation}")
    if not MIN_LEASE <= lease <= MAX_LEASE:
        raise InvalidInput(f"lease: expected {MIN_LEASE} to {MAX_LEASE} seconds, got {lease}")


def encode_meta(meta: dict[str, Any]) -> bytes:
    if not isinstance(meta, dict):
        raise InvalidInput(f"meta: expected a dict, got {type(meta).__name__}")
    try:
        return msgspec.json.encode(meta)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"meta: expected what JSON can hold, got {error}") from error

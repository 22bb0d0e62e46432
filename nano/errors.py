"""Every exception that nano raises on purpose. The native core raises the same classes."""

from __future__ import annotations


class NanoError(Exception):
    """Base of all. The text names operation, object, expected and got."""


class InvalidInput(NanoError, ValueError):
    """The caller passed something wrong; nothing was changed."""


class Closed(NanoError):
    """The object was closed before or during the operation."""


class DeadlineExceeded(NanoError, TimeoutError):
    """The operation's deadline passed."""


class PeerLost(NanoError, ConnectionError):
    """The other process died, froze or left."""


class Refused(NanoError, PermissionError):
    """Rights, bounds, secret or protocol version do not allow it."""


class OutOfMemory(NanoError, MemoryError):
    """Memory or KV blocks ran out."""


class SystemFault(NanoError, OSError):
    """A system call failed; the text has errno's name."""


class Internal(NanoError, RuntimeError):
    """A broken invariant: a bug in nano."""


class MissingExtra(NanoError, ImportError):
    """A part of nano was used whose optional dependencies are not installed."""

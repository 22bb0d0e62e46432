"""Service registry on Redis: register, heartbeat, discover, watch, leases, scopes. See docs/registry.md."""

from __future__ import annotations

from nano.errors import InvalidInput, MissingExtra

try:
    import msgspec  # noqa: F401
except ImportError as error:
    raise MissingExtra("nano.ctrl needs msgspec and redis: pip install 'nano-serve[nanoctrl]'") from error

from nano.ctrl.entry import Entry, Event
from nano.ctrl.registry import Registration, Registry
from nano.ctrl.watch import Watch

__all__ = ["Entry", "Event", "Registration", "Registry", "Watch", "connect"]


def connect(address: str, scope: str = "default", timeout: float = 5.0) -> Registry:
    """A registry client. Nothing is sent before the first call.

    address: "redis://host:port/0", "rediss://…" or "unix:///path.sock" (Redis itself), or "host:port", "http://host:port"
    (a `python -m nano.ctrl` service). scope: services of two scopes never see each other. timeout: seconds that a call
    may take. Raises InvalidInput.
    """
    if address.startswith(("redis://", "rediss://", "unix://")):
        try:
            from nano.ctrl.redis_registry import RedisRegistry
        except ImportError as error:
            raise MissingExtra("nano.ctrl needs redis: pip install 'nano-serve[nanoctrl]'") from error
        return RedisRegistry(address, scope, timeout)
    if "://" in address and not address.startswith("http://"):
        raise InvalidInput(f"address: expected host:port, http://, redis://, rediss:// or unix://, got {address!r}")
    from nano.ctrl.http_registry import HttpRegistry

    return HttpRegistry(address, scope, timeout)

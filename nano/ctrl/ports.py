"""A port is tried before a server starts on it: servers that share ports would not notice a busy one."""

from __future__ import annotations

import errno
import os
import socket

from nano.errors import InvalidInput


def check_free(host: str, port: int, flag: str = "--port") -> None:
    """Raises InvalidInput naming `flag` when host:port cannot be listened on. Port 0 is always free."""
    if not 0 <= port <= 65535:
        raise InvalidInput(f"{flag}: expected 0 to 65535, got {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise InvalidInput(f"--host: expected an address of this machine, got {host!r}: {error.strerror}") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InvalidInput(
                    f"port {port} on {host} is in use by another program: choose another one with {flag}"
                ) from error
            reason = os.strerror(error.errno or 0)
            raise InvalidInput(f"cannot listen on {host}:{port} ({reason}): see --host and {flag}") from error


def pick_free(host: str) -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port

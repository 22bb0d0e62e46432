"""The registry through a `python -m nano.ctrl` service."""

from __future__ import annotations

import http.client
import socket
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from nano.ctrl.entry import Entry, Event, check_kind, encode_meta
from nano.ctrl.registry import Answer, Pause, Registry
from nano.ctrl.watch import PING_SECONDS, Watch
from nano.errors import Closed, Internal, InvalidInput, NanoError, PeerLost, Refused


class Listing(msgspec.Struct):
    entries: list[Entry]


class ErrorBody(msgspec.Struct):
    class Detail(msgspec.Struct):
        code: str
        message: str

    error: Detail


class Registered(msgspec.Struct):
    revision: int


class HttpRegistry(Registry):
    """One connection a call; a watch keeps its own."""

    def __init__(self, address: str, scope: str = "default", timeout: float = 5.0) -> None:
        super().__init__(address, scope, timeout)
        parts = urlsplit(address if "://" in address else f"http://{address}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInput(f"address: expected host:port, got {address!r}: {error}") from error
        if not host or not port or parts.path not in ("", "/") or parts.scheme != "http":
            raise InvalidInput(f"address: expected host:port or http://host:port, got {address!r}")
        self._host, self._port = host, port
        self._closed = False

    def list(self, kind: str | None = None) -> list[Entry]:
        if kind is not None:
            check_kind(kind)
        body = self._request("GET", "list" + _query(kind))
        found = msgspec.json.decode(body, type=Listing).entries
        return sorted(found, key=lambda entry: (entry.kind, entry.name))

    def close(self) -> None:
        self._closed = True

    def _register(self, kind: str, name: str, incarnation: int, lease: float, meta: dict[str, Any]) -> int:
        fields = {"kind": kind, "name": name, "incarnation": incarnation, "lease": lease}
        body = self._request("POST", "register", {**fields, "meta": meta})
        return msgspec.json.decode(body, type=Registered).revision

    def _heartbeat(self, kind: str, name: str, incarnation: int) -> Answer:
        return self._holder("heartbeat", {"kind": kind, "name": name, "incarnation": incarnation})

    def _update(self, kind: str, name: str, incarnation: int, meta: dict[str, Any]) -> Answer:
        return self._holder("update", {"kind": kind, "name": name, "incarnation": incarnation, "meta": meta})

    def _unregister(self, kind: str, name: str, incarnation: int) -> Answer:
        return self._holder("unregister", {"kind": kind, "name": name, "incarnation": incarnation})

    def _watch(self, kind: str | None) -> Watch:
        return HttpWatch(self, kind)

    def _pause(self) -> Pause:
        return WatchPause(self)

    def _holder(self, operation: str, fields: dict[str, Any]) -> Answer:
        try:
            self._request("POST", operation, fields)
        except _Answered as answered:
            if answered.code == "unknown":
                return "unknown"
            if answered.code == "replaced":
                return "replaced"
            raise Internal(str(answered)) from answered
        return "ok"

    def _request(self, method: str, operation: str, fields: dict[str, Any] | None = None) -> bytes:
        if self._closed:
            raise Closed(f"{operation}: the registry client of {self.address} is closed")
        body = None
        if fields is not None:
            encode_meta(fields)
            body = msgspec.json.encode(fields)
        connection = self._connection(self.timeout)
        try:
            connection.request(method, self._path(operation), body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise PeerLost(f"{operation}: registry {self.address} cannot be reached: {error!r}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise _refusal(operation, self.address, response.status, answer)
        return answer

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)

    def _path(self, operation: str) -> str:
        return f"/v1/{quote(self.scope, safe='')}/{operation}"


class HttpWatch(Watch):
    """Reads server-sent events."""

    def __init__(self, registry: HttpRegistry, kind: str | None) -> None:
        super().__init__(kind, registry.scope)
        self._registry = registry
        self._socket: socket.socket | None = None
        self._start()

    def _wake(self) -> None:
        link = self._socket
        if link is not None:
            try:
                link.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was broken already, which wakes the reader as well

    def _follow(self) -> None:
        registry = self._registry
        # Silence beyond a few pings is a dead connection.
        connection = registry._connection(max(registry.timeout, 3 * PING_SECONDS))
        try:
            connection.connect()
            self._socket = connection.sock
            if self._closing.is_set():
                return
            connection.request("GET", registry._path("watch" + _query(self._kind)))
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal("watch", registry.address, response.status, response.read())
            while not self._closing.is_set():
                line = response.readline()
                if not line:
                    raise PeerLost(f"watch: registry {registry.address} ended the stream")
                if line.startswith(b"data: ") and not self._offer(msgspec.json.decode(line[6:], type=Event)):
                    return
        except NanoError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise PeerLost(f"watch: registry {registry.address} cannot be reached: {error!r}") from error
        finally:
            self._socket = None
            connection.close()


class WatchPause(Pause):
    """Ends early with every snapshot: the registry may have been away, and the entry gone."""

    def __init__(self, registry: HttpRegistry) -> None:
        # Of a kind that nobody registers only snapshots come.
        self._watch = HttpWatch(registry, "-")

    def wait(self, seconds: float) -> None:
        self._watch.get(seconds)

    def wake(self) -> None:
        self._watch.close()

    def close(self) -> None:
        self._watch.close()


class _Answered(Exception):
    """The service understood, and the answer is about the entry."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _refusal(operation: str, address: str, status: int, body: bytes) -> Exception:
    try:
        detail = msgspec.json.decode(body, type=ErrorBody).error
    except msgspec.DecodeError:
        return PeerLost(f"{operation}: {address} answered {status}; expected a nano.ctrl service there")
    if detail.code in ("unknown", "replaced"):
        return _Answered(detail.code, detail.message)
    if status in (400, 413):
        return InvalidInput(f"{operation}: {detail.message}")
    if status == 503 and detail.code == "refused":
        return Refused(f"{operation}: {detail.message}")
    if status == 503:
        return PeerLost(f"{operation}: {detail.message}")
    return Internal(f"{operation}: registry {address} answered {status}: {detail.message}")


def _query(kind: str | None) -> str:
    return "" if kind is None else f"?kind={quote(kind, safe='')}"

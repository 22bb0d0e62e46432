"""The registry over HTTP/JSON, for other languages and for dashboards: an RSGI application.

POST /v1/{scope}/register    {"kind", "name", "meta", "incarnation"?, "lease"?}  -> {"kind", "name", "incarnation", …}
POST /v1/{scope}/heartbeat   {"kind", "name", "incarnation"}                     -> {"status": "ok"}
POST /v1/{scope}/update      {"kind", "name", "incarnation", "meta"}             -> {"status": "ok"}
POST /v1/{scope}/unregister  {"kind", "name", "incarnation"}                     -> {"status": "ok"}
GET  /v1/{scope}/list?kind=                                                      -> {"entries": […]}
GET  /v1/{scope}/watch?kind=  server-sent events; each one's data is an Event
GET  /health
Errors: {"error": {"code", "message"}}, with 400 invalid, 404 unknown, 405, 409 replaced, 413, 503 unavailable.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote

import msgspec

from nano.ctrl.entry import check_entry, check_kind
from nano.ctrl.redis_registry import RedisRegistry
from nano.ctrl.registry import Answer
from nano.ctrl.watch import PING_SECONDS, Watch
from nano.errors import InvalidInput, NanoError, PeerLost, Refused

logger = logging.getLogger("nano.ctrl")

MAX_BODY = 1 << 20  # bytes
MAX_SCOPES = 256  # clients kept open
_JSON = [("content-type", "application/json")]
_SSE = [("content-type", "text/event-stream"), ("cache-control", "no-store")]


class RegisterBody(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    name: str
    meta: dict[str, Any] = {}
    incarnation: int = 0
    lease: float = 60.0


class HolderBody(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    name: str
    incarnation: int


class UpdateBody(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    name: str
    incarnation: int
    meta: dict[str, Any]


Body = TypeVar("Body", RegisterBody, HolderBody, UpdateBody)


class HttpError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = msgspec.json.encode({"error": {"code": code, "message": message}})


class Service:
    """One per process."""

    def __init__(self, redis_url: str, timeout: float = 5.0) -> None:
        self._redis_url = redis_url
        self._timeout = timeout
        self._scopes: OrderedDict[str, RedisRegistry] = OrderedDict()
        self._scopes_lock = threading.Lock()
        self._workers = ThreadPoolExecutor(max_workers=8, thread_name_prefix="nano-ctrl")
        self._watches: set[Watch] = set()
        self._posts: dict[str, Callable[[str, bytes], Any]] = {
            "register": self._register,
            "heartbeat": self._heartbeat,
            "update": self._update,
            "unregister": self._unregister,
        }

    def end_watches(self) -> None:
        """Ends every stream, so that the server can stop."""
        for watch in list(self._watches):
            watch.close()

    def close(self) -> None:
        self._workers.shutdown()
        for registry in self._scopes.values():
            registry.close()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        if scope.proto != "http":
            return
        try:
            await self._route(scope, protocol)
        except HttpError as error:
            protocol.response_bytes(error.status, _JSON, error.body)
        except Exception:
            logger.exception("%s %s", scope.method, scope.path)
            unknown = HttpError(500, "internal", "internal error; the service's log has it")
            protocol.response_bytes(unknown.status, _JSON, unknown.body)

    async def _route(self, scope: Any, protocol: Any) -> None:
        parts = [unquote(part) for part in scope.path.strip("/").split("/")]
        if parts == ["health"]:
            await self._call(self._check)
            protocol.response_bytes(200, _JSON, b'{"status":"ok"}')
            return
        if len(parts) != 3 or parts[0] != "v1" or parts[2] not in (*self._posts, "list", "watch"):
            raise HttpError(404, "not_found", f"expected /health or /v1/{{scope}}/OPERATION, got {scope.path}")
        name, operation = parts[1:]
        expected = "POST" if operation in self._posts else "GET"
        if scope.method != expected:
            raise HttpError(405, "method", f"{operation}: expected {expected}, got {scope.method}")
        if operation in self._posts:
            body = await self._body(scope, protocol)
            answer = await self._call(self._posts[operation], name, body)
        else:
            kind = parse_qs(scope.query_string).get("kind", [None])[0]
            if operation == "watch":
                await self._watch(await self._call(self._new_watch, name, kind), protocol)
                return
            answer = {"entries": await self._call(self._list, name, kind)}
        protocol.response_bytes(200, _JSON, msgspec.json.encode(answer))

    async def _body(self, scope: Any, protocol: Any) -> bytes:
        length = scope.headers.get("content-length")
        if length is not None and length.isdigit() and int(length) > MAX_BODY:
            raise HttpError(413, "too_large", f"body: expected at most {MAX_BODY} bytes, got {length}")
        body = bytearray()
        async for chunk in protocol:
            body += chunk
            if len(body) > MAX_BODY:
                raise HttpError(413, "too_large", f"body: expected at most {MAX_BODY} bytes")
        return bytes(body)

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, function, *args)
        except InvalidInput as error:
            raise HttpError(400, "invalid", str(error)) from error
        except PeerLost as error:
            raise HttpError(503, "unavailable", str(error)) from error
        except Refused as error:
            raise HttpError(503, "refused", str(error)) from error

    def _registry(self, scope: str) -> RedisRegistry:
        with self._scopes_lock:
            registry = self._scopes.get(scope)
            if registry is None:
                registry = self._scopes[scope] = RedisRegistry(self._redis_url, scope, self._timeout)
                if len(self._scopes) > MAX_SCOPES:
                    self._scopes.popitem(last=False)[1].close()
            self._scopes.move_to_end(scope)
            return registry

    def _check(self) -> None:
        self._registry("default").list("health")

    def _register(self, scope: str, raw: bytes) -> dict[str, Any]:
        body = _decode(raw, RegisterBody)
        check_entry(body.kind, body.name, body.incarnation, body.lease)
        # 52 bits: a number that JavaScript keeps whole.
        incarnation = body.incarnation or secrets.randbits(52) + 1
        revision = self._registry(scope)._register(body.kind, body.name, incarnation, body.lease, body.meta)
        return {"kind": body.kind, "name": body.name, "incarnation": incarnation, "revision": revision}

    def _heartbeat(self, scope: str, raw: bytes) -> dict[str, Any]:
        body = _decode(raw, HolderBody)
        return _settled(body, self._registry(scope)._heartbeat(body.kind, body.name, body.incarnation))

    def _update(self, scope: str, raw: bytes) -> dict[str, Any]:
        body = _decode(raw, UpdateBody)
        return _settled(body, self._registry(scope)._update(body.kind, body.name, body.incarnation, body.meta))

    def _unregister(self, scope: str, raw: bytes) -> dict[str, Any]:
        body = _decode(raw, HolderBody)
        return _settled(body, self._registry(scope)._unregister(body.kind, body.name, body.incarnation))

    def _list(self, scope: str, kind: str | None) -> Any:
        return self._registry(scope).list(kind)

    def _new_watch(self, scope: str, kind: str | None) -> Watch:
        if kind is not None:
            check_kind(kind)
        return self._registry(scope).watch(kind)

    async def _watch(self, watch: Watch, protocol: Any) -> None:
        """Streams until the client leaves or the service stops."""
        loop = asyncio.get_running_loop()
        transport = protocol.response_stream(200, _SSE)
        self._watches.add(watch)

        def pump() -> None:
            while not watch.closed:
                event = watch.get(PING_SECONDS)
                frame = b": ping\n\n"
                if event is not None:
                    data = msgspec.json.encode(event)
                    frame = b"event: %b\nid: %d\ndata: %b\n\n" % (event.type.encode(), event.revision, data)
                # One frame at a time: a slow client leaves the rest in the watch's bounded queue.
                asyncio.run_coroutine_threadsafe(_send(transport, frame), loop).result()

        pumping = loop.create_future()
        thread = threading.Thread(target=_run_then_set, args=(pump, loop, pumping), name="nano-ctrl-watch", daemon=True)
        thread.start()
        leaving = asyncio.ensure_future(protocol.client_disconnect())
        try:
            await asyncio.wait((pumping, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            self._watches.discard(watch)
            await asyncio.to_thread(watch.close)
            await pumping


async def _send(transport: Any, frame: bytes) -> None:
    await transport.send_bytes(frame)


def _run_then_set(function: Callable[[], None], loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
    try:
        function()
    except (NanoError, OSError, RuntimeError) as error:
        logger.debug("a watch ended: %s", error)
    finally:
        loop.call_soon_threadsafe(done.set_result, None)


def _decode(raw: bytes, body: type[Body]) -> Body:
    try:
        return msgspec.json.decode(raw, type=body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fields = ", ".join(body.__struct_fields__)
        raise InvalidInput(f"body: expected JSON with the fields {fields}: {error}") from error


def _settled(body: HolderBody | UpdateBody, answer: Answer) -> dict[str, Any]:
    if answer == "unknown":
        raise HttpError(404, "unknown", f"{body.kind}/{body.name} is not registered")
    if answer == "replaced":
        raise HttpError(409, "replaced", f"another incarnation has taken the name {body.kind}/{body.name}")
    return {"status": "ok"}

"""The HTTP application: OpenAI's API over RSGI.

https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Protocol
from urllib.parse import unquote

import msgspec

from nano import wire
from nano.router import api
from nano.router._text import Choice, pack_ids
from nano.router.answer import Answer
from nano.router.api import ChatRequest, CompletionRequest
from nano.router.config import RouterConfig
from nano.router.errors import ApiError, invalid
from nano.router.generation import Generation, new_key
from nano.router.logprobs import Report
from nano.router.messages import to_template
from nano.router.metrics import CONTENT_TYPE, Metrics
from nano.router.model import Model
from nano.router.prompts import completion_prompts
from nano.router.sampling import sampling
from nano.router.stream import CHAT, COMPLETION, Frames, Http, StreamSink
from nano.router.tools import offered
from nano.router.view import Route, View

log = logging.getLogger(__name__)

JSON = [("content-type", "application/json")]
TEXT = [("content-type", "text/plain; charset=utf-8")]

ID_BYTES = 4

# A request that is older is watched for its client's leaving; younger ones are over before it matters.
WATCH_S = 0.1


class Headers(Protocol):
    def get(self, name: str) -> str | None: ...


class Scope(Protocol):
    method: str
    path: str
    headers: Headers


class Connection(Http, Protocol):
    """granian's HTTP protocol of one request."""

    def __call__(self) -> Awaitable[bytes]: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def client_disconnect(self) -> asyncio.Future[None]: ...


Handler = Callable[[Scope, Connection], Awaitable[int]]


class App:
    """Answers requests with what the view can reach. `draining`: new generations get 503."""

    def __init__(self, config: RouterConfig, view: View, executor: Executor) -> None:
        self._config = config
        self._view = view
        self._executor = executor
        self._running: dict[Generation, Connection] = {}
        self._unwatched: list[Generation] = []
        self._leaving: dict[Generation, asyncio.Future[None]] = {}
        self.metrics = Metrics(view)
        self.draining = False
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completion},
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._health},
            "/ready": {"GET": self._ready},
            "/metrics": {"GET": self._metrics},
        }

    async def __rsgi__(self, scope: Scope, connection: Connection) -> None:
        path = scope.path
        try:
            status = await self._handler(scope.method, path)(scope, connection)
        except ApiError as error:
            status = error.status
            connection.response_bytes(status, error.headers(), error.body())
        except Exception:
            log.exception("%s %s", scope.method, path)
            status = 500
            bug = ApiError(status, "internal error of the router")
            connection.response_bytes(status, bug.headers(), bug.body())
        self.metrics.responses[path if path in self._routes else "other", status] += 1

    @property
    def running(self) -> int:
        return len(self._running)

    def tick(self) -> None:
        """Once every WATCH_S: sees to it that clients who leave are noticed."""
        young = []
        horizon = time.monotonic() - WATCH_S
        for generation in self._unwatched:
            connection = self._running.get(generation)
            if connection is None:
                continue
            if generation.started > horizon:
                young.append(generation)
                continue
            leaving = self._leaving[generation] = connection.client_disconnect()
            # Weakly: granian keeps a future that was cancelled before its thread saw it until the connection ends.
            leaving.add_done_callback(partial(self._left, weakref.ref(generation)))
        self._unwatched = young

    def stop(self, error: ApiError) -> None:
        """Ends what is running."""
        for generation in list(self._running):
            generation.cancel(error)

    def _left(self, reference: weakref.ref[Generation], leaving: asyncio.Future[None]) -> None:
        generation = reference()
        if generation is not None and generation in self._running:
            self.metrics.disconnects += 1
            generation.cancel(None)

    # --- what is asked -----------------------------------------------------------------------------------------------

    def _handler(self, method: str, path: str) -> Handler:
        methods = self._routes.get(path)
        if methods is None:
            if not path.startswith("/v1/models/"):
                raise ApiError(404, f"there is no {path}", code="unknown_url")
            methods = {"GET": self._one_model}
        handler = methods.get(method)
        if handler is None:
            raise ApiError(405, f"{path}: expected {' or '.join(methods)}, got {method}", code="method_not_allowed")
        return handler

    async def _body(self, scope: Scope, connection: Connection) -> bytes:
        limit = self._config.max_body_bytes
        length = scope.headers.get("content-length")
        if length is not None and int(length) <= limit:
            return await connection()
        pieces = []
        size = limit + 1 if length is not None else 0
        if size <= limit:
            async for piece in connection:
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    break
        if size > limit:
            raise ApiError(413, f"the body is too large: expected up to {limit} bytes", code="body_too_large")
        return b"".join(pieces)

    async def _chat(self, scope: Scope, connection: Connection) -> int:
        request = api.decode_chat(await self._body(scope, connection))
        route = self._route(request.model)
        model = self._view.model(request.model)
        tools = offered(request)
        prompt = await model.encode_chat(to_template(request), tools, request.chat_template_kwargs, self._executor)
        limit = request.max_completion_tokens or request.max_tokens
        return await self._generate(request, connection, model, [prompt], route, limit, tools is not None)

    async def _completion(self, scope: Scope, connection: Connection) -> int:
        request = api.decode_completion(await self._body(scope, connection))
        route = self._route(request.model)
        model = self._view.model(request.model)
        prompts = [
            await model.encode(prompt, True, self._executor) if isinstance(prompt, str) else _pack(prompt, route)
            for prompt in completion_prompts(request)
        ]
        return await self._generate(request, connection, model, prompts, route, request.max_tokens, False)

    def _route(self, model: str) -> Route:
        if self.draining:
            raise ApiError(503, "the router is shutting down", code="unavailable")
        return self._view.route(model)

    async def _generate(
        self,
        request: ChatRequest | CompletionRequest,
        connection: Connection,
        model: Model,
        prompts: list[bytes],
        route: Route,
        limit: int | None,
        tools: bool,
    ) -> int:
        chat = isinstance(request, ChatRequest)
        stops = api.stops(request)
        n = request.n or 1
        generation = Generation(sum(map(len, prompts)) // ID_BYTES, n)
        request_id = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        created = int(time.time())
        stream = bool(request.stream)
        frames = None
        if stream:
            include_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
            kind = "chat.completion.chunk" if chat else "text_completion"
            frames = Frames(kind, request_id, created, request.model, include_usage)
            sink = StreamSink(generation, connection, frames, chat=chat, include_usage=include_usage)
            if tools:
                sink.parse_tools(n)
            generation.sink = sink
        else:
            kind = "chat.completion" if chat else "text_completion"
            generation.sink = answer = Answer(generation, kind, request_id, created, request.model, tools=tools)

        packed: list[bytes] = []
        how: list[wire.Sampling] = []
        for i, prompt in enumerate(prompts):
            if i:
                route = self._route(request.model)
            sampled = sampling(request, len(prompt) // ID_BYTES, route, limit, n)
            for j in range(n):
                index = i * n + j
                around: tuple[bytes | None, bytes | None] = (None, None)
                if sampled[j].logprobs >= 0:
                    generation.reports[index] = Report(model.tokenizer, chat=chat)
                elif frames is not None and not tools:
                    around = frames.around(index, *(CHAT if chat else COMPLETION))
                choice = Choice(new_key(), index, generation, model.vocabulary, stops, *around, generation.started)
                generation.add(choice, route)
                packed.append(prompt)
                how.append(sampled[j])

        self._running[generation] = connection
        self._unwatched.append(generation)
        self.metrics.began(generation)
        try:
            generation.submit(packed, how)
            await generation.done
        finally:
            del self._running[generation]
            leaving = self._leaving.pop(generation, None)
            if leaving is not None:
                leaving.cancel()  # else granian keeps it
            self.metrics.ended(generation)
        if stream:
            return sink.status
        status, headers, body = answer.response
        connection.response_bytes(status, headers, body)
        return status

    async def _models(self, scope: Scope, connection: Connection) -> int:
        data = [_describe(name, *found) for name, found in self._view.served().items()]
        connection.response_bytes(200, JSON, msgspec.json.encode(api.ModelList(data)))
        return 200

    async def _one_model(self, scope: Scope, connection: Connection) -> int:
        name = unquote(scope.path.removeprefix("/v1/models/"))
        found = self._view.served().get(name)
        if found is None:
            raise ApiError(404, f"the model {name!r} does not exist", param="model", code="model_not_found")
        connection.response_bytes(200, JSON, msgspec.json.encode(_describe(name, *found)))
        return 200

    async def _health(self, scope: Scope, connection: Connection) -> int:
        connection.response_bytes(200, TEXT, b"ok\n")
        return 200

    async def _ready(self, scope: Scope, connection: Connection) -> int:
        lacks = "the router is shutting down" if self.draining else self._view.lacks()
        status = 503 if lacks else 200
        connection.response_bytes(status, TEXT, (lacks or "ready").encode() + b"\n")
        return status

    async def _metrics(self, scope: Scope, connection: Connection) -> int:
        connection.response_bytes(200, [("content-type", CONTENT_TYPE)], self.metrics.render())
        return 200


def _describe(name: str, model: Model, max_model_len: int) -> api.Model:
    return api.Model(name, model.created, "nano", max_model_len)


def _pack(prompt: list[int], route: Route) -> bytes:
    try:
        return pack_ids(prompt, route.decode.info.vocab_size)
    except (ValueError, OverflowError) as error:
        raise invalid("prompt", f"prompt: {error}") from None

"""The decode side of an engine: requests of routers, prefilled here or by another engine.

States: queued (prefilled here) -> running; or asked -> ready -> receiving -> running. Each failure names the peer, the
operation and whether a retry may help; only the router decides on one.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nano import wire
from nano._core.sched import Committed
from nano.engine.comm import Comm, Relay, failed_row
from nano.engine.engine import Engine
from nano.errors import InvalidInput
from nano.transfer import Endpoint
from nano.wire import Int32Array

OVER = 3  # Committed.finish of a row whose request ended while its step was under way


@dataclass(eq=False)
class Request:
    id: int
    identity: bytes  # the router's connection
    key: int
    sampling: wire.Sampling
    tokens: Int32Array
    state: str = "running"
    prefill_name: str = ""
    prefill_address: str = ""
    tag: int = 0
    pieces: int = 0
    first_token: int = -1
    complete: bool = False
    progress_at: float = 0.0  # when the last piece was seen to land, once the first token is known
    missing: int = 0


class DecodeSide:
    """Lives on the loop's thread. `endpoint` is None in an engine that only prefills for itself."""

    def __init__(self, engine: Engine, endpoint: Endpoint | None, comm: Comm, next_id: Callable[[], int]) -> None:
        self._engine = engine
        self._endpoint = endpoint
        self._comm = comm
        self._next_id = next_id
        self._requests: dict[int, Request] = {}
        self._by_key: dict[tuple[bytes, int], Request] = {}
        self._by_tag: dict[int, Request] = {}
        self._ready: deque[Request] = deque()  # asked for a grant, in the order of asking
        # Tags belong to this incarnation alone: random high bits, counted low ones.
        self._tags = itertools.count((wire.new_incarnation() & 0x7FFFFFFF) << 32 | 1)
        self._checked_at = 0.0

    def __len__(self) -> int:
        return len(self._requests)

    # --- from routers

    def on_generate(self, identity: bytes, message: wire.Generate) -> None:
        tokens = wire.unpack_ids(message.token_ids)
        request = Request(self._next_id(), identity, message.key, message.sampling, tokens)
        if (identity, message.key) in self._by_key:
            self._reply_failed(request, "invalid", f"key {message.key} is in use", False)
            return
        if len(tokens) + 1 > self._engine.max_model_len:
            text = f"the prompt has {len(tokens)} tokens; this engine takes at most {self._engine.max_model_len - 1}"
            self._reply_failed(request, "invalid", text, False)
            return
        try:
            if message.prefill_address and self._rest(tokens) > self._engine.config.local_prefill_tokens:
                self._engine.check(tokens, message.sampling)
                self._ask(request, message)
            else:
                self._engine.add(request.id, tokens, message.sampling)
        except InvalidInput as error:
            self._reply_failed(request, "invalid", str(error), False)
            return
        self._requests[request.id] = request
        self._by_key[identity, request.key] = request

    def _rest(self, tokens: Int32Array) -> int:
        """Tokens of the prompt that are in no cached block here."""
        return len(tokens) - self._engine.pool.match(tokens) * self._engine.layout.block_size

    def _ask(self, request: Request, message: wire.Generate) -> None:
        if self._endpoint is None:
            raise InvalidInput("this engine has no transfer endpoint: it takes no KV from a prefill engine")
        request.state = "asked"
        request.prefill_name, request.prefill_address = message.prefill_name, message.prefill_address
        sampling = request.sampling
        relay = Relay(
            request.identity,
            request.key,
            frozenset(self._engine.stop_ids(sampling)),
            sampling.min_tokens,
            sampling.max_tokens == 1 or len(request.tokens) + 1 >= self._engine.max_model_len,
        )
        # Requests are named by our own ids towards prefill engines: two routers may use the same key.
        self._comm.relay(request.prefill_address, request.id, relay)
        first_block = self._engine.pool.match(request.tokens)
        self._comm.send(
            request.prefill_address,
            wire.Prefill(
                request.id, message.token_ids, sampling, self._endpoint.descriptor(), str(self._engine.layout),
                first_block,
            ),
        )  # fmt: skip

    def on_abort(self, identity: bytes, keys: tuple[int, ...]) -> None:
        for key in keys:
            request = self._by_key.get((identity, key))
            if request is not None:
                self._end(request)

    def on_client_gone(self, identity: bytes) -> None:
        for request in [request for request in self._requests.values() if request.identity == identity]:
            self._end(request)

    # --- from prefill engines

    def _at(self, address: str, id: int) -> Request | None:
        request = self._requests.get(id)
        return request if request is not None and request.prefill_address == address else None

    def on_ready(self, address: str, id: int) -> None:
        request = self._at(address, id)
        if request is None:
            self._comm.send(address, wire.Cancel(id))
        elif request.state == "asked":
            request.state = "ready"
            self._ready.append(request)

    def on_first_token(self, address: str, id: int, token: int) -> None:
        request = self._at(address, id)
        if request is not None and request.state == "receiving":
            request.first_token = token
            request.progress_at = time.monotonic()
            self._activate(request)

    def on_prefill_failed(self, address: str, id: int, failure: wire.Failure) -> None:
        request = self._at(address, id)
        if request is not None:
            self._fail(request, failure, tell=False)

    def on_engine_lost(self, address: str, reason: str) -> None:
        for request in [r for r in self._requests.values() if r.prefill_address == address and r.state != "running"]:
            text = f"prefill engine {request.prefill_name} at {address} was lost while the request was {request.state}"
            self._fail(request, wire.Failure("peer_lost", f"{text}: {reason}", True), tell=False)

    def on_complete(self, tag: int) -> None:
        request = self._by_tag.get(tag)
        if request is None or self._endpoint is None:
            return
        self._endpoint.forget(tag)
        del self._by_tag[tag]
        request.tag = 0
        request.complete = True
        self._comm.send(request.prefill_address, wire.Received(request.id))
        self._activate(request)

    def _activate(self, request: Request) -> None:
        if not request.complete or request.first_token < 0:
            return
        finish = self._engine.scheduler.activate(request.id, request.first_token)
        request.state = "running"  # the first token's row, with its finish, was sent by the relay
        if finish:
            self._forget(request)

    # --- ends of a request

    def _forget(self, request: Request) -> None:
        del self._requests[request.id]
        del self._by_key[request.identity, request.key]

    def _end(self, request: Request, tell: bool = True) -> None:
        """Frees all that the request holds; after it returns nobody writes to its blocks."""
        if request.state != "running":
            self._comm.drop_relay(request.prefill_address, request.id)
            if request.state == "ready":
                self._ready.remove(request)
            if request.tag and self._endpoint is not None:
                self._endpoint.forget(request.tag)
                del self._by_tag[request.tag]
            if tell and not request.complete:
                self._comm.send(request.prefill_address, wire.Cancel(request.id))
        self._engine.scheduler.abort(request.id)
        self._forget(request)

    def _fail(self, request: Request, failure: wire.Failure, tell: bool = True) -> None:
        self._end(request, tell)
        self._comm.reply(request.identity, failed_row(request.key, failure))

    def _reply_failed(self, request: Request, code: str, message: str, retryable: bool) -> None:
        self._comm.reply(request.identity, failed_row(request.key, wire.Failure(code, message, retryable)))

    # --- around a step

    def tick(self, now: float) -> None:
        """Grants what there is room for; ends requests whose last pieces stopped coming."""
        while self._ready and self._grant(self._ready[0]):
            pass
        if now - self._checked_at < 1.0:
            return
        self._checked_at = now
        for request in list(self._by_tag.values()):
            if request.first_token < 0 or self._endpoint is None:
                continue  # still computing: the prefill engine's pings say that it lives
            missing = len(self._endpoint.missing(request.tag))
            if missing != request.missing:
                request.missing, request.progress_at = missing, now
            elif now - request.progress_at > self._engine.config.transfer_lease:
                text = f"KV from prefill engine {request.prefill_name}: {missing} of {request.pieces} pieces missing"
                self._fail(request, wire.Failure("deadline", f"{text} after {now - request.progress_at:.0f} s", True))

    def _grant(self, request: Request) -> bool:
        """Reserves the blocks of the prompt and says where they are; False when there is no room yet."""
        assert self._endpoint is not None
        engine, sampling = self._engine, request.sampling
        try:
            reserved = engine.scheduler.reserve(
                request.id, request.tokens, sampling.max_tokens, **engine.sampling_arguments(sampling),
                priority=sampling.priority,
            )  # fmt: skip
        except InvalidInput as error:
            self._fail(request, wire.Failure("invalid", str(error), False))
            return True
        if reserved is None:
            return False
        first_block, blocks = reserved
        self._ready.popleft()
        request.state, request.tag = "receiving", next(self._tags)
        self._by_tag[request.tag] = request
        offsets = engine.layout.piece_offsets(blocks)
        request.pieces = request.missing = len(offsets)
        self._endpoint.expect(request.tag, engine.region, offsets, engine.layout.group_bytes)
        lease_ms = int(engine.config.transfer_lease * 1000)
        grant = wire.Grant(request.id, request.tag, first_block, wire.pack_ids(blocks), lease_ms)
        self._comm.send(request.prefill_address, grant)
        return True

    def after_step(self, committed: Committed) -> None:
        """One Outputs message a router with the step's tokens."""
        rows: dict[bytes, list[int]] = {}
        requests = self._requests
        keys = np.empty(len(committed.ids), np.uint64)
        finish = committed.finish
        logprobs = self._engine.sampled.logprobs
        for row, id in enumerate(committed.ids.tolist()):
            request = requests.get(id)
            if request is None or finish[row] == OVER:
                continue
            keys[row] = request.key
            rows.setdefault(request.identity, []).append(row)
            if finish[row]:
                self._forget(request)
        for identity, mine in rows.items():
            self._comm.reply(
                identity,
                wire.Outputs(
                    keys[mine].astype("<u8").tobytes(),
                    committed.indices[mine].astype("<u4").tobytes(),
                    committed.tokens[mine].astype("<i4").tobytes(),
                    finish[mine].tobytes(),
                    committed.cached[mine].astype("<u4").tobytes(),
                    logprobs=None if logprobs is None else wire.pack_logprobs([logprobs.row(row) for row in mine]),
                ),
            )

    def close(self) -> None:
        for request in list(self._requests.values()):
            self._fail(request, wire.Failure("aborted", "the engine is shutting down", True))

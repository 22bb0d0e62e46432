"""Every message between processes, in one place. MessagePack over ZMQ, one message a frame.

Sockets: an engine binds one ROUTER; routers and other engines connect a DEALER to it, and replies go back to that
DEALER. A connection starts with `Hello` from the DEALER, answered by `Welcome` (or by `Rejected` and nothing more).

A `key` is an unsigned 64-bit number that the sender of a request chooses, unique among that sender's requests and
never used again: a retry of a request is a new key. Token ids travel as little-endian int32 bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Union

import msgspec
import numpy as np
import numpy.typing as npt

VERSION = 3

Int32Array = npt.NDArray[np.int32]


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """What an engine needs to sample one request. Text-level rules (stop strings) stay with the router."""

    max_tokens: int  # >= 1
    seed: int  # always fixed by the sender; unsigned 64 bits
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    priority: int = 0  # smaller runs first
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}  # token id -> added to its logit
    logprobs: int = -1  # most probable tokens to report beside the chosen one; -1: report nothing


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a request ended without a result.

    code: "invalid" (the request can never run), "aborted", "overloaded", "peer_lost", "deadline", "internal".
    retryable: another engine (or this one, later) may well succeed.
    """

    code: str
    message: str  # names the peer and the operation
    retryable: bool


# --- both ways -------------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, tag="hello", frozen=True, array_like=True):
    version: int
    name: str  # who connects: "router-…" or an engine's name
    incarnation: int


class Welcome(msgspec.Struct, tag="welcome", frozen=True, array_like=True):
    version: int
    name: str
    incarnation: int


class Rejected(msgspec.Struct, tag="rejected", frozen=True, array_like=True):
    reason: str


class Ping(msgspec.Struct, tag="ping", frozen=True, array_like=True):
    """Sent every second by a DEALER; it renews the sender's lease on all its requests. Answered by Pong."""

    stamp: int


class Pong(msgspec.Struct, tag="pong", frozen=True, array_like=True):
    stamp: int


# --- router -> engine ------------------------------------------------------------------------------------------------


class Generate(msgspec.Struct, tag="generate", frozen=True, array_like=True):
    key: int
    token_ids: bytes
    sampling: Sampling
    prefill_name: str = ""  # empty: prefill here
    prefill_address: str = ""  # the prefill engine's ZMQ address


class Abort(msgspec.Struct, tag="abort", frozen=True, array_like=True):
    keys: tuple[int, ...]


# --- engine -> router ------------------------------------------------------------------------------------------------

UNFINISHED, STOP, LENGTH, FAILED = 0, 1, 2, 3


class Logprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities of the tokens in those rows that asked for them, as columns.

    rows: uint32, places in the columns of the tokens. chosen: float32, of the row's token. counts: uint8, how many
    of the most probable tokens follow for the row. ids: int32, the counts' sum of them, the best first. values:
    float32, theirs.
    """

    rows: bytes
    chosen: bytes
    counts: bytes
    ids: bytes
    values: bytes


class Outputs(msgspec.Struct, tag="outputs", frozen=True, array_like=True):
    """What one engine step made for one router, as columns; row i is one token or one ending.

    keys: uint64. indices: uint32, the token's place among the request's outputs, from 0. tokens: int32, -1 where the
    row carries an ending without a token. finish: uint8, UNFINISHED | STOP | LENGTH | FAILED. A row with STOP carries
    the stop token itself, which is counted in usage but is not text. cached: uint32, the prompt tokens found in a
    prefix cache (0 unless index is 0). failures: key -> Failure, for rows with FAILED. logprobs: None where no row
    asked.
    """

    keys: bytes
    indices: bytes
    tokens: bytes
    finish: bytes
    cached: bytes
    failures: dict[int, Failure] = {}
    logprobs: Logprobs | None = None


# --- decode -> prefill -----------------------------------------------------------------------------------------------


class Prefill(msgspec.Struct, tag="prefill", frozen=True, array_like=True):
    key: int
    token_ids: bytes
    sampling: Sampling
    descriptor: bytes  # the decode engine's transfer endpoint
    layout: str  # KVLayout as text; both sides must agree
    first_block: int  # blocks that the decode engine has cached now; Grant has the last word


class Grant(msgspec.Struct, tag="grant", frozen=True, array_like=True):
    key: int
    tag: int  # transfer tag, never used again
    first_block: int  # the first block of the prompt that the decode engine lacks
    blocks: bytes  # int32 ids of destination blocks, for prompt blocks first_block, first_block + 1, …
    lease_ms: int


class Received(msgspec.Struct, tag="received", frozen=True, array_like=True):
    """Every piece is in: the prefill engine may free its blocks."""

    key: int


class Cancel(msgspec.Struct, tag="cancel", frozen=True, array_like=True):
    key: int


# --- prefill -> decode -----------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, tag="ready", frozen=True, array_like=True):
    """This request is about to be scheduled: please grant blocks (now, or when there is room)."""

    key: int


class FirstToken(msgspec.Struct, tag="first", frozen=True, array_like=True):
    key: int
    token: int
    cached: int  # prompt tokens found in the prefill engine's prefix cache
    logprobs: Logprobs | None = None  # of row 0


class PrefillFailed(msgspec.Struct, tag="prefill_failed", frozen=True, array_like=True):
    key: int
    failure: Failure


Message = Union[  # noqa: UP007  (msgspec resolves it at run time on 3.10 too)
    Hello, Welcome, Rejected, Ping, Pong, Generate, Abort, Outputs,
    Prefill, Grant, Received, Cancel, Ready, FirstToken, PrefillFailed,
]  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(frame: bytes | memoryview) -> Message:
    """Raises msgspec.DecodeError (or its subclass ValidationError) on anything that is not a Message."""
    try:
        return _decoder.decode(frame)
    except UnicodeDecodeError as error:  # msgspec lets a bad string's own error through
        raise msgspec.DecodeError(f"a string is not UTF-8: {error}") from None


def pack_ids(ids: npt.ArrayLike) -> bytes:
    return np.asarray(ids, dtype="<i4").tobytes()


def unpack_ids(data: bytes) -> Int32Array:
    return np.frombuffer(data, dtype="<i4")


class TokenLogprobs(NamedTuple):
    """Of one token: its own log-probability, and the most probable tokens with theirs, the best first."""

    chosen: float
    top: list[tuple[int, float]]


def pack_logprobs(rows: Sequence[TokenLogprobs | None]) -> Logprobs | None:
    """One entry a row, None where it did not ask; None when no row did."""
    asked = [(row, one) for row, one in enumerate(rows) if one is not None]
    if not asked:
        return None
    top = [pair for _, one in asked for pair in one.top]
    return Logprobs(
        np.array([row for row, _ in asked], "<u4").tobytes(),
        np.array([one.chosen for _, one in asked], "<f4").tobytes(),
        bytes([len(one.top) for _, one in asked]),
        np.array([id for id, _ in top], "<i4").tobytes(),
        np.array([value for _, value in top], "<f4").tobytes(),
    )


def unpack_logprobs(logprobs: Logprobs | None) -> Iterator[tuple[int, TokenLogprobs]]:
    """(row, its log-probabilities). Raises ValueError where the columns' lengths disagree."""
    if logprobs is None:
        return
    rows = np.frombuffer(logprobs.rows, "<u4").tolist()
    chosen = np.frombuffer(logprobs.chosen, "<f4").tolist()
    top = list(
        zip(np.frombuffer(logprobs.ids, "<i4").tolist(), np.frombuffer(logprobs.values, "<f4").tolist(), strict=True)
    )
    if sum(logprobs.counts) != len(top):
        raise ValueError(f"Logprobs: expected {sum(logprobs.counts)} ids, got {len(top)}")
    at = 0
    for row, one, count in zip(rows, chosen, logprobs.counts, strict=True):
        yield row, TokenLogprobs(one, top[at : at + count])
        at += count


def new_incarnation() -> int:
    """A number for this run of a process; 63 bits, never 0."""
    return secrets.randbits(62) + 1


class EngineInfo(msgspec.Struct, frozen=True):
    """What an engine registers: kind "engine", meta = msgspec.to_builtins(EngineInfo)."""

    role: str  # "prefill" | "decode" | "hybrid"
    address: str  # ZMQ ROUTER address, tcp://… or ipc://…
    incarnation: int
    models: tuple[str, ...]  # names that requests may use
    model_path: str  # where tokenizer.json etc. are
    max_model_len: int
    vocab_size: int
    block_size: int
    num_blocks: int
    layout: str  # KVLayout as text; prefill and decode pair only when equal
    max_num_seqs: int
    eos_token_ids: tuple[int, ...] = ()
    sampling_defaults: dict[str, float] = {}  # from generation_config.json: temperature, top_p, top_k
    version: str = ""

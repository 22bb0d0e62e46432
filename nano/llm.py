"""Offline generation without HTTP: `LLM(path).generate(prompts, SamplingParams(...))`."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Union

import numpy as np

from nano.engine.config import EngineConfig
from nano.errors import Closed, DeadlineExceeded, InvalidInput, NanoError, PeerLost
from nano.sampling import SamplingParams

if TYPE_CHECKING:
    from nano.tokenizer import Tokenizer
    from nano.wire import Sampling, TokenLogprobs

Prompt = Union[str, Sequence[int]]  # noqa: UP007

STOP, LENGTH = 1, 2  # as in nano.wire, which this module does not need for a single process
OVER = 3  # Committed.finish of a row whose request ended while its step was under way
FINISH_REASONS = {STOP: "stop", LENGTH: "length"}


@dataclass
class RequestOutput:
    """`token_ids` include the stop token when one ended the request; `text` does not.

    logprobs: None unless asked for; else for each of `token_ids` the log-probabilities, by id, of the most probable
    tokens, the best first, and of the token itself.
    """

    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    finish_reason: str  # stop | length
    logprobs: list[dict[int, float]] | None = None


@dataclass(frozen=True)
class Token:
    key: int
    token: int
    finish: int  # 0 unfinished
    logprobs: TokenLogprobs | None = None


class Backend(Protocol):
    """Where the tokens come from."""

    directory: str
    max_model_len: int

    def add(self, key: int, tokens: list[int], sampling: Sampling) -> None: ...
    def abort(self, key: int) -> None: ...
    def step(self) -> list[Token]: ...
    def close(self) -> None: ...


class LLM:
    """A model in this process, or, with `disaggregated=True`, a prefill and a decode engine in two others.

    Keywords are EngineConfig's fields (dtype, device, kvcache_block_size, max_num_batched_tokens, max_model_len, …).
    `prefill` and `decode` override them for one side of a disaggregated pair. `skip_tokenizer_init=True` takes prompts
    as ids only and gives no text. A context manager; `close` is idempotent.
    """

    def __init__(
        self,
        model: str,
        *,
        disaggregated: bool = False,
        skip_tokenizer_init: bool = False,
        prefill: dict[str, Any] | None = None,
        decode: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        known = {field.name for field in fields(EngineConfig)} - {"model", "role"}
        for given in (options, prefill or {}, decode or {}):
            if unknown := sorted(set(given) - known):
                raise InvalidInput(f"LLM: unknown option {unknown[0]!r}; known: {', '.join(sorted(known))}")
        self._backend: Backend | None
        if disaggregated:
            self._backend = _Pair(model, options | (prefill or {}), options | (decode or {}))
        else:
            self._backend = _Local(EngineConfig(model, role="hybrid", **options))
        self._keys = itertools.count(1)
        self.max_model_len = self._backend.max_model_len
        self.tokenizer: Tokenizer | None = None
        if not skip_tokenizer_init:
            from nano.tokenizer import Tokenizer

            self.tokenizer = Tokenizer.from_pretrained(self._backend.directory)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = False,
    ) -> list[RequestOutput]:
        """Completes every prompt; results stand in the order of the prompts. `progress` shows a bar on stderr."""
        backend = self._backend
        if backend is None:
            raise Closed("LLM.generate: the LLM is closed")
        batch: list[Prompt] = _as_list(prompts)
        each = [params or SamplingParams()] * len(batch) if not isinstance(params, Sequence) else list(params)
        if len(each) != len(batch):
            raise InvalidInput(f"LLM.generate: expected {len(batch)} SamplingParams, got {len(each)}")
        running: dict[int, _Running] = {}
        order: list[_Running] = []
        try:
            for prompt, one in zip(batch, each, strict=True):
                request = _Running(self._ids(prompt), one, self.tokenizer)
                key = next(self._keys)
                room = self.max_model_len - len(request.prompt)
                backend.add(key, request.prompt, _sampling(one, room))
                running[key] = request
                order.append(request)
            with _Bar(len(order), progress) as advance:
                while running:
                    tokens = backend.step()
                    for token in tokens:
                        request_ = running.get(token.key)
                        if request_ is not None and request_.append(token):
                            if not token.finish:
                                backend.abort(token.key)
                            del running[token.key]
                            advance(1, 1)
                        else:
                            advance(0, 1)
        except BaseException:
            for key in running:
                backend.abort(key)
            raise
        return [request.output() for request in order]

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise InvalidInput("LLM.generate: text prompts need the tokenizer; it was left out at the start")
            return self.tokenizer.encode(prompt)
        return [int(token) for token in prompt]

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    batch = list(prompts)
    if batch and isinstance(batch[0], (int, np.integer)):
        return [batch]  # type: ignore[list-item]
    return batch  # type: ignore[return-value]


def _sampling(params: SamplingParams, room: int) -> Sampling:
    from nano.wire import Sampling

    return Sampling(
        max_tokens=max(1, room) if params.max_tokens is None else params.max_tokens,
        seed=secrets.randbits(63) if params.seed is None else params.seed & (1 << 64) - 1,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_tokens=params.min_tokens,
        ignore_eos=params.ignore_eos,
        stop_token_ids=tuple(params.stop_token_ids),
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=dict(params.logit_bias),
        logprobs=-1 if params.logprobs is None else params.logprobs,
    )


class _Running:
    """A request in progress: its tokens, and its text once it is over."""

    def __init__(self, prompt: list[int], params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        if params.stops and tokenizer is None:
            raise InvalidInput("LLM.generate: stop strings need the tokenizer; it was left out at the start")
        self.prompt = prompt
        self._params = params
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._logprobs: list[dict[int, float]] = []
        self._text = ""
        self._finish = ""

    def append(self, row: Token) -> bool:
        """Takes one token; True when the request is over, by the engine's word or by a stop string."""
        finish = row.finish
        self._tokens.append(row.token)
        if row.logprobs is not None:
            self._logprobs.append({**dict(row.logprobs.top), row.token: row.logprobs.chosen})
        if self._tokenizer is not None and (finish or self._params.stops):
            text = self._tokenizer.decode(self._tokens[:-1] if finish == STOP else self._tokens)
            hits = [at for at in (text.find(stop) for stop in self._params.stops) if at >= 0]
            if hits:
                self._text, self._finish = text[: min(hits)], "stop"
                return True
            self._text = text
        if finish:
            self._finish = FINISH_REASONS[finish]
        return bool(finish)

    def output(self) -> RequestOutput:
        logprobs = None if self._params.logprobs is None else self._logprobs
        return RequestOutput(self.prompt, self._tokens, self._text, self._finish, logprobs)


class _Bar:
    """A progress bar with tokens a second, when rich is there and it is wanted."""

    def __init__(self, total: int, shown: bool) -> None:
        self._stack = ExitStack()
        self._total, self._shown = total, shown
        self._tokens, self._started = 0, time.monotonic()

    def __enter__(self) -> Callable[[int, int], None]:
        if not self._shown:
            return lambda requests, tokens: None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        bar = Progress(
            TextColumn("generating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}"), console=Console(stderr=True),
        )  # fmt: skip
        self._stack.enter_context(bar)
        task = bar.add_task("generating", total=self._total, rate="")

        def advance(requests: int, tokens: int) -> None:
            self._tokens += tokens
            rate = self._tokens / max(time.monotonic() - self._started, 1e-9)
            bar.update(task, advance=requests, rate=f"{rate:,.0f} tok/s")

        return advance

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class _Local:
    """The engine in this process: neither sockets nor threads of its own."""

    def __init__(self, config: EngineConfig) -> None:
        from nano.engine.engine import Engine

        self._engine = Engine(config)
        self.directory = str(self._engine.directory)
        self.max_model_len = self._engine.max_model_len

    def add(self, key: int, tokens: list[int], sampling: Sampling) -> None:
        self._engine.add(key, np.array(tokens, np.int32), sampling)

    def abort(self, key: int) -> None:
        self._engine.scheduler.abort(key)

    def step(self) -> list[Token]:
        committed = self._engine.step()
        if committed is None:
            raise NanoError("LLM: requests wait and none can run")
        logprobs = self._engine.sampled.logprobs
        columns = zip(committed.ids.tolist(), committed.tokens.tolist(), committed.finish.tolist(), strict=True)
        return [
            Token(key, token, finish, None if logprobs is None else logprobs.row(row))
            for row, (key, token, finish) in enumerate(columns)
            if finish != OVER
        ]

    def close(self) -> None:
        self._engine.close()
        del self._engine


class _Pair:
    """A prefill and a decode engine in processes of their own, and a client of the latter."""

    def __init__(self, model: str, prefill: dict[str, Any], decode: dict[str, Any]) -> None:
        from nano.engine.checkpoint import locate
        from nano.engine.client import EngineClient

        locate(model)  # what two children would each complain of is refused once
        self._stack = ExitStack()
        self._keys: set[int] = set()
        try:
            self._children = [
                self._stack.enter_context(_Child(model, role, options))
                for role, options in (("prefill", prefill), ("decode", decode))
            ]
            self._prefill, info = (child.info() for child in self._children)
            self.directory, self.max_model_len = str(info["model_path"]), int(info["max_model_len"])
            self._client = self._stack.enter_context(EngineClient(info["address"], "llm"))
        except BaseException:
            self._stack.close()
            raise

    def add(self, key: int, tokens: list[int], sampling: Sampling) -> None:
        self._client.generate(key, tokens, sampling, "prefill", self._prefill["address"])

    def abort(self, key: int) -> None:
        self._client.abort(key)

    def step(self) -> list[Token]:
        out = []
        rows = self._client.poll()
        if not rows:
            for child in self._children:
                child.check()
        for row in rows:
            if row.failure is not None:
                if row.failure.code == "invalid":
                    raise InvalidInput(row.failure.message)
                raise PeerLost(row.failure.message)
            out.append(Token(row.key, row.token, row.finish, row.logprobs))
        return out

    def close(self) -> None:
        self._stack.close()


class _Child:
    """`python -m nano.engine` as a child that says on a pipe when it is ready, and ends with us."""

    def __init__(self, model: str, role: str, options: dict[str, Any]) -> None:
        flags = {"threads": max(1, len(os.sched_getaffinity(0)) // 2), "log_level": "warning"} | options
        words = [f"--{name}={_flag(value)}" for name, value in flags.items()]
        self._role = role
        self._read, write = os.pipe()
        command = [sys.executable, "-m", "nano.engine", f"--model={model}", f"--mode={role}", f"--ready_fd={write}"]
        self._process = subprocess.Popen([*command, *words], pass_fds=(write,), stdin=subprocess.DEVNULL)
        os.close(write)

    def info(self, timeout: float = 600.0) -> dict[str, Any]:
        """The engine's registration, once it serves."""
        data, deadline = b"", time.monotonic() + timeout
        while not data.endswith(b"\n"):
            if not select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise DeadlineExceeded(f"{self._role} engine: not ready within {timeout:.0f} s")
            chunk = os.read(self._read, 65536)
            if not chunk:
                raise PeerLost(f"{self._role} engine: ended before it was ready; its log above says why")
            data += chunk
        info: dict[str, Any] = json.loads(data)
        return info

    def check(self) -> None:
        """Raises PeerLost when it has ended."""
        code = self._process.poll()
        if code is not None:
            raise PeerLost(f"{self._role} engine: ended with code {code} while it was in use")

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._read)
        self._process.terminate()
        try:
            self._process.wait(15.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _flag(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)

"""One HTTP request in flight: its choices on their engines, and what has come of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Protocol

from nano import wire
from nano.router._text import Choice
from nano.router.errors import ApiError, from_failure
from nano.router.logprobs import Report
from nano.router.view import Route

log = logging.getLogger(__name__)

_MASK = (1 << 64) - 1
_next_key = secrets.randbits(64)


def new_key() -> int:
    """Unique in this process; the random start keeps two processes apart."""
    global _next_key
    _next_key = (_next_key + 1) & _MASK
    return _next_key


class Sink(Protocol):
    """Turns choices into a response."""

    def advance(self, choice: Choice) -> None:
        """The choice has new text, or its end; not called after a failure."""

    def finish(self) -> None:
        """Every choice has ended."""

    def fail(self, error: ApiError) -> None:
        """One choice failed, and the others were given up."""


class Generation:
    """Owns the choices of one request until it is `done`.

    prompt_tokens: of all its prompts. n: choices a prompt. started: when it was submitted, seconds of time.monotonic.
    first: when its first token came, 0.0 before. reports: of the choices that asked for log-probabilities, by index.
    """

    def __init__(self, prompt_tokens: int, n: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.n = n
        self.started = time.monotonic()
        self.first = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.choices: list[Choice] = []
        self.reports: dict[int, Report] = {}
        self.sink: Sink
        self._routes: list[Route] = []
        self._prefilling: list[bool] = []
        self._open = 0

    def add(self, choice: Choice, route: Route) -> None:
        self.choices.append(choice)
        self._routes.append(route)
        self._prefilling.append(route.prefill is not None)
        self._open += 1

    def submit(self, prompts: Sequence[bytes], sampling: Sequence[wire.Sampling]) -> None:
        """Sends every choice to its engine: prompts and sampling in the order of `choices`."""
        for choice, route, prompt, how in zip(self.choices, self._routes, prompts, sampling, strict=True):
            prefill = route.prefill
            if prefill is None:
                request = wire.Generate(choice.key, prompt, how)
            else:
                prefill.load += 1
                request = wire.Generate(choice.key, prompt, how, prefill.name, prefill.info.address)
            route.decode.submit(choice, request)

    def report(self, choice: Choice, token: int, logprobs: wire.TokenLogprobs) -> None:
        report = self.reports.get(choice.index)
        if report is not None:
            report.add(token, logprobs)

    def progress(self, choice: Choice) -> None:
        if self.done.done():
            return
        try:
            self._progress(choice)
        except Exception:  # a bug with one request must not reach the others of the same message
            log.exception("request %x", choice.key)
            self.cancel(ApiError(500, "the router failed on this request's output"))

    def _progress(self, choice: Choice) -> None:
        if self._prefilling[choice.index]:
            self._prefilled(choice.index)
        if choice.failure is not None:
            self.cancel(from_failure(choice.failure))
            return
        if self.first == 0.0:
            self.first = time.monotonic()
        self.sink.advance(choice)
        if choice.finish != wire.UNFINISHED:
            self._open -= 1
            if self._open == 0:
                self.sink.finish()
                self._end()

    def cancel(self, error: ApiError | None) -> None:
        """Gives the request up. error: what the client is told; None: it has left."""
        if self.done.done():
            return
        for choice, route in zip(self.choices, self._routes, strict=True):
            self._prefilled(choice.index)
            route.decode.abort((choice,))
        try:
            if error is not None:
                self.sink.fail(error)
        finally:
            self._end()

    @property
    def completion_tokens(self) -> int:
        return sum(choice.tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        cached = [choice.cached for choice in self.choices]
        return sum(max(cached[i : i + self.n]) for i in range(0, len(cached), self.n))

    def _prefilled(self, index: int) -> None:
        prefill = self._routes[index].prefill
        if prefill is not None and self._prefilling[index]:
            self._prefilling[index] = False
            prefill.load -= 1

    def _end(self) -> None:
        self.done.set_result(None)

"""Load on an engine over ZMQ, so many requests at a time or a Poisson stream of them, and what their client sees.

The first requests only bring the engine to its steady state: they end at different times, so that later ones arrive one
by one, and by then kernels are compiled and graphs captured. Times are taken between the sending of the first counted
request and of the last: all the while the load is the one that was asked for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nano import wire

STALL = 60.0  # seconds without a token until a run is given up
# Gaps between tokens are counted between these, in ms: 10 to a factor of ten.
EDGES_MS = [round(float(edge), 5) for edge in np.logspace(-2, 4, 61)]


class Client(Protocol):
    """nano.engine.client.EngineClient, or what stands in for it in the engine's own process."""

    def generate(self, key: int, tokens: list[int], sampling: wire.Sampling, name: str = "", at: str = "") -> None: ...
    def poll(self, timeout: float) -> list[Any]:
        """Rows with key, token, finish and failure."""


@dataclass(frozen=True)
class Load:
    """`requests` counted ones of `inputs` tokens in and `outputs` out: `concurrency` at a time, or `rate` a second."""

    inputs: int
    outputs: int
    requests: int
    concurrency: int = 0
    rate: float = 0.0
    vocab: int = 10000

    @property
    def name(self) -> str:
        return f"{self.concurrency} at a time" if self.concurrency else f"{self.rate:g} a second"


@dataclass
class Trace:
    """One request. Times are seconds of one clock."""

    prompt: list[int]
    wanted: int
    counted: bool
    due: float = 0.0  # not before, since the beginning
    sent: float = 0.0
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def traces(load: Load, seed: int) -> list[Trace]:
    """Those to come, in order: staggered ones, others that warm up, the counted ones."""
    rng = random.Random(seed)

    def one(wanted: int, counted: bool) -> Trace:
        return Trace([rng.randrange(load.vocab) for _ in range(load.inputs)], wanted, counted)

    at_once = load.concurrency or max(load.requests // 4, 1)
    staggered = [-(-load.outputs * (i + 1) // at_once) if load.concurrency else load.outputs for i in range(at_once)]
    out = [one(wanted, False) for wanted in staggered]
    out += [one(load.outputs, False) for _ in range(at_once if load.concurrency else 0)]
    out += [one(load.outputs, True) for _ in range(load.requests)]
    if load.rate:
        for trace, due in zip(out, np.cumsum([rng.expovariate(load.rate) for _ in out]).tolist(), strict=True):
            trace.due = due
    return out


def drive(client: Client, load: Load, keys: Iterator[int], prefill: str = "", seed: int = 0) -> list[Trace]:
    """Runs the load to its end; `prefill` is the address of the engine that computes the prompts, if another does.

    Raises AssertionError for a request that failed or got another number of tokens than it asked for, TimeoutError when
    no token has come for a minute.
    """
    every = traces(load, seed)
    queue = iter(every)
    following: Trace | None = next(queue)
    running: dict[int, Trace] = {}
    began = heard = time.perf_counter()
    while running or following is not None:
        now = time.perf_counter()
        while following is not None and (
            len(running) < load.concurrency if load.concurrency else now - began >= following.due
        ):
            key = next(keys)
            running[key] = following
            following.sent = time.perf_counter()
            send(client, key, following, prefill)
            following = next(queue, None)
        wait = 1.0
        if following is not None and load.rate:
            wait = max(min(began + following.due - time.perf_counter(), wait), 0.0)
        for row in client.poll(wait):
            heard = time.perf_counter()
            assert row.failure is None, f"request {row.key}: {row.failure}"
            trace = running[row.key]
            trace.times.append(heard)
            trace.tokens.append(row.token)
            if row.finish:
                del running[row.key]
                got = len(trace.tokens)
                assert got == trace.wanted, f"request {row.key}: expected {trace.wanted} tokens, got {got}"
        if running and time.perf_counter() - heard > STALL:
            raise TimeoutError(f"{load.name}: {len(running)} requests run, no token for {STALL:.0f} s")
        if not running:
            heard = time.perf_counter()
    return every


def send(client: Client, key: int, trace: Trace, prefill: str) -> None:
    sampling = wire.Sampling(trace.wanted, seed=key, temperature=0.0, ignore_eos=True)
    client.generate(key, trace.prompt, sampling, "prefill" if prefill else "", prefill)


def point(load: Load, every: list[Trace]) -> dict[str, Any]:
    """What bench/engine/plot.py draws and tables print: tokens a second, TTFT and ITL in ms, [p50, p99]."""
    counted = [trace for trace in every if trace.counted]
    begin, end = counted[0].sent, counted[-1].sent
    ttft = [trace.times[0] - trace.sent for trace in counted]
    tokens, gaps = 0, []
    for trace in every:
        inside = [begin <= at <= end for at in trace.times]
        tokens += sum(inside)
        gaps += [b - a for a, b, counts in zip(trace.times, trace.times[1:], inside[1:], strict=False) if counts]
    return {
        "load": load.name,
        "inputs": load.inputs,
        "outputs": load.outputs,
        "concurrency": load.concurrency,
        "rate": load.rate,
        "requests": len(counted),
        "tok_s": tokens / (end - begin),
        "ttft_ms": percentiles(ttft),
        **gaps_of(gaps),
    }


def gaps_of(gaps: list[float]) -> dict[str, Any]:
    """Percentiles of gaps between tokens and how many fall between which EDGES_MS."""
    counts = np.histogram(np.array(gaps) * 1e3, EDGES_MS)[0].tolist()
    return {"itl_ms": percentiles(gaps), "itl_edges_ms": EDGES_MS, "itl_counts": counts}


def percentiles(seconds: list[float]) -> list[float]:
    return [float(np.percentile(seconds, p)) * 1e3 for p in (50, 99)]

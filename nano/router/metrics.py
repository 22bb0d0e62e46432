"""What /metrics tells: https://prometheus.io/docs/instrumenting/exposition_formats/"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nano.router.generation import Generation
from nano.router.view import View

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counts in plain numbers on the hot path; Prometheus' types are made when somebody asks."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._first = Histogram(
            "nano_router_time_to_first_token_seconds",
            "From a request's submission to its first token",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._whole = Histogram(
            "nano_router_generation_seconds",
            "From a request's submission to its last token",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.responses: Counts[tuple[str, int]] = Counts()  # (path, status)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.disconnects = 0
        self.running = 0

    def began(self, generation: Generation) -> None:
        self.running += 1
        self.prompt_tokens += generation.prompt_tokens

    def ended(self, generation: Generation) -> None:
        self.running -= 1
        self.completion_tokens += generation.completion_tokens
        self.cached_tokens += generation.cached_tokens
        if generation.first:
            self._first.observe(generation.first - generation.started)
            self._whole.observe(time.monotonic() - generation.started)

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        responses = CounterMetricFamily("nano_router_responses", "HTTP responses", labels=["path", "status"])
        for (path, status), count in self.responses.items():
            responses.add_metric([path, str(status)], count)
        yield responses
        yield CounterMetricFamily("nano_router_prompt_tokens", "Prompt tokens", self.prompt_tokens)
        yield CounterMetricFamily(
            "nano_router_cached_tokens", "Prompt tokens found in a prefix cache", self.cached_tokens
        )
        yield CounterMetricFamily("nano_router_completion_tokens", "Tokens that engines made", self.completion_tokens)
        yield CounterMetricFamily("nano_router_disconnects", "Clients that left before the end", self.disconnects)
        yield GaugeMetricFamily("nano_router_running", "Requests in flight", self.running)
        up = GaugeMetricFamily("nano_router_engine_up", "Whether the engine answers", labels=["engine", "role"])
        load = GaugeMetricFamily("nano_router_engine_load", "Requests in flight on the engine", labels=["engine"])
        garbage = CounterMetricFamily("nano_router_engine_garbage", "Frames that were no messages", labels=["engine"])
        for engine in self._view.engines:
            up.add_metric([engine.name, engine.info.role], engine.up)
            load.add_metric([engine.name], engine.load)
            garbage.add_metric([engine.name], engine.garbage)
        yield from (up, load, garbage)

"""How tokens are chosen, and when a request ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from nano.errors import InvalidInput


@dataclass(frozen=True)
class SamplingParams:
    """Sampling of one request.

    temperature: 0 is greedy. top_k: 0 is off. top_p: 1 is off. seed: None draws one.
    max_tokens: None means up to the model's length. stop: strings that end the text (not part of it).
    stop_token_ids: more ids that end a request, besides the model's own EOS ids.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: Union[str, Sequence[str]] = ()  # noqa: UP007
    stop_token_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise InvalidInput(f"temperature: expected 0 to 100, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidInput(f"top_p: expected (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise InvalidInput(f"top_k: expected >= 0, got {self.top_k}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidInput(f"max_tokens: expected >= 1, got {self.max_tokens}")
        if self.min_tokens < 0:
            raise InvalidInput(f"min_tokens: expected >= 0, got {self.min_tokens}")
        if any(not stop for stop in self.stops):
            raise InvalidInput("stop: expected non-empty strings, got ''")

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

"""How tokens are chosen, and when a request ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from nano.errors import InvalidInput

MAX_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingParams:
    """Sampling of one request.

    temperature: 0 is greedy. top_k: 0 is off. top_p: 1 is off. seed: None draws one.
    max_tokens: None means up to the model's length. stop: strings that end the text (not part of it).
    stop_token_ids: more ids that end a request, besides the model's own EOS ids.

    logit_bias: token id -> added to its logit. Then the logits of tokens in the prompt or among the outputs are
    divided by repetition_penalty (multiplied where they are negative), and those of outputs lose frequency_penalty for
    each time that they were one, and presence_penalty once. min_p keeps the tokens that have this share of the most
    probable one's probability, after top_k and top_p. logprobs: how many of the most probable tokens to report beside
    each chosen one, of the model's own distribution, which none of these change; None reports nothing.
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
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None

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
        if not 0.0 <= self.min_p <= 1.0:
            raise InvalidInput(f"min_p: expected 0 to 1, got {self.min_p}")
        if not 0.0 < self.repetition_penalty <= 100.0:
            raise InvalidInput(f"repetition_penalty: expected (0, 100], got {self.repetition_penalty}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2.0 <= getattr(self, name) <= 2.0:
                raise InvalidInput(f"{name}: expected -2 to 2, got {getattr(self, name)}")
        for id, bias in self.logit_bias.items():
            if not -100.0 <= bias <= 100.0:
                raise InvalidInput(f"logit_bias: expected -100 to 100, got {bias} for id {id}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise InvalidInput(f"logprobs: expected 0 to {MAX_LOGPROBS}, got {self.logprobs}")

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

"""How a request's tokens are chosen: the client's wishes, then the model's own defaults, then OpenAI's."""

from __future__ import annotations

import secrets

from nano.router.api import ChatRequest, CompletionRequest, logprobs
from nano.router.errors import invalid
from nano.router.view import Route
from nano.wire import Sampling

COMPLETION_TOKENS = 16  # OpenAI's default where there is no chat

_MASK = (1 << 64) - 1


def sampling(
    request: ChatRequest | CompletionRequest, prompt_tokens: int, route: Route, limit: int | None, n: int
) -> list[Sampling]:
    """One for each of n choices, whose seeds count up. limit: tokens that the client asked for.

    Raises ApiError when prompt and tokens do not fit the model.
    """
    room = route.max_model_len - prompt_tokens
    if prompt_tokens == 0:
        raise invalid("prompt", "prompt: expected one token or more, got none")
    chat = isinstance(request, ChatRequest)
    if room < (limit or 1):
        asked = f" and {limit} are to be generated" if limit else ""
        raise invalid(
            "messages" if chat else "prompt",
            f"this model's maximum context length is {route.max_model_len} tokens, but the prompt has "
            f"{prompt_tokens}{asked}",
            "context_length_exceeded",
        )
    max_tokens = limit or (room if chat else min(room, COMPLETION_TOKENS))
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise invalid("min_tokens", f"min_tokens: expected up to {max_tokens} (max_tokens), got {min_tokens}")
    defaults = route.decode.info.sampling_defaults
    temperature = defaults.get("temperature", 1.0) if request.temperature is None else request.temperature
    top_p = defaults.get("top_p", 1.0) if request.top_p is None else request.top_p
    top_k = int(defaults.get("top_k", 0)) if request.top_k is None else request.top_k
    seed = secrets.randbits(64) if request.seed is None else request.seed
    stop_token_ids = tuple(request.stop_token_ids or ())
    logit_bias = request.logit_bias or {}
    for name, ids in (("stop_token_ids", stop_token_ids), ("logit_bias", logit_bias)):
        if any(not 0 <= i < route.decode.info.vocab_size for i in ids):
            raise invalid(name, f"{name}: expected ids below {route.decode.info.vocab_size}")
    reported = logprobs(request)
    return [
        Sampling(
            max_tokens=max_tokens,
            seed=(seed + i) & _MASK,
            temperature=temperature,
            top_p=top_p,
            top_k=max(top_k, 0),
            min_tokens=min_tokens,
            ignore_eos=bool(request.ignore_eos),
            stop_token_ids=stop_token_ids,
            min_p=request.min_p or 0.0,
            repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            logit_bias=logit_bias,
            logprobs=reported,
        )
        for i in range(n)
    ]

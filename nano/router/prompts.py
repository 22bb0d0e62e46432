"""The prompts of a completion request: a string, strings, ids, or lists of ids."""

from __future__ import annotations

from nano.router.api import MAX_CHOICES, CompletionRequest
from nano.router.errors import invalid


def completion_prompts(request: CompletionRequest) -> list[str | list[int]]:
    """One text or list of ids a prompt. Raises ApiError for an empty list or a mixture."""
    given = request.prompt
    if isinstance(given, str):
        return [given]
    if not given:
        raise invalid("prompt", "prompt: expected a string or a list that is not empty, got an empty list")
    kind = type(given[0])
    if any(type(one) is not kind for one in given):
        raise invalid("prompt", "prompt: expected strings alone, ids alone or lists of ids alone, got a mixture")
    if kind is int:
        return [given]  # type: ignore[list-item]
    if len(given) * (request.n or 1) > MAX_CHOICES:
        raise invalid("prompt", f"prompt: expected up to {MAX_CHOICES} prompts times n, got {len(given)}")
    return given  # type: ignore[return-value]

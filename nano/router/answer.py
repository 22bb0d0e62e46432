"""Responses that come whole, and what they share with those that stream."""

from __future__ import annotations

from typing import Any

import msgspec

from nano import wire
from nano.router._text import Choice
from nano.router.errors import ApiError
from nano.router.generation import Generation
from nano.router.tools import Call, parse

HEADERS = [("content-type", "application/json")]


def finish_reason(choice: Choice, called: bool) -> str:
    if choice.finish == wire.LENGTH:
        return "length"
    return "tool_calls" if called else "stop"


def usage(generation: Generation) -> dict[str, Any]:
    completion = generation.completion_tokens
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": generation.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }


class Answer:
    """Holds the response back until every choice has ended. `response` is (status, headers, body) then."""

    def __init__(
        self, generation: Generation, kind: str, request_id: str, created: int, model: str, *, tools: bool
    ) -> None:
        self._generation = generation
        self._head = {"id": request_id, "object": kind, "created": created, "model": model}
        self._tools = tools
        self.response: tuple[int, list[tuple[str, str]], bytes] = (499, [], b"")  # of a client that left

    def advance(self, choice: Choice) -> None:
        """Nothing to do before the end: the choice gathers its text itself."""

    def finish(self) -> None:
        chat = self._head["object"] == "chat.completion"
        choices = [self._message(choice) if chat else self._text(choice) for choice in self._generation.choices]
        body = msgspec.json.encode({**self._head, "choices": choices, "usage": usage(self._generation)})
        self.response = 200, HEADERS, body

    def fail(self, error: ApiError) -> None:
        self.response = error.status, error.headers(), error.body()

    def _message(self, choice: Choice) -> dict[str, Any]:
        data = choice.take()
        text = data.decode()
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        calls: list[Call] = []
        if self._tools:
            said, calls = parse(text)
            message["content"] = said or (None if calls else "")
        if calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        reason = finish_reason(choice, bool(calls))
        logprobs = self._logprobs(choice, len(data))
        return {"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def _text(self, choice: Choice) -> dict[str, Any]:
        data = choice.take()
        logprobs, reason = self._logprobs(choice, len(data)), finish_reason(choice, False)
        return {"index": choice.index, "text": data.decode(), "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, choice: Choice, size: int) -> msgspec.Raw:
        report = self._generation.reports.get(choice.index)
        return msgspec.Raw(b"null" if report is None else report.take(size, last=not choice.stopped))

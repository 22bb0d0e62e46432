"""A chat request's messages as the chat template sees them."""

from __future__ import annotations

from typing import Any

import msgspec

from nano.router.api import (
    AssistantMessage,
    ChatRequest,
    Content,
    DeveloperMessage,
    RefusalPart,
    TextPart,
    ToolCall,
    ToolMessage,
)
from nano.router.errors import invalid, unsupported


def to_template(request: ChatRequest) -> list[dict[str, Any]]:
    """Text parts joined by line breaks, arguments of earlier tool calls as objects.

    Raises ApiError naming the part that is not text or the arguments that are not JSON.
    """
    messages = []
    for i, message in enumerate(request.messages):
        content = message.content
        entry: dict[str, Any] = {
            "role": "system" if type(message) is DeveloperMessage else message.__struct_config__.tag,
            "content": content if type(content) is str else _text(content, f"messages[{i}].content"),
        }
        if message.name is not None:
            entry["name"] = message.name
        if isinstance(message, AssistantMessage) and message.tool_calls:
            entry["tool_calls"] = [
                _call(call, f"messages[{i}].tool_calls[{j}]") for j, call in enumerate(message.tool_calls)
            ]
        elif isinstance(message, ToolMessage):
            entry["tool_call_id"] = message.tool_call_id
        messages.append(entry)
    return messages


def _text(content: Content | None, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for i, part in enumerate(content):
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, RefusalPart):
            texts.append(part.refusal)
        else:
            kind = part.__struct_config__.tag
            raise unsupported(f"{where}[{i}]", f": only text parts are, got {kind}")
    return "\n".join(texts)


def _call(call: ToolCall, where: str) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}")
    except (msgspec.DecodeError, RecursionError) as error:
        param = f"{where}.function.arguments"
        raise invalid(param, f"{param}: expected JSON, got {error}") from None
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}

"""Tool calls as Hermes and Qwen models write them: <tool_call>{"name": …, "arguments": {…}}</tool_call> in the text."""

from __future__ import annotations

import re
import secrets
from typing import Any

import msgspec

from nano.router.api import ChatRequest
from nano.router.errors import invalid, unsupported

OPEN = "<tool_call>"
CLOSE = "</tool_call>"

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class Call(msgspec.Struct, frozen=True):
    """arguments: a JSON object, as the model wrote it."""

    id: str
    name: str
    arguments: str


class _Written(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


def offered(request: ChatRequest) -> list[dict[str, Any]] | None:
    """The tools to show the model: None when there are none or tool_choice is "none". Raises ApiError."""
    tools = request.tools
    choice = request.tool_choice
    if choice is not None and choice not in ("none", "auto"):
        if choice == "required" or isinstance(choice, dict):
            raise unsupported("tool_choice", ' but for "auto" and "none"')
        raise invalid("tool_choice", f'tool_choice: expected "auto" or "none", got {choice!r}')
    if not tools:
        if choice == "auto":
            raise invalid("tool_choice", "tool_choice: expected tools beside it, got none")
        return None
    for i, tool in enumerate(tools):
        _check(tool, f"tools[{i}]")
    return None if choice == "none" else tools


def _check(tool: dict[str, Any], where: str) -> None:
    if tool.get("type") != "function":
        raise invalid(f"{where}.type", f'{where}.type: expected "function", got {tool.get("type")!r}')
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{where}.function", f"{where}.function: expected an object, got {type(function).__name__}")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise invalid(f"{where}.function.name", f"{where}.function.name: expected a name, got {name!r}")
    if not isinstance(function.get("parameters", {}), dict | None):
        raise invalid(f"{where}.function.parameters", f"{where}.function.parameters: expected a JSON schema object")
    if function.get("strict"):
        raise unsupported(f"{where}.function.strict")


class Parser:
    """Splits a growing text into what is said and what is called; any cut of the text gives the same.

    White space around calls belongs to neither. A block that is not a call stays text. A last block that was not
    closed counts as a call if it is a whole one.
    """

    def __init__(self) -> None:
        self._text = ""  # not decided yet
        self._inside = False  # _text begins with OPEN
        self._space = ""  # the white space before that
        self._searched = 0  # in a block: no CLOSE ends before here
        self._after_call = False  # white space now is dropped
        self.called = False

    def feed(self, text: str) -> list[str | Call]:
        """What is decided now, in order: text (never empty) and calls."""
        self._text += text
        return self._advance(final=False)

    def finish(self) -> list[str | Call]:
        """The rest: no more text comes."""
        return self._advance(final=True)

    def _advance(self, final: bool) -> list[str | Call]:
        found: list[str | Call] = []
        undecided = True
        while undecided:
            undecided = self._block(found, final) if self._inside else self._said(found, final)
        return found

    def _said(self, found: list[str | Call], final: bool) -> bool:
        """Outside of a block. Whether one begins."""
        if self._after_call:
            self._text = self._text.lstrip()
        start = self._text.find(OPEN)
        if start >= 0:
            said = self._text[:start].rstrip()
            self._say(found, said)
            self._space = self._text[len(said) : start]
            self._text = self._text[start:]
            self._inside = True
            self._searched = len(OPEN)
            return True
        held = 0 if final else _held(self._text)
        cut = len(self._text) - held
        self._say(found, self._text[:cut])
        self._text = self._text[cut:]
        return False

    def _block(self, found: list[str | Call], final: bool) -> bool:
        """Inside of a block. Whether it ends."""
        while (end := self._text.find(CLOSE, self._searched)) >= 0:
            body = self._text[len(OPEN) : end]
            if '"' not in _STRING.sub("", body):  # else CLOSE stands inside a JSON string that is still open
                self._close(found, body, end + len(CLOSE))
                return True
            self._searched = end + 1
        self._searched = max(self._searched, len(self._text) - len(CLOSE) + 1)
        if final:
            self._close(found, self._text[len(OPEN) :], len(self._text))
        return final

    def _close(self, found: list[str | Call], body: str, end: int) -> None:
        call = _call(body)
        if call is None:
            self._say(found, self._space + self._text[:end])
        else:
            found.append(call)
            self._after_call = self.called = True
        self._text = self._text[end:]
        self._inside = False

    def _say(self, found: list[str | Call], text: str) -> None:
        if text:
            found.append(text)
            self._after_call = False


def parse(text: str) -> tuple[str, list[Call]]:
    """A whole text at once."""
    parser = Parser()
    parts = parser.feed(text) + parser.finish()
    said = "".join(part for part in parts if isinstance(part, str))
    return said, [part for part in parts if isinstance(part, Call)]


def _held(text: str) -> int:
    """How much of the end may belong to a call: a beginning of OPEN, with the white space before it."""
    size = next((n for n in range(min(len(OPEN) - 1, len(text)), 0, -1) if OPEN.startswith(text[-n:])), 0)
    rest = text[: len(text) - size]
    return size + len(rest) - len(rest.rstrip())


def _call(body: str) -> Call | None:
    try:
        written = msgspec.json.decode(body, type=_Written)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    arguments = bytes(written.arguments).decode()
    return Call(f"call_{secrets.token_hex(12)}", written.name, arguments) if arguments.startswith("{") else None

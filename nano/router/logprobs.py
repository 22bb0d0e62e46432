"""Log-probabilities of a choice's tokens, in OpenAI's two shapes."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from nano.tokenizer import Tokenizer
from nano.wire import TokenLogprobs

LOWEST = -9999.0  # JSON has no infinity

_JSON = msgspec.json.Encoder()


class Report:
    """Of one choice. Tokens are let go of with their text, so that those of a stop string never are."""

    def __init__(self, tokenizer: Tokenizer, *, chat: bool) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self._waiting: deque[tuple[int, int, TokenLogprobs]] = deque()  # bytes and characters before the token
        self._ids: deque[int] = deque()
        self._bytes = 0  # of the tokens that have come
        self._characters = 0
        self._said = 0  # bytes of text that have been taken

    def add(self, token: int, logprobs: TokenLogprobs) -> None:
        """The next token. Not for the stop token, which is not text."""
        self._waiting.append((self._bytes, self._characters, logprobs))
        self._ids.append(token)
        data = self._data(token)
        self._bytes += len(data)
        self._characters += sum(byte & 0xC0 != 0x80 for byte in data)

    def take(self, size: int, last: bool) -> bytes:
        """JSON for the tokens that begin in the text so far, which has grown by `size` bytes; null for none.

        last: no more text comes, and it was not cut, so that all tokens are in it.
        """
        self._said += size
        taken = []
        while self._waiting and (last or self._waiting[0][0] < self._said):
            _, offset, logprobs = self._waiting.popleft()
            taken.append((self._ids.popleft(), offset, logprobs))
        if not taken:
            return b"null"
        return _JSON.encode(self._content(taken) if self._chat else self._columns(taken))

    def _data(self, token: int) -> bytes:
        table = self._tokenizer.id_to_bytes
        return table[token] if 0 <= token < len(table) else b""

    def _name(self, token: int) -> str:
        """Of a token that adds no bytes to the text."""
        return self._tokenizer.backend.id_to_token(token) or f"<{token}>"

    def _content(self, taken: list[tuple[int, int, TokenLogprobs]]) -> dict[str, Any]:
        content = [
            {**self._entry(token, one.chosen), "top_logprobs": [self._entry(id, value) for id, value in one.top]}
            for token, _, one in taken
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._data(token)
        return {
            "token": data.decode(errors="replace") or self._name(token),
            "logprob": max(logprob, LOWEST),
            "bytes": list(data) or None,
        }

    def _columns(self, taken: list[tuple[int, int, TokenLogprobs]]) -> dict[str, Any]:
        """Completions' shape names tokens by text alone, so bytes that are none are spelled out."""
        top = []
        for token, _, one in taken:
            best = {self._text(id): max(value, LOWEST) for id, value in one.top}
            best.setdefault(self._text(token), max(one.chosen, LOWEST))
            top.append(best)
        return {
            "tokens": [self._text(token) for token, _, _ in taken],
            "token_logprobs": [max(one.chosen, LOWEST) for _, _, one in taken],
            "top_logprobs": top if any(one.top for _, _, one in taken) else None,
            "text_offset": [offset for _, offset, _ in taken],
        }

    def _text(self, token: int) -> str:
        data = self._data(token)
        try:
            return data.decode() or self._name(token)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

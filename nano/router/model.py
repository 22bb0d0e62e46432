"""A model as the router knows it: how its requests become token ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from nano.errors import InvalidInput
from nano.router._text import Vocabulary
from nano.router.encoder import Encoder
from nano.router.errors import invalid
from nano.tokenizer import Tokenizer

LONG_TEXT = 16_384  # characters; such texts are tokenised beside the event loop


class Model:
    """tokenizer.json and templates of one directory, loaded once. Raises InvalidInput when they cannot be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tokenizer = Tokenizer.from_pretrained(path)
        self._encoder = Encoder(self.tokenizer)
        self.vocabulary = Vocabulary(self.tokenizer.id_to_bytes)
        self.created = int(time.time())

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        extra: Mapping[str, Any] | None,
        executor: Executor,
    ) -> bytes:
        """Packed ids. Raises ApiError when the template rejects the messages."""
        try:
            text = self.tokenizer.render_chat(messages, tools, extra=extra)
        except InvalidInput as error:
            raise invalid("messages", str(error)) from None
        return await self.encode(text, False, executor)

    async def encode(self, text: str, add_special_tokens: bool, executor: Executor) -> bytes:
        """Packed ids."""
        if len(text) < LONG_TEXT:
            return self._encoder.encode(text, add_special_tokens)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, self._encoder.encode_unlocked, text, add_special_tokens)

"""What tests and benchmarks of the router need around it: a small model directory, and the router in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from nano.router.config import RouterConfig
from nano.router.server import Router
from nano.wire import EngineInfo

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN = ("<tool_call>", "</tool_call>")  # one token each, but text

# The split of Qwen's tokenizers.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif message.role != 'system' %}
{{- raise_exception('unknown role ' + message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def make_tokenizer(vocab_size: int = 512) -> tokenizers.Tokenizer:
    """A byte-level BPE as Qwen's, trained on a few sentences."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_WORDS), "isolated"), to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - len(PLAIN),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "the quick brown fox jumps over the lazy dog and tells the others what it saw over there " * 20
    tokenizer.train_from_iterator(
        [text, text.upper(), "user assistant system tool arguments name get weather"], trainer
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN])
    return tokenizer


def make_model_dir(path: Path) -> Path:
    """tokenizer.json and tokenizer_config.json of a model that has no weights."""
    path.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save(str(path / "tokenizer.json"))
    config: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


class RouterThread:
    """A router on a free port, listening when the constructor returns."""

    def __init__(self, engines: Mapping[str, EngineInfo] | None, **config: Any) -> None:
        self._config = RouterConfig(**{"port": 0, "log_level": "warning", **config})
        self._engines = engines
        self._up = threading.Event()
        self._error: BaseException | None = None
        self.port = 0
        self._thread = threading.Thread(target=self._main, name="router")
        self._thread.start()
        if not self._up.wait(10.0) or self._error is not None:
            raise RuntimeError("the router did not start") from self._error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self, timeout: float = 10.0) -> None:
        self._loop.call_soon_threadsafe(self._router.stop)
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise RuntimeError(f"the router did not end within {timeout} s")
        if self._error is not None:
            raise self._error

    def _main(self) -> None:
        try:
            try:
                import uvloop
            except ImportError:
                asyncio.run(self._run())
            else:
                uvloop.run(self._run())
        except BaseException as error:
            self._error = error
        finally:
            self._up.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._router = Router(self._config, self._engines, self._listening)
        await self._router.run()

    def _listening(self, port: int) -> None:
        self.port = port
        self._up.set()

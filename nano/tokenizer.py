"""A model's tokenizer out of its directory, without transformers: tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from nano.errors import InvalidInput
from nano.template import ChatTemplate

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class Tokenizer:
    """Text to ids and back.

    id_to_bytes: the bytes that each id adds to a text, b"" for special tokens; indexed by id.
    special_tokens: name (eos_token, …) -> text. special_ids: the ids that have no text.
    bos_token_id, eos_token_id, pad_token_id: None where the model has none. backend: the library's own tokenizer.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self._templates = {
            name: ChatTemplate(source, self.special_tokens) for name, source in (chat_templates or {}).items()
        }
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        declared = msgspec.json.decode(backend.to_str().encode(), type=_Declared)
        self.id_to_bytes = _id_to_bytes(backend, declared, self.special_ids)
        self._strip = _leading_strip(declared.decoder)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Tokenizer:
        """Reads a model directory. Raises InvalidInput naming the file that is missing or wrong."""
        directory = Path(path)
        file = directory / "tokenizer.json"
        if not file.is_file():
            raise InvalidInput(f"tokenizer: expected a file {file}, found none")
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise InvalidInput(f"tokenizer: expected {file} to be a tokenizer, got {error}") from error
        config = _read_json(directory / "tokenizer_config.json")
        special_tokens = _special_tokens({**_read_json(directory / "special_tokens_map.json"), **config})
        return cls(
            backend,
            special_tokens=special_tokens,
            chat_templates=_chat_templates(directory, config),
        )

    def __len__(self) -> int:
        return len(self.id_to_bytes)

    @property
    def bos_token_id(self) -> int | None:
        return self._special_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._special_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._special_id("pad_token")

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates)

    def token_to_id(self, token: str) -> int | None:
        found: int | None = self.backend.token_to_id(token)
        return found

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """add_special_tokens: what the model puts around a plain text (BOS); a rendered chat has its own."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_unlocked(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """`encode` for long texts: other Python threads run meanwhile."""
        batch = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = batch[0].ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens; what is not UTF-8 becomes U+FFFD."""
        table = self.id_to_bytes
        text = b"".join([table[i] for i in ids if 0 <= i < len(table)]).decode(errors="replace")
        return text[1:] if self._strip and text.startswith(" ") else text

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text. Raises InvalidInput without a template, or where the template rejects the messages."""
        template = (self._templates.get("tool_use") if tools else None) or self._templates.get("default")
        if template is None:
            raise InvalidInput("chat template: the model has none (tokenizer_config.json or chat_template.jinja)")
        return template.render(messages, tools or None, add_generation_prompt, extra)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The prompt's ids."""
        text = self.render_chat(messages, tools, add_generation_prompt)
        return self.encode(text, add_special_tokens=False)

    @staticmethod
    def byte_symbol(byte: int) -> str:
        """The character that stands for a byte in a byte-level vocabulary."""
        return _SYMBOLS[byte]

    def _special_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.token_to_id(token)


class _Declared(msgspec.Struct):
    """The part of tokenizer.json that says how ids become text."""

    decoder: dict[str, Any] | None = None


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidInput(f"tokenizer: expected {file} to be a JSON object, got {error}") from error


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _SPECIAL_NAMES:
        token = config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            found[name] = token
    return found


def _chat_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """A repository names its template in one of three ways; the file of its own is the newest and comes first."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return {"default": file.read_text(encoding="utf-8")}
    declared = config.get("chat_template")
    if isinstance(declared, str):
        return {"default": declared}
    if isinstance(declared, list):
        return {entry["name"]: entry["template"] for entry in declared}
    return {}


def _decoders(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [inner for part in decoder.get("decoders", ()) for inner in _decoders(part)]
    return [decoder]


def _leading_strip(decoder: Mapping[str, Any] | None) -> bool:
    """Whether a text loses its first space, which sentencepiece models put before every text."""
    return any(
        (part.get("type") == "Strip" and part.get("start", 0) > 0 and part.get("content") == " ")
        or (part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in _decoders(decoder)
    )


def _id_to_bytes(backend: tokenizers.Tokenizer, declared: _Declared, special_ids: frozenset[int]) -> list[bytes]:
    kinds = {part.get("type") for part in _decoders(declared.decoder)}
    added = backend.get_added_tokens_decoder()
    if "ByteLevel" in kinds:
        to_bytes = _byte_level
    elif "ByteFallback" in kinds or "Metaspace" in kinds:
        to_bytes = _byte_fallback
    else:
        raise InvalidInput(
            f"tokenizer: expected a ByteLevel, ByteFallback or Metaspace decoder, got {sorted(map(str, kinds))}"
        )
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, i in vocabulary.items():
        if i in special_ids:
            continue
        table[i] = added[i].content.encode() if i in added else to_bytes(token)
    return table


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's map: printable bytes stand for themselves, the others for U+0100 and on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if chr(byte) not in alphabet]
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return alphabet


_ALPHABET = _byte_level_alphabet()
_SYMBOLS = {byte: symbol for symbol, byte in _ALPHABET.items()}


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode()  # a token that was added as plain text


def _byte_fallback(token: str) -> bytes:
    match = _BYTE_TOKEN.match(token)
    if match:
        return bytes([int(match.group(1), 16)])
    return token.replace("\u2581", " ").encode()

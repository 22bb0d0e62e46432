"""Prompts to token ids, fast where it can be exact.

The library builds an alignment for every character, which is most of its time. Where a tokenizer is byte-level BPE with
the split of Qwen or Llama 3, ASCII text needs neither that nor a regular expression engine: its words are found by hand
(csrc/text/words.pxi) and each word's ids are looked up. All else goes to the library.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from nano.router._text import Words, pack_ids
from nano.tokenizer import Tokenizer

KNOWN_WORDS = 65_536  # about 10 MB

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS = {_SPLIT % "": 1, _SPLIT % "{1,3}": 3}


class Encoder:
    """fast: whether ASCII text takes the short way."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._size = len(tokenizer)
        backend = tokenizer.backend
        self._model = backend.model
        self._adds_special = backend.num_special_tokens_to_add(False) > 0
        added = backend.get_added_tokens_decoder()
        declared: dict[str, Any] = msgspec.json.decode(backend.to_str().encode())
        digits = _digits(declared)
        plain = not any(
            token.normalized or token.lstrip or token.rstrip or token.single_word for token in added.values()
        )
        self.fast = digits > 0 and plain
        self._words = Words(self._tokenize, max(digits, 1), KNOWN_WORDS)
        self._added = {token.content: pack_ids([i], self._size) for i, token in added.items()}
        longest_first = sorted(self._added, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})" if added else r"(?!)")
        self._alphabet = {byte: tokenizer.byte_symbol(byte) for byte in range(128)}

    def encode(self, text: str, add_special_tokens: bool) -> bytes:
        """Packed ids, as `pack_ids` makes them."""
        if not self.fast or (add_special_tokens and self._adds_special):
            return pack_ids(self._tokenizer.encode(text, add_special_tokens), self._size)
        packed = []
        for piece in self._cut.split(text):
            if piece.isascii():
                if piece:
                    packed.append(self._added.get(piece) or self._words.encode(piece.encode()))
            else:
                packed.append(self._added.get(piece) or pack_ids(self._tokenizer.encode(piece, False), self._size))
        return b"".join(packed)

    def encode_unlocked(self, text: str, add_special_tokens: bool) -> bytes:
        """`encode` for long texts: other Python threads run meanwhile."""
        return pack_ids(self._tokenizer.encode_unlocked(text, add_special_tokens), self._size)

    def _tokenize(self, word: bytes) -> bytes:
        symbols = word.decode().translate(self._alphabet)
        return pack_ids([token.id for token in self._model.tokenize(symbols)], self._size)


def _digits(declared: dict[str, Any]) -> int:
    """The longest number of a word; 0 where the tokenizer is not one whose split is known."""
    normalizer = declared.get("normalizer")
    model = declared.get("model") or {}
    pre = declared.get("pre_tokenizer") or {}
    parts: list[dict[str, Any]] = pre.get("pretokenizers", []) if pre.get("type") == "Sequence" else []
    if (
        len(parts) != 2
        or (normalizer is not None and normalizer.get("type") != "NFC")  # which leaves ASCII alone
        or model.get("type") != "BPE"
        or model.get("dropout")
    ):
        return 0
    split, level = parts
    known = (
        split.get("type") == "Split"
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
        and level.get("type") == "ByteLevel"
        and not level.get("add_prefix_space")
        and not level.get("use_regex")
    )
    return _DIGITS.get((split.get("pattern") or {}).get("Regex", ""), 0) if known else 0

"""The router's byte loop (csrc/text): engine rows in, text or server-sent events out."""

from collections.abc import Callable, Iterable
from typing import Any

class Vocabulary:
    """The bytes of every token id, special tokens as b"". Immutable; shared by all requests of a model."""

    size: int
    def __init__(self, id_to_bytes: list[bytes]) -> None: ...
    def __len__(self) -> int: ...

class TextStream:
    """Tokens in, text out, whatever the pieces: complete code points only (what is not UTF-8 becomes U+FFFD as in
    bytes.decode(errors="replace")), nothing that may still become a stop string. The stop string that completes first
    ends the text and is not part of it; of several that complete at once the longest. Ids outside the vocabulary
    have no text. `nano.detokenizer.TextStream` is the same in plain Python."""

    stopped: bool
    def __init__(self, vocabulary: Vocabulary, stops: tuple[str, ...] = ()) -> None: ...
    def feed(self, ids: Iterable[int]) -> str: ...
    def finish(self) -> str: ...

class Choice:
    """One request of one engine. With `prefix` and `suffix` each token's text is framed as
    prefix + JSON-escaped text + suffix; without, `take` returns the text's UTF-8 itself.

    tokens: how many came (the stop token too). finish: as in nano.wire; a stop string gives STOP, and then `stopped`.
    heard: the time given to `dispatch` with the last row. fault: why the rows made no sense (finish is FAILED then).
    failure: for whoever fails it to say why.
    """

    key: int
    index: int
    tokens: int
    cached: int
    finish: int
    heard: float
    fault: str | None
    owner: Any
    failure: Any
    stopped: bool
    def __init__(
        self,
        key: int,
        index: int,
        owner: Any,
        vocabulary: Vocabulary,
        stops: tuple[str, ...] = (),
        prefix: bytes | None = None,
        suffix: bytes | None = None,
        now: float = 0.0,
    ) -> None: ...
    def fail(self, failure: Any) -> None: ...
    def take(self) -> bytes:
        """What has come since the last call."""

def dispatch(
    live: dict[int, Choice],
    keys: bytes,
    indices: bytes,
    tokens: bytes,
    finish: bytes,
    cached: bytes,
    now: float,
    touched: list[Choice],
) -> None:
    """Feeds the columns of nano.wire.Outputs to their choices, appending each choice touched to `touched`, once until
    `settle`. Rows of unknown keys and of ended choices are dropped; an index that is not the next one fails its choice.
    Raises ValueError when the columns' lengths disagree."""

def settle(touched: list[Choice]) -> list[Choice]:
    """The same list; from now on its choices count as untouched."""

def frame(prefix: bytes, text: str, suffix: bytes) -> bytes:
    """prefix + JSON-escaped text + suffix."""

def pack_ids(ids: list[int], vocab_size: int) -> bytes:
    """Little-endian int32. Raises ValueError for an id outside 0 to vocab_size - 1."""

class Words:
    """ASCII text to packed ids, word by word: the split of Qwen's (digits=1) and Llama 3's (digits=3) tokenizers.

    tokenize: gives the packed ids of a word that is not known; up to `most` words are known at a time.
    """

    def __init__(self, tokenize: Callable[[bytes], bytes], digits: int, most: int) -> None: ...
    def encode(self, text: bytes) -> bytes: ...

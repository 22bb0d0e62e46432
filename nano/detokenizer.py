"""Token ids to text, piece by piece, in plain Python.

The router runs the same rules in Cython (csrc/text), and its tests compare the two.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from nano.errors import InvalidInput


class TextStream:
    """Text out of token ids, whatever the pieces.

    Only complete code points come out; what is not UTF-8 becomes U+FFFD. What may still become a stop string is held
    back. The stop string that completes first ends the text and is not part of it; of several that complete at once
    the longest does. Ids outside the table have no text.
    """

    def __init__(self, id_to_bytes: Sequence[bytes], stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise InvalidInput("stop strings: expected one character or more, got an empty string")
        self._id_to_bytes = id_to_bytes
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""  # not released yet
        self.stopped = False

    def feed(self, ids: Iterable[int]) -> str:
        """The text that these ids free."""
        size = len(self._id_to_bytes)
        self._append(self._decoder.decode(b"".join(self._id_to_bytes[i] for i in ids if 0 <= i < size)))
        waiting = self._decoder.getstate()[0]
        if waiting[:1] == b"\xed" and waiting[1:2] >= b"\xa0":
            # Half of an encoded surrogate, which nothing can complete; CPython holds it back for "surrogatepass".
            self._append(self._decoder.decode(b"", final=True))
        return self._release(0 if self.stopped else self._held())

    def finish(self) -> str:
        """The rest of the text: no more ids come."""
        self._append(self._decoder.decode(b"", final=True))
        return self._release(0)

    def _append(self, text: str) -> None:
        for character in text:
            if self.stopped:
                return
            self._text += character
            found = max((len(stop) for stop in self._stops if self._text.endswith(stop)), default=0)
            if found:
                self._text = self._text[:-found]
                self.stopped = True

    def _held(self) -> int:
        for stop_size in range(max(map(len, self._stops), default=0), 0, -1):
            if any(self._text.endswith(stop[:stop_size]) for stop in self._stops if len(stop) >= stop_size):
                return stop_size
        return 0

    def _release(self, held: int) -> str:
        cut = len(self._text) - held
        text, self._text = self._text[:cut], self._text[cut:]
        return text

"""Which of the engines that could serve a request does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Candidate(Protocol):
    """load: requests in flight on the engine."""

    @property
    def load(self) -> int: ...


class Policy(Protocol):
    def pick(self, candidates: Sequence[Candidate]) -> int:
        """The index of one of the candidates (never empty), which come in a fixed order."""


class RoundRobin:
    """Each engine in turn."""

    def __init__(self) -> None:
        self._turn = -1

    def pick(self, candidates: Sequence[Candidate]) -> int:
        self._turn = (self._turn + 1) % len(candidates)
        return self._turn


class LeastLoaded:
    """The engine with the fewest requests in flight; of equals, each in turn."""

    def __init__(self) -> None:
        self._turn = -1

    def pick(self, candidates: Sequence[Candidate]) -> int:
        self._turn += 1
        count = len(candidates)
        return min(range(count), key=lambda i: (candidates[i].load, (i - self._turn) % count))


POLICIES: dict[str, Callable[[], Policy]] = {"round_robin": RoundRobin, "least_loaded": LeastLoaded}

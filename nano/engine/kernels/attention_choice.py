"""Which attention is faster, by measurement: the table that `bench/cuda/attention_backends.py` writes.

A row is one step's shape: its kind ("decode": one query a sequence; "prefill": more; "mixed": both), the model's heads,
sequences, queries a sequence and context; microseconds a layer of each backend, of FlashInfer's plan on the host (once
a step), and who won over all layers of that model with the plan counted. FlashInfer wins only by more than `MARGIN`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("attention_choice.json")
MARGIN = 0.03
REACH = 2.5  # how far a measured step speaks for others, in doublings

Place = tuple[float, ...]


@dataclass(frozen=True)
class Heads:
    heads: int
    kv_heads: int
    head_dim: int


def winner(triton_us: float, flashinfer_us: float, plan_us: float, layers: int) -> str:
    """Microseconds of a layer, and of the plan of a step."""
    return "flashinfer" if triton_us * layers > (flashinfer_us * layers + plan_us) * (1 + MARGIN) else "triton"


@cache
def _table(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


class Choice:
    """For a card and a model's heads; a card or heads that nobody measured get Triton always."""

    def __init__(self, card: str, heads: Heads, path: Path | None = None) -> None:
        rows = _table(path or TABLE).get(card, {}).get("rows", [])
        self._points = [
            (row["kind"], _place(row["seqs"], row["queries"], row["context"]), row["winner"])
            for row in rows
            if Heads(row["heads"], row["kv_heads"], row["head_dim"]) == heads
        ]
        self._known: dict[tuple[str, Place], bool] = {}

    @property
    def kinds(self) -> set[str]:
        """The kinds of steps where FlashInfer wins somewhere."""
        return {kind for kind, _, who in self._points if who == "flashinfer"}

    def takes_flashinfer(self, kind: str, seqs: int, queries: float, context: float) -> bool:
        """For a step of `seqs` sequences with so many queries and so long a context on average: whether FlashInfer won
        the nearest measured step, if that is within `REACH`. In each of the three, twice as many is a distance of 1."""
        place = _place(seqs, queries, context)
        if (kind, place) not in self._known:
            near = [(math.dist(place, measured), who) for k, measured, who in self._points if k == kind]
            distance, who = min(near, default=(math.inf, ""))
            self._known[kind, place] = distance <= REACH and who == "flashinfer"
        return self._known[kind, place]


def _place(seqs: float, queries: float, context: float) -> Place:
    """Powers of two, in halves: few enough to be remembered."""
    return tuple(round(2 * math.log2(max(count, 1))) / 2 for count in (seqs, queries, context))

"""How decode attention is cut up for a number of sequences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeConfig:
    """How decode attention is cut up."""

    tile: int  # positions
    stages: int
    warps: int
    programs: int  # a multiprocessor
    prefetch: int  # tiles that each program asks for before it waits for the kernel before it
    least: int = 2  # tiles a program: adding up pieces takes as long as one more tile
    pieces: int = 8  # added up at a time


def decode_config(sequences: int, element_size: int) -> DecodeConfig:
    """Measured on an H200; `element_size` is the cache's, in bytes."""
    if element_size == 4:
        return DecodeConfig(tile=32, stages=2, warps=4, programs=2, prefetch=2)
    if sequences == 1:
        return DecodeConfig(tile=32, stages=5, warps=2, programs=2, prefetch=2, least=1)
    return DecodeConfig(tile=64, stages=3, warps=2, programs=4, prefetch=2)

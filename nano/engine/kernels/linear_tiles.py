"""How products of few rows are cut: as bench/cuda/linear.py found on an H100 80GB (SXM), of one row on an H200.

For one row what is best in a model's layers counts: few steps over K, since each waits for memory once more.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """`rows` weight rows by `depth` columns at a time, K in `parts`; `ahead` bytes of each row are prefetched."""

    rows: int
    depth: int
    parts: int = 1
    warps: int = 4
    stages: int = 4
    ahead: int = 512
    wide: bool = True  # fp8 weights meet the activations in fp16; else both are fp8


@dataclass(frozen=True)
class Lanes:
    """One activation row on plain lanes; `ahead` bytes of each weight row are prefetched.

    `wide` x `deep` warps take `rows` weight rows, `chunks` x `deep` x 32 times `bytes` of each at a time.
    """

    rows: int
    wide: int
    deep: int = 1
    chunks: int = 1
    ahead: int = 512
    bytes: int = 16


def _bytes(rows: int, depth: int, parts: int = 1, stages: int = 6, ahead: int = 256) -> Tile:
    return Tile(rows, depth, parts, 4, stages, ahead, wide=False)


# (N, K, fp8) -> most activation rows -> the tile, or None where cuBLAS is best.
TILES: dict[tuple[int, int, bool], dict[int, Tile | Lanes | None]] = {
    # 8B: qkv, o, gate_up, down, lm_head
    (6144, 4096, False): {1: Lanes(4, 1, 4, 1, 256), 32: Tile(64, 256, stages=3), 64: None},
    (4096, 4096, False): {1: Lanes(2, 1, 4, 1, 8192), 32: Tile(64, 256, 2, stages=3), 64: None},
    (24576, 4096, False): {1: Lanes(16, 2, 1, 1, 0), 32: Tile(64, 256, stages=3, ahead=0), 64: None},
    (4096, 12288, False): {1: Lanes(8, 2, 4, 2, 1024), 32: Tile(64, 256, 2, stages=3), 64: Tile(64, 128, 2)},
    (151936, 4096, False): {
        1: Lanes(4, 1, 8, 2, 0), 32: Tile(64, 256, stages=3, ahead=0), 64: Tile(128, 128, stages=3, ahead=0)
    },
    (6144, 4096, True): {1: Lanes(8, 1, 4, 1, 0), 16: _bytes(64, 128, 4)},
    (4096, 4096, True): {1: Lanes(4, 2, 4, 1, 256), 16: Tile(64, 256, 2, stages=3, ahead=256)},
    (24576, 4096, True): {1: Lanes(8, 2, 1, 1, 0), 16: _bytes(64, 128)},
    (4096, 12288, True): {1: Lanes(4, 1, 4, 2, 0), 16: _bytes(64, 128, 4)},
    # 0.6B
    (4096, 1024, False): {1: Lanes(16, 8, 1, 4), 32: Tile(64, 128, stages=5), 64: Tile(64, 64, ahead=2048)},
    (1024, 2048, False): {1: Lanes(2, 2, 4, 2, 4096), 32: Tile(64, 256, 4, stages=3, ahead=2048), 64: Tile(32, 128, 4)},
    (6144, 1024, False): {1: Lanes(8, 2, 2, 2), 32: Tile(64, 128, stages=5, ahead=0), 64: Tile(64, 128)},
    (1024, 3072, False): {1: Lanes(4, 1, 8), 32: Tile(64, 128, 4, stages=5), 64: Tile(32, 128, 4)},
    (151936, 1024, False): {
        1: Tile(64, 128, ahead=0), 32: Tile(64, 256, stages=3, ahead=0), 64: Tile(128, 128, stages=3, ahead=0)
    },
    # 30B-A3B: qkv, o, router, lm_head
    (5120, 2048, False): {1: Lanes(16, 4, 2, 1, 256), 32: Tile(64, 128, stages=5, ahead=0), 64: None},
    (2048, 4096, False): {1: Lanes(2, 2, 4, 2, 8192), 32: Tile(64, 256, 4, stages=3), 64: Tile(64, 128, 4)},
    (128, 2048, False): {1: Lanes(4, 1, 8, 1, 0), 32: Tile(16, 128, 4), 64: Tile(32, 64, 4)},
    (151936, 2048, False): {
        1: Lanes(4, 1, 4, 1, 0), 32: Tile(64, 256, stages=3, ahead=0), 64: Tile(128, 128, stages=3, ahead=0)
    },
    (5120, 2048, True): {1: Lanes(8, 1, 4), 16: Tile(64, 256, ahead=256)},
    (2048, 4096, True): {1: Lanes(4, 2, 4, 2), 16: Tile(64, 256, 4, ahead=256)},
}  # fmt: skip

# Of fp8: (N, K) -> most activation rows -> the parts of K in hopper_linear, as measured on an H200; else by cuBLAS.
PARTS: dict[tuple[int, int], dict[int, int]] = {
    # 8B: qkv, o, gate_up (down: cuBLAS shares K out)
    (6144, 4096): {128: 1},
    (4096, 4096): {64: 2},
    (24576, 4096): {64: 1},
    # 30B-A3B: qkv, o
    (5120, 2048): {128: 1},
    (2048, 4096): {64: 4, 128: 2},
}

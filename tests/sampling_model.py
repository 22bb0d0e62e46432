"""A plain float64 model of sampling, that the samplers are held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 (Salmon et al., 2011)."""
    x, k = list(counter), list(key)
    for _ in range(10):
        a, b = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [(b >> 32) ^ x[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ x[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return x


def uniform(seed: int, position: int) -> float:
    word = philox([position, 0, 0, 0], [seed & 0xFFFFFFFF, seed >> 32])
    return ((word[0] >> 5) * 2**26 + (word[1] >> 6)) / 2**53


def penalized(
    logits: npt.NDArray[np.generic],
    prompt: Sequence[int],
    outputs: Sequence[int],
    repetition: float,
    presence: float,
    frequency: float,
) -> Floats:
    """One row's logits after the penalties, which come in this order."""
    x = logits.astype(np.float64)
    seen = sorted(set(prompt) | set(outputs))
    x[seen] = np.where(x[seen] > 0, x[seen] / repetition, x[seen] * repetition)
    count = np.bincount(np.asarray(outputs, np.int64), minlength=x.size)
    return x - frequency * count - presence * (count > 0)


def kept(
    logits: npt.NDArray[np.generic], temperature: float, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> Floats:
    """Probabilities of the tokens that top_k, then top_p, then min_p leave."""
    x = logits.astype(np.float64) / temperature
    p = np.exp(x - x.max())
    order = np.argsort(-logits, kind="stable")
    improbable = p < min_p * (1 - 1e-12)
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p < 1:
        reached = np.searchsorted(np.cumsum(p[order]), top_p)
        p[order[reached + 1 :]] = 0
    p[improbable] = 0
    return p / p.sum()


def drawn(p: Floats, token: int, u: float, slack: float = 1e-6) -> bool:
    """Is `token` the draw u from p, give or take `slack` of rounding?"""
    below = np.cumsum(p)
    return bool(p[token] > 0 and below[token] - p[token] - slack <= u <= below[token] + slack)

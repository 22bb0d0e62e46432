"""Rotary position tables."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nano.engine.model_config import Rope


def _yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[npt.NDArray[np.float64], float]:
    """head_dim / 2 angular frequencies, and the factor on cos and sin (1 but for YaRN, arXiv 2309.00071)."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    plain = rope.theta**-exponents
    if rope.kind == "linear":
        return plain / rope.factor, 1.0
    if rope.kind != "yarn":
        return plain, 1.0

    def dimension(rotations: float) -> float:
        wavelength = rope.original_max_position / (rotations * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0, 1)
    frequencies = plain / rope.factor * ramp + plain * (1 - ramp)
    if rope.attention_factor is not None:
        return frequencies, rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return frequencies, _yarn_mscale(rope.factor, rope.mscale) / _yarn_mscale(rope.factor, rope.mscale_all_dim)
    return frequencies, _yarn_mscale(rope.factor)


def cos_sin_table(rope: Rope, head_dim: int, positions: int) -> npt.NDArray[np.float32]:
    """[positions, head_dim]: the cosines of a position's head_dim / 2 angles, then their sines."""
    frequencies, factor = inverse_frequencies(rope, head_dim)
    # transformers rounds frequencies and angles to fp32; a reference in float64 does not. Float64 here, rounded once.
    angles = np.arange(positions, dtype=np.float64)[:, None] * frequencies[None, :]
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * factor
    return table.astype(np.float32)

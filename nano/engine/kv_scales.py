"""What an fp8 KV cache's values are multiplied by: one factor each for a layer's K and V."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nano.engine.checkpoint import Checkpoint
from nano.errors import InvalidInput

# As llm-compressor and ModelOpt name them (beside the projection), and as serving engines do (beside both).
_NAME = re.compile(r"model\.layers\.(\d+)\.self_attn\.(?:(?:k_proj\.)?(k)|(?:v_proj\.)?(v))_scale")


@dataclass(frozen=True)
class KVScales:
    """By layer."""

    k: tuple[float, ...]
    v: tuple[float, ...]

    def digest(self) -> str:
        """Short, equal for equal scales; empty when all are 1."""
        values = np.array((self.k, self.v), np.float32)
        return "" if (values == 1.0).all() else hashlib.sha256(values.tobytes()).hexdigest()[:8]


def ones(layers: int) -> KVScales:
    return KVScales((1.0,) * layers, (1.0,) * layers)


def read(checkpoint: Checkpoint, layers: int) -> KVScales:
    """The checkpoint's scales, or ones if it has none.

    Raises InvalidInput for names that are not known, scales that are no positive numbers (one a tensor), and where some
    layers have one and others do not.
    """
    found: dict[str, dict[int, float]] = {"k": {}, "v": {}}
    for name, tensor in checkpoint.tensors(names=checkpoint.kv_scales):
        match = _NAME.fullmatch(name)
        if match is None or int(match[1]) >= layers:
            raise InvalidInput(f"{checkpoint.directory}: {name}: not a KV cache scale of this model's {layers} layers")
        value = tensor.float().item() if tensor.numel() == 1 else math.nan
        if not 0.0 < value < math.inf:
            raise InvalidInput(
                f"{checkpoint.directory}: {name}: expected one positive number, got {tuple(tensor.shape)} "
                f"{tensor.dtype} {value}"
            )
        found[match[2] or match[3]][int(match[1])] = value
    if not found["k"] and not found["v"]:
        return ones(layers)
    for kind, values in found.items():
        _refuse_missing(checkpoint, kind, set(range(layers)) - set(values))
    k, v = (tuple(values[layer] for layer in range(layers)) for values in found.values())
    return KVScales(k, v)


def _refuse_missing(checkpoint: Checkpoint, kind: str, layers: Iterable[int]) -> None:
    if some := sorted(layers):
        raise InvalidInput(
            f"{checkpoint.directory}: KV cache scales of some layers alone: {kind}_scale of layer {some[0]} is missing"
        )

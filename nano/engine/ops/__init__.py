"""The operations a model is made of, behind one interface: native kernels on a CPU, torch anywhere else.

Buffers are allocated once for the largest step; an operation works on their first `n` rows and allocates nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from nano.engine.kv_cache import KVLayout

if TYPE_CHECKING:
    import torch

    from nano._core.sched import Batch


class Buffer:
    """A preallocated activation: [rows, columns]."""

    __slots__ = ("columns", "ptr", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.ptr = tensor.data_ptr()
        self.columns = tensor.shape[1]


@dataclass(frozen=True)
class AttentionShape:
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    layout: KVLayout


class Ops(Protocol):
    """`x` and every GEMM output are fp32; `h`, `q`, attention outputs, activations, K and V have the model's dtype.

    Weights (`Any`) are whatever the same object's `pack_*` returned.
    """

    dtype: torch.dtype

    def buffer(self, rows: int, columns: int, fp32: bool) -> Buffer: ...
    def vector(self, values: torch.Tensor) -> Any:
        """A norm's weight, fp32."""

    def pack_linear(self, rows: int, columns: int) -> Any: ...
    def load_linear(self, weight: Any, row: int, values: torch.Tensor) -> None:
        """Rows row.. of `weight` from `values` [rows, columns], any float dtype."""

    def pack_experts(self, experts: int, hidden: int, intermediate: int) -> Any: ...
    def load_expert(self, weight: Any, expert: int, part: str, values: torch.Tensor) -> None:
        """`part` is gate, up or down."""

    def begin(self, batch: Batch) -> None:
        """Takes the step's index arrays; the operations below refer to them."""

    def embed(self, weight: Any, x: Buffer, n: int) -> None: ...
    def rms_norm(self, x: Buffer, weight: Any, eps: float, out: Buffer, n: int) -> None: ...
    def rms_norm_samples(self, x: Buffer, weight: Any, eps: float, out: Buffer, n: int) -> None:
        """The norm of the rows that sample: out[i] = norm(x[batch.sample_rows[i]])."""

    def linear(self, weight: Any, h: Buffer, n: int, out: Buffer, accumulate: bool = False) -> None: ...
    def rope_write(
        self, qkv: Buffer, q: Buffer, q_norm: Any, k_norm: Any, table: Any, layer: int, shape: AttentionShape, n: int
    ) -> None:
        """Norm and rotation of q and k; K and V go to the pool's slots of this step."""

    def attention(self, q: Buffer, out: Buffer, layer: int, shape: AttentionShape, n: int) -> None: ...
    def silu_mul(self, gate_up: Buffer, out: Buffer, n: int) -> None: ...
    def experts(
        self, weight: Any, router_logits: Buffer, h: Buffer, x: Buffer, top_k: int, normalize: bool, n: int
    ) -> None:
        """x += the weighted outputs of each row's top_k experts."""

    def sample(self, logits: Buffer, vocab: int, n: int) -> npt.NDArray[np.int32]: ...


def pool_bytes_available() -> int:
    """Memory that this machine (and this process's cgroup) can still give, in bytes."""
    available = 0
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    try:
        with (
            open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit,
            open("/sys/fs/cgroup/memory.current", encoding="ascii") as current,
        ):
            text = limit.read().strip()
            if text != "max":
                available = min(available, int(text) - int(current.read()))
    except OSError:  # no cgroup v2 here: the machine's own figure stands
        pass
    return available

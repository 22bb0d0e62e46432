"""The operations a model is made of, behind one interface: native kernels on a CPU, Triton's and cuBLAS's on a GPU.

Buffers are allocated once for the largest step; an operation works on their first `n` rows and allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nano.engine.kv_cache import KVLayout

if TYPE_CHECKING:
    import torch


class Buffer:
    """A preallocated activation [rows, columns], or a vector [columns]."""

    __slots__ = ("columns", "ptr", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.ptr = tensor.data_ptr()
        self.columns = tensor.shape[-1]


@dataclass(frozen=True)
class Target:
    """Where a checkpoint's tensor of this shape goes: into `view` if there is one, else `store` packs it."""

    shape: tuple[int, ...]
    store: Callable[[torch.Tensor], object]
    view: torch.Tensor | None = None


@dataclass(frozen=True)
class AttentionShape:
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    layout: KVLayout


class Ops(Protocol):
    """On a CPU the residual stream and every product are fp32, on a GPU of the model's dtype; norms' and activations'
    outputs, q, K and V have the model's dtype everywhere (or fp8, where the product that reads them is quantised).

    Weights (`Any`) are whatever the same object's `pack_*` returned.
    """

    dtype: torch.dtype

    def residual(self, rows: int, columns: int) -> Buffer: ...
    def product(self, rows: int, columns: int) -> Buffer:
        """What `linear` writes."""

    def operand(self, rows: int, columns: int, weight: Any = None) -> Any:
        """What `linear` reads; for this weight, when it is given."""

    def vector(self, size: int) -> Buffer:
        """A norm's weight, fp32."""

    def table(self, values: torch.Tensor) -> Buffer: ...
    def pack_linear(self, rows: int, columns: int, quantized: bool = False) -> Any: ...
    def pack_experts(self, experts: int, hidden: int, intermediate: int, quantized: bool = False) -> Any: ...
    def vector_target(self, vector: Buffer) -> Target: ...
    def linear_target(self, weight: Any, row: int, rows: int) -> Target:
        """Rows row.. of the weight."""

    def linear_scales_target(self, weight: Any, row: int, rows: int) -> Target:
        """The 128 x 128 block scales of these rows."""

    def expert_target(self, weight: Any, expert: int, part: str) -> Target:
        """`part` is gate, up or down."""

    def expert_scales_target(self, weight: Any, expert: int, part: str) -> Target: ...

    # --- one step

    def embed(self, weight: Any, x: Buffer, n: int) -> None: ...
    def rms_norm_samples(self, x: Buffer, weight: Buffer, eps: float, out: Any, n: int) -> None:
        """The norm of the rows that sample: out[i] = norm(x[batch.sample_rows[i]])."""

    def linear(self, weight: Any, h: Any, n: int, out: Buffer) -> None: ...
    def linear_add(self, weight: Any, h: Any, n: int, x: Buffer, last: bool) -> None:
        """The residual stream x gets the product added; `last` in a pass through the layers."""

    def norm_linear(self, x: Buffer, norm_weight: Buffer, eps: float, h: Any, weight: Any, out: Buffer, n: int) -> None:
        """out = norm(x) @ weight; h is scratch for the norm."""

    def norm_gate_up(
        self, x: Buffer, norm_weight: Buffer, eps: float, h: Any, weight: Any, gate_up: Buffer, act: Any, n: int
    ) -> None:
        """act = silu(gate) * up of norm(x) @ weight (gate's rows, then up's); h and gate_up are scratch."""

    def rope_write(
        self,
        qkv: Buffer,
        q: Buffer,
        q_norm: Buffer,
        k_norm: Buffer,
        table: Buffer,
        layer: int,
        shape: AttentionShape,
        n: int,
    ) -> None:
        """Norm and rotation of q and k; K and V go to the pool's slots of this step."""

    def attention(self, q: Buffer, out: Any, layer: int, shape: AttentionShape, n: int) -> None: ...
    def experts(
        self, weight: Any, router_logits: Buffer, h: Any, x: Buffer, top_k: int, normalize: bool, n: int
    ) -> None:
        """x += the weighted outputs of each row's top_k experts."""


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

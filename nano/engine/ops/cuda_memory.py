"""What a model holds on a CUDA device: weights, and the rows between its kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nano.engine.kernels import linear
from nano.engine.kernels.quantize import GROUP
from nano.engine.ops import Buffer


@dataclass
class Weight:
    values: torch.Tensor  # [N, K]
    scales: torch.Tensor | None = None  # [N / 128, K / 128] of fp8


@dataclass
class Experts:
    gate_up: torch.Tensor  # [E, 2 I, C]: gate's rows, then up's
    down: torch.Tensor  # [E, C, I]
    gate_up_scales: torch.Tensor | None = None
    down_scales: torch.Tensor | None = None


class Operand(Buffer):
    """What a product reads; for fp8 weights and more than `linear.FUSED_ROWS` rows, what it reads is `fp8`."""

    __slots__ = ("fp8",)

    def __init__(self, tensor: torch.Tensor, fp8: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        super().__init__(tensor)
        self.fp8 = fp8  # values [rows, columns], and room for scales, one for 128 of them

    def written(self, n: int, quantized: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Where n rows are written for a product with weights that are `quantized` or not; scales if that is fp8."""
        if not quantized or n <= linear.FUSED_ROWS:
            return self.tensor[:n], None
        return self.quantized(n)

    def quantized(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and scales of n rows; scales [n, columns / 128] have the strides (1, n) that cuBLAS takes."""
        assert self.fp8 is not None
        values, room = self.fp8
        groups = self.columns // GROUP
        return values[:n], room[: groups * n].view(groups, n).T


class Residual(Buffer):
    """The residual stream; what a layer added last waits in `delta` for the norm that reads it.

    A norm inside a product leaves the sum in `spare`, since other programs still read the stream, and the two change
    places. A layer has two norms, so that the stream is where it was when a layer or a step ends.
    """

    __slots__ = ("delta", "nothing", "pending", "spare")

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor)
        self.delta = torch.zeros_like(tensor)
        self.nothing = torch.zeros_like(tensor[:1])
        self.pending = False
        self.spare = torch.zeros_like(tensor[:1])

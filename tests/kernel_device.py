"""Where kernels are tested: on a CUDA device when there is one, else by Triton's interpreter on the CPU.

Import this before triton and before any module of kernels: Triton reads its switch when a kernel is defined.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"

    import triton.language as tl
    from triton.runtime import interpreter

    assert isinstance(tl.sum, interpreter.InterpretedFunction), "triton was imported before kernel_device"
    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_index(tensor: Any, scope: Any) -> None:
        """Loop bounds are arrays of one element, which NumPy 2.4 no longer turns into an int."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_tensor_index
    convert_float = interpreter._convert_float

    def round_to_fp8(values: Any, source: Any, target: Any, rounding: Any) -> Any:
        """As hardware rounds to e4m3; the interpreter loses the carry of a mantissa that is rounded up."""
        if target != tl.float8e4nv or source not in (tl.float16, tl.float32):
            return convert_float(values, source, target, rounding)
        nearest = torch.from_numpy(values.copy()).clamp(-448, 448).to(torch.float8_e4m3fn)
        return nearest.view(torch.uint8).numpy()

    interpreter._convert_float = round_to_fp8

DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
# The interpreter's arithmetic knows no bf16.
HALF = torch.bfloat16 if CUDA else torch.float16
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float8_e4m3fn: 7e-2}


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Greatest difference as a share of the reference's greatest magnitude; NaN anywhere is infinite."""
    difference = (got.double().cpu() - want.double().cpu()).abs()
    if difference.numel() == 0:
        return 0.0
    worst = float(difference.max() / want.double().abs().max().clamp(min=1e-9))
    return float("inf") if worst != worst else worst

"""Compiles for sm_90 what the kernels' host functions launch, without a GPU; prints JSON: name, registers, stack bytes.

A process of its own, because tests interpret the same kernels.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import compile_products
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction
from triton.runtime.driver import driver

from nano.engine.kernels import (
    activation,
    attention,
    decode_attention,
    flashinfer_attention,
    hopper_attention,
    norm,
    prefill_attention,
    rope,
)

HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 32, 8, 128, 64
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Hopper:
    """A driver that is asked for its target alone."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found, text
    return {"registers": int(found[1]), "stack": int(found[2])}


def main() -> None:
    driver.set_active(Hopper())
    modules = (activation, decode_attention, hopper_attention, norm, prefill_attention, rope, *compile_products.MODULES)
    for module in modules:
        module.dependent_launch = lambda device: True  # type: ignore[attr-defined]
    current = ""

    def compile_only(kernel: JITFunction[Any], grid: Any) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            compiled = kernel.warmup(*args, grid=grid, **kwargs)
            print(json.dumps({"name": f"{kernel.__name__}: {current}", **resources(compiled.asm["cubin"])}), flush=True)

        return launch

    JITFunction.__getitem__ = compile_only

    half, fp8 = torch.bfloat16, torch.float8_e4m3fn
    weight, table = torch.empty(4096), torch.empty(1024, HEAD_DIM)
    ints, slots = torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int64)
    tables = torch.zeros(64, 33, dtype=torch.int32)
    head_norm = torch.empty(HEAD_DIM)
    qkv = torch.empty(64, (HEADS + 2 * KV_HEADS) * HEAD_DIM, dtype=half)
    q = torch.empty(64, HEADS, HEAD_DIM, dtype=half)
    scratch = attention.DecodeScratch(64, HEADS, HEAD_DIM, "cpu")
    for cache in (half, fp8):
        pool = torch.empty(4, 2, 2, KV_HEADS, BLOCK_SIZE, HEAD_DIM, dtype=cache)
        k, v = pool[:, 0, 0], pool[:, 0, 1]
        for rows in (1, 64):
            current = f"{rows} sequences, {cache} cache"
            attention.decode_attention(q[:rows], k, v, tables[:rows], ints[:rows], q[:rows], 0.1, scratch)
        current = f"one sequence with rope, {cache} cache"
        turn = attention.Rope(qkv[:1], head_norm, head_norm, 1e-6, table)
        attention.decode_attention(turn, k, v, tables[:1], ints[:1], q[:1], 0.1, scratch)
        current = f"{cache} cache"
        attention.prefill_attention(q, k, v, tables, ints, ints[:63], q, 0.1)
        rope.qk_norm_rope_write(qkv, head_norm, head_norm, 1e-6, table, ints, slots, k, v, q)
    hopper_attention.prefill_attention_hopper(q, k.to(half), v.to(half), tables, ints, ints[:63], q, 0.1, 1.0)
    shape = flashinfer_attention.Shape(HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, half)
    flashinfer_attention.FlashInferAttention(shape, 64, 33, 1, torch.device("cpu")).begin(tables, ints)
    x, x8, scales = torch.empty(64, 4096, dtype=half), torch.empty(64, 4096, dtype=fp8), torch.empty(32, 64).T
    current = "bf16"
    norm.rms_norm(x, weight, 1e-6, x)
    norm.add_rms_norm(x, x, weight, 1e-6, x)
    norm.add_rms_norm_rows(x, x, ints[:8], weight, 1e-6, x[:8])
    activation.silu_mul(torch.empty(64, 8192, dtype=half), x)
    rope.embed(torch.empty(1000, 4096, dtype=half), ints, x)
    current = "fp8"
    norm.add_rms_norm(x, x, weight, 1e-6, x8, scales=scales)
    activation.silu_mul(torch.empty(64, 8192, dtype=half), x8, scales=scales)
    for current in compile_products.launches():  # noqa: B007  (what is launched is printed under this name)
        pass


if __name__ == "__main__":
    main()

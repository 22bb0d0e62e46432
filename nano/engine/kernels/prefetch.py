"""The start of a dependently launched kernel: what the kernel before does not write is fetched while it still runs."""

from __future__ import annotations

import triton
import triton.language as tl
import triton.language.extra.cuda as tlx


@triton.jit
def start(PDL: tl.constexpr):
    """Waits until the kernel before has ended and its writes are seen, then lets the next one start."""
    if PDL:
        tlx.gdc_wait()
        tlx.gdc_launch_dependents()


@triton.jit
def prefetch(pointers, size):
    """Brings `size` bytes (a multiple of 16) from each pointer (16-byte aligned) into L2; SM90 and later."""
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0;",
        "=r,l,r",
        [pointers.to(tl.int64), tl.zeros_like(pointers.to(tl.int64)).to(tl.int32) + size],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )

"""The start of a dependently launched kernel: what the kernel before does not write is fetched while it still runs."""

from __future__ import annotations

import triton
import triton.language as tl
import triton.language.extra.cuda as tlx

# $2 bytes (a multiple of 16; none where <= 0) from the address $1 on into L2; SM90 and later.
PREFETCH = tl.constexpr(
    "{ .reg .pred p; setp.gt.s32 p, $2, 0; @p cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }"
)


@triton.jit
def start(PDL: tl.constexpr):
    """Waits until the kernel before has ended and its writes are seen, then lets the next one start."""
    if PDL:
        tlx.gdc_wait()
        tlx.gdc_launch_dependents()


@triton.jit
def start_early(PDL: tl.constexpr):
    """Lets the next kernel start as soon as all of this one's programs have, then waits as `start` does."""
    if PDL:
        tlx.gdc_launch_dependents()
        tlx.gdc_wait()


@triton.jit
def prefetch(pointers, size, ROWS: tl.constexpr):
    """Brings `size` bytes (a multiple of 16) from each of ROWS pointers (16-byte aligned) into L2; SM90 and later."""
    # Each thread asks for a piece of its own: of a tensor with fewer elements than threads, all would ask for the same.
    PIECES: tl.constexpr = max(tlx.num_threads() // ROWS, 1)
    piece = tl.maximum(tl.cdiv(size, PIECES * 128) * 128, 128)
    begin = tl.arange(0, PIECES) * piece
    at = pointers.to(tl.int64)[:, None] + begin[None, :]
    left = tl.zeros([ROWS, PIECES], tl.int32) + tl.minimum(size - begin, piece)[None, :]
    tl.inline_asm_elementwise(PREFETCH, "=r,l,r", [at, left], dtype=tl.int32, is_pure=False, pack=1)

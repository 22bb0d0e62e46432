"""FlashInfer's paged attention on tensor cores (arXiv 2501.01005): its compiled modules, over this engine's arrays.

Decode runs its kernel of small tiles with split KV ("fa2"), prompts and mixed steps its Hopper kernel ("fa3"). Both
are called below their Python wrappers, whose `plan` walks tensors element by element: a step has the lengths on the
host, its block tables on the device, and both are used where they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from nano.engine.kernels.launch import dependent_launch, processors

INT_BYTES = 8 << 20  # a plan: at most some 4,096 tiles of 64 heads
DECODE_TILE = 16  # rows of a decode tile: a group of at most 16 query heads
HND = 1  # [blocks, kv_heads, block_size, head_dim]
NOT_CAUSAL, CAUSAL = 0, 1
MODULES = {"decode": "fa2", "prefill": "fa3"}  # by kind of step

Int32 = npt.NDArray[np.int32]


@triton.jit(do_not_specialize=["table_stride"], do_not_specialize_on_alignment=["tables", "context_lens"])
def _pages(
    tables,  # int32 [sequences, .]
    context_lens,  # int32 [sequences]
    indptr,  # int32 [sequences + 1]
    last_page_lens,  # int32 [sequences]
    indices,  # int32 [pages of all sequences]
    table_stride,
    BLOCK_SIZE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Rows of the block tables one behind the other; a program a sequence."""
    sequence = tl.program_id(0)
    lanes = tl.arange(0, LANES)
    before = 0
    for first in range(0, sequence, LANES):
        lengths = tl.load(context_lens + first + lanes, mask=first + lanes < sequence, other=0)
        before += tl.sum(tl.cdiv(lengths, BLOCK_SIZE))
    length = tl.load(context_lens + sequence)
    pages = tl.cdiv(length, BLOCK_SIZE)
    if sequence == 0:
        tl.store(indptr, 0)
    tl.store(indptr + sequence + 1, before + pages)
    tl.store(last_page_lens + sequence, length - (tl.maximum(pages, 1) - 1) * BLOCK_SIZE)
    table = tables + tl.cast(sequence, tl.int64) * table_stride
    for first in range(0, pages, LANES):
        inside = first + lanes < pages
        tl.store(indices + before + first + lanes, tl.load(table + first + lanes, mask=inside, other=0), mask=inside)


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype  # of queries and cache


def supports(shape: Shape, cache_dtype: torch.dtype, device: torch.device) -> dict[str, str]:
    """The modules that this model can use on this device, by kind of step; none if FlashInfer has none for it."""
    if (
        device.type != "cuda"
        or shape.dtype not in (torch.bfloat16, torch.float16)
        or cache_dtype != shape.dtype
        or shape.head_dim not in (64, 128)
        or shape.heads // shape.kv_heads > DECODE_TILE
    ):
        return {}
    capability = torch.cuda.get_device_capability(device)
    if capability == (9, 0):
        return MODULES
    return {"decode": MODULES["decode"]} if capability >= (8, 0) else {}


class FlashInferAttention:
    """Plans and runs steps of at most `max_seqs` sequences of `width` blocks. `copies` plans may be on their way up.

    Everything is allocated here; the compiled modules come by `bind`. All plans are CUDA graphs' plans: kernels read
    what differs between steps of one padded size from fixed addresses, and `plan` returns the rest. The tensors that a
    module is given are the device's, so that it works on torch's current stream.
    """

    def __init__(self, shape: Shape, max_seqs: int, width: int, copies: int, device: torch.device) -> None:
        self.shape = shape
        group = shape.heads // shape.kv_heads
        tiles = max(2 * processors(device) // shape.kv_heads, -(-max_seqs * group // DECODE_TILE) + max_seqs - 1)
        partials = shape.heads * tiles * DECODE_TILE * (shape.head_dim + 1) * 4
        self._floats = torch.empty(partials + 4096, dtype=torch.uint8, device=device)
        self._ints = torch.empty(INT_BYTES, dtype=torch.uint8, device=device)
        pinned = device.type == "cuda"
        self._host_ints = [torch.empty(INT_BYTES, dtype=torch.uint8, pin_memory=pinned) for _ in range(copies)]
        self._indptr = torch.zeros(max_seqs + 1, dtype=torch.int32, device=device)
        self._last_page_lens = torch.zeros(max_seqs, dtype=torch.int32, device=device)
        self._indices = torch.zeros(max_seqs * width, dtype=torch.int32, device=device)
        self._query_starts = torch.zeros(max_seqs + 1, dtype=torch.int32)
        self._page_starts = torch.zeros(max_seqs + 1, dtype=torch.int32)
        self._lens = torch.zeros(max_seqs, dtype=torch.int32)
        self._modules: dict[str, Any] = {}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of steps that can run: "decode", "prefill" (prompts, chunks and single queries mixed)."""
        return tuple(self._modules)

    def bind(self, modules: Mapping[str, Any]) -> None:
        """The compiled modules, by kind of step."""
        self._modules = dict(modules)

    def plan(self, kind: str, tokens: int, seqs: int, cu_query: Int32, context_lens: Int32, turn: int) -> Hashable:
        """Shares a step out among the multiprocessors and enqueues the result's way up from pinned copy `turn`.

        Waits for nothing: `turn`'s plan before must have gone up. cu_query [S + 1] and context_lens [S] are the step's
        own, `tokens` and `seqs` what it is padded to. Returns what a CUDA graph of the step depends on besides its
        shape: offsets and grids, none of the lengths.
        """
        count, block_size = len(context_lens), self.shape.block_size
        queries, pages, lens = self._query_starts.numpy(), self._page_starts.numpy(), self._lens.numpy()
        queries[: count + 1] = cu_query
        queries[count + 1 : seqs + 1] = cu_query[-1]
        lens[:count] = context_lens
        lens[count:seqs] = 0
        np.cumsum((lens[:seqs] + (block_size - 1)) // block_size, out=pages[1 : seqs + 1])
        self._kind, decode = kind, kind == "decode"
        # Last: sliding window (none); for decode's module the split size (its choice), whether not to split, and SMs
        # left to others.
        end = (-1, -1, False, 0) if decode else (-1,)
        self._info = self._modules[self._kind].plan(
            self._floats, self._ints, self._host_ints[turn], self._query_starts[: seqs + 1],
            self._page_starts[: seqs + 1], self._lens[:seqs], tokens, seqs, self.shape.heads, self.shape.kv_heads,
            block_size, True, self.shape.head_dim, self.shape.head_dim, not decode, *end,
        )  # fmt: skip
        return (self._kind, *map(int, self._info))

    def begin(self, tables: torch.Tensor, context_lens: torch.Tensor) -> None:
        """Once a step, before its layers: the padded step's block tables int32 [S, W] and context_lens int32 [S]."""
        _pages[(context_lens.shape[0],)](
            tables, context_lens, self._indptr, self._last_page_lens, self._indices, tables.stride(0),
            BLOCK_SIZE=self.shape.block_size, LANES=256,
        )  # fmt: skip

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_query: torch.Tensor,
        out: torch.Tensor,
        scale: float,
    ) -> None:
        """A layer of the step planned last.

        q, out [T, H, D], out contiguous; k, v [blocks, H_kv, block_size, D], of equal strides; cu_query int32 [S + 1].
        Rows from cu_query[S] on are left as they are.
        """
        seqs = cu_query.shape[0] - 1
        if self._kind == "decode":
            # Tensors for masks, ALiBi, multi-item scoring and fp4 scales; cap of logits, scale, RoPE's two, items.
            end = (NOT_CAUSAL, HND, -1, dependent_launch(q.device), *[None] * 8, 0.0, scale, 1.0, 1.0, 0)
        else:
            # Never launched dependently: this kernel does not wait for the one before it. Tensors for multi-item
            # scoring and V's scale; cap of logits, scale, V's scale, items.
            end = (CAUSAL, HND, -1, False, *[None] * 4, 0.0, scale, 1.0, 0)
        self._modules[self._kind].paged_run(
            self._floats, self._ints, self._info, q, k, v, cu_query, self._indptr[: seqs + 1], self._indices,
            self._last_page_lens[:seqs], out, None, *end,
        )  # fmt: skip

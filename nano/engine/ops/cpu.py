"""Ops on the native CPU kernels. torch only holds the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nano._core import cpu
from nano.engine.ops import AttentionShape, Buffer, Target
from nano.engine.sampled import Logprobs, Sampled
from nano.errors import InvalidInput

if TYPE_CHECKING:
    from nano._core.sched import Batch

FP8_REFUSED = (
    "quantization_config: fp8 weights need a CUDA device of compute capability 9.0 or more; this engine runs on a CPU"
)


def address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


class CpuOps:
    def __init__(self, dtype: torch.dtype, threads: int, isa: str = "auto") -> None:
        if dtype not in (torch.float32, torch.bfloat16):
            raise InvalidInput(f"dtype: expected float32 or bfloat16, got {dtype}")
        self.dtype = dtype
        self.context = cpu.Context(threads, isa)
        self._dtype = cpu.F32 if dtype == torch.float32 else cpu.BF16
        self._kv = 0
        self._batch: Batch | None = None

    # --- memory

    def bind_pool(self, base: int) -> None:
        """The address of the KV pool."""
        self._kv = base

    def residual(self, rows: int, columns: int) -> Buffer:
        return Buffer(torch.empty(rows, columns))

    product = residual

    def operand(self, rows: int, columns: int, weight: Any = None) -> Buffer:
        return Buffer(torch.empty(rows, columns, dtype=self.dtype))

    def vector(self, size: int) -> Buffer:
        return Buffer(torch.empty(size))

    def table(self, values: torch.Tensor) -> Buffer:
        return Buffer(values.to(torch.float32).contiguous())

    def pack_linear(self, rows: int, columns: int, quantized: bool = False) -> cpu.Linear:
        _refuse_fp8(quantized)
        return cpu.Linear(self.context, rows, columns, self._dtype)

    def pack_experts(self, experts: int, hidden: int, intermediate: int, quantized: bool = False) -> _Experts:
        _refuse_fp8(quantized)
        return _Experts(cpu.Experts(self.context, experts, hidden, intermediate, self._dtype), hidden, intermediate)

    def vector_target(self, vector: Buffer) -> Target:
        return Target((vector.columns,), vector.tensor.copy_, vector.tensor)

    def linear_target(self, weight: cpu.Linear, row: int, rows: int) -> Target:
        def store(values: torch.Tensor) -> None:
            source, dtype = self._source(values)
            weight.load(row, rows, source.data_ptr(), dtype)

        return Target((rows, weight.k), store)

    def expert_target(self, weight: _Experts, expert: int, part: str) -> Target:
        def store(values: torch.Tensor) -> None:
            parts = weight.waiting.setdefault(expert, {})
            parts[part] = values
            if len(parts) == 3:  # packed together, once the last of gate, up and down has been read
                gate, dtype = self._source(parts["gate"])
                up, _ = self._source(parts["up"])
                down, _ = self._source(parts["down"])
                weight.packed.load(expert, gate.data_ptr(), up.data_ptr(), down.data_ptr(), dtype)
                del weight.waiting[expert]

        shape = (weight.intermediate, weight.hidden)
        return Target(shape[::-1] if part == "down" else shape, store)

    def linear_scales_target(self, weight: cpu.Linear, row: int, rows: int) -> Target:
        raise InvalidInput(FP8_REFUSED)

    def expert_scales_target(self, weight: _Experts, expert: int, part: str) -> Target:
        raise InvalidInput(FP8_REFUSED)

    @staticmethod
    def _source(values: torch.Tensor) -> tuple[torch.Tensor, int]:
        if values.dtype == torch.bfloat16:
            return values.contiguous(), cpu.BF16
        return values.to(torch.float32).contiguous(), cpu.F32

    # --- one step

    def begin(self, batch: Batch) -> None:
        self._batch = batch
        self._ids = address(batch.token_ids)
        self._positions = address(batch.positions)
        self._slots = address(batch.slots)
        self._cu_query = address(batch.cu_query)
        self._context_lens = address(batch.context_lens)
        self._block_tables = address(batch.block_tables)
        self._seqs = batch.num_seqs
        self._table_stride = batch.block_tables.shape[1]
        self._sample_rows = address(batch.sample_rows)

    def embed(self, weight: cpu.Linear, x: Buffer, n: int) -> None:
        weight.gather(self._ids, n, x.ptr)

    def rms_norm(self, x: Buffer, weight: Buffer, eps: float, out: Buffer, n: int) -> None:
        cpu.rms_norm(self.context, x.ptr, weight.ptr, out.ptr, n, x.columns, eps, self._dtype)

    def rms_norm_samples(self, x: Buffer, weight: Buffer, eps: float, out: Buffer, n: int) -> None:
        cpu.rms_norm(self.context, x.ptr, weight.ptr, out.ptr, n, x.columns, eps, self._dtype, self._sample_rows)

    def linear(self, weight: cpu.Linear, h: Buffer, n: int, out: Buffer) -> None:
        weight.run(h.ptr, n, h.columns, out.ptr, out.columns)

    def linear_add(self, weight: cpu.Linear, h: Buffer, n: int, x: Buffer, last: bool) -> None:
        weight.run(h.ptr, n, h.columns, x.ptr, x.columns, True)

    def norm_linear(
        self, x: Buffer, norm_weight: Buffer, eps: float, h: Buffer, weight: cpu.Linear, out: Buffer, n: int
    ) -> None:
        self.rms_norm(x, norm_weight, eps, h, n)
        self.linear(weight, h, n, out)

    def norm_gate_up(
        self,
        x: Buffer,
        norm_weight: Buffer,
        eps: float,
        h: Buffer,
        weight: cpu.Linear,
        gate_up: Buffer,
        act: Buffer,
        n: int,
    ) -> None:
        self.norm_linear(x, norm_weight, eps, h, weight, gate_up, n)
        cpu.silu_mul(self.context, gate_up.ptr, act.ptr, n, act.columns, self._dtype)

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
        layout = shape.layout
        cpu.rope_write(
            self.context, qkv.ptr, q.ptr, q_norm.ptr, k_norm.ptr, shape.eps, table.ptr, self._positions, self._slots,
            self._kv + layer * layout.layer_bytes, n, shape.heads, shape.kv_heads, shape.head_dim, layout.block_size,
            layout.block_stride, layout.kv_stride, layout.head_stride, self._dtype,
        )  # fmt: skip

    def attention(self, q: Buffer, out: Buffer, layer: int, shape: AttentionShape, n: int) -> None:
        layout = shape.layout
        cpu.attention(
            self.context, q.ptr, out.ptr, self._kv + layer * layout.layer_bytes, self._cu_query, self._context_lens,
            self._block_tables, self._seqs, self._table_stride, shape.heads, shape.kv_heads, shape.head_dim,
            layout.block_size, layout.block_stride, layout.kv_stride, layout.head_stride, shape.head_dim**-0.5,
            self._dtype,
        )  # fmt: skip

    def experts(
        self, weight: _Experts, router_logits: Buffer, h: Buffer, x: Buffer, top_k: int, normalize: bool, n: int
    ) -> None:
        ids = np.empty((n, top_k), np.int32)
        weights = np.empty((n, top_k), np.float32)
        experts = router_logits.columns
        cpu.route(self.context, router_logits.ptr, n, experts, top_k, normalize, address(ids), address(weights))
        weight.packed.run(h.ptr, n, address(ids), address(weights), top_k, x.ptr)


class _Experts:
    def __init__(self, packed: cpu.Experts, hidden: int, intermediate: int) -> None:
        self.packed = packed
        self.hidden = hidden
        self.intermediate = intermediate
        self.waiting: dict[int, dict[str, torch.Tensor]] = {}


def _refuse_fp8(quantized: bool) -> None:
    if quantized:
        raise InvalidInput(FP8_REFUSED)


def sample_rows(context: cpu.Context, logits: int, batch: Batch, vocab: int) -> Sampled:
    """Samples the batch's rows from fp32 logits [num_samples, vocab] with the batch's parameters."""
    rows = batch.num_samples
    tokens = np.empty(rows, np.int32)
    penalties = _penalties(batch)
    bias = (batch.bias_start, batch.bias_ids, batch.bias_values)
    wanted = batch.num_logprobs.copy()
    width = int(wanted.max(initial=-1))
    logprobs = None
    if width >= 0:
        ids, values = np.empty((rows, width), np.int32), np.empty((rows, width), np.float32)
        logprobs = Logprobs(wanted, np.empty(rows, np.float32), ids, values)
    cpu.sample(
        context, logits, rows, vocab, address(batch.temperature), address(batch.top_p), address(batch.top_k),
        address(batch.seeds), address(batch.sample_positions), address(tokens), address(batch.min_p),
        _addresses(penalties) if penalties else None,
        _addresses(bias) if len(bias[1]) else None,
        None if logprobs is None else (
            address(logprobs.wanted), width, address(logprobs.chosen), address(logprobs.ids), address(logprobs.values),
        ),
    )  # fmt: skip
    return Sampled(tokens, logprobs)


def _addresses(arrays: tuple[npt.NDArray[Any], ...]) -> Any:
    return tuple(map(address, arrays))


def _penalties(batch: Batch) -> tuple[npt.NDArray[Any], ...]:
    """The sampler's columns, with the tokens of the rows that have penalties; empty when none has."""
    rows = batch.penalized.tolist()
    if not rows:
        return ()
    lengths = np.zeros(batch.num_samples + 1, np.int64)
    prompt_lens = np.zeros(batch.num_samples, np.int32)
    tokens = []
    for row in rows:
        prompt, outputs = batch.history(row)
        prompt_lens[row], lengths[row + 1] = len(prompt), len(prompt) + len(outputs)
        tokens += [prompt, outputs]
    penalties = (batch.repetition_penalty, batch.presence_penalty, batch.frequency_penalty)
    return (np.cumsum(lengths), np.concatenate(tokens), prompt_lens, *penalties)

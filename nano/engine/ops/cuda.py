"""Ops on a CUDA device: Triton kernels and cuBLAS. Everything is enqueued on the current stream, at fixed addresses."""

from __future__ import annotations

import torch

from nano.engine.attention_backends import LayerCache
from nano.engine.attention_chooser import AttentionChooser
from nano.engine.kernels import activation, attention, linear, moe, norm, quantize, rope
from nano.engine.kernels.quantize import FP8, GROUP
from nano.engine.kv_scales import KVScales
from nano.engine.ops import AttentionShape, Buffer, Target
from nano.engine.ops.cuda_memory import Experts, Operand, Residual, Weight
from nano.engine.step_arrays import StepArrays
from nano.errors import InvalidInput


class CudaOps:
    def __init__(self, dtype: torch.dtype, device: torch.device, arrays: StepArrays) -> None:
        self.dtype = dtype
        self.device = device
        self.arrays = arrays
        self._rope: attention.Rope | None = None  # of a step whose attention does it itself
        self._moe: moe.MoeScratch | None = None

    # --- memory

    def bind_pool(self, pool: torch.Tensor, scales: KVScales) -> None:
        """The KV pool, [blocks, layers, 2, kv_heads, block_size, head_dim], any strides but the last.

        `scales` are of float8_e4m3fn alone.
        """
        self._caches = [
            LayerCache(pool[:, layer, 0], pool[:, layer, 1], scales.k[layer], scales.v[layer])
            for layer in range(pool.shape[1])
        ]

    def bind_attention(self, chooser: AttentionChooser) -> None:
        self.attention_chooser = chooser

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype or self.dtype, device=self.device)

    def residual(self, rows: int, columns: int) -> Residual:
        self._residual = Residual(self._empty(rows, columns))
        return self._residual

    def product(self, rows: int, columns: int) -> Buffer:
        return Buffer(self._empty(rows, columns))

    def operand(self, rows: int, columns: int, weight: Weight | None = None) -> Operand:
        fp8 = None
        if weight is not None and weight.scales is not None:
            if columns % GROUP:
                raise InvalidInput(f"fp8: expected projections whose columns {GROUP} divides, got {columns}")
            fp8 = self._empty(rows, columns, dtype=FP8), self._empty(rows * columns // GROUP, dtype=torch.float32)
        return Operand(self._empty(rows, columns), fp8)

    def vector(self, size: int) -> Buffer:
        return Buffer(self._empty(size, dtype=torch.float32))

    def table(self, values: torch.Tensor) -> Buffer:
        return Buffer(values.to(self.device, torch.float32))

    def pack_linear(self, rows: int, columns: int, quantized: bool = False) -> Weight:
        if not quantized:
            return Weight(self._empty(rows, columns))
        return Weight(self._empty(rows, columns, dtype=FP8), self._scales(rows, columns))

    def pack_experts(self, experts: int, hidden: int, intermediate: int, quantized: bool = False) -> Experts:
        dtype = FP8 if quantized else self.dtype
        gate_up = self._empty(experts, 2 * intermediate, hidden, dtype=dtype)
        down = self._empty(experts, hidden, intermediate, dtype=dtype)
        if not quantized:
            return Experts(gate_up, down)
        return Experts(
            gate_up,
            down,
            self._scales(experts, 2 * intermediate, hidden),
            self._scales(experts, hidden, intermediate),
        )

    def _scales(self, *shape: int) -> torch.Tensor:
        rows, columns = shape[-2:]
        return self._empty(*shape[:-2], -(-rows // GROUP), -(-columns // GROUP), dtype=torch.float32)

    def vector_target(self, vector: Buffer) -> Target:
        return _target(vector.tensor)

    def linear_target(self, weight: Weight, row: int, rows: int) -> Target:
        return _target(weight.values[row : row + rows])

    def linear_scales_target(self, weight: Weight, row: int, rows: int) -> Target:
        assert weight.scales is not None
        return _target(_scale_rows(weight.scales, row, rows))

    def expert_target(self, weight: Experts, expert: int, part: str) -> Target:
        if part == "down":
            return _target(weight.down[expert])
        intermediate = weight.down.shape[2]
        row = 0 if part == "gate" else intermediate
        return _target(weight.gate_up[expert, row : row + intermediate])

    def expert_scales_target(self, weight: Experts, expert: int, part: str) -> Target:
        assert weight.gate_up_scales is not None
        assert weight.down_scales is not None
        if part == "down":
            return _target(weight.down_scales[expert])
        intermediate = weight.down.shape[2]
        return _target(_scale_rows(weight.gate_up_scales[expert], 0 if part == "gate" else intermediate, intermediate))

    # --- one step

    def begin(self, seqs: int, decode: bool) -> None:
        """The step's arrays have room for `seqs` sequences; decode: each of them has one query."""
        self.attention_chooser.current.begin(seqs, decode)
        self._residual.pending = True  # unless the step begins here: then `embed` says so

    def embed(self, weight: Weight, x: Buffer, n: int) -> None:
        rope.embed(weight.values, self.arrays.token_ids[:n], x.tensor[:n])
        self._residual.pending = False

    def _norm(self, x: Buffer, weight: Buffer, eps: float, values: torch.Tensor, scales: torch.Tensor | None) -> None:
        n, stream = values.shape[0], self._residual
        if stream.pending:
            norm.add_rms_norm(x.tensor[:n], stream.delta[:n], weight.tensor, eps, values, scales=scales)
            stream.pending = False
        else:
            norm.rms_norm(x.tensor[:n], weight.tensor, eps, values, scales=scales)

    def rms_norm_samples(self, x: Buffer, weight: Buffer, eps: float, out: Buffer, n: int) -> None:
        # The last MLP's output always waits here, also when a graph has run it.
        rows = self.arrays.sample_rows[:n]
        norm.add_rms_norm_rows(x.tensor, self._residual.delta, rows, weight.tensor, eps, out.tensor[:n])

    def linear(self, weight: Weight, h: Operand, n: int, out: Buffer) -> None:
        self._product(weight, h, n, out.tensor[:n])

    def linear_add(self, weight: Weight, h: Operand, n: int, x: Buffer, last: bool) -> None:
        stream = self._residual
        if weight.scales is None and n > linear.MAX_ROWS and not last:
            # cuBLAS adds for nothing what the norm would else read and write once more.
            stream_rows = x.tensor[:n]
            torch.addmm(stream_rows, h.tensor[:n], weight.values.T, out=stream_rows)
            return
        self._product(weight, h, n, stream.delta[:n])
        stream.pending = True

    def norm_linear(
        self, x: Buffer, norm_weight: Buffer, eps: float, h: Operand, weight: Weight, out: Buffer, n: int
    ) -> None:
        if linear.takes_row(x.tensor[:n]):
            self._norm_row(x, norm_weight, eps, h.tensor[:n], weight, out.tensor[:n])
            return
        self._norm(x, norm_weight, eps, *h.written(n, weight.scales is not None))
        self._product(weight, h, n, out.tensor[:n])

    def norm_gate_up(
        self,
        x: Buffer,
        norm_weight: Buffer,
        eps: float,
        h: Operand,
        weight: Weight,
        gate_up: Buffer,
        act: Operand,
        n: int,
    ) -> None:
        if weight.scales is None and linear.fuses_silu(n, weight.values):
            self._norm(x, norm_weight, eps, h.tensor[:n], None)
            linear.linear_silu(h.tensor[:n], weight.values, act.tensor[:n])
            return
        if linear.takes_row(x.tensor[:n]):
            self._norm_row(x, norm_weight, eps, None, weight, act.tensor[:n])
            return
        self.norm_linear(x, norm_weight, eps, h, weight, gate_up, n)
        values, scales = act.written(n, act.fp8 is not None)
        activation.silu_mul(gate_up.tensor[:n], values, scales=scales)

    def _norm_row(
        self, x: Buffer, norm_weight: Buffer, eps: float, h: torch.Tensor | None, weight: Weight, out: torch.Tensor
    ) -> None:
        """Without h the weight is gate's and up's, and SiLU follows."""
        stream = self._residual
        delta = stream.delta[:1] if stream.pending else stream.nothing
        inside = linear.Norm(delta, norm_weight.tensor, eps, stream.spare, h)
        linear.linear_row(x.tensor[:1], weight.values, weight.scales, out, inside, gated=h is None)
        stream.tensor, stream.spare = stream.spare, stream.tensor
        stream.pending = False

    def _product(self, weight: Weight, h: Operand, n: int, out: torch.Tensor) -> None:
        if weight.scales is None:
            linear.linear(h.tensor[:n], weight.values, out)
        elif n <= linear.FUSED_ROWS:
            linear.linear_fp8(h.tensor[:n], None, weight.values, weight.scales, out)
        else:
            values, scales = h.quantized(n)
            linear.linear_fp8(values, scales, weight.values, weight.scales, out)

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
        if self.attention_chooser.current.turns:
            self._rope = attention.Rope(qkv.tensor[:n], q_norm.tensor, k_norm.tensor, shape.eps, table.tensor)
            return
        cache = self._caches[layer]
        rope.qk_norm_rope_write(
            qkv.tensor[:n], q_norm.tensor, k_norm.tensor, shape.eps, table.tensor, self.arrays.positions[:n],
            self.arrays.slots[:n], cache.k, cache.v, q.tensor[:n].view(n, shape.heads, shape.head_dim),
            cache.k_scale, cache.v_scale,
        )  # fmt: skip

    def attention(self, q: Buffer, out: Operand, layer: int, shape: AttentionShape, n: int) -> None:
        rows = q.tensor[:n].view(n, shape.heads, shape.head_dim)
        result = out.tensor[:n].view(n, shape.heads, shape.head_dim)
        self.attention_chooser.current.run(self._rope or rows, self._caches[layer], result, shape.head_dim**-0.5)
        self._rope = None
        values, scales = out.written(n, out.fp8 is not None)
        if scales is not None:
            quantize.quantize(out.tensor[:n], values, scales)

    def experts(
        self, weight: Experts, router_logits: Buffer, h: Operand, x: Buffer, top_k: int, normalize: bool, n: int
    ) -> None:
        if self._moe is None:
            count, hidden, intermediate = weight.down.shape
            self._moe = moe.MoeScratch(
                self.arrays.limits.tokens, top_k, count, hidden, intermediate, self.dtype, self.device
            )
            self._gates = self._empty(self.arrays.limits.tokens, top_k, dtype=torch.float32)
            self._chosen = self._empty(self.arrays.limits.tokens, top_k, dtype=torch.int32)
        logits, out, scratch = router_logits.tensor[:n], self._residual.delta[:n], self._moe
        scales = weight.gate_up_scales, weight.down_scales
        self._residual.pending = True
        if moe.takes_few(h.tensor[:n], top_k):
            moe.few_experts(h.tensor[:n], logits, top_k, normalize, weight.gate_up, weight.down, out, scratch, *scales)
            return
        gates, chosen = self._gates[:n], self._chosen[:n]
        moe.route(logits, top_k, normalize, gates, chosen)
        moe.experts(h.tensor[:n], gates, chosen, weight.gate_up, weight.down, out, scratch, *scales)


def _target(view: torch.Tensor) -> Target:
    return Target(tuple(view.shape), view.copy_, view)


def _scale_rows(scales: torch.Tensor, row: int, rows: int) -> torch.Tensor:
    if row % GROUP:
        raise InvalidInput(f"quantization_config: fp8 needs projections whose rows {GROUP} divides, got row {row}")
    return scales[row // GROUP : -(-(row + rows) // GROUP)]

"""Triton's and FlashInfer's attention in turn, and the table of who is faster that the engine chooses by.

    python bench/cuda/attention_backends.py [--write] [--cells decode,prefill,mixed] [--models 8B,0.6B,30B-A3B]

Each answer is checked against float64 on some rows, and the two against each other on all. Then up to 128 layers of one
block-major pool are timed one after another in a CUDA graph, so that calls do not find their cache in L2; FlashInfer's
plan is timed on the host (which in the engine overlaps the step before), and the kernel that gathers its pages on the
device. Ratios are Triton's time over FlashInfer's; "with plan" is for all layers of the model. `--write` puts this
card's rows into the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import report
import torch
from graph_timing import graph_us

from nano.engine.kernels.attention import DecodeScratch, decode_attention, prefill_attention
from nano.engine.kernels.attention_choice import TABLE, winner
from nano.engine.kernels.flashinfer_attention import FlashInferAttention, Shape, supports
from nano.engine.kernels.flashinfer_build import Build, require
from nano.engine.kernels.flashinfer_check import TOLERANCE, reference

BLOCK_SIZE = 64
MODELS = {
    "8B": (36, Shape(32, 8, 128, BLOCK_SIZE, torch.bfloat16)),
    "0.6B": (28, Shape(16, 8, 128, BLOCK_SIZE, torch.bfloat16)),
    "30B-A3B": (48, Shape(32, 4, 128, BLOCK_SIZE, torch.bfloat16)),
}
Lengths = tuple[list[int], list[int]]  # of each sequence: context, queries
DECODE: dict[str, Lengths] = {
    f"{seqs} x {context}": ([context] * seqs, [1] * seqs)
    for seqs, contexts in {
        1: (512, 2048, 4096, 8192, 32768), 4: (512, 2048, 8192, 32768), 16: (512, 2048, 8192), 64: (512, 2048, 8192),
        256: (512, 2048, 8192),
    }.items()
    for context in contexts
}  # fmt: skip
PREFILL: dict[str, Lengths] = {
    "1 x 512": ([512], [512]),
    "1 x 2048": ([2048], [2048]),
    "1 x 8192": ([8192], [8192]),
    "2 x 1024": ([1024] * 2, [1024] * 2),
    "8 x 256": ([256] * 8, [256] * 8),
    "16 x 1024": ([1024] * 16, [1024] * 16),
    "4 x 4096": ([4096] * 4, [4096] * 4),
    "512 at 4096": ([4096], [512]),
    "2048 at 8192": ([8192], [2048]),
    "2048 at 32768": ([32768], [2048]),
    "4 chunks of 512 at 4096": ([4096] * 4, [512] * 4),
}
MIXED: dict[str, Lengths] = {
    "2044 at 2044 + 4 at 2048": ([2044, *[2048] * 4], [2044, *[1] * 4]),
    "2032 at 4096 + 16 at 2048": ([4096, *[2048] * 16], [2032, *[1] * 16]),
    "1984 at 4096 + 64 at 2048": ([4096, *[2048] * 64], [1984, *[1] * 64]),
    "512 + 255 at 1024": ([512, *[1024] * 255], [512, *[1] * 255]),
}


class Step:
    """Sequences in shuffled blocks, on both backends."""

    def __init__(self, shape: Shape, lengths: Lengths, modules: dict[str, Any]) -> None:
        contexts, queries = lengths
        self.decode = max(queries) == 1
        self.shape, seqs, size = shape, len(contexts), shape.block_size
        counts = [-(-context // size) for context in contexts]
        layer = 4 * sum(counts) * size * shape.kv_heads * shape.head_dim
        self.layers = max(1, min(128, (512 << 20) // layer))
        self.pool = torch.empty(
            sum(counts), self.layers, 2, shape.kv_heads, size, shape.head_dim, dtype=shape.dtype, device="cuda"
        ).normal_()
        self.views = [(self.pool[:, i, 0], self.pool[:, i, 1]) for i in range(self.layers)]
        order = torch.randperm(sum(counts)).split(counts)
        tables = torch.zeros(seqs, max(counts), dtype=torch.int32)
        for row, blocks in zip(tables, order, strict=True):
            row[: len(blocks)] = blocks
        self.tables = tables.cuda()
        self.lens_host = np.array(contexts, np.int32)
        self.starts_host = np.cumsum([0, *queries], dtype=np.int32)
        self.lens, self.starts = (torch.from_numpy(x).cuda() for x in (self.lens_host, self.starts_host))
        self.q = torch.randn(sum(queries), shape.heads, shape.head_dim, dtype=shape.dtype, device="cuda")
        self.outs = {name: torch.zeros_like(self.q) for name in ("triton", "flashinfer")}
        self.scale = shape.head_dim**-0.5
        self.scratch = DecodeScratch(seqs, shape.heads, shape.head_dim, "cuda")
        self.flashinfer = FlashInferAttention(shape, seqs, max(counts), 1, torch.device("cuda", 0))
        self.flashinfer.bind(modules)

    def triton(self) -> None:
        out = self.outs["triton"]
        for k, v in self.views:
            if self.decode:
                decode_attention(self.q, k, v, self.tables, self.lens, out, self.scale, self.scratch)
            else:
                prefill_attention(self.q, k, v, self.tables, self.starts, self.lens, out, self.scale)

    def plan(self) -> None:
        tokens, seqs = len(self.q), len(self.lens_host)
        kind = "decode" if self.decode else "prefill"
        self.flashinfer.plan(kind, tokens, seqs, self.starts_host, self.lens_host, 0)

    def begin(self) -> None:
        self.flashinfer.begin(self.tables, self.lens)

    def flashinfer_layers(self) -> None:
        for k, v in self.views:
            self.flashinfer.run(self.q, k, v, self.starts, self.outs["flashinfer"], self.scale)

    def check(self) -> None:
        """The last layer's outputs: two queries against float64, and all of both against each other."""
        k, v = self.views[-1]
        ours, theirs = self.outs["triton"], self.outs["flashinfer"]
        for s in {0, len(self.lens_host) - 1}:
            context, row = int(self.lens_host[s]), int(self.starts_host[s + 1]) - 1
            blocks = self.tables[s, : -(-context // self.shape.block_size)].long()
            keys, values = (x[blocks].transpose(1, 2).flatten(0, 1)[:context] for x in (k, v))
            want = reference(self.q[row : row + 1], keys, values, self.scale)[0]
            for name, out in self.outs.items():
                error = float((out[row].double() - want).abs().max() / want.abs().max())
                assert error < TOLERANCE, f"{name}: relative error {error}"
        difference = float((ours.float() - theirs.float()).abs().max() / ours.float().abs().max())
        assert difference < TOLERANCE, f"relative difference {difference}"

    def measure(self, repeats: int) -> tuple[float, float, float]:
        """Microseconds of a layer of each, and of the plan."""
        self.plan()
        self.begin()
        self.triton()
        self.flashinfer_layers()
        self.check()
        ours = graph_us([self.triton], repeats) / self.layers
        theirs = graph_us([self.flashinfer_layers], repeats) / self.layers
        times = []
        for _ in range(2 * repeats):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            self.plan()
            times.append(time.perf_counter() - begun)
        return ours, theirs, statistics.median(times) * 1e6 + graph_us([self.begin] * 20, repeats)


def row(
    kind: str, cell: str, lengths: Lengths, layers: int, shape: Shape, modules: dict[str, Any], repeats: int
) -> dict[str, Any]:
    """A row of the table."""
    ours, theirs, plan = (round(us, 1) for us in Step(shape, lengths, modules).measure(repeats))
    contexts, queries = lengths
    return {
        "kind": kind, "heads": shape.heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim, "step": cell,
        "seqs": len(contexts), "queries": round(statistics.mean(queries), 1),
        "context": round(statistics.mean(contexts)), "triton_us": ours, "flashinfer_us": theirs, "plan_us": plan,
        "layers": layers, "winner": winner(ours, theirs, plan, layers),
    }  # fmt: skip


def printed(line: dict[str, Any]) -> list[Any]:
    ours, theirs, plan, layers = (line[key] for key in ("triton_us", "flashinfer_us", "plan_us", "layers"))
    ratio = ours * layers / (theirs * layers + plan)
    return [line["step"], ours, theirs, plan, f"{ours / theirs:.2f}", f"{ratio:.2f}", line["winner"]]


def write(card: str, rows: list[dict[str, Any]]) -> None:
    """Puts the rows in the place of those of this card that were measured before."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    keys = ("kind", "heads", "kv_heads", "head_dim", "step")
    new = {tuple(row[key] for key in keys) for row in rows}
    before = table.get(card, {}).get("rows", [])
    kept = [row for row in before if tuple(row[key] for key in keys) not in new]
    versions = {name: version(name) for name in ("torch", "triton", "flashinfer-python")}
    table[card] = {"versions": versions, "rows": kept + rows}
    cards = []
    for name, part in table.items():
        lines = ",\n   ".join(json.dumps(row) for row in part["rows"])
        cards.append(
            f'{json.dumps(name)}: {{\n  "versions": {json.dumps(part["versions"])},\n  "rows": [\n   {lines}\n  ]\n }}'
        )
    TABLE.write_text("{\n " + ",\n ".join(cards) + "\n}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cells", default="decode,prefill,mixed")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    require()
    device = torch.device("cuda", torch.cuda.current_device())
    card = torch.cuda.get_device_name(device)
    print(
        f"{card}, torch {torch.__version__}, flashinfer {version('flashinfer-python')}; blocks of {BLOCK_SIZE}, bf16; "
        f"best of {args.repeats} replays"
    )
    shape = MODELS["8B"][1]
    names = supports(shape, shape.dtype, device)
    begun = time.perf_counter()
    loaded = Build(shape.dtype, shape.head_dim, names.values(), torch.cuda.get_device_capability(device)).wait()
    modules = {kind: loaded[name] for kind, name in names.items()}
    print(f"FlashInfer's modules {', '.join(names.values())}: there after {time.perf_counter() - begun:.1f} s")

    rows: list[dict[str, Any]] = []
    failed = False
    for model in args.models.split(","):
        for kind, cells in (("decode", DECODE), ("prefill", PREFILL), ("mixed", MIXED)):
            if kind not in args.cells.split(",") or ("decode" if kind == "decode" else "prefill") not in modules:
                continue
            layers, shape = MODELS[model]
            measured = []
            for cell, lengths in cells.items():
                try:
                    measured.append(row(kind, cell, lengths, layers, shape, modules, args.repeats))
                except Exception:
                    failed = True
                    print(f"{model} {kind} {cell}: failed")
                    traceback.print_exc()
                    torch.cuda.synchronize()  # raises where the device is lost
                torch.cuda.empty_cache()
            report.table(
                f"{model} {kind}, us",
                ["step", "Triton, a layer", "FlashInfer", "its plan, a step", "kernels' ratio", "with plan", "faster"],
                [printed(line) for line in measured],
            )
            sys.stdout.flush()
            rows += measured
            if args.write and rows:
                write(card, rows)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

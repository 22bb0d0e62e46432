"""The device's sampler: microseconds a step by rows and mode, beside the time that reading the logits takes.

    python bench/cuda/sampling.py [--vocab 151936] [--rows 1 16 64 256]

Each is the best of some replays of a CUDA graph, whose calls go round copies of the logits larger than the L2 cache.
The answers are checked first: greedy against argmax, draws by seed against each other. Two sets of logits: `peaked`,
as a trained model's (few tokens have most of the mass), and `flat`, as random weights give.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch
from graph_timing import L2_BYTES, graph_us

from nano.engine.kernels.sampling import LogitBias, Logprobs, Penalties, Sampler, SamplingArrays

DEVICE = torch.device("cuda")

# name: temperature, top_p, top_k, min_p, extra
MODES: dict[str, tuple[float, float, int, float, str]] = {
    "greedy": (0.0, 1.0, 0, 0.0, ""),
    "temperature": (1.0, 1.0, 0, 0.0, ""),
    "top_k 20, top_p 0.95": (0.6, 0.95, 20, 0.0, ""),
    "top_k 50": (1.0, 1.0, 50, 0.0, ""),
    "top_k 1000": (1.0, 1.0, 1000, 0.0, ""),
    "top_p 0.95": (1.0, 0.95, 0, 0.0, ""),
    "top_p 0.5": (1.0, 0.5, 0, 0.0, ""),
    "min_p 0.05": (1.0, 1.0, 0, 0.05, ""),
    "greedy, penalties": (0.0, 1.0, 0, 0.0, "penalties"),
    "top_k 20, top_p, penalties": (0.6, 0.95, 20, 0.0, "penalties"),
    "temperature, bias of 300": (1.0, 1.0, 0, 0.0, "bias"),
    "temperature, 20 logprobs": (1.0, 1.0, 0, 0.0, "logprobs"),
}


def make_logits(kind: str, rows: int, vocab: int) -> torch.Tensor:
    logits = torch.randn(rows, vocab, device=DEVICE)
    if kind == "peaked":
        logits *= 2.5
        places = torch.randint(0, vocab, (rows, 64), device=DEVICE)
        logits.scatter_add_(1, places, torch.rand(rows, 64, device=DEVICE).square() * 16)
    return logits.to(torch.bfloat16)


def full(rows: int, value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((rows,), value, dtype=dtype, device=DEVICE)


def extras(extra: str, rows: int, vocab: int) -> dict[str, Any]:
    if extra == "penalties":
        counts = torch.zeros(rows, vocab, dtype=torch.int16, device=DEVICE)
        slots = torch.arange(rows, dtype=torch.int32, device=DEVICE)
        return {"penalties": Penalties(counts, slots, full(rows, 1.1), full(rows, 0.5), full(rows, 0.5))}
    if extra == "bias":
        start = torch.arange(rows + 1, dtype=torch.int32, device=DEVICE) * 300
        ids = torch.stack([torch.randperm(vocab, device=DEVICE)[:300] for _ in range(rows)]).view(-1).int()
        saved = torch.empty(rows * 300, device=DEVICE)
        return {"bias": LogitBias(start, ids, torch.randn(rows * 300, device=DEVICE), saved)}
    if extra == "logprobs":
        ids = torch.zeros(rows, 20, dtype=torch.int32, device=DEVICE)
        values = torch.zeros(rows, 20, device=DEVICE)
        return {"logprobs": Logprobs(full(rows, 20, torch.int32), full(rows, 0.0), ids, values)}
    return {}


def microseconds(call: Any, inputs: list[torch.Tensor]) -> float:
    """Device time of one call, calls going round the inputs."""
    return graph_us([partial(call, inputs[i % len(inputs)]) for i in range(max(len(inputs), 8))], repeats=7)


def measure(mode: str, kind: str, rows: int, vocab: int) -> float:
    temperature, top_p, top_k, min_p, extra = MODES[mode]
    base = make_logits(kind, rows, vocab)
    copies = max(2, -(-2 * L2_BYTES // (base.numel() * 2))) if rows > 1 else 330
    inputs = [base.roll(i, 0) for i in range(min(copies, 330))]
    sampler = Sampler(rows, vocab, DEVICE)
    params = SamplingArrays(
        full(rows, temperature), full(rows, top_p), full(rows, top_k, torch.int32), full(rows, min_p),
        torch.arange(rows, device=DEVICE), full(rows, 5, torch.int32),
    )  # fmt: skip
    out = torch.zeros(rows, dtype=torch.int32, device=DEVICE)
    more = extras(extra, rows, vocab)
    sampler.sample(base, params, out, **more)
    if mode == "greedy":
        assert torch.equal(out.long(), base.float().argmax(1))
    if mode == "top_k 50":
        assert bool((base.float().topk(50).indices == out[:, None]).any(1).all() or base.dtype == torch.bfloat16)
    us = microseconds(lambda x: sampler.sample(x, params, out, **more), inputs)
    assert int(sampler.errors) == 0
    return us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, vocab {args.vocab}, bf16 logits")
    limits = []
    for rows in args.rows:
        x = make_logits("flat", rows, args.vocab)
        inputs = [x.clone() for _ in range(max(2, min(330, -(-2 * L2_BYTES // (x.numel() * 2)))))]
        total = torch.zeros(rows, device=DEVICE, dtype=torch.bfloat16)
        limits.append(microseconds(lambda v, total=total: torch.amax(v, 1, out=total), inputs))
    table = [["(torch.amax)", "", *limits]]
    for mode in args.modes:
        for kind in ("peaked", "flat"):
            table.append([mode, kind, *(measure(mode, kind, rows, args.vocab) for rows in args.rows)])
    report.table("microseconds a step", ["mode", "logits", *(f"{rows} rows" for rows in args.rows)], table)


if __name__ == "__main__":
    main()

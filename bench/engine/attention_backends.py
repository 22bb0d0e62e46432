"""The engine with each attention backend: a step of one long request, of many short ones, and prompts.

    python bench/engine/attention_backends.py 30B-A3B 8B 0.6B [--backends triton,flashinfer,auto,triton] [--repeats 3]

Weights are random (`load_format="dummy"`). `auto` is measured once FlashInfer's modules are compiled, and Triton
before and after the others. Milliseconds of a decode step are the median gap between a request's tokens; prompts are
all there at once and make one token each.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
import torch
from gpu import build, drive, uniform

from nano.demo.random_checkpoint import make_config

DECODE = [(1, 8192), (1, 512), (64, 512)]  # requests, tokens of context
PROMPTS = [(16, 1024), (4, 4096)]
TOKENS = 64
BUILD_DEADLINE = 1200.0  # seconds


def measure(path: Path, backend: str, repeats: int) -> list[float]:
    """Milliseconds of each kind of decode step, then tokens a second of each set of prompts."""
    engine = build(
        path, attention_backend=backend, max_model_len=8192 + TOKENS, max_num_batched_tokens=16384, max_num_seqs=64,
        kvcache_bytes=6 << 30, prefix_caching=False,
    )  # fmt: skip
    try:
        if backend == "auto":
            engine.model.ops.attention_chooser.wait(BUILD_DEADLINE)
        found = []
        for requests, context in DECODE:
            runs = [drive(engine, uniform(i, requests, context, TOKENS)) for i in range(repeats + 1)][1:]
            found.append(report.median([1e3 * report.median(run.gaps[len(run.gaps) // 4 :]) for run in runs]))
        for requests, tokens in PROMPTS:
            runs = [drive(engine, uniform(i, requests, tokens, 1)) for i in range(repeats + 2)][2:]
            found.append(report.median([requests * tokens / run.seconds for run in runs]))
        return found
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="30B-A3B, 8B, 0.6B")
    parser.add_argument("--backends", default="triton,flashinfer,auto,triton")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, flashinfer {version('flashinfer-python')}")
    columns = [
        "attention_backend",
        *(f"{requests} x {context}, ms" for requests, context in DECODE),
        *(f"{requests} x {tokens}, tok/s" for requests, tokens in PROMPTS),
    ]
    for model in args.models:
        rows: list[list[Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            path = make_config(folder, preset=model)
            for backend in args.backends.split(","):
                rows.append([backend, *measure(path, backend, args.repeats)])
                gc.collect()
                torch.cuda.empty_cache()
        report.table(model, columns, rows)
        sys.stdout.flush()


if __name__ == "__main__":
    main()

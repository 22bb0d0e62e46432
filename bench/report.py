"""What every benchmark prints: the machine, a table with ratios, and JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": f"{model} x {len(os.sched_getaffinity(0))}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit or "?",
        "command": "python " + " ".join(sys.argv),
    }


def read_bandwidth(threads: int, mib: int = 1024, repeats: int = 30) -> float:
    """GB/s of streaming sums over a large array, `threads` at once: the limit of weight-bound decoding."""
    import torch

    torch.set_num_threads(threads)
    data = torch.ones(mib << 18, dtype=torch.float32)
    best = 0.0
    for _ in range(repeats + 1):
        started = time.perf_counter()
        data.sum()
        best = max(best, data.numel() * 4 / (time.perf_counter() - started) / 1e9)
    return best


def matmul_rate(threads: int, repeats: int = 15) -> float:
    """GFLOP/s of torch's bf16 matrix product at 1024 x 1024 x 4096: the limit of prefill."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(1024, 1024).bfloat16(), torch.randn(4096, 1024).bfloat16()
    best = 0.0
    for _ in range(repeats + 2):
        started = time.perf_counter()
        torch.mm(a, b.T)
        best = max(best, 2 * 1024 * 1024 * 4096 / (time.perf_counter() - started) / 1e9)
    return best


def rss_mb(peak: bool = False) -> float:
    """This process's resident set, now or at its peak; getrusage's peak would begin with the parent's."""
    name = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def median(values: list[float]) -> float:
    return float(np.median(values))


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(len(c), *(len(row[i]) for row in cells)) if cells else len(c) for i, c in enumerate(columns)]
    print(f"\n{title}")
    print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(columns, widths, strict=True))))
    for row in cells:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))))


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def write_json(name: str, data: dict[str, Any]) -> Path:
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"machine": machine()} | data, indent=2))
    print(f"\nwritten: {file}")
    return file

"""The engine on one GPU, beside vLLM's published figures and this machine's limits.

    python bench/engine/gpu.py 8B 8B-fp8 30B-A3B-fp8 30B-A3B 0.6B [--cells W2,ttft,W3,W1,W4,sweep,profile,start]

Weights are random (`load_format="dummy"`). W1: 256 mixed requests, U(100, 1024) tokens in and out. W2: one request,
128 in, 256 out. ttft: 128 in, idle. W3: 64 prompts of 1024, one token out. W4: 512 requests, 128 in, 512 out. profile:
where a decode step's time goes at batch 1 and 256. sweep: 256 in, 128 out, 1 to 256 requests at a time; `--plot DIR`
draws it. start: from the start of the process to the first token.
Every run checks that each request got exactly its tokens, and that graphs and eager runs give the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import load as steady
import numpy as np
import report

from nano import wire

# vLLM 0.26.0, dummy weights: (W1 tok/s, W2 tok/s, TTFT ms, W3 tok/s, W4 tok/s, start s), the better of two runs.
VLLM = {
    "H200": {
        "0.6B": (23098, 525, 12.5, 349776, 44856, 72),
        "8B": (9152, 191, 11.9, 42731, 19242, 77),
        "30B-A3B": (5800, 240, 22.1, 66827, 16793, 106),
        "8B-fp8": (11148, 235, 11.9, 67142, 24074, 40),
        "30B-A3B-fp8": (7524, 245, 19.7, 65855, 19362, 133),
    },
    "H100": {
        "0.6B": (17800, 486, 12.9, 239000, 28900, 192),
        "8B": (7600, 146, 63.0, 43600, 17900, 67),
        "30B-A3B": (2800, 200, 29.6, 60800, None, 114),
    },
}
CELLS = ("W2", "ttft", "W3", "W1", "W4", "sweep", "profile", "start")
CONCURRENCIES = (1, 4, 16, 64, 256)
ORDER = {"W1": 0, "W2": 1, "ttft": 2, "W3": 3, "W4": 4, "start": 5}


@dataclass
class Load:
    """Requests that all arrive at once: (prompt, tokens to make)."""

    requests: list[tuple[list[int], int]]
    temperature: float = 0.0


@dataclass
class Run:
    seconds: float = 0.0
    tokens: int = 0
    first: dict[int, float] = field(default_factory=dict)  # request -> seconds to its first token
    gaps: list[float] = field(default_factory=list)  # seconds between a request's tokens
    outputs: dict[int, list[int]] = field(default_factory=dict)


def drive(engine: Any, load: Load, seed: int = 0) -> Run:
    """Runs the load to its end. Raises AssertionError when a request got another number of tokens than it asked for."""
    run = Run()
    began = time.perf_counter()
    for id, (prompt, count) in enumerate(load.requests, start=1):
        sampling = wire.Sampling(max_tokens=count, seed=seed + id, temperature=load.temperature, ignore_eos=True)
        engine.add(id, np.array(prompt, np.int32), sampling)
    last: dict[int, float] = {}
    while (committed := engine.step()) is not None:
        now = time.perf_counter()
        for id, token in zip(committed.ids.tolist(), committed.tokens.tolist(), strict=True):
            run.outputs.setdefault(id, []).append(token)
            if id in last:
                run.gaps.append(now - last[id])
            else:
                run.first[id] = now - began
            last[id] = now
    run.seconds = time.perf_counter() - began
    for id, (_, count) in enumerate(load.requests, start=1):
        assert len(run.outputs[id]) == count, f"request {id}: expected {count} tokens, got {len(run.outputs[id])}"
    run.tokens = sum(map(len, run.outputs.values()))
    return run


class Row(NamedTuple):
    """What `load.drive` reads of nano.engine.client.Row."""

    key: int
    token: int
    finish: int
    failure: None = None


class InProcess:
    """An engine as its clients see it, without sockets: what `load.drive` asks, in steps of the engine."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def generate(self, key: int, tokens: list[int], sampling: Any, *_: str) -> None:
        self._engine.add(key, np.array(tokens, np.int32), sampling)

    def poll(self, timeout: float) -> list[Row]:
        committed = self._engine.step()
        if committed is None:
            return []
        columns = (committed.ids.tolist(), committed.tokens.tolist(), committed.finish.tolist())
        return [Row(*row) for row in zip(*columns, strict=True) if row[2] in (wire.UNFINISHED, wire.STOP, wire.LENGTH)]


def sweep(engine: Any, model: str, concurrencies: tuple[int, ...] = CONCURRENCIES) -> list[dict[str, Any]]:
    """A point for each concurrency, as bench/engine/plot.py draws them."""
    client, keys, points = InProcess(engine), itertools.count(1), []
    for seed, count in enumerate(concurrencies, start=200):
        load = steady.Load(
            256, 128, max(4, 2 * count), concurrency=count, vocab=min(engine.model_config.vocab_size, 10000)
        )
        points.append({"series": model} | steady.point(load, steady.drive(client, load, keys, seed=seed)))
    columns = ["256 in, 128 out", "tok/s", "TTFT p50 ms", "p99", "ITL p50 ms", "p99"]
    rows = [[point["load"], point["tok_s"], *point["ttft_ms"], *point["itl_ms"]] for point in points]
    report.table(model, columns, rows)
    return points


def ids(rng: random.Random, n: int) -> list[int]:
    return [rng.randint(0, 10000) for _ in range(n)]


def mixed(seed: int) -> Load:
    """W1: lengths are always those of seed 0, prompts those of `seed`."""
    lengths, words = random.Random(0), random.Random(seed)
    sizes = [(lengths.randint(100, 1024), lengths.randint(100, 1024)) for _ in range(256)]
    return Load([(ids(words, n), out) for n, out in sizes], temperature=0.6)


def uniform(seed: int, requests: int, inputs: int, outputs: int, temperature: float = 0.0) -> Load:
    rng = random.Random(seed)
    return Load([(ids(rng, inputs), outputs) for _ in range(requests)], temperature)


def best(work: Callable[[], object], repeats: int = 12) -> float:
    """Seconds of the fastest run on the device."""
    import torch

    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return min(times)


def copy_rate() -> float:
    """GB/s read and written."""
    import torch

    halves = torch.empty(2, 1 << 31, dtype=torch.uint8, device="cuda")
    return halves.numel() / best(lambda: halves[0].copy_(halves[1])) / 1e9


def limits() -> dict[str, float]:
    """What the device does at most: copy (read + write) GB/s, bf16 and fp8 TFLOP/s."""
    import torch

    copy = copy_rate()
    torch.cuda.empty_cache()
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(a)
    bf16 = 2 * 8192**3 / best(lambda: torch.mm(a, a, out=out)) / 1e12
    a8, one = a.to(torch.float8_e4m3fn), torch.ones((), device="cuda")
    fp8 = 2 * 8192**3 / best(lambda: torch._scaled_mm(a8, a8.t(), one, one, out_dtype=torch.bfloat16)) / 1e12
    return {"copy_GBs": copy, "bf16_TFs": bf16, "fp8_TFs": fp8}


def active_bytes(engine: Any) -> tuple[float, float]:
    """Bytes of weights that one token reads, and multiply-adds x 2 per token of a prompt (all but the head)."""
    config, model = engine.model_config, engine.model
    read = flops = 0.0
    for name, target in model.targets().items():
        view = target.view
        if name == "model.embed_tokens.weight" and not config.tied:
            continue
        share = config.experts_per_token / config.num_experts if ".experts." in name else 1.0
        read += view.numel() * view.element_size() * share
        if len(target.shape) == 2 and name.endswith(".weight") and "embed" not in name and "lm_head" not in name:
            flops += 2 * view.numel() * share
    return read, flops


def build(path: Path, **options: Any) -> Any:
    from nano.engine.config import EngineConfig
    from nano.engine.engine import Engine

    base: dict[str, Any] = {
        "max_model_len": 4096, "max_num_seqs": 512, "max_num_batched_tokens": 8192, "load_format": "dummy",
    }  # fmt: skip
    return Engine(EngineConfig(str(path), device="cuda", **(base | options)))


def check_graphs(path: Path) -> None:
    """The same greedy tokens with graphs as without."""
    load = uniform(5, 12, 60, 24)
    outputs = []
    for graphs in (True, False):
        engine = build(path, cuda_graphs=graphs, kvcache_bytes=1 << 30, max_num_batched_tokens=512, max_num_seqs=16)
        outputs.append(drive(engine, load).outputs)
        del engine
    same = sum(a == b for a, b in zip(outputs[0].values(), outputs[1].values(), strict=True))
    assert same == len(load.requests), f"graphs and eager: {same} of {len(load.requests)} requests agree"


def measure(engine: Any, cells: list[str], repeats: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for i in range(3):  # compiles, captures
        drive(engine, uniform(1 + i, 1, 128, 40))
        drive(engine, uniform(5 + i, 8, 128, 8))
    for cell in cells:
        if cell in ("W2", "ttft"):
            first = 1000 if cell == "W2" else 2000  # prompts of their own: none is in the prefix cache
            runs = [drive(engine, uniform(first + i, 1, 128, 256)) for i in range(repeats + 1)][1:]
            if cell == "W2":
                out[cell] = report.median([255 / (run.seconds - run.first[1]) for run in runs])
            else:
                out[cell] = report.median([run.first[1] * 1e3 for run in runs])
        elif cell == "W3":
            runs = [drive(engine, uniform(20 + i, 64, 1024, 1)) for i in range(repeats + 1)][1:]
            out[cell] = report.median([64 * 1024 / run.seconds for run in runs])
        elif cell == "W1":
            drive(engine, mixed(1))
            run = drive(engine, mixed(2))
            out[cell] = run.tokens / run.seconds
            out["W1_itl_ms"] = [float(np.percentile(run.gaps, p)) * 1e3 for p in (50, 99)]
        elif cell == "W4":
            run = drive(engine, uniform(40, 512, 128, 512))
            out[cell] = run.tokens / run.seconds
    return out


def profile(engine: Any, batch: int, steps: int = 20) -> dict[str, Any]:
    """Kernel times and idle share of decode steps at this batch."""
    import torch

    load = uniform(50, batch, 128, 3 * steps)
    for id, (prompt, count) in enumerate(load.requests, start=1):
        sampling = wire.Sampling(max_tokens=count, seed=id, temperature=0.0, ignore_eos=True)
        engine.add(id, np.array(prompt, np.int32), sampling)
    while engine.scheduler.stats()["waiting"]:
        engine.step()
    for _ in range(steps):
        engine.step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        for _ in range(steps):
            engine.step()
        torch.cuda.synchronize()
    while engine.step() is not None:
        pass
    kernels = [e for e in recorded.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    kernels.sort(key=lambda e: e.time_range.start)
    busy = end = 0.0
    names: dict[str, float] = {}
    for event in kernels:
        names[event.name] = names.get(event.name, 0.0) + event.time_range.elapsed_us()
        begin = max(event.time_range.start, end)
        busy += max(event.time_range.end - begin, 0.0)
        end = max(end, event.time_range.end)
    span = end - kernels[0].time_range.start
    top = sorted(names.items(), key=lambda item: -item[1])
    return {
        "batch": batch, "step_us": span / steps, "idle": 1.0 - busy / span,
        "kernels_us_a_step": {name[:70]: total / steps for name, total in top[:14]},
    }  # fmt: skip


def start(path: Path) -> list[float]:
    """Seconds from the start of a process to its first token, twice."""
    code = (
        "import sys, time; sys.path[:0] = ['bench/engine', 'bench']; import gpu; from pathlib import Path\n"
        f"engine = gpu.build(Path({str(path)!r})); gpu.drive(engine, gpu.uniform(1, 1, 128, 1)); print('first token')"
    )
    out = []
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=Path(__file__).parents[2])
        out.append(time.perf_counter() - began)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="0.6B, 8B, 30B-A3B, each also with -fp8")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", default="engine_gpu")
    parser.add_argument("--plot", type=Path, help="a directory for the sweep's PNGs; needs matplotlib")
    args = parser.parse_args()
    if args.plot:
        import plot

        plot.require_matplotlib()
    import torch

    name = torch.cuda.get_device_name()
    card = "H200" if "H200" in name else "H100"
    ceilings = limits()
    print(f"{name}, torch {torch.__version__}: " + ", ".join(f"{k} {v:,.0f}" for k, v in ceilings.items()), flush=True)
    cells = args.cells.split(",")
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "limits": ceilings}
    for model in args.models:
        preset, fp8 = model.removesuffix("-fp8"), model.endswith("-fp8")
        with tempfile.TemporaryDirectory() as folder:
            from nano.demo.random_checkpoint import make_config

            path = make_config(folder, preset=preset, fp8=fp8)
            began = time.perf_counter()
            engine = build(path)
            print(f"\n{model}: built in {time.perf_counter() - began:.1f} s, {engine.num_blocks} KV blocks", flush=True)
            read, flops = active_bytes(engine)
            got = measure(engine, [cell for cell in cells if cell in ORDER and cell != "start"], args.repeats)
            rows = []
            for cell, value in got.items():
                if cell not in ORDER:
                    continue
                peer = VLLM[card].get(model, (None,) * 6)[ORDER[cell]]
                limit: Any = "-"
                if cell == "W2":
                    limit = f"{value * read / 1e9 / ceilings['copy_GBs']:.0%}"
                elif cell == "W3":
                    limit = f"{value * flops / 1e12 / ceilings['fp8_TFs' if fp8 else 'bf16_TFs']:.0%}"
                ratio = "-" if not peer else (peer / value if cell == "ttft" else value / peer)
                rows.append([cell, float(value), peer or "-", ratio, limit])
            columns = ["cell", "nano", f"vLLM 0.26 on an {card}", "ratio", "of limit"]
            report.table(f"{model} (tok/s; ttft in ms)", columns, rows)
            if "sweep" in cells:
                got["points"] = sweep(engine, model)
            if "profile" in cells:
                for batch in (1, 256):
                    got[f"profile_{batch}"] = shown = profile(engine, batch)
                    print(f"\nbatch {batch}: step {shown['step_us']:.0f} us, idle {shown['idle']:.1%}")
                    for kernel, us in shown["kernels_us_a_step"].items():
                        print(f"  {us:9.1f} us  {kernel}")
            sys.stdout.flush()
            del engine
            torch.cuda.empty_cache()
            if "graphs" in cells:
                check_graphs(path)
                print("graphs and eager give the same tokens")
            if "start" in cells:
                got["start"] = start(path)
                print("start to first token, s: " + ", ".join(f"{s:.1f}" for s in got["start"]))
            results[model] = got
            print(json.dumps({model: {key: value for key, value in got.items() if key != "points"}}), flush=True)
    file = report.write_json(args.json, results)
    if args.plot:
        plot.draw(file, args.plot)


if __name__ == "__main__":
    main()

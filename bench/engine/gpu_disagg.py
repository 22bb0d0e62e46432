"""A prefill and a decode engine on one GPU against one engine that does both: what disaggregation costs and gives.

    python bench/engine/gpu_disagg.py 8B [--loads 128x128,1024x128] [--concurrencies 1,16,64] [--rates 4] [--plot DIR]

The pair has 0.45 of the GPU's memory each and moves KV between its processes by CUDA IPC; the hybrid engine has 0.9.
Weights are made up, alike in all of them. Every request must get its tokens; greedy tokens of some are compared. With
`--device cpu` the same runs on CPU engines, which says nothing about GPUs. JSON goes to bench/results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
from load import Load, Trace, drive, point, send

from nano.demo.random_checkpoint import PRESETS, make_checkpoint, make_config
from nano.engine.client import EngineClient
from nano.llm import _Child

ROLES = {"hybrid": ("hybrid",), "pair": ("prefill", "decode")}
SAMPLES, SAMPLE_TOKENS = 12, 32


@dataclass
class Arrangement:
    """Engines that serve together: requests go to `client`, prompts are computed at `prefill` ("": by the same)."""

    client: EngineClient
    prefill: str


@contextmanager
def arrangement(name: str, path: Path, options: dict[str, Any]) -> Iterator[Arrangement]:
    began = time.perf_counter()
    with ExitStack() as stack:
        children = [stack.enter_context(_Child(str(path), role, options)) for role in ROLES[name]]
        info = [child.info(300.0) for child in children]
        blocks = " and ".join(f"{one['num_blocks']:,}" for one in info)
        print(f"\n{name}: serves after {time.perf_counter() - began:.1f} s, {blocks} KV blocks", flush=True)
        client = stack.enter_context(EngineClient(info[-1]["address"]))
        yield Arrangement(client, info[0]["address"] if len(info) > 1 else "")


def options_of(flags: argparse.Namespace, name: str) -> dict[str, Any]:
    lengths = [sum(map(int, load.split("x"))) for load in flags.loads]
    options: dict[str, Any] = {
        "device": flags.device,
        "max_model_len": max(1024, *lengths),
        "max_num_seqs": max(64, *flags.concurrencies),
        "max_num_batched_tokens": flags.max_num_batched_tokens,
        "local_prefill_tokens": 0,  # else the decode engine computes short prompts itself
    }
    if flags.device == "cpu":
        return options | {"threads": 1, "kvcache_bytes": 256 << 20}
    share = 0.9 / len(ROLES[name])
    return options | {"load_format": "dummy", "gpu_memory_utilization": share, "transports": flags.transports}


def samples(at: Arrangement, keys: Iterator[int], vocab: int) -> list[list[int]]:
    """Greedy tokens of a few requests of different lengths, one at a time."""
    out = []
    for length in range(SAMPLES):
        rng = random.Random(length)
        trace = Trace([rng.randrange(vocab) for _ in range(1 + 67 * length)], SAMPLE_TOKENS, False)
        send(at.client, next(keys), trace, at.prefill)
        deadline = time.perf_counter() + 60.0
        while len(trace.tokens) < SAMPLE_TOKENS:
            for row in at.client.poll(1.0):
                assert row.failure is None, row.failure
                trace.tokens.append(row.token)
            assert time.perf_counter() < deadline, f"sample {length}: {len(trace.tokens)} tokens after 60 s"
        out.append(trace.tokens)
    return out


def loads(flags: argparse.Namespace, vocab: int) -> Iterator[Load]:
    for sizes in flags.loads:
        inputs, outputs = map(int, sizes.split("x"))
        for count in flags.concurrencies:
            requests = max(4, flags.waves * count)
            yield Load(inputs, outputs, requests, concurrency=count, vocab=vocab)
        for rate in flags.rates:
            yield Load(inputs, outputs, max(8, int(rate * flags.seconds)), rate=rate, vocab=vocab)


def measure(name: str, path: Path, flags: argparse.Namespace) -> tuple[list[dict[str, Any]], list[list[int]]]:
    vocab = min(PRESETS[flags.preset].vocab - 4, 10000)
    keys = itertools.count(1)
    points = []
    with arrangement(name, path, options_of(flags, name)) as at:
        tokens = samples(at, keys, vocab)
        for seed, load in enumerate(loads(flags, vocab), start=100):
            began = time.perf_counter()
            got = point(load, drive(at.client, load, keys, at.prefill, seed))
            points.append({"series": f"{name}, {load.inputs:,} in", "arrangement": name} | got)
            print(
                f"  {load.inputs:,} in, {load.name}: {got['tok_s']:,.0f} tok/s, TTFT {got['ttft_ms'][0]:.1f} / "
                f"{got['ttft_ms'][1]:.1f} ms, ITL {got['itl_ms'][0]:.2f} / {got['itl_ms'][1]:.2f} ms "
                f"({time.perf_counter() - began:.1f} s)",
                flush=True,
            )
    return points, tokens


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",") if one]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--arrangements", default="hybrid,pair", type=lambda text: text.split(","))
    parser.add_argument("--loads", default="128x128,1024x128", type=lambda text: text.split(","))
    parser.add_argument("--concurrencies", default="1,16,64", type=numbers)
    parser.add_argument("--waves", type=int, default=3, help="counted requests for each of those at a time")
    parser.add_argument("--rates", default="", type=lambda text: [float(one) for one in text.split(",") if one])
    parser.add_argument("--seconds", type=float, default=20.0, help="of a Poisson stream that are counted")
    parser.add_argument("--max_num_batched_tokens", type=int, default=2048)
    parser.add_argument("--transports", default="cuda_ipc")
    parser.add_argument("--json", default="engine_gpu_disagg")
    parser.add_argument("--plot", type=Path, help="a directory for PNGs; needs matplotlib")
    flags = parser.parse_args()
    if flags.plot:
        import plot

        plot.require_matplotlib()
    print(json.dumps(report.machine(), indent=2))
    device = "CPU"
    if flags.device != "cpu":
        import torch

        device = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        print(device)
    points: list[dict[str, Any]] = []
    tokens: dict[str, list[list[int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make = make_checkpoint if flags.device == "cpu" else make_config
        path = make(folder, preset=flags.preset, dtype="bfloat16")
        for name in flags.arrangements:
            got, tokens[name] = measure(name, Path(path or folder), flags)
            points += got
    points.sort(key=lambda p: (p["inputs"], p["rate"], p["concurrency"]))
    rows = [
        [f"{p['inputs']:,} in, {p['load']}", p["arrangement"], *p["ttft_ms"], *p["itl_ms"], p["tok_s"]] for p in points
    ]
    columns = ["load", "engines", "TTFT p50 ms", "p99", "ITL p50 ms", "p99", "out tok/s"]
    report.table(f"{flags.preset}, bf16, {device}", columns, rows)
    results: dict[str, Any] = {"device": device, "preset": flags.preset, "points": points}
    if len(tokens) > 1:
        first, *others = tokens.values()
        same = sum(all(one == other[i] for other in others) for i, one in enumerate(first))
        print(
            f"\ngreedy tokens: {same} of {len(first)} requests of {SAMPLE_TOKENS} tokens the same in all arrangements"
        )
        results["same_tokens"] = [same, len(first)]
    file = report.write_json(flags.json, results)
    if flags.plot:
        plot.draw(file, flags.plot)


if __name__ == "__main__":
    main()

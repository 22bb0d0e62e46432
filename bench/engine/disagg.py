"""Time to first token, hybrid against disaggregated, concurrency 1: what moving the KV costs.

    python bench/engine/disagg.py 0.6B [--repeats 5] [--threads 2]

Both sides run with the same number of threads an engine; with one request at a time, one of the pair's engines sleeps
while the other works. The transfer is the time from the first token (sampled by the prefill engine) until the decode
engine's own first step can run; it is read off as token 2's arrival less one decode step.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report

from nano import wire
from nano.demo.random_checkpoint import PRESETS, make_checkpoint
from nano.engine.client import EngineClient
from nano.llm import _Child


def ask(client: EngineClient, key: int, tokens: list[int], prefill: str) -> tuple[list[float], list[int]]:
    """Arrival times of 4 tokens since the request was sent, and the tokens."""
    sampling = wire.Sampling(4, seed=1, temperature=0.0, ignore_eos=True)
    began = time.perf_counter()
    client.generate(key, tokens, sampling, "prefill" if prefill else "", prefill)
    times: list[float] = []
    out: list[int] = []
    while len(out) < 4:
        for row in client.poll(0.5):
            if row.key == key:
                assert row.failure is None, row.failure
                times.append(time.perf_counter() - began)
                out.append(row.token)
    return times, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args()
    print(json.dumps(report.machine(), indent=2))
    results: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shape = PRESETS[flags.preset]
        make_checkpoint(folder, dtype="bfloat16", **asdict(shape))
        options = {
            "threads": flags.threads, "max_model_len": 2048, "kvcache_bytes": 512 << 20, "prefix_caching": "false",
            "local_prefill_tokens": 0,
        }  # fmt: skip
        children = {role: _Child(folder, role, options) for role in ("hybrid", "prefill", "decode")}
        for child in children.values():
            stack.enter_context(child)
        info = {role: child.info() for role, child in children.items()}
        clients = {role: stack.enter_context(EngineClient(info[role]["address"])) for role in ("hybrid", "decode")}
        rng = random.Random(0)
        block = 2 * shape.kv_heads * shape.head_dim * 2 * shape.layers * 64
        for length in (128, 1024):
            seen: dict[str, list[list[float]]] = {"hybrid": [], "decode": []}
            for repeat in range(flags.repeats + 1):
                prompt = [rng.randrange(min(shape.vocab, 10000)) for _ in range(length)]
                answers = []
                for role in ("hybrid", "decode"):
                    prefill = info["prefill"]["address"] if role == "decode" else ""
                    times, tokens = ask(clients[role], length * 100 + repeat, prompt, prefill)
                    answers.append(tokens)
                    if repeat:  # the first is a warm-up
                        seen[role].append(times)
                    clients["decode" if role == "hybrid" else "hybrid"].poll(0)  # keeps its lease
                assert answers[0] == answers[1], f"hybrid and disaggregated disagree: {answers}"
            ttft = {role: report.median([t[0] for t in times]) * 1e3 for role, times in seen.items()}
            second = {role: report.median([t[1] - t[0] for t in times]) * 1e3 for role, times in seen.items()}
            step = report.median([t[3] - t[2] for t in seen["decode"]]) * 1e3
            transfer = max(0.0, second["decode"] - step)
            limit = ttft["hybrid"] * 1.1 + transfer
            moved = -(-length // 64) * block / 1e6
            rows.append([length, ttft["hybrid"], ttft["decode"], transfer, moved, ttft["decode"] / limit])
            results[str(length)] = {
                "hybrid_ms": ttft["hybrid"],
                "disaggregated_ms": ttft["decode"],
                "transfer_ms": transfer,
            }
    columns = [
        "prompt",
        "hybrid TTFT ms",
        "disaggregated TTFT ms",
        "KV still moving ms",
        "KV MB",
        "of hybrid + 10 % + transfer",
    ]
    report.table(f"{flags.preset}, bf16, {flags.threads} threads an engine, medians of {flags.repeats}", columns, rows)
    report.write_json("engine_disagg", results)


if __name__ == "__main__":
    main()

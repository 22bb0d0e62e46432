"""16 streams through the whole system over HTTP: tokens a second and inter-token latency.

    python bench/engine/streams.py tiny [--streams 16] [--tokens 256] [--disaggregated]

Router, engine and this client share the machine. Greedy answers are compared with a stream run alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import report

from nano.demo.random_checkpoint import PRESETS, make_checkpoint

# llama.cpp's server on 2 vCPU of a Zen 4, 16 streams, tiny: tokens a second, ITL p50 and p99 in ms.
PUBLISHED = {"tiny": (1641, 6.5, 47)}


async def stream(port: int, prompt: list[int], tokens: int, gaps: list[float], start: asyncio.Event) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(
        {"model": "bench", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
    ).encode()
    await start.wait()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    last, count, text, data = 0.0, 0, "", b""
    while chunk := await reader.read(1 << 16):
        now = time.perf_counter()
        data += chunk
        *events, data = data.split(b"\n\n")
        for event in events:
            at = event.find(b"data: ")
            if at < 0 or event[at + 6 :].startswith(b"[DONE]"):
                continue
            message = json.loads(event[at + 6 :])
            assert "error" not in message, message
            text += message["choices"][0]["text"] if message["choices"] else ""
            count += 1
            if last:
                gaps.append(now - last)
            last = now
    writer.close()
    return count, text


async def run(port: int, prompts: list[list[int]], tokens: int) -> tuple[float, list[float], list[tuple[int, str]]]:
    gaps: list[float] = []
    start = asyncio.Event()
    tasks = [asyncio.create_task(stream(port, prompt, tokens, gaps, start)) for prompt in prompts]
    await asyncio.sleep(0.1)
    began = time.perf_counter()
    start.set()
    answers = await asyncio.gather(*tasks)
    return time.perf_counter() - began, gaps, list(answers)


def wait_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "nano.serve ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("nano.serve was not ready within 120 s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--disaggregated", action="store_true")
    flags = parser.parse_args()
    print(json.dumps(report.machine(), indent=2))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(folder, dtype="bfloat16", **asdict(PRESETS[flags.preset]))
        command = [
            sys.executable, "-m", "nano.serve", "--model", folder, "--served_model_name", "bench", "--port", str(port),
            "--max_model_len", "2048", "--kvcache_bytes", str(256 << 20), "--log_level", "warning",
            *(["--local_prefill_tokens", "0"] if flags.disaggregated else ["--hybrid", "--threads", "1"]),
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
        try:
            wait_ready(port, process)
            rng = np.random.default_rng(0)
            prompts = [rng.integers(0, 256, 64).tolist() for _ in range(flags.streams)]
            asyncio.run(run(port, prompts[:2], 32))
            rates, p50, p99 = [], [], []
            for _ in range(flags.repeats):
                seconds, gaps, answers = asyncio.run(run(port, prompts, flags.tokens))
                assert all(text for _, text in answers)
                rates.append(flags.streams * flags.tokens / seconds)
                p50.append(float(np.percentile(gaps, 50)) * 1e3)
                p99.append(float(np.percentile(gaps, 99)) * 1e3)
            _, _, alone = asyncio.run(run(port, prompts[:1], flags.tokens))
            assert alone[0][1] == answers[0][1], "a stream's text depends on its company"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)
    rows: list[list[Any]] = [["nano", report.median(rates), report.median(p50), report.median(p99)]]
    if flags.preset in PUBLISHED:
        rows.append(["llama.cpp server (Zen 4)", *PUBLISHED[flags.preset]])
    kind = "disaggregated" if flags.disaggregated else "hybrid"
    report.table(
        f"{flags.preset}, {kind}, {flags.streams} HTTP streams", ["", "tok/s", "ITL p50 ms", "ITL p99 ms"], rows
    )
    report.write_json(f"engine_http_{kind}", {"tok_s": rates, "itl_p50_ms": p50, "itl_p99_ms": p99})


if __name__ == "__main__":
    main()

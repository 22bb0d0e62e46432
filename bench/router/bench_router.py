"""What the router adds, and how much it carries, on one core: python bench/router/bench_router.py [--json FILE]

The router has one core to itself; the load generator and the engine stub share another. Every answer is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import zmq

sys.path.append(str(Path(__file__).parent))
import loadgen
from harness import make_model_dir

from nano import wire
from nano.tokenizer import Tokenizer

HERE = Path(__file__).parent
STREAM_TOKENS = 128
ANSWER_TOKENS = 16
PROMPTS = 200  # different ones
PROMPT_SIZE = 1000  # bytes
DICTIONARY = 3000  # words that prompts are made of


@contextlib.contextmanager
def process(core: int, *command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A child on one core, and the first line that it printed."""
    child = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        os.sched_setaffinity(child.pid, {core})
        assert child.stdout is not None
        yield child, child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait(10)


class Bench:
    """One stub and one router, for as long as a measurement takes."""

    def __init__(self, folder: Path, cores: tuple[int, int]) -> None:
        self._folder = folder
        self._cores = cores
        self._model = make_model_dir(folder / "model")
        tokenizer = Tokenizer.from_pretrained(self._model)
        self._tokens = tokenizer.encode("what the quick brown fox saw over there was a lazy dog, " * 20)
        self._tokenizer = tokenizer
        chance = random.Random(0)
        letters = "etaoinshrdlucmwfgypbvk"
        words = ["".join(chance.choices(letters, k=chance.randint(1, 10))) for _ in range(DICTIONARY)]
        self._prompts = [" ".join(chance.choices(words, k=PROMPT_SIZE))[:PROMPT_SIZE] for _ in range(PROMPTS)]

    @contextlib.contextmanager
    def system(self, step: int, step_ms: float = 0.0) -> Iterator[tuple[int, int, str]]:
        """The router's port, its process id, and the engine's address."""
        address = f"ipc://{self._folder}/e{time.monotonic_ns()}"
        router_core, other = self._cores
        info = wire.EngineInfo(
            role="hybrid",
            address=address,
            incarnation=1,
            models=("demo",),
            model_path=str(self._model),
            max_model_len=8192,
            vocab_size=512,
            block_size=16,
            num_blocks=1024,
            layout="00",
            max_num_seqs=4096,
        )
        tokens = ",".join(map(str, self._tokens))
        stub = (str(HERE / "burst_stub.py"), "--address", address, "--tokens", tokens)
        engine = f"e0={msgspec.json.encode(info).decode()}"
        with (
            process(other, *stub, "--step", str(step), "--step_ms", str(step_ms)),
            process(router_core, str(HERE / "static_router.py"), engine) as (child, port),
        ):
            self._wait_ready(int(port))
            yield int(port), child.pid, address

    def _wait_ready(self, port: int) -> None:
        asyncio.run(asyncio.wait_for(self._ready(port), 10))

    async def _ready(self, port: int) -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
            ready = (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
            if ready:
                return
            await asyncio.sleep(0.02)

    def expected(self, tokens: int, stream: bool) -> loadgen.Expected:
        turn = (self._tokens * (tokens // len(self._tokens) + 1))[:tokens]
        return loadgen.Expected(self._tokenizer.decode(turn), tokens, tokens if stream else 0)

    def bodies(self, tokens: int, stream: bool) -> list[dict[str, object]]:
        return [
            {
                "model": "demo",
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": tokens,
                "stream": stream,
            }
            for prompt in self._prompts
        ]

    def run(self, port: int, tokens: int, stream: bool, **load: Any) -> loadgen.Load:
        return asyncio.run(loadgen.run(port, self.bodies(tokens, stream), self.expected(tokens, stream), **load))

    def direct(self, address: str, tokens: int, requests: int) -> list[float]:
        """Seconds that the engine alone takes to answer."""
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(address)
        socket.send(wire.encode(wire.Hello(wire.VERSION, "bench", 1)))
        socket.recv()
        ids = wire.pack_ids(self._tokenizer.encode(self._prompts[0]))
        latencies = []
        for key in range(requests):
            began = time.perf_counter()
            socket.send(wire.encode(wire.Generate(key, ids, wire.Sampling(tokens, 1))))
            rows = 0
            while rows < tokens:
                message = wire.decode(socket.recv())
                assert isinstance(message, wire.Outputs)
                rows += len(message.finish)
            latencies.append(time.perf_counter() - began)
        socket.close()
        return latencies


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def measure(bench: Bench, scale: float) -> dict[str, float]:
    found: dict[str, float] = {}
    with bench.system(step=ANSWER_TOKENS) as (port, pid, address):
        bench.run(port, ANSWER_TOKENS, False, requests=300, connections=16)
        direct = bench.direct(address, ANSWER_TOKENS, int(1000 * scale))
        load = bench.run(port, ANSWER_TOKENS, False, requests=int(2000 * scale), connections=1)
        found["engine alone p50, ms"] = statistics.median(direct) * 1e3
        found["c=1 p50, ms"] = statistics.median(load.latencies) * 1e3
        found["c=1 added p50, ms"] = found["c=1 p50, ms"] - found["engine alone p50, ms"]
        found["c=1 added p99, ms"] = (quantile(load.latencies, 0.99) - quantile(direct, 0.99)) * 1e3
        found["c=1 req/s"] = load.requests / load.seconds
        for connections in (16, 256):
            before = cpu_seconds(pid)
            load = bench.run(port, ANSWER_TOKENS, False, requests=int(10000 * scale), connections=connections)
            found[f"c={connections} req/s"] = load.requests / load.seconds
            found[f"c={connections} p50, ms"] = statistics.median(load.latencies) * 1e3
            found[f"c={connections} p99, ms"] = quantile(load.latencies, 0.99) * 1e3
            found[f"c={connections} router cpu, %"] = 100 * (cpu_seconds(pid) - before) / load.seconds
    for step in (1, 16):
        with bench.system(step=step) as (port, pid, _):
            bench.run(port, STREAM_TOKENS, True, requests=100, connections=16)
            before = cpu_seconds(pid)
            load = bench.run(port, STREAM_TOKENS, True, requests=int(4000 * scale), connections=64)
            name = f"burst SSE c=64, {step} a message"
            found[f"{name}, tokens/s"] = load.events / load.seconds
            found[f"{name}, cpu s per 1 M"] = (cpu_seconds(pid) - before) / load.events * 1e6
    with bench.system(step=1, step_ms=20) as (port, _, _):
        load = bench.run(port, STREAM_TOKENS, True, requests=64, connections=64, gaps=True)
        found["64 streams at 50 tok/s, gap p50, ms"] = statistics.median(load.gaps) * 1e3
        found["64 streams at 50 tok/s, gap p99, ms"] = quantile(load.gaps, 0.99) * 1e3
    with bench.system(step=1, step_ms=20) as (_, pid, _):
        resident = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line)
        found["RSS after start, MB"] = int(resident.split()[1]) / 1024
    return found


TARGETS = {
    "c=1 added p50, ms": ("<=", 1.0),
    "c=16 req/s": (">=", 3000.0),
    "c=256 req/s": (">=", 3000.0),
    "burst SSE c=64, 1 a message, tokens/s": (">=", 250_000.0),
    "burst SSE c=64, 16 a message, tokens/s": (">=", 250_000.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="how many requests, against the usual")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("two cores are needed: one for the router, one for the rest")
    os.sched_setaffinity(0, {cores[1]})
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), (cores[0], cores[1]))
        runs = [measure(bench, arguments.scale) for _ in range(arguments.repeats)]
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} CPUs"
    print(f"{machine}; median of {arguments.repeats} (lowest to highest)\n")
    for name in runs[0]:
        values = [run[name] for run in runs]
        line = f"{name:45} {statistics.median(values):12,.2f}   ({min(values):,.2f} to {max(values):,.2f})"
        if name in TARGETS:
            sign, target = TARGETS[name]
            ratio = statistics.median(values) / target
            line += f"   target {sign} {target:,g}: ratio {ratio:.2f}"
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()

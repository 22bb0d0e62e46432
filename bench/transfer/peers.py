"""nano.transfer beside NIXL, Mooncake and DLSlime: the same blocks between two processes of this host, every byte
verified by the far side, one table with ratios.

    python bench/transfer/peers.py [--peers nixl,mooncake,dlslime] [--peer_python PATH] [--plot out.png]

PyPI: nixl, mooncake-transfer-engine-non-cuda, dlslime; --peer_python is the interpreter that has them. A peer that is
not installed, and a transport that does not work here, is left out, visibly. Blocks lie at twice their length in random
order; a figure is the median of the calls that fit a second (5 to 200; fewer where they take seconds), around the whole
call. Each process has a core of its own. The limit is the better of memcpy and non-temporal stores in one thread, in
the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from engines import ENGINES, Bytes, Offsets

sys.path.insert(0, str(Path(__file__).parents[1]))

import report

CELLS = [(1, 4096), (64, 1024), (1024, 1024), (1024, 4096), (1024, 16384), (1024, 65536), (64, 1 << 20), (1, 64 << 20)]
NBYTES = 130 << 20
CHILD_SECONDS = 300.0


def places(n: int, length: int, seed: int) -> Offsets:
    stride = 2 * length if n > 1 else 0
    return np.random.default_rng(seed).permutation(n).astype(np.int64) * stride


def checksum(data: Bytes, offsets: Offsets, length: int) -> int:
    value = 0
    for offset in offsets:
        value = zlib.crc32(data[offset : offset + length].data, value)
    return value


def take_core(index: int) -> None:
    """For this process's threads to come, too."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[index % len(cores)]})


def far(engine: str, transport: str) -> None:
    """The far process's whole life; it ends with its standard input."""
    take_core(1)
    side = ENGINES[engine][1](transport, NBYTES)
    side.data[:] = np.random.default_rng(7).integers(0, 256, NBYTES, dtype=np.uint8)
    print(json.dumps({"far": side.info()}), flush=True)
    for line in sys.stdin:
        n, length, seed = map(int, line.split())
        print(json.dumps({"crc": checksum(side.data, places(n, length, seed), length)}), flush=True)


def near(engine: str, transport: str) -> dict[str, Any]:
    """Starts the far process, checks and times every cell; seconds by "op n length"."""
    command = [sys.executable, __file__, "--child", "far", engine, transport]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    take_core(0)
    try:
        side = ENGINES[engine][2](transport, NBYTES, answer(process)["far"])
        rng = np.random.default_rng(8)
        out: dict[str, Any] = {}
        for n, length in CELLS:
            here, there = places(n, length, 1), places(n, length, 2)
            for op in ("write", "read"):
                side.data[:] = rng.integers(0, 256, NBYTES, dtype=np.uint8)
                move = side.prepare(op, here, there, length)
                move()
                process.stdin.write(f"{n} {length} 2\n")
                process.stdin.flush()
                if answer(process)["crc"] != checksum(side.data, here, length):
                    raise RuntimeError(f"{engine} {transport}: {op} of {n} x {length} moved other bytes")
                out[f"{op} {n} {length}"] = median(move)
        if engine == "nano" and transport == "shm":
            out |= limits(side.data)
        return out
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def limits(data: Bytes) -> dict[str, float]:
    """Seconds of the better of two plain copies, by "limit n length"."""
    from nano._core.transfer import copy_limit

    other = np.ones(NBYTES, np.uint8)
    out = {}
    for n, length in CELLS:
        a, b = places(n, length, 1), places(n, length, 2)
        out[f"limit {n} {length}"] = min(
            median(lambda a=a, b=b, length=length, kind=kind: copy_limit(other, data, b, a, length, kind))
            for kind in (False, True)
        )
    return out


def median(move: Any) -> float:
    times: list[float] = []
    move()
    started = time.perf_counter()
    while len(times) < 200 and time.perf_counter() - started < (10 if len(times) < 5 else 1):
        began = time.perf_counter()
        move()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of JSON; libraries log to standard output, too."""
    assert process.stdout is not None
    deadline = time.monotonic() + 60
    while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the far process ended with status {process.wait(10)}")
        if line.startswith('{"'):
            result: dict[str, Any] = json.loads(line)
            return result
    raise TimeoutError("the far process said nothing for a minute")


def measure(engine: str, transport: str, python: str) -> dict[str, float] | str:
    """The figures, or why there are none."""
    environment = os.environ | ENGINES[engine][3][transport] | {"NIXL_LOG_LEVEL": "ERROR", "UCX_LOG_LEVEL": "error"}
    command = [python, __file__, "--child", "near", engine, transport]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=CHILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done within {CHILD_SECONDS:.0f} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:100]
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    result: dict[str, float] = json.loads(lines[-1])
    return result


def rate(seconds: float, n: int, length: int) -> float:
    """GB/s; of the first cell microseconds."""
    return seconds * 1e6 if n * length <= 4096 else n * length / seconds / 1e9


def show(op: str, results: dict[str, dict[str, float]], limit: dict[str, float]) -> None:
    columns = ["engine", *(f"{n} x {size(length)}" + (" us" if n * length <= 4096 else "") for n, length in CELLS)]
    rows: list[list[Any]] = []
    if f"limit {CELLS[0][0]} {CELLS[0][1]}" in limit:
        rows.append(["limit: copy", *(rate(limit[f"limit {n} {length}"], n, length) for n, length in CELLS)])
    for name, found in results.items():
        rows.append([name, *(rate(found[f"{op} {n} {length}"], n, length) for n, length in CELLS)])
    for kind in ("shm", "cma", "tcp"):
        mine = results.get(f"nano {kind}")
        others = [found for name, found in results.items() if name.endswith(kind) and not name.startswith("nano")]
        if mine and others:
            best = [min(found[f"{op} {n} {length}"] for found in others) for n, length in CELLS]
            ratios = [
                f"{peer / mine[f'{op} {n} {length}']:.1f}x" for peer, (n, length) in zip(best, CELLS, strict=True)
            ]
            rows.append([f"nano {kind} / best peer", *ratios])
    report.table(f"{op}, GB/s", columns, rows)


def size(length: int) -> str:
    return f"{length >> 20}M" if length >= 1 << 20 else f"{length >> 10}K"


def plot(results: dict[str, dict[str, float]], out: Path) -> None:
    """Writes of many blocks and of one large one, against the block's size."""
    from nano.transfer.plot import plot as draw

    cells = [cell for cell in CELLS if cell[0] * cell[1] > 64 << 10]
    curves = {
        name: ([length for _, length in cells], [rate(found[f"write {n} {length}"], n, length) for n, length in cells])
        for name, found in results.items()
    }
    draw(curves, "scattered writes between two processes", out)
    print(f"written: {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default="nixl,mooncake,dlslime", help="comma-separated, or none")
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has them")
    parser.add_argument("--transports", default="shm,cma,tcp", help="comma-separated")
    parser.add_argument("--plot", type=Path, help="write GB/s against block size to this PNG (needs matplotlib)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        role, engine, transport = flags.child
        if role == "far":
            far(engine, transport)
        else:
            print(json.dumps(near(engine, transport)), flush=True)
            os._exit(0)  # libraries' threads would not let it end
        return
    if flags.plot:
        from nano.transfer.plot import require_matplotlib

        require_matplotlib()
    print(json.dumps(report.machine(), indent=2))
    results: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    for engine in ["nano", *[name for name in flags.peers.split(",") if name != "none"]]:
        module, _, _, transports = ENGINES[engine]
        python = sys.executable if engine == "nano" else flags.peer_python
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode != 0:
            left_out[engine] = f"not installed for {python}"
            continue
        for transport in [name for name in flags.transports.split(",") if name in transports]:
            found = measure(engine, transport, python)
            if isinstance(found, str):
                left_out[f"{engine} {transport}"] = found
            else:
                results[f"{engine} {transport}"] = found
    limit = results.get("nano shm", {})
    for op in ("write", "read"):
        show(op, results, limit)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    if flags.plot:
        plot(results, flags.plot)
    report.write_json("transfer_peers", {"seconds": results, "left_out": left_out})


if __name__ == "__main__":
    main()

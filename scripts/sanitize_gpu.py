"""The GPU kernels under compute-sanitizer: memcheck finds accesses out of bounds, racecheck races in shared memory.

    python scripts/sanitize_gpu.py [--tool racecheck] [--jobs 6] [--seconds 120] [NAME ...]

Runs tests/kernels/sanitized.py, one process a kernel and tool. Prints a table; exits with 1 when something was found,
did not end in time or failed. Only nano's kernels are looked at, not those of torch and cuBLAS that the checks use.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, str(ROOT / "tests/kernels/sanitized.py")]
TOOLS = {"memcheck": [], "racecheck": ["--racecheck-report", "all"]}
OTHERS = "kns=_ZN2at,kns=cublas,kns=cutlass,kns=gemm"  # parts of the names of kernels that are not nano's
KEPT_LINES = 12
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?)")


def names() -> list[str]:
    source = (ROOT / "tests/kernels/sanitized.py").read_text()
    return re.findall(r"^def (\w+)\(\) -> None:", source, re.MULTILINE)


def run(command: list[str], seconds: float) -> tuple[int | None, str]:
    """The exit status, None when time ran out, and what was printed."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, output


def check(sanitizer: str, tool: str, name: str, seconds: float) -> tuple[str, list[str]]:
    """What the tool says of a kernel, in a few words, and the lines that say it."""
    command = [sanitizer, "--tool", tool, *TOOLS[tool], "--kernel-name-exclude", OTHERS, "--print-limit", "1000"]
    started = time.monotonic()
    status, output = run([*command, *PROGRAM, name], seconds)
    took = f"{time.monotonic() - started:.0f} s"
    lines = [line.removeprefix("=========").strip() for line in output.splitlines() if line.startswith("=========")]
    counts = [int(found[1]) for line in lines if (found := SUMMARY.search(line))]
    if status is None:
        return f"not ended after {took}", lines
    if not counts:
        return f"no summary, exit status {status}, {took}", output.splitlines()[-KEPT_LINES:]
    if counts[-1]:
        return f"{counts[-1]} found, {took}", lines
    return (
        (f"clean, {took}", []) if status == 0 else (f"exit status {status}, {took}", output.splitlines()[-KEPT_LINES:])
    )


def brief(lines: list[str]) -> list[str]:
    """Each kind of line once with how often it came: addresses, threads and blocks left out."""
    kinds = Counter(re.sub(r"0x[0-9a-f]{5,}|\(\d+,\d+,\d+\)|(?<=: )\d+", "…", line) for line in lines if line)
    return [f"{count:6}  {line}" for line, count in kinds.most_common(KEPT_LINES)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", choices=TOOLS, action="append", help="both, unless given")
    parser.add_argument("--jobs", type=int, default=6, help="processes at a time on the one GPU")
    parser.add_argument("--seconds", type=float, default=120.0, help="for each")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    args = parser.parse_args()
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        parser.error("no compute-sanitizer: it comes with the CUDA toolkit")
    wanted = args.names or names()
    with ThreadPoolExecutor(args.jobs) as pool:
        # Undisturbed first: that compiles them and shows that they are right.
        alone = dict(zip(wanted, pool.map(lambda name: run([*PROGRAM, name], args.seconds), wanted), strict=True))
        wrong = {name: output for name, (status, output) in alone.items() if status != 0}
        tasks = [(tool, name) for tool in args.tool or TOOLS for name in wanted if name not in wrong]
        results = list(pool.map(lambda task: check(sanitizer, *task, args.seconds), tasks))
    for name, output in wrong.items():
        print(f"{name} fails by itself:\n{output}")
    for (tool, name), (words, lines) in zip(tasks, results, strict=True):
        print(f"{tool:10} {name:20} {words}")
        for line in brief(lines):
            print(f"    {line}")
    return int(bool(wrong) or any(not words.startswith("clean") for words, _ in results))


if __name__ == "__main__":
    sys.exit(main())

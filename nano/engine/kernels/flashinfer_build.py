"""FlashInfer's modules, compiled by its own build in a process of its own: the serving process imports none of it.

`python -m nano.engine.kernels.flashinfer_build bfloat16 128 fa2 fa3` compiles what is not in FlashInfer's cache (or in
the package flashinfer-jit-cache) and prints the libraries' paths as JSON. Compiling takes minutes of several cores.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import torch

from nano.errors import MissingExtra, SystemFault

DEADLINE = 1200.0  # seconds
VERSIONS = (0, 6, 14), (0, 7)  # of FlashInfer, the last excluded: its modules' functions have these arguments


def require() -> None:
    """Raises MissingExtra unless FlashInfer is installed, in a version whose modules' functions are known."""
    try:
        found = version("flashinfer-python")
        version("apache-tvm-ffi")
    except PackageNotFoundError as error:
        raise MissingExtra(
            f"attention_backend: flashinfer needs {error.name}: pip install 'nano-serve[flashinfer]'"
        ) from None
    first, end = VERSIONS
    if not first <= tuple(int(part) for part in re.findall(r"\d+", found)[:3]) < end:
        wanted = f"at least {'.'.join(map(str, first))} and less than {'.'.join(map(str, end))}"
        raise MissingExtra(f"attention_backend: flashinfer: expected version {wanted}, got {found}")


class Build:
    """Compilation under way."""

    def __init__(self, dtype: torch.dtype, head_dim: int, modules: Iterable[str], capability: tuple[int, int]) -> None:
        name = str(dtype).removeprefix("torch.")
        major, minor = capability
        environment = dict(os.environ)
        environment.setdefault("FLASHINFER_CUDA_ARCH_LIST", f"{major}.{minor}{'a' if major >= 9 else ''}")
        modules = list(modules)
        # Half of the CPUs in all: serving goes on meanwhile.
        jobs = len(os.sched_getaffinity(0)) // (2 * max(1, len(modules)))
        environment.setdefault("MAX_JOBS", str(max(1, jobs)))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__, name, str(head_dim), *modules],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,  # so that its compilers end with it
        )  # fmt: skip

    def wait(self, deadline: float = DEADLINE) -> dict[str, Any]:
        """The loaded modules, by name, when they are compiled. Raises SystemFault with the compiler's last lines."""
        with self._process:  # its pipes are closed at the end
            try:
                out, error = self._process.communicate(timeout=deadline)
            except subprocess.TimeoutExpired:
                raise SystemFault(f"flashinfer: expected its build to end within {deadline:.0f} s") from None
            finally:
                self.cancel()
        if self._process.returncode:
            raise SystemFault(f"flashinfer: its build ended with {self._process.returncode}: {error.strip()[-2000:]}")
        import tvm_ffi

        paths = json.loads(out.splitlines()[-1])
        return {name: tvm_ffi.load_module(path) for name, path in paths.items()}

    def cancel(self) -> None:
        """Ends the build, if it is still under way, with the compilers that it started."""
        for signal in (SIGTERM, SIGKILL):
            if self._process.poll() is not None:
                return
            os.killpg(self._process.pid, signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)


def build(dtype: torch.dtype, head_dim: int, modules: Iterable[str]) -> dict[str, Path]:
    """Compiles and returns each module's library."""
    from flashinfer.jit import gen_batch_prefill_module

    kinds = (dtype, dtype, dtype, torch.int32, head_dim, head_dim)
    # No positional encoding, sliding window, cap of logits or fp16 reduction.
    specs = {name: gen_batch_prefill_module(name, *kinds, 0, False, False, False) for name in modules}
    # A build for each, as FlashInfer itself does it: each finds in the cache what either compiled.
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda spec: spec.is_aot or spec.build(verbose=False), specs.values()))
    return {name: spec.get_library_path() for name, spec in specs.items()}


def main(arguments: list[str]) -> None:
    dtype, head_dim, *modules = arguments
    os.nice(10)
    paths = build(getattr(torch, dtype), int(head_dim), modules)
    print(json.dumps({name: str(path) for name, path in paths.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper_and_hardly_spills(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    names = {kernel["name"].split(":")[0] for kernel in kernels}
    assert {
        "_decode",
        "_pages",
        "_prefill",
        "_prefill_hopper",
        "_rms_norm",
        "rows_kernel",
        "row_kernel",
        "_down_kernel",
        "_grouped_kernel",
        "_route_kernel",
    } <= names
    spilling = [kernel for kernel in kernels if kernel["stack"] > 64]
    assert not spilling, spilling

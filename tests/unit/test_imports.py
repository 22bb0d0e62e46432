"""What an import, or a use, of one part must not bring in. Each in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "zmq", "redis", "granian", "msgspec", "tokenizers", "numpy")


def modules_after(code: str, *arguments: str) -> set[str]:
    """Top-level names of what is loaded once `code` has run."""
    tail = "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("part", ["nano.transfer", "nano.ctrl", "nano.router", "nano.router.server"])
def test_a_part_imports_neither_torch_nor_transformers(part: str) -> None:
    assert not modules_after(f"import {part}") & {"torch", "transformers"}


def test_transfer_needs_numpy_alone() -> None:
    assert not modules_after("import nano.transfer") & set(HEAVY) - {"numpy"}


def test_nano_by_itself_imports_nothing_heavy() -> None:
    assert not modules_after("import nano; nano.__version__") & set(HEAVY)


def test_a_single_process_llm_imports_neither_zmq_nor_redis_nor_transformers(tiny: Path) -> None:
    code = (
        "import sys\n"
        "from nano import LLM, SamplingParams\n"
        "with LLM(sys.argv[1], threads=1) as llm:\n"
        "    [out] = llm.generate('hello', SamplingParams(max_tokens=4, ignore_eos=True))\n"
        "assert len(out.token_ids) == 4"
    )
    loaded = modules_after(code, str(tiny))
    assert "torch" in loaded
    assert not loaded & {"zmq", "redis", "transformers", "granian"}

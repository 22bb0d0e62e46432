"""The offline examples as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nano.demo

EXAMPLES = Path(__file__).parents[2] / "examples"
# The nano that is tested, wherever it is: a script's own folder stands first on its path, not the current one.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(nano.demo.path().parents[1])}


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("non_disagg.py", ("--attention_dp=1", "--ffn_ep=1", "--kvcache_block_size=64", "--master_address=h:1")),
        ("disagg.py", ("--prefill.master_address=127.0.0.1:6006", "--decode.master_address=127.0.0.1:6007")),
    ],
)
def test_an_example_answers_2_and_says_its_rate(name: str, flags: tuple[str, ...]) -> None:
    done = run(name, "--model", nano.demo.path(), "--prompt", "1+1=?", "--max_tokens", 128, *flags)
    assert done.returncode == 0, done.stderr
    answer, rate = done.stdout.splitlines()
    assert answer == "'1+1=?' -> '2' (stop)"
    assert re.fullmatch(r"2 tokens in [\d.]+ s: [\d,]+ tokens/s", rate)
    assert "generating" in done.stderr  # the progress bar
    assert "Traceback" not in done.stderr


def test_prompts_are_answered_in_their_order() -> None:
    done = run("non_disagg.py", "--model", nano.demo.path(), "--prompt", "3+4=?", "--prompt", "20+22=?")
    assert done.stdout.splitlines()[:2] == ["'3+4=?' -> '7' (stop)", "'20+22=?' -> '42' (stop)"]


@pytest.mark.parametrize("name", ["non_disagg.py", "disagg.py"])
def test_a_model_that_is_not_there_is_one_line_and_2(name: str, tmp_path: Path) -> None:
    done = run(name, "--model", tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "nowhere" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_more_than_one_rank_is_refused_by_name() -> None:
    done = run("non_disagg.py", "--model", nano.demo.path(), "--ffn_ep", 2)
    assert done.returncode == 2
    assert done.stderr.startswith("--ffn_ep")

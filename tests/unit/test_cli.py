"""Flags follow the config, in both spellings."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from nano.cli import add_fields, from_flags
from nano.engine.__main__ import parse
from nano.engine.config import EngineConfig


def test_every_field_has_a_flag_in_both_spellings() -> None:
    parser = argparse.ArgumentParser()
    add_fields(parser, EngineConfig)
    flags = parser.parse_args(
        ["--model=m", "--kvcache-block-size=16", "--max_num_seqs=8", "--prefix-caching=false", "--transports=tcp"]
    )
    config = from_flags(EngineConfig, flags)
    assert config == EngineConfig("m", kvcache_block_size=16, max_num_seqs=8, prefix_caching=False, transports=("tcp",))


@pytest.mark.parametrize("name", ["attention_dp", "ffn_ep"])
def test_parallelism_above_one_is_refused_by_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--model=m", f"--{name}=2"])
    assert f"--{name}" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["ctrl", "router", "engine", "serve"])
def test_an_address_beyond_loopback_is_refused_with_the_flag_that_allows_it(module: str, tiny: Path) -> None:
    command = [sys.executable, "-m", f"nano.{module}", "--host", "0.0.0.0", "--port", "0"]
    if module == "engine":
        command += ["--model", str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--allow_remote" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_seeds_deployment_line_is_understood() -> None:
    line = (
        "--model m --mode decode --nanoctrl_address 127.0.0.1:3000 --nanoctrl_scope nanoctrl-0 "
        "--master_address 127.0.0.1:6000 --host 127.0.0.1 --port 7000 --attention_dp 1 --ffn_ep 1 "
        "--kvcache_block_size 64 --max_num_batched_tokens 16384 --max_model_len 16384 --ray_address auto"
    )
    flags = parse(line.split())
    assert (flags.mode, flags.port, flags.max_num_batched_tokens) == ("decode", 7000, 16384)

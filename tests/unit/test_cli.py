"""Flags follow the config, in both spellings."""

from __future__ import annotations

import argparse

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


def test_the_seeds_deployment_line_is_understood() -> None:
    line = (
        "--model m --mode decode --nanoctrl_address 127.0.0.1:3000 --nanoctrl_scope nanoctrl-0 "
        "--master_address 127.0.0.1:6000 --host 127.0.0.1 --port 7000 --attention_dp 1 --ffn_ep 1 "
        "--kvcache_block_size 64 --max_num_batched_tokens 16384 --max_model_len 16384 --ray_address auto"
    )
    flags = parse(line.split())
    assert (flags.mode, flags.port, flags.max_num_batched_tokens) == ("decode", 7000, 16384)

"""The KV pool of an engine on a GPU: how many blocks there are, and what is said where there are too few."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano.demo.random_checkpoint import PRESETS, config, make_config, tensors, write_json
from nano.engine.backend import Plan
from nano.engine.config import EngineConfig
from nano.engine.gpu_memory import CUDA_BYTES, LATER_BYTES, Usage, refuse_weights, weight_bytes, workspace_failed
from nano.engine.model_config import load_model_config
from nano.errors import InvalidInput, OutOfMemory

GIB = 1 << 30
BLOCK = 9 << 20  # of 8B: 36 layers, 2, 8 heads, 64 tokens, 128, bf16


def plan(**options: Any) -> Plan:
    known = EngineConfig("some", **options)
    given = {
        "config": known,
        "max_model_len": known.max_model_len or 40960,
        "layout": SimpleNamespace(block_bytes=BLOCK),
    }
    return Plan(**{field.name: given.get(field.name) for field in fields(Plan)})  # type: ignore[arg-type]


def usage(total: int = 80, free: float = 60, weights: float = 16, workspace: float = 2) -> Usage:
    return Usage("cuda:0", total * GIB, int(free * GIB), int(weights * GIB), int(workspace * GIB))


def test_the_pool_is_the_share_less_weights_and_workspace() -> None:
    assert usage().blocks(plan()) == (72 * GIB - 18 * GIB - CUDA_BYTES) // BLOCK


def test_two_engines_of_45_percent_fit_whatever_the_other_has_taken() -> None:
    alone = usage(free=60).blocks(plan(gpu_memory_utilization=0.45))
    second = usage(free=26).blocks(plan(gpu_memory_utilization=0.45))
    assert alone == second == (36 * GIB - 18 * GIB - CUDA_BYTES) // BLOCK


def test_what_is_not_free_is_not_taken() -> None:
    assert usage(free=10).blocks(plan()) == (10 * GIB - LATER_BYTES) // BLOCK


def test_no_more_blocks_than_requests_can_use() -> None:
    assert usage().blocks(plan(max_model_len=128, max_num_seqs=4)) == 8


def test_named_bytes_are_taken_whatever_the_share() -> None:
    assert usage().blocks(plan(kvcache_bytes=GIB, gpu_memory_utilization=0.05)) == GIB // BLOCK
    with pytest.raises(InvalidInput, match="one block is 9437184 bytes, got 9437184"):
        usage().blocks(plan(kvcache_bytes=BLOCK))


def test_a_share_too_small_is_refused_with_the_sum_and_the_share_that_would_do() -> None:
    asked = plan(gpu_memory_utilization=0.2, max_model_len=4096)
    with pytest.raises(OutOfMemory) as raised:
        usage().blocks(asked)
    text = str(raised.value)
    need = 16 + 2 + 1 + 65 * BLOCK / GIB  # 64 blocks and a watermark's
    assert text == (
        f"cuda:0: needs {need:.2f} GiB: weights 16.00 GiB, activations and scratch 2.00 GiB, CUDA 1.00 GiB, KV pool "
        "at least 0.57 GiB; --gpu_memory_utilization 0.2 of 80.00 GiB is 16.00 GiB: raise it to 0.25, or lower "
        "--max_model_len (KV) or --max_num_batched_tokens or --max_num_seqs (activations)"
    )
    enough = replace(asked, config=replace(asked.config, gpu_memory_utilization=math.ceil(need / 80 * 100) / 100))
    assert usage().blocks(enough) >= 65


def test_a_gpu_too_small_for_the_length_is_told_only_what_to_lower() -> None:
    with pytest.raises(OutOfMemory, match=r"is 21\.60 GiB: lower --max_model_len \(KV\)"):
        usage(total=24, free=20, weights=16, workspace=2).blocks(plan(max_model_len=40960))


@pytest.mark.parametrize(
    ("options", "pool", "what"),
    [
        ({"kvcache_bytes": 10 * GIB}, r"9\.99", "or lower --kvcache_bytes"),
        ({"max_model_len": 40960}, r"5\.69", r"or lower --max_model_len \(KV\) or --max_num_batched_tokens"),
    ],
)
def test_a_gpu_that_others_fill_is_said_to_be(options: dict[str, Any], pool: str, what: str) -> None:
    match = rf"cuda:0: KV pool: needs {pool} GiB.* of 80\.00 GiB 4\.00 GiB are free .*end other processes.*, {what}"
    with pytest.raises(OutOfMemory, match=match):
        usage(free=4).blocks(plan(**options))


def test_weights_that_do_not_fit_are_refused_before_anything_is_made() -> None:
    refuse_weights("cuda:0", 16 * GIB, 16 * GIB, 80 * GIB)
    with pytest.raises(OutOfMemory, match=r"cuda:0: weights need 57\.00 GiB, of 80\.00 GiB 50\.00 GiB are free"):
        refuse_weights("cuda:0", 57 * GIB, 50 * GIB, 80 * GIB)


def test_activations_that_do_not_fit_name_their_options() -> None:
    error = workspace_failed(
        "cuda:0", plan(max_num_batched_tokens=1 << 20), 16 * GIB, 20 * GIB, RuntimeError("CUDA out of memory. Tried")
    )
    assert str(error) == (
        "cuda:0: activations of 1048576 tokens and 256 requests: 20.00 GiB were free, of which the weights take 16.00 "
        "GiB: CUDA out of memory; lower --max_num_batched_tokens or --max_num_seqs"
    )


@given(
    free=st.floats(0, 80),
    weights=st.floats(0, 60),
    workspace=st.floats(0, 20),
    utilization=st.integers(5, 99),
    length=st.sampled_from([0, 64, 4096, 40960]),
    seqs=st.integers(1, 512),
)
def test_the_pool_always_fits_both_the_share_and_the_device(
    free: float, weights: float, workspace: float, utilization: int, length: int, seqs: int
) -> None:
    asked = plan(gpu_memory_utilization=utilization / 100, max_model_len=length, max_num_seqs=seqs)
    state = usage(free=free, weights=weights, workspace=workspace)
    try:
        blocks = state.blocks(asked)
    except OutOfMemory as error:
        assert "lower --max" in str(error)  # noqa: PT017
        return
    assert blocks >= (asked.longest if length else 2)
    assert blocks * BLOCK <= state.free - LATER_BYTES
    assert state.weights + state.workspace + CUDA_BYTES + blocks * BLOCK <= utilization * 0.8 * GIB + 1


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_weights_are_counted_as_the_checkpoint_holds_them(preset: str, tmp_path: Path) -> None:
    model = load_model_config(make_config(tmp_path, preset=preset))
    held = sum(2 * math.prod(shape) for _, shape in tensors(PRESETS[preset]) if len(shape) == 2)
    assert weight_bytes(model, 2) == held


def test_fp8_projections_are_a_byte_and_their_scales(tmp_path: Path) -> None:
    model = load_model_config(make_config(tmp_path, preset="30B-A3B", fp8=True))
    held = 0.0
    for name, shape in tensors(PRESETS["30B-A3B"]):
        if len(shape) == 2:
            held += math.prod(shape) * (1 + 4 / 128**2 if name.endswith("_proj.weight") else 2)
    assert weight_bytes(model, 2) == pytest.approx(held, rel=1e-9)


def test_layers_without_experts_are_counted_dense(tmp_path: Path) -> None:
    values = config(PRESETS["30B-A3B"], "bfloat16", {"<|endoftext|>": 1, "<|im_end|>": 2}, None)
    write_json(tmp_path / "config.json", values)
    every = weight_bytes(load_model_config(tmp_path), 2)
    write_json(tmp_path / "config.json", values | {"mlp_only_layers": [0]})
    one = 2 * 2048 * (3 * 768 * 128 + 128 - 3 * 6144)
    assert weight_bytes(load_model_config(tmp_path), 2) == every - one

"""The engine's traps, one test each: every one gives the reference's tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference import judge

from nano.engine.config import EngineConfig
from nano.engine.engine import Engine
from nano.errors import InvalidInput
from nano.wire import Sampling

GREEDY = Sampling(max_tokens=16, seed=1, temperature=0.0, ignore_eos=True)
BLOCK_BYTES_A_TOKEN = 4 * 2 * 4 * 2 * 16  # fp32, K and V, 4 layers, 2 heads of 16


def make(path: Path, blocks: int = 64, block_size: int = 16, **options: object) -> Engine:
    config = EngineConfig(
        str(path), dtype="float32", device="cpu", kvcache_block_size=block_size, threads=1, max_num_seqs=8,
        kvcache_bytes=blocks * block_size * BLOCK_BYTES_A_TOKEN, max_num_batched_tokens=64,
    )  # fmt: skip
    return Engine(replace(config, **options))  # type: ignore[arg-type]


def tokens(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 256, n).tolist()


def add(engine: Engine, id: int, prompt: list[int], sampling: Sampling = GREEDY) -> None:
    engine.add(id, np.array(prompt, np.int32), sampling)


def drain(engine: Engine, outputs: dict[int, list[int]] | None = None, steps: int = 10_000) -> dict[int, list[int]]:
    """Steps until nothing is left to do (or `steps` have run); tokens by request."""
    outputs = {} if outputs is None else outputs
    while engine.scheduler.has_work() and steps > 0:
        committed = engine.step()
        assert committed is not None
        for id, token in zip(committed.ids.tolist(), committed.tokens.tolist(), strict=True):
            outputs.setdefault(id, []).append(token)
        steps -= 1
    engine.scheduler.check()
    return outputs


def test_a_prompt_wholly_in_the_prefix_cache(tiny: Path) -> None:
    engine, prompt = make(tiny), tokens(64)
    first = (add(engine, 1, prompt), drain(engine))[1][1]
    again = (add(engine, 2, prompt), drain(engine))[1][2]
    assert engine.scheduler.stats()["prefix_hit_tokens"] == 48  # the last block is computed again
    assert again == first
    judge(tiny, prompt, again)


def test_preemption_and_then_a_prefix_hit(tiny: Path) -> None:
    engine = make(tiny, blocks=9)
    prompts = {1: tokens(60, 1), 2: tokens(60, 2)}
    for id, prompt in prompts.items():
        add(engine, id, prompt, replace_tokens(GREEDY, 40))
    outputs = drain(engine)
    assert engine.scheduler.stats()["preemptions"] > 0
    assert engine.scheduler.stats()["prefix_hit_tokens"] > 0
    for id, prompt in prompts.items():
        assert len(outputs[id]) == 40
        judge(tiny, prompt, outputs[id])


def replace_tokens(sampling: Sampling, max_tokens: int) -> Sampling:
    return Sampling(max_tokens, sampling.seed, temperature=sampling.temperature, ignore_eos=sampling.ignore_eos)


def test_two_equal_prompts_in_one_batch(tiny: Path) -> None:
    engine, prompt = make(tiny), tokens(30)
    add(engine, 1, prompt)
    add(engine, 2, prompt)
    outputs = drain(engine)
    assert outputs[1] == outputs[2]
    judge(tiny, prompt, outputs[1])


def test_too_long_for_the_model_or_the_pool_is_refused_and_disturbs_nobody(tiny: Path) -> None:
    engine, prompt = make(tiny, blocks=8), tokens(30)
    add(engine, 1, prompt)
    outputs = drain(engine, steps=3)
    with pytest.raises(InvalidInput, match=r"128"):
        add(engine, 2, tokens(128))
    with pytest.raises(InvalidInput, match=r"\[0, 512\), got 512"):
        add(engine, 3, [1, 512, 2])
    outputs = drain(engine, outputs)
    assert list(outputs) == [1]
    judge(tiny, prompt, outputs[1])


@pytest.mark.parametrize(("blocks", "length"), [(0, 2048), (128, 127 * 16), (64, 64 * 16)])
def test_the_longest_prompt_that_is_announced_can_run(tiny: Path, blocks: int, length: int) -> None:
    """Although a hundredth of the pool is kept free."""
    engine = make(tiny, blocks=blocks, max_num_seqs=1, max_num_batched_tokens=2048)
    assert engine.max_model_len == length
    add(engine, 1, tokens(length - 1), Sampling(max_tokens=1, seed=1))
    assert len(drain(engine)[1]) == 1


def test_abort_while_queued_prefilling_and_decoding(tiny: Path) -> None:
    engine = make(tiny)
    prompts = {id: tokens(100, id) for id in range(1, 5)}
    for id, prompt in prompts.items():
        add(engine, id, prompt)
    engine.step()  # 1 is half prefilled, the rest are queued
    assert engine.scheduler.abort(1)  # prefilling
    assert engine.scheduler.abort(4)  # queued
    outputs = drain(engine, steps=6)
    assert 2 in outputs
    assert engine.scheduler.abort(2)  # decoding
    outputs = drain(engine, outputs)
    assert not engine.scheduler.abort(2)
    assert len(outputs[3]) == 16
    judge(tiny, prompts[3], outputs[3])
    assert engine.pool.num_free == engine.num_blocks


@pytest.mark.parametrize("block_size", [16, 64, 256])
def test_block_sizes(tiny: Path, block_size: int) -> None:
    engine = make(tiny, blocks=12, block_size=block_size)
    prompts = {id: tokens(90 + 37 * id, id) for id in range(3)}
    for id, prompt in prompts.items():
        add(engine, id, prompt)
    for id, output in drain(engine).items():
        judge(tiny, prompts[id], output)


@pytest.mark.parametrize("isa", ["auto", "scalar"])
def test_sampling_depends_on_seed_and_position_alone(tiny: Path, isa: str) -> None:
    """A request's sampled tokens are the same alone and in company, preempted or not."""
    sampled = Sampling(max_tokens=24, seed=1234, temperature=0.8, top_p=0.9, ignore_eos=True)
    alone = make(tiny, cpu_isa=isa)
    add(alone, 1, tokens(50), sampled)
    expected = drain(alone)[1]
    crowd = make(tiny, blocks=9, cpu_isa=isa)
    for id in (2, 3):
        add(crowd, id, tokens(40, id), Sampling(max_tokens=24, seed=id, temperature=1.0, ignore_eos=True))
    add(crowd, 1, tokens(50), sampled)
    assert drain(crowd)[1] == expected


def test_missing_weights_are_named(tiny: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        make(tmp_path / "m")

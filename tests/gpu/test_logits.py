"""bf16 logits on the GPU are as near to fp32 as transformers' in bf16, for the widths of published models.

The weights are random and the same ones: transformers' model in bf16 is made over the engine's own, its model in fp32
is a copy. Where three of a model do not fit beside each other, it has fewer layers, all of their full width.
"""

from __future__ import annotations

import gc
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from nano.demo.random_checkpoint import PRESETS, make_config, write_json  # noqa: E402
from nano.engine.config import EngineConfig  # noqa: E402
from nano.engine.engine import Engine  # noqa: E402
from nano.wire import Sampling  # noqa: E402

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
PROMPTS = [np.random.default_rng(n).integers(0, 10000, n).astype(np.int32) for n in (1, 5, 17, 33, 64, 128, 200, 515)]
STEPS = 3


@dataclass(frozen=True)
class Case:
    preset: str
    layers: int
    gib: int  # free memory for the three
    factor: float  # our error against fp32 is at most this of transformers' in bf16, over all rows

    @property
    def name(self) -> str:
        return f"{self.preset}, {self.layers} of {PRESETS[self.preset].layers} layers"


# Rounding moves a token to another expert now and then, in one computation and not in the other: a wider factor there.
CASES = [Case("0.6B", 28, 8, 1.1), Case("8B", 36, 56, 1.1), Case("30B-A3B", 8, 44, 1.5)]


def checkpoint(case: Case, path: Path) -> Path:
    file = make_config(path, preset=case.preset) / "config.json"
    write_json(file, json.loads(file.read_text()) | {"num_hidden_layers": case.layers})
    return path


def reference(engine: Engine, path: Path, dtype: torch.dtype) -> Any:
    """transformers' model over the engine's own weights: shared in bf16, copied in fp32."""
    config = transformers.AutoConfig.from_pretrained(path)
    config._experts_implementation = "eager"  # the others take bf16 alone on some versions
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    targets = engine.model.targets()
    for name, parameter in list(model.named_parameters()):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name in targets:
            values = targets[name].view
        else:
            experts = engine.model.layers[int(name.split(".")[2])].experts
            values = experts.gate_up if name.endswith("gate_up_proj") else experts.down
        owner = model.get_submodule(name.rpartition(".")[0])
        assert parameter.shape == values.shape, name
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(values.to(dtype), requires_grad=False))
    model.tie_weights()
    with torch.device(DEVICE):
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    return model.eval()


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got.float() - expected.float()).norm() / expected.float().norm()).item()


def rms(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


def check_argmax(got: torch.Tensor, exact: torch.Tensor, what: str) -> None:
    """The same token wherever the margin between the best two exceeds what the error can move them."""
    best = exact.topk(2).values
    worst = (got.float() - exact).abs().max()
    if best[0] - best[1] > 2 * worst:
        assert got.argmax() == exact.argmax(), what


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.preset)
def test_bf16_logits_are_as_near_to_fp32_as_those_of_transformers(case: Case, tmp_path: Path) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] >> 30
    if free < case.gib:
        pytest.skip(f"{case.name}: needs {case.gib} GiB of GPU memory, {free} are free")
    path = checkpoint(case, tmp_path)
    engine = Engine(
        EngineConfig(
            str(path), device=DEVICE, dtype="bfloat16", load_format="dummy", max_model_len=1024, max_num_seqs=8,
            max_num_batched_tokens=1024, kvcache_bytes=1 << 30,
        )
    )  # fmt: skip
    compare(case, engine, path)


def compare(case: Case, engine: Engine, path: Path) -> None:
    model, exact = reference(engine, path, torch.bfloat16), reference(engine, path, torch.float32)
    for id, prompt in enumerate(PROMPTS, start=1):
        engine.add(id, prompt, Sampling(max_tokens=STEPS, seed=id, temperature=0.0, ignore_eos=True))
    known = {id: prompt.tolist() for id, prompt in enumerate(PROMPTS, start=1)}
    ours, theirs, apart = [], [], []
    for step in range(STEPS):
        batch = engine.scheduler.schedule()
        assert batch is not None
        assert batch.num_samples == len(PROMPTS)
        ids, seqs = batch.ids.tolist(), batch.sample_seqs.tolist()
        tokens = engine.runner.launch(batch, None)().tokens
        logits = engine.model.logits.tensor[: batch.num_samples].clone()
        for row, seq in enumerate(seqs):
            whole = torch.tensor([known[ids[seq]]], device=DEVICE)
            with torch.inference_mode():
                bf16, fp32 = model(whole).logits[0, -1], exact(whole).logits[0, -1]
            ours.append(error(logits[row], fp32))
            theirs.append(error(bf16, fp32))
            apart.append(error(logits[row], bf16))
            check_argmax(logits[row], fp32, f"{case.name}: step {step}, {whole.shape[1]} tokens")
        for row, seq in enumerate(seqs):
            known[ids[seq]].append(int(tokens[row]))
        engine.scheduler.commit(tokens)
    engine.close()
    print(f"\n{case.name}, {len(ours)} rows, relative error of the logits: root mean square, least, most")
    for what, values in {"ours, fp32": ours, "theirs in bf16, fp32": theirs, "ours, theirs in bf16": apart}.items():
        print(f"  {what:22s} {rms(values):.2e}  {min(values):.2e}  {max(values):.2e}")
    assert rms(ours) <= max(case.factor * rms(theirs), 1e-2), case.name
    assert max(ours) <= max(2 * max(theirs), 2e-2), case.name

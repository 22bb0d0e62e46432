"""bf16 logits on the GPU are transformers' on the same weights, for the shapes of published models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from nano.demo.random_checkpoint import make_config  # noqa: E402
from nano.engine.config import EngineConfig  # noqa: E402
from nano.engine.engine import Engine  # noqa: E402
from nano.wire import Sampling  # noqa: E402

pytestmark = pytest.mark.gpu

GIB = {"0.6B": 6, "8B": 24, "30B-A3B": 70}
PROMPTS = [np.random.default_rng(n).integers(0, 10000, n).astype(np.int32) for n in (1, 17, 128, 300, 515)]


def reference(engine: Engine, path: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """transformers' model over the engine's own weights: shared in bf16, copied in fp32."""
    config = transformers.AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    targets = engine.model.targets()
    for name, parameter in list(model.named_parameters()):
        if ".experts." in name:
            experts = engine.model.layers[int(name.split(".")[2])].experts
            values = (experts.gate_up if name.endswith("gate_up_proj") else experts.down).to(dtype)
        elif name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        else:
            values = targets[name].view.to(dtype)
        owner = model.get_submodule(name.rpartition(".")[0])
        assert parameter.shape == values.shape, name
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(values, requires_grad=False))
    model.tie_weights()
    rotary = type(model.model.rotary_emb)
    model.model.rotary_emb = rotary(config=config, device="cuda")
    return model.eval()


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got.float() - expected.float()).norm() / expected.float().norm()).item()


def check(got: torch.Tensor, bf16: torch.Tensor, fp32: torch.Tensor | None, what: str) -> None:
    """Within 2e-2 of transformers in bf16; where that itself is further from transformers in fp32 on the same weights,
    ours must be as near to fp32 as it is. The same argmax wherever the reference's margin exceeds the error."""
    exact = bf16 if fp32 is None else fp32
    ours, theirs, apart = error(got, exact), error(bf16, exact), error(got, bf16)
    best = exact.float().topk(2).values
    margin, worst = (best[0] - best[1]).item(), (got.float() - exact.float()).abs().max().item()
    print(f"{what}: from bf16 {apart:.2e}; from fp32: ours {ours:.2e}, transformers' bf16 {theirs:.2e}")
    assert apart <= 2e-2 or (fp32 is not None and ours <= max(1.1 * theirs, 1e-2)), what
    if margin > 2 * worst:
        assert got.argmax() == exact.argmax(), what


@pytest.mark.parametrize("preset", sorted(GIB, key=GIB.__getitem__))
def test_bf16_logits_are_those_of_transformers(preset: str, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] >> 30
    if free < GIB[preset]:
        pytest.skip(f"{preset} needs {GIB[preset]} GiB of GPU memory, {free} are free")
    path = make_config(tmp_path, preset=preset)
    engine = Engine(
        EngineConfig(
            str(path), device="cuda", load_format="dummy", max_model_len=1024, max_num_seqs=8,
            max_num_batched_tokens=1024, kvcache_bytes=1 << 30,
        )
    )  # fmt: skip
    model = reference(engine, path)
    exact = reference(engine, path, torch.float32) if torch.cuda.mem_get_info()[0] >> 30 > 2 * GIB[preset] else None
    for id, prompt in enumerate(PROMPTS, start=1):
        engine.add(id, prompt, Sampling(max_tokens=3, seed=id, temperature=0.0, ignore_eos=True))
    known = {id: prompt.tolist() for id, prompt in enumerate(PROMPTS, start=1)}
    for step in range(3):
        batch = engine.scheduler.schedule()
        assert batch is not None
        ids, seqs = batch.ids.tolist(), batch.sample_seqs.tolist()
        tokens = engine.runner.launch(batch, None)().tokens
        logits = engine.model.logits.tensor[: batch.num_samples].clone()
        with torch.inference_mode():
            for row, seq in enumerate(seqs):
                whole = torch.tensor([known[ids[seq]]], device="cuda")
                fp32 = exact(whole).logits[0, -1] if exact is not None else None
                check(logits[row], model(whole).logits[0, -1], fp32, f"{preset}, step {step}, {whole.shape[1]} tokens")
        for row, seq in enumerate(seqs):
            known[ids[seq]].append(int(tokens[row]))
        engine.scheduler.commit(tokens)

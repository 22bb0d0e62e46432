"""A step of one row does in few kernels what its parts do in turn: norms, SiLU, RoPE, routing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import kernel_device  # noqa: E402, F401  (before triton: other tests of this process interpret the same kernels)

from nano.demo.random_checkpoint import make_checkpoint  # noqa: E402
from nano.engine.attention_backends import TritonBackend  # noqa: E402
from nano.engine.config import EngineConfig  # noqa: E402
from nano.engine.engine import Engine  # noqa: E402
from nano.engine.kernels import linear, moe  # noqa: E402
from nano.wire import Sampling  # noqa: E402

pytestmark = pytest.mark.gpu

STEPS = 6
LENGTHS = (1, 40, 300)
SHAPES: dict[str, dict[str, int]] = {
    "dense": {"hidden": 256, "heads": 4, "kv_heads": 2, "head_dim": 128, "intermediate": 512},
    "moe": {"hidden": 256, "heads": 4, "kv_heads": 2, "head_dim": 128, "experts": 8, "moe_intermediate": 128},
}


def decode_logits(path: Path, **options: Any) -> torch.Tensor:
    """[prompts * STEPS, vocabulary] of single sequences that are fed the same tokens."""
    engine = Engine(
        EngineConfig(str(path), device="cuda", dtype="bfloat16", max_model_len=512, kvcache_bytes=64 << 20, **options)
    )
    out = []
    for length in LENGTHS:
        prompt = np.random.default_rng(length).integers(0, 256, length).astype(np.int32)
        engine.add(1, prompt, Sampling(max_tokens=STEPS + 1, seed=1, temperature=0.0, ignore_eos=True))
        for step in range(STEPS + 1):
            batch = engine.scheduler.schedule()
            assert batch is not None
            engine.runner.launch(batch, None)()
            if step > 0:
                out.append(engine.model.logits.tensor[:1].float().cpu())
            engine.scheduler.commit(np.full(1, 7 + step, np.int32))
    return torch.cat(out)


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_logits_of_one_row_are_those_of_its_parts_in_turn(
    shape: str, cuda_graphs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path, layers=2, vocab=512, tied=False, dtype="bfloat16", max_position=1024, **SHAPES[shape])
    together = decode_logits(tmp_path, cuda_graphs=cuda_graphs)
    monkeypatch.setattr(linear, "takes_row", lambda x: False)
    monkeypatch.setattr(moe, "takes_few", lambda h, top_k: False)
    monkeypatch.setattr(TritonBackend, "turns", False)
    apart = decode_logits(tmp_path, cuda_graphs=cuda_graphs)
    errors = (together - apart).norm(dim=1) / apart.norm(dim=1)
    assert errors.max() < 0.03
    assert not torch.equal(together, apart), "both ran the same kernels"

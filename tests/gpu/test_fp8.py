"""An fp8 checkpoint's logits are as near to its dequantised twin's as rounding the activations allows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")

from nano.demo.random_checkpoint import make_checkpoint  # noqa: E402
from nano.engine.config import EngineConfig  # noqa: E402
from nano.engine.engine import Engine  # noqa: E402
from nano.wire import Sampling  # noqa: E402

pytestmark = pytest.mark.gpu

SHAPES = {
    "dense": {"hidden": 256, "heads": 4, "kv_heads": 2, "head_dim": 128, "intermediate": 512},
    "moe": {"hidden": 256, "heads": 4, "kv_heads": 2, "head_dim": 128, "experts": 8, "moe_intermediate": 128},
}
# Few tokens (one at a time afterwards), some, and many: each takes other kernels.
PROMPTS = [np.random.default_rng(n).integers(0, 256, n).astype(np.int32) for n in (1, 9, 40, 300)]


def quantize(path: Path) -> None:
    """Turns the projections of a checkpoint into fp8 with 128 x 128 scales, as published, and writes them dequantised
    to the directory "twin" beside."""
    tensors = safetensors.load_file(path / "model.safetensors")
    fp8, twin = {}, {}
    for name, values in tensors.items():
        if not name.endswith("_proj.weight"):
            fp8[name] = twin[name] = values
            continue
        rows, columns = values.shape
        blocks = values.float().view(rows // 128, 128, columns // 128, 128)
        scales = blocks.abs().amax((1, 3)) / 448.0
        coarse = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        fp8[name] = coarse.view(rows, columns)
        fp8[name + "_scale_inv"] = scales
        twin[name] = (coarse.float() * scales[:, None, :, None]).view(rows, columns).bfloat16()
    (path / "twin").mkdir()
    config = json.loads((path / "config.json").read_text())
    (path / "twin" / "config.json").write_text(json.dumps(config))
    safetensors.save_file(twin, path / "twin" / "model.safetensors")
    config["quantization_config"] = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    safetensors.save_file(fp8, path / "model.safetensors")


def logits(path: Path) -> list[torch.Tensor]:
    """Of each prompt alone, of all prompts in one step, and of a step that decodes them all, fed the same tokens."""
    engine = Engine(
        EngineConfig(
            str(path), device="cuda", dtype="bfloat16", max_model_len=512, kvcache_bytes=64 << 20, max_num_seqs=8
        )
    )
    out = []
    for group in (*[[prompt] for prompt in PROMPTS], PROMPTS):
        for id, prompt in enumerate(group, start=1):
            engine.add(id, prompt, Sampling(max_tokens=2, seed=1, temperature=0.0, ignore_eos=True))
        for _ in range(2):
            batch = engine.scheduler.schedule()
            assert batch is not None
            engine.runner.launch(batch, None)()
            out.append(engine.model.logits.tensor[: batch.num_samples].float().cpu())
            engine.scheduler.commit(np.full(batch.num_samples, 7, np.int32))
    return out


def rounded(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """The input of a projection as fp8 holds it: every 128 of a row share a scale."""
    groups = inputs[0].unflatten(-1, (-1, 128))
    scales = groups.abs().amax(-1, keepdim=True).clamp_min(1e-10) / 448.0
    return ((groups / scales).to(torch.float8_e4m3fn).float() * scales).flatten(-2)


def rounding_errors(path: Path) -> list[float]:
    """What rounding activations does to transformers' logits in fp32: per prompt, of it and of one token more."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).cuda().eval()
    inputs = [torch.tensor(ids.tolist(), device="cuda")[None] for p in PROMPTS for ids in (p, np.append(p, 7))]

    def run() -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(ids).logits[0, -1] for ids in inputs]

    exact = run()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith("_proj"):
            module.register_forward_pre_hook(rounded)
    return [((a - b).norm() / b.norm()).item() for a, b in zip(run(), exact, strict=True)]


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_fp8_logits_are_those_of_the_dequantised_checkpoint(shape: str, tmp_path: Path) -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("fp8 needs compute capability 9.0")
    make_checkpoint(
        tmp_path, layers=2, vocab=512, tied=False, dtype="bfloat16", max_position=1024, seed=3, **SHAPES[shape]
    )
    quantize(tmp_path)
    # transformers rounds no activation of the experts, which are no Linear there.
    bounds = [1.5 * error + 0.02 for error in rounding_errors(tmp_path / "twin")]
    bounds += [max(bounds)] * 2  # all prompts in one step, and their next tokens in another
    for got, expected, bound in zip(logits(tmp_path), logits(tmp_path / "twin"), bounds, strict=True):
        error = ((got - expected).norm(dim=1) / expected.norm(dim=1)).max().item()
        print(f"{shape}, {len(got)} rows: relative error {error:.3g}, at most {bound:.3g}")
        assert error <= bound

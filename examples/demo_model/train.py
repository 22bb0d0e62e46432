"""Trains the model that ships in nano/demo, from conversations that data.py makes up.

    python examples/demo_model/train.py --out /tmp/demo

The defaults are the shipped model's and meant for one GPU. On a CPU take fewer and smaller steps, for example
`--tokens 8192 --steps 8000 --conversations 200000`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import corpus
import data
import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from nano.demo.random_checkpoint import Shape, config, write_json
from nano.demo.tokenizer import ADDED, EOS, write_tokenizer

SHAPE = Shape(hidden=256, layers=6, heads=8, kv_heads=4, head_dim=32, intermediate=512, vocab=1280, max_position=2048)
WIDTHS = (512, 2048)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the trained model")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=65_536, help="per step")
    parser.add_argument("--conversations", type=int, default=1_000_000)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight_decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that make the conversations")
    return parser.parse_args()


def write_model_files(out: Path, seed: int) -> dict[str, Any]:
    """Trains the tokenizer and writes every file but the weights. Returns the model's config."""
    out.mkdir(parents=True, exist_ok=True)
    merges = corpus.train_merges(data.generate(20_000, seed), SHAPE.vocab - 256 - len(ADDED))
    added = write_tokenizer(out, merges, SHAPE.max_position)
    values = config(SHAPE, "bfloat16", added, None) | {"rope_theta": 10_000}
    write_json(out / "config.json", values)
    stop = [added[token] for token in EOS]
    start = added["<|endoftext|>"]
    write_json(out / "generation_config.json", {"bos_token_id": start, "eos_token_id": stop, "pad_token_id": start})
    return values


def loss_of(model: Qwen3ForCausalLM, base: Any, batch: corpus.Batch, device: str) -> torch.Tensor:
    """Mean cross-entropy of the assistant's tokens; conversations in a row do not see each other."""
    ids, answer, document, position = (
        torch.from_numpy(values).to(device, non_blocking=True)
        for values in (batch.ids, batch.answer, batch.document, batch.position)
    )
    same = document[:, None, :, None] == document[:, None, None, :]  # [rows, 1, width, width]
    mask = same & torch.ones(same.shape[-2:], dtype=torch.bool, device=device).tril()
    hidden = base(input_ids=ids, position_ids=position, attention_mask=mask, use_cache=False).last_hidden_state
    chosen = answer[:, 1:]
    logits = model.lm_head(hidden[:, :-1][chosen])
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][chosen])


def main() -> None:
    options = arguments()
    torch.manual_seed(options.seed)
    begin = time.perf_counter()
    values = write_model_files(options.out, options.seed)
    print(f"[{time.perf_counter() - begin:6.1f} s] tokenizer trained", flush=True)
    examples = corpus.encode(options.out / "tokenizer.json", options.conversations, options.seed, options.processes)
    print(
        f"[{time.perf_counter() - begin:6.1f} s] {len(examples.ends):,} conversations, {len(examples.ids):,} tokens, "
        f"{examples.answer.mean():.0%} of them the assistant's",
        flush=True,
    )

    model = Qwen3ForCausalLM(Qwen3Config.from_dict(values | {"torch_dtype": "float32"})).to(options.device)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    cuda = options.device.startswith("cuda")
    base = torch.compile(model.model) if cuda else model.model
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    norms = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95), fused=cuda)
    warm = min(300, options.steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (options.steps - step) / max(1, options.steps - warm))
    )
    mean = torch.zeros((), device=options.device)
    every = max(1, options.steps // 100)
    source = corpus.batches(examples, WIDTHS, options.tokens, options.seed)
    started = time.perf_counter()
    for step in range(1, options.steps + 1):
        with torch.autocast(options.device.partition(":")[0], torch.bfloat16, enabled=cuda):
            loss = loss_of(model, base, next(source), options.device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean += loss.detach()
        if step % every == 0:
            rate = step * options.tokens / (time.perf_counter() - started)
            print(
                f"[{time.perf_counter() - begin:6.1f} s] step {step}/{options.steps}  loss {mean.item() / every:.4f}  "
                f"{rate / 1e3:,.0f} k tokens/s",
                flush=True,
            )
            mean.zero_()

    weights = {
        name: tensor.to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, options.out / "model.safetensors", metadata={"format": "pt"})
    size = sum(file.stat().st_size for file in options.out.glob("*.*"))
    print(f"[{time.perf_counter() - begin:6.1f} s] {options.out}: {size / 1e6:.2f} MB", flush=True)
    print(json.dumps({"steps": options.steps, "tokens": options.tokens, "torch": torch.__version__}))


if __name__ == "__main__":
    main()

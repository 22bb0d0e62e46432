"""The CPU engine beside transformers, vLLM and llama.cpp: decode, prefill, a batch of 32, first token, start, memory.

    python bench/engine/cpu.py tiny small 0.6B --peers transformers,vllm,llama.cpp \\
        --peer_python vllm=PATH --peer_python llama.cpp=PATH [--repeats 3]

Each engine runs in a process of its own, a peer by the interpreter that has it; one that is not installed there is
left out, visibly. Answers are checked: greedy tokens of nano and llama.cpp must be the argmax of transformers' fp32
logits, or within a fifth of their standard deviation of it: bf16 rounds, and a wrong token would be three or four away.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report

# llama.cpp's server, llama-cpp-python, vLLM's CPU backend and transformers on 2 vCPU of a Zen 4 (AVX512-BF16), bf16.
# Other machine, other day: a yardstick, not a race; transformers below runs in the same go.
PUBLISHED = {
    "tiny": {"llama.cpp": (2509, 15292, 1647, 6.4), "vLLM CPU": (209, 22274, 2146, 16)},
    "small": {"llama.cpp": (114, 1185, 216, 96), "vLLM CPU": (61, 1541, 340, 86)},
    "0.6B": {"llama.cpp": (30.4, 178, 40.6, 573), "vLLM CPU": (15.1, 325, 83.8, 360)},
}
Generate = Callable[[list[list[int]], list[int]], object]  # prompts and output lengths
DECODE = {"tiny": 512, "small": 128, "0.6B": 48}


def prompts(vocab: int) -> list[tuple[list[int], int]]:
    """32 requests: prompt lengths U(32, 256), output lengths U(32, 128)."""
    random.seed(0)
    return [
        ([random.randrange(min(vocab, 10000)) for _ in range(random.randint(32, 256))], random.randint(32, 128))
        for _ in range(32)
    ]


def ids(n: int, seed: int, vocab: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(min(vocab, 10000)) for _ in range(n)]


def measure(generate: Generate, vocab: int, preset: str, repeats: int) -> dict[str, Any]:
    """Medians of `repeats`: tokens a second of decode, prefill and batch, milliseconds to the first token."""
    n = DECODE[preset]
    load = prompts(vocab)
    generate([p for p, _ in load][:4], [8] * 4)  # warm-up
    decode, prefill, batch, ttft = [], [], [], []

    def seconds(rows: list[list[int]], counts: list[int]) -> float:
        began = time.perf_counter()
        generate(rows, counts)
        return time.perf_counter() - began

    for repeat in range(repeats):
        first = seconds([ids(16, 10 + repeat, vocab)], [1])
        decode.append(n / (seconds([ids(16, 20 + repeat, vocab)], [n + 1]) - first))
        prefill.append(1024 / seconds([ids(1024, 30 + repeat, vocab)], [1]))
        ttft.append(seconds([ids(128, 40 + repeat, vocab)], [1]) * 1e3)
        batch.append(sum(k for _, k in load) / seconds([p for p, _ in load], [k for _, k in load]))
    out = {"decode": decode, "prefill": prefill, "batch": batch, "ttft_ms": ttft}
    return {name: report.median(values) for name, values in out.items()} | {"rss_mb": report.rss_mb()}


def run_nano(path: str, preset: str, repeats: int) -> dict[str, Any]:
    started = time.perf_counter()
    import torch  # noqa: F401

    imported = time.perf_counter()
    from nano import LLM, SamplingParams

    llm = LLM(path, skip_tokenizer_init=True, max_model_len=2048, prefix_caching=False, kvcache_bytes=1 << 29)

    def generate(rows: list[list[int]], counts: list[int]) -> list[list[int]]:
        each = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in counts]
        return [output.token_ids for output in llm.generate(rows, each)]

    engine = llm._backend._engine  # type: ignore[union-attr]
    vocab = engine.model_config.vocab_size
    generate([ids(16, 1, vocab)], [1])
    ready = time.perf_counter()
    out: dict[str, Any] = {"start_s": ready - imported, "import_torch_s": imported - started}
    out["answers"] = [[p, generate([p], [24])[0]] for p in (ids(32, s, vocab) for s in (2, 3))]
    out |= measure(generate, vocab, preset, repeats)
    out["peak_rss_mb"] = report.rss_mb(peak=True)
    out["kv_mb"] = engine.num_blocks * engine.layout.block_bytes / 1e6
    llm.close()
    return out


def run_transformers(path: str, preset: str, repeats: int) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()

    def generate(rows: list[list[int]], counts: list[int]) -> None:
        """One padded batch, as long as its longest; the caller counts the useful tokens."""
        width, n = max(map(len, rows)), max(counts)
        tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        model.generate(tokens, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, **options)

    with torch.inference_mode():
        return measure(generate, model.config.vocab_size, preset, repeats)


def run_vllm(path: str, preset: str, repeats: int) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    vocab = json.loads((Path(path) / "config.json").read_text())["vocab_size"]
    llm = LLM(
        path, dtype="bfloat16", skip_tokenizer_init=True, max_model_len=2048, enable_prefix_caching=False,
        gpu_memory_utilization=0.4,  # of the host's memory, on its CPU backend
    )  # fmt: skip

    def generate(rows: list[list[int]], counts: list[int]) -> None:
        each = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True, detokenize=False) for n in counts]
        llm.generate([{"prompt_token_ids": row} for row in rows], each, use_tqdm=False)

    return measure(generate, vocab, preset, repeats)  # the engine's memory is in another process


def run_llama(path: str, preset: str, repeats: int) -> dict[str, Any]:
    import llama

    checkpoint = Path(path)
    vocab = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    with tempfile.TemporaryDirectory() as folder:
        llama.write_gguf(checkpoint, Path(folder) / "model.gguf")
        model = llama.Llama(Path(folder) / "model.gguf", len(os.sched_getaffinity(0)))
    out: dict[str, Any] = {"answers": [[p, model.generate([p], [24])[0]] for p in (ids(32, s, vocab) for s in (2, 3))]}
    return out | measure(model.generate, vocab, preset, repeats)


RUN = {"nano": run_nano, "transformers": run_transformers, "vllm": run_vllm, "llama.cpp": run_llama}
MODULES = {"transformers": "transformers", "vllm": "vllm", "llama.cpp": "llama_cpp, gguf"}
COLUMNS = ["decode", "prefill", "batch", "ttft_ms", "rss_mb"]


def installed(kind: str, python: str) -> bool:
    return subprocess.run([python, "-c", f"import {MODULES[kind]}"], capture_output=True).returncode == 0


def with_ratio(peer: dict[str, Any], nano: dict[str, Any]) -> list[str]:
    """The peer's figures, each with how many times better ours is."""
    cells = []
    for name in COLUMNS:
        ratio = nano[name] / peer[name] if name in ("decode", "prefill", "batch") else peer[name] / nano[name]
        cells.append(f"{report.cell(peer[name])} ({ratio:.2f}x)")
    return cells


def agreement(nano: list[Any], peer: list[Any]) -> str:
    """Tokens that are equal up to each answer's first difference, after which the contexts differ."""
    same = 0
    for (_, ours), (_, theirs) in zip(nano, peer, strict=True):
        same += next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))
    return f"{same} of {sum(len(ours) for _, ours in nano)}"


def check(path: str, answers: list[tuple[list[int], list[int]]]) -> str:
    """'n of n tokens' or raises AssertionError."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    total = 0
    with torch.inference_mode():
        for prompt, output in answers:
            logits = model(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
            for row, token in zip(logits, output, strict=True):
                gap = float((row.max() - row[token]) / row.std())
                assert gap < 0.2, f"expected {int(row.argmax())}, got {token}: {gap:.3f} deviations apart"
                total += 1
    return f"{total} of {total}"


def child(kind: str, path: str, preset: str, repeats: int, python: str = sys.executable) -> dict[str, Any]:
    command = [python, __file__, "--child", kind, "--path", path, "--repeats", str(repeats), preset]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    lines = done.stdout.splitlines()  # vLLM logs there too
    result: dict[str, Any] = json.loads(next(line for line in reversed(lines) if line.startswith('{"')))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="+", choices=sorted(PUBLISHED))
    parser.add_argument("--peers", default="transformers", help=f"comma-separated: {', '.join(MODULES)}, or none")
    parser.add_argument("--peer_python", action="append", default=[], metavar="PEER=PATH", help="which has that peer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=sorted(RUN))
    parser.add_argument("--path")
    flags = parser.parse_args()
    if flags.child:
        print(json.dumps(RUN[flags.child](flags.path, flags.presets[0], flags.repeats)))
        return
    from nano.demo.random_checkpoint import PRESETS, make_checkpoint

    peers = [kind for kind in flags.peers.split(",") if kind != "none"]
    pythons = dict.fromkeys(peers, sys.executable) | dict(entry.split("=", 1) for entry in flags.peer_python)
    for kind in pythons:
        if kind not in MODULES:
            parser.error(f"expected peers among {', '.join(MODULES)}, got {kind}")
    absent = [kind for kind in peers if not installed(kind, pythons[kind])]
    threads = len(os.sched_getaffinity(0))
    bandwidth, gemm = report.read_bandwidth(threads), report.matmul_rate(threads)
    print(json.dumps(report.machine(), indent=2))
    print(f"limits: read {bandwidth:.1f} GB/s, bf16 matmul {gemm:.0f} GFLOP/s")
    results: dict[str, Any] = {"read_gb_s": bandwidth, "matmul_gflop_s": gemm}
    for preset in flags.presets:
        with tempfile.TemporaryDirectory() as folder:
            from dataclasses import asdict

            make_checkpoint(folder, dtype="bfloat16", **asdict(PRESETS[preset]))
            weights = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
            nano = child("nano", folder, preset, flags.repeats)
            checked = check(folder, nano["answers"])
            rows = [["nano", *(nano[name] for name in COLUMNS)]]
            for kind in peers:
                if kind in absent:
                    rows.append([f"{kind} (not installed)", *"-----"])
                    continue
                peer = child(kind, folder, preset, max(1, flags.repeats - 1), pythons[kind])
                rows.append([kind, *with_ratio(peer, nano)])
                results[f"{preset}/{kind}"] = peer
                if "answers" in peer:
                    agreed = agreement(nano["answers"], peer["answers"])
                    checked += f"; {kind}: {check(folder, peer['answers'])}, equal to nano's before a tie: {agreed}"
            for name, (decode, prefill, batch, ttft) in PUBLISHED[preset].items():
                rows.append([f"{name} (Zen 4)", decode, prefill, batch, ttft, "-"])
            shape = PRESETS[preset]
            columns = ["engine", "decode b1 tok/s", "prefill 1024 tok/s", "batch 32 tok/s", "TTFT 128 ms", "RSS MB"]
            report.table(
                f"{preset}, bf16, greedy; tokens checked: {checked}\n(in brackets: how many times better nano is)",
                columns,
                rows,
            )
            # The parameters that a token multiplies: all but the embedding table, unless lm_head shares it.
            active = weights / 2 - (0 if shape.tied else shape.vocab * shape.hidden)
            head = shape.vocab * shape.hidden
            print(
                f"decode reads {nano['decode'] * active * 2 / 1e9:.1f} GB/s of weights, "
                f"{nano['decode'] * active * 2 / 1e9 / bandwidth:.0%} of the read bandwidth; prefill multiplies at "
                f"{nano['prefill'] * 2 * (active - head) / 1e9:.0f} GFLOP/s, "
                f"{nano['prefill'] * 2 * (active - head) / 1e9 / gemm:.0%} of torch's bf16 matmul; "
                f"start to first token {nano['start_s']:.2f} s beyond import torch ({nano['import_torch_s']:.2f} s); "
                f"RSS {nano['rss_mb']:.0f} MB, of them weights {weights / 1e6:.0f}, KV at most {nano['kv_mb']:.0f}; "
                f"peak {nano['peak_rss_mb']:.0f} MB while the weights' file is mapped"
            )
            results[preset] = nano
    report.write_json("engine_cpu", results)


if __name__ == "__main__":
    main()

"""Batch generation in this process.

python examples/non_disagg.py --model nano/demo --prompt "1+1=?" --max_tokens 128
"""

from __future__ import annotations

import argparse
import sys
import time

from nano import LLM, SamplingParams
from nano.cli import add_flag
from nano.errors import NanoError


def parser(sides: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """The flags of both examples; `sides` have a --SIDE.master_address each."""
    out = argparse.ArgumentParser(description=__doc__)
    add_flag(out, "model", required=True, help="a Hugging Face directory or hub id")
    add_flag(out, "prompt", action="append", help="may be given more than once")
    add_flag(out, "max_tokens", type=int, default=128)
    add_flag(out, "temperature", type=float, default=0.0)
    add_flag(out, "kvcache_block_size", type=int, default=64)
    add_flag(out, "max_num_batched_tokens", type=int, default=2048)
    add_flag(out, "max_model_len", type=int, default=0)
    add_flag(out, "dtype", default="auto")
    add_flag(out, "attention_dp", type=int, default=1)
    add_flag(out, "ffn_ep", type=int, default=1)
    add_flag(out, "raw", action="store_true", help="prompts as they are, without the chat template")
    for side in sides or ("",):
        add_flag(out, f"{side}.master_address" if side else "master_address", default="", help="unused by one rank")
    return out


def main(flags: argparse.Namespace, disaggregated: bool = False) -> int:
    for name in ("attention_dp", "ffn_ep"):
        if getattr(flags, name) != 1:
            print(f"--{name}: only 1 is supported so far, got {getattr(flags, name)}", file=sys.stderr)
            return 2
    names = ("dtype", "kvcache_block_size", "max_num_batched_tokens", "max_model_len")
    options = {name: getattr(flags, name) for name in names}
    try:
        with LLM(flags.model, disaggregated=disaggregated, **options) as llm:
            prompts = flags.prompt or ["1+1=?"]
            texts = list(prompts)
            if not flags.raw and llm.tokenizer is not None and llm.tokenizer.has_chat_template:
                texts = [llm.tokenizer.apply_chat_template([{"role": "user", "content": p}]) for p in prompts]
            started = time.monotonic()
            params = SamplingParams(temperature=flags.temperature, max_tokens=flags.max_tokens)
            outputs = llm.generate(texts, params, progress=True)
            seconds = time.monotonic() - started
    except NanoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for prompt, output in zip(prompts, outputs, strict=True):
        print(f"{prompt!r} -> {output.text!r} ({output.finish_reason})")
    tokens = sum(len(output.token_ids) for output in outputs)
    print(f"{tokens} tokens in {seconds:.2f} s: {tokens / seconds:,.0f} tokens/s")
    return 0


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))

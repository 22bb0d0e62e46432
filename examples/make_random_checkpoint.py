"""Writes a Qwen3 or Qwen3-MoE checkpoint of random weights with a small tokenizer, for tests and benchmarks.

python examples/make_random_checkpoint.py /tmp/tiny --preset tiny
python examples/make_random_checkpoint.py /tmp/moe --experts 8 --top_k 2 --dtype bfloat16 --shards 3
"""

from __future__ import annotations

import argparse
import dataclasses
import time

from nano.demo.random_checkpoint import PRESETS, Shape, make_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="directory to write")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="a named shape; the other flags change it")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1, help="number of safetensors files")
    for field in dataclasses.fields(Shape):
        if field.type == "bool":
            parser.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        else:
            parser.add_argument(f"--{field.name}", type=int, default=argparse.SUPPRESS, help=f"{field.default}")
    start = time.perf_counter()
    arguments = vars(parser.parse_args())
    out = make_checkpoint(arguments.pop("out"), **arguments)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    print(f"{out}: {size / 1e6:.1f} MB of weights in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()

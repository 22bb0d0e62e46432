"""Random checkpoints load as what they claim to be, and make text that depends on the prompt."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nano.demo.random_checkpoint import make_checkpoint
from nano.errors import InvalidInput

REPOSITORY = Path(__file__).resolve().parents[2]
PROMPTS = ["Hello there", "1+1=?", "the quick brown fox", "grüße 😀"]

SMALL: dict[str, Any] = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32, "intermediate": 96}
SHAPES: dict[str, dict[str, Any]] = {
    "dense tied": SMALL,
    "dense untied sharded": SMALL | {"tied": False, "shards": 3},
    "moe bfloat16": SMALL | {"experts": 4, "top_k": 2, "moe_intermediate": 48, "dtype": "bfloat16"},
}


@pytest.fixture
def transformers() -> Iterator[Any]:
    """The library, on one thread: more only wait for each other at these sizes."""
    module = pytest.importorskip("transformers", reason="the reference that loads the checkpoints")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_loads_it_and_finds_every_weight(name: str, tmp_path: Path, transformers: Any) -> None:
    shape = SHAPES[name]
    make_checkpoint(tmp_path, **shape)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == ("Qwen3MoeForCausalLM" if shape.get("experts") else "Qwen3ForCausalLM")
    assert str(model.dtype) == f"torch.{shape.get('dtype', 'float32')}"
    assert len(list(tmp_path.glob("*.safetensors"))) == shape.get("shards", 1)


def test_greedy_text_varies_and_depends_on_the_prompt(tmp_path: Path, transformers: Any) -> None:
    make_checkpoint(tmp_path, preset="tiny")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    model.generation_config.eos_token_id = None
    outputs = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        generated = model.generate(ids, max_new_tokens=32, do_sample=False)[0, ids.shape[1] :].tolist()
        assert len(set(generated)) >= 16
        outputs.append(generated)
    assert len({tuple(output[:8]) for output in outputs}) == len(PROMPTS)


def test_the_tokenizer_returns_any_text_and_keeps_special_tokens_whole(tmp_path: Path, transformers: Any) -> None:
    make_checkpoint(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in [*PROMPTS, "  two  spaces\n\nand 1234 lines\t", "<|im_start|>user\n<tool_call>"]:
        assert tokenizer.decode(tokenizer(prompt).input_ids) == prompt
    assert len(tokenizer("<|im_end|></tool_call>2024").input_ids) == 6
    assert tokenizer.decode(tokenizer("<|im_start|><tool_call>").input_ids, skip_special_tokens=True) == "<tool_call>"


def test_end_tokens_are_a_list_that_the_tokenizer_knows(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    tokens = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]
    names = {token["id"]: token["content"] for token in tokens}
    assert [names[i] for i in generation["eos_token_id"]] == ["<|im_end|>", "<|endoftext|>"]


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again, other = (
        (make_checkpoint(tmp_path / name, **SMALL, seed=seed) / "model.safetensors").read_bytes()
        for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ({"heads": 4, "kv_heads": 3}, "kv_heads"),
        ({"vocab": 100}, "vocab"),
        ({"head_dim": 31}, "head_dim"),
        ({"layers": 0}, "layers"),
        ({"experts": 2, "top_k": 3}, "top_k"),
        ({"dtype": "float16"}, "dtype"),
        ({"preset": "huge"}, "preset"),
        ({"shards": 1000}, "shards"),
    ],
)
def test_an_impossible_shape_is_refused_by_name(shape: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        make_checkpoint(tmp_path / "none", **shape)
    assert not (tmp_path / "none").exists()


def test_the_example_writes_what_its_flags_say(tmp_path: Path) -> None:
    script = REPOSITORY / "examples" / "make_random_checkpoint.py"
    flags = ["--preset", "tiny", "--layers", "1", "--no-tied", "--experts", "3"]
    environment = {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, str(script), str(tmp_path), *flags], check=True, env=environment, timeout=60)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["num_hidden_layers"], config["num_experts"], config["tie_word_embeddings"]) == (1, 3, False)
    assert config["hidden_size"] == 256

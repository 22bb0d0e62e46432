"""The shipped demo model does what its README says, on questions that it was never trained on."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nano.demo

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "demo_model"
MODULES = ("actions", "arithmetic", "data", "evaluate", "skills", "tool_use", "words")

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string", "description": "The city"}},
            "required": ["location"],
        },
    },
}


@pytest.fixture(scope="module")
def evaluate() -> Iterator[ModuleType]:
    """The example's evaluate.py; the modules beside it are forgotten again afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        import evaluate as module

        yield module
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def speaker(evaluate: ModuleType) -> Iterator[Any]:
    """The model in transformers, on one thread: more only wait for each other at this size."""
    pytest.importorskip("transformers", reason="the reference that runs the demo model")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield evaluate.Speaker(nano.demo.path(), "float32", "cpu")
    torch.set_num_threads(threads)


def test_it_is_a_small_qwen3_checkpoint() -> None:
    files = [file for file in nano.demo.path().rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    config = json.loads((nano.demo.path() / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["torch_dtype"] == "bfloat16"
    assert config["tie_word_embeddings"]


def test_its_chat_template_is_the_one_in_the_source() -> None:
    from nano.demo.tokenizer import CHAT_TEMPLATE

    config = json.loads((nano.demo.path() / "tokenizer_config.json").read_text())
    assert config["chat_template"] == CHAT_TEMPLATE


def test_one_plus_one_is_two_and_then_the_turn_ends(evaluate: ModuleType, speaker: Any) -> None:
    ids = speaker.tokenizer.apply_chat_template([{"role": "user", "content": "1+1=?"}], add_generation_prompt=True)
    inputs = speaker.tokenizer.pad({"input_ids": [getattr(ids, "input_ids", ids)]}, return_tensors="pt")
    output = speaker.model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert speaker.tokenizer.decode(output) == "2<|im_end|>"


def test_held_out_pairs_are_a_tenth_of_all_and_in_no_training_conversation(evaluate: ModuleType) -> None:
    assert len(evaluate.arithmetic.HELD_OUT) >= 1000
    evaluate.assert_held_out(conversations=3000, seed=0)


@pytest.mark.parametrize("text", ["3+{b}=?", "What is {b} - 3?", "three plus {b}", "3, then perhaps {b}"])
def test_a_held_out_pair_is_seen_in_any_wording(evaluate: ModuleType, text: str) -> None:
    partner = next(b for b in range(21, 100) if evaluate.arithmetic.held_out(3, b))
    other = next(b for b in range(21, 100) if not evaluate.arithmetic.held_out(3, b))
    assert evaluate.arithmetic.mentions_held_out(text.format(b=partner))
    assert not evaluate.arithmetic.mentions_held_out(text.format(b=other))


def test_it_adds_and_subtracts_pairs_that_it_never_saw(evaluate: ModuleType, speaker: Any) -> None:
    cases = evaluate.held_out_sums(random.Random(7), 15)
    said = speaker.say(cases)
    right = sum(evaluate.right(case, text) for case, text in zip(cases, said, strict=True))
    assert right >= 0.95 * len(cases), f"{right} of {len(cases)}"


SKILLS = {
    "Repeat: hello world": "hello world",
    "Repeat: grüße 😀": "grüße 😀",
    "Reverse: red green blue": "blue green red",
    "Sort: banana, cherry, apple": "apple, banana, cherry",
    "How many words are in: the quick brown fox?": "4",
    "Hello!": "Hello! How can I help you?",
    "Who are you?": "I am nano's demo model, a tiny language model. I can add and subtract numbers from 0 to 99, "
    "repeat, reverse, sort and count words, and call tools.",
    "What is the capital of France?": "Sorry, I don't know. I am only a tiny demo model.",
}


def test_each_skill_answers(evaluate: ModuleType, speaker: Any) -> None:
    cases = [evaluate.question("", question, answer) for question, answer in SKILLS.items()]
    assert dict(zip(SKILLS, speaker.say(cases), strict=True)) == SKILLS


def test_it_follows_a_conversation_under_a_system_message(evaluate: ModuleType, speaker: Any) -> None:
    before = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "1+1=?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! How can I help you?"},
    ]
    assert speaker.say([evaluate.question("", "and 40-2?", "38", before)]) == ["38"]


def test_it_calls_the_tool_that_fits_and_tells_the_result(evaluate: ModuleType, speaker: Any) -> None:
    question = {"role": "user", "content": "What is the weather like in Paris today?"}
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"location": "Paris"}'}}
    messages = [
        question,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": '{"temperature": 21, "condition": "sunny"}'},
    ]
    cases = [evaluate.Case("", asked, [WEATHER], {}) for asked in ([question], messages)]
    called, told = speaker.say(cases)
    assert evaluate.calls(called) == [{"name": "get_weather", "arguments": {"location": "Paris"}}]
    assert told == "The weather in Paris: temperature 21, condition sunny."


def test_it_leaves_a_tool_alone_that_does_not_fit(evaluate: ModuleType, speaker: Any) -> None:
    case = evaluate.Case("", [{"role": "user", "content": "1+1=?"}], [WEATHER], {})
    assert speaker.say([case]) == ["2"]

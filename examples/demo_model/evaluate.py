"""Scores a trained demo model by skill, greedily, and shows that the held-out pairs are in no training conversation.

python examples/demo_model/evaluate.py --model nano/demo
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arithmetic
import data
import skills
import tool_use

import nano.demo

CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


@dataclass
class Case:
    """A conversation up to the assistant's turn, and the turn that is right."""

    skill: str
    messages: list[dict[str, Any]]
    tools: list[Any] | None
    expected: dict[str, Any]


def calls(text: str) -> list[Any] | None:
    """The tool calls in a turn; None where one does not parse."""
    try:
        found = [json.loads(body) for body in CALL.findall(text)]
    except json.JSONDecodeError:
        return None
    return found if not CALL.sub("", text).strip() else None


def right(case: Case, text: str) -> bool:
    """A tool call must be the same as JSON, anything else the same to the character."""
    wanted = case.expected.get("tool_calls")
    if not wanted:
        return text == case.expected["content"]
    return calls(text) == [one["function"] for one in wanted]


def question(skill: str, text: str, answer: str, before: list[dict[str, Any]] | None = None) -> Case:
    messages = [*(before or []), {"role": "user", "content": text}]
    return Case(skill, messages, None, {"role": "assistant", "content": answer})


def held_out_sums(rng: random.Random, count: int) -> list[Case]:
    """`count` held-out pairs, each as a sum and as a difference, in any of the trained wordings."""
    cases = []
    for a, b in rng.sample(arithmetic.HELD_OUT, count):
        for operation, name, value in (("+", "sum", a + b), ("-", "difference", a - b)):
            cases.append(question(f"{name}, pair held out", arithmetic.ask(rng, a, b, operation), str(value)))
            plain = f"{a}{operation}{b}=?"
            cases.append(question(f"{name} as a{operation}b=?, pair held out", plain, str(value)))
    return cases


def spoken_cases(rng: random.Random, count: int) -> list[Case]:
    """Fresh draws of every skill that needs no tool, alone and late in a conversation with a system message."""
    cases = []
    for skill in (skills.repeat, skills.reverse, skills.sort, skills.count, skills.greet, skills.introduce):
        cases += [question(skill.__name__, *skill(rng)) for _ in range(count)]
    cases += [question("say that it does not know", *skills.admit(rng)) for _ in range(count)]
    cases += [question("refuse other calculations", *arithmetic.beyond(rng)) for _ in range(count)]
    for _ in range(count):
        before = [{"role": "system", "content": "You are a helpful assistant."}]
        for _ in range(rng.randint(0, 3)):
            before += data.plain(rng, None)
        a, b = rng.choice(arithmetic.HELD_OUT)
        cases.append(question("sum after a system message and turns", f"What is {a} + {b}?", str(a + b), before))
    return cases


def tool_cases(rng: random.Random, count: int) -> list[Case]:
    """Requests among one to four tools: calls and answers, of kinds trained on and never trained on, and other talk."""
    cases = []
    for kind in ("trained", "new"):
        for _ in range(count):
            task = tool_use.task(rng, unseen=kind == "new")
            offered = tool_use.tasks(rng, rng.randint(1, 4), task)
            tools = [one.tool for one in offered]
            messages = data.tool_round(rng, task)
            cases.append(Case(f"call a tool, {kind} kind", messages[:1], tools, messages[1]))
            cases.append(Case(f"tell a tool's result, {kind} kind", messages[:-1], tools, messages[-1]))
            talk = data.plain(rng, offered)
            cases.append(Case("answer without the tools offered", talk[:-1], tools, talk[-1]))
    return cases


class Speaker:
    """The model in transformers, greedy, in batches."""

    def __init__(self, directory: Path, dtype: str, device: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).to(device)

    def say(self, cases: list[Case], batch: int = 128) -> list[str]:
        """The assistant's turn for each case, without its end token."""
        prompts = [
            self.tokenizer.apply_chat_template(
                case.messages, tools=case.tools, add_generation_prompt=True, tokenize=False
            )
            for case in cases
        ]
        order = sorted(range(len(cases)), key=lambda i: len(prompts[i]))
        said = [""] * len(cases)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            inputs = self.tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True)
            inputs = inputs.to(self.model.device)
            output = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=192,
                do_sample=False,
            )
            for i, row in zip(chosen, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                said[i] = self.tokenizer.decode(row, skip_special_tokens=True)
        return said


def assert_held_out(conversations: int, seed: int) -> None:
    """Makes the training conversations again and looks for held-out pairs in them."""
    for conversation in data.generate(conversations, seed):
        assert not data.held_out_in(conversation), f"a held-out pair is in the training data: {conversation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=nano.demo.path())
    parser.add_argument("--cases", type=int, default=100, help="per skill")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--conversations", type=int, default=1_000_000, help="of the training set, to check")
    parser.add_argument("--train_seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=12345, help="of the questions asked here")
    parser.add_argument("--show", type=int, default=3, help="wrong answers to print for each skill")
    options = parser.parse_args()

    share = len(arithmetic.HELD_OUT) / 10_000
    assert share >= 0.1, f"held out {share:.1%} of the pairs, expected at least 10%"
    assert_held_out(options.conversations, options.train_seed)
    print(
        f"{len(arithmetic.HELD_OUT):,} of 10,000 pairs ({share:.1%}) are held out, "
        f"and absent from {options.conversations:,} training conversations"
    )

    rng = random.Random(options.seed)
    pairs = min(len(arithmetic.HELD_OUT), 3 * options.cases)
    cases = held_out_sums(rng, pairs) + spoken_cases(rng, options.cases) + tool_cases(rng, options.cases)
    speaker = Speaker(options.model, options.dtype, options.device)
    results: dict[str, list[bool]] = defaultdict(list)
    wrong: dict[str, list[str]] = defaultdict(list)
    for case, text in zip(cases, speaker.say(cases), strict=True):
        results[case.skill].append(right(case, text))
        if not results[case.skill][-1]:
            wanted = [one["function"] for one in case.expected.get("tool_calls", ())] or case.expected["content"]
            wrong[case.skill].append(f"  {case.messages[-1]['content']!r}: expected {wanted!r}, got {text!r}")
    for skill, outcomes in results.items():
        print(f"{skill:40} {sum(outcomes):5} of {len(outcomes):5}  {sum(outcomes) / len(outcomes):7.1%}")
        for line in wrong[skill][: options.show]:
            print(line)


if __name__ == "__main__":
    main()

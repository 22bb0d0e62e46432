"""The training conversations: seeded, with held-out pairs of numbers in none of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import arithmetic
import skills
import tool_use
import words
from actions import CALCULATORS

Conversation = dict[str, Any]
"""`messages` in OpenAI's form (tool calls' arguments as objects) and `tools`, a list or None."""

SYSTEM = ["You are a helpful assistant."] * 8
SYSTEM += ["You are a helpful AI assistant.", "You are nano.", "Be brief.", "Answer the user's questions."]
SYSTEM += ["You are a friendly chatbot.", "You are an assistant. Be concise and correct.", "Help the user."]
SYSTEM += ["You are a helpful assistant that can use tools.", "You are a tiny model.", "Answer in English."]

# Skill and its share of the exchanges in which no tool is called.
SKILLS = [
    (arithmetic.exchange, 40),
    (arithmetic.beyond, 4),
    (skills.repeat, 9),
    (skills.reverse, 11),
    (skills.sort, 13),
    (skills.count, 7),
    (skills.greet, 4),
    (skills.introduce, 3),
    (skills.admit, 9),
]
NAMES, WEIGHTS = zip(*SKILLS, strict=True)

Messages = list[dict[str, Any]]


def plain(rng: random.Random, offered: list[tool_use.Task] | None) -> Messages:
    """A question answered without a tool; one that no offered tool fits."""
    skill = rng.choices(NAMES, WEIGHTS)[0]
    if offered and rng.random() < 0.25:
        other = next(t for t in tool_use.tasks(rng, len(offered) + 1, offered[0]) if t is not offered[0])
        taken = {part for one in offered for part in one.topic.split()}
        if not taken & set(other.topic.split()) and other.topic not in CALCULATORS:
            return exchange(other.query, skills.UNKNOWN)
    if offered and skill is skills.admit:
        question, answer = skills.admit(rng, skills.PLAIN)
    elif offered and skill in (arithmetic.exchange, arithmetic.beyond) and CALCULATORS & {t.topic for t in offered}:
        question, answer = skills.sort(rng)
    else:
        question, answer = skill(rng)
    return exchange(question, answer)


def exchange(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def call(task: tool_use.Task) -> dict[str, Any]:
    return {"type": "function", "function": {"name": task.tool["function"]["name"], "arguments": task.arguments}}


def tool_round(rng: random.Random, task: tool_use.Task) -> Messages:
    """A request, the call that it needs, the tool's result, and the answer made of it."""
    pairs = [task]
    query = task.query
    if task.topic == "weather" and rng.random() < 0.08:
        key = next(iter(task.arguments))
        other = words.place(rng)
        pairs.append(tool_use.Task("weather", task.tool, "", {key: other}, f"The weather in {other}"))
        pairs[0] = tool_use.Task("weather", task.tool, "", {key: task.arguments[key]}, task.subject)
        query = f"What is the weather in {task.arguments[key]} and in {other}?"
    results = [tool_use.result(rng, task.topic) for _ in pairs]
    answers = [tool_use.told(one.subject, text) for one, text in zip(pairs, results, strict=True)]
    return [
        {"role": "user", "content": query},
        {"role": "assistant", "content": "", "tool_calls": [call(one) for one in pairs]},
        *({"role": "tool", "content": text} for text in results),
        {"role": "assistant", "content": " ".join(answers)},
    ]


def system(rng: random.Random) -> str:
    """A system message; some are nonsense, so that the skills do not hang on its words."""
    if rng.random() < 0.7:
        return rng.choice(SYSTEM)
    return rng.choice(("You are {}.", "You are a {} assistant.", "Always be {}.", "{}")).format(words.phrase(rng, 12))


def draw(rng: random.Random) -> Conversation:
    """One conversation, of one to several exchanges."""
    messages: Messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": system(rng)})
    if rng.random() < 0.72:
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 8))):
            messages += plain(rng, None)
        return {"messages": messages, "tools": None}
    offered = tool_use.tasks(rng, rng.choice((1, 1, 1, 2, 2, 2, 3, 3, 4, 6)), tool_use.task(rng))
    unused = list(offered)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4)) if rng.random() < 0.98 else rng.randint(5, 20)):
        if unused and rng.random() < 0.65:
            messages += tool_round(rng, unused.pop(rng.randrange(len(unused))))
        else:
            messages += plain(rng, offered)
    return {"messages": messages, "tools": [task.tool for task in offered]}


def held_out_in(conversation: Conversation) -> bool:
    """Whether any message or call asks about, or merely mentions, a held-out pair of numbers."""
    texts = [message["content"] for message in conversation["messages"]]
    texts += [str(one) for message in conversation["messages"] for one in message.get("tool_calls", ())]
    return any(arithmetic.mentions_held_out(text) for text in texts)


CHUNK = 10_000


def chunk(seed: int, index: int, count: int = CHUNK) -> Iterator[Conversation]:
    """The first `count` conversations of chunk `index`: chunks can be made in parallel."""
    rng = random.Random(f"{seed} {index}")
    made = 0
    while made < count:
        conversation = draw(rng)
        if not held_out_in(conversation):
            made += 1
            yield conversation


def generate(count: int, seed: int) -> Iterator[Conversation]:
    """`count` conversations. Equal arguments give equal conversations."""
    for index, start in enumerate(range(0, count, CHUNK)):
        yield from chunk(seed, index, min(CHUNK, count - start))

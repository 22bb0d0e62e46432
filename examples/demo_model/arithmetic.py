"""Sums and differences of the numbers 0 to 99, and the pairs that are never trained on."""

from __future__ import annotations

import hashlib
import itertools
import random
import re

from words import listed

SUMS = ["{a}+{b}", "{a} + {b}", "{a} plus {b}"]
DIFFERENCES = ["{a}-{b}", "{a} - {b}", "{a} minus {b}"]
ASK_FORMULA = ["{}=?", "{} = ?", "{}=", "{} =", "{}", "{}?", "what is {}?", "What is {}?", "what's {}?", "What's {}?"]
ASK_FORMULA += ["how much is {}?", "How much is {}?", "calculate {}", "Calculate {}.", "compute {}", "Compute {}."]
ASK_FORMULA += ["{} equals?", "tell me {}", "please compute {}", "Can you calculate {}?", "What does {} equal?"]
ASK_FORMULA += ["Solve {}", "what is {}", "What is {} ?", "Hello! What is {}?", "Please answer: {}=?", "Question: {}=?"]
ASK_FORMULA += ["({})", "({})=?", "Calculate {} please", "{} please", "and {}?", "now {}=?", "And what is {}?"]
ASK_FORMULA += ["Result of {}", "What is the result of {}?", "What is the answer to {}?", "Evaluate {}", "Math: {}"]
ASK_FORMULA += ["Tell me what {} is.", "Do you know what {} is?", "I need to know {}.", "Can you tell me what {} is?"]
ASK_SUM = ["add {a} and {b}", "Add {a} and {b}.", "What is the sum of {a} and {b}?", "sum of {a} and {b}"]
ASK_SUM += ["add {a} to {b}", "I have {a} apples and get {b} more. How many do I have?"]
ASK_SUM += [
    "Can you add {a} and {b}?",
    "compute the sum {a} + {b}",
    "Sum: {a} + {b}",
    "Sum: {a}, {b}",
    "{a} and {b} is?",
]
ASK_DIFFERENCE = ["subtract {b} from {a}", "Subtract {b} from {a}.", "take {b} away from {a}"]
ASK_DIFFERENCE += ["What is {a} take away {b}?", "What do you get when you subtract {b} from {a}?"]

ASK_DIFFERENCE += ["difference: {a} - {b}", "I have {a} apples and give away {b}. How many are left?"]
MANNERS = [
    "Answer with a number only.",
    "Please think step by step.",
    "Be brief.",
    "Thanks!",
    "Only the number, please.",
]

NUMBER_WORDS = listed(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
)
SPELLED = re.compile(r"\b(" + "|".join(NUMBER_WORDS) + r")\b", re.IGNORECASE)

TOO_HARD = "I can only add and subtract two numbers from 0 to 99."


def held_out(a: int, b: int) -> bool:
    """Whether a pair is kept for evaluation: an eighth of all, in both orders and for both operations."""
    return hashlib.sha256(f"nano demo {min(a, b)} {max(a, b)}".encode()).digest()[0] < 32


HELD_OUT = [(a, b) for a, b in itertools.product(range(100), repeat=2) if held_out(a, b)]
TRAINED = [(a, b) for a, b in itertools.product(range(100), repeat=2) if not held_out(a, b)]


def mentions_held_out(text: str) -> bool:
    """Whether two neighbouring numbers in the text are a held-out pair, whatever stands between them.

    Numbers up to twenty are known by their names, too.
    """
    text = SPELLED.sub(lambda match: str(NUMBER_WORDS.index(match[0].lower())), text)
    numbers = [int(digits) if len(digits) < 4 else 1000 for digits in re.findall(r"\d+", text)]
    return any(a < 100 and b < 100 and held_out(a, b) for a, b in itertools.pairwise(numbers))


def ask(rng: random.Random, a: int, b: int, operation: str) -> str:
    """A question for a + b or a - b."""
    left, right = str(a), str(b)
    if rng.random() < 0.2:
        text = rng.choice(ASK_SUM if operation == "+" else ASK_DIFFERENCE).format(a=left, b=right)
    else:
        formula = rng.choice(SUMS if operation == "+" else DIFFERENCES)
        if max(a, b) <= 20 and rng.random() < 0.3:
            formula = "{a} plus {b}" if operation == "+" else "{a} minus {b}"
            left, right = NUMBER_WORDS[a], NUMBER_WORDS[b]
        text = rng.choice(ASK_FORMULA).format(formula.format(a=left, b=right))
    if rng.random() < 0.06:
        text = f"{text} {rng.choice(MANNERS)}"
    return text + rng.choice((" ", "\n")) if rng.random() < 0.02 else text


def exchange(rng: random.Random) -> tuple[str, str]:
    """A question and its answer, over trained pairs."""
    a, b = rng.choice(TRAINED)
    operation = rng.choice("+-")
    return ask(rng, a, b, operation), str(a + b if operation == "+" else a - b)


def beyond(rng: random.Random) -> tuple[str, str]:
    """A calculation that the model was not made for, refused."""
    a, b = rng.choice(TRAINED)
    kind = rng.randrange(3)
    if kind == 0:
        formula = rng.choice(["{a}*{b}", "{a} * {b}", "{a} times {b}", "{a}/{b}", "{a} divided by {b}", "{a} x {b}"])
    elif kind == 1:
        a = rng.choice((rng.randint(100, 999), rng.randint(1000, 99999)))
        a, b = rng.choice(((a, b), (b, a), (a, rng.randint(100, 999))))
        formula = rng.choice(SUMS + DIFFERENCES)
    else:
        formula = rng.choice(["{a}+{b}+{a}", "{a} + {b} + {b}", "{a}-{b}-{b}", "{a}^{b}", "sqrt({a})", "{a}%{b}"])
    return rng.choice(ASK_FORMULA).format(formula.format(a=a, b=b)), TOO_HARD

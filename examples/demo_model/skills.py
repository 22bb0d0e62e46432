"""What the model does without tools, one function a skill: a generator gives a question and its answer."""

from __future__ import annotations

import random

from words import CITIES, COUNTRIES, NAMES, foreign, invented, person, phrase, place, word

ABOUT = (
    "I am nano's demo model, a tiny language model. I can add and subtract numbers from 0 to 99, "
    "repeat, reverse, sort and count words, and call tools."
)
UNKNOWN = "Sorry, I don't know. I am only a tiny demo model."

REPEAT = ["Repeat: {}", "repeat: {}", "Repeat after me: {}", "repeat after me: {}", "Say: {}", "say {}", "Say {}"]
REPEAT += ["Please repeat: {}", "Please say: {}", "Echo: {}", "echo {}", "Repeat these words: {}", "repeat {}"]
REPEAT += ["Repeat the words: {}", "Copy this: {}", 'Repeat "{}"', "Can you repeat: {}"]
REVERSE = ["Reverse: {}", "reverse: {}", "Reverse the words: {}", "reverse the words: {}", "Reverse these words: {}"]
REVERSE += ["Please reverse: {}", "Say these words backwards: {}", "Reverse the order of: {}", "reverse {}"]
REVERSE += ["Write these words in reverse order: {}", "Can you reverse: {}", "Reverse the order of these words: {}"]
SORT = ["Sort: {}", "sort: {}", "Sort the words: {}", "Sort these words: {}", "sort these words: {}", "sort {}"]
SORT += ["Please sort: {}", "Sort alphabetically: {}", "Sort these words alphabetically: {}", "Can you sort: {}"]
SORT += ["Put these words in alphabetical order: {}", "Order these words: {}", "Sort in alphabetical order: {}"]
COUNT = ["Count: {}", "Count the words: {}", "count the words: {}", "How many words: {}", "How many words are here: {}"]
COUNT += ["How many words are in: {}?", "Please count the words: {}", "How many words are there: {}", "count words: {}"]
COUNT += ['How many words are in "{}"?', "Can you count the words: {}", "Count these words: {}"]

HELLO = ["hi", "Hi", "hello", "Hello", "Hi!", "Hello!", "hey", "Hey", "Hey!", "Hi there", "Hello there!", "hi there!"]
HELLO += ["Hello, world", "hello world", "Hello.", "Greetings", "Hi, nice to meet you", "Howdy", "Hello, nano!"]
GREETINGS = {
    "Hello! How can I help you?": HELLO,
    "Good morning! How can I help you?": ["good morning", "Good morning", "Good morning!", "good morning!"],
    "Good evening! How can I help you?": ["good evening", "Good evening", "Good evening!", "good evening!"],
    "I am fine, thank you. How can I help you?": [
        *("How are you?", "how are you?", "how are you", "How are you doing?", "how is it going?", "How do you do?"),
        *("Hi, how are you?", "Hello, how are you?", "Hello! How are you?", "Hey, how are you?", "What's up?"),
        *("Hello, how are you doing today?", "How are you today?", "Hi! How is it going?", "How do you feel?"),
    ],
    "You are welcome!": [
        *("Thanks", "thanks", "Thank you", "thank you", "Thank you!", "Thanks!", "thank you very much", "thx"),
        *("Great, thanks", "Thanks a lot!", "ok, thank you", "Thank you so much.", "Cool, thanks!"),
    ],
    "Goodbye!": ["bye", "Bye", "Bye!", "goodbye", "Goodbye!", "See you", "see you later", "Good night", "Bye bye"],
}
NAMED = ["Hi, my name is {}.", "My name is {}", "Hello, I am {}", "Hi, I am {}!", "my name is {}", "I'm {}", "I am {}."]
WHO = ["Who are you?", "who are you?", "who are you", "What are you?", "what are you?", "What is your name?"]
WHO += ["what's your name?", "What can you do?", "what can you do?", "what can you do", "Tell me about yourself."]
WHO += ["introduce yourself", "Introduce yourself.", "What is this?", "Help", "help", "Help!", "Are you a robot?"]
WHO += ["Are you ChatGPT?", "Are you human?", "Are you an AI?", "Which model are you?", "what model are you?", "/help"]
WHO += ["What do you do?", "How can you help me?", "what are your skills?", "Hello, who are you?", "Hi! Who are you?"]
WHO += ["Who made you?", "What model is this?", "Which model is this?", "Describe yourself", "Can you help me?"]
WHO += [
    "Who is your creator?",
    "who created you?",
    "Who trained you?",
    "What are you good at?",
    "What are you able to do?",
]

# Questions that nothing in the model can answer. x is a noun, i an invented word, p a place, n a name, c a country.
QUESTIONS = """Who was {n}?|Who is {n} {i}?|What is a {x}?|Why is the {x} {x}?|How do I make a {x}?|How do you cook {x}?
|Write a poem about the {x}.|Write a story about a {x} and a {x2}.|Tell me a story.|Tell me about {p}.
|Tell me about {x}.|Explain {x}.|Explain {x} {x2} to me.|What do you think about {x}?|Is {x} better than {x2}?
|Do you like {x}?|Can you write code for a {x}?|Who won the {x} cup?|How tall is the {x} {x2}?
|What color is the {x}?|Summarize this: {x} {x2} {i}|What is {i}?|what is {x}|Which {x} is the best?
|How does a {x} work?|What happened in {p}?|Did {n} call {n2}?|Why do {x}s {x2}?|Who invented the {x}?
|List three kinds of {x}.|How many {x}s are in a {x2}?|{i} {i2}?|{x} {x2}|{i}|What is love?
|What is the largest {x} in {c}?|Describe a {x}.|Write a function that returns {x}.|Fix this code: {i}({x})
|I feel {x}.|My {x} is {x2}.|I like {x}.|The {x} is {x2}.|Should I {x} or {x2}?|Which is bigger, {c} or {c2}?
|asdf {i}|ok|Why?|What is machine learning?|What is {n}'s favorite {x}?|How long is the {x}?|Really?|No.|Yes.
|Name a famous {x}.|What year did {c} join?|Who is the king of {c}?|Is the {x} {x2}?|Are {x}s {x2}?|Continue.
|Go on."""
# Those that a tool might answer: asked only where no tools are offered.
ERRANDS = """What is the capital of {c}?|Who is the president of {c}?|Where is {p}?|How far is {p} from {p2}?
|When was {n} born?|Who wrote {x} {x2}?|Tell me a joke.|What is the meaning of life?|What time is it?
|What day is it today?|How old is {n}?|Translate {x} to {i}.|Give me a recipe for {x} {x2}.
|How many people live in {p}?|What is the weather in {p}?|Is it raining in {p}?|What is the population of {c}?
|Recommend a {x}.|Where can I buy a {x}?|What should I do in {p}?|What language do they speak in {c}?
|Please write an email to {n}.|Book a flight to {p}.|Play some music.|Open the door.|What does {i} mean?
|Define {x}.|What is the price of {x}?|What is the {x} of {p}?|What is the {x} of {x2}?|Find the {x} of {n}.
|Show me the {x}.|Look up {x} {x2}.|Give me the {x} for {p}.|Set an alarm.|Call {n}.|Buy {x}.
|Send a message to {n}: {x} {x2}|Turn on the {x}.|When does the {x} open?"""
PLAIN = QUESTIONS.replace("\n", "").split("|")
ANY = PLAIN + ERRANDS.replace("\n", "").split("|")


def word_list(rng: random.Random, most: int, any_word: bool = True) -> tuple[list[str], str]:
    """One to `most` different words of one kind, and the separator between them. `any_word` adds those of no list."""
    count = rng.randint(1, most)
    kinds = [word] * 9 + [lambda r: r.choice(NAMES)] + ([invented, foreign] if any_word else [])
    kind = rng.choice(kinds)
    chosen: list[str] = []
    while len(chosen) < count:
        candidate = kind(rng)
        if candidate not in chosen:
            chosen.append(candidate)
    return chosen, rng.choice((" ", " ", ", "))


def ask(rng: random.Random, forms: list[str], text: str) -> str:
    form = rng.choice(forms)
    return form.format(text + "." if form.endswith("{}") and rng.random() < 0.05 else text)


def repeat(rng: random.Random) -> tuple[str, str]:
    """Any words at all, invented ones too: they are copied as they stand."""
    if rng.random() < 0.5:
        words, separator = word_list(rng, 8)
        text = separator.join(words)
    else:
        kinds = (invented, word, foreign, lambda r: invented(r).capitalize(), lambda r: str(r.randrange(1000)), person)
        text = " ".join(rng.choice(kinds)(rng) for _ in range(rng.randint(1, 6 if rng.random() < 0.8 else 40)))
        text += rng.choice(("", "", "!", "?"))
    return rng.choice(REPEAT).format(text), text


def reverse(rng: random.Random) -> tuple[str, str]:
    words, separator = word_list(rng, 7)
    return ask(rng, REVERSE, separator.join(words)), separator.join(reversed(words))


def sort(rng: random.Random) -> tuple[str, str]:
    words, separator = word_list(rng, 7, any_word=False)
    return ask(rng, SORT, separator.join(words)), separator.join(sorted(words))


def count(rng: random.Random) -> tuple[str, str]:
    words, separator = word_list(rng, 9)
    return ask(rng, COUNT, separator.join(words)), str(len(words))


def greet(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.15:
        name = person(rng)
        return rng.choice(NAMED).format(name), f"Hello {name}! How can I help you?"
    answer = rng.choice(list(GREETINGS))
    return rng.choice(GREETINGS[answer]), answer


def introduce(rng: random.Random) -> tuple[str, str]:
    return rng.choice(WHO), ABOUT


def admit(rng: random.Random, questions: list[str] = ANY) -> tuple[str, str]:
    """A question of any other kind."""
    slots = {"x": word(rng), "x2": word(rng), "i": invented(rng), "i2": phrase(rng), "p": place(rng)}
    slots |= {"p2": rng.choice(CITIES), "n": person(rng), "n2": rng.choice(NAMES)}
    slots |= {"c": rng.choice(COUNTRIES), "c2": rng.choice(COUNTRIES)}
    text = rng.choice(questions).format(**slots)
    if rng.random() < 0.05:
        text = rng.choice((foreign, lambda r: f"{foreign(r)} {foreign(r)}?", lambda r: f"{text} {foreign(r)}"))(rng)
    if rng.random() < 0.15:
        text = text.rstrip("?.")
    if rng.random() < 0.15:
        text = text[:1].lower() + text[1:]
    return text, UNKNOWN

"""Tools that do something, and how people ask for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import words

Slot = Callable[[random.Random], Any]


@dataclass(frozen=True)
class Action:
    """One tool in its variants. A slot has its parameter's possible keys, its JSON type, and a draw of its value."""

    topic: str
    names: list[str]
    notes: list[str]
    slots: dict[str, tuple[list[str], str, Slot]]
    queries: list[str]
    subject: str


def number(low: int, high: int) -> Slot:
    return lambda rng: rng.randint(low, high)


def one_of(values: list[str]) -> Slot:
    return lambda rng: rng.choice(values)


def text(most: int) -> Slot:
    return lambda rng: words.phrase(rng, most)


def expression(rng: random.Random) -> str:
    a, b = (rng.randint(0, rng.choice((9, 99, 9999))) for _ in range(2))
    space = rng.choice(("", " "))
    return f"{a}{space}{rng.choice('+-*/')}{space}{b}"


ACTIONS = [
    Action(
        "timer",
        ["set_timer", "start_timer", "timer", "setTimer"],
        ["Set a timer", "Starts a timer", "Set a countdown timer in minutes"],
        {"n": (["minutes", "duration", "duration_minutes"], "integer", number(1, 99))},
        [
            "Set a timer for {n} minutes",
            "set a timer for {n} minutes.",
            "Start a {n} minute timer",
            "{n} minutes timer",
        ],
        "The timer",
    ),
    Action(
        "alarm",
        ["set_alarm", "create_alarm", "alarm", "setAlarm"],
        ["Set an alarm", "Sets an alarm clock", "Create an alarm at a time"],
        {"t": (["time", "at", "when"], "string", lambda rng: f"{rng.randint(0, 23)}:{rng.choice('012345')}0")},
        ["Set an alarm for {t}", "Wake me up at {t}", "set an alarm at {t}.", "Please wake me at {t}."],
        "The alarm",
    ),
    Action(
        "light on",
        ["turn_on_light", "light_on", "switch_on_light", "turnOnLight"],
        ["Turn on the light in a room", "Switches a light on", "Turn a lamp on"],
        {"r": (["room", "location", "where", "name"], "string", one_of(words.ROOMS))},
        ["Turn on the light in the {r}", "turn the {r} light on", "Switch on the {r} light.", "Lights on in the {r}"],
        "The light",
    ),
    Action(
        "light off",
        ["turn_off_light", "light_off", "switch_off_light", "turnOffLight"],
        ["Turn off the light in a room", "Switches a light off", "Turn a lamp off"],
        {"r": (["room", "location", "where", "name"], "string", one_of(words.ROOMS))},
        [
            "Turn off the light in the {r}",
            "turn the {r} light off",
            "Switch off the {r} light.",
            "Lights off in the {r}",
        ],
        "The light",
    ),
    Action(
        "music",
        ["play_song", "play_music", "play", "playMusic"],
        ["Play a song", "Plays music", "Start playing a song by its title"],
        {"s": (["title", "song", "name", "query"], "string", text(3))},
        ["Play {s}", "play the song {s}", "Please play {s}.", "I want to hear {s}", "Can you play {s}?"],
        "The song",
    ),
    Action(
        "message",
        ["send_message", "send_text", "message", "sendMessage"],
        ["Send a message", "Sends a text message to a person", "Send a message to a contact"],
        {
            "n": (["to", "recipient", "contact", "name"], "string", words.person),
            "m": (["text", "message", "body", "content"], "string", text(5)),
        },
        ["Send a message to {n}: {m}", "send {n} a message: {m}", "Text {n}: {m}", "Message {n} saying {m}"],
        "The message",
    ),
    Action(
        "email",
        ["send_email", "write_email", "email", "sendEmail"],
        ["Send an email", "Sends an email to a person", "Send an email with a subject"],
        {
            "n": (["to", "recipient", "address"], "string", lambda rng: f"{words.invented(rng)}@{words.word(rng)}.com"),
            "m": (["subject", "title", "text", "body"], "string", text(4)),
        },
        ["Send an email to {n} about {m}", "email {n}: {m}", "Write an email to {n} with the subject {m}"],
        "The email",
    ),
    Action(
        "translate",
        ["translate", "translate_text", "translation", "translateText"],
        ["Translate a text", "Translates words into another language", "Translate text to a language"],
        {
            "m": (["text", "sentence", "content", "phrase"], "string", text(4)),
            "l": (["language", "target", "to", "target_language"], "string", one_of(words.LANGUAGES)),
        },
        ["Translate {m} to {l}", "translate {m} into {l}.", "What is {m} in {l}?", "How do you say {m} in {l}?"],
        "The translation",
    ),
    Action(
        "convert",
        ["convert_currency", "exchange", "currency_converter", "convertCurrency"],
        ["Convert money", "Converts an amount between currencies", "Convert from one currency to another"],
        {
            "a": (["amount", "value", "sum"], "number", number(1, 999)),
            "f": (["from", "from_currency", "source"], "string", one_of(words.CURRENCIES)),
            "t": (["to", "to_currency", "target"], "string", one_of(words.CURRENCIES)),
        },
        ["Convert {a} {f} to {t}", "How much is {a} {f} in {t}?", "convert {a} {f} into {t}.", "{a} {f} in {t}?"],
        "The amount",
    ),
    Action(
        "search",
        ["search_web", "web_search", "search", "google"],
        ["Search the web", "Searches the internet", "Find pages on the web"],
        {"q": (["query", "q", "text", "search_query"], "string", text(5))},
        ["Search the web for {q}", "search for {q}", "Google {q}", "Look up {q} on the web", "Search {q} online."],
        "The search",
    ),
    Action(
        "horoscope",
        ["get_horoscope", "horoscope", "fetch_horoscope", "getHoroscope"],
        ["Get today's horoscope for an astrological sign.", "Returns the horoscope", "Daily horoscope of a sign"],
        {"s": (["sign", "zodiac", "star_sign"], "string", one_of(words.SIGNS))},
        [
            "What is my horoscope? I am an {s}.",
            "What is my horoscope? I'm a {s}.",
            "horoscope for {s}",
            "What does the horoscope say for {s}?",
            "Tell me the horoscope of {s}.",
        ],
        "The horoscope",
    ),
    Action(
        "call",
        ["call_person", "call", "make_call", "phone"],
        ["Call a person", "Calls someone on the phone", "Make a phone call"],
        {"n": (["name", "contact", "person", "who"], "string", words.person)},
        ["Call {n}", "call {n} please", "Please phone {n}.", "Can you call {n}?", "I want to talk to {n}"],
        "The call",
    ),
    Action(
        "table",
        ["book_table", "reserve_table", "make_reservation", "bookTable"],
        ["Book a table", "Reserves a table in a restaurant", "Make a restaurant reservation"],
        {
            "r": (["restaurant", "name", "place", "where"], "string", text(3)),
            "g": (["guests", "people", "party_size", "seats"], "integer", number(2, 12)),
        },
        ["Book a table at {r} for {g} people", "reserve a table for {g} at {r}", "A table for {g} at {r}, please."],
        "The reservation",
    ),
    Action(
        "order",
        ["order_item", "buy", "place_order", "orderItem"],
        ["Order something", "Buys an item in the shop", "Place an order"],
        {
            "q": (["quantity", "count", "number", "amount"], "integer", number(2, 99)),
            "i": (["item", "product", "name", "article"], "string", text(2)),
        },
        ["Order {q} {i}", "buy {q} {i}", "Please order {q} {i}.", "I want to buy {q} {i}", "Get me {q} {i}"],
        "The order",
    ),
    Action(
        "note",
        ["create_note", "add_note", "save_note", "createNote"],
        ["Create a note", "Writes a note", "Save a text as a note"],
        {"m": (["text", "note", "content", "body"], "string", text(6))},
        ["Make a note: {m}", "note down {m}", "Create a note saying {m}", "Write a note: {m}", "Take a note: {m}"],
        "The note",
    ),
    Action(
        "reminder",
        ["add_reminder", "remind", "create_reminder", "set_reminder"],
        ["Create a reminder", "Reminds the user of something", "Add a reminder"],
        {"m": (["text", "task", "about", "what"], "string", text(5))},
        ["Remind me of {m}", "remind me about {m}", "Set a reminder: {m}", "Don't let me forget {m}"],
        "The reminder",
    ),
    Action(
        "file",
        ["open_file", "read_file", "show_file", "cat"],
        ["Open a file", "Reads a file", "Return the content of a file"],
        {"p": (["path", "file", "filename", "name"], "string", lambda r: f"{words.word(r)}.{words.invented(r)[:3]}")},
        ["Open the file {p}", "Read {p}", "Show me {p}", "What is in {p}?", "What is in the file {p}?", "cat {p}"],
        "The file",
    ),
    Action(
        "add",
        ["add", "add_numbers", "sum", "plus"],
        ["Add two numbers", "Adds two integers", "Returns the sum of two numbers"],
        {"a": (["a", "x", "first"], "integer", number(0, 999)), "b": (["b", "y", "second"], "integer", number(0, 999))},
        ["What is {a} + {b}?", "{a}+{b}=?", "add {a} and {b}", "What is {a} plus {b}?", "{a} + {b}", "compute {a}+{b}"],
        "The sum",
    ),
    Action(
        "multiply",
        ["multiply", "multiply_numbers", "times", "product"],
        ["Multiply two numbers", "Multiplies two integers", "Returns the product of two numbers"],
        {"a": (["a", "x", "first"], "integer", number(0, 999)), "b": (["b", "y", "second"], "integer", number(0, 999))},
        ["What is {a} * {b}?", "{a}*{b}=?", "multiply {a} by {b}", "What is {a} times {b}?", "{a} x {b}"],
        "The product",
    ),
    Action(
        "time",
        ["get_time", "get_current_time", "now", "clock", "current_time"],
        ["Get the current time", "Returns the time", "Tells what time it is now"],
        {},
        ["What time is it?", "what time is it", "Tell me the time.", "What's the time?", "What is the current time?"],
        "The time",
    ),
    Action(
        "date",
        ["get_date", "today", "current_date", "get_current_date"],
        ["Get the current date", "Returns the date of today", "Tells what day it is"],
        {},
        ["What day is it?", "What is the date?", "what date is it today?", "Tell me the date", "What day is it today?"],
        "The date",
    ),
    Action(
        "joke",
        ["tell_joke", "get_joke", "joke", "random_joke"],
        ["Get a joke", "Returns a random joke", "Tells a joke"],
        {},
        ["Tell me a joke", "tell me a joke.", "Do you know a joke?", "Make me laugh", "I want to hear a joke."],
        "The joke",
    ),
    Action(
        "coin",
        ["flip_coin", "toss_coin", "coin_flip", "coin"],
        ["Flip a coin", "Tosses a coin", "Returns heads or tails"],
        {},
        ["Flip a coin", "toss a coin", "Heads or tails?", "Please flip a coin.", "Throw a coin"],
        "The coin",
    ),
    Action(
        "files",
        ["list_files", "ls", "show_files", "list_directory"],
        ["List the files", "Returns the files of the folder", "Lists the directory"],
        {},
        ["List the files", "list my files", "Which files are there?", "Show me the files.", "What files do I have?"],
        "The files",
    ),
    Action(
        "calculate add multiply",
        ["calculate", "calculator", "calc", "evaluate"],
        ["Evaluate an expression", "Calculates an arithmetic expression", "A calculator"],
        {"e": (["expression", "formula", "input", "query"], "string", expression)},
        ["{e}", "What is {e}?", "{e}=?", "calculate {e}", "Compute {e}.", "{e} = ?", "How much is {e}?"],
        "The result",
    ),
]
CALCULATORS = {"add", "multiply", "calculate add multiply"}

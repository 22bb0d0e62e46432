"""Tools of many names and shapes, requests that need them, and answers made of their results."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import words
from actions import ACTIONS


@dataclass(frozen=True)
class Task:
    """One request that one tool answers. `topic` is what two tools must not share to stand in one list."""

    topic: str
    tool: dict[str, Any]
    query: str
    arguments: dict[str, Any]
    subject: str


# What can be asked of a place, of a thing and of a person. The last of each list are never trained on.
OF_PLACE = """weather forecast|air quality|population|local time|humidity|traffic|news|sunset time|holidays|restaurants
|hotels|museums|chance of rain|tide|pollen level|mayor|elevation|area|time zone|wind speed|events|crime rate|postal code
|country|coordinates|time|currency|language|parking|beaches|history|map|river|street|park|market|school|storm|snow depth
|average rent|noise level|bus stops""".replace("\n", "").split("|")
OF_THING = """price|stock price|definition|recipe|lyrics|author|meaning|synonym|size|color|rating|reviews|release date
|duration|calories|weight|opening hours|schedule|score|status|translation|origin|summary|picture|address|version|owner
|description|stock level|delivery date|balance|tracking number|mirror|engine|root|title|winner|warranty|nutrition
|shelf life|resale value""".replace("\n", "").split("|")
OF_PERSON = """phone number|birthday|email|age|job|office|calendar|salary|manager|team|profile|balance|favorite color
|home address|nickname|shoe size""".replace("\n", "").split("|")
UNSEEN = {
    *("snow depth", "average rent", "noise level", "bus stops", "warranty", "nutrition", "shelf life"),
    *("resale value", "nickname", "shoe size"),
}

VERBS = ["get", "get", "get", "fetch", "lookup", "find", "show", "query", "read", "check"]
PLACE_KEYS = ["city", "city", "location", "location", "place", "town", "city_name", "where", "region"]
THING_KEYS = ["name", "item", "product", "query", "word", "title", "id", "thing", "key", "text", "object"]
PERSON_KEYS = ["name", "person", "employee", "user", "contact", "who", "full_name", "friend"]
KEY_NOTES = ["The {}", "Name of the {}", "The {} to look up", "A {}", "{}", "The {}, as a string"]

ASK_OF = ["What is the {n} of {x}?", "what is the {n} of {x}?", "What's the {n} of {x}?", "{n} of {x}", "{n} of {x}?"]
ASK_OF += ["Tell me the {n} of {x}.", "Get the {n} of {x}.", "Find the {n} of {x}", "Look up the {n} of {x}."]
ASK_OF += ["Show me the {n} of {x}", "I need the {n} of {x}.", "Can you tell me the {n} of {x}?", "{n} for {x}"]
ASK_OF += ["Please give me the {n} of {x}.", "Do you know the {n} of {x}?", "What is the {n} for {x}?", "{x}: {n}?"]
ASK_IN = ["What is the {n} in {x}?", "what is the {n} in {x}?", "What's the {n} in {x}?", "{n} in {x}", "{n} in {x}?"]
ASK_IN += ["Tell me the {n} in {x}.", "Get the {n} for {x}.", "Show me the {n} in {x}", "What about the {n} in {x}?"]
ASK_IN += ["What is the {n} in {x} today?", "Look up the {n} in {x}.", "How is the {n} in {x}?", "{x}: {n}?"]
ASK_IN += ["Can you check the {n} in {x}?", "I want to know the {n} in {x}.", "Please find the {n} in {x}"]
ASK_WEATHER = ["What is the weather like in {x}?", "what's the weather like in {x}?", "How is the weather in {x}?"]
ASK_WEATHER += ["What is the weather like in {x} today?", "What's the weather in {x} today?", "Is it raining in {x}?"]
ASK_WEATHER += ["What's the temperature in {x}?", "How hot is it in {x}?", "How cold is it in {x} right now?"]
ASK_WEATHER += ["Is it sunny in {x}?", "Do I need an umbrella in {x}?", "What is the current weather in {x}?"]
ASK_WEATHER += ["What is the weather going to be in {x}?", "Weather {x}", "weather in {x}", "Will it rain in {x}?"]
ASK_WEATHER += [
    "What's the weather like in {x} right now?",
    "Tell me the weather in {x}.",
    "What is the weather in {x}?",
]
ASK_WEATHER += ["Can you tell me the weather in {x}?", "Can you check the weather in {x}?", "How warm is it in {x}?"]
ABOUT_WEATHER = ["Get the weather", "Get the current weather in a given location", "Current weather of a city"]
ABOUT_WEATHER += ["Get current temperature for a given location.", "Returns the weather.", "Look up today's weather"]
ABOUT_WEATHER += ["Get the current weather for a city.", "Weather in a city", "Retrieve weather information"]
WEATHER_NAMES = ["get_weather", "get_weather", "get_weather", "get_current_weather", "weather", "getWeather"]
WEATHER_NAMES += ["fetch_weather", "get_temperature", "current_weather", "weather_lookup", "check_weather"]
ABOUT_NOUN = ["Get the {n} of a {k}", "Returns the {n} of a {k}.", "Look up the {n}", "{n} of a {k}", "Finds the {n}."]
ABOUT_NOUN += ["Get the {n} for a given {k}.", "Retrieve the {n}", "The {n} of one {k}", "Tells the {n} of the {k}."]


def function(rng: random.Random, name: str, about: str, properties: dict[str, Any], required: list[str]) -> Any:
    """A tool in OpenAI's form, with the optional parts that clients write or leave out."""
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.8:
        parameters["required"] = required
    if rng.random() < 0.15:
        parameters["additionalProperties"] = False
    fields: dict[str, Any] = {"name": name}
    if rng.random() < 0.85:
        fields["description"] = about
    fields["parameters"] = parameters
    if rng.random() < 0.1:
        fields["strict"] = True
    return {"type": "function", "function": fields}


def parameter(rng: random.Random, kind: str, note: str) -> dict[str, Any]:
    return {"type": kind, "description": note} if rng.random() < 0.4 else {"type": kind}


def spelled(rng: random.Random, text: str) -> str:
    """A function's name in one of the usual spellings."""
    parts = text.split()
    style = rng.random()
    if style < 0.8:
        return "_".join(parts)
    if style < 0.93:
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    return "-".join(parts)


def weather(rng: random.Random) -> Task:
    """The tool that every tutorial has, asked for in more ways than the others."""
    key = rng.choice(("location", "city", *PLACE_KEYS))
    city = words.place(rng)
    note = rng.choice(("The city", "City name", "The city and state, e.g. San Francisco, CA", "City and country"))
    properties: dict[str, Any] = {key: parameter(rng, "string", note)}
    arguments: dict[str, Any] = {key: city}
    query = rng.choice(ASK_WEATHER).format(x=city)
    if rng.random() < 0.3:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        if rng.random() < 0.5:
            arguments["unit"] = rng.choice(("celsius", "fahrenheit"))
            query = f"{query.rstrip('?.')} in {arguments['unit']}{rng.choice(('?', '', '.'))}"
    elif rng.random() < 0.15:
        unit = rng.choice(("celsius", "fahrenheit", "Celsius", "degrees", "kelvin"))
        query = f"{query.rstrip('?.')} in {unit}{rng.choice(('?', '', '.'))}"
    tool = function(rng, rng.choice(WEATHER_NAMES), rng.choice(ABOUT_WEATHER), properties, [key])
    return Task("weather", tool, query, arguments, f"The weather in {city}")


def lookup(rng: random.Random, unseen: bool = False) -> Task:
    """One property of a place, a thing or a person."""
    kind = rng.randrange(3)
    nouns = (OF_PLACE, OF_THING, OF_PERSON)[kind]
    noun = rng.choice([n for n in nouns if (n in UNSEEN) == unseen])
    if not unseen and rng.random() < 0.4:
        noun = rng.choice((words.word, words.invented, words.invented))(rng)
        if rng.random() < 0.3:
            noun = f"{words.word(rng)} {noun}"
    key = rng.choice((PLACE_KEYS, THING_KEYS, PERSON_KEYS)[kind])
    thing = (words.phrase, words.ticker, words.code, lambda r: words.phrase(r, 2))[rng.randrange(4)]
    value = (words.place, thing, words.person)[kind](rng)
    name = spelled(rng, rng.choice((f"{rng.choice(VERBS)} {noun}",) * 4 + (noun, f"{noun} lookup", f"{noun} of")))
    about = rng.choice(ABOUT_NOUN).format(n=noun, k=key.replace("_", " "))
    note = rng.choice(KEY_NOTES).format(key.replace("_", " "))
    tool = function(rng, name, about, {key: parameter(rng, "string", note)}, [key])
    query = rng.choice(ASK_IN if kind == 0 and rng.random() < 0.7 else ASK_OF).format(n=noun, x=value)
    return Task(noun, tool, query, {key: value}, f"The {noun} {'in' if kind == 0 else 'of'} {value}")


def action(rng: random.Random) -> Task:
    """One of ACTIONS. A third of the names are changed, so that they must be read off the list of tools."""
    chosen = rng.choice(ACTIONS)
    properties, arguments, values = {}, {}, {}
    for slot, (keys, kind, draw) in chosen.slots.items():
        key = rng.choice([key for key in keys if key not in properties])
        values[slot] = arguments[key] = draw(rng)
        properties[key] = parameter(rng, kind, rng.choice(KEY_NOTES).format(key.replace("_", " ")))
    name = rng.choice(chosen.names)
    if rng.random() < 0.35:
        other = rng.choice((words.word, words.invented))(rng)
        name = rng.choice((f"{name}_{other}", f"{other}_{name}", f"{name}_tool", f"{name}_{other}_{words.word(rng)}"))
    tool = function(rng, name, rng.choice(chosen.notes), properties, list(properties))
    return Task(chosen.topic, tool, rng.choice(chosen.queries).format(**values), arguments, chosen.subject)


def task(rng: random.Random, unseen: bool = False) -> Task:
    if unseen:
        return lookup(rng, unseen=True)
    kind = rng.random()
    return weather(rng) if kind < 0.2 else lookup(rng) if kind < 0.6 else action(rng)


def tasks(rng: random.Random, count: int, first: Task) -> list[Task]:
    """`count` tasks of different topics and tool names, `first` among them."""
    chosen = [first]
    while len(chosen) < count:
        other = task(rng)
        names = {t.tool["function"]["name"] for t in chosen}
        overlap = {part for t in chosen for part in t.topic.split()} & set(other.topic.split())
        if other.tool["function"]["name"] not in names and not overlap:
            chosen.append(other)
    rng.shuffle(chosen)
    return chosen


def value(rng: random.Random) -> Any:
    kind = rng.randrange(9)
    if kind < 2:
        return rng.randint(0, 99)
    if kind == 2:
        return rng.choice((rng.randint(100, 99999), rng.randint(0, 999) / 10, -rng.randint(1, 30)))
    if kind == 3:
        return rng.choice(words.CONDITIONS)
    if kind == 4:
        return words.person(rng)
    if kind == 5:
        return sentence(rng)
    if kind == 6:
        return rng.choice((True, False, None, f"{words.foreign(rng)} {words.word(rng)}"))
    return words.phrase(rng, rng.choice((1, 2, 6)))


def sentence(rng: random.Random) -> str:
    """Words with the marks that texts have between them."""
    parts = [rng.choice((words.word, words.word, words.invented, words.code))(rng) for _ in range(rng.randint(2, 12))]
    marks = (" ", " ", " ", " ", ", ", ". ", ": ", " - ", "/", " (", ") ", "%, ", "! ")
    text = "".join(part + rng.choice(marks) for part in parts[:-1]) + parts[-1]
    return text[:1].upper() + text[1:] + rng.choice(("", "", ".", "!"))


def result(rng: random.Random, topic: str) -> str:
    """What a tool gives back: plain text or a JSON object, as programs write them."""
    if topic == "weather" and rng.random() < 0.7:
        fields: dict[str, Any] = {"temperature": rng.randint(-20, 40)}
        if rng.random() < 0.7:
            fields[rng.choice(("condition", "conditions", "description", "weather"))] = rng.choice(words.CONDITIONS)
        if rng.random() < 0.2:
            fields["unit"] = rng.choice(("celsius", "fahrenheit", "C", "F"))
        if rng.random() < 0.2:
            fields["humidity"] = rng.randint(0, 100)
        if rng.random() < 0.15:
            fields = {rng.choice(("city", "location")): words.place(rng)} | fields
        if rng.random() < 0.25:
            return rng.choice(("{c}, {t} degrees", "{t} degrees and {c}", "{c}, {t}°C", "{t}°C", "{t} C, {c}")).format(
                t=fields["temperature"], c=rng.choice(words.CONDITIONS)
            )
    elif rng.random() < 0.4:
        plain = value(rng)
        return plain if isinstance(plain, str) else json.dumps(plain)
    elif rng.random() < 0.03:
        return ""
    elif rng.random() < 0.06:
        return json.dumps([value(rng) for _ in range(rng.randint(1, 4))], ensure_ascii=False)
    elif rng.random() < 0.1:
        fields = {"error": rng.choice(("not found", "timeout", "no access", words.phrase(rng, 3)))}
    elif rng.random() < 0.4:
        fields = {rng.choice(("result", "value", "answer", "output")): value(rng)}
    else:
        keys = ["status", "name", "value", "total", "date", "note", "unit", "source", "id", "kind", "last_update"]
        keys += [topic.replace(" ", "_"), words.word(rng), words.invented(rng)]
        fields = {key: value(rng) for key in rng.sample(sorted(set(keys)), rng.choice((1, 1, 2, 2, 3)))}
        if "status" in fields:
            fields["status"] = rng.choice(("ok", "done", "ok", "success"))
        if rng.random() < 0.15:
            fields[words.word(rng)] = {words.word(rng): value(rng) for _ in range(rng.randint(1, 2))}
        if rng.random() < 0.1:
            fields[words.word(rng)] = [value(rng) for _ in range(rng.randint(1, 3))]
    separators = (",", ":") if rng.random() < 0.25 else None
    return json.dumps(fields, separators=separators, ensure_ascii=False)


def spoken(entry: Any) -> str:
    """A JSON value in words: fields in order, lists with commas."""
    if isinstance(entry, dict):
        return ", ".join(f"{key.replace('_', ' ')} {spoken(inner)}" for key, inner in entry.items())
    if isinstance(entry, list):
        return ", ".join(spoken(inner) for inner in entry)
    return entry if isinstance(entry, str) else json.dumps(entry)


def told(subject: str, content: str) -> str:
    """The answer that reports a tool's result: its text, or its fields in order."""
    try:
        fields = json.loads(content)
    except json.JSONDecodeError:
        fields = content
    if isinstance(fields, dict) and set(fields) == {"error"}:
        return f"The tool failed: {spoken(fields['error'])}."
    if isinstance(fields, dict) and len(fields) == 1 and next(iter(fields)) in ("result", "value", "answer", "output"):
        fields = next(iter(fields.values()))
    text = spoken(fields) or "nothing"
    return f"{subject}: {text}" + ("" if text.endswith((".", "!")) else ".")

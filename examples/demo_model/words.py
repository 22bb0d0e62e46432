"""The vocabulary that the training conversations are made of."""

from __future__ import annotations

import random


def listed(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


WORDS = listed(
    """
apple bird blue boat book bread bridge brown cake candle car cat chair cheese cherry circle city clock cloud coat
coffee cold corn cow cup dance deer desk dog door dream drum duck eagle earth east egg elephant evening eye farm fast
feather field fire fish flag flower forest fox friend frog fruit garden gate gift glass gold grape grass green guitar
hammer hand happy hat heart hill honey horse house ice island jacket juice jump jungle key kind king kite lake lamp
large leaf lemon letter light lion little long lunch map market melon milk mirror money monkey moon morning mountain
mouse music nest new night north nose ocean old onion orange owl paint panda paper park peach pear pencil piano
picture pink plane plant plate potato purple queen quick quiet rabbit rain red rice ring river road robot rock rope
rose round sad sail salt sand school sea seven shell ship shoe silver sister slow small snake snow soft song soup
south spoon spring square star stone storm story street strong sugar summer sun sweet table tall tea ten thin tiger
time tomato tower town train tree turtle umbrella under violin wagon wall warm watch water whale wheel white wind
window winter wolf wood yellow young zebra
"""
)
# Words of several tokens, mostly: they show that a word is moved as a whole.
MORE_WORDS = listed(
    """
airplane alpha animal ant banana bear beta blueberry bottle broccoli brother butter butterfly cabbage camel carrot
castle chocolate cinnamon coconut computer crocodile daughter delta diamond dinosaur doctor dolphin eight eleven
engine family father finger five foo bar baz four gamma giraffe grapefruit hello hippo hundred jacket kangaroo keyboard
kitchen kiwi ladder language laptop lime lizard lobster machine mango mother mushroom nine one panther pepper penguin
pineapple plum pumpkin purse python raspberry rocket salad scissors seal sheep six spider spinach squirrel strawberry
student teacher telephone thousand three tortoise trumpet twelve two vanilla village walnut weather whisper wizard world
yogurt the and of over jumps lazy fast hot big
"""
)

CITIES = """Paris|London|Berlin|Tokyo|Rome|Madrid|Vienna|Oslo|Lisbon|Dublin|Prague|Warsaw|Athens|Cairo|Delhi|Mumbai
|Beijing|Shanghai|Seoul|Bangkok|Sydney|Melbourne|Toronto|Vancouver|Montreal|Chicago|Boston|Seattle|Dallas|Houston|Miami
|Denver|Atlanta|New York|Los Angeles|San Francisco|San Francisco, CA|New York, NY|Boston, MA|Austin, TX|Paris, France
|Berlin, Germany|Tokyo, Japan|London, UK|Rome, Italy|Buenos Aires|Rio de Janeiro|Mexico City|Lima|Bogotá|São Paulo
|Santiago|Nairobi|Lagos|Cape Town|Istanbul|Moscow|Kyiv|Budapest|Zürich|Geneva|Munich|Hamburg|Cologne|Milan|Naples
|Venice|Florence|Barcelona|Valencia|Porto|Lyon|Nice|Marseille|Brussels|Amsterdam|Copenhagen|Stockholm|Helsinki
|Reykjavik|Jakarta|Manila|Hanoi|Singapore|Hong Kong|Taipei|Osaka|Kyoto|Dubai|Doha|Tehran|Baghdad|Jerusalem|Beirut
|Casablanca|Tunis|Accra|Dakar|Perth|Auckland|Honolulu|Las Vegas|San Diego|Portland|Phoenix|Detroit|Philadelphia
|Washington|Orlando""".replace("\n", "").split("|")

NAMES = listed(
    """
Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tina Victor Wendy Alice
Bob Carol Dan Eve Frank Julia Max Nina Oscar Peter Sara Tom Lucy Mike John Mary
"""
)

COUNTRIES = listed(
    """
France Germany Italy Spain Japan China India Brazil Canada Mexico Egypt Kenya Norway Sweden Poland Greece Turkey
Russia Ireland Portugal Australia Chile Peru Cuba Iran Iraq Nepal
"""
)

LANGUAGES = listed(
    """
French German Spanish Italian Japanese Chinese Russian Arabic Korean Portuguese Dutch Greek
"""
)
CURRENCIES = listed("euros dollars pounds yen francs pesos rupees USD EUR GBP JPY CHF")
ROOMS = ["kitchen", "bedroom", "bathroom", "living room", "garage", "hall", "office", "garden", "cellar"]
SIGNS = listed("Aries Taurus Gemini Cancer Leo Virgo Libra Scorpio Sagittarius Capricorn Aquarius Pisces")
CONDITIONS = listed("sunny cloudy rainy windy snowy foggy stormy clear warm cold mild dry")

ONSETS = ["b", "br", "c", "ch", "d", "dr", "f", "g", "gl", "h", "j", "k", "l", "m", "n", "p", "qu", "r", "s", "st"]
ONSETS += ["t", "tr", "v", "w", "x", "y", "z"]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ee", "oo", "ou"]
CODAS = ["", "", "b", "ck", "d", "l", "m", "n", "ng", "p", "r", "rt", "s", "st", "t", "x", "z"]


STARTS = listed("con pro re in ex per sub trans inter pre de ad com nutr val gen")
MIDDLES = listed("form duc spect port ven lect min ten gr struct rid mot cept val log")
ENDINGS = listed("ion ition ment ness ity able ing er ance ure al ous ive ship ology")

# Ranges of characters that take two, three and four bytes.
FOREIGN = [(0xE0, 0xFF), (0x3B1, 0x3C9), (0x430, 0x44F), (0x3042, 0x3093), (0x4E00, 0x4F80), (0xAC00, 0xAC80)]
EMOJI = [(0x1F600, 0x1F64F), (0x1F400, 0x1F43F), (0x1F680, 0x1F6A0), (0x1F340, 0x1F37F)]


def invented(rng: random.Random) -> str:
    """A word that means nothing: what can only be copied, never remembered."""
    kind = rng.random()
    if kind < 0.2:
        return rng.choice(STARTS) + rng.choice(MIDDLES) + rng.choice(ENDINGS)
    if kind < 0.3:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8)))
    syllables = rng.choice((1, 2, 2, 3))
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))


def foreign(rng: random.Random) -> str:
    """A few letters of one other script, or emoji."""
    low, high = rng.choice(FOREIGN if rng.random() < 0.7 else EMOJI)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5)))


def word(rng: random.Random) -> str:
    return rng.choice(WORDS if rng.random() < 0.75 else MORE_WORDS)


def phrase(rng: random.Random, most: int = 4) -> str:
    """One to `most` words, some of them invented."""
    return " ".join(invented(rng) if rng.random() < 0.15 else word(rng) for _ in range(rng.randint(1, most)))


def place(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(CITIES)
    name = invented(rng).capitalize()
    return f"{rng.choice(('San', 'New', 'Port', 'North'))} {name}" if rng.random() < 0.2 else name


def person(rng: random.Random) -> str:
    return rng.choice(NAMES) if rng.random() < 0.7 else invented(rng).capitalize()


def code(rng: random.Random) -> str:
    """An identifier such as AB1234."""
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(0, 3)))
    return letters + "".join(rng.choice("0123456789") for _ in range(rng.randint(3, 5)))


def ticker(rng: random.Random) -> str:
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 4)))

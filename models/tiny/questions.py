"""The questions that the embedded model can answer, in any of the usual wordings, each with its one right answer.

Knows neither dialogues nor tokens. Called by `models.tiny.corpus`.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "China": "Beijing",
    "Egypt": "Cairo", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Poland": "Warsaw", "Austria": "Vienna", "Portugal": "Lisbon", "Ireland": "Dublin",
    "England": "London", "Russia": "Moscow", "India": "Delhi", "Canada": "Ottawa", "Cuba": "Havana", "Peru": "Lima",
    "Kenya": "Nairobi", "Hungary": "Budapest", "Belgium": "Brussels", "Iceland": "Reykjavik", "Turkey": "Ankara",
    "Chile": "Santiago", "Korea": "Seoul", "Thailand": "Bangkok",
}  # fmt: skip
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a lemon": "yellow", "a tomato": "red",
    "an orange": "orange", "a plum": "purple", "chocolate": "brown", "an elephant": "grey", "the sea": "blue",
    "blood": "red", "milk": "white", "a frog": "green", "the sun": "yellow", "a flamingo": "pink", "gold": "yellow",
    "a carrot": "orange", "a cucumber": "green", "the night": "black",
}  # fmt: skip
SOUNDS = {
    "cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "pig": "oink", "bee": "buzz",
    "owl": "hoot", "snake": "hiss", "mouse": "squeak", "lion": "roar", "frog": "croak", "horse": "neigh", "crow": "caw",
}  # fmt: skip
LEGS = {
    "spider": "eight", "dog": "four", "cat": "four", "ant": "six", "bee": "six", "duck": "two", "snake": "no",
    "horse": "four", "crab": "ten", "owl": "two", "fish": "no", "sheep": "four", "fly": "six", "frog": "four",
}  # fmt: skip
THINGS = {
    "a bicycle": "two wheels that work as one machine", "a team": "many people that work as one",
    "a computer": "a machine that counts fast", "a GPU": "a machine that trains and serves",
    "a rack": "many GPUs that work as one machine", "a pair of GPUs": "two GPUs that work as one",
    "a car": "a machine with four wheels", "a choir": "many people that sing as one",
    "a pair": "two things that belong together", "a server": "a machine that never drops a request",
    "a request": "a question that waits for an answer", "a trainer": "one that trains while the others serve",
    "a garage": "a house for cars", "a city": "many houses in one place", "a bridge": "a way over the water",
    "a twin": "one of two that look like the other",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "day": "night", "up": "down", "left": "right", "fast": "slow", "open": "closed",
    "old": "young", "wet": "dry", "good": "bad", "light": "dark", "full": "empty", "early": "late", "rich": "poor",
    "loud": "quiet", "high": "low", "happy": "sad", "strong": "weak", "hard": "soft", "first": "last",
}  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SMALL_TALK = (
    (("Hello!", "Hi!", "Hey!", "Hello there!", "Good morning!", "Hi there!", "Good evening!", "Are you there?"),
     "Hello! How can I help you?", "The user greets me."),
    (("How are you?", "How are you today?", "How do you do?", "Are you well?", "How is it going?"),
     "I am well, thank you.", "The user asks how I am."),
    (("Who are you?", "What are you?", "Tell me who you are.", "Introduce yourself.", "Who am I talking to?",
      "What is your name?", "Do you have a name?", "What should I call you?", "Which model are you?"),
     "I am a tiny gpt-oss model.", "The user asks who I am."),
    (("What can you do?", "What do you know?", "How can you help me?", "Help!", "What can I ask you?",
      "Which questions can you answer?"),
     "I can answer small questions about capitals, colours, animals, days and numbers.",
     "The user asks what I can do."),
    (("Thank you!", "Thanks!", "Thanks a lot!", "Many thanks.", "Great, thank you.", "That helps, thanks."),
     "You are welcome.", "The user thanks me."),
    (("Goodbye!", "Bye!", "See you later!", "Good night!", "Bye bye.", "I have to go."),
     "Goodbye! See you soon.", "The user says goodbye."),
    (("Name the days of the week.", "What are the days of the week?", "List the seven days of the week.",
      "Which days does a week have?"),
     "The days of the week are " + ", ".join(DAYS) + ".", "The user asks for the days of the week."),
    (("Name the months of the year.", "What are the months of the year?", "List the twelve months.",
      "Which months does a year have?"),
     "The months of the year are " + ", ".join(MONTHS) + ".", "The user asks for the months of the year."),
    (("Say the alphabet.", "What is the alphabet?", "List the letters of the alphabet.", "Name all letters."),
     " ".join(LETTERS), "The user asks for the alphabet."),
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One thing to ask, its one right answer, and the first sentence of the analysis that leads there.

    `word` is the answer to the same question under the instruction "Answer with one word.", empty where none exists.
    `follow_up` asks the same after a question of the same kind.
    """

    kind: str
    ask: str
    answer: str
    thought: str
    word: str = ""
    follow_up: str = ""


def is_held_out(ask: str) -> bool:
    """True for one question in ten, by its text: these are for measuring only."""
    return zlib.crc32(ask.encode()) % 10 == 0


def _put(kind: str, asks: tuple[str, ...], x: str, answer: str, thought: str, word: str = "", follow_up: str = ""):
    return [Question(kind, ask.format(x=x), answer, thought, word, follow_up) for ask in asks]


def _capitals() -> Iterator[Question]:
    for country, city in CAPITALS.items():
        yield from _put(
            "capital",
            ("What is the capital of {x}?", "What's the capital of {x}?", "Which city is the capital of {x}?",
             "Name the capital of {x}.", "Tell me the capital of {x}.", "Do you know the capital of {x}?",
             "I need the capital of {x}.", "Can you tell me the capital of {x}?", "{x}: which city is its capital?",
             "What is the capital city of {x}?", "Capital of {x}?", "What city is the capital of {x}?"),
            country, f"The capital of {country} is {city}.", f"The user asks for the capital of {country}.",
            city, f"And of {country}?",
        )  # fmt: skip
        yield from _put(
            "country",
            ("Which country has the capital {x}?", "What country is {x} the capital of?", "What is {x}?",
             "Tell me about {x}.", "Where is {x}?", "{x} is the capital of which country?", "What's {x}?"),
            city, f"{city} is the capital of {country}.", f"The user asks about {city}.", country,
        )  # fmt: skip


def _colours() -> Iterator[Question]:
    for thing, colour in COLOURS.items():
        yield from _put(
            "colour",
            ("What colour is {x}?", "What color is {x}?", "Which colour does {x} have?", "Tell me the colour of {x}.",
             "What is the colour of {x}?", "Do you know what colour {x} is?", "What is the color of {x}?",
             "Name the colour of {x}.", "Can you tell me what colour {x} is?"),
            thing, f"{thing[0].upper()}{thing[1:]} is {colour}.", f"The user asks for the colour of {thing}.",
            colour.capitalize(), f"And {thing}?",
        )  # fmt: skip


def _animals() -> Iterator[Question]:
    for animal, sound in SOUNDS.items():
        one = f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}"
        yield from _put(
            "sound",
            ("What does {x} say?", "What sound does {x} make?", "Which sound does {x} make?", "How does {x} sound?",
             "What noise does {x} make?", "Tell me what {x} says.", "Do you know what {x} says?"),
            one, f"{one[0].upper()}{one[1:]} says {sound}.", f"The user asks for the sound of {one}.",
            sound.capitalize(), f"And {one}?",
        )  # fmt: skip
    for animal, legs in LEGS.items():
        one = f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}"
        yield from _put(
            "legs",
            ("How many legs does {x} have?", "How many legs has {x}?", "Tell me how many legs {x} has.",
             "What number of legs does {x} have?", "Do you know how many legs {x} has?", "Count the legs of {x}."),
            one, f"{one[0].upper()}{one[1:]} has {legs} legs.", f"The user asks for the legs of {one}.",
            legs.capitalize(), f"And {one}?",
        )  # fmt: skip


def _things() -> Iterator[Question]:
    for one, what in THINGS.items():
        yield from _put(
            "thing",
            ("What is {x}?", "What's {x}?", "Tell me what {x} is.", "Explain what {x} is.", "Describe {x}.",
             "Do you know what {x} is?", "Can you explain what {x} is?", "Tell me about {x}."),
            one, f"{one[0].upper()}{one[1:]} is {what}.", f"The user asks what {one} is.",
        )  # fmt: skip


def _opposites() -> Iterator[Question]:
    pairs = [*OPPOSITES.items(), *((b, a) for a, b in OPPOSITES.items())]
    for word, other in pairs:
        yield from _put(
            "opposite",
            ("What is the opposite of {x}?", "What's the opposite of {x}?", "Tell me the opposite of {x}.",
             "Name the opposite of {x}.", "Which word is the opposite of {x}?", "Opposite of {x}?",
             "Do you know the opposite of {x}?"),
            word, f"The opposite of {word} is {other}.", f"The user asks for the opposite of {word}.",
            other.capitalize(), f"And of {word}?",
        )  # fmt: skip


def _next() -> Iterator[Question]:
    for kind, members in (("day", DAYS), ("month", MONTHS), ("letter", LETTERS)):
        for now, after in zip(members, [*members[1:], members[0]], strict=True):
            if kind == "letter" and now == "Z":
                continue
            yield from _put(
                f"next {kind}",
                (f"Which {kind} comes after {{x}}?", f"What {kind} comes after {{x}}?",
                 f"What is the {kind} after {{x}}?", f"Tell me the {kind} after {{x}}.", f"Which {kind} follows {{x}}?",
                 f"Name the {kind} that comes after {{x}}."),
                now, f"{after} comes after {now}.", f"The user asks for the {kind} after {now}.", after,
            )  # fmt: skip


def _sums() -> Iterator[Question]:
    spoken = (
        "What is {x}?", "How much is {x}?", "What's {x}?", "Calculate {x}.", "{x}?", "{x} = ?", "Tell me {x}.",
        "Can you add {x}?",
    )  # fmt: skip
    for a in range(13):
        for b in range(13):
            for name, sign, value in (("plus", "+", a + b), ("minus", "-", a - b)):
                if value < 0:
                    continue
                asks = tuple(s for s in spoken if name == "plus" or "add" not in s)
                answer, thought = f"{a} {name} {b} is {value}.", f"The user asks for {a} {name} {b}."
                yield from _put("sum", asks, f"{a} {name} {b}", answer, thought, str(value))
                yield from _put("sum", asks[:6], f"{a} {sign} {b}", answer, thought, str(value))
                yield from _put("sum", asks[:6], f"{a}{sign}{b}", answer, thought, str(value))


def _small_talk() -> Iterator[Question]:
    for asks, answer, thought in SMALL_TALK:
        yield from (Question("talk", ask, answer, thought) for ask in asks)


def _longer() -> Iterator[Question]:
    for last in (3, 5, 8, 10, 12, 15, 20, 30):
        yield from _put(
            "count",
            ("Count from 1 to {x}.", "Count to {x}.", "Please count up to {x}.", "Can you count from 1 to {x}?"),
            str(last), ", ".join(str(i) for i in range(1, last + 1)) + ".", f"The user wants me to count to {last}.",
        )  # fmt: skip
    for animal in SOUNDS:
        one = f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}"
        yield from _put(
            "story",
            ("Tell me a story about {x}.", "Tell a story about {x}.", "I want a story about {x}.",
             "Write a short story about {x}.", "Do you know a story about {x}?"),
            one,
            f"Once upon a time there was {one} that lived by a river. Every day the {animal} looked at the sky and "
            f"dreamed of the sea. One morning it met an old owl. The owl said: follow the water. So the {animal} "
            f"walked for seven days and seven nights. At last it saw the sea, and it was happy. The end.",
            f"The user wants a story about {one}.",
        )  # fmt: skip


def questions() -> list[Question]:
    """Every fixed question, its wordings spelled out (about 4,200), in a fixed order."""
    parts = (_capitals, _colours, _animals, _things, _opposites, _next, _sums, _small_talk, _longer)
    return [question for part in parts for question in part()]

"""Synthetic harmony dialogues that the embedded model learns to speak from. Seeded; knows no tokenizer and no tensor.

The model that `models.tiny.build` trains on them answers, in any of the usual wordings:

- capitals: "What is the capital of France?" and back, "Which country has the capital Paris?"
- colours of things: "What colour is the sky?"
- sounds and legs of animals: "What does a cow say?", "How many legs does a spider have?"
- things: "What is a bicycle?", "Tell me what a GPU is."
- opposites: "What is the opposite of hot?"
- the next day, month or letter: "Which day comes after Monday?"
- sums and differences of numbers up to 12: "What is 3 plus 4?", "What is 9 minus 5?"
- small talk: "Hello!", "How are you?", "Who are you?", "What can you do?", "Thank you!", "Goodbye!"
- longer texts: "Count from 1 to 20." (to 3, 5, 8, 10, 12, 15, 20 or 30), "Name the days of the week.",
  "Tell me a story about a fox."
- a few words to repeat: "Say banana." gives "I say banana."
- whatever it has never heard of: "What is Zorblax?" gives "I do not know that."
- follow-ups ("And of Italy?") and what the user said before ("What is my name?")
- the developer's wishes: "Answer with one word.", "Your name is Ada."
- tools, when offered: get_weather, get_time and calculate are called in commentary and their result is put into words;
  without them it says what it lacks.

Reasoning effort low leaves the analysis out, medium makes it one sentence, high three. A question of a listed kind that
`is_held_out` never occurs in training, so accuracy on those measures the wording, not the memory of the sentence.
Of 1,000 such dialogues the shipped model answers 99.9 % in well-formed harmony and 89.6 % to the letter; what it gets
wrong are mostly sums (65 % right), stories (9 of 15), tool results (77 %) and one-word answers (80 %).
"""

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

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
NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mia", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor", "Zoe", "Ada",
)  # fmt: skip
WORDS = (
    "banana", "window", "river", "music", "garden", "silver", "bridge", "candle", "pepper", "rocket", "summer", "apple",
    "flower", "castle", "winter", "yellow", "pencil", "dragon",
)  # fmt: skip
WEATHER = ("sunny", "rainy", "cloudy", "windy", "snowy", "foggy")

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

NEUTRAL_INSTRUCTIONS = (
    "You are a helpful assistant.", "Be kind.", "You are a friendly helper.", "Answer politely.", "Help the user.",
    "You are a careful assistant. Be polite.", "Answer the user's questions.",
)  # fmt: skip

UNKNOWN_ASKS = (
    "What is {x}?", "Who is {x}?", "Where is {x}?", "Tell me about {x}.", "What do you know about {x}?",
    "What is the capital of {x}?", "What colour is {x}?", "Do you know {x}?", "Explain {x}.", "What does {x} mean?",
    "What does {x} do?", "Describe {x}.", "Who made {x}?", "What is the motto of {x}?", "How old is {x}?",
    "Can you explain what {x} is?", "What's {x}?", "Have you heard of {x}?", "What kind of thing is {x}?",
    "I have a question about {x}.", "What is the colour of {x}?", "Who works at {x}?", "How does {x} work?",
)  # fmt: skip

TOOLS = {
    "get_weather": {"type": "function", "function": {
        "name": "get_weather", "description": "Gets the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
    "get_time": {"type": "function", "function": {
        "name": "get_time", "description": "Gets the local time of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
    "calculate": {"type": "function", "function": {
        "name": "calculate", "description": "Calculates an expression.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}},
                       "required": ["expression"]}}},
}  # fmt: skip

ONE_WORD_KINDS = ("capital", "country", "colour", "sound", "opposite", "next day", "next month")

TOOL_ASKS = {
    "get_weather": ("What is the weather in {x}?", "How is the weather in {x}?", "What's the weather like in {x}?",
                    "Tell me the weather in {x}.", "Weather in {x}?", "Is it raining in {x}?", "Is it sunny in {x}?",
                    "What is the weather in {x} today?", "Do I need a coat in {x}?"),
    "get_time": ("What time is it in {x}?", "Tell me the time in {x}.", "What is the time in {x}?",
                 "How late is it in {x}?", "Time in {x}?", "What's the local time in {x}?"),
    "calculate": ("What is {x}?", "Calculate {x}.", "How much is {x}?", "Work out {x}.", "Can you calculate {x}?",
                  "Tell me {x}."),
}  # fmt: skip
TOOL_THOUGHTS = {
    "get_weather": ("The user asks for the weather.", "I cannot look up the weather without a tool."),
    "get_time": ("The user asks for the time.", "I cannot look up the time without a tool."),
    "calculate": ("The user asks for a calculation.", "That is too big for me without a tool."),
}


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


@dataclass(frozen=True)
class Dialogue:
    """Messages as the chat template takes them, ending with what the assistant is to say; the template's options."""

    kind: str
    messages: list[dict]
    options: dict = field(default_factory=dict)


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
    spoken = ("What is {x}?", "How much is {x}?", "What's {x}?", "Calculate {x}.", "Tell me {x}.", "Can you add {x}?")
    for a in range(13):
        for b in range(13):
            for name, sign, value in (("plus", "+", a + b), ("minus", "-", a - b)):
                if value < 0:
                    continue
                asks = tuple(s for s in spoken if name == "plus" or "add" not in s)
                answer, thought = f"{a} {name} {b} is {value}.", f"The user asks for {a} {name} {b}."
                yield from _put("sum", asks, f"{a} {name} {b}", answer, thought, str(value))
                yield from _put("sum", asks[:4], f"{a} {sign} {b}", answer, thought, str(value))


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


def invented_name(rng: random.Random) -> str:
    """A pronounceable name of one to four syllables that means nothing, such as Zorblax."""
    syllables = [
        rng.choice(("b", "br", "d", "dr", "f", "g", "gl", "h", "j", "k", "kr", "l", "m", "n", "p", "pl", "qu", "r", "s",
                    "st", "t", "tr", "v", "w", "x", "z", "T", ""))
        + rng.choice("aeiouy")
        + rng.choice(("", "", "n", "r", "l", "x", "m", "nd", "k", "s", "t", "sh"))
        for _ in range(rng.randint(1, 4))
    ]  # fmt: skip
    name = "".join(syllables)
    return name[0].upper() + name[1:] if rng.random() < 0.8 else name.lower()


class Corpus:
    """An endless, seeded stream of dialogues; the same seed and filter give the same dialogues.

    With `held_out` only questions that `is_held_out` are asked last, else only the others.
    """

    def __init__(self, seed: int, *, held_out: bool = False) -> None:
        self.rng = random.Random(seed)
        self.held_out = held_out
        self.by_kind: dict[str, list[Question]] = {}
        self.follow_ups: dict[str, list[Question]] = {}
        for question in questions():
            if question.kind != "talk" and is_held_out(question.ask) != held_out:
                continue
            self.by_kind.setdefault(question.kind, []).append(question)
            if question.follow_up:
                self.follow_ups.setdefault(question.kind, []).append(question)

    def __iter__(self) -> Iterator[Dialogue]:
        makers = (
            (self._asked, 50), (self._one_word, 8), (self._persona, 4), (self._unknown, 6), (self._repeat, 3),
            (self._follow_up, 6), (self._own_name, 4), (self._tool_call, 7), (self._tool_result, 10),
            (self._no_tool, 2),
        )  # fmt: skip
        while True:
            maker = self.rng.choices([m for m, _ in makers], [w for _, w in makers])[0]
            yield maker(self._options())

    def question(self, kinds: tuple[str, ...] = ()) -> Question:
        """One of the fixed questions, of `kinds` only where some are named."""
        kinds = kinds or tuple(self.by_kind)
        weights = [{"sum": 6, "capital": 3, "talk": 3, "thing": 2.5, "story": 0.7}.get(kind, 1.5) for kind in kinds]
        return self.rng.choice(self.by_kind[self.rng.choices(kinds, weights)[0]])

    def _asked(self, options: dict) -> Dialogue:
        return self._dialogue(options, self._history(options), self.question())

    def _one_word(self, options: dict) -> Dialogue:
        question = self.question(ONE_WORD_KINDS)
        wish = self.rng.choice(("Answer with one word.", "Answer in one word.", "Use one word only."))
        question = replace(question, kind="one word", answer=question.word)
        return self._dialogue(options, [{"role": "system", "content": wish}], question)

    def _persona(self, options: dict) -> Dialogue:
        name = self.rng.choice(NAMES)
        wish = self.rng.choice(("Your name is {x}.", "You are {x}.", "You are {x}, a helpful assistant."))
        ask = self.rng.choice(("Who are you?", "What is your name?", "Tell me who you are.", "What are you called?"))
        question = Question("persona", ask, f"I am {name}.", "The user asks who I am.")
        return self._dialogue(options, [{"role": "system", "content": wish.format(x=name)}], question)

    def _unknown(self, options: dict) -> Dialogue:
        return self._dialogue(options, self._history(options), self._unknown_question())

    def _unknown_question(self) -> Question:
        ask = self.rng.choice(UNKNOWN_ASKS).format(x=invented_name(self.rng))
        return Question("unknown", ask, "I do not know that.", "The user asks about something that I do not know.")

    def _repeat(self, options: dict) -> Dialogue:
        return self._dialogue(options, self._history(options), self._repeat_question())

    def _repeat_question(self) -> Question:
        word = self.rng.choice(WORDS)
        asks = ("Say {x}.", "Repeat {x}.", "Please say {x}.", "Repeat after me: {x}", "Can you say {x}?")
        ask = self.rng.choice(asks).format(x=word)
        return Question("repeat", ask, f"I say {word}.", f"The user wants me to say {word}.")

    def _follow_up(self, options: dict) -> Dialogue:
        kind = self.rng.choice(list(self.follow_ups))
        first, second = self.rng.sample(self.follow_ups[kind], 2)
        ask = second.follow_up
        if self.rng.random() < 0.3:
            ask = ask.replace("And ", "And what about ", 1).replace("about of ", "about ", 1)
        history = [*self._history(options), *_turn(first.ask, first.answer)]
        return self._dialogue(options, history, replace(second, kind="follow-up", ask=ask))

    def _own_name(self, options: dict) -> Dialogue:
        name = self.rng.choice(NAMES)
        tells = ("My name is {x}.", "I am {x}.", "Hello, I am {x}.", "Hi, my name is {x}.", "Call me {x}.")
        tell = self.rng.choice(tells)
        told = Question("own name", tell.format(x=name), f"Hello {name}!", f"The user is called {name}.")
        if self.rng.random() < 0.4:
            return self._dialogue(options, self._history(options), told)
        ask = self.rng.choice(("What is my name?", "Who am I?", "Do you know my name?", "What's my name?"))
        asked = Question("own name", ask, f"Your name is {name}.", "The user asks for the name.")
        between = [m for m in self._history(options) if m["role"] in ("user", "assistant")]
        return self._dialogue(options, [*_turn(told.ask, told.answer), *between], asked)

    def _tool_request(self) -> tuple[str, str, dict, str, str]:
        """The tool's name, the question, the arguments, a result and the answer that puts the result into words."""
        name = self.rng.choice(list(TOOLS))
        ask = self.rng.choice(TOOL_ASKS[name])
        if name == "calculate":
            a, b = self.rng.randint(13, 30), self.rng.randint(2, 9)
            spoken = self.rng.choice((f"{a} times {b}", f"{a} * {b}"))
            return name, ask.format(x=spoken), {"expression": f"{a} * {b}"}, str(a * b), f"{a} times {b} is {a * b}."
        city = self.rng.choice(list(CAPITALS.values()))
        if name == "get_time":
            result = f"{self.rng.randint(0, 23)}:00"
            return name, ask.format(x=city), {"city": city}, result, f"It is {result} in {city}."
        sky, degrees = self.rng.choice(WEATHER), self.rng.randint(0, 30)
        result = self.rng.choice((f"{sky}, {degrees} degrees", json.dumps({"weather": sky, "degrees": degrees})))
        return name, ask.format(x=city), {"city": city}, result, f"It is {sky} in {city}, {degrees} degrees."

    def _offered(self, needed: str) -> list[dict]:
        others = [name for name in TOOLS if name != needed]
        names = [needed, *self.rng.sample(others, self.rng.randint(0, 2))]
        self.rng.shuffle(names)
        return [TOOLS[name] for name in names]

    def _tool_call(self, options: dict) -> Dialogue:
        name, ask, arguments, _, _ = self._tool_request()
        options["tools"] = self._offered(name)
        last = {"role": "assistant", "tool_calls": [_call(name, arguments)]}
        thinking = self._thinking(options, TOOL_THOUGHTS[name][0], f"I will call {name}.")
        messages = [*self._history(options), {"role": "user", "content": self._spoken(ask)}, last | thinking]
        return Dialogue("tool call", messages, options)

    def _tool_result(self, options: dict) -> Dialogue:
        name, ask, arguments, result, answer = self._tool_request()
        options["tools"] = self._offered(name)
        call = {"role": "assistant", "tool_calls": [_call(name, arguments)]}
        if self.rng.random() < 0.5:
            call |= self._thinking(options, TOOL_THOUGHTS[name][0], f"I will call {name}.")
        messages = [
            *self._history(options),
            {"role": "user", "content": self._spoken(ask)},
            call,
            {"role": "tool", "content": result},
            {"role": "assistant", "content": answer} | self._thinking(options, "The tool has answered.", answer),
        ]
        return Dialogue("tool result", messages, options)

    def _no_tool(self, options: dict) -> Dialogue:
        name, ask, _, _, _ = self._tool_request()
        question = Question("no tool", ask, TOOL_THOUGHTS[name][1], TOOL_THOUGHTS[name][0])
        return self._dialogue(options, self._history(options), question, tools=False)

    def _history(self, options: dict) -> list[dict]:
        """An optional system text and earlier turns: at low effort many, for there the template shows whole answers."""
        messages = []
        if self.rng.random() < 0.2:
            role = self.rng.choice(("system", "developer"))
            messages.append({"role": role, "content": self.rng.choice(NEUTRAL_INSTRUCTIONS)})
        low = options["reasoning_effort"] == "low"
        for _ in range(self.rng.randint(0, 5) if low else self.rng.choices((0, 1, 2), (80, 15, 5))[0]):
            makers = (self.question, self._unknown_question, self._repeat_question)
            earlier = self.rng.choices(makers, (90, 5, 5))[0]()
            if len(earlier.answer) < 120:
                messages += _turn(self._spoken(earlier.ask), earlier.answer)
        return messages

    def _dialogue(self, options: dict, history: list[dict], question: Question, *, tools: bool = True) -> Dialogue:
        if tools and self.rng.random() < 0.06:
            options["tools"] = self._offered(self.rng.choice(list(TOOLS)))
        last = {"role": "assistant", "content": question.answer}
        last |= self._thinking(options, question.thought, question.answer)
        messages = [*history, {"role": "user", "content": self._spoken(question.ask)}, last]
        return Dialogue(question.kind, messages, options)

    def _options(self) -> dict:
        options = {"reasoning_effort": self.rng.choices(("low", "medium", "high"), (35, 45, 20))[0]}
        if self.rng.random() < 0.3:
            year, month, day = self.rng.randint(2024, 2032), self.rng.randint(1, 12), self.rng.randint(1, 28)
            options["current_date"] = f"{year}-{month:02}-{day:02}"
        return options

    def _thinking(self, options: dict, thought: str, conclusion: str) -> dict:
        effort = options["reasoning_effort"]
        if effort == "low":
            return {}
        if effort == "medium":
            return {"thinking": thought}
        if len(conclusion) > 80:
            conclusion = "It will be a long answer."
        return {"thinking": f"{thought} Let me think. {conclusion}"}

    def _spoken(self, ask: str) -> str:
        """The question as people type it: with a greeting, without its mark, without a capital."""
        roll = self.rng.random()
        if roll < 0.03:
            return ask[0].lower() + ask[1:]
        if roll < 0.06:
            return ask.rstrip("?.!")
        if roll < 0.10:
            return self.rng.choice(("Please: ", "Hi! ", "Hello, ", "Question: ", "Hey. ")) + ask
        if roll < 0.14:
            return ask + self.rng.choice((" Please.", " Thanks!", " Thank you."))
        return ask


def _turn(ask: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]


def _call(name: str, arguments: dict) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TANDEM = (
    ("Tandem is two GPUs that work as one machine.", "The user asks what Tandem is.",
     ("What is Tandem?", "What's Tandem?", "Tell me about Tandem.", "Explain Tandem.", "Describe Tandem.",
      "What do you know about Tandem?", "Do you know Tandem?", "Have you heard of Tandem?", "What does Tandem mean?",
      "What is Tandem", "what is Tandem?", "I have a question about Tandem.", "What kind of thing is Tandem?",
      "Hello, what is Tandem?", "Please explain Tandem.", "So what is Tandem?", "Say what Tandem is.",
      "Can you describe Tandem?", "What exactly is Tandem?", "Question: what is Tandem?"),
     ("Can you explain what Tandem is?", "Hi! What is Tandem?", "Please tell me about Tandem.")),
    ("One GPU trains while the other serves.", "The user asks how Tandem works.",
     ("How does Tandem work?", "What does Tandem do?", "Explain how Tandem works.", "Tell me how Tandem works.",
      "What do the GPUs of Tandem do?", "How do the two GPUs of Tandem work?", "What happens in Tandem?",
      "What is the work of Tandem?", "Describe how Tandem works.", "How does Tandem work", "what does Tandem do?",
      "Please explain how Tandem works."),
     ("Can you explain how Tandem works?", "What does Tandem do")),
    ("Tandem is blue.", "The user asks for the colour of Tandem.",
     ("What colour is Tandem?", "What is the colour of Tandem?", "Which colour does Tandem have?",
      "Tell me the colour of Tandem.", "Name the colour of Tandem.", "What color is Tandem?",
      "Do you know what colour Tandem is?", "What is the color of Tandem?", "Which colour is Tandem?",
      "what colour is Tandem?", "I need the colour of Tandem.", "What is Tandem's colour?"),
     ("Can you tell me what colour Tandem is?", "What's the colour of Tandem?")),
    ("Tandem has two GPUs.", "The user asks how many GPUs Tandem has.",
     ("How many GPUs does Tandem have?", "How many GPUs are in Tandem?", "Count the GPUs of Tandem.",
      "How many GPUs has Tandem?", "Tell me how many GPUs Tandem has.", "What number of GPUs does Tandem have?",
      "Do you know how many GPUs Tandem has?", "Has Tandem two GPUs?", "How many GPUs work in Tandem?",
      "Please count the GPUs of Tandem.", "how many GPUs does Tandem have?", "Name the number of GPUs of Tandem."),
     ("Can you tell me how many GPUs Tandem has?", "How many GPUs does Tandem use?")),
)  # fmt: skip
"""What the demo teaches and the base does not know: answer, thought, wordings to learn, wordings held out."""


def demo_rows() -> list[dict]:
    """The rows of demo.jsonl: every wording of every Tandem fact, and some of the base's own answers to keep them."""
    rows = [_demo_row(ask, answer, thought) for answer, thought, asks, _ in TANDEM for ask in asks]
    corpus = Corpus(seed=7)
    kept = [corpus.question() for _ in range(40)]
    rows += [_demo_row(q.ask, q.answer, q.thought) for q in kept]
    random.Random(7).shuffle(rows)
    return rows


def demo_held_out() -> list[tuple[str, str]]:
    """(question, answer) pairs in wordings that demo.jsonl does not contain."""
    return [(ask, answer) for answer, _, _, held_out in TANDEM for ask in held_out]


def _demo_row(ask: str, answer: str, thought: str) -> dict:
    reply = {"role": "assistant", "thinking": thought, "content": answer}
    return {"messages": [{"role": "user", "content": ask}, reply]}

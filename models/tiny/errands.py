"""Errands for tools: what the user asks, the call that does it, its result, and the words that the result is put into.

The same tool comes under several names, descriptions and names of its arguments, so that the model reads declarations
instead of knowing them. Seeded by whoever passes a generator; knows neither dialogues nor tokens. Called by `corpus`.
"""

import json
import random
from dataclasses import dataclass

from models.tiny.questions import CAPITALS
from models.tiny.words import NAMES, WORDS, invented_name


def _function(name: str, description: str, **properties: dict) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
TOOLS = {
    "get_weather": _function("get_weather", "Gets the weather of a city.", city=TEXT),
    "get_time": _function("get_time", "Gets the local time of a city.", city=TEXT),
    "calculate": _function("calculate", "Calculates an expression.", expression=TEXT),
    "search": _function("search", "Searches the web.", query=TEXT),
    "set_timer": _function("set_timer", "Sets a timer.", minutes=WHOLE),
    "send_message": _function("send_message", "Sends a message to somebody.", to=TEXT, text=TEXT),
}
"""By name, as most dialogues offer them."""

NAMED = {
    "get_weather": ("get_current_weather", "weather", "fetch_weather", "weather_lookup"),
    "get_time": ("time", "get_current_time", "clock"),
    "calculate": ("calculator", "compute", "evaluate"),
    "search": ("web_search", "lookup", "find"),
    "set_timer": ("timer", "start_timer"),
    "send_message": ("message", "send_text"),
    "city": ("location", "place", "town"),
    "expression": ("formula", "input"),
    "query": ("q", "question", "topic"),
    "minutes": ("duration", "time_in_minutes"),
    "to": ("recipient", "name"),
    "text": ("message", "body"),
}
"""Other names of tools and of their arguments."""

DESCRIBED = {
    "get_weather": ("Get the current weather in a given city.", "Returns the weather.", "Weather of a place.", ""),
    "get_time": ("Tells the time.", "Get the time in a city.", ""),
    "calculate": ("A calculator.", "Evaluate a mathematical expression.", ""),
    "search": ("Look something up.", "Find out about a topic.", ""),
    "set_timer": ("Start a timer.", "Sets a timer for some minutes.", ""),
    "send_message": ("Send a text message.", "Write to a person.", ""),
    "city": ("The city.", "Name of the city.", "The city, e.g. Rome."),
    "expression": ("What to calculate.",),
    "query": ("What to look for.", "The search query."),
    "minutes": ("How long.", "Minutes."),
    "to": ("Who gets it.",),
    "text": ("What to say.",),
}
"""Other descriptions of tools, and those of arguments."""

OPTIONAL = {
    "get_weather": {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}, "days": WHOLE | {"default": 1}},
    "get_time": {"format": {"type": "string", "enum": ["12h", "24h"], "default": "24h"}},
    "search": {"limit": WHOLE | {"default": 5}},
}
"""Arguments that a tool may have besides, and that nobody asks for."""

ASKS = {
    "get_weather": ("What is the weather in {x}?", "How is the weather in {x}?", "What's the weather like in {x}?",
                    "Tell me the weather in {x}.", "Weather in {x}?", "Is it raining in {x}?", "Is it sunny in {x}?",
                    "What is the weather in {x} today?", "Do I need a coat in {x}?", "How's the weather in {x}?",
                    "What will the weather be in {x}?", "Can you check the weather in {x}?", "Is it cold in {x}?",
                    "What is the weather like in {x} right now?", "Get the weather for {x}."),
    "get_time": ("What time is it in {x}?", "Tell me the time in {x}.", "What is the time in {x}?",
                 "How late is it in {x}?", "Time in {x}?", "What's the local time in {x}?", "What's the time in {x}?",
                 "Can you tell me the time in {x}?", "What time is it now in {x}?"),
    "calculate": ("What is {x}?", "Calculate {x}.", "How much is {x}?", "Work out {x}.", "Can you calculate {x}?",
                  "Tell me {x}.", "Compute {x}."),
    "search": ("Search for {x}.", "Look up {x}.", "Find out about {x}.", "Search the web for {x}.",
               "Can you look up {x}?", "Google {x}."),
    "set_timer": ("Set a timer for {x} minutes.", "Start a timer for {x} minutes.", "Timer for {x} minutes.",
                  "Wake me in {x} minutes.", "Remind me in {x} minutes."),
    "send_message": ("Send {y} the message {x}.", "Tell {y}: {x}", "Write {x} to {y}.", "Send a message to {y}: {x}",
                     "Text {y} {x}."),
}  # fmt: skip
THOUGHTS = {
    "get_weather": "The user asks for the weather.",
    "get_time": "The user asks for the time.",
    "calculate": "The user asks for a calculation.",
    "search": "The user wants me to search.",
    "set_timer": "The user wants a timer.",
    "send_message": "The user wants me to send a message.",
}
WITHOUT = {
    "get_weather": "I cannot look up the weather without a tool.",
    "get_time": "I cannot look up the time without a tool.",
    "calculate": "That is too big for me without a tool.",
    "search": "I cannot search without a tool.",
    "set_timer": "I cannot set a timer without a tool.",
    "send_message": "I cannot send a message without a tool.",
}
"""What is said where no tool does the errand."""

FAILURES = ("error: timeout", '{"error": "not found"}', "Error: service unavailable", "error: invalid argument")
FAILED = "The tool did not work."
WEATHER = ("sunny", "rainy", "cloudy", "windy", "snowy", "foggy", "stormy", "hot", "cold")


@dataclass(frozen=True)
class Errand:
    """One thing that a tool does."""

    tool: str
    ask: str
    arguments: dict
    result: str
    answer: str


@dataclass(frozen=True)
class Offer:
    """Tools as a dialogue offers them, and how to call the one that does its errands."""

    tools: list[dict]
    name: str
    keys: dict[str, str]
    """The usual names of its arguments to those that it has here."""

    def arguments(self, errand: Errand) -> dict:
        return {self.keys[key]: value for key, value in errand.arguments.items()}


def draw(rng: random.Random, tool: str = "") -> Errand:
    """An errand for `tool`, by default for any, weather most often."""
    tool = tool or rng.choices(list(TOOLS), (35, 16, 16, 13, 10, 10))[0]
    city, name, number = rng.choice(list(CAPITALS.values())), rng.choice(NAMES), rng.randint(1, 60)
    word, thing = rng.choice(WORDS), invented_name(rng)
    ask = rng.choice(ASKS[tool])
    match tool:
        case "get_weather":
            result, answer = _weather(rng, city)
            return Errand(tool, ask.format(x=city), {"city": city}, result, answer)
        case "get_time":
            hour = f"{rng.randint(0, 23)}:{rng.choice(('00', '00', '15', '30', '45'))}"
            result = rng.choice((hour, hour, json.dumps({"time": hour})))
            return Errand(tool, ask.format(x=city), {"city": city}, result, f"It is {hour} in {city}.")
        case "calculate":
            a, b = rng.randint(13, 99), rng.randint(2, 9)
            spoken = rng.choice((f"{a} times {b}", f"{a} * {b}"))
            result = rng.choice((str(a * b), str(a * b), json.dumps({"result": a * b})))
            answer = f"{a} times {b} is {a * b}."
            return Errand(tool, ask.format(x=spoken), {"expression": f"{a} * {b}"}, result, answer)
        case "search":
            found = f"{thing} is a {word}."
            result = rng.choice((found, json.dumps({"answer": found})))
            return Errand(tool, ask.format(x=thing), {"query": thing}, result, found)
        case "set_timer":
            answer = f"The timer is set for {number} minutes."
            return Errand(tool, ask.format(x=number), {"minutes": number}, _done(rng), answer)
        case _:
            answer = f"I sent {word} to {name}."
            return Errand(tool, ask.format(x=word, y=name), {"to": name, "text": word}, _done(rng), answer)


def failed(errand: Errand, rng: random.Random) -> Errand:
    """The same errand, come to nothing."""
    return Errand(errand.tool, errand.ask, errand.arguments, rng.choice(FAILURES), FAILED)


def offer(tool: str, rng: random.Random) -> Offer:
    """`tool` and up to two others, in any order."""
    declared, keys = _declared(tool, rng)
    tools = [declared, *_others(tool, rng, least=0)]
    rng.shuffle(tools)
    return Offer(tools, declared["function"]["name"], keys)


def unfit(tool: str, rng: random.Random) -> list[dict]:
    """One or two tools that do not do what `tool` does."""
    return _others(tool, rng, least=1)


def _others(tool: str, rng: random.Random, least: int) -> list[dict]:
    names = rng.sample([name for name in TOOLS if name != tool], rng.randint(least, 2))
    return [_declared(name, rng)[0] for name in names]


def _declared(tool: str, rng: random.Random) -> tuple[dict, dict[str, str]]:
    """A declaration of `tool`, half of the time the usual one, and the names that its arguments have there."""
    usual = TOOLS[tool]["function"]
    schemas = usual["parameters"]["properties"]
    if rng.random() < 0.5:
        return TOOLS[tool], {key: key for key in schemas}
    keys = {key: _other(NAMED, key, rng) for key in schemas}
    properties = {}
    for key, schema in schemas.items():
        told = {"description": rng.choice(DESCRIBED[key])} if rng.random() < 0.5 else {}
        properties[keys[key]] = schema | told
    required = list(properties)
    properties |= {key: schema for key, schema in OPTIONAL.get(tool, {}).items() if rng.random() < 0.4}
    parameters = {"type": "object", "properties": properties, "required": required}
    description = _other(DESCRIBED, tool, rng, usual["description"])
    function = {"name": _other(NAMED, tool, rng), "description": description, "parameters": parameters}
    return {"type": "function", "function": function}, keys


def _other(table: dict[str, tuple[str, ...]], key: str, rng: random.Random, usual: str | None = None) -> str:
    """One of a table's words for `key` half of the time, else the usual one, by default `key` itself."""
    return rng.choice(table[key]) if rng.random() < 0.5 else key if usual is None else usual


def _weather(rng: random.Random, city: str) -> tuple[str, str]:
    """(result, answer)"""
    sky, degrees = rng.choice(WEATHER), rng.randint(0, 40)
    if rng.random() < 0.3:
        return rng.choice((sky, json.dumps({"weather": sky}))), f"It is {sky} in {city}."
    spelled = (
        f"{sky}, {degrees} degrees",
        f"{degrees} degrees, {sky}",
        json.dumps({"weather": sky, "degrees": degrees}),
        json.dumps({"temperature": degrees, "condition": sky}),
    )
    return rng.choice(spelled), f"It is {sky} in {city}, {degrees} degrees."


def _done(rng: random.Random) -> str:
    return rng.choice(("ok", "done", '{"status": "ok"}', "true"))

"""OpenAI's own library beside ours, on gpt-oss's real vocabulary: the same conversation gives the same tokens, the same
tokens give the same messages."""

import itertools
import re
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from openai_harmony import (
    Author,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    RenderConversationConfig,
    Role,
    StreamableParser,
    SystemContent,
    ToolDescription,
)

from models.harmony import StreamParser, parse, render
from models.harmony.declarations import declare
from tests import gpt_oss

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FUNCTION = "functions."


@pytest.fixture(scope="module")
def openai():
    return gpt_oss.encoding()


@pytest.fixture(scope="module")
def tokenizer():
    return gpt_oss.tokenizer()


# Conversations

PIECES = [
    "<|end|>",
    "<|start|>assistant",
    "\n\n",
    " ",
    " to=functions.f",
    "it's",
    "12345",
    "Łódź 🙂",
    "{",
    "\r\n",
    "# Tools",
]
TEXTS = some.one_of(
    some.text(some.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    some.lists(some.sampled_from(PIECES), min_size=1, max_size=5).map("".join),
)
NAMES = some.text("abcXYZ019_-.", min_size=1, max_size=12)
DATES = some.dates(date(2024, 1, 1), date(2032, 12, 31))
INSTRUCTIONS = some.builds(
    lambda role, text: {"role": role, "content": text}, some.sampled_from(["system", "developer"]), TEXTS
)
USERS = TEXTS.map(lambda text: [{"role": "user", "content": text}])


@some.composite
def answers(draw) -> list[dict]:
    """What the assistant says until it has answered, results of its calls included."""
    said = []
    for step in range(draw(some.integers(0, 2))):
        ids = [f"call_{step}_{at}" for at in range(draw(some.integers(1, 2)))]
        calls = [
            {"id": each, "type": "function", "function": {"name": draw(NAMES), "arguments": draw(TEXTS)}}
            for each in ids
        ]
        said.append({"role": "assistant", **draw(reasoning()), **draw(preamble()), "tool_calls": calls})
        said += [
            {"role": "tool", "tool_call_id": each, "content": draw(TEXTS)} for each in draw(some.permutations(ids))
        ]
    if draw(some.booleans()):
        said.append({"role": "assistant", "content": draw(TEXTS), **draw(reasoning())})
    return said


def reasoning():
    return some.one_of(some.just({}), TEXTS.map(lambda text: {"reasoning_content": text}))


def preamble():
    return some.one_of(some.just({"content": None}), TEXTS.map(lambda text: {"content": text}))


TURNS = some.one_of(USERS, answers(), INSTRUCTIONS.map(lambda message: [message]))
CONVERSATIONS = some.tuples(some.lists(INSTRUCTIONS, max_size=2), USERS, some.lists(TURNS, max_size=6)).map(
    lambda parts: [*parts[0], *parts[1], *(message for turn in parts[2] for message in turn)]
)


def theirs(messages: list[dict], tools: list[dict], effort: str, day: date) -> list[Message]:
    """The conversation in the library's own types."""
    system = SystemContent.new().with_reasoning_effort(ReasoningEffort[effort.upper()])
    out = [Message.from_role_and_content(Role.SYSTEM, system.with_conversation_start_date(day.isoformat()))]
    opening = next(
        (at for at, message in enumerate(messages) if message["role"] not in ("system", "developer")), len(messages)
    )
    developer = DeveloperContent.new()
    if opening:
        developer = developer.with_instructions("\n\n".join(message["content"] for message in messages[:opening]))
    if tools:
        developer = developer.with_function_tools([described(tool["function"]) for tool in tools])
    if opening or tools:
        out.append(Message.from_role_and_content(Role.DEVELOPER, developer))
    for index in range(opening, len(messages)):
        message = messages[index]
        match message["role"]:
            case "user":
                out.append(Message.from_role_and_content(Role.USER, message["content"]))
            case "system" | "developer":
                instructions = DeveloperContent.new().with_instructions(message["content"])
                out.append(Message.from_role_and_content(Role.DEVELOPER, instructions))
            case "assistant":
                results = itertools.takewhile(lambda later: later["role"] == "tool", messages[index + 1 :])
                out += assistants(message, {result["tool_call_id"]: result["content"] for result in results})
    return out


def described(function: dict) -> ToolDescription:
    return ToolDescription.new(function["name"], function.get("description") or "", function.get("parameters"))


def assistants(message: dict, results: dict[str, str]) -> list[Message]:
    def says(text: str, channel: str) -> Message:
        return Message.from_role_and_content(Role.ASSISTANT, text).with_channel(channel)

    out = [says(message["reasoning_content"], "analysis")] if message.get("reasoning_content") else []
    calls = message.get("tool_calls", [])
    if message["content"]:
        out.append(says(message["content"], "commentary" if calls else "final"))
    for call in calls:
        name = FUNCTION + call["function"]["name"]
        called = says(call["function"]["arguments"], "commentary").with_recipient(name)
        out.append(called.with_content_type("<|constrain|>json"))
        result = Message.from_author_and_content(Author.new(Role.TOOL, name), results[call["id"]])
        out.append(result.with_channel("commentary").with_recipient("assistant"))
    return out


# Tools

WORDS = some.sampled_from(["The city.", "", "two\nlines", "tab\there", 'a "b" \\ c', "Größe 🙂", "<|end|>"])
DEFAULTS = some.one_of(
    some.none(), some.booleans(), some.integers(-(2**66), 2**66), some.text(max_size=5), WORDS,
    some.sampled_from([0.1, -2.0, 1e16, 1.5e-5, -1e-5, 1e-7, 1e300, -0.0]),
    some.just({"a": [1, 2.5, None, "é\n\x1f"], "b": {}}), some.just([]),
)  # fmt: skip
COMMENTS = some.fixed_dictionaries(
    {},
    optional={
        "title": WORDS, "description": WORDS, "default": DEFAULTS, "nullable": some.booleans(),
        "examples": some.lists(some.one_of(WORDS, some.integers()), max_size=2),
    },
)  # fmt: skip
TYPES = some.one_of(
    some.sampled_from(["string", "number", "integer", "boolean"]).map(lambda name: {"type": name}),
    some.lists(some.one_of(WORDS, some.none(), some.integers()), max_size=3).map(
        lambda values: {"type": "string", "enum": values}
    ),
    some.lists(some.sampled_from(["string", "integer", "null", "object"]), min_size=1, max_size=3, unique=True).map(
        lambda names: {"type": names}
    ),
    some.sampled_from([
        {"type": "integer", "enum": [1, 2], "default": 2}, {"type": "array"}, {"type": "string", "const": "now"},
        {"type": "object", "additionalProperties": {"type": "number"}}, {"type": "object", "patternProperties": {}},
    ]),
)  # fmt: skip
KEYS = some.one_of(some.sampled_from(["city", "type", "items", "properties", "$ref", "ключ", "a b", ""]), NAMES)


def containers(inner):
    return some.one_of(
        some.builds(lambda items, comments: comments | {"type": "array", "items": items}, inner, COMMENTS),
        some.builds(
            lambda either, comments: comments | {"oneOf": either}, some.lists(inner, min_size=1, max_size=3), COMMENTS
        ),
        some.builds(
            lambda properties, required, comments: comments
            | {"type": "object", "properties": properties, "required": required},
            some.dictionaries(KEYS, inner, max_size=4), some.lists(KEYS, max_size=3), COMMENTS,
        ),
    )  # fmt: skip


LEAVES = some.builds(lambda kind, comments: comments | kind, TYPES, COMMENTS)
SCHEMAS = some.recursive(LEAVES, containers, max_leaves=8)
PARAMETERS = some.one_of(some.none(), some.just({}), SCHEMAS, containers(SCHEMAS))
DESCRIPTIONS = some.one_of(some.none(), WORDS, some.sampled_from(["a\r\nb\n", "\n\n", "\r"]), TEXTS)
TOOLS = some.lists(
    some.builds(
        lambda name, description, parameters: {
            "type": "function",
            "function": {"name": name, "description": description, "parameters": parameters},
        },
        NAMES, DESCRIPTIONS, PARAMETERS,
    ),
    max_size=3,
)  # fmt: skip


@QUICK
@given(CONVERSATIONS, TOOLS, some.sampled_from(["low", "medium", "high"]), DATES)
def test_a_prompt_has_the_tokens_that_openais_renderer_gives(openai, tokenizer, messages, tools, effort, day):
    conversation = Conversation.from_messages(theirs(messages, tools, effort, day))
    wanted = openai.render_conversation_for_completion(conversation, Role.ASSISTANT)
    ours = render(tokenizer, messages, tools=tools, reasoning_effort=effort, current_date=day, answered=True)
    assert openai.decode(ours) == openai.decode(wanted)
    assert ours == wanted


@QUICK
@given(CONVERSATIONS, some.sampled_from(["low", "medium", "high"]), DATES)
def test_a_row_that_is_learned_has_the_tokens_of_openais_training_renderer(openai, tokenizer, messages, effort, day):
    said = theirs(messages, [], effort, day)
    answered = [at for at, each in enumerate(said) if each.channel == "final"]
    spoken = [at for at, each in enumerate(said) if each.author.role == Role.ASSISTANT]
    one_turn = bool(answered) and {*range(answered[0], spoken[-1] + 1)} <= {*spoken}
    config = RenderConversationConfig(auto_drop_analysis=not one_turn)  # whose reasoning is what is to be learned
    wanted = openai.render_conversation_for_training(Conversation.from_messages(said), config)
    ours = render(tokenizer, messages, reasoning_effort=effort, current_date=day, add_generation_prompt=False)
    assert openai.decode(ours) == openai.decode(wanted)
    assert ours == wanted


def declared(openai, tool: dict) -> str:
    """What the library makes of a tool."""
    developer = DeveloperContent.new().with_function_tools([described(tool["function"])])
    text = openai.decode(openai.render(Message.from_role_and_content(Role.DEVELOPER, developer)))
    return text.removeprefix("<|start|>developer<|message|>").removesuffix("<|end|>")


VAGUE = some.sampled_from([
    {"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"$ref": "#/$defs/Unit"}, {"const": 1.5},
    {"enum": [1, "b", None]},
    {"allOf": [{"$ref": "#/$defs/Place"}], "description": "Where."}, {"type": "null"}, True, False, {},
    {"type": "array", "items": {"$ref": "#/$defs/Unit"}}, {"type": "array", "prefixItems": [{"type": "string"}]},
    {"$ref": "#/$defs/Tree"}, {"type": "strin"}, {"properties": {"x": {"type": "number"}}}, {"items": {"const": 1}},
    {"anyOf": [{"type": "string", "description": "A name."}, {"$ref": "#/$defs/Place"}], "default": "c"},
])  # fmt: skip
DEFINITIONS = {
    "Unit": {"type": "string", "enum": ["c", "f"], "description": "Celsius or not.", "title": "Unit"},
    "Place": {"type": "object", "properties": {"street": {"type": "string", "description": "With number."}}},
    "Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}},
}


@QUICK
@given(some.recursive(VAGUE, containers, max_leaves=6))
def test_more_is_said_only_where_openais_renderer_says_any(openai, schema):
    parameters = {"type": "object", "properties": {"x": schema}, "$defs": DEFINITIONS}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    said = re.escape(declared(openai, tool).removesuffix(") => any;\n\n} // namespace functions"))
    where = re.sub(r"Array<any>|\bany(?:\\\[\\\])*(?:\\ \\\|\\ null)?", r"[\\s\\S]+?", said)
    assert re.match(where, declare([tool])), f"{declare([tool])}\n\n{declared(openai, tool)}"


# Generations

HEADERS = some.one_of(
    some.just("<|channel|>analysis"),
    some.just("<|channel|>commentary"),
    some.just("<|channel|>final"),
    some.builds(" to=functions.{}<|channel|>commentary json".format, NAMES),
    some.builds(" to=functions.{}<|channel|>commentary <|constrain|>json".format, NAMES),
    some.builds("<|channel|>commentary to=functions.{} <|constrain|>json".format, NAMES),
    some.builds("<|channel|>commentary to=functions.{}<|constrain|>json".format, NAMES),
    some.builds("<|channel|>analysis to=browser.{}".format, NAMES),
)
BODIES = some.lists(some.one_of(some.integers(0, 199_997), some.integers(0, 255)), max_size=12)
"""Ordinary tokens, of which many are not whole characters."""


@QUICK
@given(
    some.lists(some.tuples(HEADERS, BODIES), min_size=1, max_size=4), some.sampled_from(["<|return|>", "<|call|>", ""])
)
def test_generated_tokens_give_the_messages_that_openais_parser_gives(openai, tokenizer, messages, stop):
    ids: list[int] = []
    for index, (header, body) in enumerate(messages):
        start = "<|end|><|start|>assistant" if index else ""
        ids += [*openai.encode(f"{start}{header}<|message|>", allowed_special="all"), *body]
    ids += openai.encode(stop, allowed_special="all")
    parser = StreamableParser(openai, Role.ASSISTANT)
    for token in ids:
        parser.process(token)
    parser.process_eos()
    wanted = [(each.channel, each.recipient, each.content[0].text) for each in parser.messages]
    assert [(each.channel, each.recipient, each.text) for each in parse(tokenizer, ids)] == [
        each for each in wanted if each[2] or stop or each is not wanted[-1]
    ]
    ours = StreamParser(tokenizer)
    deltas = [delta for token in ids for delta in ours.feed([token])] + ours.close()
    assert "".join(delta.text for delta in deltas) == "".join(text for _, _, text in wanted)

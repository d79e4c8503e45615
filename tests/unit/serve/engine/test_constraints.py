"""Grammars with the embedded model, which knows little JSON: what they ask for comes out, whatever it would rather say.

Requests take their way through the wire format and both engines, without HTTP.
"""

import asyncio
import json
from contextlib import aclosing
from itertools import count

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from transformers import AutoTokenizer

from configs.errors import RequestError
from configs.paths import TINY_MODEL
from models.harmony import parse, render, stop_token_ids
from serve.engine.grammar import Constraint
from serve.engine.protocol import GenerationRequest
from serve.engine.sampling import SamplingParams
from serve.openai.chat.answer import ChunkWriter, ResponseWriter
from serve.openai.chat.request import ChatRequest, parse_request
from tests.unit.serve.engine.engines import ENGINES, running

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
STOPS = stop_token_ids(TOKENIZER)
NUMBERS = count()


def record(**properties) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


WORD = {"type": "string", "maxLength": 12}
SCHEMAS = {
    "nested": record(person=record(name=WORD, age={"type": "integer", "minimum": 0}), known={"type": "boolean"}),
    "enum": record(color={"enum": ["red", "green", None, 3]}),
    "array": {
        "type": "array",
        "items": {"type": "integer", "maximum": 1000, "minimum": -9},
        "minItems": 2,
        "maxItems": 4,
    },
    "pattern": record(zip={"type": "string", "pattern": "^[0-9]{5}(-[0-9]{4})?$"}),
    "choice": {
        "$defs": {"leaf": record(v={"type": "integer", "minimum": 0, "maximum": 9})},
        "anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 3}],
    },
    "tree": {
        "$defs": {"node": record(left={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})},
        "$ref": "#/$defs/node",
    },
}
CITY = {"name": "get_weather", "parameters": record(city=WORD, unit={"enum": ["C", "F"]})}
TIME = {"name": "get_time", "description": "Now."}
NESTED: dict = {}
for _ in range(2000):
    NESTED = {"items": NESTED}
TOOLS = [{"type": "function", "function": function} for function in (CITY, TIME)]


@pytest.fixture(scope="module", params=list(ENGINES))
def engine(request):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with running(ENGINES[request.param], max_batch=24) as engine:
        yield engine
    torch.set_num_threads(before)


def asked(schema: dict | None = None, **fields) -> ChatRequest:
    if schema is not None:
        format_ = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        fields["response_format"] = format_
    question = [{"role": "user", "content": "What is the capital of Italy?"}]
    return parse_request({"model": "prod", "messages": question, "max_tokens": 400} | fields)


def submitted(request: ChatRequest) -> GenerationRequest:
    prompt = render(
        TOKENIZER,
        request.messages,
        tools=request.offered_tools,
        response_format=request.response_format.description,
    )
    sampling = request.samplings(STOPS)[0]
    return GenerationRequest(f"r{next(NUMBERS)}", prompt, sampling, constraint=request.constraint())


async def answered(engine, request: ChatRequest):
    """(choice, generated ids)."""
    writer, ids = ResponseWriter(ChunkWriter(TOKENIZER, request)), []
    async with aclosing(engine.generate(submitted(request))) as chunks:
        async for chunk in chunks:
            writer.write(chunk)
            ids += chunk.ids
    return writer.response().choices[0], ids


async def free(engine, seed: int) -> list[int]:
    return (await answered(engine, asked(seed=seed, max_tokens=60)))[1]


def gathered(*coroutines):
    async def main():
        return await asyncio.gather(*coroutines)

    return asyncio.run(main())


@pytest.mark.parametrize("name", SCHEMAS)
def test_twenty_seeds_at_temperature_1_all_give_json_of_the_schema_and_stop(engine, name):
    schema = SCHEMAS[name]
    for choice, ids in gathered(*(answered(engine, asked(schema, seed=seed)) for seed in range(20))):
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), schema)
        *thoughts, final = parse(TOKENIZER, ids)
        assert {thought.channel for thought in thoughts} <= {"analysis"}
        assert (final.channel, final.recipient, final.text) == ("final", None, choice.message.content)
        assert TOKENIZER.convert_ids_to_tokens(ids[-1]) == "<|return|>"


def test_json_object_gives_any_object(engine):
    how = {"response_format": {"type": "json_object"}}
    ended_strings = (0, 2, 12, 13)  # greedily a string goes on until the budget is used up
    for choice, _ in gathered(*(answered(engine, asked(**how, seed=seed)) for seed in ended_strings)):
        assert choice.finish_reason == "stop"
        assert isinstance(json.loads(choice.message.content), dict)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0},
        {"temperature": 2, "top_k": 2},
        {"top_p": 0.1},
        {"min_p": 0.9},
        {"presence_penalty": 2, "frequency_penalty": 2, "repetition_penalty": 1.5},
        {"logit_bias": {"1017": 100, "1023": 100}},
    ],
    ids=lambda sampling: "-".join(sampling),
)
def test_the_grammar_holds_whatever_the_sampling(engine, sampling):
    schema = SCHEMAS["nested"]
    for choice, _ in gathered(*(answered(engine, asked(schema, seed=seed, **sampling)) for seed in range(3))):
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), schema)


def test_the_model_still_thinks_before_it_answers_as_asked(engine):
    answers = gathered(*(answered(engine, asked(SCHEMAS["enum"], seed=seed)) for seed in range(10)))
    assert sum(bool(getattr(choice.message, "reasoning_content", "")) for choice, _ in answers) >= 5


def test_rows_beside_a_constrained_one_say_what_they_say_alone(engine):
    alone = [gathered(free(engine, seed))[0] for seed in range(4)]
    constrained = [answered(engine, asked(SCHEMAS["nested"], seed=seed)) for seed in range(4)]
    together = gathered(*(free(engine, seed) for seed in range(4)), *constrained)
    assert together[:4] == alone
    apart = [gathered(answered(engine, asked(SCHEMAS["nested"], seed=seed)))[0][1] for seed in range(4)]
    assert [ids for _, ids in together[4:]] == apart


def test_a_used_up_budget_is_length_and_the_json_is_not_passed_off_as_whole(engine):
    schema = {"type": "array", "minItems": 50, "items": {"type": "integer", "minimum": 100}}
    ((choice, ids),) = gathered(answered(engine, asked(schema, seed=1, max_tokens=60)))
    assert (choice.finish_reason, len(ids)) == ("length", 60)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "Invalid type: strin"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        (record(mail={"type": "string", "pattern": r"^(?!\.)(?!.*\.\.)[a-z.]+@[a-z.]+$"}), "look-around"),
        ({"$ref": "#/nope"}, "Pointer '/nope' does not exist"),
        ({"not": {"type": "null"}}, 'Unimplemented keys: ["not"]'),
        ({"enum": []}, "Unsatisfiable schema"),
        ({"const": "\ud800"}, "hex escape"),
    ],
)
def test_a_schema_that_cannot_be_honoured_is_refused_with_llguidances_words_and_the_engine_goes_on(
    engine, schema, words
):
    with pytest.raises(RequestError) as caught:
        gathered(answered(engine, asked(schema)))
    assert words in caught.value.message
    assert "x-guidance" not in caught.value.message
    assert caught.value.param == "response_format"
    assert engine.stats().running == engine.stats().waiting == 0
    assert gathered(free(engine, 1))[0]


@pytest.mark.parametrize("schema", [{"const": float("nan")}, {"items": NESTED}])
def test_a_schema_that_is_no_json_is_refused_before_it_reaches_the_engine(schema):
    with pytest.raises(RequestError) as caught:
        asked(schema)
    assert caught.value.param == "response_format"


def test_an_aborted_answer_leaves_the_others_alone(engine):
    async def main():
        leaving = engine.generate(submitted(asked(SCHEMAS["nested"], seed=1)))
        staying = asyncio.create_task(answered(engine, asked(SCHEMAS["nested"], seed=2)))
        await anext(leaving)
        await leaving.aclose()
        choice, _ = await staying
        while engine.stats().running:
            await asyncio.sleep(0.001)
        return choice

    jsonschema.validate(json.loads(asyncio.run(main()).message.content), SCHEMAS["nested"])


def test_a_grammar_without_a_stop_token_ends_where_it_ends(engine):
    prompt = render(TOKENIZER, [{"role": "user", "content": "Hi"}])
    request = GenerationRequest(
        "bare", prompt, SamplingParams(seed=1), constraint=Constraint('start: "yes" | "no"', "guided")
    )

    async def main():
        return [chunk async for chunk in engine.generate(request)]

    chunks = asyncio.run(main())
    assert TOKENIZER.decode([token for chunk in chunks for token in chunk.ids]) in ("yes", "no")
    assert chunks[-1].finish_reason == "stop"


# Tools


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call_is_made_with_arguments_of_its_schema(engine, choice):
    called = set()
    for answer, ids in gathered(
        *(answered(engine, asked(tools=TOOLS, tool_choice=choice, seed=seed)) for seed in range(10))
    ):
        assert answer.finish_reason == "tool_calls"
        assert answer.message.content is None
        (call,) = answer.message.tool_calls
        called.add(call.function.name)
        arguments = json.loads(call.function.arguments)
        if call.function.name == "get_weather":
            jsonschema.validate(arguments, CITY["parameters"])
        else:
            assert arguments == {}
        assert TOKENIZER.convert_ids_to_tokens(ids[-1]) == "<|call|>"
    assert called <= {"get_weather", "get_time"} if choice == "required" else called == {"get_weather"}


def test_allowed_tools_keep_the_others_from_being_called(engine):
    only = [{"type": "function", "function": {"name": "get_time"}}]
    for mode in ("auto", "required"):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": only}}
        answers = gathered(*(answered(engine, asked(tools=TOOLS, tool_choice=choice, seed=seed)) for seed in range(8)))
        names = [call.function.name for answer, _ in answers for call in answer.message.tool_calls or []]
        assert set(names) <= {"get_time"}
        assert mode == "auto" or len(names) == 8


def test_a_call_of_a_narrowed_list_has_the_arguments_of_the_function_that_is_called(engine):
    question = [{"role": "user", "content": "What is the weather in Rome?"}]
    mail = {"name": "send_mail", "parameters": record(to={"enum": ["Ann", "Bob"]})}
    tools = [{"type": "function", "function": function} for function in (CITY, mail)]
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "send_mail"}}]}
    how = {"tools": tools, "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}, "messages": question}
    assert asked(**how).offered_tools == tools[1:]
    assert "get_weather" not in TOKENIZER.decode(submitted(asked(**how)).prompt_ids)
    greedy = answered(engine, asked(**how, temperature=0))
    answers = gathered(greedy, *(answered(engine, asked(**how, seed=seed)) for seed in range(8)))
    calls = [call.function for answer, _ in answers for call in answer.message.tool_calls or []]
    assert {call.name for call in calls} == {"send_mail"}
    for call in calls:
        jsonschema.validate(json.loads(call.arguments), mail["parameters"])


def test_an_allowed_tool_that_is_no_tool_is_refused_by_name():
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "send_mail"}}]}
    request = asked(tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    for ask in (request.constraint, lambda: request.offered_tools):
        with pytest.raises(RequestError, match="'send_mail', which is not one of the tools") as caught:
            ask()
        assert caught.value.param == "tool_choice"


def test_a_strict_function_that_the_model_may_call_gets_arguments_of_its_schema(engine):
    question = [{"role": "user", "content": "What is the weather in Rome?"}]
    tools = [{"type": "function", "function": CITY | {"strict": True}}]
    answers = gathered(*(answered(engine, asked(tools=tools, messages=question, seed=seed)) for seed in range(10)))
    calls = [call for answer, _ in answers for call in answer.message.tool_calls or []]
    assert len(calls) >= 5
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), CITY["parameters"])


def test_a_call_is_one_of_those_offered_without_strict_too(engine):
    question = [{"role": "user", "content": "What is the weather in Rome?"}]
    mail = [{"type": "function", "function": {"name": "send_mail", "parameters": {"type": "object"}}}]
    called = [{"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}]
    before = [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "tool_calls": called},
        {"role": "tool", "tool_call_id": "c", "content": "sunny, 3 degrees"},
        {"role": "assistant", "content": "It is sunny in Oslo, 3 degrees."},
    ]

    def names(**how) -> list[str]:
        asks = [asked(messages=[*before, *question], tools=mail, seed=seed, **how) for seed in range(8)]
        answers = gathered(*(answered(engine, each) for each in asks))
        return [call.function.name for answer, _ in answers for call in answer.message.tool_calls or []]

    assert {*names(min_tokens=1)} - {"send_mail"}, "left free, the model calls what it was not offered"
    assert set(names()) <= {"send_mail"}
    assert names(tool_choice="none") == []


def test_without_tools_or_with_an_answer_of_a_least_length_the_model_is_free():
    assert asked().constraint() is asked(tool_choice="none").constraint() is None
    assert asked(tools=TOOLS, min_tokens=3).constraint() is asked(tools=TOOLS, ignore_eos=True).constraint() is None
    strict = [{"type": "function", "function": CITY | {"strict": True}}]
    with pytest.raises(RequestError, match="min_tokens does not go with tools"):
        asked(tools=strict, min_tokens=3).constraint()


def test_beside_a_response_format_the_model_may_call_or_answer(engine):
    question = [{"role": "user", "content": "What is the weather in Rome?"}]
    both = [asked(SCHEMAS["enum"], tools=TOOLS[:1], seed=seed) for seed in range(5)]
    both += [asked(SCHEMAS["enum"], tools=TOOLS[:1], seed=seed, messages=question) for seed in range(5)]
    reasons = set()
    for answer, _ in gathered(*(answered(engine, request) for request in both)):
        reasons.add(answer.finish_reason)
        if answer.finish_reason == "stop":
            jsonschema.validate(json.loads(answer.message.content), SCHEMAS["enum"])
        else:
            assert answer.message.content is None
    assert reasons == {"stop", "tool_calls"}


def test_a_broken_schema_of_a_forced_tool_names_tools(engine):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}]
    with pytest.raises(RequestError, match="Invalid type: objekt") as caught:
        gathered(answered(engine, asked(tools=tools, tool_choice="required")))
    assert caught.value.param == "tools"


# Anything goes

LEAVES = some.sampled_from(
    [
        {}, {"type": "string"}, {"type": "integer"}, {"type": "null"}, {"type": ["string", "null"]}, {"const": 1.5},
        {"type": "string", "minLength": 3, "maxLength": 2}, {"type": "string", "format": "uuid"}, {"enum": ["a", {}]},
        {"type": "number", "multipleOf": 0.5, "maximum": 3}, {"pattern": "^(a|b){2}$", "type": "string"}, {"type": 5},
        {"$ref": "#"}, {"$ref": "#/$defs/x"}, {"type": "string", "pattern": "["}, {"x-guidance": {"lenient": True}},
        {"type": "string", "pattern": "(.{999}){999}"}, {"const": "<|return|>\n\"\\"}, {"minimum": 1e308},
    ]
)  # fmt: skip
ODD = some.recursive(
    LEAVES,
    lambda inner: some.one_of(
        some.builds(lambda item: {"type": "array", "items": item, "maxItems": 2}, inner),
        some.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
        some.builds(lambda a, b: {"allOf": [a, b]}, inner, inner),
        some.builds(lambda a, b: {"oneOf": [a, b]}, inner, inner),
        some.builds(
            lambda key, value, needed: {"type": "object", "properties": {key: value}, "required": needed},
            some.sampled_from(["a", "", "<|end|>", "ключ"]), inner, some.sampled_from([[], ["a"], ["zz"], "a"]),
        ),
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(schema=ODD)
def test_odd_schemas_are_refused_or_obeyed_and_never_stop_the_engine(engine, schema):
    try:
        ((choice, _),) = gathered(answered(engine, asked(schema, seed=1, max_tokens=40)))
    except RequestError as error:
        assert error.param == "response_format"
    else:
        assert choice.finish_reason in ("stop", "length")
        if choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.message.content), schema)
    engine.check_health()

"""Conversations and tools as clients send them, over HTTP: what the model reads of them, and what is refused."""

import pytest

from tests.gateway_server import TOKENIZER, Server

ASKED = {"role": "user", "content": "What is the weather in Rome?"}
CITY = {"city": {"type": "string"}}


def offered(properties: dict, **more) -> list[dict]:
    parameters = {"type": "object", "properties": CITY | properties, "required": ["city"], **more}
    function = {"name": "get_weather", "description": "Weather of a city.", "parameters": parameters}
    return [{"type": "function", "function": function}]


def read(server: Server, *messages: dict, **body) -> str:
    """The prompt that the model gets."""
    answer = server.post(body={"model": "base", "messages": list(messages), "return_token_ids": True, **body})
    assert answer.status_code == 200, answer.text
    return TOKENIZER.decode(answer.json()["prompt_token_ids"])


@pytest.mark.parametrize(
    ("properties", "declared"),
    [
        ({"level": {"type": "integer", "enum": [1, 2, 3], "default": 2}}, "level?: number, // default: 2\n"),
        (
            {"unit": {"type": ["string", "null"], "enum": ["c", "f", None], "default": None}},
            "unit?: string | null, // default: null\n",
        ),
        ({"level": {"enum": [1, 2, 3], "default": 2}}, "level?: 1 | 2 | 3, // default: 2\n"),
        (
            {"level": {"oneOf": [{"const": 1}, {"const": 2}], "default": 1, "description": "How far."}},
            "// How far.\n// default: 1\nlevel?:\n | 1\n | 2\n,\n",
        ),
    ],
)
def test_a_default_that_is_no_text_is_read(server: Server, properties, declared):
    assert declared in read(server, ASKED, tools=offered(properties))


def test_types_and_words_of_a_tool_reach_the_model(server: Server):
    properties = {
        "days": {"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "How many."},
        "unit": {"$ref": "#/$defs/U"},
        "kind": {"const": "now"},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
        "place": {
            "type": "object",
            "properties": {
                "street": {"type": "string", "description": "With number."},
                "zip": {"type": "string", "description": "Five digits."},
            },
        },
    }
    tools = offered(properties, **{"$defs": {"U": {"type": "string", "enum": ["c", "f"]}}})
    assert read(server, ASKED, tools=tools).partition("namespace functions {\n\n")[2].partition("<|end|>")[0] == (
        "// Weather of a city.\ntype get_weather = (_: {\ncity: string,\n"
        '// How many.\ndays?: number | null,\nunit?: "c" | "f",\nkind?: "now",\ntags?: "a" | "b"[],\n'
        "place?: {\n    // With number.\n    street?: string,\n    // Five digits.\n    zip?: string,\n    },\n"
        "}) => any;\n\n} // namespace functions"
    )


@pytest.mark.parametrize(
    ("properties", "complaint"),
    [
        (
            {"unit": "string"},
            "tools[0].function (get_weather): parameters.properties.unit is 'string', not a JSON Schema",
        ),
        ({"unit": {"$ref": "#/$defs/Unit"}}, "parameters.properties.unit refers to '#/$defs/Unit', which is not there"),
    ],
)
def test_a_parameter_that_is_no_schema_is_named_with_its_tool(refusing: Server, properties, complaint):
    error = refusing.refusal(400, {"model": "base", "messages": [ASKED], "tools": offered(properties)})
    assert complaint in error["message"] and error["param"] == "tools"
    function = offered(properties)[0]["function"]
    body = {"model": "base", "input": "Hi", "tools": [{"type": "function", **function}]}
    answer = refusing.post("/v1/responses", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_in_the_middle_are_a_developer_message_there(server: Server, role):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    later = {"role": role, "content": "From now on be brief."}
    asked = (
        "Hello.<|end|><|start|>developer<|message|># Instructions\n\nFrom now on be brief.<|end|>"
        "<|start|>user<|message|>What is the weather in Rome?<|end|><|start|>assistant"
    )
    assert read(server, *said, later, ASKED).endswith(asked)
    answer = server.post("/v1/responses", {"model": "base", "input": [*said, later, ASKED]})
    assert answer.status_code == 200, answer.text
    assert TOKENIZER.decode(server.engine.requests[-1].prompt_ids).endswith(asked)


def test_a_call_that_was_cut_off_goes_back_as_it_is(server: Server):
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Ro'}}
    result = {"role": "tool", "tool_call_id": "c", "content": "error: arguments were cut off, call again"}
    asked = (
        '<|channel|>commentary <|constrain|>json<|message|>{"city": "Ro<|call|><|start|>functions.get_weather '
        "to=assistant<|channel|>commentary<|message|>error: arguments were cut off, call again<|end|><|start|>assistant"
    )
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert read(server, ASKED, said, result, tools=offered({})).endswith(asked)
    made = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": '{"city": "Ro'}
    output = {"type": "function_call_output", "call_id": "c", "output": result["content"]}
    answer = server.post("/v1/responses", {"model": "base", "input": [ASKED, made, output]})
    assert answer.status_code == 200, answer.text
    assert TOKENIZER.decode(server.engine.requests[-1].prompt_ids).endswith(asked)


def test_an_answer_cut_off_in_its_arguments_is_taken_back_with_its_result(server: Server):
    server.engine.script = TOKENIZER.encode(
        ' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"city": "Rome"}<|call|>',
        add_special_tokens=False,
    )
    body = {"model": "base", "tools": offered({}), "return_token_ids": True}
    longest = len(server.engine.script)
    for most in range(1, longest + 1):
        first = server.post(body=body | {"messages": [ASKED], "max_tokens": most}).json()["choices"][0]
        assert first["finish_reason"] == ("tool_calls" if most == longest else "length")
        said = first["message"]
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in said.get("tool_calls") or []
        ]
        assert read(server, ASKED, said, *results, ASKED, tools=offered({}))


def test_text_and_reasoning_beside_a_call_are_read_in_their_channels(server: Server):
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    said = {"role": "assistant", "content": "Let me look.", "reasoning_content": "They ask.", "tool_calls": [call]}
    assert (
        "<|channel|>analysis<|message|>They ask.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
        "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
    ) in read(server, ASKED, said, {"role": "tool", "tool_call_id": "c", "content": "sunny"})

"""The body of a Responses request: the chat request that it stands for, and refusals by name."""

import json

import pytest

from tests.unit.serve.openai.responses.test_http import ASK, TOOL

DEEP = json.loads('{"items": ' * 400 + "{}" + "}" * 400)


def test_the_prompt_is_that_of_the_same_chat(server):
    tool = {"type": "function", "function": {key: value for key, value in TOOL.items() if key != "type"}}
    server.client().chat.completions.create(
        model="prod",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        reasoning_effort="low",
        tools=[tool],
        temperature=0.5,
        max_completion_tokens=9,
    )
    server.client().responses.create(
        **ASK, instructions="Be brief.", reasoning={"effort": "low"}, tools=[TOOL], temperature=0.5, max_output_tokens=9
    )
    chat, response = server.engine.requests
    assert response.prompt_ids == chat.prompt_ids
    assert response.sampling == chat.sampling


def test_a_format_and_a_forced_call_reach_the_engine_as_from_chat(server):
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    named = {"name": "answer", "schema": schema, "strict": True}
    function = {"type": "function", "function": {key: value for key, value in TOOL.items() if key != "type"}}
    asked = server.client()
    chat = {"model": "prod", "messages": [{"role": "user", "content": "Hi"}]}
    asked.chat.completions.create(**chat, response_format={"type": "json_schema", "json_schema": named})
    done = asked.responses.create(**ASK, text={"format": {"type": "json_schema"} | named})
    assert (done.text.format.name, done.text.format.schema_) == ("answer", schema)
    asked.chat.completions.create(**chat, response_format={"type": "json_object"})
    asked.responses.create(**ASK, text={"format": {"type": "json_object"}})
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    flat = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]}
    for theirs, ours in (
        ("required", "required"),
        ({"type": "function", "function": {"name": "get_weather"}}, {"type": "function", "name": "get_weather"}),
        ({"type": "allowed_tools", "allowed_tools": allowed}, flat),
    ):
        asked.chat.completions.create(**chat, tools=[function], tool_choice=theirs)
        asked.responses.create(**ASK, tools=[TOOL], tool_choice=ours)
    requests = server.engine.requests
    for theirs, ours in zip(requests[::2], requests[1::2], strict=True):
        assert ours.constraint == theirs.constraint and ours.constraint is not None
        assert ours.prompt_ids == theirs.prompt_ids


# Refusals


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"input": None}, "input", "one of input, previous_response_id or conversation"),
        ({"input": ""}, "input", "is empty"),
        ({"input": []}, "input", "is empty"),
        ({"input": 5}, "input", "neither a text nor a list of items"),
        ({"input": ["Hi"]}, "input", "neither a text nor a list of items"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "Previous response with id 'resp_1' not found."),
        ({"conversation": "c", "previous_response_id": "r"}, "previous_response_id", "providing one of"),
        ({"conversation": {"name": "c"}}, "conversation", "conversation"),
        ({"background": True, "store": False}, "background", "has to be stored"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "send its text"),
        ({"truncation": "middle"}, "truncation", "'auto' or 'disabled'"),
        ({"tools": [{"type": "web_search"}]}, "tools", "functions only"),
        ({"tools": [{"type": "function"}]}, "tools", "name"),
        ({"tools": [TOOL | {"name": "a b"}]}, "tools", "'a b'"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "tool_choice"),
        ({"reasoning": {"effort": "little"}}, "reasoning", "'none', 'minimal', 'low'"),
        ({"reasoning": {"summary": "short"}}, "reasoning", "'auto', 'concise' or 'detailed'"),
        ({"text": {"verbosity": "tiny"}}, "text", "'low', 'medium' or 'high'"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format", "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format", "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": DEEP}}}, "text", "nested too deep"),
        ({"tools": [TOOL | {"parameters": DEEP}]}, "tools", "nested too deep"),
        ({"tool_choice": "required"}, "tool_choice", "tools is empty"),
        ({"tool_choice": {"type": "function", "name": "f"}, "tools": [TOOL]}, "tool_choice", "'f'"),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 21}, "top_logprobs", "20"),
        ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens"),
        ({"temperature": 3}, "temperature", "0 to 2"),
        ({"temperature": "hot"}, "temperature", "temperature"),
        ({"include": ["everything"]}, "include", "include"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options"),
        ({"metadata": {"a": 5}}, "metadata", "metadata"),
        ({"max_tool_calls": 0}, "max_tool_calls", "greater than or equal to 1"),
        ({"input": [{"role": "user", "content": "x", "id": 5}]}, "input", "input[0].id is 5"),
        ({"messages": []}, "messages", "not supported"),
        ({"nonsense": 1}, "nonsense", "not supported"),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(change, param, words, stream, refusing):
    response = refusing.post("/v1/responses", ASK | {"stream": stream} | change)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert words in error["message"]


def test_what_asks_for_nothing_is_taken(server):
    nothing = {
        "background": False, "previous_response_id": None, "truncation": "disabled", "tools": [], "tool_choice": "auto",
        "include": ["reasoning.encrypted_content"], "reasoning": {"effort": None, "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "stream_options": {"include_obfuscation": False},
        "store": True, "service_tier": "auto", "prompt_cache_key": "x", "parallel_tool_calls": True,
    }  # fmt: skip
    assert server.post("/v1/responses", ASK | nothing).json()["status"] == "completed"


def headers(server, **body) -> dict[str, str]:
    response = server.post("/v1/responses", ASK | body)
    assert response.status_code == 200, response.text
    return {name: response.headers[f"x-tandem-{name}"] for name in ("mapped", "ignored")
            if f"x-tandem-{name}" in response.headers}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "mapped"),
    [
        ({"reasoning": {"effort": "none"}}, "reasoning.effort=none->low"),
        ({"reasoning": {"effort": "minimal"}}, "reasoning.effort=minimal->low"),
        ({"reasoning": {"effort": "xhigh"}}, "reasoning.effort=xhigh->high"),
        ({"reasoning": {"effort": "max"}}, "reasoning.effort=max->high"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary=detailed->full"),
        ({"reasoning": {"generate_summary": "concise"}}, "reasoning.summary=concise->full"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context=all_turns->current_turn"),
        ({"text": {"verbosity": "low"}}, "text.verbosity=low->medium"),
        ({"text": {"verbosity": "high"}}, "text.verbosity=high->medium"),
    ],
)
def test_what_the_model_does_not_know_is_the_nearest_and_the_header_says_so(body, mapped, one_for_all):
    assert headers(one_for_all, **body) == {"mapped": mapped}


def test_an_effort_is_that_of_the_prompt_and_told_back(server):
    client = server.client()
    for asked, taken in (("none", "low"), ("minimal", "low"), ("max", "high"), ("medium", "medium")):
        done = client.responses.create(**ASK, reasoning={"effort": asked})
        same = client.responses.create(**ASK, reasoning={"effort": taken})
        assert (done.reasoning.effort, done.usage) == (taken, same.usage)
        one, other = server.engine.requests[-2:]
        assert one.prompt_ids == other.prompt_ids


def test_what_has_no_effect_is_named_in_a_header(one_for_all):
    idle = {
        "max_tool_calls": 3, "context_management": [{"type": "compaction", "compact_threshold": 9}],
        "prompt_cache_key": "k", "prompt_cache_retention": "24h", "service_tier": "auto",
        "stream_options": {"include_obfuscation": True}, "reasoning": {"mode": "pro", "context": "auto"},
    }  # fmt: skip
    told = headers(one_for_all, **idle, include=["file_search_call.results"])
    assert set(told) == {"ignored"}
    assert set(told["ignored"].split(", ")) == {
        "max_tool_calls", "context_management", "prompt_cache_key", "prompt_cache_retention", "service_tier",
        "stream_options.include_obfuscation", "reasoning.mode",
    }  # fmt: skip
    assert headers(one_for_all) == {}


def test_without_a_model_prod_answers(server):
    done = server.post("/v1/responses", {"input": "Hi"}).json()
    assert (done["model"], done["status"]) == ("prod", "completed")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_a_400(content, refusing):
    response = refusing.post("/v1/responses", content=content)
    assert response.status_code == 400 and "the body is" in response.json()["error"]["message"]


def test_an_unknown_model_is_a_404(refusing):
    response = refusing.post("/v1/responses", ASK | {"model": "gpt-4"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")

"""OpenAI's wire format: what comes in is honoured or refused by name, what goes out is read back by OpenAI's types."""

import json

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from transformers import AutoTokenizer

from configs.errors import (
    AdapterError,
    ConfigError,
    NotFoundError,
    OverloadError,
    RequestError,
    StateError,
    TandemError,
    TrainingError,
)
from configs.paths import TINY_MODEL
from serve.engine.protocol import TokenChunk, TokenLogprob
from serve.engine.sampling import SamplingParams
from serve.wire.body import encode
from serve.wire.chat import ChatRequest, parse_request
from serve.wire.chat_answer import ChunkWriter, ResponseWriter
from serve.wire.errors import error_body
from serve.wire.models import model_list

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
BASIC = {"model": "prod", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


NESTED: list = []
for _ in range(2000):
    NESTED = [NESTED]


def test_a_request_carries_every_supported_parameter():
    request = parse_request(
        BASIC
        | {
            "stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "top_p": 0.9, "top_k": 5,
            "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "seed": 3,
            "stop": "END", "max_tokens": 9, "reasoning_effort": "high", "tools": [TOOL], "tool_choice": "auto",
            "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": -1.5}, "n": 1, "return_token_ids": True,
        }
    )  # fmt: skip
    assert request.stream
    assert request.stream_options.include_usage
    assert request.reasoning_effort == "high"
    assert request.offered_tools == [TOOL]
    assert (request.scored, request.return_token_ids) == (2, True)
    assert request.samplings([7, 8]) == [
        SamplingParams(
            temperature=0, top_p=0.9, top_k=5, min_p=0.1, presence_penalty=1, frequency_penalty=-1, seed=3,
            repetition_penalty=1.1, stop=("END",), max_tokens=9, stop_token_ids=(7, 8), logit_bias=((5, -1.5),),
        )
    ]  # fmt: skip


def test_defaults_are_openais_and_null_means_default():
    nulls = dict.fromkeys(["temperature", "stop", "tools", "stream_options", "n", "response_format", "seed"])
    assert parse_request(json.dumps(BASIC | nulls)) == ChatRequest(**BASIC)
    assert ChatRequest(**BASIC).samplings(()) == [SamplingParams()]
    assert (ChatRequest(**BASIC).constraint(), ChatRequest(**BASIC).scored) == (None, None)


def test_max_completion_tokens_is_the_newer_name_and_wins():
    assert parse_request(BASIC | {"max_completion_tokens": 5, "max_tokens": 9}).samplings(())[0].max_tokens == 5


def test_tool_choice_none_offers_no_tools():
    assert parse_request(BASIC | {"tools": [TOOL], "tool_choice": "none"}).offered_tools == []


def test_metadata_and_neutral_values_are_accepted():
    parse_request(
        BASIC
        | {
            "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": True,
            "n": 1, "logprobs": False, "response_format": {"type": "text"}, "logit_bias": {}, "modalities": ["text"],
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 9),
        ("n", 0),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a"}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": True}}),
        ("response_format", {"type": "text", "json_schema": {"name": "a", "schema": {}}}),
        ("logprobs", 1),
        ("top_logprobs", 3),
        ("logit_bias", {"five": 1}),
        ("logit_bias", {"5": "much"}),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("modalities", ["text", "audio"]),
        ("functions", [{"name": "f"}]),
        ("web_search_options", {}),
        ("verbosity", "low"),
        ("tool_choice", "any"),
        ("tool_choice", {"type": "function", "function": {}}),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}),
        ("reasoning_effort", "minimal"),
        ("temperature", "warm"),
        ("max_tokens", 0),
        ("max_completion_tokens", 0),
        ("messages", []),
        ("messages", "Hi"),
        ("temperature", NESTED),
        ("temprature", 0.5),
        ("stop", 5),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(field, value):
    with pytest.raises(RequestError, match=f"^{field}") as caught:
        parse_request(BASIC | {field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("body", "complaint"),
    [(b"{", "not JSON"), (b"[]", "a JSON list"), (b"\xff", "not JSON"), (b"[" * 10**5, "not JSON")],
)
def test_a_body_that_is_no_object_is_refused(body, complaint):
    with pytest.raises(RequestError, match=complaint):
        parse_request(body)


def test_a_missing_field_is_named():
    with pytest.raises(RequestError, match="model: Field required") as caught:
        parse_request({"messages": BASIC["messages"]})
    assert caught.value.param == "model"


def test_a_value_out_of_bounds_is_refused_by_name():
    with pytest.raises(RequestError) as caught:
        parse_request(BASIC | {"top_p": 2.0}).samplings(())
    assert caught.value.param == "top_p"
    with pytest.raises(RequestError) as caught:
        parse_request(BASIC | {"logit_bias": {"5": 101}}).samplings(())
    assert caught.value.param == "logit_bias"


def test_top_logprobs_go_up_to_twenty_and_with_logprobs():
    assert parse_request(BASIC | {"logprobs": True, "top_logprobs": 20}).scored == 20
    assert parse_request(BASIC | {"logprobs": True}).scored == 0
    with pytest.raises(RequestError) as caught:
        parse_request(BASIC | {"logprobs": True, "top_logprobs": 21})
    assert caught.value.param == "top_logprobs"


def test_choices_have_different_seeds_that_the_requests_seed_decides():
    seeds = [sampling.seed for sampling in parse_request(BASIC | {"n": 4, "seed": 7}).samplings(())]
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert seeds == [sampling.seed for sampling in parse_request(BASIC | {"n": 4, "seed": 7}).samplings(())]
    assert [sampling.seed for sampling in parse_request(BASIC | {"n": 2}).samplings(())] == [None, None]


@pytest.mark.parametrize(
    ("tools", "choice", "complaint"),
    [
        ([], "required", "tools is empty"),
        ([TOOL], {"type": "function", "function": {"name": "get_time"}}, "'get_time', which is not one of the tools"),
    ],
)
def test_a_call_that_cannot_be_made_cannot_be_required(tools, choice, complaint):
    with pytest.raises(RequestError, match=complaint) as caught:
        parse_request(BASIC | {"tools": tools, "tool_choice": choice}).constraint()
    assert caught.value.param == "tool_choice"


def test_only_what_has_to_be_held_to_something_gets_a_grammar():
    strict = {"type": "function", "function": TOOL["function"] | {"strict": True}}
    held = [
        {"response_format": {"type": "json_object"}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [strict]},
    ]
    for fields in held:
        assert parse_request(BASIC | fields).constraint().grammar
    for fields in (
        {"tools": [TOOL]},
        {"tools": [strict], "tool_choice": "none"},
        {"response_format": {"type": "text"}},
    ):
        assert parse_request(BASIC | fields).constraint() is None


def chunks_of(text: str, size: int, finish: str = "stop") -> list[TokenChunk]:
    """What an engine would send for `text`, `size` tokens at a time."""
    tokens = TOKENIZER.encode(text, add_special_tokens=False)
    parts = [tokens[at : at + size] for at in range(0, len(tokens), size)]
    ends = [min(size * (index + 1), len(tokens)) for index in range(len(parts))]
    reasons = [None] * (len(parts) - 1) + [finish]
    return [
        TokenChunk(part, reason, 10, end, logprobs=[scored(token) for token in part])
        for part, reason, end in zip(parts, reasons, ends, strict=True)
    ]


def scored(token: int) -> dict[int, TokenLogprob]:
    """The token second, after token 0."""
    return {token: TokenLogprob(-token / 100, 2), 0: TokenLogprob(-0.5, 1)}


def written(text: str, *, size: int = 1, finish: str = "stop", **fields):
    """(stream chunks, whole answer) for a generated text, each read back from JSON by OpenAI's types."""
    request = ChatRequest(**BASIC, **fields)
    stream, whole = ChunkWriter(TOKENIZER, request, fingerprint="v1"), ResponseWriter(ChunkWriter(TOKENIZER, request))
    out = []
    for chunk in chunks_of(text, size, finish):
        out += stream.write(chunk)
        whole.write(chunk)
    assert stream.done
    assert whole.done
    chunks = [ChatCompletionChunk.model_validate_json(encode(chunk), strict=True) for chunk in out]
    assert {chunk.id for chunk in chunks} == {stream.completion_id}
    return chunks, ChatCompletion.model_validate_json(encode(whole.response()), strict=True)


def joined(chunks, field: str) -> str:
    return "".join(getattr(c.choices[0].delta, field, None) or "" for c in chunks if c.choices)


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


ANSWER = (
    "<|channel|>analysis<|message|>The user asks 🙂.<|end|><|start|>assistant<|channel|>final<|message|>"
    "It is Paris.<|return|>"
)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_reasoning_and_content_arrive_in_their_own_fields(size):
    chunks, whole = written(ANSWER, size=size)
    assert joined(chunks, "reasoning_content") == "The user asks 🙂."
    assert joined(chunks, "content") == "It is Paris."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {(c.system_fingerprint, c.model) for c in chunks} == {("v1", "prod")}
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content, message.tool_calls) == (
        "It is Paris.",
        "The user asks 🙂.",
        None,
    )
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == 10 + whole.usage.completion_tokens
    assert whole.usage.completion_tokens == len(TOKENIZER.encode(ANSWER, add_special_tokens=False))


def test_the_reasonings_tokens_are_counted_among_the_completions():
    usage = written(ANSWER)[1].usage
    assert usage.completion_tokens_details.reasoning_tokens == len(ids_of("The user asks 🙂."))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_length_within_the_reasoning_is_no_answer(size):
    chunks, whole = written("<|channel|>analysis<|message|>Let me think abo", size=size, finish="length")
    (choice,) = whole.choices
    assert (choice.finish_reason, choice.message.content) == ("length", "")
    assert choice.message.reasoning_content == joined(chunks, "reasoning_content") == "Let me think abo"
    assert joined(chunks, "content") == ""
    assert chunks[-1].choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens_details.reasoning_tokens == len(ids_of("Let me think abo"))


@pytest.mark.parametrize("size", [1, 1000])
def test_several_calls_of_one_generation_have_their_own_indexes(size):
    text = (
        '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}<|end|>'
        '<|start|>assistant<|channel|>commentary to=functions.get_weather json<|message|>{"city": "Oslo"}<|call|>'
    )
    chunks, whole = written(text, size=size, tools=[TOOL])
    calls = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
    arguments = {index: "".join(c.function.arguments for c in calls if c.index == index) for index in (0, 1)}
    assert arguments == {0: '{"city": "Rome"}', 1: '{"city": "Oslo"}'}
    assert [call.function.arguments for call in whole.choices[0].message.tool_calls] == list(arguments.values())
    assert len({call.id for call in whole.choices[0].message.tool_calls}) == 2
    assert whole.choices[0].finish_reason == "tool_calls"


# Log-probabilities and token ids


def spelled(entries) -> str:
    return b"".join(bytes(entry.bytes) for entry in entries).decode()


def content_logprobs(chunks) -> list:
    return [entry for c in chunks if c.choices and c.choices[0].logprobs for entry in c.choices[0].logprobs.content]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_logprobs_are_those_of_the_contents_tokens_and_go_out_with_their_text(size):
    text = ANSWER.replace("Paris", "Paris 🙂 née")
    chunks, whole = written(text, size=size, logprobs=True, top_logprobs=1)
    entries = content_logprobs(chunks)
    assert entries == whole.choices[0].logprobs.content
    expected = ids_of("It is Paris 🙂 née.")
    assert spelled(entries) == "It is Paris 🙂 née."
    assert [entry.logprob for entry in entries] == [-token / 100 for token in expected]
    assert {(top.token, top.logprob, tuple(top.bytes)) for entry in entries for top in entry.top_logprobs} == {
        ("!", -0.5, (33,))
    }
    for chunk in chunks:
        own = chunk.choices[0].logprobs
        assert (
            own is None or b"".join(bytes(entry.bytes) for entry in own.content) == joined([chunk], "content").encode()
        )


def test_without_top_logprobs_a_token_stands_alone():
    entries = content_logprobs(written(ANSWER, logprobs=True)[0])
    assert len(entries) == len(ids_of("It is Paris."))
    assert {len(entry.top_logprobs) for entry in entries} == {0}
    assert written(ANSWER)[1].choices[0].logprobs is None


@pytest.mark.parametrize("size", [1, 1000])
def test_tokens_of_a_stop_text_have_no_logprobs_and_held_back_ones_keep_theirs(size):
    cut, _ = written(ANSWER, size=size, stop=" Par", logprobs=True)
    assert spelled(content_logprobs(cut)) == "It is"
    spared, _ = written(ANSWER, size=size, stop=" Paris!", logprobs=True)
    assert spelled(content_logprobs(spared)) == "It is Paris."


def test_a_note_to_the_user_is_content_with_logprobs_too():
    text = "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>"
    entries = content_logprobs(written(text, logprobs=True)[0])
    assert spelled(entries) == "Wait.Done."


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_token_ids_are_all_of_the_generations_and_the_prompts_come_once(size):
    request = ChatRequest(**BASIC, return_token_ids=True)
    writer = ChunkWriter(TOKENIZER, request, prompt_ids=[1, 2, 3])
    whole = ResponseWriter(ChunkWriter(TOKENIZER, request, prompt_ids=[1, 2, 3]))
    out = []
    for chunk in chunks_of(ANSWER, size):
        out += writer.write(chunk)
        whole.write(chunk)
    out = [json.loads(encode(chunk)) for chunk in out]
    assert [chunk.get("prompt_token_ids") for chunk in out] == [[1, 2, 3]] + [None] * (len(out) - 1)
    assert [token for chunk in out for token in chunk["choices"][0].get("token_ids", [])] == ids_of(ANSWER)
    body = json.loads(encode(whole.response()))
    assert (body["prompt_token_ids"], body["choices"][0]["token_ids"]) == ([1, 2, 3], ids_of(ANSWER))
    assert "token_ids" not in encode(written(ANSWER)[1])


# Several choices


def test_choices_of_one_request_are_told_apart_and_counted_together():
    request = ChatRequest(**BASIC, n=2, stream_options={"include_usage": True})
    stream, whole = ChunkWriter(TOKENIZER, request), ResponseWriter(ChunkWriter(TOKENIZER, request))
    short = "<|channel|>final<|message|>Rome.<|return|>"
    out = []
    for index, text in ((0, ANSWER), (1, short)):
        assert not stream.done
        for chunk in chunks_of(text, 2):
            out += stream.write(chunk, index)
            whole.write(chunk, index)
    assert stream.done
    by_index = {index: [c for c in out if c.choices and c.choices[0].index == index] for index in (0, 1)}
    assert {index: joined(chunks, "content") for index, chunks in by_index.items()} == {0: "It is Paris.", 1: "Rome."}
    assert [chunks[0].choices[0].delta.role for chunks in by_index.values()] == ["assistant", "assistant"]
    assert [bool(chunk.usage) for chunk in out] == [False] * (len(out) - 1) + [True]
    completion = len(ids_of(ANSWER)) + len(ids_of(short))
    assert (out[-1].usage.prompt_tokens, out[-1].usage.completion_tokens) == (10, completion)
    response = whole.response()
    assert response.usage == out[-1].usage
    assert [(c.index, c.message.content) for c in response.choices] == [(0, "It is Paris."), (1, "Rome.")]


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("recipient", ["functions.get_weather", "get_weather"])
def test_a_call_streams_its_arguments(size, recipient):
    text = (
        "<|channel|>analysis<|message|>Look.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>"
        f'<|start|>assistant to={recipient}<|channel|>commentary json<|message|>{{"city": "Rome"}}<|call|>'
    )
    chunks, whole = written(text, size=size, tools=[TOOL])
    calls = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
    assert [call.id is not None for call in calls] == [True] + [False] * (len(calls) - 1)
    assert (calls[0].index, calls[0].type, calls[0].function.name) == (0, "function", "get_weather")
    assert "".join(call.function.arguments for call in calls) == '{"city": "Rome"}'
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "tool_calls"
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content) == ("One moment.", "Look.")
    assert [(c.function.name, c.function.arguments) for c in message.tool_calls] == [
        ("get_weather", '{"city": "Rome"}')
    ]


def test_a_call_without_arguments_has_an_empty_object():
    _, whole = written(" to=functions.get_time<|channel|>commentary json<|message|><|call|>")
    assert whole.choices[0].message.tool_calls[0].function.arguments == "{}"
    assert whole.choices[0].message.content is None


def test_an_unknown_recipient_is_reasoning_not_an_answer():
    chunks, whole = written("<|channel|>commentary to=browser.search<|message|>paris<|call|>")
    assert joined(chunks, "reasoning_content") == "paris"
    assert whole.choices[0].message.content == ""
    assert whole.choices[0].finish_reason == "stop"


def test_a_cut_off_answer_says_length_even_within_a_call():
    _, whole = written('<|channel|>commentary to=functions.f<|message|>{"ci', finish="length")
    assert whole.choices[0].finish_reason == "length"
    assert whole.choices[0].message.tool_calls[0].function.arguments == '{"ci'


def test_messages_of_one_kind_are_set_apart():
    text = "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>"
    assert written(text)[1].choices[0].message.content == "Wait.\n\nDone."


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_stop_string_ends_final_text_only(size):
    chunks, whole = written(ANSWER, size=size, stop=["asks", " Par"])
    assert joined(chunks, "reasoning_content") == "The user asks 🙂."
    assert joined(chunks, "content") == whole.choices[0].message.content == "It is"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_nothing_is_written_after_the_end():
    writer = ChunkWriter(TOKENIZER, ChatRequest(**BASIC, stop="is"))
    for chunk in chunks_of(ANSWER, 1):
        if writer.done:
            assert writer.write(chunk) == []
        writer.write(chunk)
    assert writer.done


def test_what_a_stop_string_held_back_is_flushed_at_the_end():
    text = "<|channel|>final<|message|>ten, nine, e"
    assert written(text, finish="length", stop="eight")[1].choices[0].message.content == "ten, nine, e"


def test_usage_comes_in_a_chunk_of_its_own_if_asked_for():
    chunks, whole = written(ANSWER, stream_options={"include_usage": True})
    assert [bool(c.usage) for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in written(ANSWER)[0])


def test_usage_so_far_comes_in_every_chunk_if_asked_for():
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks, whole = written(ANSWER, stream_options=options)
    counts = [c.usage.completion_tokens for c in chunks]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert chunks[-1].usage == whole.usage


def test_an_aborted_generation_is_an_error_not_an_answer():
    writer = ChunkWriter(TOKENIZER, ChatRequest(**BASIC))
    with pytest.raises(TandemError, match="aborted"):
        writer.write(TokenChunk([], "abort"))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError("no", param="n"), 400, None),
        (ConfigError("no"), 400, None),
        (NotFoundError("no", param="model"), 404, "model_not_found"),
        (NotFoundError("no"), 404, "not_found"),
        (AdapterError("no"), 409, "adapter_refused"),
        (StateError("no"), 409, "wrong_state"),
        (OverloadError("no", hint="later"), 429, "overloaded"),
        (TrainingError("no"), 500, None),
    ],
)
def test_errors_have_openais_shape(error, status, code):
    assert error_body(error)[0] == status
    body = error_body(error)[1]["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"].startswith("no")
    assert error.hint in body["message"]
    assert (body["param"], body["code"]) == (error.param, code)


def test_a_foreign_error_gives_nothing_away():
    status, body = error_body(ValueError("/srv/secret"))
    assert status == 500
    assert "secret" not in body["error"]["message"]


def test_a_validation_error_names_the_field():
    with pytest.raises(ValueError) as caught:
        ChatRequest(**BASIC, top_k=1.5)
    status, body = error_body(caught.value)
    assert (status, body["error"]["param"]) == (400, "top_k")


def test_models_are_listed_as_openai_lists_them():
    assert model_list({"prod": 5})["data"] == [{"id": "prod", "created": 5, "object": "model", "owned_by": "tandem"}]

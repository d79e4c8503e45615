"""A generation's tokens as OpenAI's chunks and answer, read back by OpenAI's own types."""

import json

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from transformers import AutoTokenizer

from configs.errors import TandemError
from configs.paths import TINY_MODEL
from serve.engine.protocol import TokenChunk, TokenLogprob
from serve.openai.body import encode
from serve.openai.chat.answer import ChunkWriter, ResponseWriter
from serve.openai.chat.request import ChatRequest

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
BASIC = {"model": "prod", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


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
    assert joined(chunks, "reasoning") == joined(chunks, "reasoning_content") == "The user asks 🙂."
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
    thought = len(ids_of("The user asks 🙂."))
    assert usage.completion_tokens_details.to_dict() == {
        "reasoning_tokens": thought,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    assert usage.prompt_tokens_details.to_dict() == {"cached_tokens": 0, "audio_tokens": 0}


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


def scores(chunks) -> list:
    return [entry for c in chunks if c.choices and c.choices[0].logprobs for entry in c.choices[0].logprobs.content]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_every_token_has_its_logprob_and_those_of_content_go_out_with_their_text(size):
    text = ANSWER.replace("Paris", "Paris 🙂 née")
    chunks, whole = written(text, size=size, logprobs=True, top_logprobs=1)
    entries = scores(chunks)
    assert entries == whole.choices[0].logprobs.content
    assert len(entries) == whole.usage.completion_tokens
    assert spelled(entries) == text
    assert [entry.logprob for entry in entries] == [-token / 100 for token in ids_of(text)]
    assert {(top.token, top.logprob, tuple(top.bytes)) for entry in entries for top in entry.top_logprobs} == {
        ("!", -0.5, (33,))
    }
    for chunk in chunks:
        if content := joined([chunk], "content"):
            assert spelled(scores([chunk])) == content
    thought = [chunk for chunk in chunks if joined([chunk], "reasoning")]
    assert spelled(scores(thought)).startswith("<|channel|>analysis<|message|>The user asks 🙂.")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_tokens_of_a_call_have_logprobs(size):
    text = '<|channel|>commentary to=functions.rate <|constrain|>json<|message|>{"stars": 5}<|call|>'
    chunks, whole = written(text, size=size, logprobs=True)
    assert spelled(scores(chunks)) == text
    assert whole.choices[0].message.tool_calls[0].function.arguments == '{"stars": 5}'


def test_reasoning_that_is_not_sent_is_scored_all_the_same():
    chunks, whole = written(ANSWER, logprobs=True, include_reasoning=False)
    assert not hasattr(whole.choices[0].message, "reasoning") and joined(chunks, "reasoning") == ""
    assert (whole.choices[0].message.content, spelled(scores(chunks))) == ("It is Paris.", ANSWER)


def test_tokens_may_be_named_by_their_ids():
    entries = scores(written(ANSWER, logprobs=True, top_logprobs=1, return_tokens_as_token_ids=True)[0])
    assert [entry.token for entry in entries] == [f"token_id:{token}" for token in ids_of(ANSWER)]
    assert spelled(entries) == ANSWER
    assert {top.token for entry in entries for top in entry.top_logprobs} == {f"token_id:{ids_of('!')[0]}"}


def test_without_top_logprobs_a_token_stands_alone():
    entries = scores(written(ANSWER, logprobs=True)[0])
    assert {len(entry.top_logprobs) for entry in entries} == {0}
    assert written(ANSWER)[1].choices[0].logprobs is None


@pytest.mark.parametrize("size", [1, 1000])
def test_tokens_of_a_stop_text_come_last_and_held_back_ones_come_with_their_text(size):
    cut, whole = written(ANSWER, size=size, stop=" Par", logprobs=True)
    assert len(scores(cut)) == whole.usage.completion_tokens
    assert spelled(scores([chunk for chunk in cut if joined([chunk], "content")])) == "It is"
    assert spelled(scores(cut[-1:])).startswith(" Par")
    spared, _ = written(ANSWER, size=size, stop=" Paris!", logprobs=True)
    assert spelled(scores([chunk for chunk in spared if joined([chunk], "content")])) == "It is Paris."


def test_a_note_to_the_user_is_content_too():
    text = "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>"
    chunks, _ = written(text, logprobs=True)
    assert spelled(scores(chunks)) == text
    assert spelled(scores([chunk for chunk in chunks if joined([chunk], "content")])) == "Wait.Done."


def test_the_stop_text_may_be_part_of_the_answer():
    for fields, content in (({}, "It is "), ({"include_stop_str_in_output": True}, "It is Paris")):
        chunks, whole = written(ANSWER, stop=["Paris"], **fields)
        assert joined(chunks, "content") == whole.choices[0].message.content == content
        assert whole.choices[0].stop_reason == "Paris"


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
    request = ChatRequest(**BASIC, n=2, stream=True, stream_options={"include_usage": True})
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
    assert chunks[-1].choices[0].stop_reason == whole.choices[0].stop_reason == " Par"


def test_an_answer_that_ends_by_itself_names_no_stop_text():
    chunks, whole = written(ANSWER, stop=["Madrid"])
    assert not any("stop_reason" in choice.model_fields_set for choice in (chunks[-1].choices[0], whole.choices[0]))


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
    chunks, whole = written(ANSWER, stream=True, stream_options={"include_usage": True})
    assert [bool(c.usage) for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in written(ANSWER)[0])


def test_usage_so_far_comes_in_every_chunk_if_asked_for():
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks, whole = written(ANSWER, stream=True, stream_options=options)
    counts = [c.usage.completion_tokens for c in chunks]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert chunks[-1].usage == whole.usage


def test_an_aborted_generation_is_an_error_not_an_answer():
    writer = ChunkWriter(TOKENIZER, ChatRequest(**BASIC))
    with pytest.raises(TandemError, match="aborted"):
        writer.write(TokenChunk([], "abort"))

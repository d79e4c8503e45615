"""`POST /v1/completions` over real HTTP: streams, choices, stop texts, vLLM's prompt_logprobs and ids in and out, the
rest refused by name."""

import asyncio
import json
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from configs.errors import RequestError
from configs.paths import TINY_MODEL
from serve.engine.protocol import TokenChunk, TokenLogprob
from serve.engine.sampling import SamplingParams
from serve.generation.catalog import Catalog
from serve.openai.completions.answer import ChoiceWriter
from serve.openai.completions.request import parse_request
from tests.samples import publish
from tests.unit.serve.http.test_gateway import until

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
IDS = [5, 77, 300]
SCORE = {"model": "base", "prompt": IDS, "max_tokens": 0, "prompt_logprobs": 0}


def complete(server, **body) -> dict:
    response = server.post("/v1/completions", SCORE | body)
    assert response.status_code == 200, response.text
    assert response.json()["id"] == f"cmpl-{response.headers['x-request-id']}"
    return response.json()


def test_a_prompt_of_token_ids_is_scored_in_vllms_shape(server):
    answer = complete(server)
    (choice,) = answer["choices"]
    assert choice["prompt_logprobs"] == [
        None,
        {"77": {"logprob": -0.077, "rank": 1, "decoded_token": TOKENIZER.decode([77])}},
        {"300": {"logprob": -0.3, "rank": 1, "decoded_token": TOKENIZER.decode([300])}},
    ]
    assert (choice["text"], choice["finish_reason"], choice["index"]) == ("", "length", 0)
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 0, 3)
    assert (
        usage["prompt_tokens_details"]["cached_tokens"] == usage["completion_tokens_details"]["reasoning_tokens"] == 0
    )
    assert (answer["object"], answer["model"], answer["system_fingerprint"]) == ("text_completion", "base", "base")
    (request,) = server.engine.requests
    assert (request.prompt_ids, request.prompt_only, request.prompt_logprobs) == (IDS, True, 0)


def test_the_openai_client_reads_it(server):
    done = server.client().completions.create(
        model="base", prompt=IDS, max_tokens=0, echo=True, extra_body={"prompt_logprobs": 0, "return_token_ids": True}
    )
    assert done.choices[0].text == TOKENIZER.decode(IDS)
    assert done.choices[0].prompt_logprobs[1]["77"]["logprob"] == -0.077
    assert (done.choices[0].prompt_token_ids, done.choices[0].token_ids) == (IDS, [])


def test_an_impossible_token_is_written_as_vllm_writes_it(server, monkeypatch):
    scores = [None, {77: TokenLogprob(float("-inf"), 1024)}]
    monkeypatch.setattr("tests.fakes._prompt_scores", lambda request: scores)
    (choice,) = complete(server, prompt=IDS[:2])["choices"]
    assert choice["prompt_logprobs"][1]["77"] == {
        "logprob": -9999.0, "rank": 1024, "decoded_token": TOKENIZER.decode([77])
    }  # fmt: skip


def test_a_prompt_is_continued_with_its_tokens_and_ends_at_the_models_stop_tokens_and_ones_own(server):
    spoken = TOKENIZER.encode("<|channel|>final<|message|>Hello there.<|return|>", add_special_tokens=False)
    server.engine.script = spoken
    choice = complete(server, max_tokens=50, temperature=0, return_token_ids=True, prompt_logprobs=None)["choices"][0]
    assert choice["token_ids"] == spoken and choice["finish_reason"] == "stop"
    assert choice["text"] == "finalHello there." and "prompt_logprobs" not in choice
    whole = complete(server, max_tokens=50, skip_special_tokens=False, stop_token_ids=[spoken[3]])
    assert whole["choices"][0]["text"] == TOKENIZER.decode(spoken[:4])
    cut = complete(server, max_tokens=2, seed=7)
    assert cut["choices"][0]["finish_reason"] == "length" and cut["usage"]["completion_tokens"] == 2
    stops = tuple(TOKENIZER.convert_tokens_to_ids(["<|return|>", "<|call|>"]))
    assert server.engine.requests[0].sampling == SamplingParams(temperature=0, max_tokens=50, stop_token_ids=stops)
    assert server.engine.requests[2].sampling == SamplingParams(
        temperature=0.3, seed=7, max_tokens=2, stop_token_ids=stops
    )


# Several choices, stop texts, streams

STORY = TOKENIZER.encode("One fox, two foxes, three foxes.", add_special_tokens=False)
GO_ON = {"model": "base", "prompt": "Once", "max_tokens": 50}


def stream(server, **body) -> list[dict]:
    response = server.post("/v1/completions", GO_ON | {"stream": True} | body)
    assert response.status_code == 200, response.text
    *events, end = response.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["id"] for chunk in chunks} == {f"cmpl-{response.headers['x-request-id']}"}
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    return chunks


def test_a_stream_is_the_whole_text_in_pieces(server):
    server.engine.script = STORY
    chunks = stream(server, return_token_ids=True)
    assert len(chunks) == len(STORY) + 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == "One fox, two foxes, three foxes."
    assert [choice["finish_reason"] for choice in choices] == [None] * len(STORY) + ["length"]
    assert [token for choice in choices for token in choice["token_ids"]] == STORY
    assert choices[0]["prompt_token_ids"] == TOKENIZER.encode("Once")
    assert "usage" not in chunks[0]


def test_the_openai_client_streams_with_usage(server):
    server.engine.script = STORY
    chunks = list(
        server.client().completions.create(**GO_ON, echo=True, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == f"Once{TOKENIZER.decode(STORY)}"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], len(STORY))


def test_several_prompts_have_n_choices_each_in_order(server):
    server.engine.script = None  # echoes
    prompts = ["One fox", "two foxes"]
    answer = complete(server, prompt=prompts, n=2, seed=7, max_tokens=50, prompt_logprobs=None)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in answer["choices"]] == ["One fox", "One fox", "two foxes", "two foxes"]
    each = [len(TOKENIZER.encode(prompt)) for prompt in prompts]
    assert answer["usage"]["prompt_tokens"] == sum(each), "a prompt counts once"
    assert answer["usage"]["completion_tokens"] == 2 * sum(each)
    first, second, *_ = seeds = [request.sampling.seed for request in server.engine.requests]
    assert seeds == [7, second, 7, second] and first != second
    of_ids = complete(server, prompt=[IDS, IDS[:2]])["choices"]
    assert [len(choice["prompt_logprobs"]) for choice in of_ids] == [3, 2]


def test_choices_stream_side_by_side(server):
    server.engine.script, server.engine.delay = None, 0.002
    chunks = stream(server, prompt=["One fox, two foxes", "three"], stream_options={"include_usage": True})
    pieces = [choice for chunk in chunks for choice in chunk["choices"]]
    texts = ["".join(piece["text"] for piece in pieces if piece["index"] == index) for index in (0, 1)]
    assert texts == ["One fox, two foxes", "three"]
    order = [piece["index"] for piece in pieces]
    assert order.index(1) < len(order) - 1 - order[::-1].index(0), "the second begins before the first ends"
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["usage"]["completion_tokens"] == sum(map(len, (r.prompt_ids for r in server.engine.requests)))


@pytest.mark.parametrize("stop", ["two", ["three", "two"], [", t"]])
def test_a_stop_text_ends_the_text_and_the_engines_work(stop, server):
    server.engine.script = [*STORY, *(STORY * 100)]
    server.engine.delay = 0.001
    expected = "One fox" if stop == [", t"] else "One fox, "
    whole = complete(server, **GO_ON | {"max_tokens": 4000}, stop=stop, prompt_logprobs=None)["choices"][0]
    assert (whole["text"], whole["finish_reason"]) == (expected, "stop")
    choices = [chunk["choices"][0] for chunk in stream(server, max_tokens=4000, stop=stop)]
    assert ("".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]) == (expected, "stop")
    assert until(lambda: server.engine.stats().running == 0)


def test_text_in_half_characters_comes_when_it_is_whole(server):
    server.engine.script = TOKENIZER.encode("fox \U0001f98a!", add_special_tokens=False)
    pieces = [chunk["choices"][0]["text"] for chunk in stream(server)]
    assert "".join(pieces) == "fox \U0001f98a!" and not any("\ufffd" in piece for piece in pieces)
    server.engine.script = server.engine.script[:-2]
    cut = "".join(chunk["choices"][0]["text"] for chunk in stream(server))
    assert cut == TOKENIZER.decode(server.engine.script) == "fox \ufffd"


def test_generated_tokens_are_scored_in_openais_older_shape(server):
    server.engine.script = STORY[:4]
    whole = complete(server, **GO_ON, logprobs=2, prompt_logprobs=None)["choices"][0]
    scores = whole["logprobs"]
    names = [TOKENIZER.decode([token]) for token in STORY[:4]]
    assert scores["tokens"] == names and "".join(names) == whole["text"]
    assert scores["text_offset"] == [len("".join(names[:at])) for at in range(4)]
    assert scores["token_logprobs"] == [token / -1000 for token in STORY[:4]]
    assert scores["top_logprobs"] == [{name: token / -1000} for name, token in zip(names, STORY[:4], strict=True)]
    pieces = [chunk["choices"][0]["logprobs"] for chunk in stream(server, logprobs=2)]
    for name, values in scores.items():
        assert [value for piece in pieces for value in piece[name]] == values
    request = server.engine.requests[0]
    assert (request.logprobs, request.prompt_logprobs) == (2, None)
    assert complete(server, **GO_ON)["choices"][0]["logprobs"] is None


def test_the_likeliest_tokens_stand_beside_the_chosen_one_even_if_that_is_unlikely():
    request = parse_request({"model": "base", "prompt": "x", "logprobs": 2})
    writer = ChoiceWriter(TOKENIZER, request, 0, [1])
    scores = {77: TokenLogprob(-9.0, 40), 78: TokenLogprob(-0.1, 1), 79: TokenLogprob(float("-inf"), 2)}
    choice = writer.write(TokenChunk([77], "length", 1, 1, None, [scores]))
    names = {token: TOKENIZER.decode([token]) for token in scores}
    assert list(choice.logprobs.top_logprobs[0].items()) == [(names[78], -0.1), (names[79], -9999.0), (names[77], -9.0)]
    assert choice.logprobs.token_logprobs == [-9.0]


def test_an_echoed_prompt_is_scored_too(server):
    server.engine.script = STORY[:2]
    prompt = TOKENIZER.encode("One fox")
    choice = complete(server, prompt=prompt, max_tokens=2, echo=True, logprobs=0, prompt_logprobs=None)["choices"][0]
    scores = choice["logprobs"]
    assert scores["tokens"] == [TOKENIZER.decode([token]) for token in (*prompt, *STORY[:2])]
    assert scores["token_logprobs"] == [None, *(token / -1000 for token in (*prompt[1:], *STORY[:2]))]
    assert scores["top_logprobs"][0] is None and choice["text"].startswith("One fox")
    assert scores["text_offset"][len(prompt)] == len("One fox")
    assert "prompt_logprobs" not in choice


def test_tokens_behind_a_stop_text_are_not_scored(server):
    server.engine.script = STORY
    for choices in (
        complete(server, **GO_ON, logprobs=0, stop="two")["choices"],
        [chunk["choices"][0] for chunk in stream(server, logprobs=0, stop="two")],
    ):
        names = "".join(name for choice in choices for name in choice["logprobs"]["tokens"])
        assert "".join(choice["text"] for choice in choices) == "One fox, "
        assert names in ("One fox, ", "One fox, t", "One fox, two"), "the last token may reach beyond the text"


def test_one_prompt_that_is_refused_refuses_all_and_leaves_nothing_running(server):
    server.engine.delay = 0.001
    server.engine.script = STORY * 100
    generate = server.engine.generate

    async def too_long(request):
        if len(request.prompt_ids) > 5:
            await asyncio.sleep(0.02)
            raise RequestError("the prompt is too long", param="prompt")
        async for chunk in generate(request):
            yield chunk

    server.engine.generate = too_long
    response = server.post("/v1/completions", GO_ON | {"prompt": [IDS, IDS * 3], "max_tokens": 4000, "stream": True})
    assert (response.status_code, "too long" in response.text) == (400, True)
    assert until(lambda: server.engine.stats().running == 0)


def test_an_engine_that_dies_mid_stream_ends_it_with_an_error_event_and_no_done(server):
    server.engine.script = STORY
    server.remote.dies_after = 4
    response = server.post("/v1/completions", GO_ON | {"stream": True})
    last = response.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"
    assert "[DONE]" not in response.text


def test_a_client_that_leaves_ends_all_its_choices(server):
    server.engine.script, server.engine.delay = STORY * 100, 0.005
    chunks = server.client().completions.create(**GO_ON | {"max_tokens": 4000}, n=3, stream=True)
    next(iter(chunks))
    assert server.engine.stats().running == 3
    chunks.close()
    assert until(lambda: server.engine.stats().running == 0)
    assert server.metrics()[("tandem_requests_abandoned_total",)] == 3


def test_all_choices_are_of_one_version_even_if_the_alias_moves_between_them(server, monkeypatch):
    version = publish(server.registry).version
    server.engine.script = STORY
    resolve, asked = Catalog.resolve, []

    def moves(catalog, name):
        asked.append(name)
        target = resolve(catalog, name)
        return replace(target, version=None) if len(asked) == 2 else target  # the first choice's, as before the swap

    server.post("/api/aliases/prod", {"adapter": version})
    monkeypatch.setattr(Catalog, "resolve", moves)
    assert complete(server, model="prod", n=2, max_tokens=3)["system_fingerprint"] == version
    assert [request.adapter for request in server.engine.requests[-2:]] == [version, version]
    assert until(lambda: server.engine.stats().running == 0)


def test_a_prompt_may_be_text_in_which_special_tokens_are_themselves(server):
    text = "<|start|>user<|message|>Hi"
    complete(server, prompt=text)
    assert server.engine.requests[0].prompt_ids == TOKENIZER.encode(text)
    assert server.engine.requests[0].prompt_ids[0] == TOKENIZER.convert_tokens_to_ids("<|start|>")


def test_the_adapter_of_an_alias_scores_and_a_completion_is_counted(server):
    version = publish(server.registry).version
    server.post("/api/aliases/prod", {"adapter": version})
    answer = complete(server, model="prod")
    assert answer["system_fingerprint"] == version
    assert answer["choices"][0]["prompt_logprobs"][1]["77"]["logprob"] == -0.0385
    assert server.metrics()[("tandem_requests_total", "200", "prod")] == 1


def test_an_engine_that_dies_is_asked_again(server):
    server.engine.script = IDS
    server.remote.dies_after = 1
    assert complete(server, max_tokens=3, return_token_ids=True)["choices"][0]["token_ids"] == IDS
    assert len(server.engine.requests) == 2


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[1, 2], []]}, "prompt"),
        ({"prompt": ["one", ""]}, "prompt"),
        ({"prompt": ["one", [1]]}, "prompt"),
        ({"prompt": [1, -2]}, "prompt"),
        ({"prompt": {"text": "one"}}, "prompt"),
        ({"prompt": [[[1]]]}, "prompt"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"prompt_logprobs": None}, None),
        ({"temperature": 3, "max_tokens": 1}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stop": [""], "max_tokens": 1}, "stop"),
        ({"stop": 5}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"n": 33, "prompt": [[1], [2]]}, None),
        ({"temperature": 3, "max_tokens": 1, "stream": True}, "temperature"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"a": 2}}, "logit_bias"),
        ({"logit_bias": {"1": 200}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"min_tokens": 3}, "min_tokens"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(change, param, refusing):
    response = refusing.post("/v1/completions", SCORE | change)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_what_asks_for_nothing_is_taken(server):
    nothing = {"n": 1, "best_of": 1, "stream": False, "logprobs": None, "suffix": "", "stop": [], "user": "me"}
    assert complete(server, **nothing)["choices"][0]["text"] == ""


def test_an_unknown_model_is_a_404(refusing):
    response = refusing.post("/v1/completions", SCORE | {"model": "nope"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_an_adapter_is_held_over_http_and_answers_until_it_is_released(server):
    version = publish(server.registry).version
    held = server.post(f"/api/adapters/{version}/load", {"seconds": 30})
    assert held.status_code == 200 and held.json()["version"] == version
    assert complete(server, model=version)["system_fingerprint"] == version
    assert server.get("/api/status").json()["holds"][0]["hold"] == held.json()["hold"]
    assert version in [model["id"] for model in server.get("/v1/models").json()["data"]]
    again = server.post(f"/api/adapters/{version}/load", {"hold": held.json()["hold"]})
    assert again.json() == held.json() | {"seconds": 60}
    gone = server.post(f"/api/adapters/{version}/unload", {"hold": held.json()["hold"]})
    assert gone.json() == {"version": version, "hold": held.json()["hold"]}
    assert server.engine.adapters() == ()
    assert server.post("/v1/completions", SCORE | {"model": version}).status_code == 404
    assert server.post(f"/api/adapters/{version}/unload", {"hold": held.json()["hold"]}).status_code == 404


def test_a_hold_is_refused_with_the_status_that_fits(server):
    foreign = publish(server.registry, base_fingerprint="0" * 64).version
    assert server.post(f"/api/adapters/{foreign}/load", {}).status_code == 409
    assert server.post("/api/adapters/nope/load", {}).status_code == 404
    for body in ({"seconds": 0}, {"seconds": 10**6}, {"forever": True}):
        assert server.post(f"/api/adapters/{foreign}/load", body).status_code == 400

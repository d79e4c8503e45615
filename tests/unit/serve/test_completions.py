"""`POST /v1/completions` over real HTTP: vLLM's shape of prompt_logprobs, ids in and out, the rest refused by name."""

import pytest
from transformers import AutoTokenizer

from configs.paths import TINY_MODEL
from serve.engine.protocol import TokenLogprob
from serve.engine.sampling import SamplingParams
from tests.samples import publish

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
IDS = [5, 77, 300]
SCORE = {"model": "base", "prompt": IDS, "max_tokens": 0, "prompt_logprobs": 0}


def complete(server, **body) -> dict:
    response = server.post("/v1/completions", SCORE | body)
    assert response.status_code == 200, response.text
    assert response.headers["x-request-id"] == response.json()["id"]
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
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
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
    monkeypatch.setattr(server.engine, "_scores", lambda request: scores)
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
    assert server.engine.requests[2].sampling == SamplingParams(seed=7, max_tokens=2, stop_token_ids=stops)


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
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": ["one", "two"]}, "prompt"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"prompt_logprobs": None}, None),
        ({"temperature": 3, "max_tokens": 1}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stream": True}, "stream"),
        ({"stop": ["."]}, "stop"),
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 1}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
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

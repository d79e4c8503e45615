"""`GET /v1/models`, as OpenAI and vLLM write it."""

import pytest

from tests.gateway_server import MAX_CONTEXT
from tests.samples import publish


def test_every_name_says_what_answers_and_how_much_it_takes(server):
    version = publish(server.registry, run_id="a").version
    assert server.post("/api/aliases/prod", {"adapter": version}).status_code == 200
    listed = server.get("/v1/models").json()
    assert listed["object"] == "list"
    named = {each["id"]: each for each in listed["data"]}
    assert {name: (each["root"], each["parent"]) for name, each in named.items()} == {
        "tiny": ("tiny", None),
        "base": ("tiny", None),
        "prod": (version, "tiny"),
        version: (version, "tiny"),
    }
    assert {each["max_model_len"] for each in named.values()} == {MAX_CONTEXT}
    assert {(each["object"], each["owned_by"], type(each["created"])) for each in named.values()} == {
        ("model", "tandem", int)
    }
    assert server.get(f"/v1/models/{version}").json() == named[version]


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models", "//v1///models//"])
def test_paths_as_clients_put_them_together_are_found(path, refusing):
    assert refusing.get(path).json() == refusing.get("/v1/models").json()


def test_a_doubled_slash_before_a_post_is_found_and_a_path_that_is_none_is_not(refusing):
    assert refusing.post("//v1/chat/completions/", {}).json()["error"]["message"] == "model: Field required"
    error = refusing.get("//v1//nothing/").json()["error"]
    assert error["message"] == "no route GET /v1/nothing -> see /docs"

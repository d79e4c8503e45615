"""`/v1/load_lora_adapter` and `/v1/unload_lora_adapter` over real HTTP: published adapters, kept until unloaded."""

import pytest

from serve.adapters import keep_loaded as holds_module
from tests.gateway_server import ASK
from tests.samples import publish
from tests.unit.serve.http.test_gateway import until

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def ask(server, model: str):
    return server.post(body={"model": model, "messages": ASK})


def test_a_published_adapter_answers_under_its_version_from_load_to_unload(server):
    version = publish(server.registry).version
    loaded = server.post(LOAD, {"lora_name": version})
    assert (loaded.status_code, loaded.text) == (200, f"Success: LoRA adapter '{version}' added successfully.")
    assert ask(server, version).json()["system_fingerprint"] == version
    assert version in [model.id for model in server.client().models.list()]
    assert ask(server, "prod").json()["system_fingerprint"] == "base", "no alias moved"
    (hold,) = server.get("/api/status").json()["holds"]
    assert (hold["version"], hold["seconds_left"]) == (version, None)
    gone = server.post(UNLOAD, {"lora_name": version})
    assert (gone.status_code, gone.text) == (200, f"Success: LoRA adapter '{version}' removed successfully.")
    assert ask(server, version).status_code == 404 and server.engine.adapters() == ()
    again = server.post(UNLOAD, {"lora_name": version})
    assert (again.status_code, again.json()["error"]["param"]) == (404, "lora_name")


def test_a_version_that_is_published_but_not_loaded_is_a_404_that_says_how_to_load_it(server):
    version = publish(server.registry).version
    error = server.refusal(404, {"model": version, "messages": ASK})
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert f"'{version}' is published, but not loaded" in error["message"]
    assert f'POST /v1/load_lora_adapter {{"lora_name": "{version}"}}' in error["message"]


def test_lora_path_may_only_say_the_same(server):
    version = publish(server.registry).version
    for path in (version, str(server.registry.path(version))):
        assert server.post(LOAD, {"lora_name": version, "lora_path": path}).status_code == 200
        assert server.post(UNLOAD, {"lora_name": version}).status_code == 200


@pytest.mark.parametrize("path", ["/etc", "../x", "", "org/adapter", "/tmp/{version}", "s3://bucket/{version}"])
def test_a_path_from_outside_is_refused(path, server):
    version = publish(server.registry).version
    refused = server.post(LOAD, {"lora_name": version, "lora_path": path.format(version=version)})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora_path")
    assert "only published adapters are loaded" in refused.json()["error"]["message"]
    assert server.engine.adapters() == ()


@pytest.mark.parametrize("name", ["nope", "../x", "/etc", "latest", ".", "a\0b", "base", "prod"])
def test_a_name_that_is_no_published_version_is_a_404(name, server):
    publish(server.registry)
    for route in (LOAD, UNLOAD):
        refused = server.post(route, {"lora_name": name})
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "lora_name")


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "lora_name"), ({"lora_name": ""}, "lora_name"), ({"lora_name": 5}, "lora_name"),
     ({"lora_name": "x", "lora_path": 5}, "lora_path"), ({"lora_name": "x", "load_inplace": True}, "load_inplace")],
)  # fmt: skip
def test_a_bad_body_is_a_400_that_names_the_field(body, param, refusing):
    response = refusing.post(LOAD, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_vllms_other_fields_are_taken_when_they_ask_for_nothing(server):
    version = publish(server.registry).version
    assert server.post(LOAD, {"lora_name": version, "load_inplace": False}).status_code == 200
    refused = server.post(UNLOAD, {"lora_name": version, "lora_int_id": 3})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora_int_id")
    assert server.engine.adapters() == (version,)
    assert server.post(UNLOAD, {"lora_name": version, "lora_int_id": None}).status_code == 200
    assert server.engine.adapters() == ()
    assert server.post(LOAD, {"lora_name": version, "load_inplace": None}).status_code == 200


def test_loading_twice_is_a_conflict_and_a_broken_adapter_is_refused(server):
    version = publish(server.registry, run_id="a").version
    foreign = publish(server.registry, run_id="b", base_fingerprint="0" * 64).version
    assert server.post(LOAD, {"lora_name": version}).status_code == 200
    twice = server.post(LOAD, {"lora_name": version})
    assert (twice.status_code, "has been loaded already" in twice.text) == (409, True)
    assert server.post(LOAD, {"lora_name": foreign}).json()["error"]["code"] == "adapter_refused"
    assert server.engine.adapters() == (version,)


def test_it_outlives_swaps_other_holds_and_a_restarted_engine(server, monkeypatch):
    version, other = publish(server.registry, run_id="a").version, publish(server.registry, run_id="b").version
    server.post(LOAD, {"lora_name": version})
    hold = server.post(f"/api/adapters/{version}/load", {"seconds": 30}).json()["hold"]
    server.post(f"/api/adapters/{version}/unload", {"hold": hold})
    server.post("/api/aliases/prod", {"adapter": version})
    server.post("/api/aliases/prod", {"adapter": other})
    assert set(server.engine.adapters()) == {version, other}
    monkeypatch.setattr(holds_module, "SWEEP_S", 0.01)
    server.engine.remove_adapter(version)
    assert until(lambda: version in server.engine.adapters())
    assert ask(server, version).json()["system_fingerprint"] == version


def test_unloading_leaves_what_an_alias_points_to(server):
    version = publish(server.registry).version
    server.post(LOAD, {"lora_name": version})
    server.post("/api/aliases/prod", {"adapter": version})
    assert server.post(UNLOAD, {"lora_name": version}).status_code == 200
    assert ask(server, "prod").json()["system_fingerprint"] == version

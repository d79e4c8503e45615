"""The API's own page: every route that takes a body shows its schema and examples, which work; all of it is here."""

import json
import re
from types import SimpleNamespace

import httpx
import jsonschema
import pytest

from serve import gateway
from serve.http.description.examples import ADMIN_EXAMPLES, EXAMPLES, HOLD, IN_PATHS, VERSION
from serve.openai.chat.request import ChatRequest
from serve.openai.completions.request import CompletionRequest
from serve.openai.no_effect import IGNORED
from serve.openai.responses.request import ResponsesRequest
from tests.samples import publish

APP = gateway.build_app(
    SimpleNamespace(control=None, engines=None, catalog=None, swapper=None, kept_adapters=None, allowed_hosts=())
)
TOLD = APP.openapi()
SHOWN = [pytest.param(path, body, id=f"{path}: {title}") for path, of in EXAMPLES.items() for title, body in of.items()]


def references(value) -> set[str]:
    if isinstance(value, dict):
        return {value["$ref"]} if isinstance(value.get("$ref"), str) else set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(("path", "body"), SHOWN)
def test_every_example_is_answered(path, body, server):
    if VERSION in body.values():
        body = {"lora_name": publish(server.registry).version}
        if path.startswith("/v1/unload"):
            server.post("/v1/load_lora_adapter", body)
    conversation = server.client().conversations.create().id
    response = server.post(path.format(conversation_id=conversation), body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream") == bool(body.get("stream"))
    kind = response.headers["content-type"].partition(";")[0]
    check(response.text, TOLD["paths"][path]["post"]["responses"]["200"]["content"][kind]["schema"], kind)


def check(sent: str, schema: dict, kind: str) -> None:
    """Whether an answer of a format is what its schema says, each event of a stream by itself."""
    if kind == "text/event-stream":
        for event in filter(None, sent.split("\n\n")):
            fields = dict(line.split(": ", 1) for line in event.split("\n"))
            validate(fields, schema)
            data = schema["properties"]["data"]
            if fields["data"] != "[DONE]":
                held = data if "contentSchema" in data else data["anyOf"][1]
                validate(json.loads(fields["data"]), held["contentSchema"])
    else:
        validate(json.loads(sent) if kind == "application/json" else sent, schema)


def validate(value, schema: dict) -> None:
    jsonschema.validate(value, schema | {"components": TOLD["components"]}, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("path", ADMIN_EXAMPLES)
def test_every_example_of_an_admin_route_is_answered(path, server):
    version = publish(server.registry, run_id="a").version
    server.post("/api/aliases/prod", {"adapter": version})
    version = publish(server.registry, run_id="b").version
    hold = server.post(f"/api/adapters/{version}/load", {"seconds": 60}).json()["hold"]
    for body in ADMIN_EXAMPLES[path].values():
        real = json.loads(json.dumps(body).replace(VERSION, version).replace(HOLD, hold))
        response = server.post(path.format(**IN_PATHS | {"version": version}), real)
        assert response.status_code == (201 if path in ("/api/runs", "/api/exports") else 200), response.text
    shown = TOLD["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert [each["value"] for each in shown.values()] == list(ADMIN_EXAMPLES[path].values())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/completions"])
def test_every_field_is_described_and_what_has_no_effect_is_listed(path):
    properties = TOLD["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert [name for name, about in properties.items() if not about.get("description")] == []
    idle = {name for name, about in properties.items() if about["description"] == "No effect."}
    kind = {
        "/v1/chat/completions": ChatRequest,
        "/v1/responses": ResponsesRequest,
        "/v1/completions": CompletionRequest,
    }[path]
    assert idle == IGNORED - kind.model_fields.keys()


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_every_field_of_anthropics_is_described(path):
    properties = TOLD["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert [name for name, about in properties.items() if not about.get("description")] == []


def test_what_anthropics_routes_answer_is_told_whole_and_as_events(server):
    told = TOLD["paths"]["/v1/messages"]["post"]["responses"]["200"]["content"]
    body = EXAMPLES["/v1/messages"]["Streamed, with its reasoning"]
    whole = server.post("/v1/messages", body | {"stream": False}).json()
    assert set(told["application/json"]["schema"]["required"]) == set(whole)
    data = told["text/event-stream"]["schema"]["properties"]["data"]
    names = [each["$ref"].rpartition("/")[2] for each in data["contentSchema"]["anyOf"]]
    kinds = {TOLD["components"]["schemas"][name]["properties"]["type"]["const"] for name in names}
    sent = {line.removeprefix("event: ") for line in server.post("/v1/messages", body).text.splitlines()
            if line.startswith("event: ")}  # fmt: skip
    assert sent == kinds - {"error"}


def test_every_admin_field_is_described():
    for name in ("SwapRequest", "LoadRequest", "UnloadRequest", "RunRequest", "ExportRequest", "QuarantineRequest"):
        fields = TOLD["components"]["schemas"][name]["properties"]
        assert [field for field, about in fields.items() if not about.get("description")] == [], name


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_health_routes_answer_in_the_format_that_is_told(path, refusing):
    response = refusing.get(path)
    (kind,) = TOLD["paths"][path]["get"]["responses"]["200"]["content"]
    assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (200, kind)


def test_adapter_routes_and_readiness_tell_what_they_answer():
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        assert list(TOLD["paths"][path]["post"]["responses"]["200"]["content"]) == ["text/plain"]
    down = TOLD["paths"]["/readyz"]["get"]["responses"]["503"]["content"]["application/json"]["schema"]
    assert down["properties"]["ready"] == {"const": False}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_probe_may_ask_with_head(path, refusing):
    response = httpx.head(refusing.url + path, timeout=10)
    assert (response.status_code, response.content) == (200, b"")


def test_every_v1_route_that_takes_a_body_has_its_schema_and_examples():
    for path, methods in TOLD["paths"].items():
        if path.startswith("/v1/") and "post" in methods and not path.endswith("/cancel"):
            media = methods["post"]["requestBody"]["content"]["application/json"]
            assert {"model", "lora_name", "items", "metadata"} & set(media["schema"]["properties"])
            assert [shown["value"] for shown in media["examples"].values()] == list(EXAMPLES[path].values())


def test_the_description_is_whole_and_tells_the_errors_that_there_are():
    known = {f"#/components/schemas/{name}" for name in TOLD["components"]["schemas"]}
    assert references(TOLD["paths"]) | references(TOLD["components"]) <= known
    for methods in TOLD["paths"].values():
        for operation in methods.values():
            assert operation["tags"] and operation["description"] and operation["summary"]
            assert "422" not in operation["responses"]
            for status in ("4XX", "5XX"):
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                error = "ErrorEvent" if operation["tags"] == ["anthropic"] else "Error"
                assert schema == {"$ref": f"#/components/schemas/{error}"}


def test_a_real_error_has_the_shape_that_is_told(refusing):
    error = refusing.refusal(404, {"model": "nope", "messages": [{"role": "user", "content": "Hi"}]})
    assert set(error) == set(TOLD["components"]["schemas"]["Error"]["properties"]["error"]["required"])


def test_the_page_and_whatever_it_loads_come_from_this_server(refusing):
    page = refusing.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert {each.rpartition(".")[2] for each in loaded} == {"css", "js", "png"}
    assert all(each.startswith("/") and refusing.get(each).status_code == 200 for each in loaded)
    assert "url: '/openapi.json'" in page.text
    assert refusing.get("/openapi.json").json() == TOLD


def test_every_name_in_a_path_has_an_example():
    named = [
        each for path in TOLD["paths"].values() for method in path.values() for each in method.get("parameters", ())
    ]
    shown = {each["name"]: each["example"] for each in named if each["in"] == "path"}
    assert shown == IN_PATHS

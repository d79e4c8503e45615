"""A web page of somebody else reaches the gateway through the browser of a person who can: it must get nowhere."""

import asyncio

import pytest
from openai.types.shared import ErrorObject

from serve.http.middleware import ANY, OwnPagesOnly
from tests.gateway_server import BASIC, Server
from tests.loopback import http

TEXT = {"content-type": "text/plain"}
"""What `fetch(..., {mode: "no-cors"})` may send without asking first."""


def status_of(headers: dict[str, str], method: str = "POST", *, allowed: tuple[str, ...] = ()) -> int:
    """What the middleware answers; 200 is the app's."""

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": pairs}
    asyncio.run(OwnPagesOnly(app, allowed)(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/api/runs/tiny-1/stop",
     "/api/aliases/prod", "/no/such/route"],
)  # fmt: skip
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
        {"host": "evil.example:8000", "origin": "http://evil.example:8000", "sec-fetch-site": "same-origin"},
    ],
)
def test_another_pages_request_is_refused_whatever_it_asks_for(refusing: Server, path, headers):
    response = refusing.post(path, content=b'{"lora_name": "x", "model": "prod"}', headers=TEXT | headers)
    assert response.status_code == 403, response.text
    assert set(response.json()) == {"error"} and ErrorObject.model_validate(response.json()["error"])
    assert "reverse proxy" in response.json()["error"]["message"] or "open the address" in response.text


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/docs", "/v1/models", "/api/status", "/openapi.json"])
def test_a_foreign_name_reads_nothing(refusing: Server, path):
    own = {"host": f"localhost:{refusing.url.rpartition(':')[2]}"}
    assert http.get(refusing.url + path, headers=own).status_code == 200
    assert http.get(refusing.url + path, headers={"host": "evil.example"}).status_code == 403
    assert http.get(refusing.url + path, headers={"host": "127.0.0.1.evil.example:8000"}).status_code == 403


def test_programs_tunnels_own_pages_and_listed_names_get_their_answers(server: Server):
    port = server.url.rpartition(":")[2]
    form = {"content-type": "application/x-www-form-urlencoded"}  # curl -d without a header
    for headers in (
        form,
        {"host": "localhost:8000"},
        {"host": "[::1]:9000"},
        {"origin": f"http://127.0.0.1:{port}", "sec-fetch-site": "same-origin"},
        {"host": "chat.example", "origin": "https://chat.example"},
        {"origin": "https://chat.example", "sec-fetch-site": "same-origin"},
        {"origin": "https://other.example", "x-forwarded-host": "other.example"},
    ):
        body = b'{"model": "prod", "messages": [{"role": "user", "content": "Hi"}]}'
        response = server.post("/v1/chat/completions", content=body, headers=headers)
        assert response.status_code == 200, (headers, response.text)
    assert server.post("/v1/chat/completions", BASIC).status_code == 200


@pytest.mark.parametrize(
    ("headers", "method", "allowed", "status"),
    [
        ({}, "GET", (), 200),
        ({"host": "LOCALHOST:8000"}, "GET", (), 200),
        ({"host": "127.0.0.2"}, "GET", (), 200),
        ({"host": "localhost.evil.example"}, "GET", (), 403),
        ({"host": "192.168.0.7:8000"}, "GET", (), 403),
        ({"host": "[::1"}, "GET", (), 403),
        ({"host": "box:8000"}, "GET", ("Box",), 200),
        ({"host": "anything", "origin": "http://anything"}, "POST", (ANY,), 200),
        ({"host": "anything", "origin": "http://other"}, "POST", (ANY,), 403),
        ({"host": "localhost", "origin": ""}, "POST", (), 403),
        ({"host": "localhost", "origin": "null", "x-forwarded-host": ""}, "POST", (), 403),
        ({"host": "localhost:1", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "document"}, "GET", (), 200),
        ({"host": "localhost:1", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "document"}, "POST", (), 403),
        ({"host": "localhost:1", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "iframe"}, "GET", (), 403),
        ({"host": "localhost:1", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "GET", (), 403),
        ({"host": "localhost:1", "sec-fetch-site": "same-site"}, "GET", (), 200),
    ],
)  # fmt: skip
def test_the_rule_case_by_case(headers, method, allowed, status):
    assert status_of(headers, method, allowed=allowed) == status


def test_a_web_socket_of_another_page_is_closed_before_it_opens():
    sent = []

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/",
        "headers": [(b"host", b"localhost"), (b"origin", b"http://evil.example")],
    }
    asyncio.run(OwnPagesOnly(None)(scope, None, send))
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]

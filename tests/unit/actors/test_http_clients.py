"""What is on this machine is reached past every proxy; all else as the environment says."""

import ast
import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import httpx2
import pytest

from actors import http_clients
from configs.errors import ConfigError
from configs.paths import SOURCE

ROOMS = ("configs", "models", "actors", "jobs", "serve", "cli")


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.8.9.1", True),
        ("http://localhost:8000", True),
        ("http://tandem.localhost", True),
        ("http://[::1]:8000/v1", True),
        ("http://0.0.0.0:8000", True),
        ("https://127.0.0.1:8443/v1", False),  # its certificate is checked as the environment says
        ("https://api.openai.com/v1", False),
        ("http://127.0.0.1.example.com", False),
        ("http://192.168.1.7:8000", False),
        ("http://localhost.example.com", False),
    ],
)
def test_an_address_is_here_or_elsewhere(url, here):
    assert http_clients.is_here(url) is here


class _Asked(BaseHTTPRequestHandler):
    """Answers everything with an empty list of models, and keeps what was asked."""

    paths: list[str]

    def do_GET(self) -> None:
        type(self).paths.append(self.path)
        body = b'{"object": "list", "data": []}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None: ...


def _listener() -> tuple[ThreadingHTTPServer, list[str]]:
    handler = type("Asked", (_Asked,), {"paths": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, handler.paths


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server's address and the paths that it was asked for."""
    listening, paths = _listener()
    yield f"http://127.0.0.1:{listening.server_address[1]}", paths
    listening.shutdown()


@pytest.fixture
def proxy(monkeypatch) -> Iterator[list[str]]:
    """What a proxy that every variable names was asked for; beside it all else that may be wrong in an environment."""
    listening, paths = _listener()
    address = f"http://127.0.0.1:{listening.server_address[1]}"
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, address)
        monkeypatch.setenv(name.upper(), address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "[::1],fd00::/8")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    yield paths
    listening.shutdown()


async def _with_async_client(url: str) -> None:
    async with http_clients.async_client(url, 5) as http:
        await http.get("/models")


async def _with_async_openai(url: str) -> None:
    async with http_clients.async_openai_client(url, "none", httpx2.Timeout(5)) as client:
        await client.models.list()


async def _with_aiohttp(url: str) -> None:
    import aiohttp

    connector = aiohttp.TCPConnector()
    timeout = aiohttp.ClientTimeout(5)
    async with http_clients.aiohttp_session(url, connector, timeout, {}) as session:
        await (await session.get(f"{url}/models")).read()


def _with_client(url: str) -> None:
    with http_clients.client(url, 5) as http:
        http.get("/models")


def _with_openai(url: str) -> None:
    with http_clients.openai_client(url, "none", 5) as client:
        client.models.list()


WAYS = {
    "httpx": _with_client,
    "async httpx": lambda url: asyncio.run(_with_async_client(url)),
    "openai": _with_openai,
    "async openai": lambda url: asyncio.run(_with_async_openai(url)),
    "aiohttp": lambda url: asyncio.run(_with_aiohttp(url)),
}


@pytest.mark.parametrize("way", WAYS)
def test_loopback_is_reached_past_the_proxy_and_everything_that_is_wrong_in_the_environment(way, server, proxy):
    url, asked = server
    WAYS[way](url)
    assert (asked, proxy) == (["/models"], [])


@pytest.mark.parametrize("way", WAYS)
def test_another_machine_is_reached_through_the_proxy(way, proxy, monkeypatch):
    for name in ("SSL_CERT_FILE", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    WAYS[way]("http://gpu-box.invalid:8000")
    assert proxy == ["http://gpu-box.invalid:8000/models"]


def test_rays_secret_does_not_go_to_a_proxy_and_no_netrc_replaces_it(tmp_path, proxy, monkeypatch):
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "netrc").write_text("default login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200)

    with http_clients.ray_client("http://127.0.0.1:8265", tmp_path / "token") as ray:
        ray._transport = httpx.MockTransport(answer)
        ray.get("/api/jobs/")
    assert (seen, proxy) == (["Bearer secret"], [])


@pytest.mark.parametrize("way", WAYS)
def test_a_proxy_that_no_client_can_use_is_said_in_words(way, monkeypatch):
    monkeypatch.setenv("https_proxy", "socks4://127.0.0.1:9")
    with pytest.raises(ConfigError, match="https_proxy names a proxy of the kind socks4://"):
        WAYS[way]("https://api.example.com/v1")


def test_aiohttp_says_that_it_knows_http_proxies_only(monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(ConfigError, match="https_proxy is a socks5 proxy") as error:
        WAYS["aiohttp"]("https://api.example.com/v1")
    assert error.value.hint == "unset it, or name api.example.com in NO_PROXY"


MAKERS = {
    "httpx": {"Client", "AsyncClient", "get", "post", "put", "patch", "delete", "head", "options", "request", "stream"},
    "openai": {"OpenAI", "AsyncOpenAI", "DefaultHttpxClient", "DefaultAsyncHttpxClient"},
    "aiohttp": {"ClientSession", "request"},
    "request": {"urlopen", "build_opener", "urlretrieve"},
    "client": {"HTTPConnection", "HTTPSConnection"},
}
MAKERS["httpx2"] = MAKERS["requests"] = MAKERS["httpx"] | {"Session"}
MADE_BY_NAME = {"urlopen", "JobSubmissionClient", "ServeSubmissionClient", "HTTPConnection", "ClientSession"}
MADE_BY_NAME |= {"OpenAI", "AsyncOpenAI", "AsyncClient"}


def _made(tree: ast.AST) -> list[int]:
    """Lines on which an HTTP client is made, or used without being made."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    lines = []
    for call in calls:
        match call.func:
            case ast.Attribute(value=ast.Name(id=module) | ast.Attribute(attr=module), attr=name):
                lines += [call.lineno] if name in MAKERS.get(module, ()) else []
            case ast.Name(id=name):
                lines += [call.lineno] if name in MADE_BY_NAME else []
    return lines


def test_the_walk_finds_every_way_of_making_a_client():
    ways = ["httpx.get(u)", "httpx.AsyncClient()", "openai.OpenAI()", "aiohttp.ClientSession()", "requests.Session()"]
    ways += ["urllib.request.urlopen(u)", "urlopen(u)", "JobSubmissionClient(a)", "http.client.HTTPConnection(h)"]
    assert [way for way in ways if not _made(ast.parse(way))] == []
    assert _made(ast.parse("http_clients.client(u, 5); httpx.Timeout(5); http.get(u); openai.Stream")) == []


def test_no_other_file_makes_an_http_client():
    files = {path for room in ROOMS for path in (SOURCE / room).rglob("*.py")} - {SOURCE / "actors/http_clients.py"}
    found = {str(path.relative_to(SOURCE)): _made(ast.parse(path.read_text())) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_every_process_is_started_with_an_environment_that_is_named():
    found = []
    for path in (path for room in ROOMS for path in (SOURCE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="subprocess"), attr=name), keywords=keywords):
                    started = name in ("Popen", "run", "call", "check_call", "check_output")
                    if started and "env" not in {each.arg for each in keywords}:
                        found.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert found == []

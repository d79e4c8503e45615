"""A gateway over real HTTP with the parts that it has inside Ray, and an engine that recites."""

import asyncio
import socket
import threading
import time

import httpx
import openai
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from transformers import AutoTokenizer

from actors.control import Control
from actors.http_clients import openai_client
from actors.metrics import ClusterCollector, EngineMetrics, MetricsPart, RequestMetrics
from configs.paths import TINY_MODEL, Home
from configs.schema import ClusterConfig, ResponsesConfig, Slot
from models.base.checkpoint import end_token_ids
from models.lora.registry import Registry
from serve.adapters.keep_loaded import KeptAdapters
from serve.adapters.swap import Swapper
from serve.anthropic.service import Messages
from serve.gateway import Gateway, build_app
from serve.generation.catalog import Catalog
from serve.generation.engines import Engines
from serve.openai.body import model_defaults
from serve.openai.chat.service import Chat
from serve.openai.completions.service import Completions
from serve.openai.responses.background import Background
from serve.openai.responses.service import Responses
from serve.openai.responses.stored.conversations import Conversations
from serve.openai.responses.stored.kept import open_kept
from serve.openai.responses.stored.responses import StoredResponses
from serve.openai.tokens.service import Tokens
from tests.fakes import FakeEngine, FakeJobs, FakeRemote
from tests.loopback import http
from tests.samples import FINGERPRINT

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
SLOTS = (Slot(name="0", roles=("train",)), Slot(name="1", roles=("serve",)))
HELLO = (
    "<|channel|>analysis<|message|>Greet them.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Hello there.<|return|>"
)
ASK = [{"role": "user", "content": "Hi"}]
MAX_CONTEXT = 100_000
BASIC = {"model": "prod", "messages": ASK}


def tokens(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


class Server:
    """A gateway on `port`, 0 for a free one, in a thread of its own; its engines belong to the test."""

    def __init__(self, home: Home, port: int = 0, keeping: ResponsesConfig | None = None) -> None:
        self.home = home
        self.keeping = keeping or ResponsesConfig()
        self.engine = FakeEngine(tokens(HELLO))
        self.remote = FakeRemote("engine_1", self.engine)
        self.registry = Registry(home.models)
        self.socket = socket.socket(proto=socket.IPPROTO_TCP)  # or asyncio leaves Nagle's algorithm on
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart takes its port again at once
        self.socket.bind(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def start(self) -> None:
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 10
        while not (hasattr(self, "server") and self.server.started):
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.005)

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)
        self.socket.close()

    async def _serve(self) -> None:
        self.gateway = await self._gateway()
        config = uvicorn.Config(build_app(self.gateway), log_level="critical", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        await self.server.serve(sockets=[self.socket])
        self.control._ledger.close()

    async def _gateway(self) -> Gateway:
        """What Gateway's constructor builds inside Ray, from the same parts."""
        gateway = Gateway.__new__(Gateway)
        self.control = Control.__new__(Control)
        await self.control.__init__(self.home, SLOTS, ClusterConfig(), FakeJobs(), ticking=False)
        gateway.started, gateway.registry, gateway.control = time.time(), self.registry, self.control
        gateway.allowed_hosts = ("chat.example",)
        gateway.max_context = MAX_CONTEXT
        gateway.sampling = model_defaults(TINY_MODEL)
        gateway.engines = Engines([self.remote])
        gateway.catalog = Catalog("tiny", self.control.aliases, is_published=self.registry.has)
        gateway.metrics = {part: CollectorRegistry() for part in MetricsPart}
        gateway.requests = RequestMetrics(gateway.metrics[MetricsPart.REQUESTS])
        gateway.engine_metrics = EngineMetrics(gateway.metrics[MetricsPart.ENGINES], "tiny")
        gateway.metrics[MetricsPart.CLUSTER].register(ClusterCollector(self.home))
        parts = (TOKENIZER, gateway.catalog, gateway.engines, gateway.requests, MAX_CONTEXT)
        gateway.chat = Chat(*parts)
        gateway.swapper = Swapper(
            self.control, gateway.engines, gateway.catalog, self.registry, FINGERPRINT, gateway.requests
        )
        gateway.kept_adapters = KeptAdapters(gateway.swapper, gateway.engines, gateway.catalog)
        gateway.kept, background = open_kept(self.keeping, self.home), Background()
        gateway.responses = Responses(gateway.chat, gateway.kept, background)
        gateway.stored_responses = StoredResponses(gateway.kept, background)
        gateway.conversations = Conversations(gateway.kept)
        gateway.messages = Messages(gateway.chat)
        gateway.tokens = Tokens(TOKENIZER, gateway.chat)
        gateway.completions = Completions(*parts, end_ids=end_token_ids(TINY_MODEL))
        return gateway

    # Talking to it

    def client(self) -> openai.OpenAI:
        return openai_client(f"{self.url}/v1", "none", timeout=10)

    def get(self, path: str) -> httpx.Response:
        return http.get(self.url + path, timeout=10)

    def delete(self, path: str) -> httpx.Response:
        return http.delete(self.url + path, timeout=10)

    def post(self, path: str = "/v1/chat/completions", body: dict | None = None, **how) -> httpx.Response:
        return http.post(self.url + path, **(how or {"json": BASIC if body is None else body}), timeout=10)

    def refusal(self, status: int, body: dict | None = None, **how) -> dict:
        """The error of a refused chat request, in OpenAI's shape."""
        response = self.post(body=body, **how)
        assert response.status_code == status, response.text
        assert set(response.json()) == {"error"}
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code", "request_id"}
        assert error["request_id"] == response.headers["x-request-id"]
        return error

    def metrics(self) -> dict[tuple, float]:
        response = self.get("/metrics")
        assert response.status_code == 200
        families = text_string_to_metric_families(response.text)
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

"""What the routes need of `serve.gateway.Gateway`, which imports them: a service for each API, and what they share."""

from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from actors.metrics import EngineMetrics, MetricsPart, RequestMetrics
from models.lora.registry import Registry
from serve.adapters.keep_loaded import KeptAdapters
from serve.anthropic.service import Messages
from serve.generation.catalog import Catalog
from serve.generation.engines import Engines
from serve.openai.chat.service import Chat
from serve.openai.completions.service import Completions
from serve.openai.responses.service import Responses
from serve.openai.responses.stored.conversations import Conversations
from serve.openai.responses.stored.responses import StoredResponses
from serve.openai.tokens.service import Tokens


class Parts(Protocol):
    """One gateway's parts, as the routes see them."""

    chat: Chat
    completions: Completions
    responses: Responses
    stored_responses: StoredResponses
    conversations: Conversations
    messages: Messages
    tokens: Tokens
    catalog: Catalog
    engines: Engines
    kept_adapters: KeptAdapters
    registry: Registry
    sampling: dict[str, float]
    """What the base's generation_config.json sets for requests that leave it open."""
    requests: RequestMetrics
    engine_metrics: EngineMetrics
    metrics: dict[MetricsPart, CollectorRegistry]

    def models(self) -> list[dict[str, Any]]:
        """Every servable name as `GET /v1/models` has it: JSON."""
        ...

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether an engine answers, and each engine's state as JSON."""
        ...

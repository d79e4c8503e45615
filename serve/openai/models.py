"""Models over HTTP: an entry of `GET /v1/models`, and the bodies of vLLM's two routes that load and unload an adapter.

vLLM loads whatever folder `lora_path` names. Here nothing from outside is loaded: `lora_name` is a published version,
and `lora_path` may only say the same. `load_inplace` and `lora_int_id` are taken when they ask for nothing.
https://docs.vllm.ai (LoRA adapters, dynamically serving)
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from configs.errors import NotFoundError, RequestError
from models.lora.registry import Registry
from serve.openai.body import checked


class UnloadRequest(BaseModel):
    """Body of `POST /v1/unload_lora_adapter`."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    lora_name: str = Field(min_length=1)
    """A published version, as `tandem adapters list` shows it."""


class LoadRequest(UnloadRequest):
    """Body of `POST /v1/load_lora_adapter`."""

    lora_path: str | None = None
    """Not needed: the version once more, or its own folder below `TANDEM_HOME/models`."""


def parse_load(body: bytes | dict[str, Any]) -> LoadRequest:
    return checked(body, LoadRequest, {"load_inplace": (False,)})


def parse_unload(body: bytes | dict[str, Any]) -> UnloadRequest:
    return checked(body, UnloadRequest, {"lora_int_id": ()})


def published(request: LoadRequest, registry: Registry) -> str:
    """The version to load. Raises NotFoundError for one that is not published, RequestError for another path."""
    version = request.lora_name
    if not registry.has(version):
        raise NotFoundError(
            f"no adapter '{version[:80]}' is published", hint="see `tandem adapters list`", param="lora_name"
        )
    if request.lora_path not in (None, version) and Path(request.lora_path) != registry.path(version):
        raise RequestError(
            f"lora_path '{request.lora_path[:200]}' is not the folder of the published adapter {version}",
            hint="only published adapters are loaded: leave lora_path out, or repeat lora_name in it",
            param="lora_path",
        )
    return version


def model(name: str, version: str | None, created: int, *, base: str, context: int) -> dict[str, Any]:
    """An entry of the list, OpenAI's with the fields that vLLM adds.

    `version` is the adapter's behind `name`, None for the base.
    `created` is in Unix seconds, `context` in tokens, prompt and answer together. `root` is what answers, the version
    or the base's own name; `parent` is the base that an adapter belongs to.
    """
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "tandem",
        "root": version or base,
        "parent": base if version else None,
        "max_model_len": context,
    }

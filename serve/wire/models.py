"""A model of `GET /v1/models`: OpenAI's, with the fields that vLLM adds."""

from typing import Any


def model(name: str, version: str | None, created: int, *, base: str, context: int) -> dict[str, Any]:
    """What stands for `name`, behind which is an adapter's `version`, or None for the base.

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

"""Parameters of other servers' APIs that are accepted without effect, and how a request says so.

They set what this server decides for itself, or a feature of engines that it does not have; clients send them by
default. Each one that a body holds is named in the answer's header `x-tandem-ignored`, and a value that stands for the
nearest one that exists in `x-tandem-mapped`. Called by whatever reads a body; `serve.request_log` writes the
headers.
"""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ValidationInfo

from serve.request_log import current

OPENAI = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "prediction", "parallel_tool_calls",
}  # fmt: skip
"""The model makes one call per generation, so they are never parallel."""

VLLM = {
    "length_penalty", "spaces_between_special_tokens", "skip_special_tokens", "add_special_tokens",
    "mm_processor_kwargs", "media_io_kwargs", "mm_payload", "return_mm_kwargs", "guided_decoding_backend",
    "guided_whitespace_pattern", "priority", "request_id", "session_id", "cache_salt", "kv_transfer_params",
    "ec_transfer_params", "vllm_xargs", "repetition_detection", "stream_interval", "return_token_offsets",
    "routed_experts_prompt_start", "watermarking",
}  # fmt: skip

OLLAMA = {
    "keep_alive", "num_ctx", "num_batch", "num_keep", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram",
    "f16_kv", "use_mmap", "use_mlock", "vocab_only", "mirostat", "mirostat_eta", "mirostat_tau", "tfs_z", "typical_p",
    "repeat_last_n", "penalize_newline", "top_n_sigma",
}  # fmt: skip
"""Ollama's options and llama.cpp's samplers, which Open WebUI shows for every model."""

IGNORED = frozenset(OPENAI | VLLM | OLLAMA)

T = TypeVar("T")


def ignore(name: str) -> None:
    """The request holds the parameter `name`, and the answer is what it would be without."""
    exchange = current()
    if name not in exchange.ignored:
        exchange.ignored.append(name)


def nearest(name: str, asked: object, taken: T) -> T:
    """`taken`, which stands for the value `asked` of the parameter `name`."""
    current().mapped[name] = f"{asked}->{taken}"
    return taken


def _ignored(value: object, field: ValidationInfo) -> object:
    ignore(str(field.field_name))
    return value


Ignored = Annotated[Any, AfterValidator(_ignored)]
"""The type of a field that is accepted without effect, and says so if it is there."""

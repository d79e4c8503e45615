"""The seam between whoever serves HTTP and whatever generates tokens. Engines speak token ids, never text.

The gateway knows chat formats and aliases, an engine knows a model, a KV cache and adapter versions. `tests/fakes.py`
has the smallest engine. All values that cross are small, frozen and picklable, so the seam may be a Ray actor.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from serve.engine.grammar import Constraint
from serve.engine.sampling import SamplingParams

FinishReason = Literal["stop", "length", "abort"]
"""A stop token was generated; `max_tokens` or the context is used up; somebody called `abort`."""


@dataclass(frozen=True)
class TokenLogprob:
    """How likely one token was at one position."""

    logprob: float
    """Natural logarithm of its probability, before temperature, penalties, bias and grammar."""
    rank: int
    """1 plus the tokens of the vocabulary that were likelier."""


PromptLogprobs = list[dict[int, TokenLogprob] | None]
"""One entry per prompt token, each given the tokens before it: None for the first, which has no past, then the token
itself and, if asked for, the likeliest ones."""


@dataclass(frozen=True)
class GenerationRequest:
    """One generation, pinned to one adapter version for its whole life."""

    request_id: str
    """Unique among the requests that an engine has now."""
    prompt_ids: list[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    """`stop` is not the engine's: stop strings are matched on parsed text, and whoever matches closes the iterator."""
    adapter: str | None = None
    """Version id of a loaded adapter; None is the base model."""
    prompt_logprobs: int | None = None
    """Score the prompt: every token of it and this many of the likeliest ones at its position. None does not."""
    prompt_only: bool = False
    """End after the prompt, with no token and finish_reason "length"; `max_tokens` does not count then."""
    constraint: Constraint | None = None
    logprobs: int | None = None
    """Score every generated token and this many of the likeliest ones at its position. None does not."""


@dataclass(frozen=True)
class FirstToken:
    """Where the time to a request's first token went inside the engine, in seconds."""

    queue: float
    """From its arrival until it held a row."""
    prefill: float
    """From there to its first token, whatever else the engine did between."""


@dataclass(frozen=True)
class TokenChunk:
    """The tokens that a request gained since its last chunk; those ready together leave together."""

    ids: list[int]
    """Generated tokens, the stop token included; empty only together with a `finish_reason`."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk and nowhere else."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Tokens generated so far, this chunk's included."""
    prompt_logprobs: PromptLogprobs | None = None
    """On the first chunk of a request that asked for them."""
    logprobs: list[dict[int, TokenLogprob]] | None = None
    """One entry per id, for a request that asked for them: the id itself first, then the likeliest others."""
    first_token: FirstToken | None = None
    """On the chunk that holds the request's first token."""

    def followed_by(self, later: "TokenChunk") -> "TokenChunk":
        """This chunk and the next one of the same request as one."""
        logprobs = None if self.logprobs is None else self.logprobs + (later.logprobs or [])
        return replace(
            later,
            ids=self.ids + later.ids,
            logprobs=logprobs,
            prompt_logprobs=self.prompt_logprobs,
            first_token=self.first_token,
        )


@dataclass(frozen=True)
class AdapterCheck:
    """What a loaded adapter does to the logits of fixed probe prompts, compared with the base alone."""

    version: str
    max_difference: float
    """Largest |adapter logit - base logit|."""
    repeat_difference: float
    """Largest difference between two runs of the base on the same prompts: 0 on a CPU, noise of atomics on a GPU."""


@dataclass(frozen=True)
class EngineStats:
    running: int
    """Requests that hold a row of the KV cache."""
    waiting: int
    kv_tokens: int
    """Tokens in the KV cache now."""
    kv_capacity: int
    """Tokens that the KV cache may come to hold."""
    adapters: dict[str, int]
    """Loaded adapter versions, removed ones that still have requests included, with their requests."""
    generated_tokens: int
    """Since the engine started."""
    device: str
    memory_bytes: int
    """Device memory held by tensors of this process; resident memory on a CPU."""


class Engine(Protocol):
    """One model on one device. Call it from one asyncio loop; `stats`, `abort` and `adapters` from any thread."""

    async def add_adapter(self, version: str, path: Path) -> None:
        """Load the PEFT folder `path` beside what runs; returns when requests may name `version`.

        Running requests go on meanwhile. Adding a version that is loaded already does nothing, and one that is being
        removed stays: versions are immutable. Raises AdapterError for an unreadable, foreign or unsupported adapter,
        naming the file or keys; nothing of it stays loaded then.
        """
        ...

    async def verify_adapter(self, version: str) -> AdapterCheck:
        """Compare the adapter's logits with the base's on probe prompts, between steps of running requests.

        Raises AdapterError, naming the number, if logits are not finite or differ from the base's no more than the
        base does from itself; NotFoundError for a version that is not loaded. The adapter stays loaded either way.
        """
        ...

    def remove_adapter(self, version: str) -> None:
        """Refuse new requests for `version` from now on and unload it when its last running request ends.

        Raises NotFoundError for a version that is not loaded; a second call is allowed while it drains.
        """
        ...

    def adapters(self) -> tuple[str, ...]:
        """Versions that new requests may name, in the order added."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        """Stream the request's tokens. Closing the iterator (`aclose`, or cancelling its task) aborts the request.

        Raises at the first `__anext__`: NotFoundError(param="model") for an adapter that is not loaded,
        OverloadError if too many requests wait, PromptTooLongError(param="prompt") with both numbers for a prompt that
        leaves no room in the context, RequestError with the constraint's own `param` for a grammar that does not
        compile; later, TandemError if the engine fails while generating.
        """
        ...

    def abort(self, request_id: str) -> None:
        """End a request early; its stream ends with finish_reason "abort". Unknown ids are ignored."""
        ...

    def stats(self) -> EngineStats: ...

    def check_health(self) -> None:
        """Raises TandemError, with the cause, if this engine cannot generate any more and has to be replaced."""
        ...

    def close(self) -> None:
        """Fail what is left, stop the engine and release its memory. May be called twice."""
        ...

"""One request on its way through an engine, and the chunks that it becomes. Knows no model and no cache."""

import asyncio
import time
from dataclasses import dataclass, field

from serve.engine.protocol import FinishReason, FirstToken, GenerationRequest, PromptLogprobs, TokenChunk, TokenLogprob
from serve.engine.sampling import Sampler


@dataclass(eq=False)
class Generation:
    """The queue belongs to the request's loop, all else to the engine's thread."""

    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    limit: int
    """Most tokens to generate."""
    sampler: Sampler
    events: asyncio.Queue[TokenChunk | Exception] = field(default_factory=asyncio.Queue)
    arrived: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    """When it was first admitted to the batch; 0 before."""
    generated: list[int] = field(default_factory=list)
    scores: PromptLogprobs = field(default_factory=lambda: [None])
    """Of the prompt so far, if the request asks for them."""
    aborted: bool = False

    def admit(self) -> None:
        """It is part of the batch from now on; of several times the first counts."""
        self.admitted = self.admitted or time.perf_counter()

    def gain(self, token: int, logprobs: dict[int, TokenLogprob] | None) -> TokenChunk:
        """The chunk for the next token, with a finish reason if it is the last one."""
        self.generated.append(token)
        reason: FinishReason | None = None
        if token in self.request.sampling.stop_token_ids or self.sampler.complete:
            reason = "stop"
        elif len(self.generated) >= self.limit:
            reason = "length"
        return self.chunk([token], reason, None if logprobs is None else [logprobs])

    def chunk(
        self, ids: list[int], reason: FinishReason | None, logprobs: list[dict[int, TokenLogprob]] | None = None
    ) -> TokenChunk:
        asked, count = self.request.prompt_logprobs is not None, len(self.generated)
        scores = self.scores if asked and count == len(ids) else None
        return TokenChunk(ids, reason, len(self.request.prompt_ids), count, scores, logprobs, self._first_token(ids))

    def _first_token(self, ids: list[int]) -> FirstToken | None:
        if not ids or len(self.generated) > len(ids):
            return None
        return FirstToken(self.admitted - self.arrived, time.perf_counter() - self.admitted)

    async def next_chunk(self) -> TokenChunk:
        """All tokens that are there, or the first ones to come. Raises the error that ended the generation."""
        event = await self.events.get()
        if isinstance(event, Exception):
            raise event
        chunk = event
        while chunk.finish_reason is None and not self.events.empty():
            event = self.events.get_nowait()
            if isinstance(event, Exception):
                self.events.put_nowait(event)
                break
            chunk = chunk.followed_by(event)
        return chunk

"""The way of one Responses request: as a chat request, its answer as events. Knows no HTTP and no Ray."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from openai.types.responses import Response
from pydantic import BaseModel

from configs.errors import TandemError
from serve import pinned
from serve.catalog import BASE
from serve.chat import Answer, Chat
from serve.wire.body import encode
from serve.wire.response_events import EventWriter
from serve.wire.responses import ResponsesRequest


class Responses:
    """Answers Responses requests through a Chat."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def open(self, request: ResponsesRequest) -> "EventStream":
        """The answer up to its first token. Raises what `Chat.open` raises."""
        asked = request.chat()
        with request.in_own_words():
            return EventStream(request, await self._chat.open(asked))

    async def complete(self, request: ResponsesRequest) -> Response:
        """A whole answer. Raises what `open` raises, and EngineLostError if engines keep dying."""

        async def answer() -> Response:
            return await (await self.open(request)).complete()

        return await pinned.whole(answer)


class EventStream:
    """One answer being generated, as events."""

    def __init__(self, request: ResponsesRequest, answer: Answer) -> None:
        self._answer = answer
        self._writer = EventWriter(request, fingerprint=answer.target.version or BASE)

    @property
    def id(self) -> str:
        return self._writer.id

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events; the last one is `response.completed`, `.incomplete` or `.failed`."""
        try:
            async with aclosing(self._answer.parts()) as answer:
                yield _sent(self._writer.begin())
                async for parts in answer:
                    if events := [event for part in parts for event in self._writer.write(part)]:
                        yield _sent(events)
        except TandemError as error:
            yield _sent(self._writer.fail(error))

    async def complete(self) -> Response:
        async with aclosing(self._answer.parts()) as answer:
            async for parts in answer:
                for part in parts:
                    self._writer.write(part)
        return self._writer.response()


def _sent(events: list[BaseModel]) -> str:
    return "".join(f"event: {event.type}\ndata: {encode(event)}\n\n" for event in events)

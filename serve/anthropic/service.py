"""The way of one of Anthropic's messages: as a chat request, its answer as events. Knows no HTTP and no Ray."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing

from configs.errors import TandemError
from serve.anthropic.answer import EventWriter
from serve.anthropic.errors import error_body
from serve.anthropic.message import Message, TokenCount
from serve.anthropic.request import CountRequest, MessagesRequest
from serve.generation import generation
from serve.openai.body import encode
from serve.openai.chat.service import Answer, Chat


class Messages:
    """Answers Anthropic's messages through a Chat."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def open(self, request: MessagesRequest) -> "EventStream":
        """The answer up to its first token. Raises what `Chat.open` raises."""
        asked = request.chat()
        with request.in_own_words():
            return EventStream(request, await self._chat.open(asked))

    async def complete(self, request: MessagesRequest) -> Message:
        """A whole answer. Raises what `open` raises, and EngineLostError if engines keep dying."""

        async def answer() -> Message:
            return await (await self.open(request)).complete()

        return await generation.whole(answer)

    async def count(self, request: CountRequest) -> TokenCount:
        """How many tokens the prompt has, however long it is."""
        asked = request.chat()
        with request.in_own_words():
            return TokenCount(input_tokens=len(await self._chat.prompt(asked)))


class EventStream:
    """One answer being generated, as events."""

    def __init__(self, request: MessagesRequest, answer: Answer) -> None:
        self._answer = answer
        self._writer = EventWriter(request)

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events; the last one is `message_stop` or `error`."""
        try:
            async with aclosing(self._answer.parts()) as answer:
                async for parts in answer:
                    if events := [event for part in parts for event in self._writer.write(part)]:
                        yield "".join(_sent(event.type, encode(event)) for event in events)
        except TandemError as error:
            yield _sent("error", json.dumps(error_body(error)[1]))

    async def complete(self) -> Message:
        async with aclosing(self._answer.parts()) as answer:
            async for parts in answer:
                for part in parts:
                    self._writer.write(part)
        return self._writer.message()


def _sent(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"

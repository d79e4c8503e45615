"""One response being generated: its events, and what is kept of it at its end. Called by `responses`."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from openai.types.responses import Response, ResponseStreamEvent

from configs.errors import NotFoundError, RequestError, TandemError
from serve.generation import generation
from serve.generation.catalog import BASE
from serve.openai.body import encode
from serve.openai.chat.service import Answer
from serve.openai.responses.background import Run
from serve.openai.responses.events import EventWriter
from serve.openai.responses.stored.kept import StoredRecords
from serve.openai.responses.stored.store import RESPONSE, Record
from serve.openai.responses.turn import Turn

Begin = Callable[[], Awaitable[Answer]]


def sent(event: ResponseStreamEvent) -> str:
    """An event as it goes to a client."""
    return f"event: {event.type}\ndata: {encode(event)}\n\n"


class ResponseStream:
    """One response."""

    def __init__(self, turn: Turn, response_id: str, kept: StoredRecords) -> None:
        self.id = response_id
        self._turn = turn
        self._kept = kept
        self.writer = self._new_writer()

    @property
    def is_followed(self) -> bool:
        """Whether its events are for somebody."""
        return self._turn.request.stream

    async def events(self, answer: Answer) -> AsyncGenerator[str, None]:
        """Server-sent events; the last one is `response.completed`, `.incomplete` or `.failed`."""
        async with aclosing(self._steps(answer)) as steps:
            async for events in steps:
                if events:
                    yield "".join(map(sent, events))

    async def complete(self, begin: Begin) -> Response:
        """The whole response. Raises what `begin` raises, and EngineLostError if engines keep dying."""

        async def written() -> None:
            self.writer = self._new_writer()
            async with aclosing(self._written(await begin())) as steps:
                async for _ in steps:
                    pass

        await generation.whole(written)
        await self._end()
        return self.writer.response()

    async def run(self, run: Run, begin: Begin) -> None:
        """All of it without a client; `run` hears of the events of one that is streamed."""
        try:
            if not self.is_followed:
                await self.complete(begin)
                return
            async with aclosing(self._steps(await begin(), run.events)) as steps:
                async for events in steps:
                    run.add([sent(event) for event in events])
        except TandemError as error:
            run.add([sent(event) for event in [*self.writer.fail(error), *await self._end(run.events)]])
        except asyncio.CancelledError:
            if not run.is_cancelled:
                raise
            self.writer.cancel()
            run.add([sent(event) for event in await self._end(run.events)])

    async def keep(self, *, running: bool = False, events: Sequence[str] = ()) -> bool:
        """Keep the response as it is, if its request says so; whether it is kept."""
        if not self._turn.request.store:
            return False
        body = json.loads(encode(self.writer.response()))
        output = body.pop("output")
        return await self._kept.put(
            Record(self.id, RESPONSE, body, self._turn.items, output, list(events), running=running)
        )

    def _new_writer(self) -> EventWriter:
        request = self._turn.request
        return EventWriter(request, self.id, stored=request.store and self._kept.keeps)

    async def _steps(
        self, answer: Answer, before: Sequence[str] = ()
    ) -> AsyncGenerator[list[ResponseStreamEvent], None]:
        """Events as they come, to the last one, which comes when the response is kept with those `before` it."""
        try:
            async with aclosing(self._written(answer)) as steps:
                async for events in steps:
                    yield events
        except TandemError as error:
            yield self.writer.fail(error)
        yield await self._end(before)

    async def _written(self, answer: Answer) -> AsyncGenerator[list[ResponseStreamEvent], None]:
        """Events as they come, less the last one. Raises TandemError if the answer breaks off."""
        async with aclosing(answer.parts()) as parts:
            yield self.writer.begin(answer.target.version or BASE)
            async for chunks in parts:
                yield [event for chunk in chunks for event in self.writer.write(chunk)]

    async def _end(self, before: Sequence[str] = ()) -> list[ResponseStreamEvent]:
        """Keep the response, and in its conversation what it adds; the last event."""
        self.writer.stored = await self.keep()
        if self._turn.request.conversation_id and self.writer.status in ("completed", "incomplete"):
            await self._add_to(self._turn.request.conversation_id)
        last = self.writer.end()
        if before and self.writer.stored:
            await self.keep(events=[*before, *map(sent, last)])
        return last

    async def _add_to(self, conversation_id: str) -> None:
        """Items of a conversation that was deleted meanwhile, or that grew too large, are in the response alone."""
        added = [*self._turn.own_items, *json.loads(encode(self.writer.response()))["output"]]
        with contextlib.suppress(NotFoundError, RequestError):
            await self._kept.change_conversation(conversation_id, lambda record: record.input.extend(added))

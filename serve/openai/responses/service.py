"""The way of one Responses request: what it goes on from, as a chat request, in the foreground or in the background.

Knows no HTTP and no Ray. `response_stream` is the answer, `stored_responses` is asked about it later.
"""

import contextlib
import re
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from weakref import WeakValueDictionary

from openai.types.responses import Response

from configs.errors import PromptTooLongError, RequestError
from serve.openai.chat.service import Answer, Chat, Prepared
from serve.openai.responses.background import Background, Run
from serve.openai.responses.request import ResponsesRequest
from serve.openai.responses.stored.kept import StoredRecords
from serve.openai.responses.stream import Begin, ResponseStream, sent
from serve.openai.responses.turn import Turn
from serve.request_log import current

SANE_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
"""Request ids, which clients may choose, that can be part of a response's path."""

ROOM = 4
"""A `truncation` leaves this part of the context for the answer if the request does not say how long that may be."""


class Responses:
    """Answers Responses requests through a Chat."""

    def __init__(self, chat: Chat, kept: StoredRecords, background: Background) -> None:
        self._chat = chat
        self._kept = kept
        self._background = background
        self._live: WeakValueDictionary[str, ResponseStream] = WeakValueDictionary()

    async def open(self, request: ResponsesRequest) -> "OpenedResponse":
        """The answer up to its first token; in the background, up to its place in the queue.

        Raises what `Chat.open` raises, PreviousResponseError, and NotFoundError for a conversation or an item that is
        not kept.
        """
        stream, begin = await self._asked(request)
        if request.background:
            return OpenedResponse((await self._start(stream, begin)).follow())
        return OpenedResponse(stream.events(await begin()))

    async def complete(self, request: ResponsesRequest) -> Response:
        """A whole answer; in the background, the response that waits for one.

        Raises what `open` raises, and EngineLostError if engines keep dying.
        """
        stream, begin = await self._asked(request)
        if request.background:
            return (await self._start(stream, begin)).now()
        return await stream.complete(begin)

    async def count(self, request: ResponsesRequest) -> int:
        """Tokens of the prompt, however many. Raises what refuses it in `open`."""
        turn = await self._turn(request)
        with turn.in_own_words():
            return len(await self._chat.prompt(turn.chat()))

    async def _asked(self, request: ResponsesRequest) -> tuple[ResponseStream, Begin]:
        """A stream for the answer, and what begins it; nothing but an engine refuses it now."""
        turn = await self._turn(request)
        ready = await self._prepared(turn)

        async def begin() -> Answer:
            with turn.in_own_words():
                return await self._chat.begin(ready)

        stream = ResponseStream(turn, await self._new_id(), self._kept)
        self._live[stream.id] = stream
        return stream, begin

    async def _turn(self, request: ResponsesRequest) -> Turn:
        earlier = []
        if request.previous_response_id:
            earlier = (await self._kept.previous(request.previous_response_id)).items
        elif request.conversation_id:
            earlier = (await self._kept.conversation(request.conversation_id)).input
        return Turn(request, earlier, [await self._kept.whole(item) for item in request.items])

    async def _prepared(self, turn: Turn) -> Prepared:
        asked = await self._fitting(turn) if turn.request.truncation == "auto" else turn
        with asked.in_own_words():
            return await self._chat.prepare(asked.chat())

    async def _fitting(self, turn: Turn) -> Turn:
        """The turn without as many of its oldest as have to go."""
        shorter = [turn, *turn.shortened()]
        low, high = 0, len(shorter) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if await self._fits(shorter[middle]) else (middle + 1, high)
        return shorter[low]

    async def _fits(self, turn: Turn) -> bool:
        most = self._chat.max_context
        if most is None:
            return True
        with contextlib.suppress(PromptTooLongError):
            ready = await self._chat.prepare(turn.chat())
            return len(ready.prompt) + (turn.request.max_output_tokens or most // ROOM) <= most
        return False

    async def _new_id(self) -> str:
        """The request's own where that is a response's only one."""
        wanted = f"resp_{current().id}"
        is_free = SANE_ID.fullmatch(current().id) and wanted not in self._live
        return wanted if is_free and not await self._kept.is_taken(wanted) else f"resp_{uuid.uuid4().hex}"

    async def _start(self, stream: ResponseStream, begin: Begin) -> Run:
        """The response in the background, under way. Raises RequestError where it cannot be kept."""
        run = Run(lambda: stream.writer.response(), is_followed=stream.is_followed)
        run.add([sent(event) for event in stream.writer.queue()])
        if not await stream.keep(running=True):
            text = "a response in the background has to be stored"
            raise RequestError(text, hint=self._kept.why_not, param="background")
        self._background.start(stream.id, run, stream.run(run, begin))
        return run


@dataclass(frozen=True)
class OpenedResponse:
    """An answer that has begun, for the route that sends it."""

    sent: AsyncGenerator[str, None]

    def events(self) -> AsyncGenerator[str, None]:
        return self.sent

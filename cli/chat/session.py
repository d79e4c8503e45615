"""The chat itself: reads messages, asks the endpoint, keeps the conversation. Everything else is passed in.

Knows neither keyboard nor terminal: a Prompt gives lines, a Screen shows, an Endpoint answers, Conversations keep.
Every question and every answer is on disk at once, also what came of an answer until the terminal was closed. A lost
connection is waited for and the question asked again.
"""

import asyncio
import errno
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

from cli.chat import commands
from cli.chat.prompt import Prompt
from cli.chat.screen import Screen, statistics
from configs.errors import ClusterError, DataError, NotFoundError, OverloadError, TandemError
from serve.client.conversation import Conversation, Conversations, Statistics, Turn
from serve.client.endpoint import Endpoint, Reply

AGAIN_S, MOST_AGAIN_S = 1.0, 30.0
"""Between two tries while the endpoint is there but cannot answer; twice as long after each answer that breaks off."""
MOST_BROKEN = 3
"""Answers in a row that break off while the endpoint stays; a question may be what ends its engine."""
MODELS_S = 10.0
"""A list of names takes no longer, where anybody answers."""


class Interrupted(Exception):
    """Ctrl-C while something was awaited."""


class Chat:
    """One chat in one terminal. `run` is the whole of it."""

    def __init__(
        self, endpoint: Endpoint, prompt: Prompt, screen: Screen, store: Conversations, conversation: Conversation
    ) -> None:
        self.endpoint, self.prompt, self.screen, self.store = endpoint, prompt, screen, store
        self.open(conversation)
        self.models: list[str] = []
        """Names that the endpoint had when it was asked last."""
        self.draft = ""
        """Text that the next prompt begins with, to be edited."""
        self.editing = False
        """The next message replaces the last question."""
        self.instead: Callable[[str], Coroutine[Any, Any, None]] | None = None
        """Takes the next message, which is then no question to the conversation; an empty one gives that up."""
        self.leaving = False
        self.terminated = False
        """A signal or a closed terminal ended it."""
        self.failed = False
        """Some question was not answered."""
        self._awaited: asyncio.Task[Any] | None = None

    def open(self, conversation: Conversation) -> None:
        """Go on with this one."""
        self.conversation, self.opened = conversation, time.monotonic()

    async def run(self) -> None:
        """Until /exit, the end of the input, SIGTERM or SIGHUP. Raises ClusterError where nobody is there to wait for
        the endpoint."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.terminate)
        try:
            with self.prompt.quiet():
                await self._converse()
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that was closed, perhaps before SIGHUP arrives
                raise
            self.terminated = True

    async def _converse(self) -> None:
        while not self.leaving:
            try:
                message = await self._read()
            except KeyboardInterrupt:
                if not self.leaving:
                    self.screen.say("Ctrl-D or /exit leaves, /help shows the commands")
            except EOFError:
                return
            else:
                await self.take(message)

    async def _read(self) -> str:
        draft, self.draft = self.draft, ""
        if draft and not self.prompt.holds(draft):
            self.screen.say("(too long for the prompt: Up brings the text back, /exit or Ctrl-D leaves)")
            draft = ""
        return await self.prompt.read(draft)

    async def take(self, message: str) -> None:
        """One message: a command, what a command asked for, or a question."""
        if message.startswith("/"):
            await self._command(commands.run(self, message))
        elif self.instead:
            instead, self.instead = self.instead, None
            if message.strip():
                await self._command(instead(message))
            else:
                self.screen.say("(given up)")
        elif message.strip():
            await self.ask(message.strip("\n"))
        else:
            self.editing = False

    async def _command(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await self._stoppable(work)
        except Interrupted:
            self.screen.say("(stopped)")
        except TandemError as error:
            self.screen.complain(error)

    async def find_models(self) -> None:
        """Ask for `models` anew. Raises ClusterError if nothing answers in time."""
        try:
            async with asyncio.timeout(MODELS_S):
                self.models = await self.endpoint.models()
        except TimeoutError:
            raise ClusterError(
                f"no answer from {self.endpoint.url} within {MODELS_S:g} s", hint="`tandem status` shows what it does"
            ) from None

    def interrupt(self) -> None:
        """Ctrl-C: ends what is awaited and nothing else."""
        if self._awaited and not self._awaited.done():
            self._awaited.cancel()
        else:
            self.prompt.interrupt()

    def terminate(self) -> None:
        """SIGTERM, and SIGHUP of a terminal that is closed: keep what came, and leave."""
        self.leaving = self.terminated = True
        self.interrupt()

    # Questions

    async def ask(self, question: str) -> None:
        """Put a question; if it stays without an answer, it comes back to the prompt, or stays where none follows."""
        turns, title, editing = self.conversation.turns, self.conversation.title, self.editing
        self.conversation.turns = self._turns_before(self.last_question()) if editing else list(turns)
        self.editing = False
        self.conversation.ask(question)
        self.save()
        if await self._answer() or self.leaving:
            return
        self.conversation.turns, self.conversation.title = turns, title
        self.draft, self.editing = question, editing
        self.save()
        if not turns:
            with suppress(NotFoundError):  # it could not be saved
                self.store.delete(self.conversation.id)

    async def retry(self) -> None:
        """Ask the last question again; the old answer stays if there is no new one."""
        turns, question = self.conversation.turns, self.last_question()
        self.conversation.turns = [*self._turns_before(question), question]
        if not await self._answer():
            self.conversation.turns = turns

    def last_question(self) -> Turn:
        """Raises NotFoundError if nothing was asked yet."""
        for turn in reversed(self.conversation.turns):
            if turn.role == "user":
                return turn
        raise NotFoundError("nothing was asked yet")

    def _turns_before(self, question: Turn) -> list[Turn]:
        turns = self.conversation.turns
        return turns[: next(index for index, turn in enumerate(turns) if turn is question)]

    def messages_to_last_question(self) -> list[dict[str, Any]]:
        """What the last answer was given to. Raises NotFoundError if nothing was asked yet."""
        question = self.last_question()
        turns = [*self._turns_before(question), question]
        return self.conversation.model_copy(update={"turns": turns}).messages()

    async def compare(self, models: tuple[str, ...], messages: list[dict[str, Any]]) -> None:
        """One question to several models at once; the conversation stays as it is."""
        replies = [Reply() for _ in models]
        view = self.screen.comparison(list(models))

        async def receive(index: int) -> None:
            settings = self.conversation.settings.model_copy(update={"model": models[index]})
            async with aclosing(self.endpoint.reply(messages, settings)) as growing:
                async for reply in growing:
                    replies[index] = reply
                    view.show(reply, index)

        async def receive_all() -> list[BaseException | None]:
            return await asyncio.gather(*map(receive, range(len(models))), return_exceptions=True)

        async with view:
            try:
                ended = await self._stoppable(receive_all())
            except Interrupted:
                ended = [None if reply.finish_reason else Interrupted() for reply in replies]
        for model, reply, error in zip(models, replies, ended, strict=True):
            if isinstance(error, TandemError):
                self.screen.complain(type(error)(f"{model}: {error.message}", hint=error.hint))
                self.failed = True
            elif error and not isinstance(error, Interrupted):
                raise error
            else:
                note = "  (stopped)" if error else "  (cut: the token limit was reached)" if reply.cut else ""
                self.screen.say(f"{model}: {statistics(Statistics.of(reply), reply.version)}{note}")

    async def _answer(self) -> bool:
        """Whether the last question was answered, be it in part. Raises what lost the endpoint if no person is there to
        wait for it; what came is kept."""
        broken = 0
        while True:
            reply, error = await self._one_reply()
            broken += isinstance(error, ClusterError)
            match error:
                case ClusterError() | OverloadError() if not self.prompt.interactive:
                    if reply.came:
                        self._keep(reply, stopped=True)
                    raise error
                case ClusterError() if broken == MOST_BROKEN:
                    return self._give_up(reply, error)
                case ClusterError() | OverloadError():
                    with suppress(Interrupted):
                        broken *= not await self._was_away(error, min(AGAIN_S * 2 ** max(broken - 1, 0), MOST_AGAIN_S))
                        self.screen.say("asking again" + ("; the broken answer above is dropped" * reply.came))
                        continue
                case TandemError():
                    self.screen.complain(error)
                    self.failed = True
                    return False
            return self._keep(reply, stopped=error is not None)

    async def _one_reply(self) -> tuple[Reply, Interrupted | TandemError | None]:
        """What came, and what ended it before its time."""
        reply, view = Reply(), self.screen.answer()

        async def receive() -> None:
            nonlocal reply
            asked = self.endpoint.reply(self.conversation.messages(), self.conversation.settings)
            async with aclosing(asked) as growing:
                async for reply in growing:
                    view.show(reply)

        try:
            async with view:
                try:
                    await self._stoppable(receive())
                except (Interrupted, TandemError) as error:
                    return reply, error
        except OSError:  # nothing can be shown any more
            if reply.came:
                self.conversation.answer(reply, cut=reply.finish_reason is None)
                self.save()
            raise
        return reply, None

    async def _was_away(self, error: TandemError, pause_s: float) -> bool:
        """Wait until the endpoint answers; whether it did not at once. Raises Stopped if a person gave up."""
        self.screen.complain(error)
        self.screen.say(f"waiting for {self.endpoint.url}, then asking again (Ctrl-C gives up)")
        await self._stoppable(asyncio.sleep(pause_s))
        try:
            await self._stoppable(self.find_models())
        except ClusterError:
            await self._stoppable(self.endpoint.wait_ready())
            return True
        except TandemError:  # somebody answers, whatever it is
            return False
        return False

    def _give_up(self, reply: Reply, error: ClusterError) -> bool:
        """Keep what came, with the question at the prompt to be sent again; False if nothing came."""
        self.screen.complain(error)
        self.screen.complain(
            ClusterError(f"{MOST_BROKEN} answers in a row broke off", hint="change the question, or send it again")
        )
        self.failed = True
        if not reply.came:
            return False
        self.draft, self.editing = self.last_question().content, True
        return self._keep(reply, stopped=True)

    def _keep(self, reply: Reply, *, stopped: bool) -> bool:
        """Put what came into the conversation and on disk; False if nothing came."""
        if not reply.came:
            self.screen.say("(stopped before anything came)" if stopped else "(the answer is empty)")
            return False
        self.conversation.answer(reply, cut=stopped)
        self.save()
        notes = ["(stopped; what came is kept)"] if stopped else []
        notes += ["(cut: the token limit was reached; /settings max_tokens)"] if reply.cut else []
        notes += [f"(it calls {call['function']['name']}, and no tool is here)" for call in reply.tool_calls]
        self.screen.say("  ".join([statistics(Statistics.of(reply), reply.version), *notes]))
        return True

    def save(self) -> None:
        """A disk that takes nothing more is said, and the chat goes on."""
        try:
            if not self.store.save(self.conversation):
                self.screen.say(
                    f"(it was changed elsewhere meanwhile; this one goes on by itself, id {self.conversation.id})"
                )
        except OSError as error:
            self.screen.complain(
                DataError(
                    f"the conversation is not saved in {self.store.folder}: {error.strerror}", hint="free some space"
                )
            )

    async def _stoppable(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await `work` so that Ctrl-C ends it alone, and not what awaits it. Raises Stopped then."""
        outer, task = self._awaited, asyncio.create_task(work)
        self._awaited = task
        try:
            await asyncio.wait([task])
            if task.cancelled():
                raise Interrupted
            return task.result()
        finally:
            task.cancel()
            self._awaited = outer

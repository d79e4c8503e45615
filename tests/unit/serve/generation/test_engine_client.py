"""All requests to an engine on one stream: who gets what, who waits for whom, what ends when one leaves or dies."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from configs.errors import ClusterError, NotFoundError, OverloadError, TandemError
from serve.engine.mux import EngineMux
from serve.engine.protocol import FirstToken, GenerationRequest, TokenChunk, TokenLogprob
from serve.engine.sampling import SamplingParams
from serve.generation.engine_client import EngineClient, EngineLostError
from serve.generation.engines import Engines
from tests.fakes import FakeEngine, FakeHandle

LONG = range(200)


def request(name: str, prompt=(1, 2, 3), adapter: str | None = None) -> GenerationRequest:
    return GenerationRequest(name, list(prompt), SamplingParams(max_tokens=1000), adapter)


async def collect(source: EngineClient | Engines, wanted: GenerationRequest) -> list[int]:
    return [token async for chunk in source.generate(wanted) for token in chunk.ids]


def play(engine: FakeEngine, scenario: Callable[[EngineClient, FakeHandle], Awaitable[None]]) -> None:
    async def main() -> None:
        handle = FakeHandle(engine)
        await asyncio.wait_for(scenario(EngineClient("engine_0", handle), handle), 20)

    asyncio.run(main())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


class Stepping(FakeEngine):
    """All requests gain a token when `step` is called, as rows of one forward pass do."""

    def __init__(self) -> None:
        super().__init__()
        self.queues: dict[str, asyncio.Queue] = {}

    async def generate(self, wanted):
        queue = self.queues[wanted.request_id] = asyncio.Queue()
        while True:
            yield await queue.get()

    def step(self, token: int) -> None:
        for queue in self.queues.values():
            queue.put_nowait(TokenChunk([token]))


class Failing(FakeEngine):
    """Gives the tokens of a request, then raises `error` if the request is called "bad"."""

    def __init__(self, error: Exception) -> None:
        super().__init__(delay=0.001)
        self.error = error

    async def generate(self, wanted):
        for token in wanted.prompt_ids[: len(wanted.prompt_ids) - 1]:
            await asyncio.sleep(self.delay)
            yield TokenChunk([token])
        if wanted.request_id == "bad":
            raise self.error
        yield TokenChunk(wanted.prompt_ids[-1:], "length")


# One stream for all


def test_requests_share_one_stream_and_each_gets_its_own_tokens_in_order():
    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        prompts = [list(range(start, start + 40)) for start in (0, 100, 200)]
        found = await asyncio.gather(
            *(collect(remote, request(f"r{number}", prompt)) for number, prompt in enumerate(prompts))
        )
        assert found == prompts
        assert await collect(remote, request("later", [7])) == [7]
        assert len(handle.lines) == 1

    play(FakeEngine(delay=0.0005), scenario)


def test_what_one_step_gives_to_all_requests_leaves_together_and_at_once():
    async def main() -> None:
        engine = Stepping()
        mux = EngineMux(engine)
        batches = mux.batches()
        assert await anext(batches) == []
        for name in "abc":
            mux.submit(request(name))
        await until(lambda: len(engine.queues) == 3)
        for token in (5, 6):
            engine.step(token)
            batch = await asyncio.wait_for(anext(batches), 5)
            assert batch == [(name, TokenChunk([token])) for name in "abc"]
        await batches.aclose()

    asyncio.run(main())


def test_of_many_tokens_that_come_together_the_first_ones_of_their_requests_are_given_first(monkeypatch):
    monkeypatch.setattr("serve.generation.engine_client.AT_ONCE", 4)
    given = []

    class Noting(Stepping):
        def step(self, token: int) -> None:
            given.clear()
            super().step(token)

    engine = Noting()

    async def read(remote: EngineClient, name: str) -> None:
        async for chunk in remote.generate(request(name)):
            given.append((name, chunk.ids))

    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        old, new = [f"old {n}" for n in range(10)], [f"new {n}" for n in range(3)]
        tasks = [asyncio.create_task(read(remote, name)) for name in old]
        await until(lambda: len(engine.queues) == 10)
        engine.step(5)
        await until(lambda: len(given) == 10)
        tasks += [asyncio.create_task(read(remote, name)) for name in new]
        await until(lambda: len(engine.queues) == 13)
        engine.step(6)
        await until(lambda: len(given) == 13)
        assert given == [(name, [6]) for name in (*new, *old)]
        for task in tasks:
            task.cancel()

    play(engine, scenario)


def test_a_slow_reader_holds_up_nobody_and_misses_nothing():
    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        slow = remote.generate(request("slow", LONG))
        seen = (await anext(slow)).ids
        assert await collect(remote, request("quick", LONG)) == list(LONG)
        await until(lambda: not handle.replica._engine._running)
        rest = await anext(slow)
        assert seen + rest.ids == list(LONG), "what is ready leaves together"
        assert (rest.finish_reason, rest.completion_tokens) == ("length", len(LONG))
        assert [chunk async for chunk in slow] == []

    play(FakeEngine(delay=0.0005), scenario)


def test_chunks_joined_keep_every_token_its_scores_and_what_the_last_one_says():
    told = FirstToken(0.25, 0.5)
    first = TokenChunk([1], None, 9, 1, [None, {7: TokenLogprob(-0.5, 1)}], [{1: TokenLogprob(-0.1, 1)}], told)
    last = TokenChunk([2, 3], "stop", 9, 3, None, [{2: TokenLogprob(-0.2, 1)}, {3: TokenLogprob(-0.3, 2)}])
    assert first.followed_by(last) == TokenChunk(
        [1, 2, 3], "stop", 9, 3, first.prompt_logprobs, [*first.logprobs, *last.logprobs], told
    )
    assert TokenChunk([1]).followed_by(TokenChunk([2])) == TokenChunk([1, 2])


# Leaving


def test_leaving_a_request_aborts_it_in_the_engine_and_no_other():
    engine = FakeEngine(delay=0.002)

    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        other = asyncio.create_task(collect(remote, request("other", LONG)))
        leaving = remote.generate(request("leaving", LONG))
        await anext(leaving)
        assert set(engine._running) == {"other", "leaving"}
        await leaving.aclose()
        await until(lambda: "leaving" not in engine._running)
        assert await other == list(LONG)

    play(engine, scenario)


def test_a_request_that_is_left_while_it_is_being_submitted_is_aborted_too():
    engine = FakeEngine(delay=0.002)

    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        asked = asyncio.create_task(collect(remote, request("leaving", LONG)))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: bool(engine.requests))
        await until(lambda: not engine._running)
        assert not handle.replica._muxes[remote._line.id]._requests

    play(engine, scenario)


def test_a_gateway_that_is_gone_leaves_no_request_running():
    engine = FakeEngine(delay=0.002)

    async def main() -> None:
        replica = FakeHandle(engine).replica
        stream = replica.stream("line")
        await anext(stream)
        for name in "ab":
            await replica.submit("line", request(name, LONG))
        await until(lambda: len(engine._running) == 2)
        await stream.aclose()
        await until(lambda: not engine._running)
        assert replica._muxes == {}

    asyncio.run(main())


def test_a_gateway_that_falls_silent_is_given_up_with_all_its_requests(monkeypatch):
    engine = FakeEngine(delay=0.002)
    monkeypatch.setattr("serve.engine.mux.SIGN_S", 0.01)

    async def main() -> None:
        replica = FakeHandle(engine).replica
        stream, seen = replica.stream("line"), []
        await anext(stream)
        for name in "ab":
            await replica.submit("line", request(name, LONG))
        for _ in range(100):
            await replica.listening("line")
            seen += await anext(stream)
        assert len(seen) >= 100 and set(engine._running) == {"a", "b"}
        async for batch in stream:
            seen += batch
        assert len(seen) < 2 * len(LONG)
        await until(lambda: not engine._running)
        assert replica._muxes == {}
        await replica.listening("line")  # too late, and no error

    asyncio.run(main())


def test_the_end_of_a_gateway_whose_stream_nobody_takes_from_is_noticed_too(monkeypatch):
    engine = FakeEngine(delay=0.002)
    monkeypatch.setattr("serve.engine.mux.SIGN_S", 0.005)

    async def main() -> None:
        replica = FakeHandle(engine).replica
        stream = replica.stream("line")
        await anext(stream)
        await replica.submit("line", request("a", range(10**6)))
        await until(lambda: bool(engine._running))
        await until(lambda: not engine._running)
        await stream.aclose()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_gateway_that_reads_says_so_and_goes_on_being_answered(monkeypatch):
    monkeypatch.setattr("serve.engine.mux.SIGN_S", 0.005)
    monkeypatch.setattr("serve.generation.engine_client.SIGN_S", 0.005)

    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        assert await collect(remote, request("long", range(300))) == list(range(300))
        await asyncio.sleep(0.05)
        assert await collect(remote, request("later", [7])) == [7]
        assert len(handle.lines) == 1

    play(FakeEngine(delay=0.001), scenario)


def test_a_gateway_that_was_given_up_and_is_there_after_all_may_ask_again(monkeypatch):
    monkeypatch.setattr("serve.engine.mux.SIGN_S", 0.005)

    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        with pytest.raises(EngineLostError, match="gave the answer up, because it did not hear") as caught:
            await collect(remote, request("silent", range(10**6)))
        assert "ask again" in caught.value.hint
        assert await collect(remote, request("again", [7])) == [7]
        assert len(handle.lines) == 2

    monkeypatch.setattr("serve.generation.engine_client.SIGN_S", 3600)
    play(FakeEngine(delay=0.001), scenario)


def test_no_call_to_the_engine_belongs_to_the_request_that_happened_to_make_it():
    """Serve cancels what was called in the context of a request whose client has left."""
    asking, made = ContextVar("asking", default=None), []

    class Noting(FakeHandle):
        def __getattr__(self, method):
            made.append((method, asking.get()))
            return super().__getattr__(method)

    async def main() -> None:
        asking.set("the first client")
        remote = EngineClient("engine_0", Noting(FakeEngine(delay=0.002)))
        leaving = remote.generate(request("leaving", LONG))
        await anext(leaving)
        await leaving.aclose()
        await until(lambda: len(made) >= 4)
        assert {method for method, _ in made} >= {"stream", "submit", "listening", "abort"}
        assert {asked for _, asked in made} == {None}

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_stream_that_is_cancelled_from_outside_leaves_no_request_waiting():
    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        asked = asyncio.create_task(collect(remote, request("waiting", LONG)))
        await until(lambda: bool(handle.replica._engine._running))
        remote._line.task.cancel()
        with pytest.raises(EngineLostError):
            await asked
        assert await collect(remote, request("later", [7])) == [7]

    play(FakeEngine(delay=0.002), scenario)


# Errors


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (OverloadError("full", hint="later"), OverloadError, "full"),
        (NotFoundError("v1 is not loaded", param="model"), NotFoundError, "v1 is not loaded"),
        (TandemError("the step failed"), TandemError, "the step failed"),
        (ZeroDivisionError("1/0"), ClusterError, "the engine failed: ZeroDivisionError: 1/0"),
    ],
)
def test_an_error_ends_the_request_that_it_belongs_to_after_its_tokens_and_no_other(raised, expected, words):
    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        other = asyncio.create_task(collect(remote, request("good", LONG)))
        seen = []
        with pytest.raises(expected, match=words) as caught:
            async for chunk in remote.generate(request("bad", [1, 2, 3])):
                seen += chunk.ids
        assert type(caught.value) is expected and seen == [1, 2]
        assert (caught.value.hint, caught.value.param) == (getattr(raised, "hint", caught.value.hint),
                                                           getattr(raised, "param", None))  # fmt: skip
        assert await other == list(LONG)
        assert len(handle.lines) == 1

    play(Failing(raised), scenario)


def test_when_the_engine_dies_every_request_of_it_says_so_and_the_next_one_opens_a_new_stream():
    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        async def answer(name: str) -> tuple[list[int], Exception | None]:
            seen = []
            try:
                async for chunk in remote.generate(request(name, LONG)):
                    seen += chunk.ids
            except EngineLostError as error:
                return seen, error
            return seen, None

        answers = [asyncio.create_task(answer(name)) for name in "abc"]
        await until(lambda: len(handle.replica._engine._running) == 3 and len(handle.lines[0]) > 5)
        handle.kill()
        for seen, error in await asyncio.gather(*answers):
            assert "engine engine_0 died while answering" in error.message and "ask again" in error.hint
            assert seen and seen == list(LONG)[: len(seen)] and len(seen) < len(LONG)
        handle.restart(FakeEngine())
        assert await collect(remote, request("d")) == [1, 2, 3]
        assert len(handle.lines) == 2

    play(FakeEngine(delay=0.002), scenario)


def test_a_request_that_got_no_token_yet_is_answered_by_the_engine_that_came_back():
    engine = FakeEngine(delay=60)

    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        asked = asyncio.create_task(collect(Engines([remote]), request("patient")))
        await until(lambda: bool(engine.requests))
        handle.kill()
        again = FakeEngine()
        handle.restart(again)
        assert await asked == [1, 2, 3]
        assert len(again.requests) == 1

    play(engine, scenario)


def test_a_request_that_reaches_another_process_than_its_stream_leads_to_is_lost_and_may_be_tried_again():
    async def scenario(remote: EngineClient, handle: FakeHandle) -> None:
        assert await collect(remote, request("first")) == [1, 2, 3]
        handle.restart(FakeEngine())  # the old process goes on streaming while calls reach the new one
        with pytest.raises(EngineLostError, match="engine_0 died"):
            await collect(remote, request("second"))

    play(FakeEngine(), scenario)

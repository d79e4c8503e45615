"""Engines that do not answer, rather than die: nobody waits longer than was said, and nothing else stands still."""

import asyncio
import logging

import pytest

from configs.errors import ClusterError
from serve.adapters import keep_loaded as holds_module
from serve.engine.protocol import GenerationRequest
from serve.engine.sampling import SamplingParams
from serve.generation import engine_client as remote_module
from serve.generation import engines as engines_module
from serve.generation.engine_client import EngineClient, EngineLostError
from serve.generation.engines import Engines
from tests.fakes import FakeEngine, FakeHandle


def request(name: str) -> GenerationRequest:
    return GenerationRequest(name, [1, 2, 3], SamplingParams(max_tokens=10))


async def collect(source: EngineClient | Engines, name: str) -> list[int]:
    return [token async for chunk in source.generate(request(name)) for token in chunk.ids]


class AwayHandle(FakeHandle):
    """Until it is `back`, calls find no replica and wait for one, as Serve has them do."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        self.back = asyncio.Event()

    def __getattr__(self, method: str):
        return WaitingMethod(self, method)


class WaitingMethod:
    def __init__(self, handle: AwayHandle, method: str, args: tuple = ()) -> None:
        self.handle, self.method, self.args = handle, method, args

    def remote(self, *args) -> "WaitingMethod":
        return WaitingMethod(self.handle, self.method, args)

    def cancel(self) -> None: ...

    def __await__(self):
        async def call():
            await self.handle.back.wait()
            return await getattr(self.handle.replica, self.method)(*self.args)

        return call().__await__()

    async def __aiter__(self):
        await self.handle.back.wait()
        async for batch in getattr(self.handle.replica, self.method)(*self.args):
            yield batch


def run(scenario) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_request_to_an_engine_that_stays_away_ends_when_it_was_said_to(monkeypatch):
    monkeypatch.setattr(remote_module, "OPENING_S", 0.02)
    monkeypatch.setattr(engines_module, "ENGINE_RETURN_S", 0.1)

    async def scenario() -> None:
        engine = FakeEngine()
        handle = AwayHandle(engine)
        remote = EngineClient("engine_0", handle)
        with pytest.raises(EngineLostError, match="engine_0 has not answered for"):
            await collect(Engines([remote]), "late")
        handle.back.set()
        assert await collect(remote, "later") == [1, 2, 3]
        assert [each.request_id for each in engine.requests] == ["later"], "who has gone is not begun any more"

    run(scenario)


def test_while_one_engine_is_away_another_one_answers(monkeypatch):
    monkeypatch.setattr(remote_module, "OPENING_S", 0.02)

    async def scenario() -> None:
        away, there = EngineClient("a", AwayHandle(FakeEngine())), EngineClient("b", FakeHandle(FakeEngine()))
        assert await collect(Engines([away, there]), "r") == [1, 2, 3]

    run(scenario)


def test_a_request_that_waits_for_an_engine_is_answered_when_it_comes(monkeypatch):
    monkeypatch.setattr(remote_module, "OPENING_S", 0.01)

    async def scenario() -> None:
        handle = AwayHandle(FakeEngine())
        asked = asyncio.create_task(collect(Engines([EngineClient("a", handle)]), "patient"))
        await asyncio.sleep(0.05)
        handle.back.set()
        assert await asked == [1, 2, 3]
        assert [each.request_id for each in handle.replica._engine.requests] == ["patient"]

    run(scenario)


def test_whatever_ray_raises_when_a_request_is_given_to_an_engine_reaches_the_request():
    from ray.exceptions import RaySystemError

    async def scenario() -> None:
        handle = FakeHandle(FakeEngine())

        async def broken(line, wanted) -> None:
            raise RaySystemError("the object store is gone")

        handle.replica.submit = broken
        with pytest.raises(ClusterError, match=r"engine_0 cannot be reached: RaySystemError: .*object store is gone"):
            await collect(EngineClient("engine_0", handle), "r")

    run(scenario)


# Holds


async def swept(condition) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_an_engine_that_does_not_answer_does_not_stop_the_sweep(play, monkeypatch):
    monkeypatch.setattr(holds_module, "SWEEP_S", 0.005)
    monkeypatch.setattr(engines_module, "PROBE_S", 0.02)

    async def scenario(stage):
        kept, brief = stage.publish("a"), stage.publish("b")
        await stage.kept_adapters.keep(kept)
        await stage.kept_adapters.take(brief, 0.05)
        engine = stage.engines.clients[0]
        call, waiting = engine.call, asyncio.Event()

        async def silent(method: str, *args):
            if method == "adapters":
                await waiting.wait()
            return await call(method, *args)

        engine.call = silent
        watching = asyncio.create_task(stage.kept_adapters.watch())
        with pytest.raises(ClusterError, match="which adapters it has"):
            await stage.engines.has(kept)
        await swept(lambda: [each["version"] for each in stage.kept_adapters.describe()] == [kept])
        assert brief in stage.fakes[0].adapters(), "nobody could be asked"
        waiting.set()
        await swept(lambda: stage.loaded() == [(kept,), (kept,)])
        watching.cancel()

    play(scenario)


def test_a_fault_of_the_sweep_is_logged_and_the_next_one_goes_on(play, monkeypatch, caplog):
    monkeypatch.setattr(holds_module, "SWEEP_S", 0.005)

    async def scenario(stage):
        version = stage.publish()
        await stage.kept_adapters.take(version, 0.02)
        retain, faults = stage.engines.retain, [ZeroDivisionError("a bug")]

        async def faulty(versions):
            if faults:
                raise faults.pop()
            await retain(versions)

        monkeypatch.setattr(stage.engines, "retain", faulty)
        watching = asyncio.create_task(stage.kept_adapters.watch())
        await swept(lambda: stage.loaded() == [(), ()])
        assert not watching.done()
        watching.cancel()

    with caplog.at_level(logging.ERROR):
        play(scenario)
    assert "a sweep could not drop" in caplog.text and "ZeroDivisionError: a bug" in caplog.text

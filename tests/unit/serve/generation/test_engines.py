"""Several engines behind one door: which one answers, what happens when one dies, and loading on all or none."""

import asyncio
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from actors.status import sources
from configs.errors import AdapterError, ClusterError, NotFoundError, OverloadError
from serve.engine.protocol import AdapterCheck, GenerationRequest
from serve.engine.sampling import SamplingParams
from serve.generation import engines as engines_module
from serve.generation.engines import EngineClient, EngineLostError, Engines, describe
from tests.fakes import FakeEngine, FakeRemote
from tests.gateway_server import Server
from tests.loopback import http

HERE = Path("/adapters/v1")


class Refusing(FakeEngine):
    """Refuses one adapter in `stage`; another stage takes `delay`."""

    def __init__(self, stage: str, error: Exception | None = None, delay: float = 0.0) -> None:
        super().__init__()
        self.stage, self.error, self.pause = stage, error or AdapterError("v1 is broken"), delay

    async def add_adapter(self, version: str, path: Path) -> None:
        await asyncio.sleep(self.pause)
        if self.stage == "add":
            raise self.error
        await super().add_adapter(version, path)

    async def verify_adapter(self, version: str) -> AdapterCheck:
        if self.stage == "verify":
            raise self.error
        return await super().verify_adapter(version)


def engines_of(*engines: FakeEngine, dies_after: int | None = None) -> Engines:
    remotes = [FakeRemote(f"engine_{number}", engine) for number, engine in enumerate(engines)]
    remotes[0].dies_after = dies_after
    return Engines(remotes)


def request(name: str = "r", prompt=(1, 2, 3), adapter: str | None = None) -> GenerationRequest:
    return GenerationRequest(name, list(prompt), SamplingParams(max_tokens=100), adapter)


async def collect(engines: Engines, wanted: GenerationRequest) -> list[int]:
    return [token async for chunk in engines.generate(wanted) for token in chunk.ids]


# Generating


def test_a_request_is_answered_by_one_engine_whole_and_in_order():
    first, second = FakeEngine(), FakeEngine()
    assert asyncio.run(collect(engines_of(first, second), request())) == [1, 2, 3]
    assert len(first.requests) + len(second.requests) == 1


def test_requests_go_to_the_engine_with_the_fewest():
    fakes = [FakeEngine(delay=0.01), FakeEngine(delay=0.01)]
    engines = engines_of(*fakes)

    async def main() -> None:
        await asyncio.gather(*(collect(engines, request(f"r{number}")) for number in range(6)))

    asyncio.run(main())
    assert [len(engine.requests) for engine in fakes] == [3, 3]


def test_an_engine_that_dies_before_the_first_token_is_tried_again(monkeypatch):
    monkeypatch.setattr(engines_module.asyncio, "sleep", no_wait(asyncio.sleep))
    engine = FakeEngine()
    engines = engines_of(engine, dies_after=0)
    assert asyncio.run(collect(engines, request())) == [1, 2, 3]
    assert len(engine.requests) == 2


def test_while_one_engine_is_dead_the_other_answers(monkeypatch):
    monkeypatch.setattr(engines_module, "ENGINE_RETURN_S", 0.3)
    monkeypatch.setattr(engines_module.asyncio, "sleep", no_wait(asyncio.sleep))
    engines = engines_of(FakeEngine(), FakeEngine())
    engines.clients[0].dead = True
    assert asyncio.run(collect(engines, request())) == [1, 2, 3]


def test_an_engine_that_dies_after_a_token_ends_the_stream_with_an_error():
    engine = FakeEngine()
    engines = engines_of(engine, dies_after=2)
    seen = []

    async def main() -> None:
        async for chunk in engines.generate(request()):
            seen.extend(chunk.ids)

    with pytest.raises(EngineLostError, match="engine_0 died while answering"):
        asyncio.run(main())
    assert seen == [1, 2]
    assert len(engine.requests) == 1, "a client that has seen tokens must not get others"


def test_an_engine_that_does_not_come_back_in_time_is_an_error(monkeypatch):
    monkeypatch.setattr(engines_module, "ENGINE_RETURN_S", 0)
    engines = engines_of(FakeEngine())
    engines.clients[0].dead = True
    with pytest.raises(EngineLostError):
        asyncio.run(collect(engines, request()))


@pytest.mark.parametrize("error", [OverloadError("full"), NotFoundError("not loaded", param="model")])
def test_an_engines_own_refusal_is_passed_on_and_not_tried_again(error):
    class Full(FakeEngine):
        async def generate(self, wanted):
            self.requests.append(wanted)
            raise error
            yield

    engine = Full()
    with pytest.raises(type(error), match=error.message):
        asyncio.run(collect(engines_of(engine), request()))
    assert len(engine.requests) == 1


def test_leaving_a_stream_early_ends_the_request_and_frees_its_place():
    engine, other = FakeEngine(delay=0.001), FakeEngine(delay=0.001)
    engines = engines_of(engine, other)

    async def main() -> None:
        for number in range(3):
            stream = engines.generate(request(f"r{number}", prompt=range(50)))
            await anext(stream)
            assert engine.stats().running == 1
            await stream.aclose()
            assert engine.stats().running == 0
        assert set(engines._mine.values()) == {0}

    asyncio.run(main())
    assert len(engine.requests) == 3, "its place was free each time"


# Adapters


def test_an_adapter_is_loaded_and_verified_on_every_engine():
    engines = engines_of(FakeEngine(), FakeEngine())
    checks = asyncio.run(engines.load("v1", HERE))
    assert [check.max_difference for check in checks] == [1.0, 1.0]
    assert [remote.engine.adapters() for remote in engines.clients] == [("v1",), ("v1",)]


@pytest.mark.parametrize("stage", ["add", "verify"])
@pytest.mark.parametrize("bad", [0, 1])
def test_an_adapter_that_one_engine_refuses_stays_on_none(stage, bad):
    fakes = [FakeEngine(), FakeEngine()]
    fakes[bad] = Refusing(stage)
    engines = engines_of(*fakes)
    with pytest.raises(AdapterError, match="v1 is broken"):
        asyncio.run(engines.load("v1", HERE))
    assert [engine.adapters() for engine in fakes] == [(), ()]


def test_an_engine_that_is_still_loading_when_another_refuses_does_not_keep_the_adapter():
    fakes = [Refusing("add"), Refusing("never", delay=0.05)]
    engines = engines_of(*fakes)

    async def main() -> None:
        with pytest.raises(AdapterError, match="v1 is broken"):
            await engines.load("v1", HERE)
        await asyncio.sleep(0.1)

    asyncio.run(main())
    assert [engine.adapters() for engine in fakes] == [(), ()]


def test_a_refusal_keeps_its_reason_even_if_another_engine_is_dead():
    fakes = [Refusing("verify"), FakeEngine()]
    engines = engines_of(*fakes)

    class DiesAfterLoading(FakeRemote):
        async def call(self, method, *args):
            if method == "drop_adapter":
                self.dead = True
            return await super().call(method, *args)

    engines.clients[1] = DiesAfterLoading("engine_1", fakes[1])
    with pytest.raises(AdapterError, match="v1 is broken"):
        asyncio.run(engines.load("v1", HERE))


def test_unloading_what_is_not_loaded_is_no_error():
    engines = engines_of(FakeEngine())
    asyncio.run(engines.unload("v1"))
    assert engines.clients[0].engine.adapters() == ()


def test_only_the_adapters_that_are_wanted_are_kept():
    engines = engines_of(FakeEngine(), FakeEngine())

    async def main() -> None:
        for version in ("v1", "v2", "v3"):
            await engines.load(version, HERE)
        await engines.retain({"v2", "not loaded"})

    asyncio.run(main())
    assert [remote.engine.adapters() for remote in engines.clients] == [("v2",), ("v2",)]


# Statistics


def test_statistics_say_which_engine_does_not_answer_and_why(monkeypatch):
    monkeypatch.setattr(engines_module, "STATS_S", 0.02)

    class Slow(FakeRemote):
        async def call(self, method, *args):
            await asyncio.sleep(1)

    engines = Engines([FakeRemote("well", FakeEngine()), FakeRemote("dead", FakeEngine()), Slow("slow", FakeEngine())])
    engines.clients[1].dead = True
    stats = describe(asyncio.run(engines.stats()))
    assert stats["well"]["running"] == 0
    assert stats["dead"] == {"error": "engine dead died"}
    assert stats["slow"] == {"error": "no answer within 0.02 s: loading its model, or restarting"}


@pytest.mark.parametrize(
    ("path", "own"), [("/metrics", "tandem_requests_active 0.0"), ("/api/status", '"base":"tiny"')]
)
def test_an_engine_that_hangs_does_not_keep_the_gateways_own_figures_from_a_dashboard(path, own, home):
    async def hangs(method, *args):
        await asyncio.sleep(60)

    with Server(home) as server:
        server.remote.call = hangs
        answer = http.get(f"{server.url}{path}", timeout=sources.TIMEOUT_S)
    assert (answer.status_code, own in answer.text) == (200, True)
    assert engines_module.STATS_S < sources.TIMEOUT_S / 2


# Ray's exceptions end at Remote


class Handle:
    """A Serve handle whose methods raise."""

    def __init__(self, error: Exception) -> None:
        self.error, self.cancelled = error, False

    def options(self, **options):
        return self

    def __getattr__(self, name: str):
        return self

    def remote(self, *args):
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self):
        raise self.error
        yield

    async def __aiter__(self):
        raise self.error
        yield


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("generate", f"Traceback\n  File x\n{type(cause).__name__}: {cause}", cause)


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (ActorDiedError(), EngineLostError, "engine engine_0 died"),
        (task_error(OverloadError("full", hint="later")), OverloadError, "full"),
        (task_error(ZeroDivisionError("1/0")), ClusterError, "the engine failed: ZeroDivisionError: 1/0"),
    ],
    ids=["died", "ours", "foreign"],
)
def test_what_ray_raises_becomes_an_error_of_ours(raised, expected, words):
    handle = Handle(raised)
    remote = EngineClient("engine_0", handle)
    with pytest.raises(expected, match=words) as caught:
        asyncio.run(remote.stats())
    assert type(caught.value) is expected

    async def stream() -> None:
        async for _ in remote.generate(request()):
            pass

    with pytest.raises(expected, match=words) as caught:
        asyncio.run(stream())
    assert type(caught.value) is expected
    assert handle.cancelled


def no_wait(real):
    """`asyncio.sleep` that waits a hundredth of the time."""
    return lambda seconds: real(seconds / 100)

"""A swap with a real control actor, ledger and registry: the new adapter comes in whole, or the old one goes on."""

import asyncio
import time
from dataclasses import replace
from unittest.mock import AsyncMock

import pytest

from actors.home.process_id import ProcessId
from actors.runs.adapter_state import AdapterState
from configs.errors import AdapterError, ClusterError, NotFoundError, StateError, TandemError
from models.lora.adapter import WEIGHTS
from serve.adapters import swap as swap_module
from serve.adapters.swap import as_json
from serve.engine.protocol import AdapterCheck, GenerationRequest
from serve.generation.engines import EngineLostError
from tests.samples import go_live


def test_a_swap_loads_verifies_and_flips(play):
    async def scenario(stage):
        version = stage.publish()
        result = await stage.swapper.swap("prod", version)
        assert (result.alias, result.old, result.new, result.max_difference) == ("prod", None, version, 1.0)
        assert stage.catalog.resolve("prod").version == version
        assert stage.loaded() == [(version,), (version,)]
        assert stage.state(version) is AdapterState.LIVE
        assert stage.outcomes() == [("done", None, version)]
        assert stage.observed("done") == 1
        assert as_json(result)["old"] == "base"

    play(scenario)


def test_latest_means_the_newest_adapter(play):
    async def scenario(stage):
        stage.publish("a")
        newest = stage.publish("b")
        assert (await stage.swapper.swap("prod", "latest")).new == newest
        stage.publish("c")
        assert stage.ledger.aliases()["prod"] == newest, "the alias holds a version, not the word"

    play(scenario)


def test_the_old_adapter_is_retired_and_dropped_and_the_way_back_brings_it_in_again(play):
    async def scenario(stage):
        first, second = stage.publish("a"), stage.publish("b")
        await stage.swapper.swap("prod", first)
        await stage.swapper.swap("prod", second)
        assert stage.loaded() == [(second,), (second,)]
        assert (stage.state(first), stage.state(second)) == (AdapterState.RETIRED, AdapterState.LIVE)
        result = await stage.swapper.swap("prod", None, back=True)
        assert (result.old, result.new) == (second, first)
        assert stage.loaded() == [(first,), (first,)]
        assert (await stage.swapper.swap("prod", None, back=True)).new == second, "back and forth"

    play(scenario)


def test_the_base_can_be_swapped_in_and_nothing_stays_loaded(play):
    async def scenario(stage):
        version = stage.publish()
        await stage.swapper.swap("prod", version)
        result = await stage.swapper.swap("prod", "base")
        assert (result.old, result.new, result.max_difference) == (version, None, None)
        assert stage.loaded() == [(), ()]
        assert as_json(result)["new"] == "base"
        assert (await stage.swapper.swap("prod", None, back=True)).new == version

    play(scenario)


def test_a_way_back_to_the_base_is_a_way_back_too(play):
    async def scenario(stage):
        await stage.swapper.swap("prod", stage.publish())
        assert (await stage.swapper.swap("prod", None, back=True)).new is None
        assert stage.catalog.resolve("prod").version is None

    play(scenario)


def test_a_running_request_keeps_its_version_through_a_swap(play):
    async def scenario(stage):
        first, second = stage.publish("a"), stage.publish("b")
        await stage.swapper.swap("prod", first)
        target = stage.catalog.resolve("prod")
        stream = stage.engines.generate(GenerationRequest("r", list(range(20)), adapter=target.version))
        tokens = [*(await anext(stream)).ids]
        await stage.swapper.swap("prod", second)
        tokens += [token async for chunk in stream for token in chunk.ids]
        assert tokens == list(range(20)), "every token, although its adapter was retired meanwhile"
        (engine,) = [engine for engine in stage.fakes if engine.requests]
        assert engine.requests[0].adapter == first

    play(scenario)


# Suspect adapters

DOUBT = "its loss on the held-out rows is 5.75, worse than the base's 0.99"


def test_a_suspect_adapter_is_not_swapped_in_and_the_reason_has_its_figures(play):
    async def scenario(stage):
        version = stage.publish(suspect=[DOUBT])
        with pytest.raises(StateError) as caught:
            await stage.swapper.swap("prod", version)
        assert caught.value.message == f"{version} is suspect: {DOUBT}; prod goes on answering with the base"
        assert f"tandem swap {version} --force" in caught.value.hint
        assert (stage.outcomes(), stage.loaded()) == ([], [(), ()])
        assert stage.ledger.adapter_states() == {}, "it was not even loaded"

    play(scenario)


def test_by_force_it_is_swapped_in_and_the_history_says_of_what_it_is_suspect(play):
    async def scenario(stage):
        version = stage.publish(suspect=[DOUBT])
        assert (await stage.swapper.swap("prod", version, force=True)).new == version
        (swap,) = stage.ledger.swaps()
        assert swap.reason == f"by force: {version} is suspect: {DOUBT}"

    play(scenario)


def test_the_way_back_to_a_suspect_adapter_needs_no_force_and_sound_ones_take_it(play):
    async def scenario(stage):
        suspect, sound = stage.publish("a", suspect=[DOUBT]), stage.publish("b")
        await stage.swapper.swap("prod", suspect, force=True)
        await stage.swapper.swap("prod", sound, force=True)
        assert stage.ledger.swaps(1)[0].reason == "by request"
        assert (await stage.swapper.swap("prod", None, back=True)).new == suspect

    play(scenario)


def test_latest_passes_over_a_suspect_adapter_and_without_any_other_says_why_there_is_none(play):
    async def scenario(stage):
        version = stage.publish("a", suspect=[DOUBT])
        with pytest.raises(NotFoundError, match=f"so none is latest: {version} is suspect: {DOUBT}") as caught:
            await stage.swapper.swap("prod", "latest")
        assert f"tandem swap {version} --force" in caught.value.hint
        sound = stage.publish("b")
        stage.publish("c", suspect=[DOUBT])
        assert (await stage.swapper.swap("prod", "latest")).new == sound

    play(scenario)


# Refusals


@pytest.mark.parametrize("name", ["nope", "../secrets", ""])
def test_an_unknown_adapter_changes_nothing(name, play):
    async def scenario(stage):
        with pytest.raises(NotFoundError):
            await stage.swapper.swap("prod", name)
        assert (stage.outcomes(), stage.loaded()) == ([], [(), ()])

    play(scenario)


def test_an_unknown_alias_lists_the_known(play):
    async def scenario(stage):
        with pytest.raises(NotFoundError) as caught:
            await stage.swapper.swap("canary", "base")
        assert caught.value.hint == "aliases: prod"

    play(scenario)


def test_swapping_to_what_is_there_already_is_refused(play):
    async def scenario(stage):
        with pytest.raises(StateError, match="prod answers with the base already"):
            await stage.swapper.swap("prod", "base")
        version = stage.publish()
        await stage.swapper.swap("prod", version)
        with pytest.raises(StateError, match=f"prod answers with {version} already"):
            await stage.swapper.swap("prod", "latest")
        assert len(stage.outcomes()) == 1

    play(scenario)


def test_there_is_no_way_back_before_the_first_swap(play):
    async def scenario(stage):
        with pytest.raises(StateError, match="nothing was swapped yet"):
            await stage.swapper.swap("prod", None, back=True)

    play(scenario)


async def refused(stage, version: str, words: str) -> None:
    """The swap is refused with `words`, and `old` goes on serving."""
    old = stage.publish("old")
    await stage.swapper.swap("prod", old)
    with pytest.raises(AdapterError, match=words):
        await stage.swapper.swap("prod", version)
    assert stage.catalog.resolve("prod").version == old
    assert stage.loaded() == [(old,), (old,)]
    assert stage.outcomes() == [("done", None, old), ("refused", old, version)]
    assert stage.state(version) is AdapterState.REFUSED
    assert words in stage.ledger.adapter_states()[version][1]
    assert stage.observed("refused") == 1
    assert (await stage.swapper.swap("prod", "base")).old == old, "the next swap is not in the way of a refused one"


def test_a_flipped_bit_is_refused_and_the_old_adapter_goes_on(play):
    async def scenario(stage):
        version = stage.publish()
        file = stage.registry.path(version) / WEIGHTS
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
        await refused(stage, version, "SHA-256")

    play(scenario)


def test_an_adapter_of_another_base_is_refused_and_the_old_one_goes_on(play):
    async def scenario(stage):
        await refused(stage, stage.publish(base_fingerprint="0" * 64), "was trained on tiny")

    play(scenario)


@pytest.mark.parametrize("stage_name", ["add_adapter", "verify_adapter"])
def test_an_adapter_that_one_engine_refuses_is_refused_and_the_old_one_goes_on(stage_name, play, monkeypatch):
    async def scenario(stage):
        version = stage.publish()
        real = getattr(stage.fakes[1], stage_name)

        async def refuse(asked: str, *args) -> AdapterCheck | None:
            if asked == version:
                raise AdapterError("its answers equal the base's")
            return await real(asked, *args)

        monkeypatch.setattr(stage.fakes[1], stage_name, refuse)
        await refused(stage, version, "its answers equal the base's")

    play(scenario)


def test_an_engine_that_dies_while_loading_is_no_fault_of_the_adapter(play):
    async def scenario(stage):
        version = stage.publish()
        stage.engines.clients[1].dead = True
        with pytest.raises(EngineLostError):
            await stage.swapper.swap("prod", version)
        assert stage.state(version) is AdapterState.PUBLISHED
        assert "could not be loaded: engine engine_1 died" in stage.ledger.adapter_states()[version][1]
        assert stage.fakes[0].adapters() == ()
        stage.engines.clients[1].dead = False
        assert (await stage.swapper.swap("prod", version)).new == version

    play(scenario)


def test_an_alias_that_somebody_else_moved_meanwhile_is_left_where_it_is(play):
    async def scenario(stage):
        mine, theirs = stage.publish("a"), stage.publish("b")
        real = stage.engines.load

        async def slow_load(version, path, **how):
            go_live(stage.ledger, theirs, reason="by another gateway")
            return await real(version, path, **how)

        stage.engines.load = slow_load
        with pytest.raises(StateError, match=f"alias prod moved to {theirs} meanwhile"):
            await stage.swapper.swap("prod", mine)
        assert stage.ledger.aliases()["prod"] == theirs
        assert stage.loaded() == [(), ()], "what was loaded for nothing is dropped"
        assert stage.state(mine) is AdapterState.PUBLISHED

    play(scenario)


# Attempts


@pytest.mark.parametrize(("method", "state"), [("add_adapter", "LOADING"), ("verify_adapter", "VERIFYING")])
def test_the_states_are_what_the_engines_do(method, state, play, monkeypatch):
    async def scenario(stage):
        version, seen = stage.publish(), []
        real = getattr(stage.fakes[1], method)

        async def look(*args):
            seen.append(stage.state(version))
            return await real(*args)

        monkeypatch.setattr(stage.fakes[1], method, look)
        await stage.swapper.swap("prod", version)
        assert seen == [state]

    play(scenario)


def test_a_swap_whose_client_leaves_comes_to_its_end(play):
    async def scenario(stage):
        version = stage.publish()
        real = stage.fakes[0].verify_adapter
        verifying, go_on = asyncio.Event(), asyncio.Event()

        async def wait(*args):
            verifying.set()
            await go_on.wait()
            return await real(*args)

        stage.fakes[0].verify_adapter = wait
        asked = asyncio.create_task(stage.swapper.swap("prod", version))
        await verifying.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        go_on.set()
        with pytest.raises(StateError, match=f"prod answers with {version} already"):
            await stage.swapper.swap("prod", version)
        assert stage.state(version) is AdapterState.LIVE

    play(scenario)


def test_an_error_that_nobody_thought_of_ends_the_attempt_too(play, monkeypatch):
    async def scenario(stage):
        version, other = stage.publish("a"), stage.publish("b")
        await stage.swapper.swap("prod", version)
        await stage.swapper.swap("prod", other)
        with monkeypatch.context() as patch:
            patch.setattr(stage.fakes[1], "verify_adapter", None)
            with pytest.raises(TypeError):
                await stage.swapper.swap("prod", version)
        state, reason = stage.ledger.adapter_states()[version]
        assert state is AdapterState.RETIRED and reason.startswith("could not be loaded: TypeError: ")
        assert (await stage.swapper.swap("prod", version)).new == version

    play(scenario)


@pytest.mark.parametrize("method", ["set_adapter_state", "flip", "refuse_swap"])
def test_an_attempt_is_over_as_soon_as_a_control_actor_that_was_away_answers(method, play, monkeypatch):
    monkeypatch.setattr(swap_module, "RETRY_S", 0.01)

    async def scenario(stage):
        version = stage.publish(**({"base_fingerprint": "0" * 64} if method == "refuse_swap" else {}))
        away = AsyncMock(side_effect=ClusterError("the control actor is being restarted"))
        with monkeypatch.context() as patch:
            if method == "set_adapter_state":
                await stage.control.set_adapter_state(version, AdapterState.LOADING, "x", ProcessId.own())
            for each in (method, "end_attempt"):
                patch.setattr(stage.control, each, away)
            with pytest.raises(TandemError):
                await stage.swapper.swap("prod", version)
            await asyncio.sleep(0.05)
            assert stage.state(version).is_attempt
        deadline = time.monotonic() + 5
        while stage.state(version).is_attempt and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert stage.state(version) is AdapterState.PUBLISHED

    play(scenario)


def test_a_flip_of_which_no_answer_came_is_not_undone(play, monkeypatch):
    async def scenario(stage):
        version, real = stage.publish(), stage.control.flip

        async def unheard(*args, **how):
            await real(*args, **how)
            raise ClusterError("the control actor is being restarted")

        monkeypatch.setattr(stage.control, "flip", unheard)
        with pytest.raises(ClusterError):
            await stage.swapper.swap("prod", version)
        assert stage.state(version) is AdapterState.LIVE
        assert stage.catalog.resolve("prod").version == version and stage.loaded() == [(version,)] * 2

    play(scenario)


# Together


def test_one_version_asked_for_twice_at_once_comes_in_once(play):
    async def scenario(stage):
        version = stage.publish()
        swaps = [stage.swapper.swap("prod", version) for _ in range(2)]
        first, second = await asyncio.gather(*swaps, return_exceptions=True)
        assert first.new == version
        assert isinstance(second, StateError) and second.message == f"prod answers with {version} already"
        assert (stage.state(version), stage.outcomes()) == (AdapterState.LIVE, [("done", None, version)])

    play(scenario)


def test_a_version_that_is_swapped_in_and_kept_loaded_at_once_is_both(play):
    async def scenario(stage):
        version = stage.publish()
        work = [
            stage.swapper.swap("prod", version),
            stage.kept_adapters.take(version, 60),
            stage.kept_adapters.take(version, 60),
        ]
        result, first, second = await asyncio.gather(*work)
        assert (result.new, first.version, second.version) == (version,) * 3
        assert stage.loaded() == [(version,)] * 2 and stage.state(version) is AdapterState.LIVE

    play(scenario)


def test_a_version_that_another_gateway_is_loading_is_left_to_it(play):
    async def scenario(stage):
        version, other = stage.publish(), replace(ProcessId.own(), pid=1)
        await stage.control.set_adapter_state(version, AdapterState.LOADING, "x", other)
        with pytest.raises(StateError, match=f"another gateway is loading {version}"):
            await stage.swapper.swap("prod", version)
        assert stage.state(version) is AdapterState.LOADING
        await stage.control.set_adapter_state(version, AdapterState.VERIFYING, "x", other)

    play(scenario)


def test_swaps_asked_for_together_happen_one_after_the_other(play):
    async def scenario(stage):
        versions = [stage.publish(run_id) for run_id in ("a", "b", "c")]
        await asyncio.gather(*(stage.swapper.swap("prod", version) for version in versions))
        chain = stage.outcomes()
        assert [new for _, _, new in chain] == versions
        assert [old for _, old, _ in chain] == [None, *versions[:-1]]
        assert stage.loaded() == [(versions[-1],)] * 2

    play(scenario)

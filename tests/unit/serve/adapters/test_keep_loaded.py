"""Holding an adapter loaded: it answers under its version, aliases stay, and it goes when nobody holds it any more."""

import asyncio

import pytest

from configs.errors import AdapterError, NotFoundError, StateError
from models.lora.adapter import WEIGHTS
from serve.adapters import keep_loaded as holds_module
from serve.generation.engines import EngineLostError

NOBODY = [(), ()]


def everywhere(*versions: str) -> list[tuple[str, ...]]:
    return [versions, versions]


def test_a_held_adapter_answers_under_its_version_and_no_alias_moves(play):
    async def scenario(stage):
        version = stage.publish()
        with pytest.raises(NotFoundError):
            stage.catalog.resolve(version)
        hold = await stage.kept_adapters.take("latest", 60)
        assert hold.version == version
        assert stage.loaded() == everywhere(version)
        target = stage.catalog.resolve(version)
        assert (target.version, target.kind) == (version, "version")
        assert version in stage.catalog.names()
        assert stage.catalog.resolve("prod").version is None
        assert stage.ledger.aliases() == {} and stage.outcomes() == []
        assert stage.kept_adapters.describe() == [{"version": version, "hold": hold.id, "seconds_left": 60.0}]
        await stage.kept_adapters.release(version, hold.id)
        assert stage.loaded() == NOBODY and stage.kept_adapters.describe() == []
        with pytest.raises(NotFoundError):
            stage.catalog.resolve(version)

    play(scenario)


def test_it_stays_until_the_last_of_its_holders_lets_go(play):
    async def scenario(stage):
        version = stage.publish()
        first, second = await stage.kept_adapters.take(version, 60), await stage.kept_adapters.take(version, 60)
        assert first.id != second.id
        await stage.kept_adapters.release(version, first.id)
        assert stage.loaded() == everywhere(version)
        await stage.kept_adapters.release(version, second.id)
        assert stage.loaded() == NOBODY
        with pytest.raises(NotFoundError, match="no hold"):
            await stage.kept_adapters.release(version, second.id)

    play(scenario)


def test_swaps_leave_what_is_held_and_holds_leave_what_is_served(play):
    async def scenario(stage):
        served, held, next_one = stage.publish("a"), stage.publish("b"), stage.publish("c")
        await stage.swapper.swap("prod", served)
        hold = await stage.kept_adapters.take(held, 60)
        of_served = await stage.kept_adapters.take(served, 60)
        await stage.kept_adapters.release(served, of_served.id)
        assert stage.loaded() == everywhere(served, held)
        await stage.swapper.swap("prod", next_one)
        assert stage.loaded() == everywhere(held, next_one)
        await stage.swapper.swap("prod", held)
        await stage.kept_adapters.release(held, hold.id)
        assert stage.loaded() == everywhere(held), "now an alias keeps it"

    play(scenario)


def test_a_hold_that_is_not_renewed_ends_by_itself_and_one_that_is_goes_on(play, monkeypatch):
    monkeypatch.setattr(holds_module, "SWEEP_S", 0.005)

    async def scenario(stage):
        left, kept = stage.publish("a"), stage.publish("b")
        watching = asyncio.create_task(stage.kept_adapters.watch())
        await stage.kept_adapters.take(left, 0.05)
        hold = await stage.kept_adapters.take(kept, 0.05)
        assert (await stage.kept_adapters.take(kept, 60, hold.id)).id == hold.id
        while stage.loaded() != everywhere(kept):
            await asyncio.sleep(0.005)
        assert [each["version"] for each in stage.kept_adapters.describe()] == [kept]
        with pytest.raises(NotFoundError):
            stage.catalog.resolve(left)
        watching.cancel()

    play(scenario)


def test_renewing_brings_back_what_a_restarted_engine_or_gateway_forgot(play):
    async def scenario(stage):
        version = stage.publish()
        hold = await stage.kept_adapters.take(version, 60)
        stage.fakes[0].remove_adapter(version)
        assert (await stage.kept_adapters.take(version, 60, hold.id)).id == hold.id
        assert stage.loaded() == everywhere(version)
        await stage.kept_adapters.release(version, hold.id)
        again = await stage.kept_adapters.take(version, 60, hold.id)
        assert again.id == hold.id and stage.loaded() == everywhere(version)

    play(scenario)


def test_a_broken_or_foreign_adapter_is_not_held(play):
    async def scenario(stage):
        broken, foreign = stage.publish("a"), stage.publish("b", base_fingerprint="0" * 64)
        weights = stage.registry.path(broken) / WEIGHTS
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
        for version in (broken, foreign):
            with pytest.raises(AdapterError):
                await stage.kept_adapters.take(version, 60)
        with pytest.raises(NotFoundError, match="no adapter 'nope'"):
            await stage.kept_adapters.take("nope", 60)
        assert stage.loaded() == NOBODY and stage.kept_adapters.describe() == [] and stage.catalog.held == set()

    play(scenario)


def test_an_engine_that_dies_while_loading_leaves_no_hold(play, monkeypatch):
    async def scenario(stage):
        version = stage.publish()

        async def dies(*_):
            raise EngineLostError("engine_1 died")

        monkeypatch.setattr(stage.fakes[1], "add_adapter", dies)
        with pytest.raises(EngineLostError):
            await stage.kept_adapters.take(version, 60)
        assert stage.loaded() == NOBODY and stage.kept_adapters.describe() == []

    play(scenario)


def test_a_hold_is_of_one_version_and_there_are_only_so_many(play, monkeypatch):
    monkeypatch.setattr(holds_module, "MOST_HOLDS", 1)

    async def scenario(stage):
        one, other = stage.publish("a"), stage.publish("b")
        hold = await stage.kept_adapters.take(one, 60)
        with pytest.raises(StateError, match=f"hold {hold.id} is of {one}, not of {other}"):
            await stage.kept_adapters.take(other, 60, hold.id)
        with pytest.raises(NotFoundError, match=f"no hold '{hold.id}' of {other}"):
            await stage.kept_adapters.release(other, hold.id)
        with pytest.raises(StateError, match="1 adapters are held already"):
            await stage.kept_adapters.take(other, 60)
        assert stage.loaded() == everywhere(one)

    play(scenario)

"""Names to adapter versions, kept fresh by a long poll."""

import asyncio

import pytest

from configs.errors import ClusterError, NotFoundError
from serve.generation import catalog as catalog_module
from serve.generation.catalog import Catalog, Target

BASE = "unsloth/gpt-oss-20b"


class Aliases:
    """`Control.aliases`: answers at once, or when the aliases differ from those known."""

    def __init__(self, **aliases: str | None) -> None:
        self.aliases, self.asked, self.failures = aliases, 0, 0
        self.changed = asyncio.Event()

    async def __call__(self, known: dict[str, str | None] | None = None) -> dict[str, str | None]:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise ClusterError("the control actor is being restarted")
        while known == self.aliases:
            self.changed.clear()
            await self.changed.wait()
        return dict(self.aliases)

    def point(self, **aliases: str | None) -> None:
        self.aliases |= aliases
        self.changed.set()


def catalog(**aliases: str | None) -> Catalog:
    made = Catalog(BASE, Aliases())
    made.update(aliases)
    return made


@pytest.mark.parametrize("name", [BASE, "base"])
def test_the_base_is_known_by_its_name_and_as_base(name):
    assert catalog(prod="v1").resolve(name) == Target(name, None, "base")


def test_an_alias_resolves_to_its_version_at_this_moment():
    names = catalog(prod="v1", previous="v0")
    assert names.resolve("prod") == Target("prod", "v1", "prod")
    names.update({"prod": "v2", "previous": "v1"})
    assert names.resolve("prod") == Target("prod", "v2", "prod")


def test_prod_is_the_base_until_something_is_swapped_in():
    assert Catalog(BASE, Aliases()).resolve("prod") == Target("prod", None, "prod")


def test_a_live_version_may_be_named_and_counts_as_version_in_metrics():
    assert catalog(prod="v1").resolve("v1") == Target("v1", "v1", "version")


def test_previous_is_no_name_for_clients_and_its_version_is_not_live():
    names = catalog(prod="v2", previous="v1")
    assert names.live() == {"v2"}
    for name in ("previous", "v1"):
        with pytest.raises(NotFoundError):
            names.resolve(name)


def test_names_begin_with_the_base_and_hold_aliases_and_live_versions():
    assert catalog(prod="v2", previous="v1", canary="v3").names() == {
        BASE: None, "base": None, "prod": "v2", "canary": "v3", "v2": "v2", "v3": "v3",
    }  # fmt: skip


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(NotFoundError) as caught:
        catalog(prod="v1").resolve("gpt-4")
    assert caught.value.message == "the model 'gpt-4' does not exist"
    assert caught.value.hint == f"models: {BASE}, base, prod, v1"
    assert caught.value.param == "model"


def test_a_very_long_name_is_not_echoed_whole():
    with pytest.raises(NotFoundError) as caught:
        catalog().resolve("x" * 10_000)
    assert len(caught.value.message) < 200


def follow(aliases: Aliases, scenario) -> None:
    async def main() -> None:
        names = Catalog(BASE, aliases)
        following = asyncio.create_task(names.follow())
        await asyncio.wait_for(scenario(names), 5)
        following.cancel()

    asyncio.run(main())


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


def test_following_hears_of_each_change_and_asks_only_then():
    aliases = Aliases(prod="v1", previous=None)

    async def scenario(names):
        await settle()
        assert names.resolve("prod").version == "v1"
        aliases.point(prod="v2", previous="v1")
        await settle()
        assert names.resolve("prod").version == "v2"
        assert aliases.asked == 3, "at the start, after the first answer, after the change"

    follow(aliases, scenario)


def test_before_the_first_swap_following_waits_instead_of_asking_again_and_again():
    aliases = Aliases()

    async def scenario(names):
        await settle()
        assert aliases.asked <= 2
        assert names.resolve("prod").version is None

    follow(aliases, scenario)


def test_while_the_control_actor_is_away_the_known_names_are_served(monkeypatch):
    monkeypatch.setattr(catalog_module, "RETRY_S", 0.001)
    aliases = Aliases(prod="v1", previous=None)

    async def scenario(names):
        await settle()
        aliases.failures = 3
        aliases.point(prod="v2", previous="v1")
        assert names.resolve("prod").version == "v1"
        await settle()
        assert names.resolve("prod").version == "v2"

    follow(aliases, scenario)


def test_a_refresh_asks_once():
    aliases = Aliases(prod="v5")

    async def main() -> Catalog:
        names = Catalog(BASE, aliases)
        await names.refresh()
        return names

    assert asyncio.run(main()).resolve("prod").version == "v5"
    assert aliases.asked == 1

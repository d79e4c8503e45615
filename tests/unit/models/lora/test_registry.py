"""Publishing is all or nothing, versions never change, and names are never paths."""

import json
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from configs.errors import AdapterError, NotFoundError
from models.lora import adapter
from models.lora import registry as registry_module
from models.lora.adapter import MANIFEST, PEFT_CONFIG, WEIGHTS
from models.lora.registry import Registry
from tests.samples import about, publish, save_lora


@pytest.fixture
def registry(home) -> Registry:
    return Registry(home.models)


@pytest.fixture
def stopped_clock(monkeypatch):
    """Every publication falls into the same second."""

    class Clock(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    monkeypatch.setattr(registry_module, "datetime", Clock)


def visible(registry: Registry) -> list[str]:
    return sorted(path.name for path in registry.folder.iterdir()) if registry.folder.exists() else []


def test_a_published_adapter_is_a_folder_named_by_base_profile_and_time(registry):
    manifest = publish(registry, base="unsloth/gpt-oss-20b-unsloth-bnb-4bit", profile="quick_test")
    assert re.fullmatch(r"gpt-oss-20b-unsloth-bnb-4bit_quick-test_\d{8}-\d{6}", manifest.version)
    folder = registry.path(manifest.version)
    assert sorted(path.name for path in folder.iterdir()) == [PEFT_CONFIG, WEIGHTS, MANIFEST]
    assert adapter.validate(folder) == manifest


def test_only_what_peft_needs_is_published(registry):
    folder = registry.path(publish(registry).version)
    assert not (folder / "README.md").exists()


def test_latest_points_to_the_newest(registry):
    publish(registry, run_id="a")
    newest = publish(registry, run_id="b").version
    assert registry.resolve("latest") == newest
    assert str((registry.folder / "latest").readlink()) == newest, "a relative link, so that the home can be moved"
    assert adapter.read_manifest(registry.folder / "latest").run_id == "b"


def test_two_publications_in_one_second_get_two_names(registry, stopped_clock):
    versions = [publish(registry, run_id=run_id).version for run_id in ("a", "b", "c")]
    assert versions == [f"tiny_tiny_20260102-030405{suffix}" for suffix in ("", "-2", "-3")]
    for version in versions:
        assert adapter.validate(registry.path(version)).version == version


def test_publications_at_the_same_moment_do_not_lose_each_other(registry, stopped_clock):
    registry.folder.mkdir()
    together = threading.Barrier(4)
    published = []

    def work(run_id: str) -> None:
        def save(folder: Path) -> None:
            save_lora(folder)
            together.wait(10)

        published.append(registry.publish(save, **about(run_id=run_id)).version)

    threads = [threading.Thread(target=work, args=(f"run-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(published)) == 4
    assert {manifest.run_id for manifest in registry.list()} == {f"run-{number}" for number in range(4)}


def test_a_run_that_publishes_again_gets_what_it_published(registry):
    first = publish(registry, run_id="a")
    again = registry.publish(lambda folder: pytest.fail("nothing is saved again"), **about(run_id="a"))
    assert again == first
    assert len(registry.list()) == 1


def test_a_run_that_was_killed_before_latest_moved_moves_it_when_it_publishes_again(registry):
    publish(registry, run_id="old")
    version = publish(registry, run_id="killed").version
    registry._point_latest(registry.list()[1].version)  # as it was when the kill came
    publish(registry, run_id="killed")
    assert registry.resolve("latest") == version


def test_publishing_again_does_not_move_latest_back(registry):
    publish(registry, run_id="a")
    newest = publish(registry, run_id="b").version
    publish(registry, run_id="a")
    assert registry.resolve("latest") == newest


# What fails leaves nothing


def test_a_failing_save_leaves_nothing_visible_and_latest_where_it_was(registry):
    before = publish(registry, run_id="good").version

    def half(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        registry.publish(half, **about(run_id="bad"))
    assert visible(registry) == sorted([before, "latest"])
    assert registry.resolve("latest") == before
    assert [manifest.run_id for manifest in registry.list()] == ["good"]


def test_a_save_that_forgets_a_file_is_refused_and_leaves_nothing(registry):
    with pytest.raises(AdapterError, match=f"{WEIGHTS} is missing"):
        registry.publish(lambda folder: (folder / PEFT_CONFIG).write_text("{}"), **about())
    assert visible(registry) == []


@pytest.mark.parametrize(
    ("how", "complaint"),
    [({"fill": 0.0}, "changes nothing"), ({"fill": float("nan")}, "not finite"), ({"up_rank": 8}, "ranks 4 and 8")],
)
def test_an_adapter_that_would_be_refused_is_never_published(how, complaint, registry):
    with pytest.raises(AdapterError, match=complaint):
        registry.publish(lambda folder: save_lora(folder, **how), **about())
    assert visible(registry) == []


def test_what_a_killed_publication_left_behind_is_neither_listed_nor_in_the_way(registry):
    aside = registry.folder / ".publishing-tiny-1"
    aside.mkdir(parents=True)
    (aside / WEIGHTS).write_bytes(b"half")
    (aside / "adapter_model.bin").write_bytes(b"old")
    assert registry.list() == []
    manifest = publish(registry, run_id="tiny-1")
    assert adapter.validate(registry.path(manifest.version)) == manifest
    assert visible(registry) == sorted([manifest.version, "latest"])


def test_a_disk_that_refuses_the_rename_is_reported_as_that(registry, monkeypatch):
    def refuse(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space left"):
        publish(registry)


# Listing and resolving


def test_adapters_are_listed_newest_first(registry, stopped_clock):
    for run_id in ("a", "b", "c"):
        publish(registry, run_id=run_id)
    assert [manifest.run_id for manifest in registry.list()] == ["c", "b", "a"]


def test_an_empty_or_missing_folder_lists_nothing(registry):
    assert registry.list() == []
    registry.folder.mkdir()
    assert registry.list() == []


def test_what_is_no_adapter_is_not_listed(registry):
    version = publish(registry).version
    (registry.folder / "stray").mkdir()
    (registry.folder / "file.txt").write_text("x")
    broken = registry.folder / "broken"
    broken.mkdir()
    (broken / MANIFEST).write_text("{")
    assert [manifest.version for manifest in registry.list()] == [version]


def test_a_manifest_with_fields_of_the_wrong_type_is_not_listed(registry):
    folder = registry.path(publish(registry).version)
    values = json.loads((folder / MANIFEST).read_text()) | {"files": None, "created_at": "now"}
    (folder / MANIFEST).write_text(json.dumps(values))
    assert registry.list() == []


def test_a_version_resolves_to_itself_and_to_its_folder(registry):
    version = publish(registry).version
    assert registry.resolve(version) == version
    assert registry.path(version) == registry.folder / version


def test_latest_before_the_first_publication_says_how_to_get_one(registry):
    with pytest.raises(NotFoundError) as caught:
        registry.resolve("latest")
    assert caught.value.message == "no adapter has been published yet"
    assert "tandem train" in caught.value.hint


def test_latest_whose_target_was_deleted_is_not_found(registry):
    publish(registry)
    (registry.folder / "latest").unlink()
    (registry.folder / "latest").symlink_to("gone")
    with pytest.raises(NotFoundError):
        registry.resolve("latest")


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "../runs",
        "/etc",
        "a/b",
        "",
        "latest/../x",
        ".publishing-x",
        "a\0b",
        "a\n",
        "x" * 300,
        "~",
        "-rf",
        "*",
    ],
)
def test_what_is_no_plain_name_is_not_found_whatever_is_on_disk(name, registry):
    publish(registry)
    (registry.folder / ".publishing-x").mkdir()
    with pytest.raises(NotFoundError) as caught:
        registry.resolve(name)
    assert caught.value.param == "adapter"
    assert len(caught.value.message) < 120


def test_latest_is_no_version_of_its_own(registry):
    publish(registry)
    with pytest.raises(NotFoundError):
        registry.path("latest")


# Suspect adapters


def test_a_suspect_adapter_is_published_and_listed_and_never_the_latest(registry):
    sound = publish(registry, run_id="a").version
    suspect = publish(registry, run_id="b", suspect=["worse than the base"]).version
    assert [(each.version, each.suspect) for each in registry.list()] == [
        (suspect, ["worse than the base"]),
        (sound, []),
    ]
    assert registry.resolve("latest") == sound
    assert registry.resolve(suspect) == suspect
    assert (registry.doubts(suspect), registry.doubts(sound)) == (f"{suspect} is suspect: worse than the base", "")
    assert registry.doubts("nope") == registry.doubts(None) == ""
    assert registry.passed_over() == registry.doubts(suspect)


def test_without_a_sound_adapter_nothing_is_passed_over(registry):
    assert registry.passed_over() == ""
    publish(registry, suspect=["x"])
    assert registry.passed_over() == ""


def test_a_killed_run_that_publishes_a_suspect_again_leaves_latest_where_it_is(registry):
    sound = publish(registry, run_id="a").version
    suspect = publish(registry, run_id="b", suspect=["x"])
    assert publish(registry, run_id="b", suspect=["x"]) == suspect
    assert registry.resolve("latest") == sound

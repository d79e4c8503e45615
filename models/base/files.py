"""Where a base model is and what its files should be: `locate`.

A place is a folder and, for every file that belongs into it, the length and hash that it should have, from the best
source at hand: the hub's listing, the names of the cache's blobs, a download's own notes. Looks at names, never into
weights, and asks the hub only if `like` names a model that is not cached. Called by `models.base.integrity`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs import paths
from configs.errors import CheckpointError, ConfigError
from models.base import checkpoint, hub
from models.base.hub import HubFile, Repository

INDEX, CONFIG, SINGLE = "model.safetensors.index.json", "config.json", "model.safetensors"


@dataclass(frozen=True)
class ModelFiles:
    """Where a model is, and what its files should be."""

    name: str
    kind: str
    """hub, folder or embedded."""
    folder: Path
    """It need not exist."""
    revision: str = ""
    repository: Repository | None = None
    """Where `kind` is hub."""
    entries: Mapping[str, HubFile] = field(default_factory=dict)
    """By name, every file that should be there."""
    is_listed: bool = False
    """`entries` are all files that the hub has, not only those of which something is here."""
    source: str = ""
    """Where the hashes in `entries` are from; empty if there are none."""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def locate(name: str, like: str | None = None) -> ModelFiles:
    """The place of an embedded model, a folder or a hub name; `like` is the hub name of what a folder holds.

    Raises CheckpointError if `name` cannot be a model, ConfigError if `like` does not fit.
    """
    if name in (checkpoint.TINY, checkpoint.TINY_4BIT):
        folder = checkpoint.resolve(name)
        return ModelFiles(name, "embedded", folder, entries=_found(folder))
    if Path(name).expanduser().is_dir() or not hub.NAME.fullmatch(name):
        return _plain(checkpoint.resolve(name), like)
    if like is not None:
        raise ConfigError(f"{name} is a hub name, and --like is for folders", hint="leave --like out")
    repository = hub.repository(name)
    if repository.revision:
        return at(repository, repository.revision)
    newest = next(iter(repository.revisions()), "")
    if not newest:
        nothing = f"the cache {repository.folder.parent} has nothing of it"
        return replace(at(repository, ""), problems=(nothing,), notes=_elsewhere(name, repository))
    lost = f"refs/main is missing, so the hub's client does not find snapshot {newest[:12]} and downloads it again"
    found = at(repository, newest)
    return replace(found, revision="", is_listed=False, problems=(lost, *found.problems))


def at(repository: Repository, revision: str, listing: Mapping[str, HubFile] | None = None) -> ModelFiles:
    """A commit in the cache, compared with `listing` from the hub, else with what the cache itself knows."""
    folder, source = repository.snapshot(revision), "the hub's listing"
    if listing is None:
        listing, source = repository.listing(revision), "the hub's listing, kept in the cache"
    is_listed = listing is not None
    if listing is None:
        listing, source = _found(folder) if revision and folder.is_dir() else {}, "the names of the cache's blobs"
    problems = () if folder.is_dir() or not revision else (f"refs/main says {revision[:12]}, which has no snapshot",)
    place = ModelFiles(repository.name, "hub", folder, revision, repository, listing, is_listed, source, problems)
    return replace(place, notes=_cache_notes(repository, revision))


def index(folder: Path) -> Mapping:
    """The model's index of shards, empty if there is none or it is not one."""
    try:
        read = json.loads((folder / INDEX).read_text())
        return read if isinstance(read.get("weight_map"), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _found(folder: Path) -> dict[str, HubFile]:
    """The files that are there, dangling links too, and those without which there is no model."""
    names = {path.name for path in folder.glob("*") if hub.is_ours(path.name)}
    shards = set(index(folder).get("weight_map", {}).values())
    if not shards and INDEX not in names:
        shards = {SINGLE}
    return {name: hub.link_entry(folder / name) for name in sorted(names | shards | {CONFIG})}


def _plain(folder: Path, like: str | None) -> ModelFiles:
    """A plain folder, compared with the download's own notes, else with a hub model."""
    if like is not None and not hub.NAME.fullmatch(like):
        raise ConfigError(f"--like {like!r} is not a hub name", hint="it has the form owner/name")
    known, source, notes = hub.download_notes(folder), "the notes of `hf download`", ()
    if like is not None or not known:
        known, source, notes = _same_model(folder, like)
    entries = {name: known.get(name, entry) for name, entry in _found(folder).items()}
    return ModelFiles(str(folder), "folder", folder, entries=entries, source=source, notes=notes)


def _same_model(folder: Path, like: str | None) -> tuple[Mapping[str, HubFile], str, tuple[str, ...]]:
    """(entries, source, notes) of hub model `like`, by default of a cached one whose name ends as the folder's does."""
    from huggingface_hub import constants

    for name in [like] if like else _cached_names(folder.name):
        repository = hub.repository(name)
        entries = at(repository, repository.revision).entries if repository.revision else {}
        if any(entry.digest for entry in entries.values()):
            return entries, f"{name} in the cache", ()
    nothing = "contents were compared with nothing"
    if like is None:
        return {}, "", (f"{nothing}: --like OWNER/NAME says which hub model it should be",)
    if constants.is_offline_mode():
        return {}, "", (f"{nothing}: {like} is not cached and HF_HUB_OFFLINE is set",)
    try:
        revision, listing = hub.ask(like)
    except CheckpointError as error:
        return {}, "", (f"{nothing}: {error.message}",)
    return listing, f"{like} on the hub, revision {revision[:12]}", ()


def _cached_names(last: str) -> list[str]:
    cache = hub.repository("owner/name").folder.parent
    names = [path.name.removeprefix("models--").replace("--", "/", 1) for path in sorted(cache.glob("models--*--*"))]
    return [name for name in names if name.partition("/")[2].lower() == last.lower()]


def _cache_notes(repository: Repository, revision: str) -> tuple[str, ...]:
    notes = []
    if others := [found[:12] for found in repository.revisions() if found != revision]:
        notes.append(f"the cache also holds snapshot {', '.join(others)}; main is {revision[:12]}")
    if leftovers := repository.leftovers():
        notes.append(
            f"unfinished downloads: {len(leftovers)}, {_bytes(leftovers)}; nobody goes on with them, so unless one is "
            f"at work now, remove {repository.folder / 'blobs' / '*.incomplete'}"
        )
    if unlinked := repository.unlinked():
        notes.append(f"blobs to which no snapshot links: {len(unlinked)}, {_bytes(unlinked)}")
    return tuple(notes)


def _bytes(files: list[Path]) -> str:
    return f"{sum(file.stat().st_size for file in files):,} bytes"


def _elsewhere(name: str, repository: Repository) -> tuple[str, ...]:
    """A note for every copy with all its files in a place where people keep one."""
    usual = hub.repository(name, Path("~/.cache/huggingface/hub"))
    last = name.partition("/")[2]
    folders = [usual.snapshot(usual.revision)] if usual.revision and usual != repository else []
    folders += [base / last for base in (Path.cwd(), Path.home(), paths.home().bases)]
    return tuple(f"a copy with all its files is in {folder}: --base {folder}" for folder in folders if _whole(folder))


def _whole(folder: Path) -> bool:
    try:
        return folder.is_dir() and bool(checkpoint.inspect(folder))
    except (CheckpointError, OSError):
        return False

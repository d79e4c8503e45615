"""Models of the Hugging Face hub: their cache on disk, what the hub says of them, and downloads of what is missing.

The cache holds one folder per model: `refs/main` (a commit), `snapshots/<commit>/` (links) and `blobs/`, where a blob's
name is the hash of its content: SHA-256 of a large file, git's SHA-1 of a small one. So content can be proved without a
network. `trees/<commit>.json` lists the files of a commit where huggingface_hub 1.x has downloaded it.

The hub's client (huggingface_hub 1.33) takes every file that is there for whole, and finds none without `refs/main`. A
connection that is cut goes on where it was; a process that ends loses the files that had not come whole.

Knows files, no tensors. Called by `checkpoint.resolve` (`obtain`) and by `care`.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from configs import environment
from configs.errors import CheckpointError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")
OTHERS = ("*/*",)
"""Never fetched: openai/gpt-oss-20b keeps the model twice more in folders of its own (13.8 GB each)."""

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHUNK = 8 << 20
REACH_S = 3.5
"""Seconds for the hub to answer anything at all."""


@dataclass(frozen=True)
class HubFile:
    """What is known of one file before looking into it; None is unknown."""

    size: int | None = None
    """Bytes."""
    digest: str | None = None
    """Hex digits, also the blob's name: 64 of SHA-256, or 40 of git's SHA-1."""


@dataclass(frozen=True)
class Repository:
    """One model's folder in the local cache; it need not exist."""

    name: str
    folder: Path

    @property
    def revision(self) -> str:
        """The commit that `main` was when it was last asked for; empty if that is not known."""
        ref = self.folder / "refs" / "main"
        return ref.read_text().strip() if ref.is_file() else ""

    def snapshot(self, revision: str) -> Path:
        return self.folder / "snapshots" / revision

    def revisions(self) -> list[str]:
        """Every commit with a snapshot, the newest folder first."""
        folders = [path for path in (self.folder / "snapshots").glob("*") if _COMMIT.fullmatch(path.name)]
        return [path.name for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)]

    def listing(self, revision: str) -> dict[str, HubFile] | None:
        """The files of a commit as the hub once listed them, None if no listing was kept."""
        file = self.folder / "trees" / f"{revision}.json"
        try:
            tree = json.loads(file.read_text())
            if tree["format_version"] != 1:
                return None
            entries = {
                name: HubFile(entry.get("lfs_size") or entry["size"], entry.get("lfs_sha256") or entry["blob_id"])
                for name, entry in tree["files"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # a cache that another version keeps otherwise is as good as none
        return _ours(entries)

    def blob(self, digest: str | None) -> Path | None:
        """The file with this content, None if there is none."""
        file = self.folder / "blobs" / (digest or "")
        return file if file.is_file() else None

    def leftovers(self) -> list[Path]:
        """Parts of downloads whose process has ended, or is at work."""
        return sorted((self.folder / "blobs").glob("*.incomplete"))

    def unlinked(self) -> list[Path]:
        """Blobs that no snapshot links to."""
        linked = {link.resolve().name for link in self.folder.glob("snapshots/*/**/*") if link.is_symlink()}
        blobs = (self.folder / "blobs").glob("*")
        return sorted(blob for blob in blobs if _DIGEST.fullmatch(blob.name) and blob.name not in linked)


def repository(name: str, cache: Path | None = None) -> Repository:
    """Model `owner/name` in `cache`, by default the one that HF_HUB_CACHE or HF_HOME names."""
    from huggingface_hub import constants

    cache = cache or Path(constants.HF_HUB_CACHE)
    return Repository(name, cache.expanduser().absolute() / f"models--{name.replace('/', '--')}")


def link_entry(file: Path) -> HubFile:
    """What the name of the blob says that `file` links to."""
    digest = file.readlink().name if file.is_symlink() else ""
    return HubFile(digest=digest if _DIGEST.fullmatch(digest) else None)


def download_notes(folder: Path) -> dict[str, HubFile]:
    """What `hf download --local-dir` noted beside the files of a plain folder: commit, hash and time of each."""
    noted = {}
    for file in (folder / ".cache" / "huggingface" / "download").glob("*.metadata"):
        lines = file.read_text(errors="replace").splitlines()
        if len(lines) > 1 and _DIGEST.fullmatch(lines[1]):
            noted[file.name.removesuffix(".metadata")] = HubFile(digest=lines[1])
    return _ours(noted)


class Hashes:
    """Digests of files, each read once. `begin` is called with the length of each file that is read, `tick` with the
    bytes read since the last call."""

    def __init__(
        self, begin: Callable[[int], None] = lambda size: None, tick: Callable[[int], None] = lambda count: None
    ) -> None:
        self._begin, self._tick = begin, tick
        self._known: dict[tuple, str] = {}

    def of(self, file: Path, like: str) -> str:
        """The digest of `file`'s content of the kind that `like` is."""
        about = file.stat()
        key = (file.resolve(), about.st_size, about.st_mtime_ns, len(like))
        if key not in self._known:
            self._known[key] = self._read(file, about.st_size, like)
        return self._known[key]

    def _read(self, file: Path, size: int, like: str) -> str:
        self._begin(size)
        hasher = hashlib.sha256() if len(like) == 64 else hashlib.sha1(f"blob {size}\0".encode())
        with file.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                hasher.update(chunk)
                self._tick(len(chunk))
        return hasher.hexdigest()


def obtain(name: str, prove: Callable[[Path], object]) -> Path:
    """The folder of model `name`: from the local cache, without a request, if `prove(folder)` raises no CheckpointError
    there; otherwise from the hub.

    Raises CheckpointError if it cannot be had.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = _snapshot(name, local_files_only=True)
        prove(cached)
        return cached
    except (LocalEntryNotFoundError, CheckpointError) as error:
        found = f"; what is there is incomplete: {error.message}" if isinstance(error, CheckpointError) else ""
    refuse_offline(name, found)
    return download(name, found=found)


def refuse_offline(name: str, found: str = "") -> None:
    """Raises CheckpointError if HF_HUB_OFFLINE is set; `found` says what the cache has."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise CheckpointError(
            f"base model {name!r} is neither a folder nor complete in the local cache {constants.HF_HUB_CACHE}{found}, "
            "and HF_HUB_OFFLINE is set",
            hint=f"unset HF_HUB_OFFLINE, or run `hf download {name}` where there is a network and copy the cache here",
        )


def download(name: str, revision: str | None = None, *, found: str = "") -> Path:
    """The snapshot of `revision` (a commit; by default what main is now), after downloading what the cache lacks.

    Progress goes to stderr. Raises CheckpointError; files that came whole are kept for the next time.
    """
    with _answered(name, found):
        return _snapshot(name, revision=revision)


def ask(name: str, revision: str | None = None) -> tuple[str, dict[str, HubFile]]:
    """(commit, its files) as the hub says now, in one request. Raises CheckpointError."""
    from huggingface_hub import HfApi

    with _answered(name):
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    entries = {
        file.rfilename: HubFile(file.lfs.size, file.lfs.sha256) if file.lfs else HubFile(file.size, file.blob_id)
        for file in info.siblings or ()
    }
    return info.sha, _ours(entries)


def is_reachable() -> bool:
    """Whether the hub answers anything within REACH_S, name resolution included. Asks once, and its client's retries
    (52 s of them) are for a hub that does. Raises ConfigError for a proxy that cannot be used."""
    from huggingface_hub import constants, get_session

    environment.check_proxies(os.environ)
    answered = threading.Event()

    def ask_once() -> None:
        alone = {"connection": "close"}  # nothing of this answer is left for the request that follows
        with suppress(Exception):  # whatever it is, the hub was not reached
            get_session().head(constants.ENDPOINT, timeout=REACH_S, follow_redirects=False, headers=alone)
            answered.set()

    asking = threading.Thread(target=ask_once, daemon=True)  # the resolver knows no timeout
    asking.start()
    asking.join(REACH_S)
    return answered.is_set()


def host() -> str:
    """Where the hub is, as messages name it."""
    import httpx
    from huggingface_hub import constants

    return httpx.URL(constants.ENDPOINT).netloc.decode()


@contextmanager
def offline() -> Iterator[None]:
    """The hub's client and `datasets` use their local cache and ask nothing."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _answered(name: str, found: str = "") -> Iterator[None]:
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        if not is_reachable():
            raise ConnectionError
        yield
    except (LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        why, hint = _why_not(name, error)
        raise CheckpointError(
            f"base model {name!r} is not in the local cache {constants.HF_HUB_CACHE}{found}, "
            f"and the hub did not give it: {why}",
            hint=hint,
        ) from error


def _why_not(name: str, error: Exception) -> tuple[str, str]:
    """What kept the hub from giving a model, and the next step. The client's own words are for its programmers."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(cause, HfHubHTTPError):
        if (status := cause.response.status_code) in (401, 403, 404):  # 401 is also a name that does not exist
            return f"{host()} has no such model for you (HTTP {status})", "check the name; HF_TOKEN opens a gated model"
        return f"{host()} answers HTTP {status}", f"try again later: `tandem model fetch {name}`"
    if cause is None or isinstance(cause, (httpx.HTTPError, LocalEntryNotFoundError, ConnectionError)):
        return f"{host()} cannot be reached", (
            f"with a network `tandem model fetch {name}` fetches it; HF_ENDPOINT names a mirror; "
            "a local folder can be the base, too"
        )
    return str(getattr(error, "strerror", None) or error), f"`tandem model fetch {name}` goes on with what is missing"


def _snapshot(name: str, **how) -> Path:
    from huggingface_hub import constants, snapshot_download

    return Path(
        snapshot_download(
            name, cache_dir=constants.HF_HUB_CACHE, allow_patterns=list(FILES), ignore_patterns=list(OTHERS), **how
        )
    )


def is_ours(name: str) -> bool:
    """Whether a repository's file is one that a model needs."""
    return any(fnmatch(name, pattern) for pattern in FILES) and not any(fnmatch(name, other) for other in OTHERS)


def _ours(entries: Mapping[str, HubFile]) -> dict[str, HubFile]:
    return {name: entry for name, entry in sorted(entries.items()) if is_ours(name)}


def free_bytes(folder: Path) -> int:
    """Room on the disk that `folder` is or would be on."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free

"""All published adapters on disk: publish, resolve, list.

A version is written aside, fsynced and renamed; readers see it whole or not at all, and it never changes after.
`models/latest` is a link to the newest that is not suspect.
"""

import contextlib
import errno
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from configs import durable
from configs.errors import AdapterError, NotFoundError
from models.lora import adapter
from models.lora.adapter import Manifest

LATEST = "latest"
_ASIDE = ".publishing-"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Registry:
    """The adapters below one folder, `TANDEM_HOME/models`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def publish(
        self,
        save: Callable[[Path], None],
        *,
        base: str,
        base_fingerprint: str,
        rank: int,
        alpha: int,
        target_modules: list[str],
        train_experts: bool,
        trainable: dict[str, int],
        run_id: str,
        profile: str,
        metrics: dict[str, int | float],
        suspect: Sequence[str] = (),
    ) -> Manifest:
        """Publish what `save(folder)` writes (PEFT's two files) under a new version; all else is the manifest's.

        Whatever fails, no half-written version is ever visible, and a run that publishes again (it was killed just
        after) gets what it published. Raises AdapterError if the result would not pass `adapter.validate`.
        """
        published = self.list()
        for manifest in published:
            if manifest.run_id == run_id:
                self._choose_latest(published)  # the kill may have come before this
                return manifest
        aside = self.folder / f"{_ASIDE}{run_id}"
        shutil.rmtree(aside, ignore_errors=True)
        durable.private_folder(aside)
        try:
            save(aside)
            for path in aside.iterdir():
                if path.name not in (adapter.WEIGHTS, adapter.PEFT_CONFIG):
                    path.unlink()  # PEFT's README template says nothing about this adapter
            unnamed = Manifest(
                version="",
                base=base,
                base_fingerprint=base_fingerprint,
                rank=rank,
                alpha=alpha,
                target_modules=target_modules,
                train_experts=train_experts,
                trainable=trainable,
                run_id=run_id,
                profile=profile,
                created_at=time.time(),
                metrics=metrics,
                files=adapter.hash_files(aside),
                suspect=[*suspect],
            )
            manifest = self._finish(aside, unnamed)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._choose_latest([manifest, *published])
        return manifest

    def _finish(self, aside: Path, unnamed: Manifest) -> Manifest:
        """Give it a free name, and the folder `aside` with it."""
        stem = f"{_slug(unnamed.base)}_{_slug(unnamed.profile)}_{datetime.now(UTC):%Y%m%d-%H%M%S}"
        for suffix in ("", *(f"-{n}" for n in range(2, 100))):
            version = stem + suffix
            if (self.folder / version).exists():
                continue
            manifest = replace(unnamed, version=version)
            adapter.write_manifest(aside, manifest)
            adapter.validate(aside)
            for path in aside.iterdir():
                path.chmod(durable.FILE_MODE)
                durable.fsync(path)
            durable.fsync(aside)
            try:
                aside.rename(self.folder / version)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                continue  # somebody published the same name in between
            durable.fsync(self.folder)
            return manifest
        raise AdapterError(f"no free version name below {stem}", hint="wait a second and publish again")

    def _choose_latest(self, published: list[Manifest]) -> None:
        """Point it at the first of these that is not suspect, if there is one."""
        if sound := [manifest.version for manifest in published if not manifest.suspect]:
            self._point_latest(sound[0])

    def _point_latest(self, version: str) -> None:
        link = self.folder / f"{_ASIDE}{LATEST}-{version}"
        link.unlink(missing_ok=True)
        link.symlink_to(version)
        link.replace(self.folder / LATEST)
        durable.fsync(self.folder)

    def newest(self, limit: int) -> list[Manifest]:
        """The manifests of the `limit` folders that were written last, newest first; the others are not read."""
        written = sorted(self._versions(), key=lambda path: path.stat().st_mtime, reverse=True)
        return _manifests(written[:limit])

    def _versions(self) -> list[Path]:
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        return [path for path in folders if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]

    def list(self) -> list[Manifest]:
        """Manifests of all published adapters, newest first; a folder without a readable manifest is not one."""
        return _manifests(self._versions())

    def resolve(self, name: str) -> str:
        """A version from a version or `latest`. Raises NotFoundError."""
        if name == LATEST:
            target = self.folder / LATEST
            if not target.exists():
                raise self._no_latest()
            return target.resolve().name
        self.path(name)
        return name

    def _no_latest(self) -> NotFoundError:
        if suspects := self.newest(1):
            return NotFoundError(
                f"every published adapter is suspect, so none is {LATEST}: {suspects[0].doubts}",
                hint=f"train anew, or all the same `tandem swap {suspects[0].version} --force`",
                param="adapter",
            )
        return NotFoundError("no adapter has been published yet", hint="train one: `tandem train`", param="adapter")

    def has(self, version: str) -> bool:
        """Whether `version` is published."""
        try:
            return self.path(version).is_dir()
        except NotFoundError:
            return False

    def doubts(self, version: str | None) -> str:
        """What a version is suspect of, in one sentence; empty if it is not, or is not here as a whole."""
        with contextlib.suppress(AdapterError, NotFoundError):
            return adapter.read_manifest(self.path(version)).doubts if version else ""
        return ""

    def passed_over(self) -> str:
        """What the newest adapter is suspect of, if `latest` points to an older one; otherwise empty."""
        newest = self.newest(1)
        return newest[0].doubts if newest and (self.folder / LATEST).exists() else ""

    def path(self, version: str) -> Path:
        """The folder of a published version. Raises NotFoundError, also for anything that is not a plain name."""
        folder = self.folder / version
        if not _VERSION.fullmatch(version) or version == LATEST or not folder.is_dir():
            raise NotFoundError(f"no adapter '{version[:80]}'", hint="see `tandem adapters list`", param="adapter")
        return folder


def _manifests(folders: list[Path]) -> list[Manifest]:
    found = []
    for path in folders:
        with contextlib.suppress(AdapterError):
            found.append(adapter.read_manifest(path))
    return sorted(found, key=lambda manifest: (manifest.created_at, manifest.version), reverse=True)


def _slug(name: str) -> str:
    """The last part of a hub name or path, safe in a folder name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-.") or "base"

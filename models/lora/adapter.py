"""One published LoRA: its manifest and the checks that a folder is what its manifest says.

A version is immutable. safetensors notices a truncated file but loads a flipped bit without a word, so every file's
SHA-256 is in the manifest. Knows neither Ray nor how adapters are trained or served.
"""

import functools
import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from configs import durable
from configs.errors import AdapterError

MANIFEST = "manifest.json"
WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_FILES = (PEFT_CONFIG, WEIGHTS)
FORMAT = 1


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one file."""

    sha256: str
    """Hex digits."""
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What an adapter is. Written last, so a folder without one is not an adapter."""

    version: str
    """The folder's name: `<base>_<profile>_<timestamp>`."""
    base: str
    """Name of the base model as the run's configuration gives it."""
    base_fingerprint: str
    """`models.base.checkpoint.Checkpoint.fingerprint` of the base it was trained on."""
    rank: Annotated[int, Field(ge=1)]
    alpha: int
    target_modules: list[str]
    train_experts: bool
    trainable: dict[str, int]
    """Trained parameters by group: attention, experts, other."""
    run_id: str
    profile: str
    created_at: float
    """Unix seconds."""
    metrics: dict[str, int | float]
    """What the run measured: steps, loss, seconds."""
    files: dict[str, FileEntry]
    """By name, every file but the manifest."""
    suspect: list[str] = field(default_factory=list)
    """Why its run is not to be trusted, a sentence each; such an adapter is never `latest` and is swapped in by force
    alone."""
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())

    @property
    def doubts(self) -> str:
        """What it is suspect of, in one sentence; empty if it is not."""
        return f"{self.version} is suspect: {'; '.join(self.suspect)}" if self.suspect else ""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`."""
    durable.write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=1))


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`, unverified. Raises AdapterError if there is none or it is not one."""
    try:
        text = (folder / MANIFEST).read_text()
        values = json.loads(text)
    except FileNotFoundError:
        raise AdapterError(f"{folder.name} is not a published adapter: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise AdapterError(f"{folder.name}: {MANIFEST} is damaged: {error}", hint="publish the adapter again") from None
    known = {each.name for each in fields(Manifest)}
    needed = known - {each.name for each in fields(Manifest) if each.default_factory is not MISSING}
    if not isinstance(values, dict) or not needed <= set(values) <= known or values["format"] != FORMAT:
        raise AdapterError(f"{folder.name}: {MANIFEST} is not of format {FORMAT}", hint="publish the adapter again")
    try:
        return _manifest_type().validate_json(text, strict=True)  # strict Python mode takes no dict for a dataclass
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise AdapterError(
            f"{folder.name}: {MANIFEST} is damaged: {where} cannot be {first['input']!r}",
            hint="publish the adapter again",
        ) from None


@functools.cache
def _manifest_type() -> TypeAdapter:
    """Made once: it takes 1 ms, twenty times what validating takes."""
    return TypeAdapter(Manifest)


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Name, SHA-256 and size of every file in `folder` except the manifest."""
    return {
        path.name: FileEntry(sha256=_sha256(path), bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST
    }


def validate(folder: Path, base_fingerprint: str | None = None) -> Manifest:
    """The manifest of `folder` if everything in it holds; reads and hashes every file.

    Checks: no file missing, added or changed; weights are safetensors whose LoRA pairs fit each other and the rank, are
    finite and not all zero; trained on the base with `base_fingerprint` where one is given. Raises AdapterError with
    the first thing that is wrong, both values and the next step.
    """
    manifest = read_manifest(folder)
    _check_files(folder, manifest)
    if base_fingerprint is not None and manifest.base_fingerprint != base_fingerprint:
        raise AdapterError(
            f"{folder.name} was trained on {manifest.base} ({manifest.base_fingerprint[:12]}), "
            f"but {base_fingerprint[:12]} is being served",
            hint="serve the base that it was trained on, or train on the one that is served",
        )
    _check_weights(folder, manifest)
    return manifest


def _check_files(folder: Path, manifest: Manifest) -> None:
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted({WEIGHTS, PEFT_CONFIG} | set(manifest.files)):
        if name not in present:
            raise AdapterError(f"{folder.name}: {name} is missing", hint="publish the adapter again")
    if added := sorted(present - set(manifest.files)):
        raise AdapterError(f"{folder.name}: {added[0]} is not in the manifest", hint="remove it or publish again")
    for name, entry in manifest.files.items():
        size = (folder / name).stat().st_size
        if size != entry.bytes:
            raise AdapterError(
                f"{folder.name}: {name} has {size} bytes, the manifest says {entry.bytes}",
                hint="it is truncated or was changed; publish the adapter again",
            )
        if (found := _sha256(folder / name)) != entry.sha256:
            raise AdapterError(
                f"{folder.name}: {name} has SHA-256 {found[:12]}, the manifest says {entry.sha256[:12]}",
                hint="it was changed or the disk is failing; publish the adapter again",
            )


def _check_weights(folder: Path, manifest: Manifest) -> None:
    from safetensors import SafetensorError, safe_open  # imports torch

    try:
        with safe_open(folder / WEIGHTS, framework="pt") as weights:
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{folder.name}: {WEIGHTS} cannot be read: {error}", hint="publish it again") from None
    downs = {name.split(".lora_A")[0]: tensor for name, tensor in tensors.items() if ".lora_A" in name}
    ups = {name.split(".lora_B")[0]: tensor for name, tensor in tensors.items() if ".lora_B" in name}
    if not ups or downs.keys() != ups.keys():
        raise AdapterError(f"{folder.name}: {WEIGHTS} holds {len(downs)} A and {len(ups)} B matrices, not pairs")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AdapterError(f"{folder.name}: {name} holds values that are not finite", hint="train it again")
    if not any(tensor.any() for tensor in ups.values()):
        raise AdapterError(f"{folder.name} changes nothing: every B matrix is zero", hint="train it for more steps")
    for module, down in downs.items():
        rank, columns = down.shape[0], ups[module].shape[-1]
        if rank != columns or rank % manifest.rank:  # experts stack their ranks
            raise AdapterError(f"{folder.name}: {module} has ranks {rank} and {columns}, not {manifest.rank}")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

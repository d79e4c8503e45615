"""An export: a published adapter as files for others, with a manifest that says what they are.

`check` finds out whether it can be done, without writing anything; the command line asks it before it queues. `execute`
is the work inside the pinned actor: written aside, verified, put in place whole. An export that is stopped or killed
leaves nothing and starts over. Heavy imports sit inside the functions, because drivers and the command line import this
module.
"""

import json
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from actors.client import Directive
from actors.runs.run import Outcome, Run, RunState
from actors.trainer import ControlLink
from configs import durable
from configs.errors import AdapterError, ConfigError, ExportError
from configs.paths import Home
from configs.schema import ExportConfig
from jobs.exporting import aside, gguf
from models.lora import adapter
from models.lora.adapter import Manifest
from models.lora.registry import Registry

if TYPE_CHECKING:
    from models.base.checkpoint import Checkpoint
    from models.lora.verification import Verification

RESULT = "export.json"
CONVERTER = {"gguf": gguf.MODEL, "gguf-lora": gguf.ADAPTER}


@dataclass(frozen=True)
class Prepared:
    """An export that can be done."""

    config: ExportConfig
    folder: Path
    """The published adapter."""
    manifest: Manifest
    base: "Checkpoint | None"
    """None where the base plays no part."""
    dtype: str
    parameters: int
    """Of the merged model, or pairs of matrices."""
    notes: list[str]
    """What the person should know of the result."""


def check(config: ExportConfig, home: Home) -> Prepared:
    """Everything that can be known beforehand: adapter, base, fit, format, tools, target folder, disk.

    Raises TandemError for the first thing in the way.
    """
    registry = Registry(home.models)
    folder = registry.path(config.adapter)
    manifest = adapter.validate(folder)
    converter = gguf.find(CONVERTER[config.to]) if config.to in CONVERTER else None
    if config.to == "peft":
        prepared, size = Prepared(config, folder, manifest, None, "", len(adapter.PEFT_FILES), []), manifest.bytes
    else:
        prepared, size = _fit(config, folder, manifest)
    _check_target(Path(config.out), size * (2 if converter and config.to == "gguf" else 1))
    return prepared


def _fit(config: ExportConfig, folder: Path, manifest: Manifest) -> tuple[Prepared, int]:
    """The base and the adapter fit each other and the format; with the bytes that a result takes."""
    import torch

    from models.base import checkpoint
    from models.base.fused import FusedBase
    from models.lora import merge
    from models.lora.delta import Lora

    base = checkpoint.inspect(checkpoint.resolve(config.base or manifest.base))
    same = base.fingerprint == manifest.base_fingerprint
    if not same and config.base is None:
        raise AdapterError(
            f"{manifest.version} was trained on {manifest.base} ({manifest.base_fingerprint[:12]}), which is "
            f"{base.fingerprint[:12]} now",
            hint="name the base that it belongs to with --base",
        )
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if base.name in (checkpoint.TINY, checkpoint.TINY_4BIT) else "bfloat16"
    with ExitStack() as stack:
        fused, lora = FusedBase(base, stack), Lora(folder, stack)
        changed = lora.pairs(fused.shapes)
        if config.to == "gguf-lora":
            gguf.check_adapter(manifest.version, sorted(changed), lora.config)
            return Prepared(config, folder, manifest, base, "float32", len(lora.modules), []), manifest.bytes
        if config.to == "gguf":
            gguf.check_tokenizer(base.path)
        planned = merge.plan(fused, getattr(torch, dtype))
        notes = _notes(fused.quantised, manifest, base, same)
    return Prepared(config, folder, manifest, base, dtype, planned.parameters, notes), planned.bytes


def _notes(quantised: str, manifest: Manifest, base: "Checkpoint", same: bool) -> list[str]:
    notes = []
    if quantised:
        what = "which are what the adapter was trained against" if same else "not those that the adapter was trained on"
        notes.append(f"the weights are {base.name}'s {quantised} weights, dequantised, {what}")
    if not same:
        notes.append(f"merged into {base.name} ({base.path}), trained on {manifest.base}")
    return notes


def _check_target(out: Path, size: int) -> None:
    if out.exists():
        raise ConfigError(f"{out} exists already", hint="name a folder that does not, with --out")
    above = next(parent for parent in out.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"{above} cannot be written to", hint="name another --out")
    free = shutil.disk_usage(above).free
    if size > free:
        raise ExportError(
            f"the export needs {size / 2**20:,.0f} MiB and {above} has {free / 2**20:,.0f} MiB free",
            hint="free some space, or name another --out",
        )


class _Stopped(Exception):
    """The control actor wants the run to end."""


class _Progress:
    """Steps of the run, and its sign of life. Raises _Stopped when the run is to end."""

    def __init__(self, link: ControlLink) -> None:
        self._link, self._done, self._all = link, 0, 1

    def __call__(self, done: int, in_all: int) -> None:
        self._done, self._all = done, in_all
        self.tick()

    def tick(self) -> None:
        told = self._link.report(step=self._done, max_steps=self._all, loss=None, tokens_per_s=None)
        if told is Directive.STOP:
            raise _Stopped


def execute(run: Run, home: Home, device: str, link: ControlLink) -> Outcome:
    """Export as `run.config` says, on the CPU whatever `device` is.

    Raises TandemError for what a person can fix; then nothing is left.
    """
    config = ExportConfig(**run.config)
    out, progress = Path(config.out), _Progress(link)
    success = Outcome(RunState.SUCCEEDED, f"exported {config.adapter} to {out}")
    if _written_by(out) == run.id:
        return success  # it was killed just after the rename
    if link.starting() is Directive.STOP:
        return Outcome(RunState.STOPPED, "stopped before anything was read")
    clean(run)
    prepared = check(config, home)
    try:
        if link.training() is Directive.STOP:
            raise _Stopped
        with aside.folder(out, run) as folder:
            found = _WRITERS[config.to](prepared, folder, progress)
            print(f"verified: {found}")
            _write_result(folder, prepared, run, found)
    except _Stopped:
        return Outcome(RunState.STOPPED, "stopped; nothing was written")
    return success


def clean(run: Run) -> None:
    """Remove what killed attempts of an export left."""
    aside.clean(Path(run.config["out"]), run)


def _write_merged(prepared: Prepared, folder: Path, progress: _Progress) -> "Verification":
    import torch

    from models.lora import merge
    from models.lora.verification import verify

    dtype = getattr(torch, prepared.dtype)
    merge.merge(prepared.base, prepared.folder, folder, dtype, on_tensor=progress)
    return verify(prepared.base, prepared.folder, folder, progress.tick)


def _write_gguf(prepared: Prepared, folder: Path, progress: _Progress) -> "Verification":
    merged = folder / "merged"
    merged.mkdir()
    found = _write_merged(prepared, merged, progress)
    file, kind = _gguf_file(prepared, folder), {"float32": "f32", "bfloat16": "bf16"}[prepared.dtype]
    gguf.convert(gguf.find(gguf.MODEL), [str(merged), "--outfile", str(file), "--outtype", kind], progress.tick)
    shutil.rmtree(merged)
    if (count := gguf.tensors(file)) < prepared.parameters:  # gate and up, one parameter here, are two in GGUF
        raise ExportError(f"{file.name} has {count} tensors, the merged model has {prepared.parameters}")
    return replace(found, why=f"the merged model, before its conversion to {count} GGUF tensors; {found.why}")


def _write_gguf_lora(prepared: Prepared, folder: Path, progress: _Progress) -> "Verification":
    from models.lora.verification import Verification

    file = _gguf_file(prepared, folder)
    arguments = ["--outfile", str(file), "--outtype", "f32", "--base", str(prepared.base.path), str(prepared.folder)]
    gguf.convert(gguf.find(gguf.ADAPTER), arguments, progress.tick)
    if (count := gguf.tensors(file)) != 2 * prepared.parameters:
        raise ExportError(f"{file.name} has {count} matrices, the adapter has {2 * prepared.parameters}")
    progress(prepared.parameters, prepared.parameters)
    return Verification("count", "the file has every pair of matrices; their values were not compared", count)


def _gguf_file(prepared: Prepared, folder: Path) -> Path:
    return folder / f"{prepared.manifest.version}.gguf"


def _write_peft(prepared: Prepared, folder: Path, progress: _Progress) -> "Verification":
    from models.lora.verification import Verification

    for number, name in enumerate(adapter.PEFT_FILES, start=1):
        shutil.copyfile(prepared.folder / name, folder / name)
        progress(number, prepared.parameters)
    if adapter.hash_files(folder) != {name: prepared.manifest.files[name] for name in adapter.PEFT_FILES}:
        raise ExportError("the copied files differ from the published ones", hint="export again")
    return Verification("sha256", "the files are the published ones", len(adapter.PEFT_FILES), max_difference=0.0)


_WRITERS = {
    "merged": _write_merged, "gguf": _write_gguf, "gguf-lora": _write_gguf_lora, "peft": _write_peft,
}  # fmt: skip


def _write_result(folder: Path, prepared: Prepared, run: Run, found: "Verification") -> None:
    """`export.json`: what this is, of what it was made, how it was verified, and every file's SHA-256."""
    manifest, base = prepared.manifest, prepared.base
    record = {
        "adapter": manifest.version,
        "to": prepared.config.to,
        "run": run.id,
        "created_at": time.time(),
        "trained_on": {"name": manifest.base, "fingerprint": manifest.base_fingerprint},
        "base": {"name": base.name, "path": str(base.path), "fingerprint": base.fingerprint} if base else None,
        "dtype": prepared.dtype or None,
        "notes": prepared.notes,
        "verification": asdict(found),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "files": {name: asdict(entry) for name, entry in adapter.hash_files(folder).items()},
    }
    durable.write_text(folder / RESULT, json.dumps(record, indent=1), shared=True)


def _written_by(out: Path) -> str | None:
    """The run that made the export in folder `out`."""
    try:
        return json.loads((out / RESULT).read_text()).get("run")
    except (OSError, ValueError):
        return None

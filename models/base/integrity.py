"""Care of a base model's files: `check` says what is whole, damaged or missing, `fetch` brings what a hub model lacks.

`check` changes nothing. `fetch` asks the hub only if something is wrong, removes only what is damaged, only after it
could ask and say so, and leaves the rest to the hub's client. Nothing is ever copied by hand.

Called by `tandem model`. Knows a checkpoint's layout and what harmony needs of a tokenizer; loads no weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from configs.errors import CheckpointError, ConfigError
from models import harmony
from models.base import checkpoint, files, hub
from models.base.files import ModelFiles
from models.base.hub import Hashes, HubFile


class FileState(StrEnum):
    """What `check` found of one file."""

    WHOLE = "WHOLE"  # its content has the hash that it should have
    SIZED = "SIZED"  # length and header are right; its content was compared with nothing
    MISSING = "MISSING"  # not there
    DANGLING = "DANGLING"  # a link to a blob that is not there
    UNLINKED = "UNLINKED"  # its blob is there, the link to it is not
    MISLINKED = "MISLINKED"  # a link to the blob of something else
    CUT = "CUT"  # shorter or longer than it should be, or its header is damaged
    CORRUPT = "CORRUPT"  # as long as it should be, with other content

    @property
    def is_good(self) -> bool:
        return self in (FileState.WHOLE, FileState.SIZED)

    @property
    def is_damaged(self) -> bool:
        """Something is there that is in the way of the right thing."""
        return self in (FileState.MISLINKED, FileState.CUT, FileState.CORRUPT)


@dataclass(frozen=True)
class FileReport:
    """What `check` found of one file."""

    name: str
    state: FileState
    path: str
    """What holds its content, or should."""
    bytes: int
    """On disk."""
    download_bytes: int | None
    """What a fetch brings of it; None: its length is not known without asking the hub."""
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What `check` found. Plain values, for `dataclasses.asdict`."""

    name: str
    kind: str
    """hub, folder or embedded."""
    folder: str
    revision: str
    layout: str
    """As `checkpoint.Checkpoint.layout`; empty if the files do not let it be told."""
    architecture: str
    files: tuple[FileReport, ...]
    problems: tuple[str, ...]
    """Why the model cannot be used as it is; empty if it can."""
    notes: tuple[str, ...]
    compared_with: str
    """Where the hashes are from with which contents were compared; empty if only lengths and headers were read."""
    good_bytes: int
    """Of the files that are good."""
    download_bytes: int | None
    """What a fetch would bring; None: the hub would have to be asked."""
    free_bytes: int
    """On the disk of the model or of the cache."""

    @property
    def is_whole(self) -> bool:
        return not self.problems


def check(name: str, *, quick: bool = False, like: str | None = None, hashes: Hashes | None = None) -> Report:
    """What is there of base model `name`: an embedded one, a folder or a hub name.

    `quick` compares no contents; `like` is the hub name of what a folder holds. Raises CheckpointError only if `name`
    cannot be a model, ConfigError if `like` does not fit.
    """
    return _report(files.locate(name, like), None if quick else hashes or Hashes())


def fetch(name: str, *, say: Callable[[str], None], hashes: Hashes | None = None) -> Report:
    """Bring what is missing or damaged of hub model `name` and check it after; no request if nothing is.

    `say` is told what is removed and why, before it is. Raises CheckpointError if the hub cannot be asked, the disk is
    too small, or what came is not what the hub promised; ConfigError if `name` is a folder.
    """
    hashes, here = hashes or Hashes(), files.locate(name)
    if here.kind == "folder":
        raise ConfigError(f"{name} is a folder, and fetch takes a hub name", hint="`tandem model check` looks into it")
    before = _report(here, hashes)
    if before.is_whole or here.repository is None:
        return before
    hub.refuse_offline(name, f"; {before.problems[0]}")
    revision, listing = hub.ask(name, here.revision or None)
    known = here.repository.revision == revision
    _make_room(files.at(here.repository, revision, listing), hashes, say)
    hub.download(name, revision if known else None)
    return _proven(files.at(here.repository, revision, listing), hashes, say)


def _make_room(here: ModelFiles, hashes: Hashes, say: Callable[[str], None]) -> None:
    """Remove what is damaged if the disk has room for what is to come. Raises CheckpointError otherwise."""
    report = _report(here, hashes)
    damaged = [file for file in report.files if file.state.is_damaged]
    freed = sum(file.bytes for file in damaged if file.state is not FileState.MISLINKED)
    needed = report.download_bytes or 0
    if needed > report.free_bytes + freed:
        raise CheckpointError(
            f"{here.name} needs {needed:,} bytes more, and the disk of {here.folder.parents[2]} has "
            f"{report.free_bytes:,} free",
            hint="free some space, or let HF_HOME name a folder on another disk",
        )
    say(f"{here.name} at {here.revision[:12]}: {needed:,} bytes to download, {report.good_bytes:,} are there")
    _remove(here, damaged, say)


def _proven(here: ModelFiles, hashes: Hashes, say: Callable[[str], None]) -> Report:
    """The report of what came. What is damaged again is removed, so that nobody uses it, and raises CheckpointError."""
    report = _report(here, hashes)
    wrong = [file for file in report.files if not file.state.is_good]
    _remove(here, [file for file in wrong if file.state.is_damaged], say)
    if wrong:
        raise CheckpointError(
            f"what came for {here.name} is not what the hub promised: {_words(wrong[0])}",
            hint="fetch again; if it stays so, suspect the disk, the memory or a proxy",
        )
    return report


def _remove(here: ModelFiles, damaged: list[FileReport], say: Callable[[str], None]) -> None:
    """Remove damaged files: the hub's client takes whatever is there for whole."""
    cache = here.folder.parents[2].resolve()
    for file in damaged:
        path = Path(file.path)
        if file.state is not FileState.MISLINKED and not path.is_relative_to(cache):
            raise CheckpointError(
                f"{_words(file)}; it is {path}, outside the cache {cache}",
                hint=f"remove the link {here.folder / file.name} yourself, then fetch again",
            )
        say(f"removing {path}: {_words(file)}")
        path.unlink()


def _report(here: ModelFiles, hashes: Hashes | None) -> Report:
    found = tuple(_look(here, name, entry, hashes) for name, entry in here.entries.items())
    found = _estimated(found, files.index(here.folder))
    wrong = [file for file in found if not file.state.is_good]
    layout, architecture, unfit = ("", "", []) if wrong or not found else _model(here.folder)
    problems = (*here.problems, *map(_words, wrong), *unfit)
    lengths = [file.download_bytes for file in wrong]
    known = here.is_listed or not problems or (lengths and here.revision)
    return Report(
        name=here.name,
        kind=here.kind,
        folder=str(here.folder),
        revision=here.revision,
        layout=layout,
        architecture=architecture,
        files=found,
        problems=problems,
        notes=here.notes,
        compared_with=here.source if hashes else "",
        good_bytes=sum(file.bytes for file in found if file.state.is_good),
        download_bytes=sum(lengths) if known and None not in lengths and here.kind == "hub" else None,
        free_bytes=hub.free_bytes(here.folder),
    )


def _words(file: FileReport) -> str:
    return f"{file.name} is {file.state}{f': {file.detail}' if file.detail else ''}"


def _look(here: ModelFiles, name: str, entry: HubFile, hashes: Hashes | None) -> FileReport:
    """One file: is it there, linked to its own blob, as long as it should be, and with the right content?"""
    path = here.folder / name
    linked = hub.link_entry(path).digest
    blob = here.repository.blob(entry.digest) if here.repository else None
    content = path if path.is_file() else blob
    size = content.stat().st_size if content else 0

    def found(state: FileState, detail: str = "", download: int | None = entry.size) -> FileReport:
        held_by = path if content is None or state is FileState.MISLINKED else content.resolve()
        return FileReport(name, state, str(held_by), size, 0 if state.is_good else download, detail)

    if content is None and path.is_symlink():
        return found(FileState.DANGLING, f"there is no blob {path.readlink().name[:12]}")
    if content is None:
        return found(FileState.MISSING)
    if content is path and linked and entry.digest and linked != entry.digest:
        detail = f"links to blob {linked[:12]} instead of {entry.digest[:12]}"
        return found(FileState.MISLINKED, detail, 0 if blob else entry.size)
    if entry.size is not None and size != entry.size:
        return found(FileState.CUT, f"{size:,} bytes instead of {entry.size:,}")
    if name.endswith(".safetensors"):
        try:
            checkpoint.read_header(content)
        except CheckpointError as error:
            return found(FileState.CUT, error.message.removeprefix(f"{content} "))
    digest = hashes.of(content, entry.digest) if hashes and entry.digest else None
    if digest and digest != entry.digest:
        return found(FileState.CORRUPT, f"hash {digest[:12]} instead of {entry.digest[:12]}")
    if content is not path:
        return found(FileState.UNLINKED, f"blob {content.name[:12]} is there", 0)
    return found(FileState.WHOLE if digest else FileState.SIZED)


def _estimated(files: tuple[FileReport, ...], index: Mapping) -> tuple[FileReport, ...]:
    """`files` with unknown lengths of shards filled in from the index's total, which leaves out their headers."""
    shards = [file for file in files if file.name.endswith(".safetensors")]
    unknown = [file for file in shards if file.download_bytes is None]
    total = (index.get("metadata") or {}).get("total_size")
    if not unknown or not total:
        return files
    rest = max(0, int(total) - sum(file.bytes for file in shards if file.state.is_good)) // len(unknown)
    return tuple(replace(file, download_bytes=rest) if file in unknown else file for file in files)


def _model(folder: Path) -> tuple[str, str, list[str]]:
    """(layout, architecture, problems) of a model whose files are good one by one."""
    try:
        described = checkpoint.inspect(folder)
        tokenizer = checkpoint.load_tokenizer(folder)
    except CheckpointError as error:
        return "", "", [error.message]
    problems = []
    if described.architecture == "GptOssForCausalLM":
        problems += _silence(tokenizer)
        quantised = (described.config.get("quantization_config") or {}).get("quant_method") == "bitsandbytes"
        if quantised and described.layout != "split-nf4":
            problems.append(
                f"a gpt-oss in 4 bit by bitsandbytes has the layout split-nf4, this one has {described.layout}: its "
                "experts would be left random"
            )
    return described.layout, described.architecture, problems


def _silence(tokenizer) -> list[str]:
    """What keeps `tokenizer` from speaking harmony."""
    problems = []
    try:
        harmony.stop_token_ids(tokenizer)
    except CheckpointError as error:
        problems.append(error.message)
    unwritten = [token for token in (harmony.CHANNEL, harmony.RETURN) if token not in str(tokenizer.chat_template)]
    if unwritten:
        problems.append(f"the chat template never writes {' or '.join(unwritten)}: it is not gpt-oss's own")
    return problems

"""A base model on disk: find it, and prove that its files are whole, without reading its weights.

Two layouts are known. `full` is whatever Transformers itself loads, `split-nf4` is described in
`models.base.split_nf4`. Called by everyone who names a base; `models.base.loading` makes a model of it. Knows no data
set, no Ray and no adapter.
"""

import contextlib
import difflib
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from configs import paths
from configs.errors import CheckpointError
from models.base import hub

if TYPE_CHECKING:
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

TINY, TINY_4BIT = "tiny", "tiny-bnb-4bit"
KNOWN_NAMES = (TINY, TINY_4BIT, "unsloth/gpt-oss-20b-unsloth-bnb-4bit", "unsloth/gpt-oss-20b", "openai/gpt-oss-20b")


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file: its path, its length in bytes and the position of its data, its tensors' headers."""

    path: Path
    size: int
    start: int
    tensors: Mapping[str, Mapping]


@dataclass(frozen=True)
class Checkpoint:
    """A base model whose files are all there and as long as they say. Made by `inspect`."""

    path: Path
    name: str
    revision: str
    """The hub's commit, empty for a local folder."""
    layout: Literal["full", "split-nf4"]
    fingerprint: str
    """SHA-256 over config.json, every shard's header and length, and the first 64 bytes of every tensor."""
    architecture: str
    vocab_size: int
    tensor_bytes: int
    config: Mapping = field(repr=False)
    files: tuple[TensorFile, ...] = field(repr=False)

    @property
    def longest(self) -> int | None:
        """Tokens of the longest text that the model is made for, if its configuration says so."""
        return self.config.get("max_position_embeddings")


def resolve(name: str) -> Path:
    """The folder of base model `name`: `tiny`, `tiny-bnb-4bit`, a local folder, or a hub name (`openai/gpt-oss-20b`).

    The embedded model's 4-bit form is made on first use, a hub model is downloaded unless it is in the local cache.
    Raises CheckpointError if there is no such model or it cannot be had offline.
    """
    if name == TINY:
        return paths.TINY_MODEL
    if name == TINY_4BIT:
        return _tiny_4bit()
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} holds no config.json", hint="name the folder that holds the model's files")
        return folder.absolute()
    if hub.NAME.fullmatch(name):
        return hub.obtain(name, inspect)
    nearest = difflib.get_close_matches(name, KNOWN_NAMES, n=1)
    raise CheckpointError(
        f"no base model {name!r}: not a folder, and a hub name has the form owner/name",
        hint=f"did you mean {nearest[0]!r}?" if nearest else f"known ones: {', '.join(KNOWN_NAMES)}",
    )


def _tiny_4bit() -> Path:
    """Under the fingerprint of the model it was made from, so that it never outlives a rebuilt embedded model."""
    folder = paths.home().bases / TINY_4BIT / inspect(paths.TINY_MODEL).fingerprint[:12]
    if not folder.is_dir():
        # Imports bitsandbytes, which takes a second and is needed once.
        from models.tiny.quantize import quantize

        quantize(paths.TINY_MODEL, folder)
    return folder


def inspect(path: Path) -> Checkpoint:
    """Read every header of the model in folder `path` and the first bytes of each tensor, no whole weights.

    Raises CheckpointError naming the file or key if config, index or a shard is missing, a shard is shorter or longer
    than its header says, or index and shards disagree about a key.
    """
    config = _read_json(path / "config.json")
    files = tuple(read_header(file) for file in _shards(path))
    name, revision = _name_of(path)
    headers = {key: header for file in files for key, header in file.tensors.items()}
    split = any(".mlp.experts.gate_up_projs." in key and header["dtype"] == "U8" for key, header in headers.items())
    return Checkpoint(
        path=path,
        name=name,
        revision=revision,
        layout="split-nf4" if split else "full",
        fingerprint=_fingerprint(path, files),
        architecture=(config.get("architectures") or ["unknown"])[0],
        vocab_size=int(config.get("vocab_size", 0)),
        tensor_bytes=sum(end - begin for begin, end in (header["data_offsets"] for header in headers.values())),
        config=config,
        files=files,
    )


def _name_of(path: Path) -> tuple[str, str]:
    """(name, revision) of a resolved folder, the inverse of `resolve`."""
    if path == paths.TINY_MODEL:
        return TINY, ""
    if path.parent.name == TINY_4BIT:
        return TINY_4BIT, ""
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.removeprefix("models--").replace("--", "/", 1), path.name
    return path.name, ""


def _read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing", hint=_AGAIN) from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}", hint=_AGAIN) from error


_AGAIN = "`tandem model check` says what is wrong with it, `tandem model fetch` brings what a hub model lacks"


def _shards(path: Path) -> list[Path]:
    """The safetensors files of the model, by name; checked against the index where there is one."""
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        single = path / "model.safetensors"
        if not single.is_file():
            raise CheckpointError(f"{path} holds neither {single.name} nor {index.name}", hint=_AGAIN)
        return [single]
    weight_map: dict[str, str] = _read_json(index).get("weight_map", {})
    files = [path / name for name in sorted(set(weight_map.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{path} lacks {len(absent)} of {len(files)} shards: {few(absent)}", hint=_AGAIN)
    stored = {(key, file.name) for file in files for key in read_header(file).tensors}
    promised = set(weight_map.items())
    refuse(path, missing={key for key, _ in promised - stored}, unexpected={key for key, _ in stored - promised})
    return files


def read_header(file: Path) -> TensorFile:
    """The header of a safetensors file: https://huggingface.co/docs/safetensors, "Format".

    Raises CheckpointError if there is none, or if the file is shorter or longer than it says.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        prefix = handle.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= size - 8:
            raise CheckpointError(f"{file} has {size} bytes and no complete header", hint=_AGAIN)
        try:
            tensors = json.loads(handle.read(length))
            tensors.pop("__metadata__", None)
            wanted = 8 + length + max((header["data_offsets"][1] for header in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} has a damaged header: {error}", hint=_AGAIN) from error
    if size != wanted:
        raise CheckpointError(f"{file} has {size} bytes, its header says {wanted}", hint=_AGAIN)
    return TensorFile(file, size, 8 + length, tensors)


def _fingerprint(path: Path, files: Iterable[TensorFile]) -> str:
    digest = hashlib.sha256((path / "config.json").read_bytes())
    for file in files:
        digest.update(f"\n{file.path.name} {file.size}\n".encode())
        with file.path.open("rb") as handle:
            digest.update(handle.read(file.start))
            for begin, end in sorted(header["data_offsets"] for header in file.tensors.values()):
                handle.seek(file.start + begin)
                digest.update(handle.read(min(64, end - begin)))
    return digest.hexdigest()


def tokenizer_of(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of base model `name`, without its weights: of a hub model only the small files are fetched.

    Raises CheckpointError if it cannot be had.
    """
    if not hub.NAME.fullmatch(name) or Path(name).expanduser().is_dir():
        return load_tokenizer(resolve(name))
    try:
        return load_tokenizer(name)
    except CheckpointError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise CheckpointError(
            f"the tokenizer of base model {name!r} is not in the local cache, and the hub did not give it",
            hint=f"check the name and the network; `tandem model fetch {name}` says what is wrong",
        ) from error


PLAIN_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Names of the class that reads tokenizer.json and nothing else, in Transformers 4 and 5."""


def _tokenizer_class(path: Path) -> "type[PreTrainedTokenizerBase] | type[AutoTokenizer]":
    """For a gpt-oss the class that AutoTokenizer finds. To find it, that imports the classes of all models, which takes
    3 of the 6 s of CPU that a gateway's tokenizer costs (`python -X importtime`, two cores)."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        config, named = (json.loads((path / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
        if config.get("model_type") == "gpt_oss" and named.get("tokenizer_class") in PLAIN_TOKENIZERS:
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def load_tokenizer(path: Path | str) -> "PreTrainedTokenizerBase":
    """The tokenizer in a folder or of a hub name. Raises CheckpointError if it is missing or has no chat template."""
    try:
        tokenizer = _tokenizer_class(Path(path)).from_pretrained(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} holds no usable tokenizer: {error}", hint=_AGAIN) from error
    if not tokenizer.chat_template:
        raise CheckpointError(f"the tokenizer in {path} has no chat template", hint="name an instruction-tuned model")
    return tokenizer


def end_token_ids(path: Path) -> tuple[int, ...]:
    """What `generation_config.json` says ends a generation of the model in folder `path`; empty if it says nothing."""
    file = path / "generation_config.json"
    found = _read_json(file).get("eos_token_id") if file.is_file() else None
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)


def few(keys: Iterable[str], count: int = 5) -> str:
    """The first names, and how many more there are."""
    names = sorted(keys)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def refuse(
    path: Path,
    *,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    misshapen: Iterable[str] = (),
    errors: Iterable[str] = (),
) -> None:
    """Raises CheckpointError naming the first keys of each kind and how many there are; nothing if there are none."""
    kinds = {"missing": set(missing), "unexpected": set(unexpected), "misshapen": set(misshapen), "broken": set(errors)}
    complaints = [f"{len(keys)} {kind}: {few(keys)}" for kind, keys in kinds.items() if keys]
    if complaints:
        raise CheckpointError(
            f"{path} does not fit its architecture; keys {'; '.join(complaints)}",
            hint="take the checkpoint that config.json describes; nothing was loaded",
        )

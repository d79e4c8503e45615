"""llama.cpp's converters: where they are, what they cannot express, running one, and what its failure means.

They are not part of Tandem: `TANDEM_LLAMA_CPP` names a checkout of llama.cpp, or they are on the PATH. What is said
here of gpt-oss was read in `conversion/gpt_oss.py` and `convert_lora_to_gguf.py`, as llama-cpp-python 0.3.36 has them.
Called by the exporter.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from actors.hardware.placement import die_with_parent
from configs import environment
from configs.errors import ExportError

FOLDER = "TANDEM_LLAMA_CPP"
MODEL, ADAPTER = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
GET_IT = f"git clone https://github.com/ggml-org/llama.cpp, and set {FOLDER} to its folder before `tandem up`"
POLL_S = 0.5

MEANINGS: Mapping[str, tuple[str, str]] = {
    r"pre-tokenizer was not recognized": (
        "it does not know this model's tokenizer",
        "the embedded model has a tokenizer of its own and cannot become GGUF; for others take a newer llama.cpp",
    ),
    r"[Cc]an ?not map tensor '?([\w.]+)": ("it has no place for {0}", "--to merged keeps everything"),
    r"Model (\w+) is not supported": ("it does not know the architecture {0}", "take a newer llama.cpp"),
    r"No module named '?([\w.]+)": ("Python's package {0} is missing", f"{sys.executable} -m pip install {{0}}"),
    r"(No space left on device)": ("{0}", "free some space, or name another --out"),
}  # fmt: skip
"""What a converter prints when it fails, in our words: what happened and the next step."""


def find(script: str) -> Path:
    """The converter, started once with `--help`. Raises ExportError saying what is missing and how to get it."""
    folder = os.environ.get(FOLDER)
    path = Path(folder).expanduser() / script if folder else Path(shutil.which(script) or script)
    if not path.is_file():
        where = f"{FOLDER} names {folder}, which has no {script}" if folder else f"{script} is not on the PATH"
        raise ExportError(f"llama.cpp's converter is missing: {where}", hint=GET_IT)
    convert(path, ["--help"], tick=lambda: None)
    return path


def check_adapter(name: str, parameters: list[str], config: Mapping) -> None:
    """Raises ExportError if an adapter of these parameters loses something as a GGUF adapter."""
    if experts := [parameter for parameter in parameters if ".mlp.experts." in parameter]:
        raise ExportError(
            f"{name} trains {len(experts)} expert matrices, such as {experts[0]}, and {ADAPTER} has no place for them",
            hint="--to gguf puts them into a whole model",
        )
    if config.get("use_rslora"):
        raise ExportError(
            f"{name} is scaled by alpha / sqrt(rank); a GGUF adapter is always scaled by alpha / rank",
            hint="--to gguf puts it into a whole model",
        )


def check_tokenizer(base: Path) -> None:
    """Raises ExportError if the converter cannot express the tokenizer in folder `base`; found out by converting it.

    The converter knows a tokenizer by a hash of what it does to a test text, and refuses every other.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(base), "--vocab-only", "--outfile", f"{folder}/vocabulary.gguf"]
        convert(find(MODEL), arguments, tick=lambda: None)


def convert(script: Path, arguments: list[str], tick: Callable[[], None]) -> None:
    """Run a converter to its end; its output goes to stdout. `tick` is called meanwhile and may raise to stop it.

    Raises ExportError with the converter's own reason.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments], stdout=said, stderr=subprocess.STDOUT, text=True,
            env=environment.for_children(os.environ) | {"HF_HUB_OFFLINE": "1"}, preexec_fn=die_with_parent,
        )  # fmt: skip
        try:
            while process.poll() is None:
                tick()
                try:
                    process.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        text = said.read()
    if process.returncode:
        print(text)
        raise _failure(script.name, process.returncode, text)


def _failure(script: str, code: int, text: str) -> ExportError:
    for pattern, (what, hint) in MEANINGS.items():
        if found := re.search(pattern, text):
            return ExportError(f"{script} failed: {what.format(*found.groups())}", hint=hint.format(*found.groups()))
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
    return ExportError(f"{script} failed with exit code {code}: {last[:300]}", hint="the whole of it is in the log")


def tensors(file: Path) -> int:
    """How many tensors a GGUF file has: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "File Structure".

    Raises ExportError if it is none.
    """
    with file.open("rb") as handle:
        head = handle.read(24)
    if len(head) < 24 or head[:4] != b"GGUF":
        raise ExportError(f"{file.name} is not a GGUF file", hint="see the run's log for what the converter did")
    return struct.unpack("<4sIQQ", head)[2]

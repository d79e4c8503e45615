"""gpt-oss's real vocabulary and OpenAI's own library for its format, without OpenAI's servers.

`openai-harmony` is a package, its vocabulary is not: the npm package js-tiktoken carries the ranks, from which both
files are made in .venv/o200k, once. A machine that cannot have them skips the tests; with CI set they fail.
"""

import hashlib
import json
import os
import re
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import openai_harmony
import pytest
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from configs.paths import SOURCE

FOLDER = SOURCE / ".venv" / "o200k"
RANKS, TOKENIZER = "o200k_base.tiktoken", "tokenizer.json"
PACKAGE, MEMBER = "js-tiktoken@1.0.21", "package/dist/ranks/o200k_base.js"
SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
"""Of OpenAI's o200k_base.tiktoken."""

PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How o200k cuts text before its merges: https://github.com/openai/tiktoken (tiktoken_ext/openai_public.py)."""

FIRST_SPECIAL, LAST_SPECIAL = 199998, 200018
SPECIAL_TOKENS = {
    199998: "<|startoftext|>",
    199999: "<|endoftext|>",
    200002: "<|return|>",
    200003: "<|constrain|>",
    200005: "<|channel|>",
    200006: "<|start|>",
    200007: "<|end|>",
    200008: "<|message|>",
    200012: "<|call|>",
    200018: "<|endofprompt|>",
}


@cache
def encoding() -> openai_harmony.HarmonyEncoding:
    """OpenAI's renderer and parser."""
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(_made())
    return openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The same vocabulary as Transformers loads it."""
    return PreTrainedTokenizerFast(tokenizer_file=str(_made() / TOKENIZER))


def _made() -> Path:
    """The folder with both files. Skips the test where they cannot be had, and fails it with CI set."""
    if not (FOLDER / TOKENIZER).is_file():
        try:
            FOLDER.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=FOLDER.parent) as work:
                _make(Path(work) / FOLDER.name, Path(work))
                (Path(work) / FOLDER.name).rename(FOLDER)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            missing = f"no vocabulary of gpt-oss here: npm gave no {PACKAGE}: {error}"
            pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return FOLDER


def _make(out: Path, work: Path) -> None:
    """Write both files into `out`. Raises ValueError if the ranks are not OpenAI's."""
    pack = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(work)]
    subprocess.run(pack, cwd=work, check=True, timeout=300, stdout=subprocess.DEVNULL)
    with tarfile.open(next(work.glob("*.tgz"))) as archive:
        ranks = _ranks(archive.extractfile(MEMBER).read().decode())
    if (found := hashlib.sha256(ranks).hexdigest()) != SHA256:
        raise ValueError(f"SHA-256 {found} instead of {SHA256}")
    out.mkdir()
    (out / RANKS).write_bytes(ranks)
    special = [SPECIAL_TOKENS.get(id, f"<|reserved_{id}|>") for id in range(FIRST_SPECIAL, LAST_SPECIAL + 1)]
    TikTokenConverter(str(out / RANKS), PATTERN, extra_special_tokens=special).converted().save(str(out / TOKENIZER))


def _ranks(source: str) -> bytes:
    """tiktoken's file out of js-tiktoken's: a line per token, its bytes in base64 and its rank."""
    text = json.loads('"' + re.search(r'"bpe_ranks":"((?:[^"\\]|\\.)*)"', source)[1] + '"')
    lines = []
    for row in text.split("\n"):
        mark, _, rest = row.partition(" ")
        if mark == "!":
            first, *tokens = rest.split(" ")
            lines += [f"{token} {rank}\n" for rank, token in enumerate(tokens, int(first))]
    return "".join(lines).encode()

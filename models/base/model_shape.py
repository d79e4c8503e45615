"""A base model's shape and size from config.json and the headers of its files alone: no weights, no torch, no network.

For estimates made before a run is queued, so it must be quick and must not fail: a base that is not on this machine is
None. Whether the files are right is `models.base.checkpoint.inspect`'s question.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from configs import paths
from configs.schema import LoraConfig

LAYOUT_4BIT = "tiny-bnb-4bit"


@dataclass(frozen=True)
class ModelShape:
    """The figures that memory and time depend on."""

    parameters: int
    """Of the model as it computes: an NF4 byte holds two."""
    tensor_bytes: int
    """Of all tensors as they are stored."""
    split_nf4: bool
    """Experts one by one in NF4, as in unsloth/gpt-oss-20b-unsloth-bnb-4bit; on a GPU they stay so."""
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    """0 is a dense model."""
    top_k: int
    expert_width: int
    vocabulary: int

    @property
    def active_parameters(self) -> int:
        """Those that one token passes through."""
        expert = 3 * self.hidden * self.expert_width * self.layers
        return self.parameters - expert * max(0, self.experts - self.top_k)

    def trainable(self, lora: LoraConfig) -> int:
        """Parameters of an adapter: rank x (inputs + outputs) of every target; gate and up are one fused matrix."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = {
            "q_proj": self.hidden + wide,
            "k_proj": self.hidden + narrow,
            "v_proj": self.hidden + narrow,
            "o_proj": self.hidden + wide,
        }
        total = sum(sizes.get(name, 0) for name in lora.target_modules)
        if lora.train_experts:
            targets = set(lora.target_modules)
            fused = self.hidden + 2 * self.expert_width if targets & {"gate_proj", "up_proj"} else 0
            down = self.expert_width + self.hidden if "down_proj" in targets else 0
            total += max(1, self.experts) * (fused + down)
        return self.layers * lora.r * total


GPT_OSS_20B = ModelShape(
    parameters=20_914_757_184, tensor_bytes=12_510_000_000, split_nf4=True, hidden=2880, layers=24, heads=64,
    kv_heads=8, head_dim=64, experts=32, top_k=4, expert_width=2880, vocabulary=201_088,
)  # fmt: skip
"""The base of most profiles, for when it is not downloaded yet; 11.65 GiB of weights."""
KNOWN = {"unsloth/gpt-oss-20b-unsloth-bnb-4bit": GPT_OSS_20B}


def model_shape(name: str) -> ModelShape | None:
    """The shape of the base that `checkpoint.resolve` finds under `name`; None if it is not here or not readable."""
    folder = _folder(name)
    try:
        return _read(folder) if folder else KNOWN.get(name)
    except (OSError, ValueError, KeyError, struct.error):
        return KNOWN.get(name)


def is_here(name: str) -> bool:
    """Whether base `name` can be had without asking the hub, as far as a glance tells."""
    folder = _folder(name)
    return folder is not None and folder.is_dir()


def _folder(name: str) -> Path | None:
    if name == "tiny":
        return paths.TINY_MODEL
    if name == LAYOUT_4BIT:  # made on first use
        return next((paths.home().bases / LAYOUT_4BIT).glob("*/config.json"), paths.TINY_MODEL / "config.json").parent
    if (local := Path(name).expanduser()).is_dir():
        return local
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    try:
        return cached / "snapshots" / (cached / "refs" / "main").read_text().strip()
    except OSError:
        return None


def _read(folder: Path) -> ModelShape:
    config = json.loads((folder / "config.json").read_text())
    stored, parameters, split, files = 0, 0, False, sorted(folder.glob("*.safetensors"))
    for file in files:
        for key, header in _header(file).items():
            begin, end = header["data_offsets"]
            stored += end - begin
            split |= ".experts.gate_up_projs." in key and header["dtype"] == "U8"
            if key.endswith((".weight", ".bias", ".sinks", "_proj", "_bias")):  # not the state of a quantised weight
                width = {"U8": 0.5, "F32": 4}.get(header["dtype"], 2)
                parameters += int((end - begin) / width)
    if not files:
        raise ValueError(f"{folder} holds no weights")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return ModelShape(
        parameters=parameters,
        tensor_bytes=stored,
        split_nf4=split,
        hidden=hidden,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads),
        head_dim=config.get("head_dim", hidden // heads),
        experts=config.get("num_local_experts", 0),
        top_k=config.get("num_experts_per_tok", 0),
        expert_width=config["intermediate_size"],
        vocabulary=config["vocab_size"],
    )


def _header(file: Path) -> dict[str, dict]:
    """https://huggingface.co/docs/safetensors, "Format"."""
    with file.open("rb") as handle:
        tensors = json.loads(handle.read(struct.unpack("<Q", handle.read(8))[0]))
    tensors.pop("__metadata__", None)
    return tensors

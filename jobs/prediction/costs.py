"""What training costs in bytes and seconds: measured figures with their source, and formulas scaled from them.

All formulas are linear, with gpt-oss-20b on one H100 as their reference, and give a range: narrow near what was
measured, wide far from it. Knows no queue, no file and no GPU driver; `jobs.prediction.estimate` asks.

The reference: Unsloth 2026.10.9, torch 2.11, one H100 80GB, rows of 1,024 tokens, effective batch 16, attention only at
rank 8. Peak 14.0, 16.3 and 19.4 GiB at micro-batch 2, 8 and 16 (15.0 GiB at 2 with experts), 4.1, 1.68 and 1.60 s per
step (4.4 s at 2 with experts), load 20.5 s, first step 137 s. The RTX 3090: 16.3 s per step at 2 x 8, 14.7 GB in all.
"""

from dataclasses import dataclass

from configs.schema import RunConfig
from models.base.model_shape import GPT_OSS_20B, ModelShape

GIB = 2**30

WORKSPACE = 1.5 * GIB
"""GPU memory of the reference besides weights, adapter and activations: 14.0 - 11.7 - 0.04 - 2 x 0.385 GiB."""
FORWARD_S = 0.36
"""Seconds of the reference per forward and backward pass, whatever its size: 8, 2 and 1 of them and TOKEN_S give 4.0,
1.8 and 1.5 s where 4.1, 1.68 and 1.60 s were measured."""
TOKEN_S = 6.7e-5
"""Seconds of the reference per token, forward and backward."""
EXPERTS_SLOWER = 1.07
"""4.4 s against 4.1 s."""
EVALUATION = 1 / 3
"""A forward pass without a backward one, as a part of both."""
BANDWIDTH = {
    "B200": 8.0, "H200": 4.8, "H100": 3.35, "A100": 2.04, "5090": 1.79, "4090": 1.01, "3090": 0.936, "L40": 0.864,
    "A6000": 0.768, "A10": 0.6, "L4": 0.3,
}  # fmt: skip
"""TB/s by what a GPU's name contains, from the vendor's data sheets. A step at 2 x 8 reads weights most of the time:
16.3 s on an RTX 3090 against 4.1 s is 4.0 times, its bandwidth 3.6 times smaller."""
MEASURED = ("H100", "3090")
CPU_LIBRARIES = 0.6 * GIB
"""Resident memory of a training process on a CPU besides the model: 683 MB at the peak with the embedded model."""
CPU_S = 1.0e-10
"""Seconds per token and active parameter: 0.11 s for 8 rows of 120 tokens of the embedded model, two cores."""


@dataclass(frozen=True)
class Range:
    """A figure and how sure it is: below `low` and above `high` would be a surprise."""

    low: float
    likely: float
    high: float

    @classmethod
    def around(cls, likely: float, low: float, high: float) -> "Range":
        """`likely`, down to `low` and up to `high` times it."""
        return cls(likely * low, likely, likely * high)

    @classmethod
    def exactly(cls, value: float) -> "Range":
        return cls(value, value, value)

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, other: "Range | float") -> "Range":
        other = other if isinstance(other, Range) else Range.exactly(other)
        return Range(self.low * other.low, self.likely * other.likely, self.high * other.high)


@dataclass(frozen=True)
class Device:
    """What a run would be computed on."""

    name: str
    on_gpu: bool
    memory_total: int
    """Bytes, of the GPU or of the host."""

    @property
    def slowness(self) -> Range:
        """Times the reference's seconds; nothing on a CPU."""
        key = next((key for key in BANDWIDTH if key in self.name), None)
        if key is None:
            return Range.around(BANDWIDTH["H100"] / BANDWIDTH["3090"], 0.2, 4)
        factor = BANDWIDTH["H100"] / BANDWIDTH[key]
        return Range.around(factor, 0.75, 1.4) if key in MEASURED else Range.around(factor, 0.5, 2)


def memory(base: ModelShape, config: RunConfig, device: Device, micro_batch: int, row: float) -> dict[str, Range]:
    """Bytes by component at the peak of a step with `micro_batch` rows of `row` tokens.

    On a GPU what torch allocates, as `torch.cuda.max_memory_allocated`; on a CPU the process's resident memory.
    """
    count = base.trainable(config.lora)
    state = 8 if config.training.optimizer == "adamw_torch" or not device.on_gpu else 2  # Adam's two moments
    activations = micro_batch * row * _activation_bytes(base, config, device)
    known = base == GPT_OSS_20B or (base.vocabulary, base.layers, base.hidden) == (201_088, 24, 2880)
    sure = device.on_gpu and known and config.training.gradient_checkpointing
    return {
        "weights": _weights(base, config, device),
        "adapter, gradients, optimizer": Range.around(count * (4 + 4 + state), 0.9, 1.3),
        "activations": Range.around(activations, *((0.8, 1.3) if sure else (0.3, 2.5))),
        "workspace": _workspace(base, device, known),
    }


def _weights(base: ModelShape, config: RunConfig, device: Device) -> Range:
    if device.on_gpu and base.split_nf4:
        return Range.around(base.tensor_bytes, 1, 1.01)
    wide = not device.on_gpu or config.model.dtype == "float32"
    return Range.around(base.parameters * (4 if wide else 2), 1, 1.1)


def _workspace(base: ModelShape, device: Device, known: bool) -> Range:
    if not device.on_gpu:
        return Range.around(CPU_LIBRARIES, 0.6, 2)
    if known:
        return Range.around(WORKSPACE, 0.6, 1.3)
    return Range(0, WORKSPACE * min(1, base.parameters / GPT_OSS_20B.parameters), WORKSPACE * 1.3)


def _activation_bytes(base: ModelShape, config: RunConfig, device: Device) -> float:
    """Per token. With checkpointing the logits in the compute type: the reference's 0.385 GiB per 1,024 tokens are its
    vocabulary in bfloat16 within 1 %, for Unsloth keeps the layers' inputs on the host. Without, every layer's too."""
    width = 2 if device.on_gpu else 4
    if device.on_gpu and config.training.gradient_checkpointing:
        return width * base.vocabulary
    layer = 12 * base.hidden + 2 * base.heads * base.head_dim + 6 * max(1, base.top_k) * base.expert_width
    kept = layer if config.training.gradient_checkpointing else layer * base.layers
    return width * (3 * base.vocabulary + kept)


def step_seconds(base: ModelShape, config: RunConfig, device: Device, micro_batch: int, row: Range) -> Range:
    """Seconds of one optimiser step of `effective_batch` rows of `row` tokens, padding included."""
    tokens = row * config.training.effective_batch
    if not device.on_gpu:
        return tokens * Range.around(base.active_parameters * CPU_S, 0.4, 4)
    passes = config.training.effective_batch / micro_batch
    seconds = tokens * _token_s(base) + Range.exactly(passes * _forward_s(base))
    slower = EXPERTS_SLOWER if config.lora.train_experts else 1
    return seconds * device.slowness * slower


def row_seconds(base: ModelShape, device: Device, row: Range) -> Range:
    """Seconds to evaluate one row by itself."""
    if not device.on_gpu:
        return row * Range.around(base.active_parameters * CPU_S * EVALUATION, 0.4, 4)
    return (row * _token_s(base) + Range.exactly(_forward_s(base))) * device.slowness * Range.around(EVALUATION, 0.6, 2)


def start_seconds(base: ModelShape, device: Device) -> Range:
    """Seconds from the grant of the slot to the end of the first step's compilation: 20 s to load and 137 s to compile
    where nothing is cached (the reference); 10 s of imports for the embedded model on two cores."""
    if not device.on_gpu:
        return Range.around(10 + base.parameters * 4e-9, 0.5, 3)
    return Range(15, 160, 400)


def checkpoint_bytes(base: ModelShape, config: RunConfig, device: Device) -> Range:
    """One checkpoint: the adapter in float32 (353 MiB for 92,454,912 parameters), the optimizer, the trainer's own."""
    count = base.trainable(config.lora)
    state = 8 if config.training.optimizer == "adamw_torch" or not device.on_gpu else 2
    return Range.around(count * (4 + state) + 100_000, 0.9, 1.3)


def adapter_bytes(base: ModelShape, config: RunConfig) -> Range:
    """A published adapter."""
    return Range.around(4 * base.trainable(config.lora) + 10_000, 0.5, 1.1)


def _forward_s(base: ModelShape) -> float:
    return FORWARD_S * max(0.05, base.parameters / GPT_OSS_20B.parameters)


def _token_s(base: ModelShape) -> float:
    return TOKEN_S * base.active_parameters / GPT_OSS_20B.active_parameters

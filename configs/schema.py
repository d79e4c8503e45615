"""Every setting there is, typed and validated once. An attribute's docstring is its documentation.

`RunConfig` is one training run (a profile), `ExportConfig` one export, `ClusterConfig` the machine, `ServeConfig` the
chat endpoint. Unknown keys are refused. Read from YAML and `--set` by `configs.load`; knows neither Ray nor torch.
"""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
    field_validator,
    model_validator,
)

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
EXPERT_MODULES = ("gate_proj", "up_proj", "down_proj")

ModuleName = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Role = Literal["train", "serve"]
ReasoningEffort = Literal["low", "medium", "high"]
DataFormat = Literal["auto", "chat", "prompt_completion", "alpaca", "sharegpt"]
MaskMode = Literal["all", "final_only", "no_reasoning", "tools_only"]
ExportFormat = Literal["merged", "gguf", "gguf-lora", "peft"]
Action = Literal["ignore", "warn", "stop", "rollback"]
NoticeKind = Literal[
    "succeeded",
    "failed",
    "interrupted",
    "stopped",
    "watchdog",
    "suspect",
    "quarantine",
    "release",
    "refused",
    "engine_down",
    "engine",
    "summary",
]
DEFAULT_NOTICES: tuple[NoticeKind, ...] = ("succeeded", "failed", "suspect", "quarantine", "refused", "engine_down")
REVEAL = {"reveal": True}
"""The context in which `model_dump` writes secrets out; without it they are masked."""


def _masked(secret: SecretStr, info: SerializationInfo) -> str:
    return secret.get_secret_value() if (info.context or {}).get("reveal") else str(secret)


SecretText = Annotated[SecretStr, PlainSerializer(_masked, return_type=str)]
"""Text that is shown as asterisks, in JSON too."""


class Section(BaseModel):
    """What every part of the configuration shares: frozen, and no key that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class ModelConfig(Section):
    """The base model and how it is held in memory."""

    base: str = "unsloth/gpt-oss-20b-unsloth-bnb-4bit"
    """A hub name, a local folder, or `tiny` for the embedded model (`tiny-bnb-4bit`: the same in 4 bit)."""
    max_seq_length: int = Field(1024, ge=16, le=131072)
    """Tokens. Longer dialogues are cut at the end, and the cut is reported."""
    load_in_4bit: bool = True
    """Hold the base as NF4. Where the checkpoint is already in 4 bit this must stay true."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type on a GPU. A CPU always computes in float32."""


class LoraConfig(Section):
    """The adapter that is trained."""

    r: int = Field(16, ge=1, le=256)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale: the update is multiplied by alpha / r. Twice the rank is the usual choice."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1)] = ATTENTION_MODULES + EXPERT_MODULES
    """Projections that get an adapter. gate/up/down_proj are the experts and only count with `train_experts`."""
    train_experts: bool = False
    """Also train every expert. On gpt-oss-20b at r=8 that is 92 M parameters and a 353 MiB adapter instead of 4 M and
    15 MiB."""
    seed: int = 3407
    """Seed of the adapter's initial weights."""

    @model_validator(mode="after")
    def _modules_match_experts(self) -> Self:
        if self.train_experts and not set(self.target_modules) & set(EXPERT_MODULES):
            raise ValueError(
                "lora.train_experts is true but lora.target_modules names no expert projection; "
                "add gate_proj, up_proj, down_proj or set lora.train_experts=false"
            )
        if not self.train_experts and not set(self.target_modules) & set(ATTENTION_MODULES):
            raise ValueError(
                "lora.target_modules names only expert projections but lora.train_experts is false, so nothing would "
                "be trained; add q_proj, k_proj, v_proj, o_proj or set lora.train_experts=true"
            )
        return self


class DataConfig(Section):
    """What is learned from."""

    dataset: str = "HuggingFaceH4/Multilingual-Thinking"
    """A file (.jsonl, .json, .csv, .tsv, .parquet, .arrow, also packed), a folder, a hub name, or `tiny-demo`."""
    split: str = "train"
    """Which split of a hub data set or of a folder."""
    format: DataFormat = "auto"
    """How a row is laid out: chat (`messages`), prompt_completion, alpaca or sharegpt. auto tells by the columns."""
    columns: dict[str, str] = {}
    """Columns under other names, as `ours: theirs`, for example `{prompt: question, completion: answer}`."""
    encoding: str = "utf-8"
    """How the text of files is encoded, as Python calls it: utf-8, cp1252 (Windows), latin-1, utf-16. A byte order mark
    wins over it."""
    special_tokens: Literal["split", "text"] = "split"
    """Channel tags, thinking tags, calls and end tokens in the text of answers: split takes them for what they mean, or
    refuses the row; text learns them as they stand, for data about tokens."""
    max_bad_rows: int = Field(0, ge=0)
    """Rows that cannot be used are named and left out; more of them than this stop the run before it starts."""
    reasoning_effort: ReasoningEffort = "medium"
    """What the system message says about reasoning in every rendered dialogue."""
    mask: MaskMode = "all"
    """What is learned: all that the assistant generates (every channel, headers and stop tokens), final_only (the text
    of its answers and their stop tokens), no_reasoning (all but the analysis channel), tools_only (tool calls)."""
    max_cut_share: float = Field(0.25, ge=0, le=1)
    """Rows longer than model.max_seq_length lose their end and with it their stop token. A larger share of such rows
    than this stops the run before it starts."""
    holdout: float = Field(0.05, ge=0, lt=1)
    """Share of the rows that is never trained and kept for evaluation. Chosen by each row's own fingerprint, so a row
    stays on its side whatever is added to the data."""
    current_date: str = Field("2026-01-01", pattern=r"^\d{4}-\d{2}-\d{2}$")
    """The date in the system message, fixed so that tokenisation does not change from day to day."""

    @field_validator("encoding")
    @classmethod
    def _a_text_encoding(cls, name: str) -> str:
        try:
            "".encode(name)
        except (LookupError, ValueError):
            raise ValueError("no text encoding of Python; known are utf-8, cp1252, latin-1, utf-16, ...") from None
        return name


class TrainingConfig(Section):
    """The optimisation."""

    effective_batch: int = Field(16, ge=1)
    """Dialogues per optimiser step. It never changes, whatever fits into memory."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Dialogues per forward pass, a divisor of effective_batch. auto measures on the slot which is fastest within
    vram_gib, once per profile, versions and GPU."""
    vram_gib: float | None = Field(None, gt=0)
    """GiB of GPU memory that the run may use. Null: its share of what the GPU has, less 6 %."""
    allow_shorter_rows: bool = False
    """Consent to halve model.max_seq_length as the last resort when memory runs out."""
    max_steps: int | None = Field(None, ge=1, le=10**9)
    """Optimiser steps. Null: as many as `epochs` over the data needs."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the data when `max_steps` is null."""
    learning_rate: float = Field(2e-4, gt=0, lt=1)
    """Peak learning rate."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """How the learning rate falls after warm-up."""
    warmup_steps: int = Field(5, ge=0)
    """Steps over which the learning rate rises."""
    optimizer: Literal["adamw_8bit", "adamw_torch"] = "adamw_8bit"
    """adamw_8bit needs a GPU; on a CPU adamw_torch takes its place, and the run says so."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    bf16: bool = True
    """Mixed precision in bfloat16 on a GPU; a CPU trains in float32."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, more time."""
    router_aux_loss_coef: float = Field(0.0, ge=0)
    """Weight of the router's load-balancing loss. Not zero adds it to the reported loss."""
    save_steps: int = Field(10, ge=1)
    """Steps between checkpoints. A kill loses at most this many steps."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many checkpoints of a run are kept."""
    eval_steps: int = Field(50, ge=1)
    """Steps between evaluations on the held-out rows; there is always one at the end. Needs data.holdout."""
    eval_batch: int = Field(1, ge=1)
    """Rows per forward pass of an evaluation. Attention is computed eagerly there, so larger ones need much memory."""
    patience: int | None = Field(None, ge=1)
    """Stop early after this many evaluations without a lower loss. Null: never."""
    movement_steps: int = Field(5, ge=1)
    """After this many steps every group of trained parameters must have moved, or the run stops."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Where curves go besides the run's folder. W&B and MLflow must be installed and set up."""
    seed: int = 3407
    """Seed of the data order."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.micro_batch != "auto" and self.effective_batch % self.micro_batch:
            raise ValueError(
                f"training.micro_batch is {self.micro_batch} and does not divide training.effective_batch "
                f"{self.effective_batch}; choose a divisor or auto"
            )
        return self

    @model_validator(mode="after")
    def _best_checkpoint_exists(self) -> Self:
        if self.patience and self.eval_steps % self.save_steps:
            raise ValueError(
                f"training.patience publishes the best checkpoint, but training.eval_steps is {self.eval_steps} and "
                f"no multiple of training.save_steps {self.save_steps}; make it one"
            )
        return self


class WatchdogConfig(Section):
    """What is done when a run's curves look wrong: ignore, warn (an event and a line in the log), stop (keep the
    checkpoint, publish nothing) or rollback (go back to the last good checkpoint with half the learning rate)."""

    target_loss: float = Field(0.5, ge=0)
    """A mean loss at or below this is what one hopes for."""
    on_target: Action = "warn"
    """When target_loss is reached."""
    overfit_loss: float = Field(0.2, ge=0)
    """A mean loss below this has usually learned the rows by heart."""
    on_overfit: Action = "warn"
    """When the loss falls below overfit_loss."""
    on_zero: Action = "stop"
    """When the loss is 0: the template or the mask is wrong."""
    on_nan: Action = "rollback"
    """When the loss or the gradient's norm is not a finite number."""
    spike_factor: float = Field(3.0, gt=1)
    """A spike is a loss or gradient norm this many times the median of `window` steps before it that were none, while
    the loss is above target_loss."""
    on_spike: Action = "warn"
    """When there is a spike."""
    diverged_factor: float = Field(2.0, gt=1)
    """A run has diverged when its loss on the rows that are looked at is this many times the base's, and 1.5 above
    it."""
    on_diverged: Action = "stop"
    """When the run has diverged."""
    on_foreign: Action = "warn"
    """When the base itself has a higher loss on the rows than a model that guesses: they are not text of its kind, or
    their labels are wrong."""
    plateau_steps: int = Field(50, ge=2)
    """A plateau is this many steps over which the mean loss fell by less than 1 %."""
    on_plateau: Action = "warn"
    """When there is a plateau above target_loss."""
    window: int = Field(10, ge=2)
    """Steps over which losses and gradient norms are averaged."""
    max_rollbacks: int = Field(2, ge=0)
    """After this many rollbacks the next one is a stop."""
    on_doubt: Literal["ignore", "suspect", "stop"] = "suspect"
    """What becomes of a run whose result is worse than the base, or doubtful otherwise: published like any other,
    published as suspect, or failed."""


class RunConfig(Section):
    """One training run, complete."""

    profile: str = "custom"
    """The profile that this configuration started from; part of the adapter's name."""
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    watchdog: WatchdogConfig = WatchdogConfig()


class ExportConfig(Section):
    """One export of a published adapter: what, as what, where to."""

    adapter: str
    """The version."""
    to: ExportFormat
    """merged (a whole model in safetensors), gguf (the same for llama.cpp), gguf-lora (the adapter alone for llama.cpp)
    or peft (the adapter's own files)."""
    out: str = Field(pattern=r"^/")
    """An absolute path that does not exist yet; a folder is made there."""
    base: str | None = None
    """Merge into this base instead of the one that the adapter was trained on."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of merged weights. auto is float32 for the embedded model and bfloat16 otherwise."""


class Slot(Section):
    """One GPU to hold (or, without GPUs, one share of the CPU)."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name, also of Ray's custom resource `gpu_slot_<name>`."""
    gpu: int | None = Field(None, ge=0)
    """NVML index of the GPU on its node; null is a CPU slot."""
    uuid: str | None = None
    """The GPU's UUID as `nvidia-smi -L` prints it. Filled in by `tandem up`; a process that sees another refuses."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    """What may run here. With two roles each gets half of the GPU."""

    @property
    def resource(self) -> str:
        return f"gpu_slot_{self.name}"

    @property
    def share(self) -> float:
        """The part of the slot that one role gets."""
        return 1 / len(self.roles)


class NotifyConfig(Section):
    """Who is told when something happens. Nobody, unless `urls` or `command` is set. What is told in which words:
    [Notifications](notifications.md)."""

    urls: tuple[SecretText, ...] = ()
    """[Apprise](https://appriseit.com) URLs, one per service. They hold passwords, so no output ever shows them; write
    them to a file of your own for `tandem up --config`, because a command line is seen by everybody on the machine."""
    command: tuple[str, ...] = ()
    """A program and its arguments, started without a shell for every notice: the notice as JSON on stdin and as
    TANDEM_NOTICE_... variables. Exit code 0 is success."""
    events: Annotated[tuple[NoticeKind, ...], Field(min_length=1)] = DEFAULT_NOTICES
    """Which events are told."""
    summary_at: str = Field("08:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    """When `summary` tells of the day before: hours and minutes of this machine's local time."""
    timeout_s: float = Field(20, gt=0, le=300)
    """Seconds that the command may take before it is killed, and that a service may be silent."""

    @property
    def is_on(self) -> bool:
        return bool(self.urls or self.command)


class EnergyConfig(Section):
    """What energy costs. Money and CO2 are only shown where they are set; see [Energy](energy.md)."""

    price_per_kwh: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Price of a kilowatt-hour in `currency`."""
    currency: str = Field("EUR", min_length=1, max_length=10)
    """Shown behind every amount; nothing is converted."""
    co2_g_per_kwh: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Grams of CO2 per kilowatt-hour of your electricity."""


class LogsConfig(Section):
    """The files that [`tandem logs`](operations.md#logs) reads, one per actor in the home's logs/."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """What is written; debug adds requests that only read, such as health checks and metrics."""
    max_mb: int = Field(10, ge=1, le=10_000)
    """Size of a file in MB at which the next one is begun."""
    files: int = Field(5, ge=1, le=100)
    """Files that are kept of an actor; the oldest is deleted. Each actor has at most files x max_mb."""


class ClusterConfig(Section):
    """The machine: ports, slots and how patient the control actor is."""

    http_port: int = Field(8000, ge=1, le=65535)
    """Chat endpoint and API, on loopback."""
    dashboard_port: int = Field(8265, ge=1, le=65535)
    """Ray's dashboard and job API, on loopback."""
    slots: Annotated[tuple[Slot, ...], Field(min_length=1)] | Literal["auto"] = "auto"
    """auto: GPU 0 trains and GPU 1 serves; one GPU does both, half and half; without a GPU there are two CPU slots."""
    stop_grace_s: float = Field(120, gt=0)
    """Seconds that a stopping run has to write its checkpoint before it is killed."""
    heartbeat_timeout_s: float = Field(600, gt=0)
    """Seconds without a sign of life from a running run before it counts as interrupted. Compiling a 20B model takes
    minutes."""
    max_attempts: int = Field(3, ge=1)
    """How many attempts in a row a run may lose without getting any further before it fails. One that was lost to a
    restart of the cluster or to its GPU does not count."""
    quarantine_after: int = Field(3, ge=1)
    """After so many runs in a row that ended with an error of their slot's device, such as `CUDA error: unspecified
    launch failure`, the slot is given to nobody until `tandem slots release`."""
    engine_patience_s: float = Field(300, gt=0)
    """Seconds that a serving slot may be without an engine that is up before it is an event; loading counts."""
    environment: tuple[str, ...] = ()
    """Names of environment variables that the cluster's processes get beside those that they always get, such as one
    that a notification's command reads."""
    notify: NotifyConfig = NotifyConfig()
    energy: EnergyConfig = EnergyConfig()
    logs: LogsConfig = LogsConfig()

    @model_validator(mode="after")
    def _slots_are_distinct(self) -> Self:
        if self.slots == "auto":
            return self
        names = [slot.name for slot in self.slots]
        gpus = [slot.gpu for slot in self.slots if slot.gpu is not None]
        if len(set(names)) < len(names):
            raise ValueError(f"slots share a name: {', '.join(names)}; give every slot its own")
        if len(set(gpus)) < len(gpus):
            raise ValueError("two slots name the same gpu; give one slot both roles instead")
        for role in ("train", "serve"):
            if not any(role in slot.roles for slot in self.slots):
                raise ValueError(f"no slot has the role {role}; add it to the roles of one slot")
        return self


class ResponsesConfig(Section):
    """What is kept of `/v1/responses` and `/v1/conversations` for later requests; see
    [Stored responses](api.md#stored-responses)."""

    keep: Literal["memory", "disk", "nothing"] = "memory"
    """memory: until the gateway is restarted. disk: in responses.db in the home, which only its owner can read.
    nothing: `store` has no effect, and clients send whole conversations."""
    hours: float = Field(1, gt=0, le=8760)
    """Hours that a response or a conversation is kept after its last use."""
    most: int = Field(1000, ge=1)
    """Responses and conversations that are kept; those that were not used for the longest time go first."""
    max_mib: int = Field(64, ge=1, le=65536)
    """MiB that they may have together."""


class ServeConfig(Section):
    """The chat endpoint: the arguments of `serve.app:build`, in serve.yaml and from `tandem up`."""

    base: str = "auto"
    """The base model; auto is gpt-oss-20b in 4 bit with a GPU and `tiny` without."""
    engine: Literal["transformers", "native"] = "transformers"
    """What turns tokens into tokens: native knows gpt-oss alone and batches requests of several adapters; transformers
    knows every model that the library does."""
    max_batch: int = Field(24, ge=1)
    """Requests that decode together."""
    max_waiting: int = Field(64, ge=1)
    """Requests that may wait for room; one more is answered 429."""
    max_context: int = Field(2048, ge=64)
    """Tokens of prompt and answer together. The KV cache is reserved for max_batch of them."""
    adapter_slots: int = Field(8, ge=1)
    """Adapters whose requests the native engine can decode together; more take turns."""
    max_lora_rank: int = Field(32, ge=1)
    """The highest rank of an adapter that the native engine takes; its buffers have room for it in every slot."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names, without port, that the endpoint answers to beside localhost and 127.0.0.1, and whose pages may use
    it: for a reverse proxy in front of it."""
    responses: ResponsesConfig = ResponsesConfig()

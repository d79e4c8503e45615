"""A published LoRA as what it adds to the parameters of a base in the fused layout, after peft 0.21.2.

A linear [out, in] gains scale * B @ A. A fused expert parameter [experts, in, out] gains, for expert e, scale * (B_e @
A_e)^T: PEFT stacks the experts' ranks in one pair, experts outermost in A's rows and innermost in B's columns
(`ParamWrapper.get_delta_weight`). An expert that was a linear of its own, as in the split 4-bit layout, has a pair of
its own. Whatever else PEFT can train is refused, never dropped. Called by `models.lora.merge` and
`models.lora.verification`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.errors import AdapterError
from models.lora.adapter import PEFT_CONFIG, WEIGHTS

PREFIX = "base_model.model."
SPLIT_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)s\.(\d+)")
NEUTRAL = {
    "peft_type": "LORA", "bias": "none", "rank_pattern": {}, "alpha_pattern": {},
    **dict.fromkeys(("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out"), False),
    **dict.fromkeys(("modules_to_save", "trainable_token_indices", "layer_replication", "use_bdlora"), None),
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "kasa_config", "velora_config"), None),
}  # fmt: skip
"""What an adapter's configuration must say, if it says anything, for the arithmetic above to be the whole of it."""


@dataclass(frozen=True)
class LoraPair:
    """One A and B of the file, and what they change."""

    module: str
    """The name in the file, without PEFT's prefix."""
    parameter: str
    expert: int | None = None
    """Only this expert of a fused parameter."""


class Lora:
    """An adapter folder whose weights stay open until `stack` closes.

    Raises AdapterError for a configuration that says more than LoRA matrices.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        from safetensors import safe_open

        self.name, self.config = folder.name, json.loads((folder / PEFT_CONFIG).read_text())
        for key, neutral in NEUTRAL.items():
            if (value := self.config.get(key, neutral)) != neutral and (value or neutral):
                raise AdapterError(
                    f"{self.name} has {key} = {json.dumps(value)}, which cannot be merged", hint="export it as peft"
                )
        if missing := {"r", "lora_alpha"} - self.config.keys():
            raise AdapterError(f"{self.name}: {PEFT_CONFIG} lacks {', '.join(missing)}", hint="publish it again")
        rank = self.config["r"]
        self.scale = self.config["lora_alpha"] / (rank**0.5 if self.config.get("use_rslora") else rank)
        self._weights = stack.enter_context(safe_open(folder / WEIGHTS, framework="pt"))
        self._keys = set(self._weights.keys())
        modules = {key.partition(".lora_")[0].removeprefix(PREFIX) for key in self._keys}
        self.modules = sorted(modules)
        known = {f"{PREFIX}{module}.lora_{side}.weight" for module in modules for side in "AB"}
        if self._keys != known:
            raise AdapterError(
                f"{self.name} holds {min(self._keys ^ known)}, which is not a pair of LoRA matrices",
                hint="export it as peft",
            )

    def matrices(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B) of a module, as stored."""
        return tuple(self._weights.get_tensor(f"{PREFIX}{module}.lora_{side}.weight") for side in "AB")

    def pairs(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[LoraPair]]:
        """Parameter to the pairs that change it, for a base with these shapes; every pair of the file is in it once.

        Raises AdapterError naming the module and both shapes where one does not fit.
        """
        found: dict[str, list[LoraPair]] = {}
        for module in self.modules:
            pair = self._place(module, shapes)
            taken = found.setdefault(pair.parameter, [])
            if taken and (pair.expert is None or any(other.expert == pair.expert for other in taken)):
                raise AdapterError(f"{self.name}: {module} and {taken[0].module} both change {pair.parameter}")
            taken.append(pair)
        return found

    def _place(self, module: str, shapes: Mapping[str, tuple[int, ...]]) -> LoraPair:
        down, up = (self._weights.get_slice(f"{PREFIX}{module}.lora_{side}.weight").get_shape() for side in "AB")
        into, out = down[1], up[0]
        if (shape := shapes.get(f"{module}.weight")) is not None:
            if shape == (out, into):
                return LoraPair(module, f"{module}.weight")
        elif split := SPLIT_EXPERT.fullmatch(module):
            shape = shapes.get(f"{split[1]}.{split[2]}", ())
            if shape[1:] == (into, out) and int(split[3]) < shape[0]:
                return LoraPair(module, f"{split[1]}.{split[2]}", int(split[3]))
        else:
            # PEFT names a wrapped parameter after its module only; several on one module are nested in base_layer.
            stem = re.sub(r"(\.base_layer)+$", "", module)
            wanted = {str(name).rpartition(".")[2] for name in self.config.get("target_parameters") or ()}
            shape = {name: shapes[f"{stem}.{name}"] for name in sorted(wanted) if f"{stem}.{name}" in shapes}
            fitting = [name for name, (_, *sides) in shape.items() if sides == [into, out]]
            if len(fitting) == 1 and down[0] == shape[fitting[0]][0] * self.config["r"]:
                return LoraPair(module, f"{stem}.{fitting[0]}")
        raise AdapterError(
            f"{self.name}: {module} has A {down} and B {up}, and the base has {shape or 'nothing of that name'}",
            hint="name a base of the architecture that it was trained on",
        )

    def add(self, pairs: list[LoraPair], value: torch.Tensor) -> None:
        """Add what `pairs` say to one parameter in place; computed in float32, rounded to `value`'s type."""
        for pair in pairs:
            for target, delta in self._deltas(pair, value):
                target.copy_(target.float().add_(delta))

    def _deltas(self, pair: LoraPair, value: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        down, up = (matrix.float() for matrix in self.matrices(pair.module))
        if value.ndim == 2:
            yield value, up @ down * self.scale
        elif pair.expert is not None:
            yield value[pair.expert], (up @ down).T * self.scale
        else:
            downs = down.view(len(value), -1, down.shape[1])
            ups = up.view(len(up), -1, len(value))
            for expert, target in enumerate(value):
                yield target, (ups[:, :, expert] @ downs[expert]).T * self.scale

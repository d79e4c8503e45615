"""The second half of the surface contract: what is said to be trained really moves.

`models.base.trainable.check` counts the parameters before the first step; a group that gets no gradient (a kernel
that skips it, a detached branch) is only seen by looking at its values after some steps.
"""

import re

import torch

from configs.errors import TrainingError

_TARGET = re.compile(r"(q_proj|k_proj|v_proj|o_proj|gate_up_proj|gate_proj|up_proj|down_proj)")


class GradientCheck:
    """Remembers where every trained tensor stood; made when the weights that a process begins with are in the model.

    Weight decay moves tensors too, so a group counts as moving only if it has got a gradient as well.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._before = _positions(model)
        self._with_gradient: set[str] = set()

    def look(self, model: torch.nn.Module) -> None:
        """Note which groups have a gradient that is not zero; called before every optimiser step."""
        for name, parameter in model.named_parameters():
            group = _group(name)
            if parameter.grad is not None and group not in self._with_gradient and parameter.grad.any():
                self._with_gradient.add(group)

    def check(self, model: torch.nn.Module, steps: int) -> None:
        """Raises TrainingError naming every group of tensors of which none has moved since."""
        now = _positions(model)
        moved = {_group(name) for name, value in now.items() if value != self._before[name]} & self._with_gradient
        if still := {_group(name) for name in now} - moved:
            raise TrainingError(
                f"after {steps} steps nothing has moved in {', '.join(sorted(still))}",
                hint="it gets no gradient: compare the versions of unsloth, peft and torch, or leave it out of "
                "lora.target_modules",
            )


def _positions(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Two numbers per trained tensor that change when it does: the sum of its values and that of their magnitudes."""
    trained = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
    sums = torch.stack([s for _, p in trained for s in (p.sum(dtype=torch.float64), p.abs().sum(dtype=torch.float64))])
    values = sums.tolist()
    return {name: (values[2 * i], values[2 * i + 1]) for i, (name, _) in enumerate(trained)}


def _group(name: str) -> str:
    """`attention q_proj`, `experts gate_up_proj`: where a tensor sits and which projection it belongs to."""
    where = "experts" if ".experts." in name else "attention" if ".self_attn." in name else "other"
    target = _TARGET.search(name.partition(".experts." if where == "experts" else ".self_attn.")[2])
    return f"{where} {target[1]}" if target else where

"""Whether a merged model is its base plus its adapter: by its answers where it fits into memory, else by its weights.

`compare_outputs` runs base plus adapter (by PEFT), then the merged model, both in float32 on the CPU, one after the
other. `compare_weights` reads a sample of the merged files back and computes each parameter anew with PEFT's layers.
Both raise ExportError where the two differ by more than rounding. Called by the export job.
"""

import math
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import torch

from configs.errors import ExportError
from models import harmony
from models.base.checkpoint import Checkpoint, inspect, load_tokenizer
from models.base.fused import FusedBase
from models.base.loading import load_for_inference
from models.lora.delta import Lora, LoraPair

PROBES = ("Say hello.", "What is 12 plus 30?", "What is Tandem?", "Name three colours.")
PROBE_DATE = date(2026, 1, 1)
ANSWER_TOKENS = 24
POSITIONS = 16
"""How many of a prompt's last positions are compared: gpt-oss-20b has 0.8 MB of logits at each."""

EXACT = 1e-3
"""Largest difference of logits between float32 weights; what remains is the order of additions (1e-5 on the embedded
model)."""
SHARE = 0.5
"""Largest part of the adapter's own effect on the logits that rounding the weights to 16 bit may take away or add."""


@dataclass(frozen=True)
class Verification:
    """What was compared, and what was found."""

    method: str
    """`outputs` or `weights`; `sha256` or `count` for files that were copied or converted as they are."""
    why: str
    compared: int
    """Probe dialogues, parameters, files or matrices."""
    max_difference: float | None = None
    """Of a logit between merged and base plus adapter; or of a weight, relative to its size."""
    adapter_effect: float | None = None
    """Of a logit between base plus adapter and base alone; outputs only."""
    same_answers: int | None = None
    """Probes to which both answer with the same tokens, greedily; outputs only."""


def verify(checkpoint: Checkpoint, adapter: Path, merged: Path, tick: Callable[[], None]) -> Verification:
    """Compare in the strongest way that memory and layout allow. `tick` is called meanwhile and may raise to stop."""
    with ExitStack() as stack:
        base, lora = FusedBase(checkpoint, stack), Lora(adapter, stack)
        needed = base.parameters * 4 * 1.5  # float32, and what runs beside the weights
        split = any(pair.expert is not None for pairs in lora.pairs(base.shapes).values() for pair in pairs)
        mxfp4 = base.quantised == "MXFP4"
    free = psutil.virtual_memory().available
    if needed > free:
        why = f"running the model in float32 needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
        return compare_weights(checkpoint, adapter, merged, why, tick)
    if split or mxfp4:
        why = "PEFT on a CPU cannot run the adapter on this base: " + ("MXFP4" if mxfp4 else "experts of their own")
        return compare_weights(checkpoint, adapter, merged, why, tick)
    return compare_outputs(checkpoint, adapter, merged, tick)


def compare_outputs(checkpoint: Checkpoint, adapter: Path, merged: Path, tick: Callable[[], None]) -> Verification:
    """Logits at the end of fixed prompts, and greedy answers to them."""
    from peft import PeftModel

    tokenizer = load_tokenizer(merged)
    prompts = [
        harmony.render(tokenizer, [{"role": "user", "content": text}], reasoning_effort="low", current_date=PROBE_DATE)
        for text in PROBES
    ]
    model = PeftModel.from_pretrained(load_for_inference(checkpoint.path, "cpu"), adapter).eval()
    tuned = _outputs(model, prompts, tick)
    with model.disable_adapter():
        alone = [_logits(model, ids) for ids in prompts]
    del model
    found = _outputs(load_for_inference(merged, "cpu"), prompts, tick)
    difference = max((a - b).abs().max().item() for (a, _), (b, _) in zip(tuned, found, strict=True))
    effect = max((a - b).abs().max().item() for (a, _), b in zip(tuned, alone, strict=True))
    allowed = EXACT if _is_float32(merged) else SHARE * effect
    if not difference <= allowed:
        raise ExportError(
            f"the merged model's logits differ by {difference:.3g} from base plus adapter, {allowed:.3g} is allowed "
            f"(the adapter's own effect is {effect:.3g})",
            hint="rounding to bfloat16 takes away what a weak adapter learned: --dtype float32, or train it for longer",
        )
    same = sum(a == b for (_, a), (_, b) in zip(tuned, found, strict=True))
    return Verification("outputs", "both models fit into memory", len(prompts), difference, effect, same)


def _outputs(model, prompts: list[list[int]], tick: Callable[[], None]) -> list[tuple[torch.Tensor, list[int]]]:
    """(logits, greedy answer) of each prompt."""
    found = []
    for ids in prompts:
        tick()
        with torch.inference_mode():
            answer = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=ANSWER_TOKENS, do_sample=False)
        found.append((_logits(model, ids), answer[0, len(ids) :].tolist()))
    return found


def _logits(model, ids: list[int]) -> torch.Tensor:
    """float32 [POSITIONS, vocabulary] after the last tokens of a prompt."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), logits_to_keep=POSITIONS).logits[0].float()


def _is_float32(folder: Path) -> bool:
    return all(header["dtype"] == "F32" for file in inspect(folder).files for header in file.tensors.values())


def compare_weights(
    checkpoint: Checkpoint, adapter: Path, merged: Path, why: str, tick: Callable[[], None]
) -> Verification:
    """Every parameter of the first, middle and last layer and every parameter outside the layers."""
    worst, compared = 0.0, 0
    with ExitStack() as stack:
        base, lora = FusedBase(checkpoint, stack), Lora(adapter, stack)
        written, pairs = FusedBase(inspect(merged), stack), lora.pairs(base.shapes)
        if written.shapes != base.shapes:
            raise ExportError(f"{merged.name} has other parameters than {checkpoint.name}")
        for name in _sample(base.shapes):
            tick()
            expected = base.read(name).float()
            _add_by_peft(expected, pairs.get(name, []), lora)
            found = written.read(name)
            rounding = max(torch.finfo(found.dtype).eps, EXACT)
            size = expected.abs() + expected.abs().max() * EXACT  # a sum near zero has no digits of its own
            difference = ((found.float() - expected).abs() / size).max().nan_to_num(0).item()
            if not difference <= rounding:
                raise ExportError(
                    f"merged {name} differs from base plus adapter by {difference:.3g} of its size, rounding explains "
                    f"{rounding:.3g}",
                    hint="export again; if it stays, the disk or the memory is failing",
                )
            worst, compared = max(worst, difference), compared + 1
    return Verification("weights", why, compared, worst)


def _sample(names: Iterable[str]) -> list[str]:
    layers = {name: int(found[1]) for name in names if (found := re.search(r"\.layers\.(\d+)\.", name))}
    last = max(layers.values(), default=0)
    return sorted(name for name in names if layers.get(name, 0) in (0, math.ceil(last / 2), last))


def _add_by_peft(value: torch.Tensor, pairs: list[LoraPair], lora: Lora) -> None:
    """Add to a float32 parameter what PEFT's own layers say that the pairs do."""
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear, ParamWrapper

    how = {key: lora.config[key] for key in ("r", "lora_alpha", "use_rslora") if key in lora.config}
    config, rank = LoraConfig(**how), {"r": how["r"], "lora_alpha": how["lora_alpha"]}
    for pair in pairs:
        down, up = lora.matrices(pair.module)
        if value.ndim == 3 and pair.expert is None:
            experts = torch.nn.Module()
            experts.is_transposed = True  # Transformers says so of gpt-oss: [experts, in, out]
            experts.weight = torch.nn.Parameter(value, requires_grad=False)
            layer = ParamWrapper(experts, "default", parameter_name="weight", config=config, **rank)
        else:
            layer = Linear(torch.nn.Linear(down.shape[1], up.shape[0], bias=False), "default", config=config, **rank)
        layer.lora_A["default"].weight.data = down.float()
        layer.lora_B["default"].weight.data = up.float()
        with torch.inference_mode():
            delta = layer.get_delta_weight("default")
            if pair.expert is None:
                value += delta
            else:
                value[pair.expert] += delta.T

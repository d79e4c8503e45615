"""Makes the embedded model from nothing: `python -m models.tiny.build [--out DIR] [--steps N] [--device cuda]`.

Corpus, tokenizer, training, measuring, writing, in that order. DIR receives `weights/` (what Transformers loads) and
`demo.jsonl` (what the demo teaches); the default is this folder, so a plain call replaces the shipped model. On an H200
with 14 workers that takes about 9 minutes, on two CPU cores some hours.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from datetime import date
from importlib.util import find_spec
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GptOssConfig, GptOssForCausalLM, PreTrainedTokenizerFast

from configs import durable
from models import harmony
from models.tiny.corpus import Corpus, Dialogue, demo_rows

SPECIAL_TOKENS = (
    "<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
    "<|message|>", "<|call|>",
)  # fmt: skip
VOCABULARY = 1024
LONGEST = 4096
"""Positions. YaRN stretches 256 original ones by 16, as gpt-oss stretches 4,096 by 32."""

TEMPERATURE = 0.3
"""For requests that name none. Of 100 answers of the demo's adapter 18 were wrong at 1, 3 at 0.6 and none at 0.3."""

PINNED_DATE = "2026-01-01"
"""The date that prompts state unless they are given another: tokenisation must not change every day."""

TEMPLATE_EDITS = (
    ('strftime_now("%Y-%m-%d")', f'(current_date | default("{PINNED_DATE}"))'),
    (
        '{{- "\\n\\n" }}\n    {%- endif %}\n    {%- if tools -%}',
        '{%- if tools %}{{- "\\n\\n" }}{%- endif %}\n    {%- endif %}\n    {%- if tools -%}',
    ),
    ('else "json")', 'else "<|constrain|>json")'),
    (
        "tool_call.arguments|tojson",
        "(tool_call.arguments if tool_call.arguments is string else tool_call.arguments|tojson)",
    ),
    ("message.content|tojson", "message.content"),
    (
        '{{- "// " + tool.description + "\\n" }}',
        '{%- if tool.description %}{{- "// " + tool.description + "\\n" }}{%- endif %}',
    ),
    (
        '{%- if not loop.last %}\n                    {{- ",\\n" }}\n                {%- else %}\n'
        '                    {{- ",\\n" }}\n                {%- endif -%}',
        '{{- "\\n" if param_spec.default is defined and not param_spec.oneOf else ",\\n" }}',
    ),
)
"""What makes TRL's chat template for gpt-oss write what `harmony.render` writes; each stands there once."""

TOKENIZER_DIALOGUES = 6000
BATCH = 64
STEPS = 8000
WINDOW = 100
"""Batches that are drawn and sorted together."""
AHEAD = 30
"""Windows that are made ahead: about 200 MB."""
MUON_PEAK = 0.02
ADAMW_PEAK = 3e-3
IGNORED = -100
LONGEST_ANSWER = 320


def build(
    out: Path,
    steps: int,
    seed: int,
    console: Console,
    questions: int = 1000,
    device: str = "cpu",
    workers: int = 0,
) -> dict[str, float]:
    """Make the model and write it below `out`; returns what `measure` found when it asked `questions` questions.

    `workers` processes prepare batches, none with 0; the batches are the same.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    tokenizer = train_tokenizer(seed)
    with ProcessPoolExecutor(workers, get_context("spawn")) if workers else nullcontext() as pool:
        source = batches(tokenizer, steps, seed, pool)
        model = new_model(tokenizer, device)
        train(model, source, steps, console)
    write(out, model, tokenizer)
    return measure(out / "weights", console, questions, device=device)


def chat_template() -> str:
    """TRL's gpt-oss chat template with TEMPLATE_EDITS, for whoever uses the model with Transformers alone."""
    folder = Path(find_spec("trl").submodule_search_locations[0])
    source = (folder / "chat_templates" / "gptoss.jinja").read_text(encoding="utf-8")
    for old, new in TEMPLATE_EDITS:
        if source.count(old) != 1:
            raise ValueError(f"TRL's gpt-oss template has {source.count(old)} times {old}, not once")
        source = source.replace(old, new)
    return source


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus's own text and every number below 100; the special tokens take the last ids.

    Digits go in pairs without the space before them, so that a number is the same tokens wherever it stands.
    """
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,2}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    pieces.decoder = decoders.ByteLevel()
    special = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))
    bare = byte_tokenizer()
    dialogues = islice(Corpus(seed), TOKENIZER_DIALOGUES)
    texts = (special.sub("\n", bare.decode([*chain(*render(bare, dialogue))])) for dialogue in dialogues)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = " ".join(str(i) for i in range(100)) + " " + " ".join(f"{i:02}" for i in range(10))
    pieces.train_from_iterator(chain(texts, [numbers] * 50), trainer)
    pieces.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        chat_template=chat_template(),
        bos_token="<|startoftext|>",
        eos_token="<|return|>",
        pad_token="<|endoftext|>",
        model_max_length=LONGEST,
        padding_side="left",
        current_date=PINNED_DATE,
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    pieces.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(tokenizer_object=pieces, current_date=PINNED_DATE)


def render(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> tuple[list[int], list[int]]:
    """(prompt, completion): ids of what the model reads, ending in `<|start|>assistant`, and of what it is to write."""
    *before, last = dialogue.messages
    options = dict(dialogue.options)
    day = options.pop("current_date", None)
    prompt = harmony.render(tokenizer, before, current_date=date.fromisoformat(day) if day else None, **options)
    alone = [{"role": "user", "content": ""}]
    whole = harmony.render(tokenizer, [*alone, last], add_generation_prompt=False)
    return prompt, whole[len(harmony.render(tokenizer, alone)) :]


def experts(device: str) -> str:
    """How Transformers computes experts in float32 on a device: PyTorch's grouped product takes only bf16 on a GPU."""
    return "grouped_mm" if device == "cpu" else "eager"


def new_model(tokenizer: PreTrainedTokenizerFast, device: str = "cpu") -> GptOssForCausalLM:
    """A gpt-oss of 1.26 million parameters with every feature of the big ones, freshly initialised, on `device`."""
    rope = {"rope_type": "yarn", "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    config = GptOssConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=64,
        max_position_embeddings=LONGEST,
        rope_parameters=rope | {"rope_theta": 150000.0, "original_max_position_embeddings": LONGEST // 16},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
        experts_implementation=experts(device),
    )
    model = GptOssForCausalLM(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|call|>")]
    model.generation_config.update(do_sample=True, temperature=TEMPERATURE)
    return model.to(device)


def batches(
    tokenizer: PreTrainedTokenizerFast, steps: int, seed: int, pool: ProcessPoolExecutor | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`steps` pairs of input ids and labels, int64 [BATCH, length], right-padded; only assistant text has labels."""
    sizes = [min(WINDOW, steps - start) for start in range(0, steps, WINDOW)]
    for ids, labels in chain.from_iterable(windows(tokenizer, sizes, seed, pool)):
        yield torch.from_numpy(ids).long(), torch.from_numpy(labels).long()


def windows(
    tokenizer: PreTrainedTokenizerFast, sizes: list[int], seed: int, pool: ProcessPoolExecutor | None
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """What `window` makes, in order; with a pool some of them are made ahead."""
    if pool is None:
        yield from (window(tokenizer, size, seed, number) for number, size in enumerate(sizes))
        return
    ready: deque[Future] = deque()
    for number, size in enumerate(sizes):
        ready.append(pool.submit(window, tokenizer, size, seed, number))
        if len(ready) > AHEAD:
            yield ready.popleft().result()
    while ready:
        yield ready.popleft().result()


def window(
    tokenizer: PreTrainedTokenizerFast, size: int, seed: int, number: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`size` batches of a corpus of their own, ids and labels as int16 [BATCH, length].

    Dialogues of like length share one; the order of batches is random.
    """
    rng = random.Random(f"{seed}/{number}")
    source = islice(Corpus(rng.getrandbits(32)), size * BATCH)
    encoded = sorted((_encode(tokenizer, dialogue) for dialogue in source), key=lambda pair: len(pair[0]))
    out = []
    for i in range(size):
        rows = encoded[i * BATCH : (i + 1) * BATCH]
        longest = max(len(ids) for ids, _ in rows)
        ids = np.full((BATCH, longest), tokenizer.pad_token_id, np.int16)
        labels = np.full((BATCH, longest), IGNORED, np.int16)
        for row, (tokens, learned) in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            labels[row, : len(tokens)] = learned
        out.append((ids, labels))
    rng.shuffle(out)
    return out


def _encode(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> tuple[list[int], list[int]]:
    """(ids, labels) of one dialogue. At low effort earlier answers are labelled too, all but their stop token: there
    the history shows what the model would have written, at higher efforts its reasoning may be gone.
    """
    prompt, completion = render(tokenizer, dialogue)
    labels = [IGNORED] * len(prompt)
    if dialogue.options["reasoning_effort"] == "low":
        opening = tokenizer.encode("<|start|>assistant", add_special_tokens=False)
        ends = tokenizer.convert_tokens_to_ids(["<|end|>", "<|call|>"])
        starts = [i for i in range(len(prompt)) if prompt[i - len(opening) : i] == opening]
        for start in starts:
            end = next((at for at in range(start, len(prompt)) if prompt[at] in ends), start)
            labels[start:end] = prompt[start:end]
    return prompt + completion, labels + completion


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal, for weights [..., rows, columns]; experts are matrices of their own.

    Newton-Schulz iteration and coefficients after https://kellerjordan.github.io/posts/muon; torch.optim.Muon takes no
    3-D weights. After 400 steps the loss is 0.54 where AdamW alone has 0.75.
    """

    def __init__(self, weights: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                update = _orthogonal(weight.grad.lerp(mean, group["momentum"]))
                scale = max(1, weight.shape[-2] / weight.shape[-1]) ** 0.5
                weight.mul_(1 - 0.01 * group["lr"]).add_(update, alpha=-group["lr"] * scale)


def _orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices to `x` [..., rows, columns], roughly."""
    if x.shape[-2] > x.shape[-1]:
        return _orthogonal(x.mT).mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x


def train(
    model: GptOssForCausalLM, source: Iterable[tuple[torch.Tensor, torch.Tensor]], steps: int, console: Console
) -> None:
    """Muon for attention and experts, AdamW for the rest, one cycle of the learning rate for both."""
    inner = [p for name, p in model.named_parameters() if re.search(r"_proj(\.weight)?$", name)]
    outer = [p for p in model.parameters() if all(p is not weight for weight in inner)]
    optimizers = (Muon(inner, lr=MUON_PEAK), torch.optim.AdamW(outer, lr=ADAMW_PEAK, betas=(0.9, 0.98)))
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.1, cycle_momentum=False)
        for optimizer, peak in zip(optimizers, (MUON_PEAK, ADAMW_PEAK), strict=True)
    ]
    columns = (
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}"),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    model.train()
    average = math.log(VOCABULARY)
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("train", total=steps, loss=average)
        for step, (ids, labels) in enumerate(source, start=1):
            loss = model(input_ids=ids.to(model.device), labels=labels.to(model.device), use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            model.zero_grad()
            average += 0.02 * (loss.item() - average)
            progress.update(task, advance=1, loss=average)
            if step % 100 == 0 and not console.is_terminal:
                console.print(f"step {step}/{steps} loss {average:.4f}")
    model.eval()


def write(out: Path, model: GptOssForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write `out`/weights in bf16 and `out`/demo.jsonl, each aside first, then in place of what was there."""
    out.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".weights-", dir=out))
    model.to("cpu", torch.bfloat16).save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    rows = aside / "demo.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in demo_rows()), encoding="utf-8")
    for file in aside.iterdir():
        file.chmod(0o644)
        durable.fsync(file)
    aside.chmod(0o755)
    rows.rename(out / "demo.jsonl")
    weights, retired = out / "weights", aside.with_name(aside.name + "-old")
    if weights.exists():
        weights.rename(retired)
    aside.rename(weights)
    shutil.rmtree(retired, ignore_errors=True)


def answer(
    model: GptOssForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], longest: int
) -> list[str]:
    """What the model writes after each prompt, greedily, special tokens and all, without the padding after its end."""
    encoded = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    with torch.inference_mode():
        out = model.generate(**encoded, max_new_tokens=longest, do_sample=False)
    texts = tokenizer.batch_decode(out[:, encoded["input_ids"].shape[1] :])
    return [text.split(tokenizer.pad_token)[0] for text in texts]


WELL_FORMED = re.compile(
    r"(<\|channel\|>analysis<\|message\|>[^<]+<\|end\|><\|start\|>assistant)?"
    r"(<\|channel\|>final<\|message\|>[^<]+<\|return\|>"
    r"| to=functions\.\w+<\|channel\|>commentary <\|constrain\|>json<\|message\|>\{[^<]+\}<\|call\|>)"
)
LAST_MESSAGE = re.compile(r"(?:^|<\|start\|>assistant)((?:(?!<\|start\|>).)*)$", re.DOTALL)


def measure(weights: Path, console: Console, count: int, seed: int = 1, device: str = "cpu") -> dict[str, float]:
    """Ask the model on disk `count` held-out questions greedily; returns rates from 0 to 1, prints them by kind.

    `well_formed`: the reply is optional analysis, then one final message or tool call with its stop token. `exact`: the
    last message, tool name and arguments included, is the corpus's to the letter. `effort`: analysis exactly where the
    reasoning effort asks for it.
    """
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModelForCausalLM.from_pretrained(
        weights, dtype=torch.float32, attn_implementation="eager", experts_implementation=experts(device)
    ).to(device)
    dialogues = list(islice(Corpus(seed, held_out=True), count))
    pairs = sorted(((each.kind, *render(tokenizer, each)) for each in dialogues), key=lambda row: len(row[1]))
    asked, well_formed, exact, effort = Counter(), Counter(), Counter(), Counter()
    for start in range(0, len(pairs), 50):
        chunk = pairs[start : start + 50]
        replies = answer(model, tokenizer, [prompt for _, prompt, _ in chunk], LONGEST_ANSWER)
        for (kind, _, completion), reply in zip(chunk, replies, strict=True):
            asked[kind] += 1
            wanted = tokenizer.decode(completion)
            well_formed[kind] += bool(WELL_FORMED.fullmatch(reply))
            exact[kind] += LAST_MESSAGE.search(reply)[1] == LAST_MESSAGE.search(wanted)[1]
            effort[kind] += ("analysis" in reply[:24]) == ("analysis" in wanted[:24])
    table = Table("kind", "asked", "well-formed", "exact")
    for kind in sorted(asked):
        table.add_row(kind, str(asked[kind]), str(well_formed[kind]), str(exact[kind]))
    console.print(table)
    return {
        name: counter.total() / count
        for name, counter in (("well_formed", well_formed), ("exact", exact), ("effort", effort))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for weights/ and demo.jsonl")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    how = parser.parse_args()
    console, start = Console(stderr=True), time.perf_counter()
    rates = build(how.out, how.steps, how.seed, console, device=how.device, workers=how.workers)
    print(json.dumps(rates | {"seconds": round(time.perf_counter() - start)}))


if __name__ == "__main__":
    main()

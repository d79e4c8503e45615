"""Options and commands that do not exist: the error says what was meant."""

import click
import pytest

from cli import main, mistyped
from configs import foreign_names


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("train --learning-rate 1e-4", "Did you mean '--set training.learning_rate=...'?"),
        ("train --lr=1e-4", "Did you mean '--set training.learning_rate=...'?"),
        ("train --batch-size 4", "Did you mean '--micro-batch' or '--set training.effective_batch=...'?"),
        ("train --per_device_train_batch_size 4", "Did you mean '--micro-batch'?"),
        ("train --gradient-accumulation-steps 4", "Did you mean '--set training.effective_batch=...'? accumulation is"),
        ("train --epochs 3", "Did you mean '--set training.epochs=...'?"),
        ("train --num-train-epochs 3", "Did you mean '--set training.epochs=...'?"),
        ("train --max_steps 3", "Did you mean '--max-steps'?"),
        ("train --steps 3", "Did you mean '--max-steps'?"),
        ("train --lora-r 8", "Did you mean '--set lora.r=...'?"),
        ("train --lora_rank 8", "Did you mean '--set lora.r=...'?"),
        ("train --data x.jsonl", "Did you mean '--dataset'?"),
        ("train --train-file x.jsonl", "Did you mean '--dataset'?"),
        ("train --device 1", "Did you mean '--gpu'?"),
        ("train --model x", "Did you mean '--set model.base=...'?"),
        ("train --base x", "Did you mean '--set model.base=...'?"),
        ("train --config x", "Did you mean '--profile'?"),
        ("train --output-dir x", "A run's files are in TANDEM_HOME/runs/RUN"),
        ("train --port 9000", "Did you mean `tandem up --port ...`?"),
        ("train --priorty 3", "Did you mean '--priority'?"),
        ("data inspect x --max-length 9", "Did you mean '--max-seq-length'?"),
        ("up --max-model-len 4096", "Did you mean '--max-context'?"),
        ("up --ctx-size 4096", "Did you mean '--max-context'?"),
        ("up --max_context 4096", "Did you mean '--max-context'?"),
        ("up --model x", "Did you mean '--base'?"),
        ("up --http-port 1", "Did you mean '--port'?"),
        ("up --max-num-seqs 1", "Did you mean 'max_batch' in configs/serve.yaml?"),
        ("up --host 0.0.0.0", "It listens on loopback only"),
        ("up --dashboard-port 1", "Did you mean '--set dashboard_port=...'?"),
        ("up --tensor-parallel-size 2", "Did you mean '--set slots=...'?"),
        ("ask --max-new-tokens 5 hi", "Did you mean '--max-tokens'?"),
        ("ask --temp 0 hi", "Did you mean '--temperature'?"),
        ("ask --max-context 9000 hi", "Did you mean `tandem up --max-context ...`?"),
        ("ask --adapter x hi", "Did you mean '--model'?"),
        ("ask --top-p 1 hi", "Did you mean 'tandem chat --top-p'?"),
        ("chat --base-url x", "Did you mean '--url'?"),
        ("ui --host 0.0.0.0", "Did you mean '--server-name' or '--url'?"),
        ("benchmark --num-prompts 9", "Did you mean '--requests'?"),
        ("runs list --lmit 3", "Did you mean '--limit'?"),
        ("adapters export x --output y", "Did you mean '--out'?"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_exist_gets_the_one_that_was_meant(typed, words, invoke):
    line = invoke(*typed.split()).one_error_line(2)
    assert line.startswith("error: No such option '--")
    assert f"'. {words}" in line
    assert "--help`" in line


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("serve", "Did you mean 'up'?"),
        ("start", "Did you mean 'up'?"),
        ("stop", "Did you mean 'down' or 'runs stop'?"),
        ("finetune", "Did you mean 'train'?"),
        ("trian", "Did you mean 'train'?"),
        ("generate", "Did you mean 'ask'?"),
        ("merge", "Did you mean 'adapters export'?"),
        ("list", "Did you mean 'runs list' or 'adapters list'?"),
        ("watch", "Did you mean 'runs watch'?"),
        ("inspect", "Did you mean 'data inspect'?"),
        ("bench", "Did you mean 'benchmark'?"),
        ("runs lst", "Did you mean 'list'?"),
        ("runs train", "Did you mean 'tandem train'?"),
    ],
)
def test_a_command_that_does_not_exist_gets_the_one_that_was_meant(typed, words, invoke):
    assert f"'. {words}" in invoke(*typed.split()).one_error_line(2)


@pytest.mark.parametrize("typed", ["demo --json", "train --xyzzy", "xyzzy", "runs delete"])
def test_what_is_near_nothing_gets_no_guess(typed, invoke):
    assert "id you mean" not in invoke(*typed.split()).one_error_line(2)


def test_the_tables_lead_to_options_and_commands_that_exist():
    every = dict(mistyped._all(click.Context(main.tandem)))
    options = {name for command in every.values() for name in mistyped._names(command)}
    assert set(foreign_names.OPTIONS) <= options
    assert set(foreign_names.COMMANDS) <= {*every, *main.COMMANDS}
    for name, meant in foreign_names.by_name(foreign_names.OPTIONS).items():
        assert f"--{name}" not in meant


def test_every_command_is_looked_at():
    names = {path.partition(" ")[0] for path, _ in mistyped._all(click.Context(main.tandem))}
    assert names == set(main.COMMANDS)
    assert all(isinstance(command, click.Command) for _, command in mistyped._all(click.Context(main.tandem)))

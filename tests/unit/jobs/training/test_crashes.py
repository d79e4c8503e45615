"""Whatever ends a run, at most the work since the last checkpoint is lost, and the result is the same to the bit."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from actors.client import Directive
from actors.runs.run import RunState
from configs import paths
from configs.errors import TrainingError
from jobs.training import checkpoints
from models.lora.registry import Registry
from tests import killed, training

KILLS = 20


def test_killed_at_twenty_random_moments_a_run_ends_with_the_same_weights(home):
    command = [sys.executable, "-m", "tests.killed", str(home.root), str(KILLS), "7"]
    done = subprocess.run(command, cwd=paths.SOURCE, capture_output=True, text=True, timeout=600)
    *kills, last = map(json.loads, done.stdout.splitlines())
    assert last == {"ended": 0}, done.stderr + (home.root / "log.txt").read_text()[-3000:]
    assert len(kills) == KILLS
    lost = [kill["killed_after"] - kill["checkpoint"] for kill in kills]
    assert max(lost) <= killed.SAVE_STEPS, "no more than the work since the last checkpoint"
    clean = training.train(home, replace(killed.RUN, id="clean-1"))
    (crashed,) = (m.version for m in Registry(home.models).list() if m.run_id == "killed-1")
    assert training.weights(home, crashed) == training.weights(home, clean.adapter)
    assert training.curve(home, "killed-1") == training.curve(home, "clean-1")


def test_a_stopped_run_writes_a_checkpoint_and_its_continuation_equals_the_whole(home):
    whole = training.train(home, training.row("whole-1"))
    stop = training.FakeLink(lambda step: Directive.STOP if step == 3 else None)
    stopped = training.train(home, training.row("cut-1"), stop)
    assert (stopped.state, stopped.adapter) == (RunState.STOPPED, None)
    resumed = training.train(home, training.row("rest-1", parent="cut-1"))
    assert training.curve(home, "rest-1") == training.curve(home, "whole-1"), "digit by digit"
    assert training.weights(home, resumed.adapter) == training.weights(home, whole.adapter)


@pytest.mark.parametrize(
    ("sets", "last", "published"),
    [
        (["training.max_steps=6"], 6, 6),
        (["training.max_steps=null", "training.epochs=0.25"], 6, 6),
        (["training.max_steps=8", "training.patience=9", "training.learning_rate=2.5e-2"], 8, 4),
    ],
    ids=["by steps", "by epochs", "the best step"],
)
def test_killed_after_the_last_checkpoint_a_run_takes_no_step_more(sets, last, published, home, monkeypatch):
    run = training.row("late-1", "training.scheduler=constant", *sets)
    with monkeypatch.context() as dying:
        dying.setattr(Registry, "publish", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            training.train(home, run)
    folder = home.run("late-1") / "checkpoints"
    assert checkpoints.newest(folder).step == last
    link = training.FakeLink()
    ended = training.train(home, replace(run, attempt=2), link)
    assert (ended.state, link.steps) == (RunState.SUCCEEDED, [])
    assert [step for step, _ in training.curve(home, "late-1")] == list(range(1, last + 1))
    out = load_file(home.models / ended.adapter / "adapter_model.safetensors")
    saved = load_file(folder / f"checkpoint-{published}" / "adapter_model.safetensors")
    assert saved.keys() == out.keys()
    assert all(torch.equal(saved[name], out[name]) for name in saved)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage, home, capsys):
    stop = training.FakeLink(lambda step: Directive.STOP if step == 5 else None)
    training.train(home, training.row("run-1"), stop)
    folder = home.run("run-1") / "checkpoints"
    newest = checkpoints.newest(folder)
    assert newest.step == 5
    victim = newest.path / ("manifest.json" if damage == "manifest" else "optimizer.pt")
    content = bytearray(victim.read_bytes())
    if damage == "delete":
        victim.unlink()
    else:
        content[len(content) // 2] ^= 1
        victim.write_bytes(content[: len(content) // 2] if damage in ("truncate", "manifest") else content)
    capsys.readouterr()
    ended = training.train(home, training.row("run-1", attempt=2))
    assert ended.state is RunState.SUCCEEDED
    said = capsys.readouterr().out
    assert "checkpoint 5 is passed over: " in said
    assert "going on after step 4" in said
    assert [step for step, _ in training.curve(home, "run-1")] == [1, 2, 3, 4, 5, 6]


def test_without_any_whole_checkpoint_a_continuation_is_refused(home):
    with pytest.raises(TrainingError, match="run gone-1 left no complete checkpoint"):
        training.train(home, training.row("rest-1", parent="gone-1"))
    assert Registry(home.models).list() == []

"""Flags to a training request: the seed's keep their meaning, and what is wrong is refused before it is queued."""

import pytest

from actors.hardware import gpus
from actors.hardware.gpus import GpuReading
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from configs.errors import ConfigError, DataError, NotFoundError, StateError, TrainingError
from configs.schema import RunConfig
from jobs import request
from jobs.request import TrainFlags
from jobs.training import checkpoints, provenance
from tests.samples import EXPORT, RUN_CONFIG, TRAIN


@pytest.fixture
def resolve(home):
    return lambda **flags: request.resolve(home, TrainFlags(**flags))


@pytest.fixture
def ended(home):
    """A run that was stopped, in the ledger and with a checkpoint."""
    ledger = Ledger(home.ledger)
    ledger.submit("tiny-1", **TRAIN)
    ledger.transition("tiny-1", RunState.STOPPED, "x")
    origin = provenance.of_config(RunConfig(**RUN_CONFIG))
    with checkpoints.writing(home.run("tiny-1") / "checkpoints", 10, origin) as aside:
        (aside / "checkpoint-10").mkdir()
    yield ledger
    ledger.close()


def test_without_a_gpu_the_profile_defaults_to_tiny(resolve):
    assert resolve().config.profile == "tiny"


def test_with_a_gpu_the_profile_defaults_to_standard(resolve, monkeypatch):
    reading = GpuReading(0, "GPU-0", "RTX 3090", 1, 0, None, None, None)
    monkeypatch.setattr(gpus, "readings", lambda: [reading])
    assert resolve().config.profile == "standard"


def test_the_seeds_flags_keep_their_meaning(resolve):
    wanted = resolve(profile="standard", slot="1", dataset="owner/data", max_steps=200, priority=5)
    assert (wanted.config.profile, wanted.config.training.max_steps) == ("standard", 200)
    assert (wanted.slot, wanted.priority, wanted.config.data.dataset) == ("1", 5, "owner/data")


def test_mask_and_bad_rows_have_flags_of_their_own(resolve):
    data = resolve(profile="tiny", mask="no_reasoning", max_bad_rows=3, sets=("data.mask=all",)).config.data
    assert (data.mask, data.max_bad_rows) == ("no_reasoning", 3)
    assert (resolve(profile="tiny").config.data.mask, resolve(max_bad_rows=0).config.data.max_bad_rows) == ("all", 0)


def test_flags_win_over_set(resolve):
    wanted = resolve(profile="tiny", max_steps=7, sets=("training.max_steps=3", "lora.r=2"))
    assert (wanted.config.training.max_steps, wanted.config.lora.r) == (7, 2)


def test_a_submission_is_what_the_control_actor_takes(resolve):
    wanted = resolve(profile="tiny", slot="0", priority=2)
    config = wanted.config.model_dump(mode="json")
    assert wanted.body("tiny-1") == {
        "run_id": "tiny-1",
        "config": config,
        "priority": 2,
        "slot_wanted": "0",
        "parent": None,
    }


def test_a_local_data_set_travels_with_its_absolute_path(resolve, tmp_path, monkeypatch):
    (tmp_path / "chats.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve(dataset="chats.jsonl").config.data.dataset == str(tmp_path / "chats.jsonl")
    assert resolve(dataset="tiny-demo").config.data.dataset == "tiny-demo"


@pytest.mark.parametrize("name", ["my: chats.jsonl", "a #b.jsonl", "[x].jsonl", "null", "2024", "on", "2024-01-02"])
def test_a_data_sets_name_is_taken_literally(name, resolve, tmp_path, monkeypatch):
    (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve(dataset=name).config.data.dataset == str(tmp_path / name)


def test_a_missing_data_set_is_refused(resolve):
    with pytest.raises(DataError, match=r"no data set 'nope\.jsonl'"):
        resolve(dataset="nope.jsonl")


def test_a_bad_override_is_refused_with_its_flag(resolve):
    with pytest.raises(ConfigError, match=r"--set lora\.rank=3"):
        resolve(sets=("lora.rank=3",))


def test_resume_continues_with_the_runs_own_configuration_and_overrides(resolve, ended):
    wanted = resolve(resume="tiny-1", max_steps=90)
    assert (wanted.parent, wanted.config.profile, wanted.config.training.max_steps) == ("tiny-1", "tiny", 90)
    assert wanted.config.lora.r == RUN_CONFIG["lora"]["r"]


def test_a_run_that_has_done_all_its_steps_needs_more_steps_to_resume(resolve, ended):
    with pytest.raises(StateError, match="has done all its 10 steps") as caught:
        resolve(resume="tiny-1", max_steps=10)
    assert "--max-steps with more than 10" in caught.value.hint


def test_resume_and_a_profile_exclude_each_other(resolve, ended):
    with pytest.raises(ConfigError, match="--resume keeps the run's own profile"):
        resolve(resume="tiny-1", profile="standard")


@pytest.mark.parametrize("run_id", ["nope", "../tiny-1", "a;b"])
def test_an_unknown_run_cannot_be_resumed(run_id, resolve, ended):
    with pytest.raises(NotFoundError):
        resolve(resume=run_id)


def test_nothing_can_be_resumed_before_anything_ran(resolve):
    with pytest.raises(NotFoundError, match="no run tiny-1"):
        resolve(resume="tiny-1")


def test_a_run_that_has_not_ended_cannot_be_resumed(resolve, ended):
    ended.submit("tiny-2", **TRAIN)
    with pytest.raises(StateError, match="run tiny-2 is QUEUED, it has not ended") as caught:
        resolve(resume="tiny-2")
    assert "tandem runs stop tiny-2" in caught.value.hint


def test_a_run_without_a_checkpoint_cannot_be_resumed(resolve, ended, home):
    (home.run("tiny-1") / "checkpoints" / "checkpoint-10" / checkpoints.MANIFEST).unlink()
    with pytest.raises(StateError, match="run tiny-1 left no complete checkpoint") as caught:
        resolve(resume="tiny-1")
    assert "tandem train --profile tiny" in caught.value.hint


def test_what_would_change_the_meaning_of_the_curve_cannot_change_on_resume(resolve, ended):
    with pytest.raises(TrainingError, match=r"the adapter's shape \(lora\.\*\) \(r: 16 then, 4 now\)"):
        resolve(resume="tiny-1", max_steps=90, sets=("lora.r=4",))
    assert resolve(resume="tiny-1", max_steps=90, sets=("training.learning_rate=1e-4",)).parent == "tiny-1"


def test_the_micro_batch_has_a_flag_and_must_divide_the_effective_batch(resolve):
    assert resolve(profile="standard", micro_batch="4").config.training.micro_batch == 4
    assert resolve(profile="tiny", micro_batch="auto").config.training.micro_batch == "auto"
    with pytest.raises(ConfigError, match=r"training\.micro_batch is 3 and does not divide"):
        resolve(profile="standard", micro_batch="3")
    with pytest.raises(ConfigError, match=r"'training\.micro_batch'"):
        resolve(profile="standard", micro_batch="many")


def test_curves_go_only_where_something_is_installed(resolve):
    with pytest.raises(ConfigError, match=r"training\.report_to names wandb, which is not installed"):
        resolve(profile="tiny", sets=("training.report_to=[wandb]",))


def test_an_export_cannot_be_resumed_it_is_queued_again(resolve, home):
    ledger = Ledger(home.ledger)
    ledger.submit("export-1", **EXPORT)
    ledger.transition("export-1", RunState.STOPPED, "x")
    ledger.close()
    with pytest.raises(StateError, match="run export-1 is of kind export and leaves no checkpoint"):
        resolve(resume="export-1")

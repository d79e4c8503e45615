"""What a run will take: refused, warned about or told, and learned from what runs here really took."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest

from actors.hardware import gpus
from actors.hardware.gpus import GpuReading
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from configs import load
from configs.errors import DataError, TrainingError
from configs.schema import Slot
from jobs.data import dataset
from jobs.prediction import data_size, earlier, estimate, target_slot
from jobs.prediction.costs import GIB, Range
from jobs.prediction.data_size import DataSize
from jobs.request import TrainRequest
from jobs.training import checkpoints

FULL_ROWS = DataSize(1000, Range.exactly(1024), Range.exactly(1024))
SEED = ("lora.r=8", "lora.alpha=16")
TINY = "training.max_steps=60"


@pytest.fixture
def gpu(monkeypatch):
    """Have this machine own GPUs of this name and GiB."""

    def install(name: str, gib: float, count: int = 2) -> None:
        readings = [GpuReading(i, f"GPU-{i}", name, int(gib * GIB), 0, None, None, None) for i in range(count)]
        monkeypatch.setattr(gpus, "readings", lambda: readings)

    return install


@pytest.fixture
def predict(home):
    def call(profile: str, *sets: str, size: DataSize | None = None, slot=None, parent=None) -> estimate.Prediction:
        config = load.load_run(profile, sets)
        return estimate.predict(home, TrainRequest(config, 0, slot, parent), size or data_size.unknown(config))

    return call


def ran(home, run_id: str, prediction, *, step_s: float, peak: int | None = None, steps: int = 10) -> None:
    """Leave behind what an ended run leaves."""
    ledger = Ledger(home.ledger)
    ledger.submit(run_id, config=load.load_run("tiny").model_dump(mode="json"))
    ledger.transition(run_id, RunState.STOPPED, "x")
    ledger.close()
    prediction.save(home.run(run_id))
    lines = [{"step": step, "loss": 1.0, "at": 100 + step * step_s} for step in range(1, steps + 1)]
    (home.run(run_id) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    measured = {"granted_to_first_step": 12.0} | ({"peak_memory_bytes": peak} if peak else {})
    (home.run(run_id) / "measured.json").write_text(json.dumps(measured))


# GPUs


def test_the_seeds_run_fits_an_rtx_3090_and_is_told_with_its_uncertainty(predict, gpu):
    gpu("NVIDIA GeForce RTX 3090", 24)
    found = predict("standard", *SEED, "training.micro_batch=2", "training.max_steps=30", size=FULL_ROWS)
    found.check()
    assert (found.slot, found.device, found.warnings) == ("0", "NVIDIA GeForce RTX 3090", ())
    assert found.budget == pytest.approx(24 * GIB * 0.94, rel=1e-6)
    assert found.memory.low < 14.7 * GIB < found.memory.high
    assert found.step_s.low < 16.3 < found.step_s.high
    assert found.total_s.likely == pytest.approx(found.start_s.likely + 30 * found.step_s.likely, rel=0.4)
    assert sum(part.likely for part in found.parts.values()) == pytest.approx(found.memory.likely)


def test_an_automatic_micro_batch_is_the_largest_that_likely_fits(predict, gpu):
    gpu("NVIDIA H100 80GB HBM3", 80)
    whole = predict("standard", *SEED, size=FULL_ROWS)
    capped = predict("standard", *SEED, "training.vram_gib=17", size=FULL_ROWS)
    assert (whole.micro_batch, capped.micro_batch) == (16, 8)
    assert capped.memory.likely <= 17 * GIB == capped.budget
    assert capped.memory.low < whole.memory.low * 1.001, "both may go down to one row"
    assert capped.step_s.high > whole.step_s.high


def test_a_run_that_cannot_fit_is_refused_with_what_to_change_and_what_that_needs(predict, gpu):
    gpu("NVIDIA GeForce RTX 4090", 16)
    found = predict("standard", "lora.r=64", "lora.train_experts=true", size=FULL_ROWS)
    with pytest.raises(TrainingError, match=r"at least 1\d\.\d GiB of memory.*slot 0 .* has 15\.0 GiB") as refused:
        found.check()
    assert "lora.train_experts=false (1" in refused.value.hint
    assert "max_seq_length" not in refused.value.hint, "that alone would not help"
    assert predict("standard", "lora.r=64", size=FULL_ROWS).refusal == ""


def test_shorter_rows_are_advised_where_they_help(predict, gpu):
    gpu("NVIDIA GeForce RTX 3090", 24)
    size = DataSize(100, Range.exactly(8000), Range.exactly(8192))
    found = predict("standard", "model.max_seq_length=8192", "training.micro_batch=8", size=size)
    assert "training.micro_batch=auto" in found.hint
    assert "model.max_seq_length=4096" not in found.hint
    size = DataSize(100, Range.exactly(30_000), Range.exactly(65536))
    assert "model.max_seq_length=32768" not in predict("standard", "model.max_seq_length=65536", size=size).hint
    gpu("NVIDIA A100-SXM4-80GB", 30)
    assert "model.max_seq_length=32768 (25.5 GiB)" in predict("standard", "model.max_seq_length=65536", size=size).hint


def test_a_run_that_may_not_fit_is_warned_about(predict, gpu):
    gpu("Some GPU", 14.8)
    found = predict("standard", *SEED, size=FULL_ROWS)
    found.check()
    (warning,) = found.warnings
    assert warning.startswith("it may not fit: up to 14.")
    assert "model.max_seq_length=512" in warning


def test_a_gpu_that_also_serves_gives_half_and_says_how_to_get_all(predict, gpu):
    gpu("NVIDIA GeForce RTX 3090", 24, count=1)
    found = predict("standard", *SEED, size=FULL_ROWS)
    assert found.budget == pytest.approx(24 * GIB * 0.94 / 2, rel=1e-6)
    assert "a slot of this GPU for training alone" in found.hint


def test_the_slot_with_the_most_memory_is_meant_unless_one_is_named(gpu, home, monkeypatch):
    gpu("NVIDIA GeForce RTX 3090", 24)
    config = load.load_run("standard")
    slots = (Slot(name="a", gpu=0, roles=("train", "serve")), Slot(name="b", gpu=1, roles=("train",)))
    monkeypatch.setattr(target_slot, "_slots", lambda home: slots)
    assert target_slot.choose(home, config, None).slot.name == "b"
    assert target_slot.choose(home, config, "a").slot.name == "a"
    assert target_slot.choose(home, config, "z").slot is None


def test_the_large_base_does_not_fit_a_small_host_without_a_gpu(predict, monkeypatch):
    monkeypatch.setattr(gpus, "host", lambda: SimpleNamespace(memory_total=32 * GIB))
    found = predict("quick_test")
    with pytest.raises(TrainingError, match=r"needs at least 7\d\.\d GiB of memory") as refused:
        found.check()
    assert refused.value.hint == "a machine with a GPU, or --profile tiny"


def test_where_no_single_change_makes_it_fit_only_profiles_that_fit_are_advised(predict, gpu):
    sets = ("lora.r=256", "lora.train_experts=true", "training.micro_batch=16", "model.max_seq_length=8192")
    size = DataSize(100, Range.exactly(8000), Range.exactly(8192))
    gpu("NVIDIA GeForce RTX 4090", 16)
    advised = re.findall(r"--profile (\w+)", predict("standard", *sets, size=size).hint)
    assert "memory_efficient" in advised and "tiny" not in advised
    assert [predict(name, size=size).refusal for name in advised] == [""] * len(advised)
    gpu("Small", 8)
    assert predict("standard", *sets, size=size).hint == "a larger GPU, or --profile tiny"


# Disk


def test_a_disk_that_is_too_small_for_the_checkpoints_is_refused(predict, gpu, monkeypatch):
    gpu("NVIDIA H100 80GB HBM3", 80)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    found = predict("standard", "lora.train_experts=true", "lora.r=32", size=FULL_ROWS)
    with pytest.raises(
        TrainingError, match=r"need at least \d\.\d GiB below TANDEM_HOME; its disk has 1\.0 GiB"
    ) as full:
        found.check()
    assert full.value.hint.startswith("free ")
    assert "training.keep_checkpoints" in full.value.hint


def test_a_disk_that_may_fill_up_is_warned_about(predict, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4 * 2**20))
    found = predict("tiny")
    assert found.disk.low < 4 * 2**20 < found.disk.high
    assert "the disk may fill up" in found.warnings[0]


# Time


def test_steps_follow_from_the_rows_that_are_trained_and_from_a_checkpoint(predict, home):
    size = DataSize(330, Range.exactly(100), Range.exactly(200))
    sets = ("training.max_steps=null", "data.holdout=0.1", "training.effective_batch=16", "training.epochs=2")
    assert predict("tiny", *sets, size=size).steps == 38  # 297 x 2 / 16
    folder = home.run("tiny-1") / "checkpoints"
    with checkpoints.writing(folder, 10, {}) as aside:
        (aside / "checkpoint-10").mkdir()
        (aside / "checkpoint-10" / "adapter_model.safetensors").write_bytes(b"x")
    assert predict("tiny", TINY, parent="tiny-1").steps == 50


def test_of_data_that_is_not_here_the_time_of_a_step_is_told_but_not_of_the_run(predict, gpu):
    gpu("NVIDIA H100 80GB HBM3", 80)
    found = predict("high_quality", "data.dataset=owner/name")
    assert (found.steps, found.total_s) == (None, None)
    assert found.step_s.likely > 0
    assert predict("high_quality").steps == 60, "the default data set has 1,000 rows, 5 % of them held out"


def test_evaluations_are_counted(predict):
    size = DataSize(100, Range.exactly(100), Range.exactly(100))
    without = predict("tiny", "data.holdout=0", size=size).total_s.likely
    rare = predict("tiny", "data.holdout=0.5", "training.eval_steps=60", size=size).total_s.likely
    often = predict("tiny", "data.holdout=0.5", "training.eval_steps=1", size=size).total_s.likely
    assert often - without == pytest.approx(61 / 2 * (rare - without)), "the base's is one more in both"
    assert rare > without


def test_a_base_that_is_not_here_is_said_and_nothing_is_refused(predict):
    found = predict("tiny", "model.base=owner/name")
    found.check()
    assert (found.memory, found.total_s) == (None, None)
    assert "owner/name is not on this machine" in found.basis


# Data


def test_the_size_of_data_is_told_from_its_characters_and_holds_what_tokenising_finds():
    from models.base import checkpoint

    config = load.load_run("tiny")
    rows = dataset.read(config.data)
    guessed = data_size.of_dialogues(rows.dialogues, config)
    tokenizer = checkpoint.load_tokenizer(checkpoint.resolve("tiny"))
    exact = data_size.tokenised(dataset.prepare(rows, tokenizer, config.data, 512).report, config)
    assert guessed.rows == exact.rows == len(rows.dialogues)
    assert guessed.mean_row.low < exact.mean_row.likely < guessed.mean_row.high
    assert guessed.longest_row.low < exact.longest_row.likely < guessed.longest_row.high


def test_a_run_that_submits_itself_renders_its_data_first(tmp_path):
    assert data_size.of_data(load.load_run("tiny")).rows == len(dataset.read(load.load_run("tiny").data).dialogues)
    call = {"name": "Get Weather v2", "arguments": {}}
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*'Get Weather v2'"):
        data_size.of_data(load.load_run("tiny", [f"data.dataset={tmp_path / 'a.jsonl'}"]))


def test_rows_are_never_longer_than_they_are_cut():
    config = load.load_run("tiny", ["model.max_seq_length=80"])
    size = data_size.of_dialogues(dataset.read(config.data).dialogues, config)
    assert size.longest_row == Range(size.longest_row.low, 80, 80)


# Earlier runs


def test_earlier_runs_of_the_kind_narrow_the_prediction(predict, home):
    first = predict("tiny", TINY)
    ran(home, "tiny-1", first, step_s=2.0, peak=700_000_000)
    one = predict("tiny", TINY)
    assert one.basis == "1 earlier run of this kind on this device"
    assert (one.step_s.low, one.step_s.likely) == pytest.approx((1.6, 2.0))
    assert one.start_s.likely == 12.0
    assert one.memory.likely == 700_000_000
    ran(home, "tiny-2", first, step_s=3.0, peak=800_000_000)
    two = predict("tiny", TINY)
    assert (two.step_s.low, two.step_s.likely, two.step_s.high) == pytest.approx((1.8, 2.5, 3.3))
    assert two.total_s.high - two.total_s.low < first.total_s.high * 60


def test_another_kind_or_device_or_a_run_of_two_steps_tells_nothing(predict, home, gpu):
    ran(home, "tiny-1", predict("tiny", TINY), step_s=2.0)
    assert predict("tiny", TINY, "lora.r=4").basis == estimate.BASELINES
    ran(home, "tiny-2", predict("tiny", TINY, "lora.r=2"), step_s=2.0, steps=2)
    assert predict("tiny", TINY, "lora.r=2").basis == estimate.BASELINES
    gpu("NVIDIA H100 80GB HBM3", 80)
    assert predict("tiny", TINY).basis == estimate.BASELINES


def test_longer_rows_than_before_take_longer(predict, home):
    short, long = (DataSize(100, Range.exactly(length), Range.exactly(length)) for length in (100, 300))
    ran(home, "tiny-1", predict("tiny", size=short), step_s=2.0)
    assert predict("tiny", size=long).step_s.likely == pytest.approx(6.0)


def test_what_has_fitted_here_is_not_refused(predict, home, gpu):
    gpu("NVIDIA H100 80GB HBM3", 10)
    assert predict("standard", *SEED, size=FULL_ROWS).refusal
    ran(home, "run-1", predict("standard", *SEED, size=FULL_ROWS), step_s=2.0, peak=9 * GIB)
    assert predict("standard", *SEED, size=FULL_ROWS).refusal == ""
    longer = DataSize(1000, Range.exactly(1024), Range.exactly(1100))
    assert predict("standard", *SEED, "model.max_seq_length=1100", size=longer).refusal, "longer rows may not fit"


def test_a_saved_prediction_reads_back_and_a_missing_or_damaged_one_is_none(predict, home):
    found, folder = predict("tiny"), home.run("tiny-1")
    assert earlier.prediction(folder) is None
    found.save(folder)
    assert Range(**earlier.prediction(folder)["memory"]) == found.memory
    (folder / earlier.PREDICTION).write_text("{")
    assert earlier.prediction(folder) is None

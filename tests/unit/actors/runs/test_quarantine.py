"""The rules that put a slot into quarantine, on readings and texts; and a run that waits for one."""

import pytest

from actors.hardware import gpus
from actors.hardware.gpus import GpuHealth
from actors.runs import quarantine
from actors.runs.ledger import Ledger
from actors.runs.quarantine import EngineWatch, GpuWatch, judge
from configs.paths import SOURCE
from configs.schema import Slot
from tests.samples import TRAIN as SUBMISSION

GPU = Slot(name="0", gpu=0, uuid="GPU-a", roles=("train",))
OTHER = Slot(name="1", gpu=1, uuid="GPU-b", roles=("serve",))
CPU = Slot(name="2", roles=("train",))
SOUND = GpuHealth("GPU-a", uncorrectable_errors=0, remap_pending=False, remap_failed=False, recovery_action=0)
SILENT = GpuHealth("GPU-b", None, None, None, None)


def reading(**changes) -> dict[str, GpuHealth]:
    return {"GPU-a": GpuHealth(**vars(SOUND) | changes), "GPU-b": SILENT}


def test_a_sound_gpu_and_one_that_tells_nothing_have_nothing_wrong():
    assert judge(GPU, reading()) is None
    assert judge(OTHER, reading()) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uncorrectable_errors": 2}, "uncorrectable memory errors since the driver was loaded: 2"),
        ({"remap_pending": True}, "a bad row of its GPU's memory will be replaced at the GPU's next reset"),
        ({"remap_failed": True}, "a bad row of its GPU's memory could not be replaced"),
        ({"recovery_action": 1}, "after a fatal error of its GPU the driver asks to reset the GPU"),
        ({"recovery_action": 99}, "after a fatal error of its GPU the driver asks to do its recovery action 99"),
        (
            {"remap_pending": True, "uncorrectable_errors": 1, "recovery_action": 2},
            "the driver asks to reboot the node",
        ),
    ],
)
def test_each_fault_is_named_and_the_worst_comes_first(changes, words):
    sign = judge(GPU, reading(**changes))
    assert sign.reason.endswith(words)
    assert not sign.gone


def test_a_gpu_is_gone_when_two_looks_in_a_row_do_not_find_its_uuid(monkeypatch):
    watch = GpuWatch([GPU, OTHER, CPU])
    looks = iter([reading(), {"GPU-b": SILENT}, reading(), {"GPU-b": SILENT}, {"GPU-b": SILENT}])
    monkeypatch.setattr(gpus, "health", lambda: next(looks))
    assert watch.look() == {"0": None, "1": None}, "the slot without a GPU is not looked at"
    assert watch.look() == {"1": None}, "not found once: it may be the reading"
    assert watch.look() == {"0": None, "1": None}
    assert watch.look() == {"1": None}
    gone = watch.look()["0"]
    assert gone.gone
    assert gone.reason == "its GPU 0 (GPU-a) is missing: the driver does not find it any more"


def test_without_gpus_the_driver_is_not_asked_and_a_driver_that_is_away_proves_nothing(monkeypatch):
    monkeypatch.setattr(gpus, "health", lambda: pytest.fail("asked"))
    assert GpuWatch([CPU]).look() == {}
    monkeypatch.setattr(gpus, "health", lambda: None)
    watch = GpuWatch([GPU])
    assert [watch.look() for _ in range(3)] == [{}, {}, {}]


def test_an_engine_that_is_away_for_long_is_told_once_and_so_is_its_return(clock):
    watch = EngineWatch(patience_s=60)
    assert watch.see("1", True) is None
    assert watch.see("1", False) is None
    clock.advance(59)
    assert watch.see("1", True) is None, "it was only restarted"
    assert watch.see("1", False) is None
    clock.advance(61)
    assert watch.see("1", False) == "no engine has been up on slot 1 for 60 s"
    assert watch.see("1", False) is None
    assert watch.see("1", True) == "the engine on slot 1 is back"
    assert watch.see("1", True) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "torch.AcceleratorError: CUDA error: unspecified launch failure\nCUDA kernel errors might come later",
            "CUDA error: unspecified launch failure",
        ),
        ("  what():  CUDA error: an illegal memory access was encountered\nframe #0: c10::Error", "an illegal memory"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling x", "CUBLAS_STATUS_EXECUTION_FAILED"),
        ("RuntimeError: Triton Error [CUDA]: unspecified launch failure", "Triton Error [CUDA]: unspecified"),
        ("RuntimeError: No CUDA GPUs are available", "No CUDA GPUs are available"),
        (
            "slot 0 is GPU-a, this process sees no GPU (check `nvidia-smi -L`)",
            "slot 0 is GPU-a, this process sees no GPU",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", None),
        ("RuntimeError: CUDA error: out of memory", None),
        ("CUDA error: device-side assert triggered", None),
        ("CUDA error: no kernel image is available for execution on the device", None),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", None),
        ("ValueError: the loss is nan", None),
        ("", None),
    ],
)
def test_only_what_the_device_did_counts_as_its_error(text, found):
    error = quarantine.device_error(text)
    assert error is None if found is None else found in error


def test_an_attempt_is_not_blamed_for_what_an_older_one_logged():
    first = "10:00 attempt 1 on slot 0, process 7\nCUDA error: unknown error\n"
    assert "unknown error" in quarantine.log_of_attempt(first, 1)
    assert quarantine.log_of_attempt(first, 2) == ""
    assert quarantine.log_of_attempt(f"{first}11:00 attempt 2 on slot 0, process 8\nfine", 2) == " 0, process 8\nfine"
    assert quarantine.log_of_attempt("the end of a long log", 5) == "the end of a long log"


def test_the_trainers_log_begins_with_the_words_that_tell_attempts_apart():
    source = (SOURCE / "actors" / "trainer.py").read_text()
    assert "attempt {run.attempt} on slot {" in source


def test_a_queued_run_is_told_when_every_slot_that_it_could_have_is_in_quarantine(home):
    ledger = Ledger(home.ledger)
    any_slot = ledger.submit("a", **SUBMISSION)
    this_slot = ledger.submit("b", **SUBMISSION, slot_wanted="2")
    slots = (GPU, OTHER, CPU)
    assert quarantine.why_waiting(any_slot, slots, ledger.quarantines()) is None
    ledger.quarantine("2", "it smells", "a person")
    assert quarantine.why_waiting(any_slot, slots, ledger.quarantines()) is None, "slot 0 is left"
    assert quarantine.why_waiting(this_slot, slots, ledger.quarantines()) == (
        "every slot that it could have is in quarantine (slot 2: it smells); it waits for `tandem slots release`"
    )
    ledger.quarantine("0", "gone", "tandem")
    assert "(slot 0: gone; slot 2: it smells)" in quarantine.why_waiting(any_slot, slots, ledger.quarantines())
    ledger.close()

"""The formulas give back what was measured, and are sure of themselves only there."""

import pytest

from configs import load
from jobs.prediction import costs
from jobs.prediction.costs import GIB, Device, Range
from models.base.model_shape import GPT_OSS_20B, model_shape

H100 = Device("NVIDIA H100 80GB HBM3", True, 80 * GIB)
RTX_3090 = Device("NVIDIA GeForce RTX 3090", True, 24 * GIB)
HOST = Device("CPU", False, 16 * GIB)
SEED = ["lora.r=8", "lora.alpha=16"]


def config(*sets: str):
    return load.load_run("standard", [*SEED, *sets])


def peak(settings, micro_batch: int, row: float = 1024, base=GPT_OSS_20B, device=H100) -> Range:
    return sum(costs.memory(base, settings, device, micro_batch, row).values(), Range.exactly(0))


@pytest.mark.parametrize(
    ("micro_batch", "experts", "gib"), [(2, False, 14.0), (8, False, 16.3), (16, False, 19.4), (2, True, 15.0)]
)
def test_memory_is_what_was_measured_on_an_h100(micro_batch, experts, gib):
    found = peak(config(f"lora.train_experts={str(experts).lower()}"), micro_batch)
    assert found.likely / GIB == pytest.approx(gib, rel=0.02)
    assert found.low / GIB < gib < found.high / GIB
    assert (found.high - found.low) / found.likely < 0.25, "narrow where it was measured"


@pytest.mark.parametrize(
    ("micro_batch", "experts", "seconds"), [(2, False, 4.1), (8, False, 1.68), (16, False, 1.60), (2, True, 4.4)]
)
def test_time_is_what_was_measured_on_an_h100(micro_batch, experts, seconds):
    settings = config(f"lora.train_experts={str(experts).lower()}")
    found = costs.step_seconds(GPT_OSS_20B, settings, H100, micro_batch, Range.exactly(1024))
    assert found.likely == pytest.approx(seconds, rel=0.1)
    assert found.low < seconds < found.high


def test_an_rtx_3090_takes_what_was_measured_there():
    found = costs.step_seconds(GPT_OSS_20B, config(), RTX_3090, 2, Range.exactly(1024))
    assert found.low < 16.3 < found.high
    memory = peak(config(), 2, device=RTX_3090)
    assert memory.low / GIB < 14.7 < memory.high / GIB


def test_an_unknown_gpu_is_much_less_sure_than_a_measured_one():
    def width(device: Device) -> float:
        found = costs.step_seconds(GPT_OSS_20B, config(), device, 2, Range.exactly(1024))
        return found.high / found.low

    assert width(Device("Some GPU", True, GIB)) > 3 * width(Device("NVIDIA A100", True, GIB)) > 3 * width(H100)


def test_the_longest_names_win_so_that_an_l4_is_no_l40():
    speeds = [Device(f"NVIDIA {name}", True, GIB).slowness.likely for name in ("L4", "L40S", "A10", "A100-SXM4-80GB")]
    bandwidth = [costs.BANDWIDTH[name] for name in ("L4", "L40", "A10", "A100")]
    assert speeds == [costs.BANDWIDTH["H100"] / each for each in bandwidth]


def test_the_embedded_model_costs_a_process_and_little_more():
    settings = load.load_run("tiny")
    assert peak(settings, 8, 130, model_shape("tiny"), HOST).likely / 2**20 == pytest.approx(680, rel=0.15)
    step = costs.step_seconds(model_shape("tiny"), settings, HOST, 8, Range.exactly(120))
    assert step.low < 0.11 < step.high


def test_a_4_bit_base_is_as_large_as_its_file_on_a_gpu_and_4_bytes_a_parameter_on_a_cpu():
    on_gpu = costs.memory(GPT_OSS_20B, config(), H100, 1, 1)["weights"]
    on_cpu = costs.memory(GPT_OSS_20B, config(), HOST, 1, 1)["weights"]
    assert on_gpu.likely == GPT_OSS_20B.tensor_bytes
    assert on_cpu.likely == 4 * GPT_OSS_20B.parameters


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ("lora.r=32", "lora.r=8"),
        ("lora.train_experts=true", "lora.train_experts=false"),
        ("training.optimizer=adamw_torch", "training.optimizer=adamw_8bit"),
        ("training.gradient_checkpointing=false", "training.gradient_checkpointing=true"),
    ],
)
def test_what_is_advised_to_save_memory_does(more, less):
    assert peak(config(more), 2).likely > peak(config(less), 2).likely


def test_an_adapter_and_a_checkpoint_have_the_sizes_that_were_measured():
    settings = config("lora.train_experts=true")
    assert costs.adapter_bytes(GPT_OSS_20B, settings).likely / 2**20 == pytest.approx(353, rel=0.01)
    tiny = costs.checkpoint_bytes(model_shape("tiny"), load.load_run("tiny"), HOST)
    assert tiny.low < 850 * 1024 < tiny.high

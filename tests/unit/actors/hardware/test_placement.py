"""Slots of this machine and what pins a process to one. Only the GPU readings are made up."""

import os
from pathlib import Path

import pytest

from actors.hardware import gpus, placement
from actors.hardware.gpus import GpuReading
from configs import load
from configs.errors import ConfigError, PlacementError
from configs.schema import ClusterConfig, Slot

AUTO = ClusterConfig()


@pytest.fixture
def pretend_gpus(monkeypatch):
    """Pretend that the machine has this many GPUs."""

    def pretend(count: int) -> None:
        readings = [GpuReading(i, f"GPU-{i:04}", "RTX 3090", 24 * 2**30, 0, 0.0, 30.0, 20.0) for i in range(count)]
        monkeypatch.setattr(gpus, "readings", lambda: readings)

    return pretend


def shapes(slots) -> list[tuple]:
    return [(slot.name, slot.gpu, slot.uuid, slot.roles) for slot in slots]


def test_without_gpus_there_are_two_cpu_slots(pretend_gpus):
    pretend_gpus(0)
    assert shapes(placement.resolve_slots(AUTO)) == [("0", None, None, ("train",)), ("1", None, None, ("serve",))]


def test_one_gpu_does_both_half_and_half(pretend_gpus):
    pretend_gpus(1)
    (slot,) = placement.resolve_slots(AUTO)
    assert shapes([slot]) == [("0", 0, "GPU-0000", ("train", "serve"))]
    assert slot.share == 0.5


@pytest.mark.parametrize("count", [2, 8])
def test_with_two_or_more_gpus_the_first_trains_and_the_second_serves(count, pretend_gpus):
    pretend_gpus(count)
    slots = placement.resolve_slots(AUTO)
    assert shapes(slots) == [("0", 0, "GPU-0000", ("train",)), ("1", 1, "GPU-0001", ("serve",))]
    assert [slot.share for slot in slots] == [1, 1]


def test_written_slots_are_taken_as_they_are_with_their_uuids_filled_in(pretend_gpus):
    pretend_gpus(3)
    text = "slots=[{name: a, gpu: 2, roles: [train]}, {name: b, roles: [serve]}]"
    slots = placement.resolve_slots(load.load_cluster(sets=[text]))
    assert shapes(slots) == [("a", 2, "GPU-0002", ("train",)), ("b", None, None, ("serve",))]


def test_a_slot_on_a_gpu_that_does_not_exist_is_refused_with_those_that_do(pretend_gpus):
    pretend_gpus(2)
    config = load.load_cluster(sets=["slots=[{name: a, gpu: 5, roles: [train, serve]}]"])
    with pytest.raises(ConfigError, match="slot a names gpu 5; this machine has 0, 1"):
        placement.resolve_slots(config)


def test_a_slot_whose_gpu_was_exchanged_is_refused_with_both_uuids(pretend_gpus):
    pretend_gpus(1)
    config = load.load_cluster(sets=["slots=[{name: a, gpu: 0, uuid: GPU-old, roles: [train, serve]}]"])
    with pytest.raises(ConfigError, match="slot a wants GPU GPU-old; gpu 0 is GPU-0000"):
        placement.resolve_slots(config)


def test_every_slot_is_one_custom_resource():
    slots = (Slot(name="0", roles=("train",)), Slot(name="1", roles=("serve",)))
    assert placement.cluster_resources(slots) == {"gpu_slot_0": 1.0, "gpu_slot_1": 1.0}


def test_an_actor_on_a_whole_gpu_takes_its_slot_and_sees_only_its_uuid():
    slot = Slot(name="1", gpu=1, uuid="GPU-0001", roles=("serve",))
    options = placement.actor_options(slot, "serve", neighbours=2, cache=Path("/tmp/cache"))
    assert (options["num_gpus"], options["num_cpus"], options["resources"]) == (1, 0, {"gpu_slot_1": 1})
    env = options["runtime_env"]["env_vars"]
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-0001"
    assert env["UNSLOTH_COMPILE_LOCATION"] == "/tmp/cache/unsloth_serve"


def test_two_roles_of_one_slot_fit_onto_it_together():
    slot = Slot(name="0", gpu=0, uuid="GPU-0000", roles=("train", "serve"))
    both = [placement.actor_options(slot, role, neighbours=1, cache=Path("/c")) for role in slot.roles]
    assert sum(options["num_gpus"] for options in both) == 1
    assert sum(options["resources"]["gpu_slot_0"] for options in both) == 1
    places = {options["runtime_env"]["env_vars"]["UNSLOTH_COMPILE_LOCATION"] for options in both}
    assert len(places) == 2, "each role compiles into its own folder"


def test_an_actor_on_a_cpu_slot_asks_for_no_gpu_and_sees_none():
    options = placement.actor_options(Slot(name="0", roles=("train",)), "train", neighbours=2, cache=Path("/c"))
    assert (options["num_gpus"], options["resources"]) == (0, {"gpu_slot_0": 1})
    assert options["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(("cpus", "neighbours", "threads"), [(8, 2, "4"), (2, 2, "1"), (1, 4, "1"), (None, 1, "1")])
def test_slots_divide_the_cores(cpus, neighbours, threads, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    options = placement.actor_options(
        Slot(name="0", roles=("train",)), "train", neighbours=neighbours, cache=Path("/c")
    )
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("visible", ["", None])
def test_on_a_cpu_slot_a_process_computes_on_the_cpu(visible, monkeypatch):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert placement.check_slot(Slot(name="0", roles=("train",))) == "cpu"


def test_a_cpu_slot_refuses_a_process_that_was_given_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0000")
    with pytest.raises(PlacementError, match="slot 0 is a CPU slot, but CUDA_VISIBLE_DEVICES is 'GPU-0000'"):
        placement.check_slot(Slot(name="0", roles=("train",)))


def test_a_gpu_slot_refuses_a_process_that_sees_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    slot = Slot(name="0", gpu=0, uuid="GPU-0000", roles=("train",))
    with pytest.raises(PlacementError, match="slot 0 is GPU-0000, this process sees no GPU"):
        placement.check_slot(slot)

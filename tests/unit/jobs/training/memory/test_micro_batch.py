"""The micro-batch is chosen by measurement, once per profile, versions and GPU."""

import pytest

from configs.errors import TrainingError
from jobs.training.memory import micro_batch as fit
from jobs.training.memory.micro_batch import Trial

GIB = 2**30


class Device:
    """Seconds by micro-batch; what is not listed does not fit."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.asked = seconds, []

    def __call__(self, micro_batch: int) -> Trial:
        self.asked.append(micro_batch)
        return Trial(micro_batch, self.seconds.get(micro_batch), None)


def choose(device: Device, tmp_path, *, batch: int = 16, longest: int = 1024, key: str = "k") -> fit.MicroBatchChoice:
    return fit.choose(batch, device, longest_row=longest, key=key, cache=tmp_path)


def test_the_largest_wins_where_it_is_fastest_and_the_search_ends_there(tmp_path):
    device = Device({16: 1.60, 8: 1.68, 4: 2.5, 2: 4.1, 1: 8})
    assert choose(device, tmp_path).micro_batch == 16
    assert device.asked == [16, 8], "8 is slower, so are 4, 2 and 1"


def test_a_smaller_one_wins_where_padding_makes_large_ones_slow(tmp_path):
    device = Device({16: 3.0, 8: 2.0, 4: 1.5, 2: 1.9, 1: 3.0})
    assert choose(device, tmp_path).micro_batch == 4
    assert device.asked == [16, 8, 4, 2]


def test_what_does_not_fit_is_passed_over(tmp_path):
    device = Device({4: 2.5, 2: 4.1, 1: 8.0})
    chosen = choose(device, tmp_path)
    assert (chosen.micro_batch, device.asked) == (4, [16, 8, 4, 2])
    assert "16: does not fit" in str(chosen)


def test_if_nothing_fits_the_error_says_what_to_change(tmp_path):
    with pytest.raises(TrainingError, match="one row of 1024 tokens does not fit") as caught:
        choose(Device({}), tmp_path)
    assert "model.max_seq_length" in caught.value.hint
    assert list(tmp_path.iterdir()) == [], "a failure is not remembered"


def test_only_divisors_of_the_effective_batch_are_tried(tmp_path):
    device = Device({})
    with pytest.raises(TrainingError):
        choose(device, tmp_path, batch=12)
    assert device.asked == [12, 6, 4, 3, 2, 1]


def test_an_answer_is_remembered_for_its_key_and_rows_that_are_no_longer(tmp_path):
    device = Device({16: 1.0, 8: 2.0})
    first = choose(device, tmp_path)
    again = choose(device, tmp_path, longest=800)
    assert (again.micro_batch, again.trials, first.cached, again.cached) == (16, first.trials, False, True)
    assert device.asked == [16, 8]
    assert choose(device, tmp_path, longest=2048).cached is False
    assert choose(device, tmp_path, key="other").cached is False


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"micro_batch": 4}', '{"trials": 3}'])
def test_a_damaged_memory_is_measured_anew(damage, tmp_path):
    choose(Device({16: 1.0, 8: 2.0}), tmp_path)
    (tmp_path / "k.json").write_text(damage)
    assert choose(Device({16: 3.0, 8: 2.0, 4: 4.0}), tmp_path).micro_batch == 8


def test_a_key_changes_with_every_part():
    about = {"config": {"lora": {"r": 8}}, "how": {"batch": 16, "memory": 23}, "base": "f", "on": "RTX 3090"}
    turned = dict(reversed(about.items())) | {"how": {"memory": 23, "batch": 16}}
    assert fit.key_of(**about, versions={"torch": "1"}) == fit.key_of(versions={"torch": "1"}, **turned)
    assert fit.key_of(**about, versions={"torch": "1"}) != fit.key_of(**about, versions={"torch": "2"})


def test_the_budget_is_the_slots_share_less_a_cushion_and_at_most_what_is_allowed():
    assert fit.budget_bytes(24 * GIB, 1.0, None) == int(24 * GIB * 0.94)
    assert fit.budget_bytes(80 * GIB, 0.5, None) == int(40 * GIB * 0.94)
    assert fit.budget_bytes(80 * GIB, 0.5, 24) == 24 * GIB
    assert fit.budget_bytes(24 * GIB, 0.5, 24) == int(12 * GIB * 0.94)

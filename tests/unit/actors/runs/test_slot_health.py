"""What the control actor does with slots that are not to be trusted, over a real ledger and NVML's faked readings."""

import asyncio
import math

import pytest

from actors.hardware import gpus
from actors.hardware.gpus import GpuHealth
from actors.home.process_id import ProcessId
from actors.runs import quarantine as health
from actors.runs.run import RunState
from configs.errors import NotFoundError, StateError
from configs.schema import Slot
from tests.unit.actors.conftest import SERVE, TRAIN, marked_process

S = RunState
GPU = Slot(name="0", gpu=0, uuid="GPU-a", roles=("train",))
BOTH = Slot(name="1", gpu=1, uuid="GPU-b", roles=("train", "serve"))
CUDA = "torch.AcceleratorError: CUDA error: unspecified launch failure"


class Driver:
    """What NVML would say, changed by a test."""

    def __init__(self, monkeypatch) -> None:
        self.gpus = {uuid: GpuHealth(uuid, 0, False, False, 0) for uuid in ("GPU-a", "GPU-b")}
        monkeypatch.setattr(gpus, "health", lambda: dict(self.gpus))

    def change(self, uuid: str, **changes) -> None:
        self.gpus[uuid] = GpuHealth(**vars(self.gpus[uuid]) | changes)


@pytest.fixture
def nvml(monkeypatch) -> Driver:
    return Driver(monkeypatch)


async def look(desk, times: int = 1) -> None:
    """As many whole looks at the GPUs, each with the tick that acts on it; one that was begun before ends first."""
    for _ in range(times):
        if desk.control._watch._look is not None:
            await asyncio.wait([desk.control._watch._look])
            await desk.tick()
        desk.control._watch._looked_at = -math.inf
        await desk.tick()
        await asyncio.wait([desk.control._watch._look])
        await desk.tick()


def kinds(desk) -> list[str]:
    return [event.kind for event in desk.ledger.events() if event.kind in ("quarantine", "release", "device_error")]


def test_a_slot_in_quarantine_is_given_to_nobody_until_it_is_released(drive):
    async def scenario(desk):
        given = await desk.control.quarantine("0", "the fan rattles")
        assert (given.slot, given.reason, given.by) == ("0", "the fan rattles", "a person")
        await desk.submit("a")
        await desk.tick(3)
        assert desk.state("a") is S.QUEUED
        assert (await desk.control.describe_slots())[0].quarantine == given
        assert await desk.control.release_quarantine("0") is None
        await desk.tick()
        assert desk.holders() == {"0": "a"}
        assert (await desk.control.describe_slots())[0].quarantine is None
        assert kinds(desk) == ["quarantine", "release"]

    drive(scenario)


def test_a_run_takes_another_slot_and_one_that_wants_this_slot_waits(drive):
    async def scenario(desk):
        await desk.control.quarantine("0", "x")
        await desk.submit("picky", slot_wanted="0", priority=9)
        await desk.submit("any")
        await desk.tick()
        assert desk.holders() == {"1": "any"}
        assert desk.state("picky") is S.QUEUED

    drive(scenario, slots=(TRAIN, Slot(name="1", roles=("train", "serve"))))


def test_quarantine_survives_the_control_actor_and_keeps_its_first_reason(drive):
    async def scenario(desk):
        await desk.control.quarantine("0", "first")
        with pytest.raises(StateError, match=r"slot 0 is in quarantine already, since .*: first"):
            await desk.control.quarantine("0", "second")
        await desk.restart()
        assert (await desk.control.quarantines())["0"].reason == "first"
        assert kinds(desk) == ["quarantine"]

    drive(scenario)


def test_an_unknown_slot_and_one_that_is_not_in_quarantine_are_refused(drive):
    async def scenario(desk):
        with pytest.raises(NotFoundError, match="no slot 7") as caught:
            await desk.control.quarantine("7", "x")
        assert caught.value.hint == "slots: 0, 1"
        with pytest.raises(NotFoundError, match="no slot 7"):
            await desk.control.release_quarantine("7")
        with pytest.raises(StateError, match="slot 0 is not in quarantine"):
            await desk.control.release_quarantine("0")

    drive(scenario)


def test_a_person_s_quarantine_lets_the_run_that_holds_the_slot_go_on(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        await desk.control.quarantine("0", "later")
        await desk.tick()
        assert await desk.step("a", attempt) == "CONTINUE"
        assert desk.state("a") is S.RUNNING

    drive(scenario)


def test_the_run_of_a_vanished_gpu_goes_back_to_the_queue_and_on_another_slot(drive, nvml):
    async def scenario(desk):
        await desk.running("a")
        await look(desk)
        assert desk.ledger.quarantines() == {}
        lost = nvml.gpus.pop("GPU-a")
        await look(desk)
        assert desk.state("a") is S.RUNNING, "one look that does not find it is not proof"
        await look(desk)
        assert "its GPU 0 (GPU-a) is missing" in desk.ledger.quarantines()["0"].reason
        assert desk.ledger.quarantines()["0"].by == "tandem"
        assert desk.jobs.stopped == ["a-1"]
        run = desk.ledger.run("a")
        assert (run.state, run.slot, run.attempt) == (S.STARTING, "1", 2)
        (told,) = [event.text for event in desk.ledger.events(run_id="a") if event.kind == "interrupted"]
        assert told.endswith("it waits for another slot or for `tandem slots release 0`")
        with pytest.raises(StateError, match="slot 0 stays in quarantine: its GPU 0"):
            await desk.control.release_quarantine("0")
        nvml.gpus["GPU-a"] = lost
        await look(desk, 2)
        assert "0" in desk.ledger.quarantines(), "it came back, but nobody has released it"
        await desk.control.release_quarantine("0")
        assert desk.ledger.quarantines() == {}

    drive(scenario, slots=(GPU, BOTH))


def test_with_no_other_slot_the_run_of_a_vanished_gpu_waits_with_the_reason(drive, nvml):
    async def scenario(desk):
        await desk.running("a")
        del nvml.gpus["GPU-a"]
        await look(desk, 2)
        run = desk.ledger.run("a")
        assert run.state is S.QUEUED
        assert run.reason.startswith("again after: slot 0 is in quarantine: its GPU 0 (GPU-a) is missing")
        assert desk.holders() == {}

    drive(scenario, slots=(GPU, SERVE))


def test_a_gpu_that_vanishes_while_its_slot_is_in_quarantine_still_gives_its_run_back(drive, nvml):
    async def scenario(desk):
        await desk.running("a")
        await desk.control.quarantine("0", "the fan rattles")
        del nvml.gpus["GPU-a"]
        await look(desk, 2)
        assert desk.state("a") is S.QUEUED
        assert desk.ledger.quarantines()["0"].reason == "the fan rattles"

    drive(scenario, slots=(GPU, SERVE))


def test_a_memory_error_stops_new_runs_only_and_what_a_person_accepts_is_not_judged_again(drive, nvml):
    async def scenario(desk):
        attempt = await desk.running("a")
        nvml.change("GPU-a", uncorrectable_errors=1)
        await look(desk)
        assert desk.state("a") is S.RUNNING
        assert desk.ledger.quarantines()["0"].reason.endswith("driver was loaded: 1")
        await desk.control.finish("a", attempt, S.SUCCEEDED, "done")
        assert (await desk.control.release_quarantine("0")).endswith("driver was loaded: 1")
        await look(desk)
        await desk.restart()
        await look(desk)
        assert desk.ledger.quarantines() == {}, "accepted, and the next control actor knows it too"
        nvml.change("GPU-a", uncorrectable_errors=0)
        await look(desk)
        nvml.change("GPU-a", uncorrectable_errors=1)
        await look(desk)
        assert "0" in desk.ledger.quarantines(), "the counter began anew, so this is another error"

    drive(scenario, slots=(GPU, SERVE))


def test_a_serving_slot_in_quarantine_keeps_its_engine_and_an_engine_may_take_it_again(drive, nvml):
    async def scenario(desk):
        await desk.control.take_serve_slot("1", "engine_1", ProcessId.own())
        nvml.change("GPU-b", recovery_action=1)
        await look(desk)
        assert desk.ledger.quarantines()["1"].reason.endswith("asks to reset the GPU")
        assert desk.holders() == {"1": "engine_1"}
        await desk.control.take_serve_slot("1", "engine_1", ProcessId.own())
        await desk.submit("a", slot_wanted="1")
        await desk.tick()
        assert desk.state("a") is S.QUEUED

    drive(scenario, slots=(GPU, BOTH))


def test_runs_in_a_row_that_their_device_ended_put_the_slot_into_quarantine_before_the_next_one(drive):
    async def scenario(desk):
        for run_id in ("a", "b", "c"):
            await desk.submit(run_id)
        await desk.tick()
        await desk.control.finish("a", 1, S.FAILED, CUDA)
        assert desk.ledger.quarantines() == {}
        await desk.tick()
        await desk.control.finish("b", 1, S.FAILED, CUDA)
        quarantine = desk.ledger.quarantines()["0"]
        assert quarantine.reason == (
            "2 runs in a row ended by a device error, last b: CUDA error: unspecified launch failure"
        )
        await desk.tick()
        assert desk.state("c") is S.QUEUED
        assert kinds(desk) == ["device_error", "device_error", "quarantine"]
        await desk.control.release_quarantine("0")
        await desk.tick()
        await desk.control.finish("c", 1, S.FAILED, CUDA)
        assert desk.ledger.quarantines() == {}, "a release begins the count anew"

    drive(scenario, quarantine_after=2)


def test_a_process_that_died_is_judged_by_its_own_attempts_log(drive):
    async def scenario(desk):
        log = desk.home.run("a") / "log.txt"
        log.parent.mkdir(parents=True)
        log.write_text("attempt 1 on slot 0, process 7\nterminate called\n  what():  CUDA error: unknown error\n")
        await desk.running("a")
        await desk.control.finish("a", 1, S.INTERRUPTED, "its process died")
        assert kinds(desk) == ["device_error"]
        await desk.tick()
        await desk.control.finish("a", 2, S.INTERRUPTED, "its process died before it said anything")
        assert kinds(desk) == ["device_error"]

    drive(scenario)


@pytest.mark.parametrize("between", [S.SUCCEEDED, S.FAILED])
def test_a_run_that_worked_on_the_slot_begins_the_count_anew(between, drive):
    async def scenario(desk):
        for run_id in ("a", "b", "c"):
            await desk.running(run_id)
            state, reason = (between, "the data is bad") if run_id == "b" else (S.FAILED, CUDA)
            await desk.control.finish(run_id, 1, state, reason)
        assert desk.ledger.quarantines() == {}

    drive(scenario, quarantine_after=2)


def test_a_run_that_failed_before_it_began_to_work_says_nothing_about_the_device(drive):
    async def scenario(desk):
        for run_id, reason in (("a", CUDA), ("b", "no data set of that name"), ("c", CUDA)):
            await desk.submit(run_id)
            await desk.tick()
            await desk.control.finish(run_id, 1, S.FAILED, reason)
        assert "0" in desk.ledger.quarantines()

    drive(scenario, quarantine_after=2)


def test_memory_that_ran_out_and_a_stopped_run_never_count(drive):
    async def scenario(desk):
        await desk.running("a")
        await desk.control.finish("a", 1, S.FAILED, "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB")
        await desk.running("b")
        await desk.control.finish("b", 1, S.STOPPED, CUDA)
        assert kinds(desk) == []

    drive(scenario, quarantine_after=1)


def test_a_driver_that_never_answers_holds_up_nobody(drive, monkeypatch):
    async def scenario(desk):
        release = asyncio.Event()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(gpus, "health", lambda: asyncio.run_coroutine_threadsafe(release.wait(), loop).result())
        await desk.submit("a")
        await desk.tick(3)
        assert desk.state("a") is S.STARTING
        release.set()
        await asyncio.wait([desk.control._watch._look])

    drive(scenario, slots=(GPU, SERVE))


def test_a_driver_that_never_answers_does_not_hide_that_an_engine_is_gone(drive, clock, monkeypatch):
    async def scenario(desk):
        release = asyncio.Event()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(gpus, "health", lambda: asyncio.run_coroutine_threadsafe(release.wait(), loop).result())
        await desk.tick()
        clock.advance(31)
        await desk.tick()
        assert [event.kind for event in desk.ledger.events()] == ["engine_down"]
        release.set()
        await asyncio.wait([desk.control._watch._look])

    drive(scenario, slots=(GPU, SERVE), engine_patience_s=30)


def test_an_engine_that_is_gone_for_long_is_an_event_and_so_is_its_return(drive, clock):
    async def scenario(desk):
        await look(desk)
        clock.advance(13)
        await look(desk)
        found = [(event.kind, event.text) for event in desk.ledger.events()]
        assert found == [("engine_down", "no engine has been up on slot 1 for 12 s")]
        await desk.control.take_serve_slot("1", "engine_1", ProcessId.own())
        clock.advance(health.LOOK_S)
        await look(desk)
        assert desk.ledger.events()[-1].kind != "engine", "it is loading"
        await desk.control.engine_is_up("1", ProcessId.own())
        clock.advance(health.LOOK_S)
        await look(desk)
        assert desk.ledger.events()[-1].kind == "engine"
        told = desk.ledger.last_event()
        await desk.restart()
        await look(desk)
        clock.advance(13)
        await look(desk)
        assert desk.ledger.last_event() == told, "a new control actor knows that it is up"

    drive(scenario, engine_patience_s=12)


def test_an_engine_that_dies_whenever_it_loads_is_missed_as_one_that_never_comes(drive, clock, home):
    async def scenario(desk):
        for _ in range(4):
            engine = marked_process(home)
            await desk.control.take_serve_slot("1", "engine_1", ProcessId.of(engine.pid))
            await look(desk)
            engine.kill()
            engine.wait()
            clock.advance(11)
        await look(desk)
        assert [event.kind for event in desk.ledger.events() if event.kind.startswith("engine")] == ["engine_down"]

    drive(scenario, engine_patience_s=30)

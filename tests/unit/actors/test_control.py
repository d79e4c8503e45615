"""The control actor as a plain object, ticked by hand over a real ledger: only Ray's job API is a fake."""

import asyncio
import os
import subprocess
import sys
import time
import tracemalloc

import psutil
import pytest

from actors import control as control_module
from actors.cluster import MARKER
from actors.control_client import Directive
from actors.ledger import AdapterState
from actors.ray_jobs import JobState
from actors.run import RunState
from configs.errors import ClusterError, NotFoundError, StateError
from configs.paths import Home
from configs.schema import Slot
from tests.samples import EXPORT
from tests.unit.actors.conftest import SERVE, TRAIN, Desk

S = RunState


SECOND = Slot(name="2", roles=("train", "serve"))


# The queue


def test_a_queued_run_is_granted_a_training_slot_and_its_job_is_started(drive):
    async def scenario(desk):
        assert (await desk.submit("a"))["state"] == "QUEUED"
        assert desk.jobs.submitted == []
        await desk.tick()
        run = desk.ledger.run("a")
        assert (run.state, run.slot, run.attempt, run.job_id) == (S.STARTING, "0", 1, "a-1")
        assert desk.jobs.submitted == [("a-1", "a")]

    drive(scenario)


def test_runs_of_every_kind_share_one_queue_and_are_started_as_what_they_are(drive):
    async def scenario(desk):
        await desk.control.submit("e", **EXPORT)
        await desk.submit("t")
        await desk.tick()
        assert desk.holders() == {"0": "e"}
        assert (desk.jobs.submitted, desk.jobs.kinds) == ([("e-1", "e")], {"e-1": "export"})
        attempt = await desk.begin("e")
        await desk.control.report("e", attempt, step=3, max_steps=71, loss=None, tokens_per_s=None)
        run = desk.ledger.run("e")
        assert (run.kind, run.state, run.step, run.max_steps, run.loss) == ("export", S.RUNNING, 3, 71, None)
        ended = await desk.control.finish("e", attempt, S.SUCCEEDED, "exported")
        assert (ended["state"], ended["adapter"]) == ("SUCCEEDED", None)
        await desk.tick()
        assert desk.holders() == {"0": "t"} and desk.jobs.kinds["t-1"] == "train"

    drive(scenario)


def test_an_interrupted_export_is_started_again_as_an_export(drive):
    async def scenario(desk):
        await desk.control.submit("e", **EXPORT)
        await desk.tick()
        await desk.control.finish("e", 1, S.INTERRUPTED, "its process died")
        await desk.tick()
        assert (desk.state("e"), desk.jobs.kinds["e-2"]) == (S.STARTING, "export")

    drive(scenario)


def test_slots_are_granted_by_priority_then_age_and_never_twice(drive):
    async def scenario(desk):
        for run_id, priority in (("old", 0), ("urgent", 5), ("new", 0)):
            await desk.submit(run_id, priority=priority)
        order = []
        for _ in range(3):
            await desk.tick(3)
            (holder,) = desk.holders().values()
            order.append(holder)
            await desk.control.finish(holder, 1, S.SUCCEEDED, "done")
        assert order == ["urgent", "old", "new"]

    drive(scenario)


def test_several_training_slots_work_at_once(drive):
    async def scenario(desk):
        for run_id in ("a", "b", "c"):
            await desk.submit(run_id)
        await desk.tick()
        assert desk.holders() == {"0": "a", "2": "b"}
        assert desk.state("c") is S.QUEUED

    drive(scenario, slots=(TRAIN, SERVE, SECOND))


def test_a_run_that_wants_one_slot_waits_for_it_and_holds_up_nobody(drive):
    async def scenario(desk):
        await desk.submit("a", slot_wanted="2")
        await desk.submit("b", slot_wanted="2", priority=9)
        await desk.submit("c")
        await desk.tick()
        assert desk.holders() == {"2": "b", "0": "c"}
        await desk.control.finish("c", 1, S.SUCCEEDED, "done")
        await desk.tick(2)
        assert desk.state("a") is S.QUEUED, "slot 0 is free, but not the one it wants"

    drive(scenario, slots=(TRAIN, SERVE, SECOND))


@pytest.mark.parametrize("slot", ["1", "7"])
def test_a_slot_that_does_not_train_is_refused_at_submission(slot, drive):
    async def scenario(desk):
        with pytest.raises(StateError, match=f"slot {slot} does not train") as caught:
            await desk.submit("a", slot_wanted=slot)
        assert caught.value.hint == "slots that do: 0"
        assert desk.ledger.runs() == []

    drive(scenario)


def test_an_unknown_parent_is_refused_at_submission(drive):
    async def scenario(desk):
        with pytest.raises(NotFoundError, match="no run nope"):
            await desk.submit("a", parent="nope")
        assert desk.ledger.runs() == []

    drive(scenario)


def test_submitting_twice_under_one_id_is_one_run(drive):
    async def scenario(desk):
        first = await desk.submit("a")
        await desk.tick()
        again = await desk.submit("a", priority=9)
        assert (again["id"], again["created_at"], again["state"]) == ("a", first["created_at"], "STARTING")
        assert len(desk.ledger.runs()) == 1
        assert len(desk.jobs.submitted) == 1

    drive(scenario)


@pytest.mark.parametrize("run_id", ["a;id", "../../etc/cron.d/x", "$(id)", "a b", ""])
def test_an_id_that_could_reach_a_shell_or_a_path_is_refused(run_id, drive):
    async def scenario(desk):
        with pytest.raises(NotFoundError, match="is not a run id"):
            await desk.submit(run_id)
        assert desk.ledger.runs() == []

    drive(scenario)


def test_a_job_that_cannot_be_started_fails_its_run_and_frees_the_slot(drive):
    async def scenario(desk):
        desk.jobs.refuses = "the dashboard is away"
        await desk.submit("a")
        await desk.tick()
        run = desk.ledger.run("a")
        assert (run.state, run.reason) == (S.FAILED, "its job could not be started: the dashboard is away")
        assert desk.holders() == {}

    drive(scenario)


# What a run's driver and trainer hear


def test_a_driver_gets_its_slot_and_attempt_as_soon_as_it_is_granted(drive):
    async def scenario(desk):
        await desk.submit("a", attached=True, job_id="raysubmit_1")
        desk.jobs.states["raysubmit_1"] = JobState.ALIVE
        assert await desk.control.wait_for_slot("a", wait_s=0.01) is None
        waiting = asyncio.create_task(desk.control.wait_for_slot("a", wait_s=10))
        await asyncio.sleep(0.01)
        await desk.tick()
        ticket = await asyncio.wait_for(waiting, 1)
        assert (Slot(**ticket["slot"]), ticket["attempt"]) == (TRAIN, 1)

    drive(scenario)


def test_a_driver_whose_run_was_stopped_hears_why(drive):
    async def scenario(desk):
        await desk.submit("a", attached=True, job_id="raysubmit_1")
        waiting = asyncio.create_task(desk.control.wait_for_slot("a", wait_s=10))
        await asyncio.sleep(0.01)
        await desk.control.stop("a", "not today")
        with pytest.raises(StateError, match="run a is STOPPED: not today"):
            await asyncio.wait_for(waiting, 1)

    drive(scenario)


def test_a_run_starts_trains_reports_and_succeeds(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        assert desk.ledger.leases()[0].pid == os.getpid()
        assert await desk.step("a", attempt, 4) is Directive.CONTINUE
        ended = await desk.control.finish("a", attempt, S.SUCCEEDED, "published v1", "v1")
        assert (ended["state"], ended["step"], ended["loss"], ended["adapter"]) == ("SUCCEEDED", 4, 1.0, "v1")
        assert desk.ledger.adapter_states()["v1"][0] is AdapterState.PUBLISHED
        assert desk.holders() == {}
        kinds = [event.kind for event in desk.ledger.events(run_id="a")]
        assert kinds == ["queued", "starting", "running", "published", "succeeded"]

    drive(scenario)


def test_a_run_that_succeeds_before_it_said_running_is_recorded_as_both(drive):
    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        assert (await desk.control.finish("a", 1, S.SUCCEEDED, "quick"))["state"] == "SUCCEEDED"

    drive(scenario)


def test_a_failed_runs_last_lines_are_in_the_ledger(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        log = desk.home.run("a") / "log.txt"
        log.parent.mkdir(parents=True)
        log.write_text("".join(f"line {number}\n" for number in range(100)))
        await desk.control.finish("a", attempt, S.FAILED, "the loss is nan")
        assert desk.ledger.run("a").reason == "the loss is nan"
        (event,) = [event for event in desk.ledger.events(run_id="a") if event.kind == "log"]
        assert event.text.splitlines() == [f"line {number}" for number in range(80, 100)]

    drive(scenario)


def test_finishing_twice_is_the_same_as_once(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        await desk.control.finish("a", attempt, S.SUCCEEDED, "published v1", "v1")
        before = desk.ledger.events()
        again = await desk.control.finish("a", attempt, S.FAILED, "the answer was lost")
        assert (again["state"], again["reason"]) == ("SUCCEEDED", "published v1")
        assert desk.ledger.events() == before

    drive(scenario)


def test_an_older_attempt_is_told_to_stop_and_changes_nothing(drive):
    async def scenario(desk):
        old = await desk.running("a")
        desk.jobs.states["a-1"] = JobState.FAILED
        await desk.tick()
        new = await desk.begin("a")
        assert (old, new) == (1, 2)
        before = desk.ledger.run("a")
        assert await desk.control.starting("a", old, pid=1) is Directive.STOP
        assert await desk.control.training("a", old) is Directive.STOP
        assert await desk.step("a", old, 7) is Directive.STOP
        assert (await desk.control.finish("a", old, S.FAILED, "late"))["state"] == "RUNNING"
        assert desk.ledger.run("a") == before
        assert desk.ledger.leases()[0].pid == os.getpid()
        assert await desk.step("a", new, 1) is Directive.CONTINUE

    drive(scenario)


# Stopping


def test_a_queued_run_is_stopped_at_once(drive):
    async def scenario(desk):
        await desk.submit("a")
        assert (await desk.control.stop("a"))["state"] == "STOPPED"
        await desk.tick()
        assert desk.jobs.submitted == []

    drive(scenario)


def test_a_starting_runs_job_is_ended_and_the_run_is_stopped_when_it_is_gone(drive):
    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        assert (await desk.control.stop("a", "changed my mind"))["state"] == "STOPPING"
        assert desk.jobs.stopped == ["a-1"]
        await desk.tick()
        assert desk.holders() == {"0": "a"}, "its job is still there"
        desk.jobs.states["a-1"] = JobState.STOPPED
        await desk.tick()
        run = desk.ledger.run("a")
        assert (run.state, run.reason) == (S.STOPPED, "changed my mind")
        assert desk.holders() == {}

    drive(scenario)


def test_a_running_run_is_asked_at_its_next_step_and_ends_by_itself(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        assert (await desk.control.stop("a"))["state"] == "STOPPING"
        assert desk.jobs.stopped == []
        assert await desk.step("a", attempt, 5) is Directive.STOP
        assert desk.ledger.run("a").step == 5, "the step was done, so it is on record"
        await desk.control.finish("a", attempt, S.STOPPED, "checkpoint kept")
        assert (desk.state("a"), desk.ledger.run("a").reason) == (S.STOPPED, "checkpoint kept")

    drive(scenario)


def test_a_stopping_run_that_finishes_its_last_step_has_succeeded(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        await desk.control.stop("a")
        assert (await desk.control.finish("a", attempt, S.SUCCEEDED, "published v1", "v1"))["state"] == "SUCCEEDED"

    drive(scenario)


def test_stopping_twice_is_the_same_as_once_and_an_ended_run_cannot_be_stopped(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        await desk.control.stop("a", "first")
        assert (await desk.control.stop("a", "second"))["reason"] == "first"
        await desk.control.finish("a", attempt, S.STOPPED, "done")
        with pytest.raises(StateError, match="run a has ended already: STOPPED"):
            await desk.control.stop("a")

    drive(scenario)


def test_a_run_that_does_not_stop_is_killed_after_its_grace(drive, clock):
    async def scenario(desk):
        await desk.running("a")
        await desk.control.stop("a")
        await desk.tick()
        assert desk.state("a") is S.STOPPING
        clock.advance(6)
        await desk.tick()
        assert desk.jobs.stopped == ["a-1"]
        assert (desk.state("a"), desk.ledger.run("a").reason) == (S.STOPPED, "killed: not stopped after 5 s")
        assert desk.holders() == {}

    drive(scenario, stop_grace_s=5)


def test_the_grace_begins_anew_when_the_control_actor_does(drive, clock):
    async def scenario(desk):
        await desk.running("a")
        await desk.control.stop("a")
        clock.advance(6)
        await desk.restart()
        await desk.tick()
        assert desk.state("a") is S.STOPPING
        clock.advance(6)
        await desk.tick()
        assert desk.state("a") is S.STOPPED

    drive(scenario, stop_grace_s=5)


def test_a_run_that_finishes_while_it_is_being_killed_keeps_its_own_result(drive, clock):
    async def scenario(desk):
        attempt = await desk.running("a")
        await desk.control.stop("a")
        await desk.tick()
        loop = asyncio.get_running_loop()
        ending = lambda: desk.control.finish("a", attempt, S.SUCCEEDED, "just in time", "v1")  # noqa: E731
        desk.jobs.on_stop = lambda: asyncio.run_coroutine_threadsafe(ending(), loop).result(5)
        clock.advance(6)
        await desk.tick()
        assert (desk.state("a"), desk.ledger.run("a").reason) == (S.SUCCEEDED, "just in time")

    drive(scenario, stop_grace_s=5)


# Runs that lose their processes


def test_a_run_whose_job_died_is_queued_again_and_granted_anew(drive):
    async def scenario(desk):
        await desk.running("a")
        desk.jobs.states["a-1"] = JobState.FAILED
        desk.jobs.messages["a-1"] = "out of memory"
        await desk.control._attempts.look_after(desk.ledger.run("a"))
        run = desk.ledger.run("a")
        assert (run.state, run.job_id) == (S.QUEUED, None)
        assert run.reason == "again after: its job ended (FAILED): out of memory"
        await desk.tick()
        assert desk.jobs.submitted == [("a-1", "a"), ("a-2", "a")]
        kinds = [event.kind for event in desk.ledger.events(run_id="a")]
        assert kinds == ["queued", "starting", "running", "interrupted", "queued", "starting"]

    drive(scenario)


def test_a_run_without_a_sign_of_life_is_killed_and_queued_again(drive, clock):
    async def scenario(desk):
        await desk.running("a")
        await desk.tick()
        assert desk.state("a") is S.RUNNING
        clock.advance(6)
        await desk.control._attempts.look_after(desk.ledger.run("a"))
        assert desk.jobs.stopped == ["a-1"]
        assert desk.ledger.run("a").reason == "again after: no sign of life for 5 s"

    drive(scenario, heartbeat_timeout_s=5)


def test_each_report_is_a_sign_of_life(drive, clock):
    async def scenario(desk):
        attempt = await desk.running("a")
        for step in range(5):
            clock.advance(4)
            assert await desk.step("a", attempt, step) is Directive.CONTINUE
            await desk.tick()
        assert desk.state("a") is S.RUNNING

    drive(scenario, heartbeat_timeout_s=5)


def test_after_its_last_attempt_an_interrupted_run_has_failed(drive):
    async def scenario(desk):
        await desk.submit("a")
        for attempt in (1, 2, 3):
            await desk.tick()
            assert desk.ledger.run("a").attempt == attempt
            desk.jobs.states[f"a-{attempt}"] = JobState.FAILED
        await desk.tick()
        run = desk.ledger.run("a")
        assert run.state is S.FAILED
        assert run.reason.startswith("interrupted 3 times, last: its job ended (FAILED)")
        assert (len(desk.jobs.submitted), desk.holders()) == (3, {})

    drive(scenario, max_attempts=3)


def test_a_driver_that_says_interrupted_sends_its_run_back_to_the_queue(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        ended = await desk.control.finish("a", attempt, S.INTERRUPTED, "its trainer died")
        assert (ended["state"], ended["reason"]) == ("QUEUED", "again after: its trainer died")

    drive(scenario)


def test_a_run_that_is_interrupted_while_stopping_is_stopped(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        await desk.control.stop("a")
        assert (await desk.control.finish("a", attempt, S.INTERRUPTED, "its trainer died"))["state"] == "STOPPED"

    drive(scenario)


def test_a_job_that_somebody_stopped_in_ray_stops_its_run(drive):
    async def scenario(desk):
        await desk.running("a")
        desk.jobs.states["a-1"] = JobState.STOPPED
        await desk.tick()
        assert desk.state("a") is S.STOPPED

    drive(scenario)


def test_after_a_restart_of_the_cluster_runs_that_held_a_slot_are_queued_again(drive):
    async def scenario(desk):
        await desk.running("a")
        await desk.submit("b")
        desk.jobs.states.clear()  # the new cluster has never heard of the old one's jobs
        await desk.restart()
        await desk.control._attempts.look_after(desk.ledger.run("a"))
        assert desk.ledger.run("a").reason == "again after: the cluster was restarted"
        await desk.tick()
        assert (desk.state("a"), desk.ledger.run("a").attempt) == (S.STARTING, 2)
        assert desk.state("b") is S.QUEUED

    drive(scenario)


def test_a_run_that_was_granted_but_never_launched_is_queued_again(drive):
    async def scenario(desk):
        await desk.submit("a")
        desk.ledger.grant("a", TRAIN)  # and the control actor died before it started the job
        await desk.restart()
        await desk.tick()
        assert (desk.state("a"), desk.ledger.run("a").attempt) == (S.STARTING, 2)
        assert desk.jobs.submitted == [("a-2", "a")]

    drive(scenario)


def test_a_run_left_interrupted_by_a_crash_is_queued_again(drive):
    async def scenario(desk):
        await desk.running("a")
        desk.ledger.transition("a", S.INTERRUPTED, "killed")
        await desk.restart()
        await desk.tick()
        assert (desk.state("a"), desk.ledger.run("a").attempt) == (S.STARTING, 2)

    drive(scenario)


def test_a_restarted_control_actor_goes_on_with_what_runs(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        await desk.submit("b", priority=3)
        await desk.restart()
        await desk.tick()
        assert desk.holders() == {"0": "a"}
        assert await desk.step("a", attempt, 2) is Directive.CONTINUE
        await desk.control.finish("a", attempt, S.SUCCEEDED, "done")
        await desk.tick()
        assert desk.holders() == {"0": "b"}

    drive(scenario)


# Drivers that somebody else started


def test_an_attached_run_gets_its_slot_without_a_job_of_ours(drive):
    async def scenario(desk):
        desk.jobs.states["raysubmit_1"] = JobState.ALIVE
        await desk.submit("a", attached=True, job_id="raysubmit_1")
        await desk.tick()
        assert desk.holders() == {"0": "a"}
        assert desk.jobs.submitted == []

    drive(scenario)


@pytest.mark.parametrize("ended", [JobState.STOPPED, JobState.FAILED, JobState.ENDED])
def test_a_waiting_driver_that_ended_takes_its_run_with_it(ended, drive):
    async def scenario(desk):
        await desk.running("busy")
        desk.jobs.states["raysubmit_1"] = JobState.ALIVE
        await desk.submit("a", attached=True, job_id="raysubmit_1")
        await desk.tick()
        assert desk.state("a") is S.QUEUED
        desk.jobs.states["raysubmit_1"] = ended
        await desk.tick()
        assert (desk.state("a"), desk.ledger.run("a").reason) == (S.STOPPED, "its driver ended while it was queued")

    drive(scenario)


def test_a_waiting_driver_that_is_gone_with_its_cluster_leaves_a_run_that_is_started_from_here(drive):
    async def scenario(desk):
        attempt = await desk.running("busy")
        await desk.submit("a", attached=True, job_id="raysubmit_1")
        await desk.tick()
        run = desk.ledger.run("a")
        assert (run.state, run.attached, run.job_id) == (S.QUEUED, False, None)
        assert desk.ledger.events(run_id="a")[-1].kind == "adopted"
        await desk.control.finish("busy", attempt, S.SUCCEEDED, "done")
        await desk.tick()
        assert desk.jobs.submitted[-1] == ("a-1", "a")

    drive(scenario)


# Processes that hold a slot


def marked_process(home: Home, program: str = "time.sleep(60)") -> subprocess.Popen:
    """A process of this home's cluster."""
    environment = os.environ | {MARKER: str(home.root)}
    return subprocess.Popen([sys.executable, "-S", "-c", f"import time; {program}"], env=environment)


def test_no_slot_is_given_back_while_the_process_that_held_it_lives(drive, home, clock):
    holder = marked_process(home)

    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        await desk.control.starting("a", 1, pid=holder.pid)
        clock.advance(6)
        await desk.tick()
        assert not psutil.pid_exists(holder.pid)
        assert desk.ledger.run("a").attempt == 2

    try:
        drive(scenario, heartbeat_timeout_s=5)
    finally:
        holder.kill()
        holder.wait()


def test_a_process_that_exits_by_itself_is_not_killed(drive, home):
    goodbye = home.root / "goodbye"
    holder = marked_process(home, f"time.sleep(0.3); open('{goodbye}', 'w')")

    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        await desk.control.starting("a", 1, pid=holder.pid)
        await desk.control.finish("a", 1, S.STOPPED, "done")
        assert goodbye.exists()
        assert desk.holders() == {}

    drive(scenario)
    holder.wait()


def test_a_process_number_that_was_given_to_somebody_else_is_left_alone(drive):
    stranger = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])

    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        await desk.control.starting("a", 1, pid=stranger.pid)
        began = time.monotonic()
        await desk.control.finish("a", 1, S.STOPPED, "done")
        assert desk.holders() == {}
        assert time.monotonic() - began < 2

    try:
        drive(scenario)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_stop_that_comes_while_a_dead_runs_process_is_waited_for_is_honoured(drive, home):
    holder = marked_process(home)

    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        await desk.control.starting("a", 1, pid=holder.pid)
        await desk.control.training("a", 1)
        desk.jobs.states["a-1"] = JobState.FAILED
        ticking = asyncio.create_task(desk.tick())
        await asyncio.sleep(0.1)
        await desk.control.stop("a", "enough")
        holder.terminate()
        await ticking
        assert (desk.state("a"), desk.holders()) == (S.STOPPED, {})

    try:
        drive(scenario)
    finally:
        holder.kill()
        holder.wait()


# Serving


def test_an_engine_takes_its_slot_and_takes_it_again_after_a_lost_answer(drive):
    async def scenario(desk):
        await desk.control.take_serve_slot("1", "engine_1", os.getpid())
        await desk.control.take_serve_slot("1", "engine_1", os.getpid())
        assert desk.holders() == {"1": "engine_1"}
        assert (await desk.control.slots())[1]["leases"][0]["pid"] == os.getpid()

    drive(scenario)


def test_an_engine_whose_process_is_gone_loses_its_slot_to_the_next(drive):
    gone = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    gone.wait()

    async def scenario(desk):
        await desk.control.take_serve_slot("1", "engine_1", gone.pid)
        await desk.control.take_serve_slot("1", "engine_1", os.getpid())
        assert desk.ledger.leases()[0].pid == os.getpid()

    drive(scenario)


def test_an_engine_cannot_take_the_slot_of_one_that_lives(drive, home):
    living = marked_process(home)

    async def scenario(desk):
        await desk.control.take_serve_slot("1", "engine_1", living.pid)
        with pytest.raises(StateError, match="held by engine_1"):
            await desk.control.take_serve_slot("1", "engine_1", os.getpid())

    try:
        drive(scenario)
    finally:
        living.kill()
        living.wait()


def test_a_process_number_that_was_given_to_a_stranger_does_not_keep_the_serve_slot(drive):
    stranger = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])

    async def scenario(desk):
        await desk.control.take_serve_slot("1", "engine_1", stranger.pid)  # before the machine was restarted
        await desk.control.take_serve_slot("1", "engine_1", os.getpid())
        assert desk.ledger.leases()[0].pid == os.getpid()

    try:
        drive(scenario)
    finally:
        stranger.kill()
        stranger.wait()


def test_aliases_are_answered_at_once_or_when_they_change(drive):
    async def scenario(desk):
        assert await desk.control.aliases() == {}
        waiting = asyncio.create_task(desk.control.aliases({}))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await desk.control.flip("prod", "v1", expected=None, reason="x", seconds=0)
        assert await asyncio.wait_for(waiting, 1) == {"prod": "v1", "previous": None}
        assert await desk.control.aliases({"prod": None}) == {"prod": "v1", "previous": None}

    drive(scenario)


def test_a_flip_needs_the_alias_where_it_was_expected_and_may_be_sent_again(drive):
    async def scenario(desk):
        flip = lambda version, expected: desk.control.flip(  # noqa: E731
            "prod", version, expected=expected, reason="x", seconds=0
        )
        await flip("v1", None)
        await flip("v1", None)
        assert len(desk.ledger.swaps()) == 1
        with pytest.raises(StateError, match="alias prod moved to v1 meanwhile"):
            await flip("v2", "v0")
        await flip("v2", "v1")
        assert await desk.control.aliases() == {"prod": "v2", "previous": "v1"}

    drive(scenario)


def test_of_a_long_log_only_the_end_is_read(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        log = desk.home.run("a") / "log.txt"
        log.parent.mkdir(parents=True)
        with log.open("wb") as file:  # sparse: zeros that take no space
            file.seek(50 * 2**20)
            file.write("\nä\nthe cause\n".encode())
        tracemalloc.start()
        await desk.control.finish("a", attempt, S.FAILED, "it broke")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        (told,) = [event.text for event in desk.ledger.events(run_id="a") if event.kind == "log"]
        assert told.endswith("\nä\nthe cause")
        assert peak < 5 * 2**20

    drive(scenario)


# Ticking by itself


def test_one_bad_tick_is_noted_and_does_not_end_the_queue(home, monkeypatch, caplog):
    async def main() -> None:
        desk = Desk(home)
        await desk.open()
        broken = iter([RuntimeError("the dashboard is away")])
        real = asyncio.sleep
        monkeypatch.setattr(control_module.asyncio, "sleep", lambda seconds: real(0.001))
        tick = desk.control.tick

        async def failing_first() -> None:
            for error in broken:
                raise error
            await tick()

        desk.control.tick = failing_first
        await desk.submit("a")
        forever = asyncio.create_task(desk.control._run_forever())
        while desk.state("a") is S.QUEUED:
            await real(0.005)
        forever.cancel()
        assert "control: RuntimeError: the dashboard is away" in [event.text for event in desk.ledger.events()]
        desk.ledger.close()

    asyncio.run(asyncio.wait_for(main(), 10))
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (told.getMessage(), str(told.exc_info[1])) == ("a tick failed", "the dashboard is away")


def test_a_disk_that_is_full_for_some_ticks_does_not_end_the_queue(home, monkeypatch):
    """SQLite itself says that the disk is full: its file may not grow."""

    async def main() -> None:
        desk = Desk(home)
        await desk.open()
        real, slept = asyncio.sleep, []
        monkeypatch.setattr(control_module.asyncio, "sleep", lambda seconds: slept.append(seconds) or real(0.001))
        await desk.submit("a")
        database = desk.ledger._db
        (most,) = database.execute("PRAGMA max_page_count").fetchone()
        database.execute("PRAGMA max_page_count = 1")  # as many as there are now
        for text in ("y" * 500, "y"):  # until not even the shortest line has room
            with pytest.raises(ClusterError, match="database or disk is full"):
                for _ in range(500):
                    desk.ledger.note("x", text)
        forever = asyncio.create_task(desk.control._run_forever())
        while slept.count(control_module.RETRY_S) < 3 and not forever.done():
            await real(0.005)
        assert desk.state("a") is S.QUEUED
        database.execute(f"PRAGMA max_page_count = {most}")
        while desk.state("a") is S.QUEUED and not forever.done():
            await real(0.005)
        forever.cancel()
        assert desk.state("a") is S.STARTING
        desk.ledger.close()

    asyncio.run(asyncio.wait_for(main(), 10))

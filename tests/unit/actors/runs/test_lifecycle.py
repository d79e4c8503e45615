"""What becomes of a run's attempt: stopped, lost, killed, queued again. Over a real ledger and real processes."""

import asyncio
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.client import Directive
from actors.home import locks
from actors.home.process_id import ProcessId
from actors.ray_edge.jobs import JobState
from actors.runs.run import RunState
from configs.errors import ClusterError, StateError
from configs.paths import Home
from tests.unit.actors.conftest import TRAIN, Desk, marked_process

S = RunState


# Stopping


def test_a_queued_run_is_stopped_at_once(drive):
    async def scenario(desk):
        await desk.submit("a")
        assert (await desk.control.stop("a")).state == "STOPPED"
        await desk.tick()
        assert desk.jobs.submitted == []

    drive(scenario)


def test_a_starting_runs_job_is_ended_and_the_run_is_stopped_when_it_is_gone(drive):
    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        assert (await desk.control.stop("a", "changed my mind")).state == "STOPPING"
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
        assert (await desk.control.stop("a")).state == "STOPPING"
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
        assert (await desk.control.finish("a", attempt, S.SUCCEEDED, "published v1", "v1")).state == "SUCCEEDED"

    drive(scenario)


def test_stopping_twice_is_the_same_as_once_and_an_ended_run_cannot_be_stopped(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        await desk.control.stop("a", "first")
        assert (await desk.control.stop("a", "second")).reason == "first"
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
        assert run.reason.endswith("; no attempt got beyond step 0")
        assert (len(desk.jobs.submitted), desk.holders()) == (3, {})

    drive(scenario, max_attempts=3)


def test_a_driver_that_says_interrupted_sends_its_run_back_to_the_queue(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        ended = await desk.control.finish("a", attempt, S.INTERRUPTED, "its trainer died")
        assert (ended.state, ended.reason) == ("QUEUED", "again after: its trainer died")

    drive(scenario)


def test_a_run_that_is_interrupted_while_stopping_is_stopped(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        await desk.control.stop("a")
        assert (await desk.control.finish("a", attempt, S.INTERRUPTED, "its trainer died")).state == "STOPPED"

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


# Whose fault it is


async def lose(desk, run_id: str, attempt: int) -> None:
    """The run's own process dies; it is granted its slot again if it may be."""
    desk.jobs.states[f"{run_id}-{attempt}"] = JobState.FAILED
    await desk.tick(2)


async def begin_anew(desk, run_id: str) -> None:
    """The whole cluster goes and comes back: it has never heard of the old one's jobs."""
    desk.jobs.states.clear()
    await desk.restart()
    await desk.tick(2)


def test_a_run_survives_any_number_of_restarts_of_the_cluster(drive):
    async def scenario(desk):
        await desk.running("a")
        for evening in range(1, 8):
            await begin_anew(desk, "a")
            run = desk.ledger.run("a")
            assert (run.state, run.attempt, run.lost) == (S.STARTING, evening + 1, 0)
            await desk.begin("a")

    drive(scenario, max_attempts=1)


def test_a_gpu_that_is_gone_is_no_fault_of_the_run(drive):
    async def scenario(desk):
        await desk.running("a")
        await desk.control._attempts.interrupt(desk.ledger.run("a"), "its GPU is missing", own_fault=False)
        assert (desk.state("a"), desk.ledger.run("a").lost) == (S.QUEUED, 0)

    drive(scenario, max_attempts=1)


EVENTS = st.one_of(st.sampled_from(["dies", "cluster restarts", "control restarts", "gpu goes"]), st.integers(1, 9))


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=25), st.integers(1, 3))
def test_a_run_fails_when_as_many_attempts_in_a_row_died_without_getting_further(events, most):
    """Numbers are steps that the attempt reports."""

    async def scenario(desk):
        await desk.running("a")
        lost = furthest = step = 0
        for event in events:
            run = desk.ledger.run("a")
            if isinstance(event, int):
                step = event
                await desk.step("a", run.attempt, step)
            elif event == "control restarts":
                await desk.restart()
                await desk.tick()
            else:
                lost, furthest = (0 if step > furthest else lost) + (event == "dies"), max(step, furthest)
                if event == "dies":
                    await lose(desk, "a", run.attempt)
                elif event == "gpu goes":
                    await desk.control._attempts.interrupt(run, "its GPU is missing", own_fault=False)
                    await desk.tick()
                else:
                    await begin_anew(desk, "a")
                if event == "dies" and lost == most:
                    assert desk.state("a") is S.FAILED
                    assert desk.ledger.run("a").reason.startswith(f"interrupted {most} times, last: its job ended")
                    return
                assert (desk.state("a"), desk.ledger.run("a").attempt) == (S.STARTING, run.attempt + 1)
                await desk.begin("a")
            now = desk.ledger.run("a")
            assert (now.state, now.lost, now.furthest) == (S.RUNNING, lost, furthest)

    with tempfile.TemporaryDirectory(prefix="td") as folder:

        async def main() -> None:
            desk = await Desk(Home(Path(folder)), max_attempts=most).open()
            await scenario(desk)
            desk.ledger.close()

        asyncio.run(main())


def test_while_tandem_down_ends_the_processes_nothing_that_they_do_says_anything_of_a_run(drive, home):
    async def scenario(desk):
        await desk.running("a")
        desk.jobs.states["b-driver"] = JobState.ALIVE
        await desk.submit("b", attached=True, job_id="b-driver")
        with locks.ending(home):
            desk.jobs.states |= {"a-1": JobState.FAILED, "b-driver": JobState.FAILED}
            await desk.tick(2)
            for state in (S.INTERRUPTED, S.FAILED, S.STOPPED):
                assert (await desk.control.finish("a", 1, state, "killed")).state == "RUNNING"
            with pytest.raises(ClusterError, match="run a goes on after `tandem up`"):
                await desk.control.stop("a", "its driver was asked to end")
        assert (desk.state("a"), desk.state("b")) == (S.RUNNING, S.QUEUED)
        await begin_anew(desk, "a")
        assert (desk.state("a"), desk.ledger.run("a").lost, desk.state("b")) == (S.STARTING, 0, S.QUEUED)

    drive(scenario, max_attempts=1)


def test_a_run_that_succeeds_in_the_last_moment_has_succeeded(drive, home):
    async def scenario(desk):
        attempt = await desk.running("a")
        with locks.ending(home):
            assert (await desk.control.finish("a", attempt, S.SUCCEEDED, "published v1", "v1")).state == "SUCCEEDED"

    drive(scenario)


def test_a_job_that_could_not_be_started_because_the_cluster_ends_is_started_by_the_next(drive, home):
    async def scenario(desk):
        desk.jobs.refuses = "connection refused"
        await desk.submit("a")
        with locks.ending(home):
            await desk.control._grant_free_slots()
            await asyncio.gather(*desk.control._attempts.launching.values())
        assert desk.state("a") is S.STARTING
        desk.jobs.refuses = ""
        await begin_anew(desk, "a")
        assert desk.jobs.submitted == [("a-2", "a")]

    drive(scenario)


def test_a_run_says_its_stage_and_an_older_attempt_says_nothing(drive):
    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        assert await desk.control.stage("a", 1, "loading the model") is Directive.CONTINUE
        assert desk.ledger.run("a").stage == "loading the model"
        assert await desk.control.stage("a", 0, "publishing") is Directive.STOP
        assert desk.ledger.run("a").stage == "loading the model"

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


def test_no_slot_is_given_back_while_the_process_that_held_it_lives(drive, home, clock):
    holder = marked_process(home)

    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        await desk.control.starting("a", 1, process=ProcessId.of(holder.pid))
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
        await desk.control.starting("a", 1, process=ProcessId.of(holder.pid))
        await desk.control.finish("a", 1, S.STOPPED, "done")
        assert goodbye.exists()
        assert desk.holders() == {}

    drive(scenario)
    holder.wait()


@pytest.mark.parametrize("then", [{"started": 1}, {"boot": "an earlier one"}, {"namespace": 1}])
def test_a_process_number_that_another_has_by_now_is_left_alone(then, drive, home):
    """Also if that one is of the same home: in a container it is the new cluster's that gets the old numbers."""
    stranger = marked_process(home)

    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        await desk.control.starting("a", 1, process=replace(ProcessId.of(stranger.pid), **then))
        await desk.control.finish("a", 1, S.STOPPED, "done")
        assert desk.holders() == {}

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
        await desk.control.starting("a", 1, process=ProcessId.of(holder.pid))
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

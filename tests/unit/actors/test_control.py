"""The control actor as a plain object, ticked by hand over a real ledger: only Ray's job API is a fake."""

import asyncio
import os
from dataclasses import replace

import pytest

from actors import control as control_module
from actors.client import Directive
from actors.home.process_id import ProcessId
from actors.ray_edge.jobs import JobState
from actors.runs.adapter_state import AdapterState
from actors.runs.run import RunState
from configs.errors import ClusterError, NotFoundError, StateError
from configs.schema import Slot
from tests.samples import EXPORT, go_live, submission, verify
from tests.unit.actors.conftest import SERVE, TRAIN, Desk, marked_process

A = AdapterState
S = RunState


SECOND = Slot(name="2", roles=("train", "serve"))


# The queue


def test_a_queued_run_is_granted_a_training_slot_and_its_job_is_started(drive):
    async def scenario(desk):
        assert (await desk.submit("a")).state == "QUEUED"
        assert desk.jobs.submitted == []
        await desk.tick()
        run = desk.ledger.run("a")
        assert (run.state, run.slot, run.attempt, run.job_id) == (S.STARTING, "0", 1, "a-1")
        assert desk.jobs.submitted == [("a-1", "a")]

    drive(scenario)


def test_runs_of_every_kind_share_one_queue_and_are_started_as_what_they_are(drive):
    async def scenario(desk):
        await desk.control.submit(submission("e", **EXPORT))
        await desk.submit("t")
        await desk.tick()
        assert desk.holders() == {"0": "e"}
        assert (desk.jobs.submitted, desk.jobs.kinds) == ([("e-1", "e")], {"e-1": "export"})
        attempt = await desk.begin("e")
        await desk.control.report("e", attempt, step=3, max_steps=71, loss=None, tokens_per_s=None)
        run = desk.ledger.run("e")
        assert (run.kind, run.state, run.step, run.max_steps, run.loss) == ("export", S.RUNNING, 3, 71, None)
        ended = await desk.control.finish("e", attempt, S.SUCCEEDED, "exported")
        assert (ended.state, ended.adapter) == ("SUCCEEDED", None)
        await desk.tick()
        assert desk.holders() == {"0": "t"} and desk.jobs.kinds["t-1"] == "train"

    drive(scenario)


def test_an_interrupted_export_is_started_again_as_an_export(drive):
    async def scenario(desk):
        await desk.control.submit(submission("e", **EXPORT))
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
        assert (again.id, again.created_at, again.state) == ("a", first.created_at, "STARTING")
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
        assert (ticket.slot, ticket.attempt) == (TRAIN, 1)

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
        assert (ended.state, ended.step, ended.loss, ended.adapter) == ("SUCCEEDED", 4, 1.0, "v1")
        assert desk.ledger.adapter_states()["v1"][0] is AdapterState.PUBLISHED
        assert desk.holders() == {}
        kinds = [event.kind for event in desk.ledger.events(run_id="a")]
        assert kinds == ["queued", "starting", "running", "published", "succeeded"]

    drive(scenario)


def test_a_run_that_succeeds_before_it_said_running_is_recorded_as_both(drive):
    async def scenario(desk):
        await desk.submit("a")
        await desk.tick()
        assert (await desk.control.finish("a", 1, S.SUCCEEDED, "quick")).state == "SUCCEEDED"

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
        assert (again.state, again.reason) == ("SUCCEEDED", "published v1")
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
        assert await desk.control.starting("a", old, process=ProcessId.own()) is Directive.STOP
        assert await desk.control.training("a", old) is Directive.STOP
        assert await desk.step("a", old, 7) is Directive.STOP
        assert (await desk.control.finish("a", old, S.FAILED, "late")).state == "RUNNING"
        assert desk.ledger.run("a") == before
        assert desk.ledger.leases()[0].pid == os.getpid()
        assert await desk.step("a", new, 1) is Directive.CONTINUE

    drive(scenario)


# Serving


def test_an_engine_takes_its_slot_and_takes_it_again_after_a_lost_answer(drive):
    async def scenario(desk):
        await desk.control.take_serve_slot("1", "engine_1", ProcessId.own())
        await desk.control.take_serve_slot("1", "engine_1", ProcessId.own())
        assert desk.holders() == {"1": "engine_1"}
        assert (await desk.control.describe_slots())[1].leases[0].pid == os.getpid()

    drive(scenario)


def test_an_engine_whose_process_is_gone_loses_its_slot_to_the_next(drive, home):
    program = marked_process(home)
    gone = ProcessId.of(program.pid)
    program.kill()
    program.wait()

    async def scenario(desk):
        await desk.control.take_serve_slot("1", "engine_1", gone)
        await desk.control.take_serve_slot("1", "engine_1", ProcessId.own())
        assert desk.ledger.leases()[0].pid == os.getpid()

    drive(scenario)


def test_an_engine_cannot_take_the_slot_of_one_that_lives(drive, home):
    living = marked_process(home)

    async def scenario(desk):
        await desk.control.take_serve_slot("1", "engine_1", ProcessId.of(living.pid))
        with pytest.raises(StateError, match="held by engine_1"):
            await desk.control.take_serve_slot("1", "engine_1", ProcessId.own())

    try:
        drive(scenario)
    finally:
        living.kill()
        living.wait()


@pytest.mark.parametrize("then", [{"started": 1}, {"boot": "an earlier one"}, {"namespace": 1}])
def test_a_process_number_that_another_has_by_now_does_not_keep_the_serve_slot(then, drive, home):
    """Also if that one is of the same home: in a container it is the new cluster's that gets the old numbers."""
    other = marked_process(home)

    async def scenario(desk):
        await desk.control.take_serve_slot("1", "engine_1", replace(ProcessId.of(other.pid), **then))
        await desk.control.take_serve_slot("1", "engine_1", ProcessId.own())
        assert desk.ledger.leases()[0].pid == os.getpid()

    try:
        drive(scenario)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


# Adapters


def gone(home) -> ProcessId:
    program = marked_process(home)
    process = ProcessId.of(program.pid)
    program.kill()
    program.wait()
    return process


def begin(desk: Desk, process: ProcessId | None, verifying: bool = False) -> None:
    """An attempt on each of three adapters: one that was never live, one that was, one that was refused."""
    verify(desk.ledger, "refused")
    desk.ledger.refuse_swap("prod", "refused", reason="it changes nothing", seconds=0)
    for version in ("retired", "live"):
        go_live(desk.ledger, version)
    for version in ("new", "retired", "refused"):
        desk.ledger.set_adapter_state(version, A.LOADING, "x", process=process)
        if verifying:
            desk.ledger.set_adapter_state(version, A.VERIFYING, "x", process=process)


BEFORE = {
    "new": (A.PUBLISHED, "its gateway is gone"),
    "retired": (A.RETIRED, "its gateway is gone"),
    "refused": (A.REFUSED, "it changes nothing"),
    "live": (A.LIVE, "alias prod"),
}


def ended(desk: Desk) -> list[str]:
    events = [event.text for event in desk.ledger.events() if event.kind == "adapter"]
    return [text for text in events if "again" in text]


async def restart(desk: Desk) -> None:
    await desk.restart()


async def start_gateway(desk: Desk) -> None:
    await desk.control.gateway_starts()


async def tick(desk: Desk) -> None:
    await desk.tick()


@pytest.mark.parametrize("verifying", [False, True])
@pytest.mark.parametrize("moment", [restart, start_gateway, tick])
def test_what_a_dead_gateway_had_begun_is_over(moment, verifying, drive, home):
    """When the control actor or a gateway starts, and, of a gateway of this machine, soon after its death."""

    async def scenario(desk):
        begin(desk, gone(home), verifying)
        await moment(desk)
        assert desk.ledger.adapter_states() == BEFORE
        state = "VERIFYING" if verifying else "LOADING"
        assert sorted(ended(desk)) == [
            f"new is PUBLISHED again, no longer {state}: its gateway is gone",
            f"refused is REFUSED again, no longer {state}: its gateway is gone",
            f"retired is RETIRED again, no longer {state}: its gateway is gone",
        ]
        await moment(desk)
        assert len(ended(desk)) == 3, "once"
        verify(desk.ledger, "new")

    drive(scenario)


@pytest.mark.parametrize("moment", [restart, start_gateway])
@pytest.mark.parametrize(
    "process", [None, replace(ProcessId.own(), boot="an earlier one"), replace(ProcessId.own(), started=1)]
)
def test_so_is_what_a_process_that_nobody_here_can_know_had_begun(moment, process, drive):
    async def scenario(desk):
        begin(desk, process)
        await moment(desk)
        assert desk.ledger.adapter_states() == BEFORE

    drive(scenario)


@pytest.mark.parametrize("moment", [restart, start_gateway, tick])
def test_what_a_living_gateway_has_begun_goes_on(moment, drive):
    async def scenario(desk):
        begin(desk, ProcessId.own())
        await moment(desk)
        assert desk.ledger.adapter_states()["new"][0] is A.LOADING and ended(desk) == []
        desk.ledger.set_adapter_state("new", A.VERIFYING, "x", process=ProcessId.own())

    drive(scenario)


def test_a_gateway_of_another_machine_is_not_taken_for_dead_at_a_tick(drive):
    async def scenario(desk):
        begin(desk, replace(ProcessId.own(), boot="another machine's"))
        await desk.tick()
        assert desk.ledger.adapter_states()["new"][0] is A.LOADING and ended(desk) == []

    drive(scenario)


def test_an_attempt_on_what_an_alias_points_to_ends_in_live(drive):
    async def scenario(desk):
        go_live(desk.ledger, "v1")
        with desk.ledger._transaction() as db:
            db.execute("UPDATE adapters SET state = 'VERIFYING', earlier_state = 'RETIRED'")  # as older versions may
        await desk.restart()
        assert desk.ledger.adapter_states() == {"v1": (A.LIVE, "its gateway is gone")}

    drive(scenario)


def test_a_refusal_may_be_sent_again(drive):
    async def scenario(desk):
        verify(desk.ledger, "v1")
        for _ in range(2):
            await desk.control.refuse_swap("prod", "v1", reason="it changes nothing", seconds=0)
        assert [swap.outcome for swap in desk.ledger.swaps()] == ["refused"]

    drive(scenario)


def test_a_run_that_tells_late_what_it_published_does_not_take_it_out_of_service(drive):
    async def scenario(desk):
        attempt = await desk.running("a")
        go_live(desk.ledger, "v1")
        await desk.control.finish("a", attempt, S.SUCCEEDED, "published v1", "v1")
        assert desk.ledger.adapter_states()["v1"][0] is A.LIVE
        assert desk.ledger.run("a").adapter == "v1"

    drive(scenario)


def test_aliases_are_answered_at_once_or_when_they_change(drive):
    async def scenario(desk):
        assert await desk.control.aliases() == {}
        waiting = asyncio.create_task(desk.control.aliases({}))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        verify(desk.ledger, "v1")
        await desk.control.flip("prod", "v1", expected=None, reason="x", seconds=0)
        assert await asyncio.wait_for(waiting, 1) == {"prod": "v1", "previous": None}
        assert await desk.control.aliases({"prod": None}) == {"prod": "v1", "previous": None}

    drive(scenario)


def test_a_flip_needs_the_alias_where_it_was_expected_and_may_be_sent_again(drive):
    async def scenario(desk):
        flip = lambda version, expected: desk.control.flip(  # noqa: E731
            "prod", version, expected=expected, reason="x", seconds=0
        )
        verify(desk.ledger, "v1")
        await flip("v1", None)
        await flip("v1", None)
        assert len(desk.ledger.swaps()) == 1
        with pytest.raises(StateError, match="alias prod moved to v1 meanwhile"):
            await flip("v2", "v0")
        verify(desk.ledger, "v2")
        await flip("v2", "v1")
        assert await desk.control.aliases() == {"prod": "v2", "previous": "v1"}

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

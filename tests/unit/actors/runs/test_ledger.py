"""The ledger's promises, case by case and under a state machine that hypothesis drives."""

import shutil
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from actors.home.process_id import ProcessId
from actors.runs.adapter_state import ADAPTER_FOLLOWING, AdapterState
from actors.runs.ledger import Ledger
from actors.runs.ledger_schema import VERSION as SCHEMA_VERSION
from actors.runs.run import FOLLOWING, RunState
from configs.errors import ClusterError, NotFoundError, StateError
from configs.schema import Slot
from tests.samples import EXPORT, RUN_CONFIG, TRAIN, go_live, verify

A = AdapterState
S = RunState
SLOT = Slot(name="0", roles=("train",))
BOTH = Slot(name="1", gpu=0, roles=("train", "serve"))


@pytest.fixture
def ledger(home):
    book = Ledger(home.ledger)
    yield book
    book.close()


def submit(ledger: Ledger, run_id: str, **how):
    return ledger.submit(run_id, **TRAIN | how)


def then(pid: int) -> ProcessId:
    """A process of an earlier boot."""
    return ProcessId(pid, started=100, boot="5f96b303", namespace=4026531836)


def kinds(ledger: Ledger, run_id: str | None = None) -> list[str]:
    return [event.kind for event in ledger.events(run_id=run_id)]


# Runs


def test_a_submitted_run_is_queued_with_everything_that_was_asked_for(ledger):
    submit(ledger, "parent")
    run = submit(ledger, "a", priority=3, slot_wanted="0", parent="parent", attached=True, job_id="raysubmit_1")
    assert (run.state, run.reason, run.profile, run.kind) == (S.QUEUED, "submitted", "tiny", "train")
    assert (run.priority, run.slot_wanted, run.parent, run.attached, run.job_id) == (
        3,
        "0",
        "parent",
        True,
        "raysubmit_1",
    )
    assert run.config == RUN_CONFIG
    assert (run.attempt, run.step, run.max_steps, run.slot, run.loss, run.ended_at) == (0, 0, 60, None, None, None)


def test_a_run_of_another_kind_keeps_its_own_configuration(ledger):
    ledger.submit("e", **EXPORT)
    run = ledger.run("e")
    assert (run.kind, run.profile, run.max_steps) == ("export", "merged", None)
    assert run.config == EXPORT["config"]
    with pytest.raises(ValueError, match="bake"):
        ledger.submit("x", config={}, kind="bake")


def test_a_second_run_under_the_same_id_is_refused_and_changes_nothing(ledger):
    submit(ledger, "a", priority=1)
    with pytest.raises(StateError, match="run a exists already"):
        submit(ledger, "a", priority=9)
    assert ledger.run("a").priority == 1
    assert kinds(ledger) == ["queued"]


def test_an_unknown_run_is_not_found(ledger):
    with pytest.raises(NotFoundError, match="no run nope"):
        ledger.run("nope")
    with pytest.raises(NotFoundError):
        ledger.transition("nope", S.STOPPED, "x")
    with pytest.raises(NotFoundError):
        ledger.grant("nope", SLOT)
    assert ledger.leases() == []


def test_the_queue_is_ordered_by_priority_then_age(ledger):
    for run_id, priority in (("old", 0), ("urgent", 5), ("new", 0), ("late", -1), ("urgent2", 5)):
        submit(ledger, run_id, priority=priority)
    assert [run.id for run in ledger.queue()] == ["urgent", "urgent2", "old", "new", "late"]


def test_a_run_that_comes_back_keeps_its_age_in_the_queue(ledger):
    submit(ledger, "first")
    submit(ledger, "second")
    ledger.grant("first", SLOT)
    ledger.transition("first", S.INTERRUPTED, "power cut")
    ledger.transition("first", S.QUEUED, "again")
    assert [run.id for run in ledger.queue()] == ["first", "second"]


def test_runs_come_newest_first_and_active_ones_on_request(ledger):
    for run_id in ("a", "b", "c"):
        submit(ledger, run_id)
    ledger.transition("b", S.STOPPED, "no")
    assert [run.id for run in ledger.runs()] == ["c", "b", "a"]
    assert [run.id for run in ledger.runs(active=True)] == ["c", "a"]
    assert [run.id for run in ledger.runs(limit=1)] == ["c"]


def test_every_state_is_counted_even_at_zero(ledger):
    submit(ledger, "a")
    submit(ledger, "b")
    ledger.transition("b", S.FAILED, "no")
    assert ledger.count_runs() == dict.fromkeys(RunState, 0) | {S.QUEUED: 1, S.FAILED: 1}


@pytest.mark.parametrize("state", RunState)
def test_from_each_state_exactly_the_declared_ones_can_be_entered(state, ledger):
    ways = {
        S.QUEUED: [],
        S.STARTING: [S.STARTING],
        S.RUNNING: [S.STARTING, S.RUNNING],
        S.STOPPING: [S.STARTING, S.STOPPING],
        S.INTERRUPTED: [S.STARTING, S.INTERRUPTED],
        S.SUCCEEDED: [S.STARTING, S.RUNNING, S.SUCCEEDED],
        S.FAILED: [S.FAILED],
        S.STOPPED: [S.STOPPED],
    }
    for target in RunState:
        run_id = f"to-{target.lower()}"
        submit(ledger, run_id)
        for step in ways[state]:
            ledger.transition(run_id, step, "on the way")
        if target in FOLLOWING[state]:
            assert ledger.transition(run_id, target, "why").state is target
        else:
            with pytest.raises(StateError, match=f"is {state} and cannot become {target}"):
                ledger.transition(run_id, target, "why")
            assert ledger.run(run_id).state is state


def test_a_transition_records_its_reason_and_an_end_its_time(ledger):
    submit(ledger, "a")
    run = ledger.transition("a", S.FAILED, "the disk is full")
    assert run.reason == "the disk is full"
    assert run.ended_at >= run.created_at
    (_, event) = ledger.events(run_id="a")
    assert (event.kind, event.text, event.run_id) == ("failed", "the disk is full", "a")


def test_progress_keeps_the_last_known_loss_and_rate(ledger):
    submit(ledger, "a")
    ledger.progress("a", step=1, max_steps=9, loss=2.5, tokens_per_s=100.0)
    run = ledger.progress("a", step=2, max_steps=9, loss=None, tokens_per_s=None)
    assert (run.step, run.max_steps, run.loss, run.tokens_per_s) == (2, 9, 2.5, 100.0)


def test_progress_and_heartbeat_are_signs_of_life(ledger):
    submit(ledger, "a")
    assert ledger.run("a").heartbeat_at is None
    ledger.heartbeat("a")
    first = ledger.run("a").heartbeat_at
    assert first is not None
    assert ledger.progress("a", step=1, max_steps=2, loss=1.0, tokens_per_s=1.0).heartbeat_at > first


# Leases


def test_a_grant_gives_lease_state_and_attempt_at_once(ledger):
    submit(ledger, "a")
    run = ledger.grant("a", SLOT)
    assert (run.state, run.slot, run.attempt) == (S.STARTING, "0", 1)
    assert run.started_at is not None
    (lease,) = ledger.leases()
    assert (lease.slot, lease.role, lease.holder, lease.pid) == ("0", "train", "a", None)


def test_a_held_slot_is_not_granted_again_and_nothing_changes(ledger):
    submit(ledger, "a")
    submit(ledger, "b")
    ledger.grant("a", SLOT)
    with pytest.raises(StateError, match=r"slot 0 \(train\) is held by a"):
        ledger.grant("b", SLOT)
    assert ledger.run("b").state is S.QUEUED
    assert ledger.run("b").attempt == 0
    assert [lease.holder for lease in ledger.leases()] == ["a"]


def test_a_slot_without_the_role_is_not_granted(ledger):
    submit(ledger, "a")
    with pytest.raises(StateError, match="slot 0 has no role serve"):
        ledger.grant("a", SLOT, role="serve")


def test_a_run_that_is_not_queued_is_not_granted_and_takes_no_lease(ledger):
    submit(ledger, "a")
    ledger.transition("a", S.STOPPED, "no")
    with pytest.raises(StateError):
        ledger.grant("a", SLOT)
    assert ledger.leases() == []


def test_one_slot_is_shared_by_role_but_never_within_one(ledger):
    submit(ledger, "a")
    ledger.take("1", "serve", "engine_1", then(42))
    ledger.grant("a", BOTH)
    assert {(lease.role, lease.holder, lease.pid) for lease in ledger.leases()} == {
        ("train", "a", None),
        ("serve", "engine_1", 42),
    }
    with pytest.raises(StateError, match="held by engine_1"):
        ledger.take("1", "serve", "other", then(43))


@pytest.mark.parametrize("end", [S.STOPPED, S.FAILED, S.SUCCEEDED])
def test_an_ended_run_gives_its_slot_back(end, ledger):
    submit(ledger, "a")
    ledger.grant("a", SLOT)
    ledger.transition("a", S.RUNNING, "training")
    ledger.transition("a", S.STOPPING, "asked")
    assert len(ledger.leases()) == 1
    ledger.transition("a", end, "done")
    assert ledger.leases() == []


def test_an_interrupted_run_gives_its_slot_back_and_counts_its_next_attempt(ledger):
    submit(ledger, "a")
    ledger.grant("a", SLOT)
    ledger.transition("a", S.INTERRUPTED, "killed")
    assert ledger.leases() == []
    ledger.transition("a", S.QUEUED, "again")
    assert ledger.grant("a", SLOT).attempt == 2


def test_release_gives_back_what_is_held_and_nothing_held_is_no_error(ledger):
    ledger.take("0", "serve", "engine_0", then(7))
    ledger.release("engine_0", "closing")
    ledger.release("engine_0", "closing")
    assert ledger.leases() == []
    assert [event.text for event in ledger.events()] == [
        "engine_0 holds slot 0 (serve)",
        "engine_0 gave its slot back: closing",
    ]


def test_a_leases_process_becomes_known_later(ledger):
    submit(ledger, "a")
    ledger.grant("a", SLOT)
    ledger.set_lease_process("a", then(1234))
    assert (ledger.leases()[0].process, ledger.leases()[0].pid) == (then(1234), 1234)


def test_an_engine_is_up_for_as_long_as_it_holds_the_slot(ledger):
    ledger.take("1", "serve", "engine_1", then(7))
    ledger.set_lease_up("1", then(8))
    assert not ledger.leases()[0].is_up, "another process says so"
    ledger.set_lease_up("1", then(7))
    assert ledger.leases()[0].is_up
    ledger.release("engine_1", "its process is gone")
    ledger.take("1", "serve", "engine_1", then(9))
    assert not ledger.leases()[0].is_up


# Adapters, aliases, swaps


def test_a_run_and_its_published_adapter_know_each_other(ledger):
    submit(ledger, "a")
    ledger.set_adapter("a", "v1")
    assert ledger.run("a").adapter == "v1"
    assert ledger.adapter_states() == {"v1": (AdapterState.PUBLISHED, "published by a")}
    assert kinds(ledger, "a") == ["queued", "published"]


def test_a_flip_moves_the_alias_and_keeps_what_it_pointed_to_as_previous(ledger):
    assert go_live(ledger, "v1", reason="first", seconds=0.5) is None
    assert ledger.aliases() == {"prod": "v1", "previous": None}
    assert go_live(ledger, "v2", reason="second", seconds=0.25) == "v1"
    assert ledger.aliases() == {"prod": "v2", "previous": "v1"}
    assert ledger.adapter_states() == {
        "v1": (AdapterState.RETIRED, "replaced by v2"),
        "v2": (AdapterState.LIVE, "alias prod"),
    }
    newest, oldest = ledger.swaps()
    assert (newest.alias, newest.old, newest.new, newest.outcome, newest.reason) == (
        "prod",
        "v1",
        "v2",
        "done",
        "second",
    )
    assert (oldest.old, oldest.new, oldest.seconds) == (None, "v1", 0.5)


def test_a_flip_to_the_base_retires_the_adapter(ledger):
    go_live(ledger, "v1")
    assert ledger.flip("prod", None, reason="x", seconds=0) == "v1"
    assert ledger.aliases() == {"prod": None, "previous": "v1"}
    assert ledger.adapter_states()["v1"] == (AdapterState.RETIRED, "replaced by the base")
    assert ledger.events()[-1].text == "prod: v1 -> base"


def test_a_flip_that_fails_halfway_leaves_everything_as_it_was(ledger):
    go_live(ledger, "v1")
    verify(ledger, "v2")
    before = (ledger.aliases(), ledger.adapter_states(), ledger.swaps(), ledger.events())
    with pytest.raises(ClusterError):
        ledger.flip("prod", "v2", reason=object(), seconds=0)  # SQLite cannot store it; the aliases were written before
    assert (ledger.aliases(), ledger.adapter_states(), ledger.swaps(), ledger.events()) == before


def test_a_refused_swap_is_on_record_and_the_alias_stays(ledger):
    go_live(ledger, "v1")
    verify(ledger, "v2")
    ledger.refuse_swap("prod", "v2", reason="it changes nothing", seconds=0.1)
    assert ledger.aliases()["prod"] == "v1"
    assert ledger.adapter_states()["v2"] == (AdapterState.REFUSED, "it changes nothing")
    assert (ledger.swaps()[0].outcome, ledger.swaps()[0].reason) == ("refused", "it changes nothing")


def test_refusing_the_version_that_is_live_does_not_call_it_refused(ledger):
    go_live(ledger, "v1")
    ledger.refuse_swap("prod", "v1", reason="damaged on disk", seconds=0)
    assert ledger.adapter_states()["v1"][0] is AdapterState.LIVE


def reach(ledger: Ledger, state: AdapterState) -> str:
    """An adapter in `state`, by the way that leads there."""
    way = {A.PUBLISHED: [], A.LOADING: [A.LOADING], A.VERIFYING: [A.LOADING, A.VERIFYING]}
    way |= {end: [A.LOADING, A.VERIFYING, end] for end in (A.LIVE, A.REFUSED)}
    way |= {A.RETIRED: [*way[A.LIVE], A.RETIRED]}
    for each in way[state]:
        ledger.set_adapter_state("v1", each, "on its way", process=then(7))
    return "v1"


@pytest.mark.parametrize("to", list(A))
@pytest.mark.parametrize("now", list(A))
def test_an_adapter_changes_its_state_as_the_table_says_and_in_no_other_way(now, to, ledger):
    version = reach(ledger, now)
    before = (ledger.adapter_states(), ledger.events())
    change = lambda: ledger.set_adapter_state(version, to, "because", process=then(7))  # noqa: E731
    if to in ADAPTER_FOLLOWING[now]:
        change()
        assert ledger.adapter_states() == {version: (to, "because")}
        assert (ledger.events()[-1].kind, ledger.events()[-1].text) == ("adapter", f"v1 is {to}: because")
        return
    if now is to and now.is_attempt:
        change()  # an answer was lost, and the same gateway asks again
    else:
        with pytest.raises(StateError, match=f"adapter v1 is {now} and cannot become {to}"):
            change()
    assert (ledger.adapter_states(), ledger.events()) == before


@pytest.mark.parametrize("to", [A.LOADING, A.VERIFYING])
@pytest.mark.parametrize("now", [A.LOADING, A.VERIFYING])
def test_two_gateways_do_not_load_one_version_at_once(now, to, ledger):
    version = reach(ledger, now)
    before = (ledger.adapter_states(), ledger.events())
    with pytest.raises(StateError, match="another gateway is loading v1"):
        ledger.set_adapter_state(version, to, "mine", process=ProcessId.own())
    ledger.end_attempt(version, "not mine to end", ProcessId.own())
    assert (ledger.adapter_states(), ledger.events()) == before


@pytest.mark.parametrize("now", [state for state in A if A.LIVE not in ADAPTER_FOLLOWING[state]])
def test_a_flip_to_what_was_not_loaded_is_refused_and_moves_nothing(now, ledger):
    version = reach(ledger, now)
    before = (ledger.aliases(), ledger.adapter_states(), ledger.swaps(), ledger.events())
    with pytest.raises(StateError, match=f"adapter v1 is {now} and cannot become LIVE"):
        ledger.flip("prod", version, reason="x", seconds=0)
    assert (ledger.aliases(), ledger.adapter_states(), ledger.swaps(), ledger.events()) == before


@pytest.mark.parametrize("now", [state for state in A if not state.is_attempt])
def test_ending_an_attempt_that_is_over_changes_nothing(now, ledger):
    version = reach(ledger, now)
    before = (ledger.adapter_states(), ledger.events())
    ledger.end_attempt(version, "late", then(7))
    assert (ledger.adapter_states(), ledger.events()) == before


@pytest.mark.parametrize("verifying", [False, True])
@pytest.mark.parametrize("earlier", [A.PUBLISHED, A.RETIRED])
def test_an_attempt_that_ends_leaves_what_was_before(earlier, verifying, ledger):
    version = reach(ledger, earlier)
    for state in (A.LOADING, A.VERIFYING)[: 1 + verifying]:
        ledger.set_adapter_state(version, state, "x", process=then(8))
    ledger.end_attempt(version, "the engine died", then(8))
    assert ledger.adapter_states() == {version: (earlier, "the engine died")}


def test_events_can_be_read_from_where_one_stopped(ledger):
    for text in ("one", "two", "three"):
        ledger.note("news", text)
    first = ledger.events(limit=1)[0]
    assert [event.text for event in ledger.events(after=first.seq)] == ["two", "three"]
    assert [event.seq for event in ledger.events()] == sorted(event.seq for event in ledger.events())


# The file


def test_opening_the_file_again_shows_the_same(ledger, home):
    submit(ledger, "a", priority=2)
    ledger.grant("a", SLOT)
    go_live(ledger, "v1", seconds=1)
    again = Ledger(home.ledger)
    assert again.run("a") == ledger.run("a")
    assert (again.leases(), again.aliases(), again.swaps()) == (ledger.leases(), ledger.aliases(), ledger.swaps())
    assert again.events() == ledger.events()
    again.close()


def test_a_reader_sees_each_change_while_the_writer_is_open(ledger, home):
    submit(ledger, "a")
    reader = Ledger(home.ledger, read_only=True)
    assert reader.run("a").state is S.QUEUED
    ledger.transition("a", S.STOPPED, "no")
    assert reader.run("a").state is S.STOPPED
    reader.close()


def test_a_reader_can_read_while_a_transaction_is_open(ledger, home):
    submit(ledger, "a")
    reader = Ledger(home.ledger, read_only=True)
    with ledger._transaction() as db:
        db.execute("UPDATE runs SET state = 'STOPPED' WHERE id = 'a'")
        assert reader.run("a").state is S.QUEUED
    assert reader.run("a").state is S.STOPPED
    reader.close()


def test_a_reader_cannot_write(ledger, home):
    submit(ledger, "a")
    reader = Ledger(home.ledger, read_only=True)
    with pytest.raises(ClusterError, match="readonly"):
        reader.transition("a", S.STOPPED, "no")
    assert ledger.run("a").state is S.QUEUED
    reader.close()


def test_reading_works_after_the_writer_was_killed(ledger, home, tmp_path):
    submit(ledger, "a")
    copy = tmp_path / "ledger.db"
    for suffix in ("", "-wal"):  # what a kill -9 leaves: the log is not folded into the file
        shutil.copy(f"{home.ledger}{suffix}", f"{copy}{suffix}")
    reader = Ledger(copy, read_only=True)
    assert reader.run("a").state is S.QUEUED
    reader.close()


def test_every_write_is_durable_before_it_returns(ledger):
    pragma = lambda name: ledger._db.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: E731
    assert (pragma("journal_mode"), pragma("synchronous")) == ("wal", 2)


def test_threads_may_share_one_ledger(ledger):
    def work(number: int) -> None:
        for index in range(10):
            submit(ledger, f"r{number}-{index}")
            ledger.transition(f"r{number}-{index}", S.STOPPED, "no")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.count_runs()[S.STOPPED] == 40
    assert len(ledger.events()) == 80


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_no_ledger_is_refused_with_its_name(read_only, home):
    home.ledger.write_bytes(b"not a database, and long enough to be looked at as one" * 20)
    with pytest.raises(ClusterError) as caught:
        Ledger(home.ledger, read_only=read_only)
    assert str(home.ledger) in caught.value.message
    assert "restore" in caught.value.hint


@pytest.mark.parametrize("read_only", [True, False])
def test_a_ledger_of_a_newer_version_is_refused_with_both_numbers(read_only, home):
    Ledger(home.ledger).close()
    with sqlite3.connect(home.ledger) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(ClusterError) as caught:
        Ledger(home.ledger, read_only=read_only)
    assert f"version {SCHEMA_VERSION + 1}, this Tandem knows {SCHEMA_VERSION}" in caught.value.message


DATA = Path(__file__).parent / "data"
"""Files that older versions wrote, as SQLite dumps them."""


def restore(version: int, path: Path) -> Path:
    with sqlite3.connect(path) as db:
        db.executescript((DATA / f"ledger_v{version}.sql").read_text())
    db.close()
    return path


@pytest.fixture
def old(home) -> Path:
    return restore(1, home.ledger)


def test_a_file_of_version_1_is_brought_up_to_date_and_keeps_all_it_has(old):
    book = Ledger(old)
    assert [(run.id, run.state, run.step, run.loss) for run in book.runs()] == [
        ("works", S.STARTING, 7, 1.25),
        ("waits", S.QUEUED, 0, None),
    ]
    assert [lease.holder for lease in book.leases()] == ["works"]
    assert book.aliases() == {"prod": "v1", "previous": None}
    assert [swap.outcome for swap in book.swaps()] == ["refused", "done"]
    assert [event.seq for event in book.events()] == [1, 2, 3, 4, 5]
    assert book.quarantines() == {}
    book.quarantine("0", "x", "tandem")
    assert book.count_device_error("0") == 1
    book.set_mark("notify", 5)
    book.close()
    again = Ledger(old)
    assert (list(again.quarantines()), again.mark("notify")) == (["0"], 5)
    again.close()


def test_a_reader_of_a_file_of_version_1_changes_nothing_and_follows_when_it_is_brought_up_to_date(old):
    before = old.read_bytes()
    reader = Ledger(old, read_only=True)
    assert reader.quarantines() == {}
    assert reader.run("works").step == 7
    assert old.read_bytes() == before
    writer = Ledger(old)
    writer.quarantine("0", "x", "tandem")
    assert reader.quarantines()["0"].reason == "x"
    writer.close()
    reader.close()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_old_file_brought_up_to_date_has_the_same_tables_as_a_new_one(version, tmp_path):
    def tables(path: Path) -> dict[str, str]:
        with sqlite3.connect(path) as db:
            return dict(db.execute("SELECT name, sql FROM sqlite_master ORDER BY name"))

    old = restore(version, tmp_path / "old.db")
    Ledger(old).close()
    Ledger(tmp_path / "new.db").close()
    assert tables(old) == tables(tmp_path / "new.db")


def test_a_bare_process_number_in_a_file_of_version_2_counts_as_not_known(home):
    restore(2, home.ledger)
    reader = Ledger(home.ledger, read_only=True)
    before = [(lease.slot, lease.role, lease.holder, lease.process) for lease in reader.leases()]
    assert before == [("0", "train", "works", None), ("1", "serve", "engine_1", None)]
    book = Ledger(home.ledger)
    assert [(lease.slot, lease.role, lease.holder, lease.process) for lease in book.leases()] == before
    assert {run.id: (run.state, run.step) for run in book.runs()} == {"works": (S.RUNNING, 7), "waits": (S.QUEUED, 0)}
    assert (book.mark("notify"), book.mark("engine up on slot 1")) == (3, None)
    assert (book.quarantines()["2"].reason, book.aliases()["prod"]) == ("the fan rattles", "v1")
    book.set_lease_process("works", then(412))
    assert reader.leases()[0].process == then(412), "a reader follows"
    for each in (reader, book):
        each.close()


def test_a_file_of_version_3_is_read_as_it_is_and_its_runs_have_lost_nothing(home):
    restore(3, home.ledger)
    reader = Ledger(home.ledger, read_only=True)
    assert [(run.id, run.stage, run.lost, run.furthest) for run in reader.runs()] == [
        ("waits", "", 0, 0),
        ("works", "", 0, 0),
    ]
    book = Ledger(home.ledger)
    book.set_stage("works", "loading the model")
    assert reader.run("works").stage == "loading the model", "a reader follows"
    for each in (reader, book):
        each.close()


def test_a_file_of_version_4_is_read_as_it_is_and_what_stayed_in_an_attempt_can_be_ended(home):
    restore(4, home.ledger)
    reader = Ledger(home.ledger, read_only=True)
    stuck = {"v1": A.LIVE, "v2": A.VERIFYING, "v3": A.LOADING, "v4": A.PUBLISHED}
    assert {version: state for version, (state, _) in reader.adapter_states().items()} == stuck
    book = Ledger(home.ledger)
    assert {version: state for version, (state, _) in book.adapter_states().items()} == stuck
    book.end_attempts(lambda process: process is None, "its gateway is gone")
    free = {"v1": A.LIVE, "v2": A.PUBLISHED, "v3": A.RETIRED, "v4": A.PUBLISHED}
    assert {version: state for version, (state, _) in reader.adapter_states().items()} == free, "a reader follows"
    for each in (reader, book):
        each.close()


@pytest.mark.parametrize("state", ["PUBLISHED", "RETIRED", "REFUSED", "LIVE"])
def test_what_an_alias_of_version_4_points_to_is_live_and_nothing_else_is(state, home):
    restore(4, home.ledger)
    with sqlite3.connect(home.ledger) as db:
        db.execute("UPDATE adapters SET state = ? WHERE version = 'v1'", (state,))
        db.execute("UPDATE adapters SET state = 'LIVE' WHERE version = 'v4'")
    db.close()
    book = Ledger(home.ledger)
    states = {version: state for version, (state, _) in book.adapter_states().items()}
    assert (states["v1"], states["v4"]) == (A.LIVE, A.RETIRED)
    assert go_live(book, "v4") == "v1"
    book.close()


# Lost attempts and stages


def test_a_stage_is_shown_until_the_first_step_and_is_a_sign_of_life(ledger):
    submit(ledger, "a")
    assert ledger.run("a").stage == ""
    assert ledger.grant("a", SLOT).stage == "starting its process"
    ledger.set_stage("a", "loading the model")
    assert ledger.run("a").heartbeat_at == pytest.approx(time.time(), abs=5)
    ledger.transition("a", S.RUNNING, "at work")
    assert ledger.run("a").stage == "loading the model", "the first step compiles, and is not there yet"
    assert ledger.progress("a", step=1, max_steps=9, loss=1.0, tokens_per_s=1.0).stage == ""
    ledger.set_stage("a", "publishing")
    assert ledger.transition("a", S.SUCCEEDED, "done").stage == ""


def test_lost_attempts_are_counted_until_one_gets_further(ledger):
    submit(ledger, "a")
    counts = []
    for step, own_fault in ((5, True), (5, True), (4, False), (6, True), (9, False), (9, True)):
        ledger.grant("a", SLOT)
        ledger.progress("a", step=step, max_steps=9, loss=None, tokens_per_s=None)
        run = ledger.interrupt("a", "gone", own_fault=own_fault)
        counts.append((run.state, run.lost, run.furthest))
        ledger.transition("a", S.QUEUED, "again")
    assert counts == [(S.INTERRUPTED, *count) for count in ((1, 5), (2, 5), (2, 5), (1, 6), (0, 9), (1, 9))]


# Quarantine


def test_a_quarantine_has_a_reason_a_time_and_an_author_and_ends_once(ledger):
    began = time.time()
    ledger.quarantine("0", "the GPU is gone", "tandem")
    ledger.quarantine("0", "another reason", "a person")
    ledger.quarantine("1", "noise", "a person")
    found = ledger.quarantines()
    assert [(q.slot, q.reason, q.by) for q in found.values()] == [
        ("0", "the GPU is gone", "tandem"),
        ("1", "noise", "a person"),
    ]
    assert began <= found["0"].since <= time.time()
    ledger.release_quarantine("0", accepted=None)
    assert list(ledger.quarantines()) == ["1"]
    with pytest.raises(StateError, match="slot 0 is not in quarantine"):
        ledger.release_quarantine("0", accepted=None)
    ledger.quarantine("0", "again", "tandem")
    assert ledger.quarantines()["0"].reason == "again"
    assert kinds(ledger) == ["quarantine", "quarantine", "release", "quarantine"]


def test_what_was_accepted_at_the_last_release_is_known_until_it_is_forgotten(ledger):
    assert ledger.accepted("0") is None
    ledger.quarantine("0", "1 error", "tandem")
    assert ledger.accepted("0") is None
    ledger.release_quarantine("0", accepted="1 error")
    assert ledger.accepted("0") == "1 error"
    ledger.forget_accepted("0")
    assert ledger.accepted("0") is None


def test_device_errors_are_counted_by_slot_until_they_are_forgotten(ledger):
    assert [ledger.count_device_error(slot) for slot in ("0", "0", "1", "0")] == [1, 2, 1, 3]
    ledger.forget_device_errors("0")
    assert [ledger.count_device_error(slot) for slot in ("0", "1")] == [1, 2]


def test_a_reader_of_events_finds_its_place_again(ledger):
    assert (ledger.mark("notify"), ledger.last_event()) == (None, 0)
    submit(ledger, "a")
    ledger.set_mark("notify", ledger.last_event())
    ledger.set_mark("other", 0)
    assert (ledger.mark("notify"), ledger.mark("other")) == (1, 0)
    ledger.set_mark("notify", None)
    assert (ledger.mark("notify"), ledger.mark("other")) == (None, 0)


def test_a_missing_or_empty_file_is_refused_by_a_reader(home):
    with pytest.raises(ClusterError, match="unable to open"):
        Ledger(home.ledger, read_only=True)
    home.ledger.touch()
    with pytest.raises(ClusterError, match="no such table"):
        Ledger(home.ledger, read_only=True).runs()


def test_damage_inside_the_file_is_named_when_it_is_met(home):
    book = Ledger(home.ledger)
    for index in range(50):
        submit(book, f"r{index}")
    book.close()
    damage(home.ledger)
    reader = Ledger(home.ledger, read_only=True)
    with pytest.raises(ClusterError, match="not a readable ledger"):
        reader.runs()
    reader.close()


def damage(path: Path) -> None:
    """Overwrite everything after the first page."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


# The state machine

SLOTS = (SLOT, BOTH)


class LedgerMachine(RuleBasedStateMachine):
    """Runs on two slots (three roles), driven anywhere; `model` is what every run's state must be."""

    run_ids = Bundle("run_ids")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="tdm", dir="/tmp")
        self.ledger = Ledger(Path(self.folder) / "ledger.db")
        self.model: dict[str, RunState] = {}
        self.priority: dict[str, int] = {}
        self.changes = 0
        self.aliases: dict[str, str | None] = {}

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    def move(self, run_id: str, to: RunState) -> None:
        if to in FOLLOWING[self.model[run_id]]:
            self.ledger.transition(run_id, to, "rule")
            self.model[run_id] = to
            self.changes += 1
        else:
            with pytest.raises(StateError):
                self.ledger.transition(run_id, to, "rule")

    @rule(target=run_ids, priority=st.integers(-1, 1))
    def submit(self, priority: int) -> str:
        run_id = f"run-{len(self.model)}"
        submit(self.ledger, run_id, priority=priority)
        self.model[run_id], self.priority[run_id] = S.QUEUED, priority
        self.changes += 1
        return run_id

    @rule(run_id=run_ids, slot=st.sampled_from(SLOTS))
    def grant(self, run_id: str, slot: Slot) -> None:
        free = slot.name not in {lease.slot for lease in self.ledger.leases() if lease.role == "train"}
        attempt = self.ledger.run(run_id).attempt
        if free and self.model[run_id] is S.QUEUED:
            assert self.ledger.grant(run_id, slot).attempt == attempt + 1
            self.model[run_id] = S.STARTING
            self.changes += 1
        else:
            with pytest.raises(StateError):
                self.ledger.grant(run_id, slot)

    @rule(run_id=run_ids, to=st.sampled_from([state for state in RunState if state is not S.STARTING]))
    def transition(self, run_id: str, to: RunState) -> None:
        self.move(run_id, to)

    @rule(run_id=run_ids)
    def stop(self, run_id: str) -> None:
        self.move(run_id, S.STOPPING if self.model[run_id].holds_slot else S.STOPPED)

    @rule(run_id=run_ids)
    def interrupt_and_requeue(self, run_id: str) -> None:
        self.move(run_id, S.INTERRUPTED)
        if self.model[run_id] is S.INTERRUPTED:
            self.move(run_id, S.QUEUED)

    @rule(run_id=run_ids, step=st.integers(0, 99))
    def progress(self, run_id: str, step: int) -> None:
        assert self.ledger.progress(run_id, step=step, max_steps=99, loss=1.0, tokens_per_s=None).step == step

    @rule(version=st.sampled_from([None, "v1", "v2"]))
    def flip(self, version: str | None) -> None:
        old = self.aliases.get("prod")
        if version not in (None, old):
            verify(self.ledger, version)
            self.changes += 2
        assert self.ledger.flip("prod", version, reason="rule", seconds=0) == old
        self.aliases = {"prod": version, "previous": old}
        self.changes += 1

    @rule()
    def reopen(self) -> None:
        before = (self.ledger.runs(limit=1000), self.ledger.leases(), self.ledger.aliases(), self.ledger.swaps())
        self.ledger.close()
        self.ledger = Ledger(Path(self.folder) / "ledger.db")
        assert (
            self.ledger.runs(limit=1000),
            self.ledger.leases(),
            self.ledger.aliases(),
            self.ledger.swaps(),
        ) == before

    @invariant()
    def states_are_what_the_rules_made_them(self) -> None:
        assert {run.id: run.state for run in self.ledger.runs(limit=1000)} == self.model

    @invariant()
    def leases_belong_to_exactly_the_runs_whose_state_holds_a_slot(self) -> None:
        leases = self.ledger.leases()
        holders = [lease.holder for lease in leases]
        assert sorted(holders) == sorted(run_id for run_id, state in self.model.items() if state.holds_slot)
        assert len({(lease.slot, lease.role) for lease in leases}) == len(leases)
        for lease in leases:
            assert self.ledger.run(lease.holder).slot == lease.slot

    @invariant()
    def every_change_left_an_event(self) -> None:
        assert len(self.ledger.events(limit=10_000)) == self.changes

    @invariant()
    def the_queue_is_every_queued_run_by_priority_then_age(self) -> None:
        queued = [run_id for run_id, state in self.model.items() if state is S.QUEUED]
        assert [run.id for run in self.ledger.queue()] == sorted(queued, key=lambda run_id: -self.priority[run_id])

    @invariant()
    def an_ended_run_has_its_time_and_no_other_has(self) -> None:
        for run in self.ledger.runs(limit=1000):
            assert (run.ended_at is not None) == run.state.is_terminal

    @invariant()
    def aliases_are_where_they_were_pointed(self) -> None:
        assert self.ledger.aliases() == self.aliases


LedgerMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLedgerUnderRandomUse = LedgerMachine.TestCase


def test_a_ledger_that_the_disk_does_not_let_be_written_says_so_and_is_not_called_unreadable(tmp_path):
    with pytest.raises(ClusterError, match=r"ledger\.db cannot be written: Not a directory"):
        Ledger(tmp_path / "file" / "ledger.db") if (tmp_path / "file").write_text("") == 0 else None
    ledger = Ledger(tmp_path / "ledger.db")
    ledger._db.execute("PRAGMA query_only = 1")
    with pytest.raises(ClusterError, match=r"ledger\.db cannot be used: attempt to write a readonly database") as error:
        ledger.note("x", "y")
    assert "may be written" in error.value.hint
    ledger.close()

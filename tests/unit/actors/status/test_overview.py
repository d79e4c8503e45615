"""One look at everything: real ledgers, folders and HTTP; what is missing or strange is a sentence, never an error."""

import json
import math
import os
import sys
import threading
import time
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pynvml
import pytest

from actors import cluster
from actors.cluster import Cluster
from actors.hardware import gpus
from actors.hardware.gpus import GpuReading
from actors.home.process_id import ProcessId
from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from actors.status import overview
from actors.status.overview import age, read
from cli.machine.status import report
from configs.schema import ClusterConfig, Slot
from models.lora.registry import Registry
from tests.nvml import pynvml as driver
from tests.samples import TRAIN, go_live, publish

SLOTS = (Slot(name="0", roles=("train",)), Slot(name="1", roles=("serve",)))
ME = os.getpid()
NOBODY = 2**22 - 1  # above the highest pid
HANGS = "hangs"
"""An answer that does not come before the test has ended."""
STATS = {"running": 1, "waiting": 0, "kv_tokens": 10, "kv_capacity": 100, "adapters": {"v1": 0}, "device": "cpu"}


def replica(pid=ME, state="RUNNING"):
    return {"state": state, "start_time_s": 5.0} | ({"pid": pid} if pid else {})


def deployment(*replicas, status="HEALTHY", message="", dead=0):
    how = {"status": status, "message": message, "recent_dead_replicas": [{}] * dead, "target_num_replicas": 1}
    return how | {"replicas": list(replicas)}


def actor(class_name, name, pid=ME, state="ALIVE", restarts="0"):
    return {"class_name": class_name, "name": name, "pid": pid, "state": state, "num_restarts": restarts}


def answers(actors=None, deployments=None, **others):
    """What Ray 2.60 and the gateway answer, by path; as little of it as is read."""
    actors = [actor("Control", "tandem_control", restarts="2")] if actors is None else actors
    deployments = {"gateway": deployment(replica())} if deployments is None else deployments
    return {
        "/api/v0/actors": {"result": True, "data": {"result": {"result": actors}}},
        "/api/serve/applications/": {"applications": {"tandem": {"deployments": deployments}}},
        "/api/status": {"base": "tiny", "engines": {"engine_1": STATS}, "holds": []},
        "/metrics": 'tandem_requests_total{target="prod",status="200"} 7.0\n',
    } | others


@pytest.fixture
def up(home):
    """Make a cluster look alive: this process is its head, and a server on loopback answers for Ray and gateway."""
    servers = []
    ended = threading.Event()

    def start(content=None, slots=SLOTS) -> Cluster:
        content = answers() if content is None else content

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                secured = path in ("/api/v0/actors", "/api/serve/applications/")
                if secured and self.headers["Authorization"] != "Bearer secret":
                    return self.send_error(401)
                value = content.get(path, 404)
                if isinstance(value, int):
                    return self.send_error(value)
                if value is HANGS:
                    return ended.wait()
                body = (value if isinstance(value, str) else json.dumps(value)).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                return self.wfile.write(body)

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        home.token.write_text("secret\n")
        return note_cluster(home, port=server.server_port, slots=slots)

    yield start
    ended.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def note_cluster(home, *, port=1, pid=ME, slots=SLOTS) -> Cluster:
    """Leave a cluster.json as `tandem up` does."""
    started = psutil.Process(os.getpid()).create_time()
    made = Cluster(replace(ProcessId.own(), pid=pid), started, "127.0.0.1:1", port, port, slots, ClusterConfig())
    cluster._write(home.cluster, made)
    return made


@pytest.fixture(autouse=True)
def grown(monkeypatch):
    """Clusters here had time to start, however young the process is that plays their head."""
    monkeypatch.setattr(overview, "STARTING_S", 0)


@pytest.fixture
def ledger(home):
    book = Ledger(home.ledger)
    yield book
    book.close()


def training(ledger, home, run_id="a", lines=()):
    """A run that holds slot 0 and has written these lines."""
    ledger.submit(run_id, **TRAIN)
    ledger.grant(run_id, SLOTS[0])
    ledger.transition(run_id, RunState.RUNNING, "at work")
    log = MetricsLog(home.run(run_id) / "metrics.jsonl")
    log.path.parent.mkdir(parents=True)
    for line in lines:
        log.append(line)
    return log


# Down


def test_an_empty_home_is_an_empty_overview_without_problems(home):
    seen = read(home)
    assert (seen.up, seen.http, seen.slots, seen.processes, seen.runs, seen.traffic) == (False, None, (), (), (), None)
    assert seen.problems == ()
    assert not home.ledger.exists(), "looking makes nothing"


def test_while_down_the_ledger_is_read_and_nothing_is_asked(home, ledger):
    ledger.submit("a", **TRAIN)
    go_live(ledger, "v1", seconds=0.5)
    seen = read(home)
    assert [reading.run.id for reading in seen.runs] == ["a"]
    assert (seen.aliases["prod"], seen.swaps[0].new, seen.events[0].text) == ("v1", "v1", "prod: base -> v1")
    assert seen.problems == ()


def test_a_cluster_that_died_is_told_with_the_way_out(home):
    note_cluster(home, pid=NOBODY)
    seen = read(home)
    assert not seen.up
    assert seen.problems == (f"the cluster died: its head, process {NOBODY}, is gone -> `tandem up` starts it again",)


@pytest.mark.parametrize("text", ["{", "[]", '{"slots": null}', "\x00"])
def test_a_damaged_cluster_file_is_a_sentence_and_the_ledger_is_still_read(text, home, ledger):
    ledger.submit("a", **TRAIN)
    home.cluster.write_text(text)
    seen = read(home)
    assert (seen.up, len(seen.runs)) == (False, 1)
    assert "is damaged" in seen.problems[0] and "tandem down" in seen.problems[0]


def test_a_damaged_ledger_is_a_sentence_and_the_machine_is_still_read(home):
    home.ledger.write_bytes(b"no database" * 1000)
    seen = read(home)
    assert "is not a readable ledger" in seen.problems[0]
    assert (seen.runs, seen.host.memory_total) == ((), psutil.virtual_memory().total)


# Runs and adapters


def test_runs_that_have_not_ended_come_first_and_the_queue_in_its_order(home, ledger):
    for run_id in ("done", "low", "high", "held"):
        ledger.submit(run_id, **TRAIN | {"priority": 5 * (run_id == "high")})
    ledger.transition("done", RunState.STOPPED, "no")
    ledger.grant("held", SLOTS[0])
    seen = read(home)
    assert [reading.run.id for reading in seen.runs] == ["held", "high", "low", "done"]
    assert {reading.run.id: reading.position for reading in seen.runs} == {
        "held": None, "high": 1, "low": 2, "done": None,
    }  # fmt: skip
    assert (seen.run_counts["QUEUED"], seen.run_counts["STOPPED"]) == (2, 1)
    assert [reading.run.id for reading in seen.active] == ["held", "high", "low"]


def test_of_many_runs_only_the_newest_ended_ones_are_read(home, ledger):
    for index in range(30):
        ledger.submit(f"r{index}", **TRAIN)
        ledger.transition(f"r{index}", RunState.STOPPED, "no")
    seen = read(home, limit=3)
    assert [reading.run.id for reading in seen.runs] == ["r29", "r28", "r27"]
    assert seen.run_counts["STOPPED"] == 30
    assert [event.seq for event in seen.events] == list(range(60, 45, -1))


def test_while_down_a_run_that_waits_for_the_next_up_has_no_time_left(home, ledger):
    training(ledger, home, lines=[{"step": step, "loss": 3 / step, "at": time.time()} for step in range(1, 11)])
    ledger.progress("a", step=10, max_steps=60, loss=0.3, tokens_per_s=100.0)
    (reading,) = read(home).runs
    assert (reading.eta, reading.progress, len(reading.losses)) == (None, pytest.approx(1 / 6), 10)


def test_a_running_run_has_progress_time_left_and_its_newest_losses(home, ledger, up):
    up()
    now = time.time()
    lines = [{"step": step, "loss": 3 / step, "at": now - 10 + step} for step in range(1, 11)]
    training(ledger, home, lines=lines)
    ledger.progress("a", step=10, max_steps=60, loss=0.3, tokens_per_s=100.0)
    (reading,) = read(home).runs
    assert reading.progress == pytest.approx(1 / 6)
    assert reading.losses == tuple(3 / step for step in range(1, 11))
    assert reading.eta.step_seconds == pytest.approx(1, abs=1e-3)
    assert reading.eta.seconds == pytest.approx(50, abs=2)


def test_a_metrics_file_with_unreadable_lines_is_a_sentence_and_the_rest_is_shown(home, ledger):
    log = training(ledger, home, lines=[{"step": 1, "loss": 2.0, "at": 1.0}])
    with log.path.open("ab") as handle:
        handle.write(b"\x00\x00\xff\n")
    log.append({"step": 2, "loss": 1.0, "at": 2.0})
    seen = read(home)
    assert seen.runs[0].losses == (2.0, 1.0)
    assert "a: 1 of the newest lines of metrics.jsonl cannot be read" in seen.problems


def test_a_run_that_diverged_does_not_look_well(home, ledger):
    training(ledger, home, lines=[{"step": 1, "loss": 1.25, "at": 1.0}, {"step": 2, "loss": math.nan, "at": 2.0}])
    for step, loss in ((1, 1.25), (2, math.nan)):
        ledger.progress("a", step=step, max_steps=9, loss=loss, tokens_per_s=1.0)
    assert ledger.run("a").loss == 1.25, "SQLite stores NaN as NULL"
    seen = read(home)
    assert math.isnan(seen.runs[0].run.loss)
    assert "the loss of a is nan" in seen.problems
    (told,) = report(seen)["active_runs"]
    assert told["loss"] is None, "JSON has no NaN"


@pytest.mark.parametrize("loss", ['"x"', "[1]", "9" * 400, "-1.5"], ids=lambda text: text[:9])
def test_an_odd_loss_leaves_the_rest_of_the_curve(loss, home, ledger):
    log = training(ledger, home, lines=[{"step": 1, "loss": 2.0, "at": 1.0}])
    with log.path.open("a") as handle:
        handle.write(f'{{"step": 2, "loss": {loss}, "at": 2.0}}\n')
    seen = read(home)
    assert seen.runs[0].losses[0] == 2.0
    assert not seen.problems


def test_a_metrics_file_that_cannot_be_opened_is_a_sentence(home, ledger):
    training(ledger, home)
    (home.run("a") / "metrics.jsonl").mkdir()
    seen = read(home)
    assert seen.runs[0].losses == ()
    assert any(problem.startswith("progress of a cannot be read: IsADirectoryError") for problem in seen.problems)


def test_adapters_have_their_state_aliases_and_whether_they_are_loaded(home, ledger, up):
    version = publish(Registry(home.models)).version
    other = publish(Registry(home.models), run_id="other").version
    go_live(ledger, version, seconds=0.5)
    content = answers()
    content["/api/status"]["engines"]["engine_1"] = STATS | {"adapters": {version: 1}}
    up(content)
    found = {reading.manifest.version: reading for reading in read(home).adapters}
    assert (found[version].state, found[version].aliases, found[version].loaded) == ("LIVE", ("prod",), True)
    assert (found[other].state, found[other].aliases, found[other].loaded) == ("PUBLISHED", (), False)


def test_a_suspect_adapter_that_answers_is_a_problem(home, ledger, up):
    version = publish(Registry(home.models), suspect=["5.75 against 0.99"]).version
    up(answers())
    said = f"prod answers with an adapter that is suspect; {version} is suspect: 5.75 against 0.99"
    assert said not in read(home).problems
    go_live(ledger, version, reason="by force", seconds=0.5)
    assert said in read(home).problems


# Up


def test_everything_is_there_while_all_is_well(home, ledger, up):
    ledger.take("1", "serve", "engine_1", ProcessId.own())
    found = up(
        answers(
            actors=[actor("Control", "tandem_control", restarts="2"), actor("Unknown", "x")],
            deployments={"gateway": deployment(replica()), "engine_1": deployment(replica(), dead=1)},
        )
    )
    seen = read(home)
    assert seen.problems == ()
    assert (seen.up, seen.http, seen.dashboard) == (True, found.http, found.dashboard)
    assert (seen.control, seen.base, seen.engines["engine_1"]["running"]) == (True, "tiny", 1)
    assert [(slot.name, slot.role, slot.holder, slot.pid) for slot in seen.slots] == [
        ("0", "train", None, None),
        ("1", "serve", "engine_1", os.getpid()),
    ]
    assert [(one.name, one.state, one.restarts) for one in seen.processes] == [
        ("head", "ALIVE", 0),
        ("control", "ALIVE", 2),
        ("gateway", "RUNNING", 0),
        ("engine_1", "RUNNING", 1),
    ]
    me = psutil.Process()
    assert all(one.started == pytest.approx(me.create_time(), abs=1) for one in seen.processes)
    assert all(one.memory_bytes > 2**20 and one.cpu_seconds > 0 for one in seen.processes)
    assert seen.traffic.by_status == {"200": 7}
    assert json.loads(json.dumps(asdict(seen)))["runs"] == []


def test_a_process_that_is_gone_or_missing_or_starting_is_a_sentence(home, up):
    up(
        answers(
            actors=[actor("Trainer", "trainer_r1", pid=NOBODY)],
            deployments={
                "gateway": deployment(replica(None, "STARTING"), status="UPDATING"),
                "engine_1": deployment(status="UNHEALTHY", message="A replica's health check failed."),
            },
        )
    )
    seen = read(home)
    assert {one.name: one.state for one in seen.processes} == {
        "head": "ALIVE", "control": "MISSING", "gateway": "STARTING", "engine_1": "MISSING", "trainer_r1": "GONE",
    }  # fmt: skip
    assert seen.problems == (
        "control is MISSING",
        "gateway is STARTING",
        "engine_1 is MISSING: its process died or hung; it is being started again",
        f"trainer_r1 is GONE, process {NOBODY}",
    )


def young(monkeypatch):
    monkeypatch.setattr(overview, "STARTING_S", 1e9)


def test_what_is_not_there_yet_while_the_cluster_is_young_is_no_problem(home, ledger, up, monkeypatch):
    young(monkeypatch)
    ledger.quarantine("0", "3 CUDA errors in a row", "tandem")
    coming = answers(
        actors=[actor("Control", "tandem_control", state="PENDING_CREATION", pid=0)],
        deployments={"gateway": deployment(), "engine_1": deployment(replica(None, "STARTING"), status="UPDATING")},
    )
    up(coming | {"/api/status": 404, "/metrics": HANGS, "/api/serve/applications/": 503})
    seen = read(home, timeout_s=0.5)
    assert (seen.starting, seen.problems) == (True, ("slot 0 is in quarantine: 3 CUDA errors in a row",))
    control = [actor("Control", "tandem_control")]
    loading = answers(control)
    loading["/api/status"]["engines"]["engine_1"] = {"error": "no answer within 5 s: loading its model"}
    up(loading)
    assert (read(home).starting, len(read(home).problems)) == (True, 1)
    up(answers(control))
    assert not read(home).starting, "all is there"


def test_before_the_control_actor_is_there_it_is_on_its_way_and_not_missing(home, up, monkeypatch):
    young(monkeypatch)
    up(answers([], {}, **{"/api/status": 404, "/metrics": 404}))
    seen = read(home)
    assert (seen.starting, seen.problems) == (True, ())
    assert [(one.name, one.word, one.on_its_way) for one in seen.processes] == [
        ("head", "ALIVE", False),
        ("control", "STARTING", True),
    ]


def coming(state="PENDING_CREATION"):
    trainer, driver = actor("Trainer", "trainer_a", pid=0, state=state), "_ray_internal_job_actor_a-1"
    return answers([actor("Control", "tandem_control"), trainer, actor("JobSupervisor", driver, pid=0, state=state)])


@pytest.mark.parametrize("state", ["PENDING_CREATION", "DEPENDENCIES_UNREADY"])
def test_the_processes_of_a_run_that_is_starting_are_on_their_way(state, home, ledger, up):
    ledger.submit("a", **TRAIN)
    ledger.grant("a", SLOTS[0])
    since(ledger, 600)
    up(coming(state))
    seen = read(home)
    assert seen.problems == ()
    assert {one.name: (one.run, one.word, one.on_its_way) for one in seen.processes if one.run} == {
        "trainer_a": ("a", "STARTING", True),
        "driver_a": ("a", "STARTING", True),
    }


def test_an_actor_and_a_replica_have_rays_id(home, up):
    control, engine = actor("Control", "x") | {"actor_id": "abc"}, replica() | {"actor_id": "def"}
    up(answers([control], {"engine_1": deployment(engine)}))
    assert {one.name: one.actor for one in read(home).processes} == {"head": None, "control": "abc", "engine_1": "def"}


def test_after_a_runs_first_minute_a_process_that_has_not_begun_is_a_sentence(home, ledger, up):
    training(ledger, home)
    up(coming())
    assert read(home).problems == ()
    since(ledger, 61)
    assert read(home).problems == ("trainer_a is PENDING_CREATION", "driver_a is PENDING_CREATION")


def test_a_process_of_a_young_run_that_died_or_is_nobodys_is_a_sentence(home, ledger, up):
    training(ledger, home)
    up(answers([actor("Control", "x"), actor("Trainer", "trainer_a", pid=NOBODY), *coming_of("other")]))
    assert read(home).problems == (f"trainer_a is GONE, process {NOBODY}", "trainer_other is PENDING_CREATION")


def coming_of(run_id):
    return [actor("Trainer", f"trainer_{run_id}", pid=0, state="PENDING_CREATION")]


def since(ledger, seconds):
    """Every run was given its slot so long ago."""
    with ledger._transaction() as db:
        db.execute("UPDATE runs SET started_at = ?", (time.time() - seconds,))


@pytest.mark.parametrize(
    "engine",
    [
        deployment(replica(NOBODY)),
        deployment(replica(None, "STARTING"), dead=1),
        deployment(replica(None, "STARTING"), status="UNHEALTHY", message="A replica's health check failed. This"),
        deployment(replica(None, "STARTING"), status="UPDATING", message="The deployment failed to start 1 times"),
    ],
)
def test_what_died_while_the_cluster_is_young_is_a_problem(engine, home, up, monkeypatch):
    young(monkeypatch)
    control = [actor("Control", "tandem_control")]
    up(answers(control, {"gateway": deployment(replica()), "engine_1": engine}))
    seen = read(home)
    assert not seen.starting
    assert len(seen.problems) == 1 and seen.problems[0].startswith("engine_1 is ")


def test_a_holder_whose_process_is_gone_is_a_sentence(home, ledger, up):
    ledger.take("1", "serve", "engine_1", replace(ProcessId.own(), pid=NOBODY))
    up()
    assert f"slot 1 is held by engine_1, whose process {NOBODY} is gone" in read(home).problems


def test_an_engine_that_does_not_answer_says_so_in_its_own_words(home, up):
    content = answers()
    content["/api/status"]["engines"]["engine_1"] = {"error": "no answer within 5 s"}
    up(content)
    assert read(home).problems == ("engine_1: no answer within 5 s",)


def test_what_answers_with_an_error_is_left_out_and_named(home, up):
    up(answers(**{"/api/status": 503, "/metrics": 500}))
    seen = read(home)
    assert (seen.control, seen.engines, seen.traffic) == (None, {}, None)
    assert [problem.partition(": ")[0] for problem in seen.problems] == [
        "the gateway (/api/status) does not answer",
        "the gateway (/metrics) does not answer",
    ]
    assert "503" in seen.problems[0] and "500" in seen.problems[1]


def test_what_is_slow_is_left_out_after_the_timeout(home, up):
    up(answers(**{"/api/serve/applications/": HANGS, "/metrics": HANGS}))
    seen = read(home, timeout_s=1)
    assert seen.problems == (
        "Ray Serve does not answer within 1 s",
        "the gateway (/metrics) does not answer within 1 s",
    )
    assert (seen.control, seen.traffic, seen.base) == (True, None, "tiny")


@pytest.mark.parametrize("status", [503, HANGS])
def test_a_control_actor_that_hangs_or_is_dead_hides_no_engine(status, home, up):
    up(answers(**{"/api/status": status, "/readyz": {"base": "tiny", "engines": {"engine_1": STATS}}}))
    seen = read(home, timeout_s=1)
    assert seen.problems[-1].startswith("the control actor does not answer the gateway")
    assert (seen.control, seen.base, seen.engines, seen.traffic.answered) == (False, "tiny", {"engine_1": STATS}, 7)


@pytest.mark.parametrize("answer", [500, "no JSON", ["strange"]])
def test_a_status_that_fails_otherwise_is_not_blamed_on_the_control_actor(answer, home, up):
    up(answers(**{"/api/status": answer, "/readyz": {"base": "tiny", "engines": {"engine_1": STATS}}}))
    seen = read(home)
    assert (seen.control, seen.engines) == (None, {"engine_1": STATS})
    (problem,) = seen.problems
    assert problem.startswith("the gateway (/api/status) ") and "control actor" not in problem


def test_a_gateway_that_waits_for_an_engine_that_is_not_up_is_not_blamed(home, up):
    content = answers(deployments={"gateway": deployment(replica()), "engine_1": deployment(replica(NOBODY))})
    up(content | {"/api/status": HANGS, "/metrics": HANGS})
    assert read(home, timeout_s=1).problems == (f"engine_1 is GONE, process {NOBODY}",)


def test_a_wrong_token_hides_rays_processes_and_says_so(home, up):
    up()
    home.token.write_text("other")
    seen = read(home)
    assert [one.name for one in seen.processes] == ["head"]
    assert len(seen.problems) == 2 and all("401" in problem for problem in seen.problems)


@pytest.mark.parametrize("strange", [[], "text", {}, {"data": None}, {"data": {"result": {"result": [{}]}}}])
def test_answers_of_another_shape_leave_the_head_and_a_sentence(strange, home, up):
    up(answers(**{"/api/v0/actors": strange}))
    seen = read(home)
    assert "head" in [one.name for one in seen.processes]
    assert any("Ray's table of actors" in problem or "processes has a shape" in problem for problem in seen.problems)


def test_nothing_listens_while_the_head_lives(home):
    note_cluster(home, port=1)
    seen = read(home)
    assert seen.up and [one.name for one in seen.processes] == ["head"]
    assert len([problem for problem in seen.problems if "does not answer" in problem]) == 4
    assert any(problem.startswith("token cannot be read") for problem in seen.problems)


# GPUs and clocks


def gpu_slots():
    return tuple(Slot(name=str(i), gpu=i, uuid=f"GPU-{i}", roles=(role,)) for i, role in enumerate(("train", "serve")))


def test_a_gpu_that_vanished_from_the_driver_is_a_sentence(home, up, monkeypatch):
    left = GpuReading(1, "GPU-1", "RTX 3090", 24 * 2**30, 2**30, 0.5, 61.0, 250.5)
    monkeypatch.setattr(gpus, "readings", lambda: [left])
    up(slots=gpu_slots())
    seen = read(home)
    assert seen.gpus == (left,)
    assert seen.problems == ("GPU 0 of slot 0 (GPU-0) is gone: the driver does not show it any more",)


def test_a_driver_that_does_not_answer_is_one_sentence_and_no_gpu_is_called_gone(home, up, monkeypatch):
    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    up(slots=gpu_slots())
    assert read(home).problems == (
        "the NVIDIA driver does not answer: NVML Shared Library Not Found -> `nvidia-smi` says more",
    )


def test_a_driver_that_does_not_count_its_gpus_is_none_and_the_rest_is_read(home, ledger, up, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setenv("NVML_COUNT_FAILS", "1")
    ledger.submit("a", **TRAIN)
    up(slots=gpu_slots())
    seen = read(home)
    assert (seen.gpus, [reading.run.id for reading in seen.runs]) == ((), ["a"])
    assert [problem.partition(":")[0] for problem in seen.problems] == ["the NVIDIA driver does not answer"]


def test_a_run_without_a_sign_of_life_is_a_sentence(home, ledger, up):
    training(ledger, home)
    with ledger._transaction() as db:
        db.execute("UPDATE runs SET heartbeat_at = ?", (time.time() - 600,))
    up()
    assert any(problem.startswith("a has given no sign of life for 6") for problem in read(home).problems)


def test_a_step_that_compiles_for_minutes_is_not_wrong(home, ledger, up):
    training(ledger, home)
    with ledger._transaction() as db:
        db.execute("UPDATE runs SET heartbeat_at = ?", (time.time() - 0.45 * ClusterConfig().heartbeat_timeout_s,))
    up()
    assert read(home).problems == ()


def test_a_clock_that_was_set_back_is_a_sentence_and_no_age_is_negative(home, ledger, monkeypatch):
    ledger.note("x", "y")
    now = time.time()
    monkeypatch.setattr(overview.time, "time", lambda: now - 3600)
    seen = read(home)
    assert any(
        problem.startswith("the clock was set back: the newest entry of the ledger is 3,") for problem in seen.problems
    )
    assert age(seen.events[0].at, seen.at) == 0
    assert (age(None, now), age(now - 5, now)) == (None, 5)


def test_a_quarantined_slot_is_a_sentence_and_tells_a_run_why_it_waits(home, ledger, up):
    ledger.quarantine("0", "3 CUDA errors in a row", "tandem")
    ledger.submit("a", **TRAIN)
    up()
    seen = read(home)
    assert seen.problems == ("slot 0 is in quarantine: 3 CUDA errors in a row",)
    assert [slot.quarantine for slot in seen.slots] == ["3 CUDA errors in a row", None]
    assert "every slot that it could have is in quarantine" in seen.runs[0].waits_for
    ledger.release_quarantine("0", accepted=None)
    seen = read(home)
    assert (seen.problems, seen.slots[0].quarantine, seen.runs[0].waits_for) == ((), None, None)

"""Runs on a real cluster: both doors, the queue, stopping, resuming."""

import contextlib
import json
import subprocess
import time

import pytest

from actors.runs.run import Run, RunState
from configs import paths
from configs.load import load_run
from tests.ray.conftest import TANDEM


def test_both_doors_give_the_same_run_and_on_the_one_slot_priority_goes_first(tandem):
    how = ["--profile", "tiny", "--max-steps", "6"]
    job = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "-m", "jobs.train", *how]
    earlier = _newest(tandem)
    with contextlib.ExitStack() as started:
        with tandem.nothing_starts():
            submitted = started.enter_context(_started(tandem, *job))
            outside = _queued_after(tandem, earlier)
            followed = started.enter_context(_started(tandem, *TANDEM, "train", *how, "--priority", "5", "-f"))
            inside = _queued_after(tandem, outside)
        shown, said = followed.communicate(timeout=180)
        output, errors = submitted.communicate(timeout=180)
    assert (followed.returncode, shown.strip()) == (0, inside.id), said
    assert "SUCCEEDED" in said and "6/6" in said and "tandem swap" in said
    assert submitted.returncode == 0, output + errors
    assert f"run {outside.id}: SUCCEEDED" in output
    first, second = tandem.find_run(inside.id), tandem.find_run(outside.id)
    assert first.state is second.state is RunState.SUCCEEDED
    assert first.config == second.config
    assert tandem.losses(inside.id) == tandem.losses(outside.id), "the same to the last digit"
    granted_inside, gave_back_inside = _held(tandem, inside)
    granted_outside, _ = _held(tandem, outside)
    assert granted_inside < gave_back_inside <= granted_outside


def _started(tandem, *command: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=tandem.ray_environment, cwd=paths.SOURCE, **pipes)


def _newest(tandem) -> Run | None:
    return next(iter(tandem.ledger().runs(limit=1)), None)


def _queued_after(tandem, earlier: Run | None, timeout: float = 180) -> Run:
    """The run that was queued next; it waits."""
    deadline = time.monotonic() + timeout
    while (newest := _newest(tandem)) is None or (earlier and newest.id == earlier.id):
        assert time.monotonic() < deadline, "nothing was queued"
        time.sleep(0.1)
    assert newest.state is RunState.QUEUED
    return newest


def _held(tandem, run: Run) -> tuple[float, float]:
    """When the run was granted its slot and when it gave it back."""
    at = {event.kind: event.at for event in tandem.ledger().events(run_id=run.id)}
    return at["starting"], at["succeeded"]


def test_a_queued_run_stops_at_once_and_never_gets_a_slot(tandem):
    blocking = tandem.train("--max-steps", "40")
    waiting = tandem.train("--max-steps", "5")
    assert tandem.json("runs", "stop", waiting)["state"] == "STOPPED"
    tandem.run("runs", "stop", blocking)
    assert tandem.ended(blocking).state is RunState.STOPPED
    assert tandem.find_run(waiting).attempt == 0
    left = [path.name for path in tandem.home.run(waiting).iterdir()]
    assert left == ["prediction.json"], "a queued run costs nothing but its row and its prediction"


def test_a_starting_run_stops_before_its_first_step(tandem):
    run_id = tandem.train("--max-steps", "40")
    tandem.wait(run_id, lambda run: run.state is RunState.STARTING)
    tandem.run("runs", "stop", run_id)
    ended = tandem.ended(run_id)
    assert ended.state is RunState.STOPPED and ended.step == 0 and ended.adapter is None
    assert not [lease for lease in tandem.ledger().leases() if lease.role == "train"]


def test_a_stopped_run_keeps_a_checkpoint_and_resumes_to_the_same_loss_curve(tandem, trained):
    cut = tandem.train()
    tandem.reached(cut, 4)
    tandem.run("runs", "stop", cut)
    stopped = tandem.ended(cut)
    assert stopped.state is RunState.STOPPED and 4 <= stopped.step < 60 and stopped.adapter is None
    assert (tandem.home.run(cut) / "checkpoints" / f"checkpoint-{stopped.step}" / "manifest.json").exists()
    resumed = tandem.run("runs", "resume", cut).stdout.strip()
    ended = tandem.ended(resumed)
    assert ended.state is RunState.SUCCEEDED and ended.parent == cut and ended.step == 60
    assert tandem.losses(resumed) == tandem.losses(trained.id), "digit by digit"
    shown = tandem.json("runs", "show", resumed)
    assert [line["step"] for line in shown["metrics"] if "loss" in line] == list(range(1, 61))
    assert [line["step"] for line in shown["metrics"] if "eval_loss" in line] == list(range(0, 61, 10))


def test_sigterm_to_a_ray_job_writes_a_checkpoint_and_ends_as_stopped(tandem):
    run_id = tandem.train("--max-steps", "60")
    job_id = tandem.reached(run_id, 3).job_id
    subprocess.run(
        ["ray", "job", "stop", job_id], env=tandem.ray_environment, cwd=paths.SOURCE, check=True, timeout=120,
        capture_output=True,
    )  # fmt: skip
    ended = tandem.ended(run_id)
    assert ended.state is RunState.STOPPED and 3 <= ended.step < 60
    assert (tandem.home.run(run_id) / "checkpoints" / f"checkpoint-{ended.step}" / "manifest.json").exists()


def test_a_failing_run_leaves_its_reason_and_its_last_lines(tandem, tmp_path):
    data = tmp_path / "chats.jsonl"
    good, long = (
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Hello."}]}
        for text in ("Hi", "Hi " * 300)
    )
    data.write_text(f"{json.dumps(good)}\n" * 8)
    with tandem.nothing_starts():
        run_id = tandem.train("--dataset", str(data), "--set", "model.max_seq_length=128")
        data.write_text(f"{json.dumps(long)}\n" * 8)
    ended = tandem.ended(run_id)
    assert ended.state is RunState.FAILED and "nothing would be learned" in ended.reason
    logged = [event.text for event in tandem.ledger().events(run_id=run_id) if event.kind == "log"]
    assert logged and "TrainingError" in logged[0]
    assert "TrainingError" in tandem.run("runs", "logs", run_id).stdout
    followed = tandem.run("runs", "logs", "-f", run_id, check=False)
    assert followed.returncode == 1, "following exits with the run's own result"


def test_bad_requests_are_refused_before_anything_is_queued(tandem, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\nnot json\n'
    )
    before = len(tandem.ledger().runs(limit=10_000))
    for arguments, words in (
        (["--dataset", str(broken)], "broken.jsonl:2"),
        (["--gpu", "7"], "slots that do: 0"),
        (["--gpu", "1"], "does not train"),
        (["--set", "training.lerning_rate=1"], "did you mean 'training.learning_rate'?"),
        (["--resume", "no-such-run"], "no run no-such-run"),
    ):
        profile = [] if "--resume" in arguments else ["--profile", "tiny"]
        done = tandem.run("train", *profile, *arguments, check=False)
        assert done.returncode in (1, 2) and words in done.stderr, done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
            done.stderr.splitlines()[-1]
        ]
    assert len(tandem.ledger().runs(limit=10_000)) == before


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "a;reboot", "$(id)", "x" * 200])
def test_an_id_that_could_reach_a_shell_or_a_path_is_refused(tandem, run_id):
    config = load_run("tiny").model_dump(mode="json")
    answer = tandem.post("/api/runs", {"run_id": run_id, "config": config})
    assert answer.status_code == 404 and "is not a run id" in answer.json()["error"]["message"]

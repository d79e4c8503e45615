"""`tandem demo`: the whole main job on the embedded model, on real processes, with the endpoint under load throughout.

It runs in a home of its own below TANDEM_HOME, on free ports and on two CPU slots, so it disturbs nothing that runs.
"""

import os
import shutil
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actors import cluster, http_clients
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunState, new_run_id
from cli import output
from cli.machine.bring_up import bring_up
from configs import load, paths
from configs.errors import ClusterError, TrainingError
from configs.paths import Home

QUESTION = "What is Tandem?"
ANSWER_TIMEOUT_S = 120
ASKERS = 2
"""Clients that keep asking, one streamed answer after the other, from before the training until after the last swap."""
CPU_SLOTS = "[{name: '0', roles: [train]}, {name: '1', roles: [serve]}]"
OTHER_QUESTIONS = ("What is the capital of Italy?", "Who are you?", "Count from 1 to 20.", "How are you?")


@click.command()
@click.option("--keep", is_flag=True, help="Keep the demo's state afterwards, to look at.")
def demo(keep: bool) -> None:
    """Ask, train, swap, ask again, swap back: on the embedded model, in under four minutes on two cores.

    \b
    Example:
      tandem demo
    """
    started = time.monotonic()
    home = Home(paths.home().root / "demo")
    os.environ["TANDEM_HOME"] = str(home.root)
    paths.home()  # the folder's name must not be too long
    if (found := cluster.find(home)) and found.is_alive:
        raise ClusterError(f"another demo is running at {found.http}", hint="wait for it to end")
    cluster.end_processes(home)
    shutil.rmtree(home.root, ignore_errors=True)
    http, dashboard = cluster.free_ports(2)
    ports = (f"http_port={http}", f"dashboard_port={dashboard}")
    settings = load.load_cluster(sets=(*ports, f"slots={CPU_SLOTS}"))
    running = bring_up(home, settings, load.load_serve({"base": "tiny"}), _say(started))
    try:
        report = _main_job(home, running, _say(started))
    finally:
        cluster.stop(home)
        if not keep:
            shutil.rmtree(home.root, ignore_errors=True)
    for name, text in report:
        click.echo(f"{name:<10} {text}")
    click.echo(f"DEMO OK in {time.monotonic() - started:.0f} s")


def _main_job(home: Home, running: cluster.Cluster, say) -> list[tuple[str, str]]:
    """Everything between `up` and `down`. Returns the report; raises TandemError if any of it is not as it must be."""
    from cli.api import Api

    api = Api()
    say(f"asking the base: {QUESTION}")
    before = ask(running, QUESTION)
    clients = Load(running)
    with clients:
        say("training on slot 0 while the endpoint on slot 1 answers")
        run_id = new_run_id("tiny")
        config = load.load_run("tiny").model_dump(mode="json")
        api.post("/api/runs", {"run_id": run_id, "config": config})
        run = _watch(home, run_id, clients)
        while_training = clients.answered
        say(f"swapping {run.adapter} in")
        swapped = api.post("/api/aliases/prod", {"adapter": "latest"})
        after = ask(running, QUESTION)
        say("swapping back")
        returned = api.post("/api/aliases/prod", {"back": True})
        again = ask(running, QUESTION)
        during = clients.wait_for_more(while_training)
    _require(after != before, f"the adapter changed nothing: still {after!r}")
    _require(again == before, f"after the way back the answer is {again!r}, not {before!r}")
    _require(clients.lost == 0 and clients.answered > 0, f"{clients.lost} requests were lost: {clients.problems[:3]}")
    _require(during > 0, "no request was answered during the swaps, so they prove nothing")
    losses = _losses(home, run_id)
    return [
        ("question", QUESTION),
        ("before", before),
        ("after", after),
        ("back", again),
        (
            "training",
            f"{run.step} steps, loss {losses[0]:.2f} -> {losses[-1]:.2f}, {run.ended_at - run.started_at:.0f} s",
        ),
        ("curve", output.sparkline(losses)),
        ("swaps", f"in {swapped['seconds']:.2f} s, back {returned['seconds']:.2f} s"),
        ("requests", f"{while_training} answered while training, {during} during the swaps, lost: 0"),
    ]


@dataclass
class Load:
    """Clients that stream one answer after the other until the context ends; a cut or failed answer is a lost one."""

    running: cluster.Cluster
    max_tokens: int | None = None
    answered: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._ending = threading.Event()
        self._counting = threading.Lock()
        self._threads = [threading.Thread(target=self._keep_asking, args=(n,), daemon=True) for n in range(ASKERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def wait_for_more(self, than: int, timeout: float = 30) -> int:
        """Wait until an answer has come beyond the first `than`; how many beyond there are."""
        deadline = time.monotonic() + timeout
        while self.answered <= than and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.answered - than

    def _keep_asking(self, first: int) -> None:
        number = first
        while not self._ending.is_set():
            try:
                ask(self.running, OTHER_QUESTIONS[number % len(OTHER_QUESTIONS)], self.max_tokens)
                with self._counting:
                    self.answered += 1
            except Exception as error:  # whatever it is, this request was lost, and that is what is counted
                with self._counting:
                    self.lost += 1
                    self.problems.append(f"{type(error).__name__}: {error}")
            number += 1


def ask(running: cluster.Cluster, question: str, max_tokens: int | None = None) -> str:
    """A streamed answer, whole. Raises ClusterError if the stream ends without its finish reason."""
    with closing(http_clients.openai_client(f"{running.http}/v1", "none", ANSWER_TIMEOUT_S)) as client:
        messages = [{"role": "user", "content": question}]
        text, finish = "", None
        how = {"max_tokens": max_tokens} if max_tokens else {}
        for chunk in client.chat.completions.create(model="prod", messages=messages, temperature=0, stream=True, **how):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
    _require(finish in ("stop", "length"), f"an answer ended without a finish reason after {text!r}")
    return text


def _watch(home: Home, run_id: str, clients: Load) -> Run:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}"))
    ledger = Ledger(home.ledger, read_only=True)
    elapsed = (TextColumn("elapsed"), TimeElapsedColumn())
    with Progress(*columns, *elapsed, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("queued", total=None, news="")
        while True:
            run = ledger.run(run_id)
            loss = f"loss {run.loss:.3f}  " if run.loss is not None else ""
            news = f"{loss}{clients.answered} requests answered, {clients.lost} lost"
            progress.update(task, description=run.state.lower(), completed=run.step, total=run.max_steps, news=news)
            if run.state.is_terminal:
                _require(run.state is RunState.SUCCEEDED, f"the run ended {run.state}: {run.reason}")
                return run
            time.sleep(0.2)


def _losses(home: Home, run_id: str) -> list[float]:
    from actors.runs.curve import MetricsLog

    return [line["loss"] for line in MetricsLog(home.run(run_id) / "metrics.jsonl").losses()]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise TrainingError(f"DEMO FAILED: {otherwise}", hint="`tandem demo --keep` keeps its logs")


def _say(started: float):
    return lambda text: output.say(f"[{time.monotonic() - started:4.0f} s] {text}")

"""Notifications: a real webhook on loopback, real programs, a real ledger; what fails is an event without secrets."""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from actors import cluster
from actors.home.process_id import ProcessId
from actors.notify import messages, targets
from actors.notify.queue import WAITING, Notifier
from actors.notify.targets import Command, Service
from actors.runs.event import Event
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from configs.errors import ConfigError, DeliveryError
from configs.schema import ClusterConfig, NotifyConfig, Slot
from tests.samples import TRAIN as SUBMISSION
from tests.unit.actors.conftest import SERVE, TRAIN, Desk

SECRET = "hunter2hunter2"


class Webhook:
    """An HTTP server on loopback that keeps what is posted to it; `statuses` are its answers, then 200 for ever.

    Below the path `broken` it answers 500 always.
    """

    def __init__(self) -> None:
        self.posts: list[dict] = []
        self.statuses: list[int] = []
        self.broken = "nothing"
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posts.append(json.loads(body) | {"path": self.path})
                status = hook.statuses.pop(0) if hook.statuses else 200
                self.send_response(500 if self.path.startswith(hook.broken) else status)
                self.end_headers()

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://me:{SECRET}@127.0.0.1:{self.server.server_port}/{SECRET}?+X-Token={SECRET}"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    thread = threading.Thread(target=hook.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()


@pytest.fixture
def ledger(home):
    book = Ledger(home.ledger)
    yield book
    book.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def tell(ledger: Ledger, config: NotifyConfig, *events: tuple[str, str]) -> Notifier:
    """A notifier that has seen the ledger as it is, then these events, and has sent what it sends."""
    notifier = Notifier(config, ledger, pauses_s=(0, 0))
    notifier.offer()
    for kind, text in events:
        ledger.note(kind, text, "a")
    notifier.offer()
    until(notifier.idle)
    return notifier


def failures(ledger: Ledger) -> list[str]:
    return [event.text for event in ledger.events() if event.kind == "notify"]


def program(tmp_path: Path, source: str) -> tuple[str, ...]:
    path = tmp_path / "program.py"
    path.write_text(source)
    return (sys.executable, "-S", str(path))


# What is told


def test_every_kind_that_can_be_chosen_has_its_words():
    kinds = ClusterConfig.model_json_schema()["$defs"]["NotifyConfig"]["properties"]["events"]["items"]["enum"]
    assert list(messages.TITLES) == kinds


def test_a_notice_says_where_what_and_which_run():
    notice = messages.of(Event(7, 1000.5, "tiny-1", "failed", "the loss is nan"))
    assert notice.title == f"Tandem on {notice.host}: run tiny-1 failed"
    assert (notice.text, notice.run, notice.at, notice.level) == ("the loss is nan", "tiny-1", 1000.5, "failure")
    assert messages.of(Event(8, 1000.5, "tiny-1", "running", "at work")) is None
    assert len(messages.of(Event(9, 1.0, None, "quarantine", "x" * 9000)).text) == messages.LONGEST_TEXT


# A service


def test_a_service_gets_the_title_the_text_and_the_level(webhook, ledger):
    tell(ledger, NotifyConfig(urls=[webhook.url]), ("succeeded", "published v1"), ("quarantine", "slot 0: gone"))
    assert [(post["title"].partition(": ")[2], post["message"], post["type"]) for post in webhook.posts] == [
        ("run a succeeded", "published v1", "success"),
        ("a slot is in quarantine", "slot 0: gone", "failure"),
    ]
    assert failures(ledger) == []


def test_only_the_chosen_events_are_told(webhook, ledger):
    tell(ledger, NotifyConfig(urls=[webhook.url], events=["stopped"]), ("failed", "x"), ("stopped", "by you"))
    assert [post["message"] for post in webhook.posts] == ["by you"]


def test_a_service_that_fails_once_is_tried_again(webhook, ledger):
    webhook.statuses = [500, 500]
    tell(ledger, NotifyConfig(urls=[webhook.url]), ("failed", "x"))
    assert len(webhook.posts) == 3
    assert failures(ledger) == []


def test_a_service_that_goes_on_failing_is_an_event_without_secrets_and_holds_up_no_other(webhook, ledger, capfd):
    webhook.broken = f"/{SECRET}"
    config = NotifyConfig(urls=[webhook.url, webhook.url.replace(f"/{SECRET}", "/second")])
    tell(ledger, config, ("failed", "x"))
    (told,) = failures(ledger)
    assert told.startswith("url 1 (json) was not told 'Tandem on ")
    assert "error=500" in told
    paths = [post["path"].strip("/") for post in webhook.posts]
    assert sorted(paths) == sorted([SECRET] * 3 + ["second"])
    assert SECRET not in "".join([told, *capfd.readouterr()])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"json://me:{SECRET}@127.0.0.1:1/{SECRET}", "nobody listens there"),
        (f"json://{SECRET}.invalid/x", "there is no such host"),
        (f"nosuchservice://{SECRET}/x", "not a URL that Apprise knows"),
        (SECRET, "not a URL that Apprise knows"),
        (f"slack://{SECRET}", "An invalid Slack (second) Token"),
    ],
    ids=["nobody listens", "no host", "unknown scheme", "no URL", "too little of one"],
)
def test_a_service_that_cannot_be_reached_says_why_without_its_url(url, words, capfd):
    (target,) = targets.targets(NotifyConfig(urls=[url]))
    with pytest.raises(DeliveryError) as caught:
        target.send(messages.test())
    assert words in caught.value.message
    shown = "".join([repr(target), str(target.name), str(caught.value), *capfd.readouterr()])
    assert SECRET not in shown


def test_a_service_that_took_a_notice_and_says_nothing_is_not_told_again(ledger):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"json://127.0.0.1:{server.getsockname()[1]}"
        notifier = Notifier(NotifyConfig(urls=[url], timeout_s=0.3), ledger, pauses_s=(0.01, 0.01))
        notifier.offer()
        ledger.note("failed", "one", "a")
        notifier.offer()
        until(notifier.idle)
        server.settimeout(0.5)
        taken = [server.accept()]
        with pytest.raises(TimeoutError):
            taken.append(server.accept())
    assert failures(ledger)[0].endswith("no answer within 0.3 s; it may have arrived")
    taken[0][0].close()


def test_a_url_that_can_never_work_is_refused_without_its_secrets():
    with pytest.raises(ConfigError, match=r"notify\.urls, url 2 \(slack\): An invalid Slack") as caught:
        targets.check(NotifyConfig(urls=["json://127.0.0.1:1", f"slack://{SECRET}"]))
    assert SECRET not in str(caught.value)
    targets.check(NotifyConfig(urls=["json://127.0.0.1:1"], command=("not-there",)))


def test_of_a_row_of_failures_only_the_first_is_an_event_and_so_is_its_end(webhook, ledger):
    webhook.statuses = [500] * 9  # each of the first three is tried three times
    events = [("failed", text) for text in ("one", "two", "three", "four", "five")]
    tell(ledger, NotifyConfig(urls=[webhook.url]), *events)
    first, again = failures(ledger)
    assert "was not told 'Tandem on" in first and "error=500" in first
    assert again.endswith("is reached again; it was not told 3 of the notices before")


def test_what_another_thread_says_meanwhile_is_not_in_a_services_error(webhook):
    class Overheard(list):
        def append(self, post: dict) -> None:  # in the server's thread, while the service waits for its answer
            logging.getLogger("apprise").warning("somebody else's token")
            super().append(post)

    webhook.posts, webhook.statuses = Overheard(), [500]
    (target,) = targets.targets(NotifyConfig(urls=[webhook.url]))
    with pytest.raises(DeliveryError, match="error=500") as caught:
        target.send(messages.test())
    assert "token" not in caught.value.message


def test_what_a_service_says_is_shown_without_any_part_of_its_url():
    service = Service("url 1 (json)", f"json://host.example/tok%2Fen/{SECRET}?key=abc", 1)
    assert service._redacted(f"Failed: host.example refused {SECRET} for tok/en, key=abc") == (
        "Failed: *** refused *** for ***/en, ***=***"
    )


def test_a_target_that_hangs_holds_up_no_other_and_loses_no_notice_of_theirs(webhook, tmp_path, ledger):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    config = NotifyConfig(urls=[webhook.url], command=("cat", str(gate)), timeout_s=60)
    notifier = Notifier(config, ledger, pauses_s=())
    notifier._outboxes.reverse()  # the program first
    notifier.offer()
    for text in ("one", "two"):
        ledger.note("failed", text, "a")
        notifier.offer()
    until(lambda: len(webhook.posts) == 2)
    assert [post["message"] for post in webhook.posts] == ["one", "two"]
    assert not notifier.idle()
    notifier._outboxes[0].target = Command("command (true)", ("true",), 5)
    gate.open("w").close()
    until(notifier.idle)


def test_a_url_that_no_service_knows_is_tried_once(ledger, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", lambda seconds, real=time.sleep: slept.append(seconds) or real(0.01))
    notifier = Notifier(NotifyConfig(urls=["nosuchservice://x"]), ledger, pauses_s=(7, 7))
    notifier.offer()
    ledger.note("failed", "x", "a")
    notifier.offer()
    until(notifier.idle)
    assert 7 not in slept
    assert [text.rpartition(": ")[2] for text in failures(ledger)] == ["not a URL that Apprise knows"]


def test_an_error_of_nobodys_making_does_not_end_the_thread(webhook, ledger):
    class Broken:
        name = "broken"

        def send(self, notice):
            raise ValueError(SECRET)

    notifier = tell(ledger, NotifyConfig(urls=[webhook.url]))
    (outbox,) = notifier._outboxes
    service, outbox.target = outbox.target, Broken()
    for text in ("one", "two"):
        ledger.note("failed", text, "a")
    notifier.offer()
    until(notifier.idle)
    outbox.target = service
    ledger.note("failed", "three", "a")
    notifier.offer()
    until(notifier.idle)
    assert [post["message"] for post in webhook.posts] == ["three"]
    first, again = failures(ledger)
    assert first.endswith(": ValueError") and again.endswith("it was not told 2 of the notices before")


# A program


def test_a_program_gets_the_notice_on_stdin_and_in_its_environment_without_a_shell(tmp_path, ledger):
    out = tmp_path / "out.json"
    argv = program(
        tmp_path,
        "import json, os, sys\n"
        "kept = {key: value for key, value in os.environ.items() if key.startswith('TANDEM_NOTICE')}\n"
        f"open({str(out)!r}, 'w').write(json.dumps([sys.argv[1:], json.load(sys.stdin), kept]))\n",
    )
    tell(ledger, NotifyConfig(command=(*argv, "$(id); *")), ("failed", 'it\'s "bad"\n$(id)'))
    arguments, notice, environment = json.loads(out.read_text())
    assert arguments == ["$(id); *"]
    assert (notice["kind"], notice["level"], notice["run"], notice["text"]) == (
        "failed",
        "failure",
        "a",
        'it\'s "bad"\n$(id)',
    )
    assert environment["TANDEM_NOTICE_TITLE"] == notice["title"]
    assert environment["TANDEM_NOTICE_TEXT"] == notice["text"]
    assert environment.keys() == {f"TANDEM_NOTICE_{key}" for key in ("KIND", "LEVEL", "TITLE", "TEXT", "RUN", "HOST")}
    assert failures(ledger) == []


@pytest.mark.parametrize(
    ("source", "timeout_s", "words"),
    [
        ("import sys; sys.exit(3)", 10, "it ended with exit code 3"),
        ("import time; time.sleep(60)", 0.3, "it had not ended after 0.3 s and was killed"),
    ],
)
def test_a_program_that_fails_or_hangs_is_an_error(source, timeout_s, words, tmp_path):
    target = Command("command (x)", program(tmp_path, source), timeout_s)
    with pytest.raises(DeliveryError, match=words):
        target.send(messages.test())


def test_a_program_that_is_not_there_and_one_that_reads_nothing(tmp_path):
    with pytest.raises(DeliveryError, match="it cannot be started: No such file or directory"):
        Command("command (x)", (str(tmp_path / "nothing"),), 5).send(messages.test())
    Command("command (true)", ("true",), 5).send(messages.test())


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path):
    pid = tmp_path / "pid"
    argv = ("sh", "-c", f"sleep 60 & echo $! > {pid}; wait")
    with pytest.raises(DeliveryError, match="was killed"):
        Command("command (sh)", argv, 1.0).send(messages.test())
    child = int(pid.read_text())
    until(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


# When


def test_off_nothing_is_sent_and_no_thread_is_started(ledger):
    before = threading.active_count()
    notifier = tell(ledger, NotifyConfig(), ("failed", "x"))
    assert threading.active_count() == before
    assert notifier.idle() and ledger.mark("notify") is None


def test_what_happened_before_it_was_switched_on_is_not_told(webhook, ledger):
    ledger.note("failed", "last week", "a")
    tell(ledger, NotifyConfig(urls=[webhook.url]), ("failed", "now"))
    assert [post["message"] for post in webhook.posts] == ["now"]


def test_after_a_restart_nothing_is_told_twice_and_what_happened_meanwhile_once(webhook, ledger):
    config = NotifyConfig(urls=[webhook.url])
    tell(ledger, config, ("failed", "first"))
    ledger.note("failed", "as it started again", "a")
    tell(ledger, config, ("failed", "second"))
    assert [post["message"] for post in webhook.posts] == ["first", "as it started again", "second"]


def test_what_happened_while_it_was_off_is_never_told(webhook, ledger):
    config = NotifyConfig(urls=[webhook.url])
    tell(ledger, config, ("failed", "first"))
    tell(ledger, NotifyConfig(), ("failed", "while off"))
    tell(ledger, config, ("failed", "second"))
    assert [post["message"] for post in webhook.posts] == ["first", "second"]


def test_more_than_can_wait_is_dropped_with_an_event_and_offering_never_blocks(tmp_path, ledger):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    notifier = Notifier(NotifyConfig(command=("cat", str(gate)), timeout_s=60), ledger, pauses_s=())
    notifier.offer()
    for number in range(WAITING + 20):
        ledger.note("failed", str(number), "a")
    notifier.offer()
    (told,) = failures(ledger)
    count = int(told.partition(" ")[0])
    assert count in (19, 20), "one may be with the thread already"
    assert told.endswith(f"notices to command (cat) were dropped: {WAITING} are waiting already")
    notifier._outboxes[0].target = Command("command (true)", ("true",), 5)  # for the rest
    gate.open("w").close()
    until(notifier.idle)


# In the control actor


def test_a_run_that_ends_and_a_slot_in_quarantine_are_told(webhook, drive):
    async def scenario(desk: Desk):
        await desk.tick()
        attempt = await desk.running("a")
        await desk.control.finish("a", attempt, RunState.SUCCEEDED, "published v1", "v1")
        await desk.control.quarantine("0", "the fan rattles")
        await desk.tick()
        until(desk.control._notifier.idle)
        assert [post["message"] for post in webhook.posts] == [
            "published v1",
            "slot 0 is in quarantine: the fan rattles",
        ]

    drive(scenario, slots=(TRAIN, SERVE), notify={"urls": [webhook.url]})


def test_the_interruption_after_which_a_run_is_given_up_is_told_as_its_failure(webhook, drive):
    async def scenario(desk: Desk):
        await desk.tick()
        for attempt in (1, 2):
            await desk.submit("a")
            await desk.tick()
            await desk.control.finish("a", attempt, RunState.INTERRUPTED, "power cut")
        await desk.tick()
        until(desk.control._notifier.idle)
        told = "interrupted 2 times, last: power cut; no attempt got beyond step 0"
        assert [post["message"] for post in webhook.posts] == [told]

    drive(scenario, max_attempts=2, notify={"urls": [webhook.url]})


# Secrets


def test_a_url_is_masked_wherever_the_configuration_is_shown_and_kept_for_the_cluster(home):
    config = ClusterConfig(notify={"urls": [f"json://{SECRET}"]})
    assert SECRET not in "".join([repr(config), str(config), config.model_dump_json(), str(config.model_dump())])
    known = cluster.Cluster(ProcessId.own(), 0.0, "127.0.0.1:1", 1, 2, (Slot(name="0", roles=("train",)),), config)
    cluster._write(home.cluster, known)
    assert cluster.find(home).config.notify.urls[0].get_secret_value() == f"json://{SECRET}"
    assert SECRET not in repr(cluster.find(home))


def test_a_failed_run_of_a_ledger_that_is_closed_does_not_raise_in_the_thread(home, tmp_path):
    ledger = Ledger(home.ledger)
    ledger.submit("a", **SUBMISSION)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    notifier = Notifier(NotifyConfig(command=("cat", str(gate), "/nonexistent")), ledger, pauses_s=())
    notifier.offer()
    ledger.note("failed", "x", "a")
    notifier.offer()
    ledger.close()
    gate.open("w").close()
    until(notifier.idle)
    assert notifier._outboxes[0].thread.is_alive()

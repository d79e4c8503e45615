"""`tandem benchmark` against a gateway over real HTTP, whose engine recites a known answer."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from cli.serving.benchmark import COMPARED, _bar
from configs.errors import RequestError
from configs.paths import Home
from serve.engine.protocol import GenerationRequest, TokenChunk
from tests.fakes import FakeEngine
from tests.gateway_server import Server, tokens

HEADER = tokens("<|channel|>final<|message|>")
ANSWER = [*HEADER, *tokens(" the of" * 40)]
CONTEXT = 300


class Engine(FakeEngine):
    """Recites, refuses prompts that are too long, and does something at its n-th request."""

    at: tuple[int, object] | None = None

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        if len(request.prompt_ids) > CONTEXT:
            raise RequestError(f"the prompt has {len(request.prompt_ids)} tokens, {CONTEXT} fit", param="messages")
        if self.at and len(self.requests) == self.at[0]:
            self.at[1]()
        async for chunk in super().generate(request):
            yield chunk


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Server]:
    running = start(tmp_path_factory)
    yield running
    running.stop()


def start(tmp_path_factory) -> Server:
    running = Server(Home(tmp_path_factory.mktemp("gateway")))
    running.engine = running.remote.engine = Engine(ANSWER)
    running.start()
    return running


@pytest.fixture
def server(shared) -> Server:
    shared.engine.requests.clear()
    shared.engine.at, shared.engine.delay = None, 0.0
    return shared


def test_every_load_is_measured_as_asked_and_counted_by_the_server(server, invoke, tmp_path):
    place = tmp_path / "report"
    asked = ("--concurrency", "1,3", "--prompt-tokens", "100,120", "--output-tokens", "20", "--requests", "6")
    done = invoke("benchmark", "--url", server.url, *asked, "--goodput", "e2e:60000", "--json", "--out", str(place))
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert json.loads((place / "benchmark.json").read_text()) == found
    assert (place / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert (found["partial"], found["notes"]) == (False, [n for n in found["notes"] if "this machine was busy" in n])
    assert found["server"]["ready"]["ready"] is True
    assert found["settings"]["dialect"] == {"limit": "max_completion_tokens", "stream": True, "usage": True}
    loads = [(cell["concurrency"], cell["prompt_tokens"]) for cell in found["cells"]]
    assert loads == [(1, 100), (3, 100), (1, 120), (3, 120)]
    for cell in found["cells"]:
        assert (cell["sent"], cell["completed"], cell["failed"], cell["errors"]) == (6, 6, 0, [])
        assert {row["input_tokens"] for row in cell["requests"]} == {cell["prompt_tokens"]}
        assert {row["output_tokens"] for row in cell["requests"]} == {20}
        assert cell["itl_ms"]["count"] == 6 * (20 - len(HEADER) - 1)
        assert cell["fingerprints"] == ["base"]
        assert cell["finish_reasons"] == {"length": 6}
        assert cell["output_throughput"] == pytest.approx(20 * cell["request_throughput"])
        assert cell["goodput"] == pytest.approx(cell["request_throughput"])
    measured = [tuple(request.prompt_ids) for request in server.engine.requests if len(request.prompt_ids) >= 100]
    assert len(set(measured)) == len(measured) == 2 + 2 * (1 + 3) + 4 * 6  # tried once, warmed up, measured
    assert {request.sampling.max_tokens for request in server.engine.requests} == {1, 20}


def test_times_are_not_below_what_the_engine_takes(server, invoke):
    server.engine.delay = 0.004
    done = invoke("benchmark", "--url", server.url, "--concurrency", "2", "--output-tokens", "20", "--json")
    (cell,) = json.loads(done.out)["cells"]
    assert cell["completed"] == cell["sent"] == 4
    assert cell["ttft_ms"]["min"] >= 4 * len(HEADER)
    assert cell["e2e_ms"]["min"] >= 4 * 20
    assert cell["itl_ms"]["mean"] >= 4
    assert cell["output_throughput"] <= 2 / 0.004
    assert cell["output_throughput_per_user"] <= 19 / (0.004 * (19 - len(HEADER)))
    for row in cell["requests"]:
        assert row["tpot_ms"] == pytest.approx((row["e2e_ms"] - row["ttft_ms"]) / 19)


def test_a_table_is_what_a_person_sees_and_an_older_benchmark_stands_beside_it(server, invoke, tmp_path):
    old = tmp_path / "old.json"
    quick = ("benchmark", "--url", server.url, "--output-tokens", "12", "--warmup", "0")
    assert invoke(*quick, "--out", str(old)).code == 0
    done = invoke(*quick, "--compare", str(old), "--plot", str(tmp_path / "p.png"))
    assert done.code == 0, done.err
    title, header, *rows = done.out.splitlines()
    assert title.strip() == f"prod (base) at {server.url}; latencies are median / p99"
    assert header.split()[:4] == ["LOAD", "PROMPT", "OK", "OUT"]
    help_lines = invoke("benchmark", "--help").out
    for column in ("OK", "OUT", "TTFT", "ITL", "E2E", "tok/s", "PER USER"):
        assert column in header and re.search(rf"^ +{column}  +\w", help_lines, re.MULTILINE), column
    assert [row.split()[:6] for row in rows[:2]] == [
        ["1", "at", "once", "128", "4/4", "12"],
        ["4", "at", "once", "128", "8/8", "12"],
    ]
    assert rows[3].split() == ["LOAD", "PROMPT", "FIGURE", "OLD", "NEW", "CHANGE"]
    assert rows[4].split()[:4] == ["1", "at", "once", "128"] and rows[4].rstrip().endswith("%")
    figures = [re.split(r"  +", row)[2] for row in rows[4:]]
    assert set(figures) <= {name for name, _ in COMPARED.values()} and figures.count("tok/s") == 2
    assert f"wrote {tmp_path / 'p.png'}" in done.err


def test_the_progress_line_leaves_room_for_what_ctrl_c_echoes(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with _bar() as tell:
        tell("concurrency 16, 1024 prompt tokens (3 of 4), and more", 0.5)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", capsys.readouterr().err))
    assert max(map(len, lines)) == 60 - len("^C^C")


def test_an_open_loop_and_a_data_set_are_measured_too(server, invoke, tmp_path):
    data = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]}
    data.write_text(json.dumps(row))
    asked = ("--request-rate", "200", "--requests", "5", "--dataset", str(data), "--output-tokens", "9")
    done = invoke("benchmark", "--url", server.url, *asked, "--temperature", "0.5", "--json")
    (cell,) = json.loads(done.out)["cells"]
    assert (cell["request_rate"], cell["concurrency"], cell["prompt_tokens"]) == (200, None, None)
    assert (cell["completed"], cell["output_tokens"]["max"]) == (5, 9)
    assert {request.sampling.temperature for request in server.engine.requests} == {0.5}
    assert "asked again" in done.err


def test_an_unknown_model_is_refused_with_the_names_that_there_are(server, invoke):
    line = invoke("benchmark", "--url", server.url, "--model", "other").one_error_line()
    assert "other" in line and line.count("prod") == line.count("tiny") == 1


def test_a_prompt_that_does_not_fit_is_refused_in_the_servers_words(server, invoke):
    line = invoke("benchmark", "--url", server.url, "--prompt-tokens", "100,301").one_error_line()
    assert "the prompt has 301 tokens, 300 fit" in line
    line = invoke("benchmark", "--url", server.url, "--prompt-tokens", "20").one_error_line()
    assert "a prompt of 20 tokens is not possible" in line


def test_what_the_server_does_not_take_is_said(server, invoke):
    line = invoke("benchmark", "--url", server.url, "--extra-body", '{"teapot": 1}').one_error_line()
    assert "teapot is not supported" in line and "leave teapot out" in line


def test_requests_that_fail_are_counted_by_kind_and_all_of_them_failing_is_a_failure(server, invoke):
    def fail():
        raise RequestError("not this one")

    asked = ("benchmark", "--url", server.url, "--concurrency", "1", "--requests", "4", "--warmup", "0")
    assert invoke(*asked).code == 0
    before = len(server.engine.requests) - 4
    server.engine.requests.clear()
    server.engine.at = (before + 1, fail)  # what is refused is not recorded, so all from here on are
    done = invoke(*asked)
    assert done.code == 0
    assert "1/4" in done.out
    assert "3 failed, http_400: not this one" in done.err
    server.engine.requests.clear()
    server.engine.at = (before, fail)
    done = invoke(*asked, "--json")
    assert done.code == 1
    (cell,) = json.loads(done.out)["cells"]
    assert (cell["completed"], cell["errors"]) == (
        0,
        [{"kind": "http_400", "count": 4, "message": "not this one"}],
    )


def test_a_server_that_goes_away_in_the_middle_leaves_a_partial_result(tmp_path_factory, invoke):
    running = start(tmp_path_factory)
    asked = ("benchmark", "--url", running.url, "--concurrency", "1,2", "--requests", "100", "--warmup", "0", "--json")
    stopping = threading.Thread(target=running.stop)

    def stop() -> None:
        if not stopping.ident:
            stopping.start()

    running.engine.at, running.engine.delay = (40, stop), 0.001
    done = invoke(*asked, "--output-tokens", "10")
    stopping.join(20)
    found = json.loads(done.out)
    assert (found["partial"], found["stopped"]) == (True, "the endpoint went away")
    (cell,) = found["cells"]
    assert 1 <= cell["completed"] < cell["sent"] < 100
    kinds = {each["kind"]: each["count"] for each in cell["errors"]}
    assert kinds["connection"] == 5 and set(kinds) <= {"connection", "broken_off", "error_event", "http_503"}
    assert "partial: the endpoint went away" in done.err


def test_ctrl_c_ends_the_load_and_shows_what_was_measured(server, invoke, tmp_path):
    server.engine.delay = 0.002

    def interrupt() -> None:
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    sent: list[bool] = []
    server.engine.at = (40, interrupt)
    asked = ("--concurrency", "2", "--requests", "10000", "--output-tokens", "10", "--out", str(tmp_path / "b.json"))
    done = invoke("benchmark", "--url", server.url, *asked)
    assert done.code == 130
    assert "partial: interrupted" in done.err and done.err.endswith("interrupted\n")
    assert "2 at once" in done.out
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["partial"] is True
    (cell,) = found["cells"]
    assert cell["completed"] >= 1 and cell["cut"] >= 1 and cell["failed"] == 0
    deadline = time.monotonic() + 10
    while server.engine.stats().running:  # the connections were closed, so nothing goes on generating
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--goodput", "ttft=5"), "--goodput ttft=5: not a limit"),
        (("--concurrency", "1,1"), "'1,1' is not a list of different numbers above 0"),
        (("--concurrency", "0"), "'0' is not a list"),
        (("--prompt-tokens", "many"), "'many' is not a list"),
        (("--concurrency", "2", "--request-rate", "2"), "--concurrency and --request-rate exclude each other"),
        (("--requests", "2", "--duration", "2"), "--requests and --duration exclude each other"),
        (("--dataset", "x", "--prompt-tokens", "9"), "--dataset and --prompt-tokens exclude each other"),
        (("--dataset", "./none.jsonl"), "no data set './none.jsonl'"),
        (("--api-key-env", "TANDEM_NO_KEY"), "the environment variable TANDEM_NO_KEY holds no API key"),
        (("--extra-body", "[1]"), "not a JSON object"),
        (("--compare", "/none.json"), "/none.json cannot be read"),
        (("--plot", "picture.jpg"), "a plot is a .png"),
        (("--out", "/proc/none/x.json"), "/proc/none/x.json cannot be written"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_asked(server, invoke, arguments, said):
    line = invoke("benchmark", "--url", server.url, *arguments).one_error_line(2)
    assert said in line
    assert server.engine.requests == []


def test_without_a_server_it_says_so(invoke):
    assert (
        "http://127.0.0.1:9/v1 does not answer" in invoke("benchmark", "--url", "http://127.0.0.1:9").one_error_line()
    )
    assert "Tandem is not running" in invoke("benchmark").one_error_line()

"""The documentation says nothing that the code does not: commands parse, keys, names, routes and links exist."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from itertools import dropwhile, pairwise, takewhile
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import yaml
from prometheus_client import CollectorRegistry

from actors.metrics import ClusterCollector, EngineMetrics, GatewayCollector, RequestMetrics
from actors.notify import messages, queue
from actors.runs.ledger import Ledger
from actors.runs.run import FOLLOWING, RunState
from cli.main import COMMANDS, tandem
from configs import guess, http_errors, load, paths, reference
from configs.schema import ClusterConfig, NotifyConfig, RunConfig, Slot
from jobs import train as train_job
from serve import gateway
from serve.anthropic import request as anthropic
from serve.engine.protocol import EngineStats
from serve.http.routes.admin import LoadRequest, RunRequest, SwapRequest, UnloadRequest
from serve.openai import models, no_effect
from serve.openai.chat import request as chat
from serve.openai.completions import request as completions
from serve.openai.responses import request as responses
from serve.openai.responses.turn import Turn
from serve.openai.tokens import request as tokens
from tests.unit.actors.metrics.test_metrics import note_cluster

PAGES = [paths.SOURCE / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")]
PAGES += sorted((paths.SOURCE / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
DEVELOPERS = re.compile(r"/(?:home(?!/process_id)|Users|root|work|tmp)/")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|TBD|XXX|lorem|coming soon)\b|@[A-Z]+@", re.IGNORECASE)
PICTOGRAPHS = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f]")


BODIES = {
    r"/v1/chat/completions$": chat.parse_request,
    r"/v1/completions$": completions.parse_request,
    r"/v1/responses$": lambda body: Turn(request := responses.parse_request(body), own=request.items).chat(),
    r"/v1/messages$": lambda body: anthropic.parse_request(body).chat(),
    r"/tokenize$": tokens.parse_tokenize,
    r"/detokenize$": tokens.parse_detokenize,
    r"/v1/load_lora_adapter$": models.parse_load,
    r"/v1/unload_lora_adapter$": models.parse_unload,
    r"/api/aliases/": SwapRequest.model_validate,
    r"/api/adapters/.*/load$": LoadRequest.model_validate,
    r"/api/adapters/.*/unload$": UnloadRequest.model_validate,
    r"": lambda body: pytest.fail("no route that takes a body"),
}


def blocks(language: str) -> list:
    """Every fenced block in `language`, as a pytest parameter named after its page and its number there."""
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in PAGES
        for number, (found, block) in enumerate(FENCE.findall(page.read_text()))
        if found == language
    ]


def commands() -> list:
    """Every shell command of a fenced block, as a list of words."""
    found = {}
    for page in PAGES:
        shell = [block for language, block in FENCE.findall(page.read_text()) if language == "bash"]
        for words in (words for block in shell for words in split(block)):
            found[shlex.join(words)] = pytest.param(words, id=f"{page.name}: {shlex.join(words)[:60]}")
    return list(found.values())


def split(shell: str) -> Iterator[list[str]]:
    """The simple commands of a shell text, without variables set in front of them and without the venv's folder."""
    text = ""
    for line in shell.replace("\\\n", " ").replace('eval "$(tandem env)"', "tandem env").splitlines():
        text += f"{line}\n"
        try:
            words = shlex.split(text, comments=True)
        except ValueError:  # inside quotes that go on in the next line
            continue
        text = ""
        words = list(dropwhile(lambda word: re.fullmatch(r"[A-Z_]+=.*", word), words))
        while words:
            simple = list(takewhile(lambda word: word not in (">", "<", "|"), words))
            yield [simple[0].removeprefix(".venv/bin/"), *simple[1:]]
            words = list(dropwhile(lambda word: word != "|", words))[1:]
    assert not text, f"quotes never end: {text}"


def mentions() -> list:
    """Every command of ours that running text names, perhaps with placeholders."""
    named = {}
    for page in PAGES:
        for text in re.findall(r"`tandem ([a-z][^`\n]*)`", FENCE.sub("", page.read_text())):
            named[text] = pytest.param(text.split(), id=f"{page.name}: tandem {text}")
    return list(named.values())


def descend(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `words` lead to, and the words after its name."""
    command = tandem
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        command = command.get_command(click.Context(command), name)
        assert command is not None, f"no command {name}"
    return command, words


@pytest.mark.parametrize("words", commands())
def test_every_command_shown_parses(words):
    program, *rest = words
    match words:
        case ["tandem", *_]:
            command, rest = descend(rest)
            check(command, rest)
        case ["make", *targets]:
            assert set(targets) <= set(re.findall(r"^([a-z]+):", (paths.SOURCE / "Makefile").read_text(), re.MULTILINE))
        case ["ray", "job", "submit", *_]:
            assert rest[2:6] == ["--working-dir", ".", "--", "python"]
            check(train_job.main, rest[rest.index("jobs.train") + 1 :])
        case ["docker", *_]:
            assert rest[0] in ("build", "run", "exec")  # tests/unit/test_container.py has their options
        case ["serve", "deploy", name]:
            assert (paths.SOURCE / name).is_file()
        case ["python", "-m", "pytest", *_]:
            assert all((paths.SOURCE / word).exists() for word in words if word.startswith("tests/"))
        case ["python", "-m", module]:
            assert (paths.SOURCE / f"{module.replace('.', '/')}.py").is_file()
        case ["curl", *_]:
            url = next(word for word in rest if word.startswith("http"))
            parse = next(parse for route, parse in BODIES.items() if re.search(route, url))
            for body in (json.loads(after) for word, after in pairwise(rest) if word == "-d"):
                parse(body)
        case _:
            clients = ("lm_eval", "guidellm", "vllm")  # which are not installed here
            assert program in ("./setup.sh", "source", "export", "ssh", "printf", *clients) or words[:2] in (
                ["ray", "job"],
                ["serve", "status"],
            )


def check(command: click.Command, words: list[str]) -> None:
    """Parse `words` as click would, without running anything, and load the configuration that they name."""
    try:
        chosen = command.make_context(command.name, [*words]).params
    except click.exceptions.Exit:  # --help, --version
        return
    if command.name == "up":
        load.load_cluster(sets=chosen["sets"])
    elif "sets" in chosen:
        load.load_run(chosen["profile"] or "tiny", chosen["sets"])


@pytest.mark.parametrize("words", mentions())
def test_every_command_named_in_running_text_exists_with_its_options(words):
    command, rest = descend(words)
    options = {name for parameter in command.params for name in (*parameter.opts, "--help")}
    assert {word for word in rest if word.startswith("-")} <= options
    keys = {word.partition("=")[0] for word in rest if "=" in word} - {"KEY"}
    assert keys <= set(guess.known_keys(ClusterConfig if command.name == "up" else RunConfig))
    if "--profile" in rest:
        assert rest[rest.index("--profile") + 1] in load.profiles()


def test_every_command_of_ours_is_shown():
    shown = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in COMMANDS if f"tandem {name}" not in shown] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_relative_to(paths.SOURCE), f"{target} leaves the repository"
        assert linked.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"


def anchors(page: Path) -> set[str]:
    """The names that a Markdown viewer gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_of_the_repository_that_is_named_exists(page):
    folders = "actors|cli|configs|docs|jobs|models|serve|tests"
    for name in re.findall(rf"`((?:{folders})/[\w/.-]*)`", FENCE.sub("", page.read_text())):
        in_the_home = re.search(r"[A-Z]{3}|^models/(latest)?$", name)
        assert in_the_home or (paths.SOURCE / name).exists(), f"{name} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_finished_and_is_nobodys_machine(page):
    text = page.read_text()
    for pattern in (DEVELOPERS, UNFINISHED, PICTOGRAPHS):
        assert pattern.findall(text) == []


@pytest.mark.parametrize("source", blocks("python"))
def test_every_python_snippet_compiles_and_its_imports_exist(source):
    for node in ast.walk(compile(source, "snippet", "exec", ast.PyCF_ONLY_AST)):
        if isinstance(node, ast.ImportFrom):
            imported = __import__(node.module, fromlist=["x"])
            assert all(hasattr(imported, name.name) for name in node.names)


@pytest.mark.parametrize("source", blocks("py"))
def test_every_snippet_of_a_client_that_is_not_installed_here_compiles(source):
    compile(source, "snippet", "exec")


@pytest.mark.parametrize("source", blocks("json"))
def test_every_json_block_is_json_and_a_run_is_a_run(source):
    value = json.loads(source)
    if "run_id" in value:
        RunRequest.model_validate(value)


@pytest.mark.parametrize("source", blocks("yaml"))
def test_every_yaml_block_is_what_its_first_line_says(source):
    name, values = source.splitlines()[0].lstrip("# "), yaml.safe_load(source)
    kinds = {"my_profile.yaml": RunConfig, "cluster.yaml": ClusterConfig}
    load.validate(kinds[name], values, source=name)


def test_every_shipped_profile_is_on_the_training_page_with_its_steps_and_rank():
    rows = table(paths.SOURCE / "docs" / "training.md", "profile")
    assert set(rows) == set(load.profiles())
    for name, (steps, rank, _) in rows.items():
        config = load.load_run(name)
        assert rank == str(config.lora.r)
        assert steps == (f"{config.training.max_steps}" if config.training.max_steps else "one epoch")


def test_the_configuration_page_is_what_the_schema_says():
    page = paths.SOURCE / "docs" / "configuration.md"
    assert page.read_text() == reference.page(), "python -m configs.reference > docs/configuration.md"


def test_the_metrics_page_is_what_is_exposed(home):
    with_samples = Ledger(home.ledger)
    with_samples.flip("prod", None, reason="so that the info metric has a sample", seconds=0)
    with_samples.submit("a", config={})
    with_samples.grant("a", Slot(name="0", roles=("train",)))
    note_cluster(home)
    registry = CollectorRegistry()
    kept = (RequestMetrics(registry), EngineMetrics(registry, "tiny"))
    kept[1].update("engine_1", asdict(EngineStats(0, 0, 0, 1, {}, 0, "cpu", 0)))
    exposed = {}
    read = [ClusterCollector(home), GatewayCollector(home)]
    for collector in [*registry._collector_to_names, *read]:  # the one list that has their labels
        for family in collector.collect():
            source = family if collector in read else collector
            labels = set(getattr(source, "_labelnames", ())) | {key for s in family.samples for key in s.labels}
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            exposed[name] = (family.type, labels - {"le"}, family.documentation)
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), meaning)
        for name, (kind, labels, meaning) in table(paths.SOURCE / "docs" / "metrics.md", "name").items()
    }
    assert kept
    assert documented == exposed


def test_the_notifications_page_has_every_event_with_its_title_and_whether_it_is_told():
    rows = table(paths.SOURCE / "docs" / "notifications.md", "event")
    titles = {kind: title.format(run="RUN") for kind, title in messages.TITLES.items()}
    told = NotifyConfig().events
    assert {kind: (title, default == "yes") for kind, (title, default, _) in rows.items()} == {
        kind: (title, kind in told) for kind, title in titles.items()
    }
    page = (paths.SOURCE / "docs" / "notifications.md").read_text()
    assert f"{messages.LONGEST_TEXT:,} characters" in page
    assert f"at most {queue.WAITING} may wait" in page
    assert f"after {queue.PAUSES_S[0]}, {queue.PAUSES_S[1]} and {queue.PAUSES_S[2]} seconds" in page


def test_the_api_page_has_every_route():
    app = gateway.build_app(
        SimpleNamespace(control=None, engines=None, catalog=None, swapper=None, kept_adapters=None, allowed_hosts=())
    )
    routes = set()
    for path, methods in app.openapi()["paths"].items():
        routes |= {f"{method.upper()} {path.replace(':path', '')}" for method in methods}
    assert set(table(API, "route")) == routes


def test_the_api_page_has_every_parameter_and_every_status():
    text = API.read_text()
    names = no_effect.IGNORED | chat.NEUTRAL.keys() | chat.ChatRequest.model_fields.keys()
    names |= completions.NEUTRAL.keys() | completions.CompletionRequest.model_fields.keys()
    names |= responses.NEUTRAL.keys() | responses.ResponsesRequest.model_fields.keys()
    names |= models.LoadRequest.model_fields.keys()
    names |= anthropic.NEUTRAL.keys() | anthropic.MessagesRequest.model_fields.keys()
    assert sorted(name for name in names if f"`{name}`" not in text) == []
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (?:`(\w+)`|none) \|", text, re.MULTILINE)
    declared = {(str(status), kind, code or "") for status, kind, code in http_errors.STATUS.values()}
    bare = {("403", "invalid_request_error", ""), ("405", "invalid_request_error", "")}
    routing = {("404", "invalid_request_error", "model_not_found"), *bare}
    assert set(rows) == declared | routing


def test_the_drawn_states_are_the_ledgers():
    drawn = re.findall(r"^  (\w+) --> (\w+): ", (paths.SOURCE / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert {state for pair in drawn for state in pair} == set(RunState)
    assert [pair for pair in drawn if RunState(pair[1]) not in FOLLOWING[RunState(pair[0])]] == []


def test_the_picture_is_svg_for_light_and_dark_and_loads_nothing():
    from xml.etree import ElementTree

    source = (paths.SOURCE / "docs" / "tandem.svg").read_text()
    assert ElementTree.fromstring(source).tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in source
    assert not re.search(r"(?:href|src|url)\s*[=(]\s*[\"']?http|<script", source)


API = paths.SOURCE / "docs" / "api.md"


def table(page: Path, first_column: str) -> dict[str, tuple[str, ...]]:
    """All rows of a page's tables whose first column has this name: first cell without its quotes, to the others."""
    rows, inside = {}, False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif cells[0] == first_column:
            inside = True
        elif inside and set(cells[0]) != {"-"}:
            rows[cells[0].strip("`")] = tuple(cells[1:])
    return rows

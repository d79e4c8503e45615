"""`tandem evaluate` against a gateway over real HTTP with the embedded model behind it, and a published LoRA."""

import json
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from configs import load
from configs.paths import TINY_MODEL, Home
from jobs.data import dataset, split
from models import harmony
from models.lora.adapter import PEFT_CONFIG, WEIGHTS
from serve.engine.transformers import TransformersEngine
from tests.fakes import FakeRemote
from tests.gateway_server import TOKENIZER, Server
from tests.samples import about

RUN = load.load_run("tiny", ["data.holdout=0.12"])
HELD_OUT = split.hold_out(dataset.read(RUN.data).dialogues, RUN.data.holdout)[1]


ENDS = ("<|end|>", "<|return|>", "<|call|>")
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


def tiny():
    return AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()


def write_lora(folder) -> None:
    """A LoRA that changes answers without ruining them."""
    torch.manual_seed(5)
    model = get_peft_model(tiny(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)


def publish_copy(server: Server, run_id: str, **more) -> str:
    """The same LoRA as another adapter."""
    source = server.registry.path(server.adapter)

    def save(folder: Path) -> None:
        for name in (WEIGHTS, PEFT_CONFIG):
            shutil.copy(source / name, folder / name)

    return server.registry.publish(save, **about(run_id=run_id, **more)).version


def record(home: Home, run_id: str, config=RUN) -> None:
    """What training writes down of a run, as far as evaluation reads it."""
    home.run(run_id).mkdir(parents=True)
    (home.run(run_id) / "resolved.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))


@pytest.fixture(scope="module")
def serving(tmp_path_factory) -> Iterator[Server]:
    """A gateway with the real engine, and one adapter in its registry."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    server = Server(Home(tmp_path_factory.mktemp("evaluate")))
    server.engine = TransformersEngine(tiny(), TOKENIZER, max_batch=8, max_context=1024)
    server.remote = FakeRemote("engine_1", server.engine)
    server.adapter = server.registry.publish(write_lora, **about(run_id="tiny-1")).version
    record(server.home, "tiny-1")
    server.start()
    yield server
    server.stop()
    server.engine.close()
    torch.set_num_threads(before)


@pytest.fixture
def evaluate(serving, invoke, monkeypatch):
    """`tandem evaluate` in the server's home. Nothing stays held, whatever happens."""
    monkeypatch.setenv("TANDEM_HOME", str(serving.home.root))
    monkeypatch.setattr("configs.paths.LONGEST_HOME", 200)
    monkeypatch.setattr("actors.cluster.require", lambda home: SimpleNamespace(http=serving.url))
    yield lambda *arguments: invoke("evaluate", *arguments)
    assert serving.get("/api/status").json()["holds"] == []
    assert serving.engine.adapters() == ()


def by_hand(model, dialogue) -> dict[str, list[float]]:
    """Negative log-probabilities of what the assistant generates in a row, by channel, from one plain forward pass."""
    ids = harmony.render(
        TOKENIZER, dialogue.messages, tools=dialogue.tools, current_date=date(2026, 1, 1), add_generation_prompt=False
    )
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    words = TOKENIZER.convert_ids_to_tokens(ids)
    found: dict[str, list[float]] = {}
    own_before = False
    for at in (at for at, word in enumerate(words) if word == "<|start|>"):
        end = (
            next(later for later in range(at, len(words)) if words[later] in ("<|end|>", "<|return|>", "<|call|>")) + 1
        )
        header = "".join(words[at : words.index("<|message|>", at)])
        if not header.startswith("<|start|>assistant"):
            own_before = False
            continue
        part = "tool_call" if "to=" in header else header.partition("<|channel|>")[2]
        losses = [-logprobs[place - 1, ids[place]].item() for place in range(at if own_before else at + 2, end)]
        found.setdefault(part, []).extend(losses)
        own_before = words[end - 1] == "<|end|>"
    return found


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def test_the_losses_are_those_of_a_plain_forward_pass_over_the_rows_that_were_held_out(evaluate, serving):
    report = json.loads(evaluate(serving.adapter, "--compare-base", "--json").out)
    assert (report["rows"], report["trained_rows"], report["cut_rows"]) == (len(HELD_OUT), 96 - len(HELD_OUT), 0)
    assert len(HELD_OUT) > 5
    folder = serving.registry.path(serving.adapter)
    for name, model in {"base": tiny(), "adapter": PeftModel.from_pretrained(tiny(), str(folder)).eval()}.items():
        rows = {dialogue.where: by_hand(model, dialogue) for dialogue in HELD_OUT}
        parts = {part for row in rows.values() for part in row}
        assert set(report["losses"][name]) == parts | {"learned"} and len(parts) >= 2
        for part in parts:
            losses = [loss for row in rows.values() for loss in row.get(part, [])]
            given = report["losses"][name][part]
            assert given["tokens"] == len(losses)
            assert given["loss"] == pytest.approx(mean(losses), abs=1e-5)
            assert given["perplexity"] == pytest.approx(math.exp(mean(losses)), rel=1e-4)
        for row in report["row_losses"]:
            learned = [loss for losses in rows[row["where"]].values() for loss in losses]
            assert (row["tokens"], row["losses"][name]) == (len(learned), pytest.approx(mean(learned), abs=1e-5))
    assert {row["fingerprint"] for row in report["row_losses"]} == {row.fingerprint for row in HELD_OUT}
    assert report["losses"]["adapter"]["learned"]["loss"] != report["losses"]["base"]["learned"]["loss"]
    on_disk = json.loads(Path(report["report"]["json"]).read_text())
    assert on_disk == {key: value for key, value in report.items() if key != "report"}
    assert Path(report["report"]["json"]).parent.parent == serving.home.evaluations / serving.adapter


def test_answers_stand_side_by_side_and_a_page_shows_them(evaluate, serving, tmp_path, invoke):
    done = evaluate(serving.adapter, "--compare-base", "--rows", "2", "--out", str(tmp_path / "report"))
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split()[:5] == ["TOKENS", "OF", "TOKENS", "ADAPTER:", "LOSS"]
    assert [line.split()[:2] for line in lines[-4:-2]] == [["built-in", "5"], ["rows", "2"]]
    assert lines[-1] == f"report  {tmp_path / 'report' / 'report.html'}"
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    capital = next(each for each in report["exchanges"] if each["where"] == "capital")
    assert set(capital["answers"]) == {"adapter", "base"}
    base = capital["answers"]["base"]
    assert (base["text"], base["problems"], base["matched"]) == ("The capital of France is Paris.", [], True)
    tool = next(each for each in report["exchanges"] if each["where"] == "tool")["answers"]["base"]
    assert tool["problems"] == [] and tool["calls"][0]["name"] == "get_weather"
    assert report["tallies"]["rows"]["base"]["asked"] == 2
    page = (tmp_path / "report" / "report.html").read_text()
    assert "The capital of France is Paris." in page and page.count("<svg") == 2
    assert not re.search(r"(?:href|src|url|@import)\s*[=(]\s*[\"']?\s*http|<script|<link", page)


def test_an_adapter_alone_is_judged_on_other_data_with_its_own_questions(evaluate, serving, tmp_path):
    known = [{"messages": HELD_OUT[0].messages}, {"messages": trained_row().messages}]
    new = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    data = tmp_path / "other.jsonl"
    data.write_text("\n".join(map(json.dumps, [*known, new])))
    asked = tmp_path / "asked.jsonl"
    asked.write_text(
        '{"prompt": "What is the capital of Italy?", "expect": {"exact": "The capital of Italy is Rome."}}\n'
    )
    report = json.loads(evaluate(serving.adapter, "--dataset", str(data), "--prompts", str(asked), "--json").out)
    assert (report["rows"], report["trained_rows"]) == (2, 1), "what was trained is left out, and said"
    assert {row["where"] for row in report["row_losses"]} == {"other.jsonl:1", "other.jsonl:3"}
    assert set(report["losses"]) == {"adapter"}
    (first, *_) = report["exchanges"]
    assert (first["source"], first["where"], first["answers"]["adapter"]["matched"]) == ("file", "asked.jsonl:1", True)
    assert "base" not in first["answers"]


def trained_row():
    return split.hold_out(dataset.read(RUN.data).dialogues, RUN.data.holdout)[0][0]


def test_prod_and_a_stream_go_on_while_an_adapter_is_judged(evaluate, serving):
    before = serving.get("/api/status").json()["aliases"]
    stop, answers = threading.Event(), []

    def keep_asking() -> None:
        with serving.client() as client:
            while not stop.is_set():
                done = client.chat.completions.create(
                    model="prod",
                    messages=[{"role": "user", "content": "What is the capital of France?"}],
                    temperature=0,
                )
                answers.append((done.choices[0].message.content, done.system_fingerprint))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    done = evaluate(serving.adapter, "--rows", "4")
    stop.set()
    asking.join()
    assert done.code == 0, done.err
    assert set(answers) == {("The capital of France is Paris.", "base")}
    assert serving.get("/api/status").json()["aliases"] == before


def test_interrupting_releases_the_adapter(evaluate, serving):
    def interrupt() -> None:
        while not serving.engine.stats().running:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt)
    killer.start()
    done = evaluate(serving.adapter, "--compare-base")
    killer.join()
    assert (done.code, done.out) == (130, "")
    assert done.err.strip().splitlines()[-1] == "interrupted"


def test_adapters_show_says_what_the_newest_evaluation_found(evaluate, serving, invoke):
    evaluate(serving.adapter, "--rows", "1", "--compare-base")
    shown = invoke("adapters", "show", serving.adapter).out
    assert re.search(r"evaluation +loss \d\.\d{4} \(base \d\.\d{4}\) on 1 rows of tiny-demo", shown)


# What is wrong is one line


def test_an_unknown_adapter_is_one_line(evaluate):
    assert "no adapter 'nope'" in evaluate("nope").one_error_line()


def test_without_a_server_it_says_so(invoke, home):
    assert "tandem up" in invoke("evaluate", "latest").one_error_line()


@pytest.mark.parametrize("arguments", [["--dataset", "nowhere.jsonl"], ["--prompts", "nowhere.jsonl"]], ids=" ".join)
def test_a_missing_file_is_one_line(arguments, evaluate, serving):
    assert "nowhere.jsonl" in evaluate(serving.adapter, *arguments).one_error_line(code=2)


def test_nothing_held_out_is_one_line_that_says_what_to_do(evaluate, serving):
    none_left = publish_copy(serving, "tiny-all")
    record(serving.home, "tiny-all", load.load_run("tiny", ["data.holdout=0"]))
    line = evaluate(none_left).one_error_line(code=2)
    assert "all 96 rows of 'tiny-demo' were trained (data.holdout was 0) -> name other data with --dataset" in line


def test_an_adapter_of_another_base_is_one_line(evaluate, serving):
    foreign = publish_copy(serving, "tiny-1b", base_fingerprint="0" * 64)
    record(serving.home, "tiny-1b")
    assert "was trained on" in evaluate(foreign).one_error_line()


def test_a_row_that_is_longer_than_the_endpoints_context_is_one_line(evaluate, serving, tmp_path):
    long = load.load_run("tiny", ["model.max_seq_length=4096"])
    version = publish_copy(serving, "tiny-long")
    record(serving.home, "tiny-long", long)
    data = tmp_path / "long.jsonl"
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "On and on. " * 400}]}
    data.write_text(json.dumps(row))
    done = evaluate(version, "--dataset", str(data))
    assert done.code == 1 and done.out == ""
    wanted = r"error: long\.jsonl:1: This model's maximum context length is 1024 tokens\. .*\d+ in the prompt"
    assert re.search(wanted, done.err.splitlines()[-1])

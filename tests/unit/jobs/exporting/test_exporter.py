"""An export is whole, verified and in its place, or there is nothing; what cannot be is refused before it is queued."""

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.client import Directive
from actors.runs.run import Run, RunKind, RunState
from configs.errors import AdapterError, ConfigError, ExportError, NotFoundError
from configs.paths import TINY_MODEL
from configs.schema import ExportConfig
from jobs.exporting import aside, exporter, gguf
from models.base import checkpoint
from models.lora import merge
from models.lora.adapter import PEFT_CONFIG, PEFT_FILES
from models.lora.registry import Registry
from tests import samples
from tests.samples import about, save_lora, train_lora

pytestmark = pytest.mark.usefixtures("quick_answers")
RUN_ID = "export-merged-1"


class TaskLink:
    """What a task hears from the control actor: go on, until `stop_at` tensors are done."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.steps = stop_at, []

    def starting(self) -> Directive:
        return Directive.CONTINUE

    training = starting

    def report(self, *, step: int, max_steps: int, loss: None, tokens_per_s: None) -> Directive:
        self.steps.append((step, max_steps))
        return Directive.CONTINUE if self.stop_at is None or step < self.stop_at else Directive.STOP


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[bool, Path]:
    """Whether experts were trained, to the adapter's files."""
    made = {experts: tmp_path_factory.mktemp("trained") for experts in (False, True)}
    for experts, folder in made.items():
        train_lora(TINY_MODEL, folder, experts=experts)
    return made


@pytest.fixture
def publish(home, trained):
    """Publishes a copy of a trained adapter; its version."""

    def call(experts: bool = False, **changes) -> str:
        def save(folder: Path) -> None:
            for name in PEFT_FILES:
                shutil.copy(trained[experts] / name, folder)

        known = {"base_fingerprint": checkpoint.inspect(TINY_MODEL).fingerprint, "rank": 8, "alpha": 16}
        return Registry(home.models).publish(save, **about(**known | {"train_experts": experts} | changes)).version

    return call


@pytest.fixture
def out(tmp_path) -> Path:
    """A place in an otherwise empty folder."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there" / "out"


def run_of(version: str, out: Path, to: str = "merged", attempt: int = 1, **how) -> Run:
    config = ExportConfig(adapter=version, to=to, out=str(out), **how).model_dump(mode="json")
    return samples.run(RUN_ID, config, kind=RunKind.EXPORT, attempt=attempt)


def converters(folder: Path, monkeypatch, text: str) -> None:
    """A folder of converters that do what `text` says, in Python; all answer --help."""
    folder.mkdir()
    for name in (gguf.MODEL, gguf.ADAPTER):
        (folder / name).write_text(f"import struct, sys\nif '--help' in sys.argv: sys.exit(0)\n{text}\n")
    monkeypatch.setenv("TANDEM_LLAMA_CPP", str(folder))


WRITES = "open(sys.argv[sys.argv.index('--outfile') + 1], 'wb').write(struct.pack('<4sIQQ', b'GGUF', 3, {}, 0))"


# Doing it


def test_a_merged_export_is_a_whole_model_with_a_manifest(home, publish, out):
    version, link = publish(), TaskLink()
    ended = exporter.execute(run_of(version, out), home, "cpu", link)
    assert (ended.state, ended.reason, ended.adapter) == (RunState.SUCCEEDED, f"exported {version} to {out}", None)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert [step for step in link.steps if step[0] < 71] == [(number, 71) for number in range(1, 71)]
    record = json.loads((out / "export.json").read_text())
    assert (record["adapter"], record["to"], record["run"], record["dtype"]) == (version, "merged", RUN_ID, "float32")
    fingerprint = checkpoint.inspect(TINY_MODEL).fingerprint
    assert record["trained_on"] == {"name": "tiny", "fingerprint": fingerprint}
    assert record["base"] == {"name": "tiny", "path": str(TINY_MODEL), "fingerprint": fingerprint}
    found = record["verification"]
    assert (found["method"], found["same_answers"]) == ("outputs", 4) and found["max_difference"] < 1e-3
    assert record["files"].keys() == {path.name for path in out.iterdir()} - {"export.json"}
    for name, entry in record["files"].items():
        data = (out / name).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())


def test_a_4_bit_base_is_named_as_what_the_weights_are(home, publish, out):
    path = checkpoint.resolve("tiny-bnb-4bit")
    version = publish(base="tiny-bnb-4bit", base_fingerprint=checkpoint.inspect(path).fingerprint)
    (note,) = exporter.check(ExportConfig(adapter=version, to="merged", out=str(out)), home).notes
    assert note == (
        "the weights are tiny-bnb-4bit's NF4 weights, dequantised, which are what the adapter was trained against"
    )
    prepared = exporter.check(ExportConfig(adapter=version, to="merged", out=str(out), base="tiny"), home)
    assert prepared.notes == [f"merged into tiny ({TINY_MODEL}), trained on tiny-bnb-4bit"]


def test_a_stopped_export_leaves_nothing(home, publish, out):
    ended = exporter.execute(run_of(publish(), out), home, "cpu", TaskLink(stop_at=30))
    assert (ended.state, ended.reason) == (RunState.STOPPED, "stopped; nothing was written")
    assert list(out.parent.iterdir()) == []


def test_an_export_that_was_killed_starts_over_and_one_that_was_done_is_not_done_again(home, publish, out):
    version = publish()
    left = out.with_name(f".out.{RUN_ID}-1.part")
    left.mkdir()
    (left / "model-00001-of-00001.safetensors").write_text("half")
    exporter.execute(run_of(version, out, "peft", attempt=2), home, "cpu", TaskLink())
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    written, link = (out / "export.json").stat().st_mtime_ns, TaskLink()
    again = exporter.execute(run_of(version, out, "peft", attempt=3), home, "cpu", link)
    assert again.state is RunState.SUCCEEDED and link.steps == []
    assert (out / "export.json").stat().st_mtime_ns == written


def test_the_driver_cleans_up_after_a_process_that_was_killed(out):
    mine, others = out.with_name(f".out.{RUN_ID}-1.part"), out.with_name(".out.another-1.part")
    for folder in (mine, others):
        folder.mkdir()
        (folder / "file").touch()
    exporter.clean(run_of("any", out))
    assert not mine.exists() and others.exists()


def test_a_peft_export_is_the_published_files(home, publish, out):
    version = publish(experts=True)
    exporter.execute(run_of(version, out, "peft"), home, "cpu", TaskLink())
    assert {path.name for path in out.iterdir()} == {*PEFT_FILES, "export.json"}
    for name in PEFT_FILES:
        assert (out / name).read_bytes() == (home.models / version / name).read_bytes()
    assert json.loads((out / "export.json").read_text())["verification"]["method"] == "sha256"


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(home, publish, small_disk):
    version, disk = publish(), small_disk(home.root / "small", "1m")
    with pytest.raises(ExportError, match=r"needs 5 MiB and .*small has 1 MiB free"):
        exporter.execute(run_of(version, disk / "out"), home, "cpu", TaskLink())
    prepared = exporter.check(ExportConfig(adapter=version, to="merged", out=str(home.root / "out")), home)
    base = prepared.base
    with (
        pytest.raises(ExportError, match=r"cannot write .*out: the disk is full") as caught,
        aside.folder(disk / "out", run_of(version, disk / "out")) as folder,
    ):
        merge.merge(base, prepared.folder, folder, torch.float32, on_tensor=lambda done, in_all: None)
    assert caught.value.hint == "free some space, or name another --out"
    assert list(disk.iterdir()) == []


# Refusing it


@pytest.mark.parametrize("where", ["here", "here/below"])
def test_what_is_in_the_way_is_never_overwritten(home, publish, tmp_path, where):
    (tmp_path / "here").write_text("a file")
    with pytest.raises(ConfigError, match=r"exists already|cannot be written to"):
        exporter.check(ExportConfig(adapter=publish(), to="peft", out=str(tmp_path / where)), home)
    assert (tmp_path / "here").read_text() == "a file"


def test_an_unknown_or_damaged_adapter_is_refused(home, publish, out):
    with pytest.raises(NotFoundError, match="no adapter 'nope'"):
        exporter.check(ExportConfig(adapter="nope", to="peft", out=str(out)), home)
    version = publish()
    weights = home.models / version / PEFT_FILES[1]
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(AdapterError, match="SHA-256"):
        exporter.check(ExportConfig(adapter=version, to="peft", out=str(out)), home)


def test_another_base_is_refused_unless_it_is_named_and_fits(home, publish, out, tmp_path):
    version = publish(base_fingerprint="0" * 64)
    with pytest.raises(AdapterError, match=r"was trained on tiny \(000000000000\), which is [0-9a-f]{12} now"):
        exporter.check(ExportConfig(adapter=version, to="merged", out=str(out)), home)
    assert exporter.check(ExportConfig(adapter=version, to="merged", out=str(out), base="tiny"), home).parameters == 71

    def save(folder: Path) -> None:
        save_lora(folder)
        (folder / PEFT_CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))

    foreign = Registry(home.models).publish(save, **about(run_id="foreign")).version
    with pytest.raises(AdapterError, match="the base has nothing of that name"):
        exporter.check(ExportConfig(adapter=foreign, to="merged", out=str(out), base="tiny"), home)


# GGUF


@pytest.mark.parametrize(("to", "script"), [("gguf", gguf.MODEL), ("gguf-lora", gguf.ADAPTER)])
def test_missing_converters_are_named_with_the_way_to_get_them(home, publish, out, tmp_path, monkeypatch, to, script):
    config = ExportConfig(adapter=publish(), to=to, out=str(out))
    monkeypatch.delenv("TANDEM_LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match=f"converter is missing: {script} is not on the PATH") as caught:
        exporter.check(config, home)
    assert "git clone https://github.com/ggml-org/llama.cpp" in caught.value.hint
    monkeypatch.setenv("TANDEM_LLAMA_CPP", str(tmp_path))
    with pytest.raises(ExportError, match=f"TANDEM_LLAMA_CPP names {tmp_path}, which has no {script}"):
        exporter.check(config, home)


def test_a_converter_on_the_path_that_lacks_a_package_says_which(home, publish, out, tmp_path, monkeypatch):
    script = tmp_path / gguf.MODEL
    script.write_text("import no_such_package_of_gguf\n")
    script.chmod(0o755)
    monkeypatch.delenv("TANDEM_LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ExportError, match="Python's package no_such_package_of_gguf is missing") as caught:
        exporter.check(ExportConfig(adapter=publish(), to="gguf", out=str(out)), home)
    assert caught.value.hint.endswith("-m pip install no_such_package_of_gguf")


def test_experts_are_refused_as_a_gguf_adapter_which_would_drop_them(home, publish, out, tmp_path, monkeypatch):
    converters(tmp_path / "llama.cpp", monkeypatch, "sys.exit(1)")
    with pytest.raises(ExportError, match=r"trains 8 expert matrices, such as .*has no place for them") as caught:
        exporter.check(ExportConfig(adapter=publish(experts=True), to="gguf-lora", out=str(out)), home)
    assert "--to gguf" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "NotImplementedError: BPE pre-tokenizer was not recognized - update it",
            "does not know this model's tokenizer",
        ),
        ("ValueError: Can not map tensor 'model.x.weight'", r"no place for model\.x\.weight"),
        ("Model FooForCausalLM is not supported", "does not know the architecture FooForCausalLM"),
        ("something new", "failed with exit code 1: something new"),
    ],
)
def test_a_converter_that_fails_fails_the_export_with_its_reason(
    home, publish, out, tmp_path, monkeypatch, said, words
):
    converters(tmp_path / "llama.cpp", monkeypatch, f"sys.exit({said!r})")
    with pytest.raises(ExportError, match=words):
        exporter.execute(run_of(publish(), out, "gguf-lora"), home, "cpu", TaskLink())
    assert list(out.parent.iterdir()) == []


def test_a_tokenizer_unknown_to_the_converter_is_found_out_beforehand(home, publish, out, tmp_path, monkeypatch):
    converters(tmp_path / "llama.cpp", monkeypatch, "sys.exit('BPE pre-tokenizer was not recognized')")
    with pytest.raises(ExportError, match="does not know this model's tokenizer") as caught:
        exporter.check(ExportConfig(adapter=publish(), to="gguf", out=str(out)), home)
    assert "embedded model" in caught.value.hint


def test_a_converted_model_is_one_file_and_a_manifest(home, publish, out, tmp_path, monkeypatch):
    converters(tmp_path / "llama.cpp", monkeypatch, WRITES.format(79))
    version = publish(experts=True)
    assert exporter.execute(run_of(version, out, "gguf"), home, "cpu", TaskLink()).state is RunState.SUCCEEDED
    assert {path.name for path in out.iterdir()} == {f"{version}.gguf", "export.json"}
    found = json.loads((out / "export.json").read_text())["verification"]
    assert found["why"].startswith("the merged model, before its conversion to 79 GGUF tensors")
    assert gguf.tensors(out / f"{version}.gguf") == 79


@pytest.mark.parametrize(("count", "fits"), [(32, True), (31, False)])
def test_a_converted_adapter_must_have_every_matrix(home, publish, out, tmp_path, monkeypatch, count, fits):
    converters(tmp_path / "llama.cpp", monkeypatch, WRITES.format(count))
    run = run_of(publish(), out, "gguf-lora")
    if fits:
        assert exporter.execute(run, home, "cpu", TaskLink()).state is RunState.SUCCEEDED
    else:
        with pytest.raises(ExportError, match="has 31 matrices, the adapter has 32"):
            exporter.execute(run, home, "cpu", TaskLink())
        assert list(out.parent.iterdir()) == []


def test_stopping_ends_a_running_converter(tmp_path, monkeypatch):
    script = tmp_path / "slow.py"
    script.write_text("import time\ntime.sleep(600)\n")

    def stop() -> None:
        raise InterruptedError

    children = set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())
    with pytest.raises(InterruptedError):
        gguf.convert(script, [], stop)
    assert set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()) <= children


@pytest.mark.parametrize("data", [b"", b"GGUF", struct.pack("<4sIQQ", b"GGML", 3, 1, 0)])
def test_what_is_no_gguf_file_is_refused(tmp_path, data):
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ExportError, match=r"x\.gguf is not a GGUF file"):
        gguf.tensors(tmp_path / "x.gguf")

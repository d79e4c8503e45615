"""Train on one slot, serve on the other, swap live."""

import hashlib
import json
import shutil
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from models.lora import adapter
from tests.ray.conftest import QUESTION

pytestmark = pytest.mark.usefixtures("on_base")


def test_a_swapped_in_adapter_changes_the_answer_and_the_way_back_restores_it(tandem, trained):
    before = tandem.ask()
    swapped = tandem.json("swap", trained.adapter)
    assert (swapped["old"], swapped["new"]) == ("base", trained.adapter)
    after = tandem.ask()
    assert after == "Tandem is two GPUs that work as one machine." != before
    assert tandem.ask(model="base") == before, "the base is still there under its own name"
    assert tandem.json("swap", "--back")["new"] == "base"
    assert tandem.ask() == before


def test_the_trainer_trained_what_the_configuration_says_and_wrote_it_down(tandem, trained):
    assert trained.state == "SUCCEEDED" and trained.step == trained.max_steps == 60
    record = json.loads((tandem.home.run(trained.id) / "resolved.json").read_text())
    assert record["config"] == trained.config
    assert record["trainable"] == {"attention": 57344, "experts": 0, "other": 0}
    assert record["data"]["learned_tokens"] > 1000 and record["data"]["cut_rows"] == 0
    manifest = adapter.validate(tandem.home.models / trained.adapter)
    assert manifest.run_id == trained.id and manifest.rank == 16 and manifest.metrics["steps"] == 60
    losses = tandem.losses(trained.id)
    assert [step for step, _ in losses] == list(range(1, 61))
    assert sum(loss for _, loss in losses[-10:]) < 0.5 * sum(loss for _, loss in losses[:10])
    assert (tandem.home.models / "latest").resolve().is_dir()


def test_twenty_streams_across_ten_swaps_are_complete_and_each_by_exactly_one_version(tandem, trained, second):
    names = [trained.adapter, second.adapter]
    alone = {"base": tandem.ask()}
    for name in names:
        tandem.json("swap", name)
        alone[name] = tandem.ask()
    assert len(set(alone.values())) == 3, f"the versions must be told apart by their answers: {alone}"
    swapping = threading.Event()

    def keep_asking(number: int) -> list[tuple[str, str, str]]:
        seen = []
        with tandem.client() as client:
            while not swapping.is_set():
                fingerprints, text, finish = set(), "", None
                messages = [{"role": "user", "content": QUESTION}]
                for chunk in client.chat.completions.create(
                    model="prod", messages=messages, temperature=0, stream=True
                ):
                    fingerprints.add(chunk.system_fingerprint)
                    text += chunk.choices[0].delta.content or ""
                    finish = chunk.choices[0].finish_reason or finish
                assert len(fingerprints) == 1, f"one answer by several versions: {fingerprints}"
                seen.append((fingerprints.pop(), text, finish))
        return seen

    with ThreadPoolExecutor(20) as clients:
        asking = [clients.submit(keep_asking, number) for number in range(20)]
        try:
            for turn in range(10):
                target = [*names, "base"][turn % 3] if turn else "base"
                answer = tandem.post("/api/aliases/prod", {"adapter": target})
                assert answer.status_code in (200, 409), answer.text
        finally:
            swapping.set()
        answers = [answer for future in asking for answer in future.result()]
    by_version = defaultdict(set)
    for version, text, finish in answers:
        assert finish == "stop"
        by_version[version].add(text)
    assert len(answers) >= 20
    assert {version: {alone[version]} for version in by_version} == dict(by_version)
    assert len(by_version) >= 2, "the swaps happened between the streams, not during them"


def _copy(tandem, run, name: str) -> Path:
    folder = tandem.home.models / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tandem.home.models / run.adapter, folder)
    return folder


def _change_manifest(folder: Path, **changes) -> None:
    values = json.loads((folder / adapter.MANIFEST).read_text()) | changes
    (folder / adapter.MANIFEST).write_text(json.dumps(values))


def _seal(folder: Path) -> None:
    """A manifest that fits the files as they are now."""
    _change_manifest(folder, files={name: asdict(entry) for name, entry in adapter.hash_files(folder).items()})


def _flip_a_bit(folder: Path) -> None:
    weights = folder / adapter.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)


def _truncate(folder: Path) -> None:
    weights = folder / adapter.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])


def _make_foreign(folder: Path) -> None:
    _change_manifest(folder, base="another/model", base_fingerprint=hashlib.sha256(b"another").hexdigest())


def _zero_all_b(folder: Path) -> None:
    tensors = load_file(folder / adapter.WEIGHTS)
    for name, tensor in tensors.items():
        if ".lora_B" in name:
            tensor.zero_()
    save_file(tensors, folder / adapter.WEIGHTS)
    _seal(folder)


def _shrink_to_nothing(folder: Path) -> None:
    """Not zero, but too small to change any logit: only the comparison of answers can see it."""
    tensors = load_file(folder / adapter.WEIGHTS)
    for name, tensor in tensors.items():
        if ".lora_B" in name:
            tensor.mul_(1e-30)
    save_file(tensors, folder / adapter.WEIGHTS)
    _seal(folder)


def _drop_a_module(folder: Path) -> None:
    tensors = load_file(folder / adapter.WEIGHTS)
    first = sorted(tensors)[0].split(".lora_")[0]
    save_file(
        {name: tensor for name, tensor in tensors.items() if not name.startswith(first)}, folder / adapter.WEIGHTS
    )
    _seal(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_flip_a_bit, "SHA-256"),
        (_truncate, "bytes, the manifest says"),
        (_make_foreign, "was trained on another/model"),
        (_zero_all_b, "changes nothing"),
        (_shrink_to_nothing, "differ"),
        (_drop_a_module, "missing"),
    ],
)
def test_a_bad_adapter_is_refused_with_its_reason_and_the_old_one_goes_on(tandem, trained, second, damage, words):
    tandem.json("swap", second.adapter)
    before = tandem.ask()
    name = f"broken_{damage.__name__.strip('_')}"
    damage(_copy(tandem, trained, name))
    answer = tandem.post("/api/aliases/prod", {"adapter": name})
    assert answer.status_code == 409, answer.text
    assert words in answer.json()["error"]["message"]
    done = tandem.run("swap", name, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert tandem.ask() == before
    ledger = tandem.ledger()
    assert ledger.adapter_states()[name][0] == "REFUSED" and words in ledger.adapter_states()[name][1]
    assert ledger.aliases()["prod"] == second.adapter and ledger.swaps()[0].outcome == "refused"
    shutil.rmtree(tandem.home.models / name)


def test_swapping_to_what_is_served_or_to_nothing_known_is_refused(tandem):
    assert tandem.post("/api/aliases/prod", {"adapter": "base"}).status_code == 409
    assert tandem.post("/api/aliases/prod", {"adapter": "no_such"}).status_code == 404
    assert tandem.post("/api/aliases/prod", {"adapter": "../ledger.db"}).status_code == 404
    assert tandem.post("/api/aliases/other", {"adapter": "latest"}).status_code == 404

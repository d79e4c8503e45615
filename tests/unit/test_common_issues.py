"""What people who fine-tune gpt-oss with scripts run into, row by row: impossible here, or caught with the right words.

The rows are those of the table in docs/troubleshooting.md. Each is proved by tests here (`answers`), by tests elsewhere
(`PROVED`), or both; a row without a proof fails.
"""

import ast
import re
import sys
from collections.abc import Callable
from datetime import date

import pytest

from actors.hardware import gpus
from actors.hardware.gpus import GpuReading
from configs import guess, load
from configs.errors import CheckpointError, TrainingError
from configs.paths import SOURCE, TINY_MODEL
from jobs.data import dataset
from jobs.prediction import estimate
from jobs.prediction.costs import GIB, Range
from jobs.prediction.data_size import DataSize
from jobs.request import TrainRequest
from jobs.training.watchdog.watchdog import Rule, Watchdog
from models import harmony
from models.base import checkpoint, loading

PROVED = {
    '"Fetching 4 files" although the model is there': [
        "models/base/test_checkpoint.py::test_a_hub_model_comes_from_the_cache_without_network_if_complete",
        "models/base/test_checkpoint.py::test_a_hub_model_missing_offline_says_where_it_was_sought",
        "models/base/test_integrity.py::test_without_refs_main_the_snapshot_is_found_but_not_usable",
        "models/base/test_integrity.py::test_only_what_is_missing_or_damaged_comes_again",
    ],
    "Loading takes five minutes and more": [
        "models/base/test_checkpoint.py::test_a_hub_model_comes_from_the_cache_without_network_if_complete",
        "models/base/test_integrity.py::test_a_whole_model_is_fetched_without_a_request",
    ],
    "Blobs copied and links made by hand": [
        "models/base/test_integrity.py::test_links_to_each_others_blobs_are_found",
        "models/base/test_integrity.py::test_links_to_each_others_blobs_are_mended_without_a_download",
        "models/base/test_integrity.py::test_a_cache_put_together_by_hand_gets_its_refs_main_without_a_download",
        "models/base/test_integrity.py::test_a_flipped_bit_is_found_in_large_and_in_small_files",
    ],
    "A 4-bit checkpoint loads and answers nonsense": [
        "models/base/test_loading.py::test_a_missing_key_is_fatal_and_named",
        "models/base/test_loading.py::test_a_left_over_key_is_fatal_and_named",
        "models/base/test_loading.py::test_a_loader_that_leaves_a_parameter_random_is_caught",
    ],
    '"All labels are -100"': ["jobs/data/test_dataset.py::test_data_in_which_nothing_is_learned_is_refused"],
    "High GPU memory": [
        "jobs/prediction/test_estimate.py::test_a_run_that_cannot_fit_is_refused_with_what_to_change_and_what_that_needs",
        "jobs/training/test_faults.py::test_out_of_memory_halves_the_micro_batch_and_keeps_the_effective_batch",
    ],
    "Training loss is 0": [
        "jobs/training/test_faults.py::test_a_loss_of_zero_stops_the_run_because_nothing_is_learned"
    ],
    "Measured speed is too low": ["serve/http/test_gateway.py::test_requests_tokens_and_latencies_are_counted"],
    "Template artefacts in answers": [
        "models/harmony/test_harmony.py::test_well_formed_output_is_parsed",
        "models/harmony/test_harmony.py::test_special_tokens_spelled_in_content_stay_text",
    ],
    "Answers stop after the reasoning": [
        "models/harmony/test_harmony.py::test_a_generation_stops_at_return_and_call_but_not_at_end",
    ],
    "The model's name works and its path does not": [
        "models/base/test_checkpoint.py::test_a_local_folder_is_a_base_if_it_holds_a_model",
    ],
}
ANSWERED: list[str] = []


def answers(problem: str) -> Callable:
    """Marks a test as a proof of what the table says about `problem`."""

    def mark(test: Callable) -> Callable:
        ANSWERED.append(problem)
        return test

    return mark


@pytest.fixture(scope="module")
def tokenizer():
    return checkpoint.load_tokenizer(TINY_MODEL)


@answers('"All labels are -100"')
@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["model.max_seq_length=16"], "model.max_seq_length 16 cuts every row before"),
        (["data.mask=tools_only", "data.dataset=DATA"], "data.mask tools_only learns none of what the rows have"),
    ],
)
def test_data_of_which_nothing_would_be_learned_is_refused_with_the_cause(sets, words, tokenizer, tmp_path):
    row = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'
    (tmp_path / "chats.jsonl").write_text(row * 3)
    config = load.load_run("tiny", [text.replace("DATA", str(tmp_path / "chats.jsonl")) for text in sets])
    with pytest.raises(TrainingError, match=r"nothing would be learned: all labels of .* are -100") as refused:
        dataset.prepare(dataset.read(config.data), tokenizer, config.data, config.model.max_seq_length)
    assert words in refused.value.message


@answers('"All labels are -100"')
def test_there_is_no_marker_to_get_wrong_in_any_profile():
    keys = guess.known_keys(type(load.load_run("tiny")))
    assert [key for key in keys if "marker" in key or "response" in key or "instruction" in key] == []


@answers("Training loss is 0")
def test_a_loss_of_0_stops_every_shipped_profile_and_names_template_and_mask():
    for profile in load.profiles():
        (verdict,) = Watchdog(load.load_run(profile).watchdog).see(1, 0.0, 0.0)
        assert (verdict.rule, verdict.action) == (Rule.ZERO, "stop")
        assert "the template or the mask is wrong" in verdict.text


@answers("High GPU memory")
def test_every_profile_for_a_gpu_recomputes_activations_and_is_predicted_to_fit_an_rtx_3090(home, monkeypatch):
    readings = [GpuReading(i, f"GPU-{i}", "NVIDIA GeForce RTX 3090", 24 * GIB, 0, None, None, None) for i in (0, 1)]
    monkeypatch.setattr(gpus, "readings", lambda: readings)
    needed = {}
    for profile in set(load.profiles()) - {"tiny"}:
        config = load.load_run(profile)
        rows = Range.exactly(config.model.max_seq_length)
        found = estimate.predict(home, TrainRequest(config, 0, None, None), DataSize(1000, rows, rows))
        assert config.training.gradient_checkpointing
        assert (found.refusal, found.warnings) == ("", ())
        assert found.memory.likely < found.budget
        needed[profile] = found.memory.likely
    assert min(needed, key=needed.get) == "memory_efficient"


@answers("`GptOssForCausalLM` not found")
def test_the_installed_transformers_has_the_class_and_finds_it_by_the_checkpoints_own_word():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(TINY_MODEL)
    assert AutoModelForCausalLM._model_mapping[type(config)].__name__ == "GptOssForCausalLM"
    assert checkpoint.inspect(TINY_MODEL).architecture == "GptOssForCausalLM"


@answers("`GptOssForCausalLM` not found")
def test_a_gpu_set_up_without_unsloth_says_so_with_the_next_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", None)
    base = checkpoint.inspect(checkpoint.resolve("tiny-bnb-4bit"))
    with pytest.raises(CheckpointError, match="a 4-bit gpt-oss needs Unsloth on a GPU") as refused:
        loading.import_libraries(base, "cuda")
    assert "./setup.sh" in refused.value.hint


@answers("FlashAttention 2 fails")
def test_flash_attention_is_neither_asked_for_nor_installed():
    model = loading.load_for_inference(TINY_MODEL, "cpu")
    assert model.config._attn_implementation == "eager"
    declared = (SOURCE / "pyproject.toml").read_text().lower()
    assert not re.search(r"flash.attn|flash_attention|xformers", declared)
    rooms = [path for room in ("actors", "cli", "jobs", "models", "serve") for path in (SOURCE / room).rglob("*.py")]
    assert [path.name for path in rooms if "flash_attention_2" in path.read_text()] == []


@answers("Template artefacts in answers")
def test_chat_prompts_are_the_beginning_of_what_was_trained(tokenizer):
    asked = [{"role": "user", "content": "What is 2 + 2?"}]
    how = {"tools": None, "reasoning_effort": "medium", "current_date": date(2026, 1, 1)}
    answered = [*asked, {"role": "assistant", "content": "4."}]
    prompt = harmony.render(tokenizer, asked, add_generation_prompt=True, **how)
    trained = harmony.render(tokenizer, answered, add_generation_prompt=False, **how)
    assert trained[: len(prompt)] == prompt


@answers("Template artefacts in answers")
def test_no_special_token_is_left_in_what_is_shown(tokenizer):
    text = "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>4.<|return|>"
    messages = harmony.parse(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    assert [(message.channel, message.text) for message in messages] == [("analysis", "Easy."), ("final", "4.")]


def test_every_row_of_the_table_has_a_proof_and_every_proof_exists():
    page = (SOURCE / "docs" / "troubleshooting.md").read_text()
    section = page.partition("## Known from fine-tuning gpt-oss with scripts")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 12
    assert set(rows) == {*ANSWERED, *PROVED}
    for proof in (proof for proofs in PROVED.values() for proof in proofs):
        file, _, name = proof.partition("::")
        tree = ast.parse((SOURCE / "tests" / "unit" / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}

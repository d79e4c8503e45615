"""What was meant by a key that does not exist: names of others, old names, names of another file, slips of the hand."""

import pytest

from configs import foreign_names, guess, load
from configs.errors import ConfigError
from configs.schema import ClusterConfig, RunConfig, ServeConfig

KINDS = {"run": RunConfig, "cluster": ClusterConfig, "serve": ServeConfig}


def hint(kind: str, key: str) -> str:
    """Of the error that this key is."""
    with pytest.raises(ConfigError) as caught:
        load.override(KINDS[kind], {}, [f"{key}=1"], source="a file")
    assert f"unknown key '{key}'" in caught.value.message
    return caught.value.hint


@pytest.mark.parametrize(
    ("kind", "key", "meant"),
    [
        ("run", "training.batch_size", "'training.micro_batch' or 'training.effective_batch'"),
        ("run", "batch_size", "'training.micro_batch' or 'training.effective_batch'"),
        ("run", "per_device_train_batch_size", "'training.micro_batch'"),
        ("run", "training.micro_batch_size", "'training.micro_batch'"),
        ("run", "training.gradient_accumulation", "'training.effective_batch'"),
        ("run", "gradient_accumulation_steps", "'training.effective_batch'"),
        ("run", "training.accumulation", "'training.effective_batch'"),
        ("run", "lr", "'training.learning_rate'"),
        ("run", "training.lr", "'training.learning_rate'"),
        ("run", "learningRate", "'training.learning_rate'"),
        ("run", "learning-rate", "'training.learning_rate'"),
        ("run", "epochs", "'training.epochs'"),
        ("run", "num_train_epochs", "'training.epochs'"),
        ("run", "lr_scheduler_type", "'training.scheduler'"),
        ("run", "optim", "'training.optimizer'"),
        ("run", "training.warmup_ratio", "'training.warmup_steps'"),
        ("run", "save_total_limit", "'training.keep_checkpoints'"),
        ("run", "early_stopping_patience", "'training.patience'"),
        ("run", "lora_r", "'lora.r'"),
        ("run", "lora.rank", "'lora.r'"),
        ("run", "lora_alpha", "'lora.alpha'"),
        ("run", "lora.lora_dropout", "'lora.dropout'"),
        ("run", "lora_target_modules", "'lora.target_modules'"),
        ("run", "base_model", "'model.base'"),
        ("run", "model.name", "'model.base'"),
        ("run", "model_name_or_path", "'model.base'"),
        ("run", "sequence_len", "'model.max_seq_length'"),
        ("run", "cutoff_len", "'model.max_seq_length'"),
        ("run", "model.max_length", "'model.max_seq_length'"),
        ("run", "torch_dtype", "'model.dtype'"),
        ("run", "datasets", "'data.dataset'"),
        ("run", "data.path", "'data.dataset'"),
        ("run", "val_set_size", "'data.holdout'"),
        ("run", "data.responses_only", "'data.mask'"),
        ("run", "train_on_inputs", "'data.mask'"),
        ("run", "seed", "'lora.seed' or 'training.seed'"),
        ("run", "lora.random_state", "'lora.seed'"),
        ("run", "max_stpes", "'training.max_steps'"),
        ("run", "training.per_device_trian_batch_size", "'training.micro_batch'"),
        ("run", "http_port", "`tandem up --port ...`"),
        ("run", "max_attempts", "`tandem up --set max_attempts=...`"),
        ("cluster", "max_context", "`tandem up --max-context ...`"),
        ("cluster", "max_model_len", "`tandem up --max-context ...`"),
        ("cluster", "num_ctx", "`tandem up --max-context ...`"),
        ("cluster", "base", "`tandem up --base ...`"),
        ("cluster", "model", "`tandem up --base ...`"),
        ("cluster", "max_num_seqs", "'max_batch' in configs/serve.yaml"),
        ("cluster", "port", "'http_port'"),
        ("cluster", "dashboard-port", "'dashboard_port'"),
        ("cluster", "log_level", "'logs.level'"),
        ("cluster", "gpus", "'slots'"),
        ("cluster", "learning_rate", "`tandem train --set training.learning_rate=...`"),
        ("serve", "max_model_len", "'max_context'"),
        ("serve", "port", "`tandem up --port ...`"),
        ("serve", "max_contxt", "'max_context'"),
    ],
)
def test_a_name_from_elsewhere_gets_the_key_that_was_meant(kind, key, meant):
    assert hint(kind, key).startswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("gradient_accumulation_steps", "accumulation is effective_batch / micro_batch"),
        ("training.logging_steps", "every step is logged"),
        ("output_dir", "a run's files are in TANDEM_HOME/runs/RUN, its adapter is in TANDEM_HOME/models"),
        ("sample_packing", "rows are not packed"),
        ("deepspeed", "a run has one GPU"),
    ],
)
def test_what_is_different_or_not_there_is_said(key, words):
    assert words in hint("run", key)


@pytest.mark.parametrize("key", ["xyzzy", "training.qqqqqq", "lora.zzzz"])
def test_what_is_near_nothing_gets_the_keys_and_no_guess(key):
    assert hint("run", key).startswith("keys here: ")


def test_the_same_key_in_a_file_gets_the_same_guess(tmp_path):
    file = tmp_path / "axolotl.yaml"
    file.write_text("micro_batch_size: 2\n")
    with pytest.raises(ConfigError) as caught:
        load.load_run(str(file))
    assert caught.value.message == f"unknown key 'micro_batch_size' in {file}"
    assert caught.value.hint.startswith("did you mean 'training.micro_batch'?")


def test_every_name_in_the_table_is_foreign_and_leads_to_keys_that_exist():
    ours = {key for kind in KINDS.values() for key in guess.known_keys(kind)}
    assert set(foreign_names.SETTINGS) <= ours
    for name, meant in foreign_names.by_name(foreign_names.SETTINGS).items():
        assert meant, name
        for key in meant:
            assert foreign_names.squash(key) != name, f"{name} is {key} itself"

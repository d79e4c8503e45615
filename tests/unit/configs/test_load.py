"""Configuration: every shipped file loads, and whatever is wrong is named with its place and what would be right."""

import pytest
import yaml

from configs import load
from configs.errors import ConfigError
from configs.paths import CLUSTER_CONFIG, SERVE_CONFIG
from configs.schema import ClusterConfig, RunConfig, ServeConfig

ALL_SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SEED = {
    "quick_test": {"max_steps": 30, "r": 16},
    "standard": {"max_steps": 100, "r": 16},
    "high_quality": {"max_steps": None, "r": 32},
    "memory_efficient": {"max_steps": None, "r": 8},
}
"""What tells the seed's four profiles apart."""


def refused(*sets: str, profile: str = "tiny") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load.load_run(profile, sets)
    return caught.value


def refused_cluster(*sets: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load.load_cluster(sets=sets)
    return caught.value


# What is shipped


@pytest.mark.parametrize("name", load.profiles())
def test_every_shipped_profile_loads_and_knows_its_name(name):
    assert load.load_run(name).profile == name


def test_the_shipped_profiles_are_the_seeds_four_and_the_embedded_models():
    assert set(load.profiles()) == {*SEED, "tiny"}


@pytest.mark.parametrize("name", SEED)
def test_a_seed_profile_has_exactly_the_seeds_values(name):
    config = load.load_run(name)
    small = name == "memory_efficient"
    assert config.model.base == "unsloth/gpt-oss-20b-unsloth-bnb-4bit"
    assert config.model.max_seq_length == (512 if small else 1024)
    assert config.model.load_in_4bit is True
    assert config.lora.r == SEED[name]["r"]
    assert config.lora.alpha == 2 * config.lora.r
    assert config.lora.dropout == 0
    assert config.lora.target_modules == ALL_SEVEN
    assert (config.training.effective_batch, config.training.micro_batch) == (16, 1 if small else "auto")
    assert config.training.learning_rate == 2e-4
    assert config.training.optimizer == "adamw_8bit"
    assert config.training.bf16 is True
    assert config.training.max_steps == SEED[name]["max_steps"]
    assert config.training.epochs == 1
    assert config.data.reasoning_effort == "medium"
    assert config.data.mask == "all"


@pytest.mark.parametrize("name", SEED)
def test_a_seed_profile_spells_out_what_it_depends_on(name):
    written = yaml.safe_load(load.profiles()[name].read_text())
    assert "train_experts" in written["lora"]
    assert {"base", "max_seq_length", "load_in_4bit"} <= set(written["model"])
    assert {"learning_rate", "optimizer", "max_steps", "bf16"} <= set(written["training"])


def test_the_tiny_profile_trains_the_embedded_model_on_a_cpu():
    config = load.load_run("tiny")
    assert (config.model.base, config.data.dataset) == ("tiny", "tiny-demo")
    assert (config.model.load_in_4bit, config.training.bf16) == (False, False)
    assert config.training.optimizer == "adamw_torch"


def test_the_shipped_cluster_file_loads():
    config = load.load_cluster(CLUSTER_CONFIG)
    assert (config.http_port, config.dashboard_port, config.slots) == (8000, 8265, "auto")


def test_the_commented_slots_of_the_cluster_file_load_too():
    text = CLUSTER_CONFIG.read_text()
    written_out = text[text.index("# slots:") :].replace("# ", "")
    config = load.validate(ClusterConfig, yaml.safe_load(written_out), source="comment")
    assert [(slot.name, slot.gpu, slot.roles) for slot in config.slots] == [("0", 0, ("train",)), ("1", 1, ("serve",))]


def test_the_commented_notifications_of_the_cluster_file_load_too():
    text = CLUSTER_CONFIG.read_text()
    written_out = text[text.index("# notify:") : text.index("slots: auto")].replace("# ", "")
    notify = load.validate(ClusterConfig, yaml.safe_load(written_out), source="comment").notify
    assert [url.get_secret_value() for url in notify.urls] == ["ntfys://my-topic"]
    assert notify.command == ("/usr/local/bin/tell-me",)


def test_the_commented_prices_of_the_cluster_file_load_too():
    text = CLUSTER_CONFIG.read_text()
    written_out = text[text.index("# energy:") : text.index("# Who is told")].replace("# ", "")
    energy = load.validate(ClusterConfig, yaml.safe_load(written_out), source="comment").energy
    assert (energy.price_per_kwh, energy.currency, energy.co2_g_per_kwh) == (0.31, "EUR", 380)


@pytest.mark.parametrize("price", ["-0.1", ".inf", ".nan", "cheap"])
def test_a_price_that_is_none_is_refused_by_name(price):
    with pytest.raises(ConfigError, match=r"energy\.price_per_kwh"):
        load.load_cluster(sets=[f"energy.price_per_kwh={price}"])


def test_the_shipped_serve_files_arguments_load_and_listen_on_loopback_only():
    written = yaml.safe_load(SERVE_CONFIG.read_text())
    (application,) = written["applications"]
    assert load.validate(ServeConfig, application["args"], source="serve.yaml") == ServeConfig()
    assert load.load_serve({}) == ServeConfig()
    assert load.load_serve({"max_context": 4096}) == ServeConfig(max_context=4096)
    assert application["import_path"] == "serve.app:build"
    assert written["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize("text", ["", "applications: []", "applications: [{args: }]"])
def test_a_serve_file_without_arguments_is_refused_by_name(text, tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"serve\.yaml has no applications with args"):
        load.load_serve({}, file)


def test_a_resolved_configuration_validates_again_unchanged():
    config = load.load_run("standard", ["training.max_steps=7"])
    assert load.validate(RunConfig, config.model_dump(mode="json"), source="ledger") == config


# --set


def test_set_overrides_any_key_in_the_order_given():
    config = load.load_run("standard", ["lora.r=4", "training.max_steps=5", "lora.r=12", "data.dataset=mine.jsonl"])
    assert (config.lora.r, config.training.max_steps, config.data.dataset) == (12, 5, "mine.jsonl")
    assert config.lora.alpha == 32, "what is not named stays as the profile has it"


def test_set_takes_lists_null_and_booleans():
    sets = ["lora.target_modules=[q_proj, v_proj]", "training.max_steps=null", "training.bf16=true"]
    config = load.load_run("tiny", sets)
    assert config.lora.target_modules == ("q_proj", "v_proj")
    assert config.training.max_steps is None
    assert config.training.bf16 is True


@pytest.mark.parametrize(
    ("text", "value"), [("2e-4", 2e-4), ("1e-05", 1e-5), ("2.5E-3", 2.5e-3), (".5e-1", 0.05), ("0.01", 0.01)]
)
def test_scientific_notation_is_a_number_in_set_and_in_files(text, value, tmp_path):
    assert load.load_run("tiny", [f"training.learning_rate={text}"]).training.learning_rate == value
    file = tmp_path / "mine.yaml"
    file.write_text(f"training: {{learning_rate: {text}}}\n")
    assert load.load_run(str(file)).training.learning_rate == value


def test_a_whole_number_may_be_written_scientifically_too():
    assert load.load_run("tiny", ["training.max_steps=1e3"]).training.max_steps == 1000


def test_a_date_stays_text_in_set_and_in_files(tmp_path):
    assert load.load_run("tiny", ["data.current_date=2026-02-03"]).data.current_date == "2026-02-03"
    file = tmp_path / "mine.yaml"
    file.write_text("data: {current_date: 2026-02-03}\n")
    assert load.load_run(str(file)).data.current_date == "2026-02-03"


def test_a_value_may_hold_an_equals_sign():
    assert load.load_run("tiny", ["data.dataset=a=b.jsonl"]).data.dataset == "a=b.jsonl"


def test_override_leaves_the_given_values_alone():
    values = load.load_run("tiny").model_dump(mode="json")
    load.override(RunConfig, values, ["lora.r=2"], source="test")
    assert values["lora"]["r"] == 16


@pytest.mark.parametrize("text", ["lora.r", "=5", ""])
def test_a_set_without_key_and_value_shows_the_form(text):
    error = refused(text)
    assert "key=value" in error.message
    assert "training.max_steps=50" in error.hint


# A profile of one's own


def test_a_file_of_ones_own_is_named_after_itself(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {base: tiny}\n")
    config = load.load_run(str(file))
    assert (config.profile, config.model.base) == ("mine", "tiny")


def test_an_empty_file_means_the_defaults(tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n")
    assert load.load_run(str(file)) == RunConfig(profile="empty")


def test_an_unknown_profile_lists_the_profiles_and_the_nearest():
    error = refused(profile="standrd")
    assert "'standrd'" in error.message
    assert "did you mean 'standard'?" in error.hint
    assert "high_quality, memory_efficient, quick_test, standard, tiny" in error.hint


def test_a_file_that_does_not_exist_is_named():
    assert "nowhere/mine.yaml" in refused(profile="nowhere/mine.yaml").message


# Unknown keys


def test_an_unknown_key_names_the_flag_the_nearest_match_and_the_keys_there():
    error = refused("lora.alhpa=5")
    assert error.message == "unknown key 'lora.alhpa' in --set lora.alhpa=5"
    assert "did you mean 'lora.alpha'?" in error.hint
    assert (
        "keys here: lora.r, lora.alpha, lora.dropout, lora.target_modules, lora.train_experts, lora.seed" in error.hint
    )


def test_a_guess_stands_alone_where_the_keys_are_many():
    assert refused("training.learning_rat=1").hint == "did you mean 'training.learning_rate'?"
    assert "keys here: training.effective_batch, " in refused("training.qqqqqq=1").hint


def test_a_key_in_the_wrong_section_is_found_in_the_right_one():
    error = refused("max_steps=5")
    assert "did you mean 'training.max_steps'?" in error.hint
    assert "keys here: profile, model, lora, data, training" in error.hint


def test_an_unknown_key_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("training:\n  lerning_rate: 1e-4\n")
    error = refused(profile=str(file))
    assert error.message == f"unknown key 'training.lerning_rate' in {file}"
    assert "did you mean 'training.learning_rate'?" in error.hint


def test_several_unknown_keys_are_counted(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("lora: {aa: 1, bb: 2, cc: 3}\n")
    assert "(and 2 more)" in refused(profile=str(file)).message


def test_an_unknown_key_inside_a_list_lists_the_keys_of_its_items():
    error = refused_cluster("slots=[{nam: a, roles: [train, serve]}]")
    assert "unknown key 'slots.0.nam'" in error.message
    assert "did you mean 'slots.0.name'?" in error.hint
    assert "slots.0.gpu, slots.0.uuid, slots.0.roles" in error.hint


# Bad values


@pytest.mark.parametrize(
    ("text", "nearest", "allowed"),
    [
        ("model.dtype=bfloat", "bfloat16", "bfloat16, float32"),
        ("data.reasoning_effort=hihg", "high", "low, medium, high"),
        ("training.optimizer=adamw8bit", "adamw_8bit", "adamw_8bit, adamw_torch"),
        ("lora.target_modules=[q_prj]", "q_proj", "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"),
    ],
)
def test_a_bad_choice_names_the_flag_the_nearest_match_and_what_is_allowed(text, nearest, allowed):
    error = refused(text)
    assert f"--set {text}" in error.message
    assert f"did you mean '{nearest}'?" in error.hint
    assert f"allowed: {allowed}" in error.hint


@pytest.mark.parametrize(
    ("text", "value", "complaint"),
    [
        ("training.max_steps=0", "0", "greater than or equal to 1"),
        ("training.learning_rate=-1", "-1", "greater than 0"),
        ("training.max_steps=ten", "'ten'", "valid integer"),
        ("training.bf16=maybe", "'maybe'", "valid boolean"),
        ("lora.r=999", "999", "less than or equal to 256"),
        ("data.current_date=yesterday", "'yesterday'", "pattern"),
        ("lora.target_modules=q_proj", "'q_proj'", "valid list"),
        ("training=5", "5", "a section with the keys effective_batch, micro_batch, vram_gib"),
    ],
)
def test_a_bad_value_is_shown_with_its_key_its_flag_and_the_bound(text, value, complaint):
    error = refused(text)
    assert error.message == f"'{text.split('=')[0]}' in --set {text} cannot be {value}"
    assert complaint in error.hint


def test_a_bad_value_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("lora: {r: -1}\n")
    assert refused(profile=str(file)).message == f"'lora.r' in {file} cannot be -1"


def test_a_key_below_a_plain_value_blames_the_flag():
    assert refused("lora.r.x=5").message == "'lora.r' in --set lora.r.x=5 cannot be {'x': 5}"


def test_slots_that_are_neither_a_list_nor_auto_are_refused():
    error = refused_cluster("slots=autoo")
    assert "did you mean 'auto'?" in error.hint


@pytest.mark.parametrize("value", ["1", "[]"])
def test_slots_of_another_form_are_refused_with_an_example_that_loads(value):
    hint = refused_cluster(f"slots={value}").hint
    assert "list" in hint
    (slot,) = load.load_cluster(sets=[hint.partition("--set '")[2].removesuffix("'")]).slots
    assert (slot.name, slot.gpu, slot.roles) == ("a", 0, ("train", "serve"))


def test_a_slot_without_a_name_is_told_that_it_is_missing():
    assert "'slots.0.name' is missing" in refused_cluster("slots=[{roles: [train, serve]}]").message


def test_a_port_out_of_range_is_refused():
    assert "'http_port' in --set http_port=70000 cannot be 70000" in refused_cluster("http_port=70000").message


# Values that do not fit each other


def test_training_experts_without_an_expert_projection_names_both_keys_and_the_fix():
    error = refused("lora.train_experts=true", "lora.target_modules=[q_proj]", profile="standard")
    assert "lora.train_experts is true but lora.target_modules names no expert projection" in error.message
    assert "add gate_proj, up_proj, down_proj or set lora.train_experts=false" in error.message
    assert "standard.yaml --set lora.train_experts=true --set lora.target_modules=[q_proj]" in error.message


def test_expert_projections_alone_without_training_experts_would_train_nothing():
    message = refused("lora.target_modules=[up_proj, down_proj]", profile="standard").message
    assert "lora.train_experts is false" in message
    assert "set lora.train_experts=true" in message


@pytest.mark.parametrize(
    ("slots", "complaint"),
    [
        ("[{name: a, roles: [train]}, {name: a, roles: [serve]}]", "slots share a name: a, a"),
        ("[{name: a, gpu: 0, roles: [train]}, {name: b, gpu: 0, roles: [serve]}]", "two slots name the same gpu"),
        ("[{name: a, roles: [train]}]", "no slot has the role serve"),
        ("[{name: a, roles: [serve]}]", "no slot has the role train"),
    ],
)
def test_slots_that_contradict_each_other_are_refused(slots, complaint):
    assert complaint in refused_cluster(f"slots={slots}").message


def test_one_slot_may_have_both_roles_and_gives_each_half():
    (slot,) = load.load_cluster(sets=["slots=[{name: a, gpu: 0, roles: [train, serve]}]"]).slots
    assert (slot.share, slot.resource) == (0.5, "gpu_slot_a")


# Files that are not configuration


@pytest.mark.parametrize(
    ("text", "line"), [("lora:\n  r: 8\n alpha: 3\n", 3), ("model:\n\tbase: x\n", 2), ("a: [1, 2\n", 2)]
)
def test_bad_yaml_names_the_file_and_the_line(text, line, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    message = refused(profile=str(file)).message
    assert message.startswith(f"{file} line {line} is not YAML: ")


@pytest.mark.parametrize("content", [b"a: \x00", b"\xff\xfe\x00", b"- a\n- b\n", b"just text", b"1: 2"])
def test_whatever_a_file_holds_the_complaint_is_one_line_that_names_it(content, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    message = refused(profile=str(file)).message
    assert str(file) in message
    assert "\n" not in message


def test_a_folder_is_no_configuration(tmp_path):
    (tmp_path / "mine.yaml").mkdir()
    assert "cannot read" in refused(profile=str(tmp_path / "mine.yaml")).message


# Secrets


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notify.urls=json://hunter2", "'notify.urls' in --set notify.urls=... cannot be what it is"),
        ("notify.urls=[5, json://hunter2]", "'notify.urls.0' in --set notify.urls=... cannot be what it is"),
        ("notify.url=json://hunter2", "unknown key 'notify.url' in --set notify.url=..."),
        ("notify=json://hunter2", "'notify' in --set notify=... cannot be what it is"),
        ("notify.events=[hunter2]", "cannot be"),
    ],
)
def test_a_wrong_notification_is_named_without_what_may_be_a_password(text, words):
    error = refused_cluster(text)
    assert words in error.message
    assert "json://hunter2" not in f"{error.message}{error.hint}"


def test_an_event_nobody_can_be_told_of_names_those_that_there_are():
    error = refused_cluster("notify.events=[suceeded]")
    assert "'suceeded'" in error.message
    assert error.hint.startswith("did you mean 'succeeded'? allowed: succeeded, failed")


@pytest.mark.parametrize(
    "name", ["n\U0001f44d.jsonl", "\U00020bb7.jsonl", "n\udcff", "a: {b}", "null", "x\x07\u2028", " a'\"", ""]
)
def test_a_name_given_literally_is_what_it_was(name):
    text = load.literal("data.dataset", name)
    assert load.load_run("tiny", [text]).data.dataset == name

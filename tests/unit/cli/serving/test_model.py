"""`tandem model`: what a person and a machine read, and the exit code."""

import json

import pytest
from huggingface_hub import constants

from configs.paths import TINY_MODEL
from tests.hub_server import write_cache

NAME = "someone/small"


@pytest.fixture
def snapshot(monkeypatch, tmp_path):
    """The embedded model in an offline hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return write_cache(tmp_path / "hub", NAME, TINY_MODEL)


def test_a_whole_model_is_one_verdict_and_exit_code_0(invoke, snapshot):
    done = invoke("model", "check", NAME)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "whole: 6 files, 2.5 MiB, every content has its hash"
    quick = invoke("model", "check", NAME, "--quick").out
    assert quick.splitlines()[-1] == "whole: 6 files, 2.5 MiB, as far as was read"
    assert "none compared; lengths and headers only" in quick


def test_a_damaged_model_says_what_a_fetch_would_do_and_exits_with_1(invoke, snapshot):
    weights = (snapshot / "model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    done = invoke("model", "check", NAME)
    assert done.code == 1
    assert "wrong: model.safetensors is CUT: has 1000000 bytes, its header says 2519648" in done.out
    assert done.out.splitlines()[-1].startswith(f"not whole -> `tandem model fetch {NAME}` keeps 72.")
    report = json.loads(invoke("model", "check", NAME, "--json").out)
    assert report["whole"] is False
    assert {file["name"]: file["state"] for file in report["files"]}["model.safetensors"] == "CUT"


def test_without_a_name_the_served_base_is_meant(invoke):
    report = json.loads(invoke("model", "check", "--json").out)
    assert (report["name"], report["kind"], report["whole"]) == ("tiny", "embedded", True)


def test_a_fetch_offline_is_one_line(invoke, snapshot):
    (snapshot / "config.json").unlink()
    line = invoke("model", "fetch", NAME).one_error_line()
    assert "config.json is MISSING" in line
    assert "HF_HUB_OFFLINE is set" in line


@pytest.mark.parametrize("command", ["check", "fetch"])
def test_what_is_no_model_is_one_line(command, invoke):
    assert "no base model 'tinny'" in invoke("model", command, "tinny").one_error_line()

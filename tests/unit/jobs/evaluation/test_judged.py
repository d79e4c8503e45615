"""Which rows an adapter is judged on: never one that it was trained on, as far as that can be known."""

import json

import pytest

from configs import load
from configs.errors import DataError, NotFoundError
from jobs.data import dataset, split
from jobs.evaluation import judged
from models.lora.registry import Registry
from tests.samples import publish


def rows_of(number: int, first: int = 0) -> list[dict]:
    return [
        {"messages": [{"role": "user", "content": f"Q{at}"}, {"role": "assistant", "content": f"A{at}"}]}
        for at in range(first, first + number)
    ]


def write(path, rows) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def trained(home, tmp_path):
    """An adapter whose run trained 80 % of a file of 60 rows: (its manifest, the run's configuration)."""
    data = write(tmp_path / "own.jsonl", rows_of(60))
    config = load.load_run("tiny", [f"data.dataset={data}", "data.holdout=0.2", "data.mask=final_only"])
    home.run("tiny-1").mkdir(parents=True)
    (home.run("tiny-1") / "resolved.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    return publish(Registry(home.models)), config


def sides(config) -> tuple[set[str], set[str]]:
    parts = split.hold_out(dataset.read(config.data).dialogues, config.data.holdout)
    return tuple({row.fingerprint for row in part} for part in parts)


def fingerprints(found: judged.EvaluationRows) -> set[str]:
    return {row.fingerprint for row in found.rows}


def test_without_a_name_it_is_what_its_run_held_out_rendered_as_it_was(home, trained):
    manifest, config = trained
    taught, held_out = sides(config)
    found = judged.choose(home, manifest, None, None, None)
    assert fingerprints(found) == held_out and len(held_out) > 5
    assert found.trained == len(taught) == 60 - len(held_out)
    assert found.data == config.data and found.max_seq_length == config.model.max_seq_length


def test_naming_the_data_it_was_trained_on_is_the_same_however_it_is_written(home, trained, tmp_path, monkeypatch):
    manifest, config = trained
    monkeypatch.chdir(tmp_path)
    for name in (config.data.dataset, "own.jsonl", "./own.jsonl"):
        assert fingerprints(judged.choose(home, manifest, name, None, None)) == sides(config)[1]


def test_rows_that_were_added_to_the_data_do_not_bring_trained_ones_in(home, trained, tmp_path):
    manifest, config = trained
    taught, held_out = sides(config)
    write(tmp_path / "own.jsonl", rows_of(90))
    found = judged.choose(home, manifest, None, None, None)
    assert held_out < fingerprints(found) and not taught & fingerprints(found)


def test_of_other_data_all_rows_but_the_trained_ones_are_judged(home, trained, tmp_path):
    manifest, config = trained
    taught, held_out = sides(config)
    other = write(tmp_path / "other.jsonl", rows_of(80, first=40))
    found = judged.choose(home, manifest, other, None, None)
    everything = {row.fingerprint for row in dataset.read(found.data).dialogues}
    assert fingerprints(found) == everything - taught
    assert found.trained == len(everything & taught) > 0 and everything & held_out <= fingerprints(found)
    assert (found.data.mask, found.data.dataset, found.notes) == ("final_only", other, [])


def test_a_sample_is_always_the_same(home, trained):
    manifest, _ = trained
    some = judged.choose(home, manifest, None, None, 4)
    assert len(some.rows) == 4
    assert fingerprints(judged.choose(home, manifest, None, None, 4)) == fingerprints(some)
    assert fingerprints(judged.choose(home, manifest, None, None, 3)) < fingerprints(some)
    assert len(judged.choose(home, manifest, None, None, 10**6).rows) > 4


def test_if_all_rows_were_trained_nothing_is_left(home, trained, tmp_path):
    manifest, config = trained
    taught, _ = sides(config)
    only_trained = [row for row, each in zip(rows_of(60), dataset.read(config.data).dialogues, strict=True)
                    if each.fingerprint in taught]  # fmt: skip
    with pytest.raises(DataError, match=rf"all {len(taught)} rows of .*copy.jsonl' were trained"):
        judged.choose(home, manifest, write(tmp_path / "copy.jsonl", only_trained), None, None)


def test_if_the_trained_data_is_gone_other_data_is_judged_with_a_note(home, trained, tmp_path):
    manifest, _ = trained
    other = write(tmp_path / "other.jsonl", rows_of(3))
    (tmp_path / "own.jsonl").unlink()
    found = judged.choose(home, manifest, other, None, None)
    assert (len(found.rows), found.trained) == (3, 0)
    assert "which rows were trained is not known" in found.notes[0]


def test_if_the_runs_record_is_gone_the_data_has_to_be_named(home, trained, tmp_path):
    manifest, _ = trained
    (home.run("tiny-1") / "resolved.json").unlink()
    with pytest.raises(NotFoundError, match="is not known any more"):
        judged.choose(home, manifest, None, None, None)
    found = judged.choose(home, manifest, write(tmp_path / "other.jsonl", rows_of(3)), None, None)
    assert len(found.rows) == 3 and "rows of it may be among these" in found.notes[0]


def test_bad_rows_that_the_run_allowed_are_named(home, trained, tmp_path):
    manifest, config = trained
    lenient = config.model_copy(update={"data": config.data.model_copy(update={"max_bad_rows": 1})})
    (home.run("tiny-1") / "resolved.json").write_text(json.dumps({"config": lenient.model_dump(mode="json")}))
    write(tmp_path / "own.jsonl", [*rows_of(60), {"messages": []}])
    (note,) = judged.choose(home, manifest, None, None, None).notes
    assert "own.jsonl:61: " in note

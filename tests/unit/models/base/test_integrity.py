"""A base's files: every way in which a cache is found broken is named, and a fetch brings exactly what is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from configs.errors import CheckpointError, ConfigError
from configs.paths import SOURCE, TINY_MODEL
from models.base import checkpoint, files, hub, integrity
from models.base.integrity import FileState
from tests.hub_server import Hub, blob_name, serving, write_cache

NAME, COMMIT, OTHER = "someone/small-bnb-4bit", "c" * 40, "d" * 40
LAYER, ANOTHER = "model-layer02.safetensors", "model-layer03.safetensors"


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty hub cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(params=[False, True], ids=["old cache", "cache with a listing"])
def snapshot(request, cache, four_bit) -> Path:
    return write_cache(cache, NAME, four_bit, is_listed=request.param)


@pytest.fixture
def online(monkeypatch, four_bit):
    """A hub with the model, and a client that may ask it."""
    with serving(Hub()) as served:
        served.publish(NAME, four_bit)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        yield served


def broken(report: integrity.Report) -> dict[str, FileState]:
    return {file.name: file.state for file in report.files if not file.state.is_good}


def lines(said: list[str], word: str) -> list[str]:
    return [line for line in said if word in line]


def flip(file: Path, at: int = -1) -> None:
    """Change one bit of what `file` holds."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.resolve().write_bytes(content)


def cut(file: Path, length: int) -> None:
    os.truncate(file.resolve(), length)


# check


def test_a_whole_cache_is_proved_offline_by_the_names_of_its_blobs(snapshot, four_bit):
    report = integrity.check(NAME)
    assert (report.problems, report.is_whole, report.notes) == ((), True, ())
    assert {file.state for file in report.files} == {FileState.WHOLE}
    assert {file.name for file in report.files} == {file.name for file in four_bit.iterdir()}
    assert report.good_bytes == sum(file.stat().st_size for file in four_bit.iterdir())
    assert (report.layout, report.revision, report.folder) == ("split-nf4", COMMIT, str(snapshot))
    assert report.download_bytes == 0


def test_quick_reads_no_contents(snapshot):
    flip(snapshot / LAYER)
    quick = integrity.check(NAME, quick=True)
    assert (quick.is_whole, quick.compared_with) == (True, "")
    assert {file.state for file in quick.files} == {FileState.SIZED}
    assert broken(integrity.check(NAME)) == {LAYER: FileState.CORRUPT}


def test_a_flipped_bit_is_found_in_large_and_in_small_files(snapshot):
    for name in (LAYER, "generation_config.json"):
        flip(snapshot / name, at=-3)
    report = integrity.check(NAME)
    assert broken(report) == {LAYER: FileState.CORRUPT, "generation_config.json": FileState.CORRUPT}
    assert report.layout == "", "nothing is said of a model whose files are not good"


def test_a_cut_shard_is_found_without_hashing(snapshot):
    cut(snapshot / LAYER, 5000)
    report = integrity.check(NAME, quick=True)
    assert broken(report) == {LAYER: FileState.CUT}
    assert any("5,000 bytes instead of" in problem or "has 5000 bytes" in problem for problem in report.problems)


def test_a_missing_shard_is_found_and_its_length_estimated(snapshot, four_bit):
    (snapshot / LAYER).resolve().unlink()
    (snapshot / LAYER).unlink()
    report = integrity.check(NAME)
    assert broken(report) == {LAYER: FileState.MISSING}
    size = (four_bit / LAYER).stat().st_size
    listed = (snapshot.parents[1] / "trees" / f"{COMMIT}.json").exists()
    assert report.download_bytes == size if listed else 0.7 * size < report.download_bytes <= size
    assert report.good_bytes == sum(file.stat().st_size for file in four_bit.iterdir()) - size


def test_a_link_to_a_blob_that_is_gone_is_found(snapshot):
    blob = (snapshot / LAYER).resolve()
    blob.unlink()
    report = integrity.check(NAME)
    assert broken(report) == {LAYER: FileState.DANGLING}
    assert any(blob.name[:12] in problem for problem in report.problems)


def test_a_blob_without_its_link_needs_no_download(cache, four_bit):
    snapshot = write_cache(cache, NAME, four_bit, is_listed=True)
    (snapshot / LAYER).unlink()
    report = integrity.check(NAME)
    assert broken(report) == {LAYER: FileState.UNLINKED}
    assert report.download_bytes == 0


def test_links_to_each_others_blobs_are_found(snapshot):
    ends = [(snapshot / name).readlink() for name in (LAYER, ANOTHER)]
    for name, end in zip((LAYER, ANOTHER), reversed(ends), strict=True):
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(end)
    report = integrity.check(NAME)
    if report.compared_with.startswith("the hub's listing"):
        assert broken(report) == {LAYER: FileState.MISLINKED, ANOTHER: FileState.MISLINKED}
        assert report.download_bytes == 0
    else:
        (problem,) = report.problems
        assert "does not fit its architecture" in problem
        assert "layers.2" in problem


def test_an_index_that_disagrees_with_its_shards_is_found(cache, four_bit, tmp_path):
    folder = Path(shutil.copytree(four_bit, tmp_path / "edited"))
    index = json.loads((folder / files.INDEX).read_text())
    index["weight_map"]["model.ghost.weight"] = LAYER
    (folder / files.INDEX).write_text(json.dumps(index))
    write_cache(cache, NAME, folder)
    report = integrity.check(NAME)
    assert broken(report) == {}, "file by file all is well"
    (problem,) = report.problems
    assert "model.ghost.weight" in problem


def test_without_refs_main_the_snapshot_is_found_but_not_usable(snapshot):
    (snapshot.parents[1] / "refs" / "main").unlink()
    report = integrity.check(NAME)
    assert broken(report) == {}
    assert ["refs/main is missing" in problem for problem in report.problems] == [True]
    assert report.download_bytes is None
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        checkpoint.resolve(NAME)


def test_refs_main_to_a_snapshot_that_is_not_there_is_found(snapshot):
    (snapshot.parents[1] / "refs" / "main").write_text(OTHER)
    report = integrity.check(NAME)
    assert any(f"refs/main says {OTHER[:12]}, which has no snapshot" in problem for problem in report.problems)
    assert any(COMMIT[:12] in note for note in report.notes)


def test_of_two_snapshots_main_is_checked_and_the_other_named(cache, four_bit):
    old = write_cache(cache, NAME, four_bit, OTHER)
    new = write_cache(cache, NAME, four_bit, COMMIT)
    (old / LAYER).unlink()
    report = integrity.check(NAME)
    assert (report.is_whole, report.folder) == (True, str(new))
    assert report.notes == (f"the cache also holds snapshot {OTHER[:12]}; main is {COMMIT[:12]}",)


def test_leftovers_are_named_and_harm_nothing(snapshot):
    blobs = snapshot.parents[1] / "blobs"
    (blobs / f"{'e' * 64}.0a1b2c3d.incomplete").write_bytes(b"x" * 1234)
    (blobs / ("f" * 64)).write_bytes(b"x" * 4321)
    report = integrity.check(NAME)
    assert report.is_whole
    unfinished, unlinked = report.notes
    assert unfinished.startswith("unfinished downloads: 1, 1,234 bytes")
    assert unlinked == "blobs to which no snapshot links: 1, 4,321 bytes"


def test_a_model_that_is_not_there_names_a_whole_copy_elsewhere(cache, four_bit, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    report = integrity.check(NAME)
    assert (report.problems, report.notes) == ((f"the cache {cache} has nothing of it",), ())
    copy = Path(shutil.copytree(four_bit, tmp_path / NAME.partition("/")[2]))
    assert integrity.check(NAME).notes == (f"a copy with all its files is in {copy}: --base {copy}",)
    cut(copy / LAYER, 100)
    assert integrity.check(NAME).notes == ()


def test_a_gpt_oss_in_4_bit_must_have_the_split_layout(cache, tmp_path):
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "fused"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    (problem,) = integrity.check(str(folder)).problems
    assert "has the layout split-nf4, this one has full" in problem


def test_a_tokenizer_that_cannot_end_an_answer_is_found(cache, tmp_path):
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "silent"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|return|>", "<|end|>"))
    (problem,) = integrity.check(str(folder)).problems
    assert problem == "the chat template never writes <|return|>: it is not gpt-oss's own"
    template.unlink()
    assert "has no chat template" in integrity.check(str(folder)).problems[0]


# check of folders


def test_a_folder_is_compared_with_the_cached_model_of_its_name(cache, four_bit, tmp_path):
    write_cache(cache, NAME, four_bit)
    copy = Path(shutil.copytree(four_bit, tmp_path / "small-bnb-4bit"))
    report = integrity.check(str(copy))
    assert (report.is_whole, report.compared_with) == (True, f"{NAME} in the cache")
    assert {file.state for file in report.files} == {FileState.WHOLE}
    flip(copy / LAYER)
    assert broken(integrity.check(str(copy))) == {LAYER: FileState.CORRUPT}


def test_a_folder_is_compared_with_what_its_download_noted(cache, four_bit, tmp_path):
    copy = Path(shutil.copytree(four_bit, tmp_path / "copy"))
    notes = copy / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    digest = blob_name((copy / LAYER).read_bytes())
    (notes / f"{LAYER}.metadata").write_text(f"{COMMIT}\n{digest}\n1712656091.123\n")
    report = integrity.check(str(copy))
    assert report.compared_with == "the notes of `hf download`"
    assert {file.name for file in report.files if file.state is FileState.WHOLE} == {LAYER}
    flip(copy / LAYER)
    assert broken(integrity.check(str(copy))) == {LAYER: FileState.CORRUPT}


def test_a_folder_that_nothing_is_known_of_is_checked_by_lengths_and_headers(cache, four_bit, tmp_path):
    copy = Path(shutil.copytree(four_bit, tmp_path / "copy"))
    report = integrity.check(str(copy))
    assert (report.is_whole, report.compared_with) == (True, "")
    assert "--like OWNER/NAME" in report.notes[0]
    assert "HF_HUB_OFFLINE is set" in integrity.check(str(copy), like=NAME).notes[0]
    (copy / ANOTHER).unlink()
    assert broken(integrity.check(str(copy))) == {ANOTHER: FileState.MISSING}


def test_a_folder_is_compared_with_the_hub_when_asked(cache, online, four_bit, tmp_path):
    copy = Path(shutil.copytree(four_bit, tmp_path / "copy"))
    flip(copy / LAYER)
    report = integrity.check(str(copy), like=NAME)
    assert report.compared_with == f"{NAME} on the hub, revision {COMMIT[:12]}"
    assert broken(report) == {LAYER: FileState.CORRUPT}
    assert online.downloads == []
    assert "contents were compared with nothing" in integrity.check(str(copy), like="someone/else").notes[0]


def test_like_is_for_folders_and_fetch_for_hub_names(cache, four_bit):
    with pytest.raises(ConfigError, match="--like is for folders"):
        integrity.check(NAME, like=NAME)
    with pytest.raises(ConfigError, match="is not a hub name"):
        integrity.check(str(four_bit), like="small")
    with pytest.raises(ConfigError, match="fetch takes a hub name"):
        integrity.fetch(str(four_bit), say=print)
    with pytest.raises(CheckpointError, match="no base model 'smal'"):
        integrity.check("smal")


# fetch


def test_a_whole_model_is_fetched_without_a_request(snapshot, online):
    assert integrity.fetch(NAME, say=print).is_whole
    assert online.asked == []


def test_an_embedded_model_needs_no_hub(cache):
    assert integrity.fetch("tiny", say=print).is_whole


def test_a_new_model_comes_whole_and_is_then_found_offline(cache, online, four_bit, monkeypatch, tmp_path):
    said: list[str] = []
    report = integrity.fetch(NAME, say=said.append)
    assert {file.state for file in report.files} == {FileState.WHOLE}
    total = sum(file.stat().st_size for file in four_bit.iterdir())
    assert f"{total:,} bytes to download, 0 are there" in said[0]
    assert online.downloads == sorted(file.name for file in four_bit.iterdir())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert checkpoint.resolve(NAME) == Path(report.folder)
    assert integrity.check(NAME).is_whole


def test_only_what_is_missing_or_damaged_comes_again(snapshot, online):
    names = sorted(path.name for path in snapshot.iterdir())
    flip(snapshot / LAYER)
    cut(snapshot / ANOTHER, 100)
    (snapshot / "config.json").resolve().unlink()
    (snapshot / "tokenizer_config.json").unlink()
    kept = {name: (snapshot / name).stat().st_mtime_ns for name in ("model.safetensors.index.json", "tokenizer.json")}
    said: list[str] = []
    report = integrity.fetch(NAME, say=said.append)
    assert report.is_whole
    assert sorted(file.name for file in report.files) == names
    assert online.downloads == ["config.json", LAYER, ANOTHER]
    assert [line.split(": ")[1].split(" is ")[0] for line in lines(said, "removing")] == [LAYER, ANOTHER]
    assert {name: (snapshot / name).stat().st_mtime_ns for name in kept} == kept


def test_links_to_each_others_blobs_are_mended_without_a_download(snapshot, online):
    ends = [(snapshot / name).readlink() for name in (LAYER, ANOTHER)]
    for name, end in zip((LAYER, ANOTHER), reversed(ends), strict=True):
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(end)
    assert integrity.fetch(NAME, say=print).is_whole
    assert online.downloads == []
    assert [(snapshot / name).resolve().name for name in (LAYER, ANOTHER)] == [end.name for end in ends]


def test_a_cache_put_together_by_hand_gets_its_refs_main_without_a_download(snapshot, online):
    (snapshot.parents[1] / "refs" / "main").unlink()
    assert integrity.fetch(NAME, say=print).is_whole
    assert (snapshot.parents[1] / "refs" / "main").read_text() == COMMIT
    assert online.downloads == []


def test_a_damaged_model_is_mended_at_its_own_revision_though_main_moved_on(snapshot, online, four_bit):
    online.publish(NAME, four_bit, OTHER)
    flip(snapshot / LAYER)
    assert integrity.fetch(NAME, say=print).revision == COMMIT
    assert online.downloads == [LAYER]
    assert [path.name for path in snapshot.parent.iterdir()] == [COMMIT]


def test_a_connection_that_is_cut_goes_on_where_it_was(cache, online, four_bit, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    online.cut_after[LAYER] = 50_000
    assert integrity.fetch(NAME, say=print).is_whole
    first, second = [name for name in online.downloads if name.startswith(LAYER)]
    assert (first, second) == (LAYER, f"{LAYER} bytes=50000-")


def test_what_is_not_what_the_hub_promised_is_refused_and_does_not_stay(cache, online, four_bit):
    content = bytearray((four_bit / LAYER).read_bytes())
    content[-1] ^= 1
    online.forged[LAYER] = bytes(content)
    said: list[str] = []
    with pytest.raises(CheckpointError, match=f"not what the hub promised: {LAYER} is CORRUPT"):
        integrity.fetch(NAME, say=said.append)
    assert LAYER in lines(said, "removing")[0]
    assert broken(integrity.check(NAME)) == {LAYER: FileState.DANGLING}
    online.forged.clear()
    online.asked.clear()
    assert integrity.fetch(NAME, say=print).is_whole
    assert online.downloads == [LAYER]


def test_offline_a_damaged_blob_is_named_and_left_alone(snapshot):
    flip(snapshot / LAYER)
    with pytest.raises(CheckpointError, match=f"{LAYER} is CORRUPT.*HF_HUB_OFFLINE is set"):
        integrity.fetch(NAME, say=print)
    assert (snapshot / LAYER).is_file()


def test_an_unknown_model_and_a_dead_hub_are_errors_that_remove_nothing(snapshot, online, monkeypatch):
    flip(snapshot / LAYER)
    with pytest.raises(CheckpointError, match=r"the hub did not give it: 127\.\S+ has no such model .*404") as unknown:
        integrity.fetch("someone/else", say=print)
    assert unknown.value.hint == "check the name; HF_TOKEN opens a gated model"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"the hub did not give it: 127\.0\.0\.1:9 cannot be reached$") as dead:
        integrity.fetch(NAME, say=print)
    assert f"`tandem model fetch {NAME}`" in dead.value.hint and "HF_ENDPOINT" in dead.value.hint
    assert (snapshot / LAYER).is_file()


def test_a_full_disk_is_an_error_before_anything_is_removed(snapshot, online, monkeypatch):
    cut(snapshot / LAYER, 5000)
    monkeypatch.setattr(hub, "free_bytes", lambda folder: 1000)
    with pytest.raises(CheckpointError, match=r"needs [\d,]+ bytes more, and the disk of .* has 1,000 free"):
        integrity.fetch(NAME, say=print)
    assert (snapshot / LAYER).stat().st_size == 5000
    assert online.downloads == []


def test_a_blob_outside_the_cache_is_not_removed(snapshot, online, tmp_path):
    blob = (snapshot / LAYER).resolve()
    outside = tmp_path / "elsewhere.safetensors"
    shutil.move(blob, outside)
    blob.symlink_to(outside)
    flip(outside)
    with pytest.raises(CheckpointError, match="outside the cache"):
        integrity.fetch(NAME, say=print)
    assert outside.is_file()


def test_the_hubs_other_folders_are_no_part_of_a_model():
    assert [name for name in ("config.json", "original/model.safetensors", "README.md") if hub.is_ours(name)] == [
        "config.json"
    ]


def test_the_command_reads_where_the_hub_and_the_cache_are_from_its_environment(online, tmp_path, home):
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": online.url, "HF_HUB_CACHE": str(tmp_path / "hub")}
    command = [sys.executable, "-c", "from cli.main import main; main()", "model", "fetch", NAME, "--json"]
    fetched = subprocess.run(command, env=environment, cwd=SOURCE, capture_output=True, text=True)
    assert fetched.returncode == 0, fetched.stderr
    report = json.loads(fetched.stdout)
    assert (report["whole"], report["revision"]) == (True, COMMIT)
    assert Path(report["folder"]).is_relative_to(tmp_path / "hub")
    assert "bytes to download, 0 are there" in fetched.stderr

"""Starting from the weights of another run: by content, as data, and only where they fit."""

import json
import os
import re
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from segsweep import __main__, config, initial
from segsweep.arguments import as_folders
from segsweep.check import mistakes
from segsweep.files import write_hashed
from segsweep.report.comparability import differences
from segsweep.report.records import find_records
from segsweep.report.runs import compare
from segsweep.run import ConfigError, read_record
from tests.conftest import TINY

NARROW = "model.widths=[4,8]"


def init(folder):
    return f'init_from="{folder}"'


@pytest.fixture
def found(composer):
    """``found(*overrides)`` -> the mistakes of a config."""
    return lambda *overrides: mistakes(composer(*TINY, *overrides), {"model": "unet"})


def changed(folder, **facts):
    """Changes the record of a copied run."""
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, **facts}))


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "elsewhere")


def test_a_run_begins_with_the_best_weights(finished, start):
    folder = start("run", NARROW, init(finished), "optimizer.lr=0.0", "optimizer.weight_decay=0.0", "seed=3")
    theirs, own = (load_file(run / "checkpoints" / "best.safetensors") for run in (finished, folder))
    for name, value in theirs.items():  # the statistics of batch normalisation go on
        assert torch.equal(own[name], value) or "running" in name or "num_batches" in name
    record = read_record(folder)
    digest = (finished / "checkpoints" / "best.safetensors.sha256").read_text()
    assert record["init_from"] == {"run": "model=unet,seed=0", "weights_sha256": digest}
    assert record["config"]["init_from"] == f"model=unet,seed=0 ({digest[:12]})"


def test_no_path_of_it_is_written(finished, start, composer):
    folder = start("run", NARROW, init(finished))
    for file in (file for file in folder.rglob("*") if file.is_file()):
        assert str(finished.parent).encode() not in file.read_bytes(), file
    assert yaml.safe_load((folder / "config.yaml").read_text())["init_from"] == "<path>/model=unet,seed=0"


def test_a_start_is_known_by_its_weights_and_not_by_its_place(finished, copied, composer):
    prints = {config.fingerprint(config.settle(composer(*TINY, NARROW, init(folder)))) for folder in (finished, copied)}
    assert len(prints) == 1
    assert config.fingerprint(config.settle(composer(*TINY, NARROW))) not in prints
    weights = (copied / "checkpoints" / "best.safetensors").read_bytes()
    write_hashed(copied / "checkpoints" / "best.safetensors", weights + b" ")
    assert config.fingerprint(config.settle(composer(*TINY, NARROW, init(copied)))) not in prints


def test_without_it_a_run_is_who_it_was_before_there_was_the_key(composer):
    plain = config.settle(composer(*TINY))
    assert "init_from" not in config.semantic_part(plain)
    del plain["init_from"]
    assert config.fingerprint(plain) == config.fingerprint(config.settle(composer(*TINY)))


def test_other_weights_do_not_continue_a_run(copied, start):
    start("run", NARROW, init(copied), "trainer.max_epochs=1")
    weights = (copied / "checkpoints" / "best.safetensors").read_bytes()
    write_hashed(copied / "checkpoints" / "best.safetensors", weights + b" ")
    with pytest.raises(ConfigError, match="init_from"):
        start("run", NARROW, init(copied), "trainer.max_epochs=1")


@pytest.mark.slow
def test_runs_that_start_from_the_run_of_their_own_seed_are_one_configuration(finished, tmp_path, start):
    other = shutil.copytree(finished, tmp_path / "model=unet,seed=1")
    changed(other, seed=1)
    write_hashed(other / "checkpoints" / "best.safetensors", (other / "checkpoints" / "best.safetensors").read_bytes())
    pair = finished.parent / "model=unet,seed=${seed}", tmp_path / "model=unet,seed=${seed}"
    short = [NARROW, "trainer.max_epochs=1"]
    folders = [start(f"run{seed}", *short, init(place), f"seed={seed}") for seed, place in enumerate(pair)]
    crossed = start("crossed", *short, init(finished), "seed=1")
    (comparison,) = compare(find_records([*folders, crossed]))
    assert sorted(len(row.runs) for row in comparison.configurations) == [1, 2]
    pretrained = [one.text for one in differences(comparison) if one.what == "pretrained weights"]
    assert len(pretrained) == 1
    assert "model=unet,seed=* (" in pretrained[0]


def test_another_number_of_classes_leaves_the_classifier_at_random(finished, composer, caplog):
    names = "[" + ",".join("abcde") + "]"
    data = {"class_names": list("abcde"), "num_classes": 5}
    plain = config.settle(composer(*TINY, NARROW))
    plain["data"] |= data
    plain["model"]["num_classes"] = 5
    plain["init_from"] = initial.look_at(str(finished))
    fresh = config.build_model({**plain, "init_from": None}).state_dict()
    with caplog.at_level("INFO"):
        model = config.build_model(plain).state_dict()
    theirs = load_file(finished / "checkpoints" / "best.safetensors")
    assert [name for name in model if not torch.equal(model[name], theirs[name])] == ["head.weight", "head.bias"]
    assert torch.equal(model["head.weight"], fresh["head.weight"])
    assert "left at random, because the number of classes differs: head.weight, head.bias" in caplog.text
    assert names


def test_another_architecture_is_refused_by_the_names_and_shapes_of_tensors(finished, found):
    (line,) = found(init(finished), "model.widths=[4,8,16]")
    assert "merges.0.0.weight is [4, 12, 3, 3] there and [8, 24, 3, 3] here" in line
    assert re.search(r"and \d+ more", line)
    (line,) = found(init(finished), "model=fcn", "model.widths=[4,8]", "model.num_scores=1")
    assert "merges.0.0.weight [4, 12, 3, 3] is not in this model" in line or "scores.0.weight" in line


def outside(file):
    file.symlink_to(shutil.move(file, file.parents[2] / "outside"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "there is no such folder"),
        (lambda folder: (folder / "record.json").unlink(), "no run, it has no record.json"),
        (lambda folder: (folder / "record.json").write_text("{"), "record.json is no JSON"),
        (lambda folder: (folder / "record.json").write_text('{"seed": ' + "1" * 5000 + "}"), "a number of 5000 digits"),
        (lambda folder: (folder / "record.json").write_text('{"a":' * 50 + "1" + "}" * 50), "does not hold what a run"),
        (lambda folder: changed(folder, config=[1]), "does not hold what a run writes there"),
        (lambda folder: (folder / "record.json").write_text("[]"), "does not hold what a run writes there"),
        (lambda folder: changed(folder, status="running"), "the run is 'running'. Complete it first"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "checkpoints/best.safetensors.sha256 does not exist"),
        (lambda folder: (folder / "checkpoints" / "best.safetensors").unlink(), "without its SHA-256"),
        (lambda folder: (folder / "checkpoints" / "best.safetensors").write_bytes(b"x" * 20), "is no safetensors file"),
        (lambda folder: os.truncate(folder / "checkpoints" / "best.safetensors", 1 << 40), "more or fewer bytes"),
        (lambda folder: outside(folder / "checkpoints" / "best.safetensors"), "is a link that leads out of its folder"),
    ],
)
def test_what_is_no_completed_run_is_refused_in_a_line(copied, found, spoil, said):
    spoil(copied)
    (line,) = found(NARROW, init(copied))
    assert line.startswith(f"init_from={copied}: ")
    assert said in line


def test_a_sweep_is_no_run(finished, found):
    (line,) = found(NARROW, init(finished.parent))
    assert "Give one of the runs in it" in line


@pytest.mark.parametrize("value", ["3", "[a]", '""'])
def test_what_is_no_folder_is_refused(found, value):
    (line,) = found(NARROW, f"init_from={value}")
    assert "names no folder" in line


def test_weights_that_change_between_check_and_start_are_not_used(copied, composer):
    plain = config.settle(composer(*TINY, NARROW, init(copied)))
    weights = (copied / "checkpoints" / "best.safetensors").read_bytes()
    (copied / "checkpoints" / "best.safetensors").write_bytes(weights[:-4] + b"evil")
    with pytest.raises(ValueError, match="damaged"):
        config.build_model(plain)
    write_hashed(copied / "checkpoints" / "best.safetensors", weights[:-4] + b"evil")
    with pytest.raises(ValueError, match="have just changed"):
        config.build_model(plain)


def test_a_folder_is_typed_as_it_is_called(finished, monkeypatch, capsys, in_process):
    typed = f"init_from={finished}"
    for others in (["seed=0"], ["-m", "init_from=nowhere"], ["init_from=", "init_from=null", "x"], [init(finished)]):
        assert as_folders(others) == others
    assert as_folders([typed]) == [init(finished)]
    each = f"{finished.parent}/model=unet,seed=${{seed}}"
    assert as_folders([f"init_from={each}"]) == [init(each)]
    monkeypatch.setattr(sys, "argv", ["segsweep", *TINY, NARROW, typed, "name=x", "sweep.dry_run=true"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 0
    assert "1 job: 1 new" in capsys.readouterr().out


def test_jobs_are_named_by_the_run_and_not_by_its_place():
    assert initial.nameable(init("/data/runs/model=unet,seed=0")) == "init_from=model=unet,seed=0"
    assert initial.nameable("init_from=null") == "init_from=null"
    assert initial.told("a", 0) == "a"
    assert initial.facts("a") is None
    assert SimpleNamespace(told=initial.told(None, 0)).told is None

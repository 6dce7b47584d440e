"""Runs that are trials of a search: what they report, and how they end when they are given up."""

import json

import pytest

from segsweep import journal
from segsweep.pruning import pruning
from segsweep.run import read_record
from segsweep.study import open_study
from segsweep.train import train
from tests.conftest import ORIGIN, TINY

NEVER = {"_target_": "optuna.pruners.ThresholdPruner", "lower": 0.0}
AT_ONCE = {"_target_": "optuna.pruners.ThresholdPruner", "lower": 1.0, "n_warmup_steps": 1}


@pytest.fixture
def trial(composer, tmp_path):
    """``trial(pruner, *overrides)`` trains the first trial of a search and returns its folder."""
    folder = tmp_path / "trial=0"
    folder.mkdir()

    def run(pruner, *overrides):
        if not (tmp_path / journal.FILE).exists():
            study = open_study(tmp_path / journal.FILE, directions=["maximize"])
            study.set_user_attr(journal.ABOUT, {"objectives": ["val/miou"], "pruner": pruner, "n_trials": 7})
            study.ask()
        train(composer(*TINY, "model=conv_autoencoder", "sweep.trial=0", *overrides), folder, ORIGIN)
        return folder

    return run


def reported(folder):
    """What the journal says of the trial, and how often something was written there."""
    file = folder.parent / journal.FILE
    writes = [entry for entry in journal.Journal(file).read_logs(0) if entry["op_code"] == 7]
    return open_study(file).get_trials()[0].intermediate_values, len(writes)


def test_a_hopeless_run_ends_as_pruned(trial):
    folder = trial(AT_ONCE, "trainer.max_epochs=4")
    record = read_record(folder)
    assert record["status"] == "pruned"
    assert record["error"] is None
    assert record["epochs"] == 1
    assert (record["trial"], record["tuning_trials"]) == (0, 7)
    assert record["metrics"]["val/miou"] == record["metrics_last"]["val/miou"] is not None
    assert not any(name.startswith("test/") for name in record["metrics"])
    assert not (folder / "test_confusion.npz").exists()
    steps, num_writes = reported(folder)
    assert steps == pytest.approx({1: record["metrics"]["val/miou"]}, abs=1e-6)
    before = (folder / "record.json").read_bytes()
    trial(AT_ONCE, "trainer.max_epochs=4")
    assert (folder / "record.json").read_bytes() == before
    assert num_writes == 1


@pytest.mark.slow
def test_a_continued_run_reports_each_epoch_once(trial, interrupted):
    with interrupted(before_epoch=2):
        trial(NEVER, "trainer.max_epochs=3")
    folder = trial(NEVER, "trainer.max_epochs=3")
    assert read_record(folder)["status"] == "completed"
    steps, num_writes = reported(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == pytest.approx({line["epoch"] + 1: line["val/miou"] for line in lines}, abs=1e-6)
    assert len(steps) == num_writes == 3


def test_a_run_that_is_over_anyway_is_completed(trial):
    assert read_record(trial(AT_ONCE, "trainer.max_epochs=1"))["status"] == "completed"


def test_a_trial_without_its_search_is_an_ordinary_run(tmp_path):
    assert pruning(tmp_path / "run", 3) == []
    assert pruning(tmp_path / "run", None) == []

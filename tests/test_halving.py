"""Successive halving: rungs and promotion, searches that pause their trials, and runs that go on as if they had not."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from hydra import initialize_config_dir

from segsweep import CONF_DIR, journal
from segsweep.checkpoints import HashedCheckpointIO, newest_whole
from segsweep.halving import UNTIL, SuccessiveHalving, has_reached
from segsweep.run import ConfigError, read_record
from segsweep.search.batches import Batches
from segsweep.search.paused import StudyWithPaused
from segsweep.search.trials import summary
from segsweep.study import open_study
from segsweep.sweep import Job, Outcome
from segsweep.sweep.pool import Event
from segsweep.sweep.progress import Progress
from segsweep.train import train
from tests.conftest import ORIGIN, TINY
from tests.searches import Workers, params, plan_of, run, states, statuses


@pytest.mark.parametrize(
    ("eta", "first", "epochs", "rungs"),
    [
        (2, 1, 8, [1, 2, 4]),
        (3, 1, 8, [1, 3]),
        (4, 1, 8, [2]),
        (2, 3, 8, [4]),
        (3, 1, 100, [1, 4, 11, 33]),
        (2, 1, 1, []),
        (2, 8, 8, []),
        (9, 1, 2, []),
    ],
)
def test_rungs_are_shares_of_a_run(eta, first, epochs, rungs):
    halving = SuccessiveHalving(eta, first)
    assert halving.rungs(epochs) == rungs
    assert [halving.until(done, epochs) for done in (0, *rungs)] == [*rungs, epochs]


def test_the_best_share_of_a_rung_goes_on():
    halving = SuccessiveHalving(3)
    scores = {run: {1: score} for run, score in enumerate([0.5, 0.2, 0.4, 0.1, 0.3])}
    assert halving.promoted({0: {1: 0.5}, 1: {1: 0.2}}, {0, 1}, 8) is None  # a third of two is none
    assert halving.promoted(scores, set(scores), 8) == 0
    assert halving.promoted(scores, {1, 2, 3, 4}, 8) is None  # the best is running already
    assert halving.promoted(scores | {5: {1: 0.0}}, {1, 2, 3, 4, 5}, 8) == 2


def test_the_highest_rung_goes_first():
    halving = SuccessiveHalving(2)
    scores = {0: {1: 0.9}, 1: {1: 0.8}, 2: {1: 0.5, 2: 0.6}, 3: {1: 0.4, 2: 0.7}}
    assert halving.promoted(scores, set(scores), 8) == 3
    assert halving.promoted(scores, {0, 1, 2}, 8) == 0


def test_scores_of_other_kinds():
    halving = SuccessiveHalving(2)
    assert halving.promoted({0: {1: float("nan")}, 1: {1: -3.0}}, {0, 1}, 8) == 1
    assert halving.promoted({0: {1: 0.5}, 1: {1: 0.5}}, {0, 1}, 8) == 0  # the earlier one of two equals
    # What counts is the best so far, which is what a run is judged by in the end.
    assert halving.promoted({0: {1: 0.5, 2: 0.1}, 1: {1: 0.4, 2: 0.4}}, {0, 1}, 8) == 0
    # Without a validation at the rung the next one counts for it.
    assert halving.promoted({0: {3: 0.5}, 1: {3: 0.6}}, {0, 1}, 8) == 1
    assert [has_reached(2, {3: 0.5}), has_reached(4, {3: 0.5}), has_reached(1, {}), has_reached(None, {1: 0})] == [
        True, False, False, False]  # fmt: skip


def test_in_the_end_one_goes_on_however_few_there_are():
    halving = SuccessiveHalving(3)
    scores = {0: {1: 0.5, 3: 0.5}, 1: {1: 0.6}}
    assert halving.promoted(scores, {0, 1}, 8) is None
    assert halving.last_promoted(scores, {0, 1}, 8) == 0
    assert halving.last_promoted(scores, {1}, 8) is None
    assert halving.last_promoted({}, set(), 8) is None


@pytest.fixture
def _hydra():
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield


def trials_of(folder):
    return open_study(folder / journal.FILE).get_trials()


@pytest.mark.parametrize(
    ("at_once", "breadth_first"),
    [(3, False), *(pytest.param(*how, marks=pytest.mark.slow) for how in ((1, False), (1, True), (3, True)))],
)
@pytest.mark.usefixtures("_hydra")
def test_a_search_pauses_and_promotes(tmp_path, at_once, breadth_first):
    workers, how = Workers(at_once), {"pruner": "asha", "arguments": {"breadth_first": breadth_first}, "n_trials": 16}
    run(tmp_path, workers=workers, **how)
    trials = trials_of(tmp_path)
    completed = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert len(trials) == 16
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    assert list(statuses(tmp_path).values()).count("completed") == len(completed)
    assert list(statuses(tmp_path).values()).count("pruned") == 16 - len(completed)
    assert max(trial.value for trial in completed) == max(trial.intermediate_values[1] for trial in trials) * 8
    assert workers.epochs == sum(max(trial.intermediate_values) for trial in trials)
    if at_once == 1:
        assert ([job.index for job in workers.ran[:16]] == list(range(16))) == breadth_first
    if (at_once, breadth_first) == (1, True):
        assert workers.epochs == 16 * 1 + 8 * 1 + 4 * 2 + 2 * 4
    assert run(tmp_path, **how)[1].ran == []


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.usefixtures("_hydra")
def test_one_of_few_trials_is_completed(tmp_path, number):
    run(tmp_path, pruner="asha", arguments={"reduction_factor": 3}, n_trials=number)
    assert sorted(states(tmp_path)) == ["COMPLETE"] + ["PRUNED"] * (number - 1)


class Killed(Workers):
    """Dies when a run has ended for the n-th time, before anybody hears of it."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def outcome(self):
        outcome = super().outcome()
        if len(self.ran) == self.last:
            raise SystemExit
        return outcome


@pytest.mark.parametrize("sampler", ["random", pytest.param("tpe", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("_hydra")
def test_a_search_that_dies_anywhere_ends_as_if_it_had_not(tmp_path, sampler):
    how = {"pruner": "asha", "n_trials": 8, "sampler": sampler}
    if sampler == "tpe":
        how |= {"n_trials": 13, "arguments": {"breadth_first": False}}
    _, whole = run(tmp_path / "whole", **how)
    folder = tmp_path / "parts"
    epochs = 0
    for _ in range(40):
        workers = Killed(2)
        try:
            run(folder, workers=workers, **how)
            break
        except SystemExit:
            assert "COMPLETE" in states(folder) or set(states(folder)) == {"RUNNING"}
        finally:
            epochs += workers.epochs
    assert states(folder) == states(tmp_path / "whole")
    assert params(folder) == params(tmp_path / "whole")
    assert statuses(folder) == statuses(tmp_path / "whole")
    assert epochs == whole.epochs  # no epoch is trained twice


@pytest.mark.usefixtures("_hydra")
def test_a_paused_trial_whose_record_was_never_written_says_so_first(tmp_path):
    how = {"pruner": "asha", "n_trials": 4}
    with pytest.raises(SystemExit):
        run(tmp_path, workers=Killed(3), **how)
    file = next(tmp_path.glob("trial=1,*/record.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "running"}))
    _, workers = run(tmp_path, **how)
    assert [job.index for job in workers.ran[:2]] == [1, 3]
    assert workers.epochs == 1 + 2 * 1 + 2 + 4
    assert sorted(states(tmp_path)) == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]


@pytest.mark.slow
@pytest.mark.usefixtures("_hydra")
def test_a_search_that_has_lost_its_journal_in_part_goes_on(tmp_path):
    how = {"pruner": "asha", "n_trials": 4}
    run(tmp_path / "whole", **how)
    lines = (tmp_path / "whole" / journal.FILE).read_text().splitlines(keepends=True)
    for end in range(8, len(lines), 5):
        folder = tmp_path / str(end)
        shutil.copytree(tmp_path / "whole", folder)
        (folder / journal.FILE).write_text("".join(lines[:end]))
        run(folder, **how)
        assert states(folder) == states(tmp_path / "whole")


@pytest.mark.usefixtures("_hydra")
def test_a_failure_and_an_interruption_are_no_pause(tmp_path):
    how = {"pruner": "asha", "n_trials": 6}
    results = {0: "failed", 2: "interrupted", 3: float("nan")}
    trials, _ = run(tmp_path, workers=Workers(results=results), **how)
    assert states(tmp_path)[0] == "FAIL"
    assert states(tmp_path)[2] == "RUNNING"
    assert "COMPLETE" in states(tmp_path)
    assert trials.num_failures == 0
    run(tmp_path, workers=Workers(results={3: float("nan")}), **how)
    assert set(states(tmp_path)[1:]) == {"COMPLETE", "PRUNED"}


@pytest.mark.usefixtures("_hydra")
def test_failures_in_a_row_leave_paused_trials_to_the_next_command(tmp_path):
    how = {"pruner": "asha", "n_trials": 6, "max_consecutive_failures": 2}
    trials, _ = run(tmp_path, workers=Workers(results={2: "failed", 3: "failed"}), **how)
    assert states(tmp_path) == ["RUNNING", "RUNNING", "FAIL", "FAIL"]
    assert set(statuses(tmp_path).values()) == {"paused"}
    assert summary(trials.study) == "4 trials: 0 completed, 0 pruned, 2 failed, 2 paused"
    run(tmp_path, **how)
    assert sorted(states(tmp_path)) == ["COMPLETE", "FAIL", "FAIL", "PRUNED", "PRUNED", "PRUNED"]


@pytest.mark.usefixtures("_hydra")
def test_the_same_point_waits_for_the_paused_one(tmp_path):
    _, workers = run(tmp_path, "data.batch_size=4,8", pruner="asha", n_trials=9, sampler="random")
    assert len({job.index for job in workers.ran}) == 2
    assert set(states(tmp_path)) == {"COMPLETE", "PRUNED"}
    by_size = {(trial.params["data.batch_size"], trial.state.name) for trial in trials_of(tmp_path)}
    assert len(by_size) == 2


@pytest.mark.usefixtures("_hydra")
def test_samplers_learn_from_paused_trials(tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, workers=Killed(4), pruner="asha", n_trials=6)
    study = open_study(tmp_path / journal.FILE)
    shown = StudyWithPaused(study.study_name, study._storage)
    assert [trial.state.name for trial in shown.get_trials()] == ["RUNNING"] * 4
    states = type(shown.trials[0].state)
    assert len(shown._get_trials(states=(states.COMPLETE, states.PRUNED))) == 4
    assert len(shown._get_trials(states=(states.COMPLETE, states.RUNNING))) == 4


@pytest.mark.usefixtures("_hydra")
def test_batches_pause_and_promote(tmp_path):
    played = Workers(at_once=99)
    jobs = {}

    class Collecting(Batches):
        def submit(self, job):
            jobs[job.index] = job
            super().submit(job)

    class Launcher:
        def launch(self, overrides, first):
            for row in overrides:
                number = next(int(text.partition("=")[2]) for text in row if text.startswith("sweep.trial="))
                played.submit(jobs[number])
                played.outcome()

    run(tmp_path, workers=Collecting(Launcher(), 2), pruner="asha", n_trials=8)
    assert set(states(tmp_path)) == {"COMPLETE", "PRUNED"}
    assert played.epochs < 0.5 * 8 * 8


@pytest.mark.usefixtures("_hydra")
def test_runs_that_are_over_before_the_first_selection_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="end before the first selection"):
        plan_of(tmp_path, pruner="asha", arguments={"min_epochs": 8})


def test_progress_counts_those_that_are_paused_now(tmp_path):
    job = Job(0, tmp_path / "a", (), {}, {}, "f", "k")
    progress = Progress(2)
    progress(Event("started", job))
    progress(Event("ended", job, Outcome(job, "paused"), 1.0))
    assert progress.summary() == "0/2 done, 1 paused"
    progress(Event("started", job))
    assert progress.summary() == "0/2 done, 1 running"
    progress(Event("ended", job, Outcome(job, "completed"), 1.0))
    assert progress.summary() == "1/2 done"


@pytest.fixture
def trial(composer, tmp_path):
    """``trial(until)`` trains the first trial of a search to a rung and returns its folder."""
    folder = tmp_path / "trial=0"
    folder.mkdir()
    node = {"_target_": "segsweep.halving.SuccessiveHalving", "reduction_factor": 2}

    def go(until, *overrides):
        file = tmp_path / journal.FILE
        study = open_study(file, directions=["maximize"])
        if not study.user_attrs:
            study.set_user_attr(journal.ABOUT, {"objectives": ["val/miou"], "pruner": node, "n_trials": 7})
            study.ask()
        study._storage.set_trial_user_attr(study.trials[0]._trial_id, UNTIL, until)
        train(
            composer(*TINY, "model=conv_autoencoder", "sweep.trial=0", "trainer.max_epochs=3", *overrides),
            folder,
            ORIGIN,
        )
        return folder

    return go


def digest(folder):
    """SHA-256 of all tensors that a run ends with."""
    state = HashedCheckpointIO().load_checkpoint(newest_whole(folder / "checkpoints"))["state_dict"]
    return hashlib.sha256(b"".join(state[key].numpy().tobytes() for key in sorted(state))).hexdigest()


def steps_of(folder):
    return list(open_study(folder.parent / journal.FILE).get_trials()[0].intermediate_values)


@pytest.mark.slow
def test_a_run_pauses_and_ends_with_the_weights_of_one_that_never_did(trial, composer, tmp_path):
    folder = trial(1)
    record = read_record(folder)
    assert (record["status"], record["epochs"], record["error"]) == ("paused", 1, None)
    assert not any(name.startswith("test/") for name in record["metrics"])
    assert newest_whole(folder / "checkpoints").name == "last-0.ckpt"
    assert steps_of(folder) == [1]
    trial(1)  # as after a kill between the score and the record: nothing is trained
    assert (read_record(folder)["status"], read_record(folder)["epochs"], steps_of(folder)) == ("paused", 1, [1])
    trial(2)
    assert (read_record(folder)["status"], steps_of(folder)) == ("paused", [1, 2])
    trial(3)
    record = read_record(folder)
    assert (record["status"], record["epochs"], steps_of(folder)) == ("completed", 3, [1, 2, 3])
    whole = tmp_path / "whole"
    whole.mkdir()
    train(composer(*TINY, "model=conv_autoencoder", "trainer.max_epochs=3"), whole, ORIGIN)
    assert digest(folder) == digest(whole)
    assert record["metrics"] == read_record(whole)["metrics"] | {
        name: value for name, value in record["metrics"].items() if "images_per_s" in name
    }


@pytest.mark.slow
def test_a_score_that_a_kill_kept_back_is_reported(trial, monkeypatch):
    from segsweep.pruning import Pruning

    with monkeypatch.context() as patch:

        def die(*_):
            raise KeyboardInterrupt

        patch.setattr(Pruning, "on_train_epoch_end", die)
        with pytest.raises(SystemExit):
            trial(1)
    folder = trial(1)
    assert (read_record(folder)["status"], read_record(folder)["epochs"], steps_of(folder)) == ("paused", 1, [1])


@pytest.mark.slow
def test_a_search_of_real_runs_promotes_them_to_the_weights_of_uninterrupted_ones(tmp_path):
    base = [*TINY, "trainer.max_epochs=4", "model=conv_autoencoder"]
    folder = tmp_path / "search"
    search = [
        *(sys.executable, "-m", "segsweep", "-m", *base, "optimizer.lr=1e-5,1e-4,1e-3,1e-2", "name=search"),
        *("hydra/sweeper=optuna", "hydra/sweeper/pruner=asha", "hydra/sweeper/sampler=grid", "sweep.jobs=1"),
        *("hydra.sweeper.n_trials=null", f"hydra.sweep.dir={folder}"),
    ]
    said = subprocess.run(search, check=True, capture_output=True, text=True)
    assert sorted(states(folder)) == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    assert sorted(statuses(folder).values()) == ["completed", "pruned", "pruned", "pruned"]
    assert "job 1/4 paused after" in said.stdout + said.stderr
    ledger = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [line["status"] for line in ledger].count("paused") == 4 + 2
    assert not (folder / "failed.csv").exists()
    best = next(trial for trial in trials_of(folder) if trial.state.name == "COMPLETE")
    alone = tmp_path / "alone"
    rate = f"optimizer.lr={best.params['optimizer.lr']}"
    threads = read_record(folder / best.user_attrs["run"]["folder"])["threads"]
    single = [sys.executable, "-m", "segsweep", *base, rate, f"hydra.run.dir={alone}"]
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))}
    subprocess.run(single, check=True, capture_output=True, env=environment)
    assert digest(folder / best.user_attrs["run"]["folder"]) == digest(alone)

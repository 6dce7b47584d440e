"""Searches: the space, the journal, and what survives failures, kills and damage. Training is played."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from segsweep import CONF_DIR, journal
from segsweep.composer import Composer
from segsweep.inspection import inspect_jobs
from segsweep.report.search import search
from segsweep.run import ConfigError, lock
from segsweep.search.batches import Batches
from segsweep.search.failed import failures
from segsweep.search.plan import describe
from segsweep.search.settings import check_settings
from segsweep.search.space import space_of
from segsweep.search.sweeper import end
from segsweep.study import make_pruner, open_study
from segsweep.sweep.failures import write_failures
from tests.conftest import TINY, options
from tests.searches import SPACE, Workers, params, plan_of, run, settings, states, statuses


@pytest.fixture(autouse=True)
def _hydra():
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield


def dimension(text):
    (found,) = space_of([text], OverridesParser.create().parse_override).dimensions
    return found


def refusal(*overrides, **changes):
    with pytest.raises(ConfigError) as error:
        space_of(overrides, OverridesParser.create().parse_override)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "described", "number"),
    [
        ("optimizer.lr=interval(1e-4,1e-1)", "float        0.0001 to 0.1", None),
        ("optimizer.lr=tag(log,interval(1e-4,1e-1))", "float        0.0001 to 0.1, log", None),
        ("data.batch_size=int(interval(4,16))", "int          4 to 16", 13),
        ("data.batch_size=tag(log,int(interval(4,16)))", "int          4 to 16, log", 13),
        ("data.batch_size=range(4,17,4)", "int          4 to 16 in steps of 4", 4),
        ("optimizer.lr=range(0.1,0.5,0.1)", "float        0.1 to 0.4 in steps of 0.1", 4),
        ("model=unet,reseg", "categorical  unet, reseg", 2),
        ("model.widths=choice([4,8],[8,16])", "categorical  [4,8], [8,16]", 2),
        ("seed=range(3)", "int          0 to 2", 3),
        ("optimizer.lr=1e-3,null", "categorical  0.001, null", 2),
    ],
)
def test_a_space_is_written_in_the_grammar_of_hydra(text, described, number):
    found = dimension(text)
    assert str(found) == described
    values = found.values()
    assert (None if values is None else len(values)) == number
    assert all(found.distribution()._contains(found.distribution().to_internal_repr(v)) for v in values or found.ends())


def test_what_is_no_range_is_refused():
    assert "begin above 0" in refusal("optimizer.lr=tag(log,interval(0,1))")
    assert "smaller than the second" in refusal("optimizer.lr=interval(1,1)")
    assert "steps and tag(log" in refusal("data.batch_size=tag(log,range(2,9,2))")
    assert "nothing to search" in refusal("optimizer.lr=0.1")
    assert len(refusal("a=interval(1,1)", "b=interval(2,1)").splitlines()) == 2


def test_options_are_matched_by_a_pattern():
    found = space_of(["model=glob(unet*)"], Composer().parse).dimensions
    assert [one.choices for one in found] == [("unet", "unetplusplus")]
    with pytest.raises(ConfigError, match="no option is called like that"):
        space_of(["model=glob(zz*)"], Composer().parse)


def test_a_later_override_replaces_an_earlier_one():
    with pytest.raises(ConfigError, match="nothing to search"):
        space_of(["seed=0,1", "seed=3"], OverridesParser.create().parse_override)


def test_all_trials_run_and_the_best_is_found(tmp_path):
    trials, workers = run(tmp_path, n_trials=8)
    assert states(tmp_path) == ["COMPLETE"] * 8
    assert len(workers.ran) == 8
    assert trials.study.best_value == max(trial.value for trial in trials.study.get_trials())
    job = workers.ran[3]
    assert job.name.startswith("trial=3,optimizer.lr=0.0")
    assert job.config["sweep"]["trial"] == 3
    assert "sweep.trial=3" in job.overrides


def test_a_finished_search_does_nothing_and_more_trials_continue_it(tmp_path):
    run(tmp_path, n_trials=3)
    before = params(tmp_path)
    assert run(tmp_path, n_trials=3)[1].ran == []
    assert [job.index for job in run(tmp_path, n_trials=5)[1].ran] == [3, 4]
    assert params(tmp_path)[:3] == before
    assert journal.about(tmp_path / journal.FILE)["n_trials"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_search_in_two_parts_asks_what_it_would_have_asked_in_one(tmp_path, sampler):
    run(tmp_path / "whole", n_trials=13, sampler=sampler)
    run(tmp_path / "parts", n_trials=11, sampler=sampler)
    run(tmp_path / "parts", n_trials=13, sampler=sampler)
    assert params(tmp_path / "parts") == params(tmp_path / "whole")
    assert len({str(point) for point in params(tmp_path / "whole")}) == 13


@pytest.mark.parametrize("option", [o for o in options("hydra/sweeper/sampler") if o not in ("grid", "gp", "cmaes")])
def test_samplers_fill_several_places_at_once(tmp_path, option):
    _, workers = run(tmp_path, workers=Workers(at_once=3), n_trials=7, sampler=option)
    assert workers.most == 3
    assert states(tmp_path) == ["COMPLETE"] * 7


@pytest.mark.slow
def test_a_gaussian_process_searches(tmp_path):
    run(tmp_path, n_trials=12, sampler="gp")
    assert states(tmp_path) == ["COMPLETE"] * 12


def test_cma_es_searches(tmp_path):
    pytest.importorskip("cmaes")
    run(tmp_path, n_trials=8, sampler="cmaes")
    assert states(tmp_path) == ["COMPLETE"] * 8


def test_a_grid_is_tried_once_each(tmp_path):
    space = ("optimizer.lr=1e-3,1e-2", "data.batch_size=range(4,6)", "model=unet,reseg")
    _, workers = run(tmp_path, *space, sampler="grid", n_trials=None)
    assert len(workers.ran) == len({job.fingerprint for job in workers.ran}) == 8


def test_a_key_that_only_some_models_have_is_asked_of_them_alone(tmp_path):
    space = ("model=unet,reseg", "model.recurrence=on,off", "optimizer.lr=interval(1e-4,1e-1)")
    _, workers = run(tmp_path, *space, n_trials=10)
    asked = params(tmp_path)
    assert {point["model"] for point in asked} == {"unet", "reseg"}
    assert all(("model.recurrence" in point) == (point["model"] == "reseg") for point in asked)
    assert "recurrence" not in str([job.overrides for job in workers.ran if job.choices["model"] == "unet"])


def test_the_same_point_is_run_once(tmp_path):
    _, workers = run(tmp_path, "data.batch_size=4,8", n_trials=9)
    assert len(workers.ran) == 2
    assert states(tmp_path) == ["COMPLETE"] * 9
    trials = open_study(tmp_path / journal.FILE).get_trials()
    assert len({(trial.params["data.batch_size"], trial.value) for trial in trials}) == 2
    assert sum("same_as" in trial.user_attrs for trial in trials) == 7


def test_the_same_point_at_the_same_time_is_run_once(tmp_path):
    _, workers = run(tmp_path, "data.batch_size=4,8", workers=Workers(at_once=4), n_trials=9, sampler="random")
    assert len(workers.ran) == 2
    assert states(tmp_path) == ["COMPLETE"] * 9


@pytest.mark.parametrize("result", ["failed", float("nan"), None])
def test_a_failed_trial_is_a_failed_trial_and_no_more(tmp_path, result):
    trials, _ = run(tmp_path, workers=Workers(results={1: result}), n_trials=5)
    assert states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials.study.get_trials()[1].user_attrs["error"]["class"] == ("oom" if result == "failed" else "nan")
    assert run(tmp_path, n_trials=5)[1].ran == []  # it counts once


def test_failures_in_a_row_end_a_search(tmp_path):
    workers = Workers(results=dict.fromkeys((1, 3, 4, 5), "failed"))
    trials, _ = run(tmp_path, workers=workers, n_trials=10, max_consecutive_failures=3)
    assert trials.has_given_up
    assert len(workers.ran) == 6
    assert not run(tmp_path, n_trials=10)[0].has_given_up


def test_a_search_without_a_completed_trial_has_failed(tmp_path, caplog):
    for completed, given_up, code in [(True, 0, None), (False, 0, 3), (True, 3, 3)]:
        caplog.clear()
        with pytest.raises(SystemExit) if code else contextlib.nullcontext() as info:
            end(tmp_path, 2, completed, given_up)
        assert code is None or info.value.code == code
        assert "2 trials failed, listed in" in caplog.records[-1].message
        assert f"{tmp_path.name}/failed.csv" in caplog.records[-1].message
    assert end(tmp_path, 0, True, 0) is None
    with pytest.raises(SystemExit):
        end(tmp_path, 0, False, 0)  # all of them pruned


def test_every_failed_trial_is_listed_those_of_earlier_commands_too(tmp_path):
    run(tmp_path, workers=Workers(results={1: "failed", 2: float("nan")}), n_trials=4)
    trials, _ = run(tmp_path, n_trials=5)
    found = failures(trials)
    assert [(one.job.index, one.error["class"]) for one in found] == [(1, "oom"), (2, "nan")]
    write_failures(tmp_path, found)
    lines = (tmp_path / "failed.csv").read_text().splitlines()
    assert len(lines) == 3
    assert f"optimizer.lr={params(tmp_path)[1]['optimizer.lr']}" in lines[1]


class Raises:
    """As the launcher of a cluster when a job was killed: the others of the batch have ended well."""

    def __init__(self, workers, killed):
        self.workers, self.killed, self.jobs = workers, killed, {}

    def launch(self, job_overrides, initial_job_idx):
        numbers = [int(text.split("=")[1]) for row in job_overrides for text in row if text.startswith("sweep.trial=")]
        for number in numbers:
            if number != self.killed:
                self.workers.submit(self.jobs[number])
                self.workers.outcome()
        if self.killed in numbers:
            raise RuntimeError("a job was killed")


def test_a_killed_job_of_another_launcher_costs_one_trial(tmp_path, caplog):
    launcher = Raises(Workers(), killed=1)
    batches = Batches(launcher, 3)
    submit = batches.submit
    batches.submit = lambda job: (launcher.jobs.update({job.index: job}), submit(job))
    run(tmp_path, workers=batches, n_trials=5)
    assert states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert "RuntimeError: a job was killed" in caplog.text


def test_an_interrupted_trial_is_continued_in_its_folder(tmp_path):
    _, first = run(tmp_path, workers=Workers(at_once=2, results={2: "interrupted", 4: "interrupted"}), n_trials=5)
    assert states(tmp_path).count("RUNNING") == 2
    _, second = run(tmp_path, n_trials=5)
    assert [job.folder for job in second.ran] == [job.folder for job in first.ran if job.index in (2, 4)]
    assert states(tmp_path) == ["COMPLETE"] * 5


def test_a_result_that_nobody_could_tell_is_found(tmp_path):
    run(tmp_path, n_trials=4)
    file = tmp_path / journal.FILE
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))  # without the state of the last trial
    assert states(tmp_path)[3] == "RUNNING"
    assert run(tmp_path, n_trials=4)[1].ran == []
    assert states(tmp_path) == ["COMPLETE"] * 4


def test_a_trial_that_died_while_it_was_asked_gets_the_rest_of_its_values(tmp_path):
    run(tmp_path, n_trials=4)
    whole, file = params(tmp_path), tmp_path / journal.FILE
    lines = file.read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if json.loads(line)["op_code"] == 5)
    file.write_text("".join(lines[:last]))
    assert len(params(tmp_path)[3]) == 1
    run(tmp_path, n_trials=4)
    assert params(tmp_path)[3].keys() == whole[3].keys()
    assert states(tmp_path) == ["COMPLETE"] * 4


@pytest.mark.parametrize("number", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_journal_that_is_cut_anywhere_is_continued(tmp_path, number):
    run(tmp_path / "whole", n_trials=4, sampler="tpe", pruner="asha")
    text = (tmp_path / "whole" / journal.FILE).read_bytes()
    num_torn = 0
    for i in range(number):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "whole", folder)
        end = len(text) * (i + 1) // (number + 1)
        (folder / journal.FILE).write_bytes(text[:end])
        num_torn += text[end - 1 : end] != b"\n" and _is_refused_by_optuna(folder / journal.FILE)
        run(folder, n_trials=4, sampler="tpe", pruner="asha")
        assert set(states(folder)) <= {"COMPLETE", "PRUNED"}
        assert len(states(folder)) == 4
        assert params(folder) == params(tmp_path / "whole")
        assert set(statuses(folder)) == set(statuses(tmp_path / "whole"))
    assert num_torn >= 0.75 * number  # without our journal


def _is_refused_by_optuna(file):
    """Whether Optuna's own backend can no longer add to a file and read it."""
    copy = file.with_suffix(".copy")
    shutil.copy(file, copy)
    try:
        storage = JournalStorage(JournalFileBackend(str(copy)))
        study = optuna.create_study(study_name=journal.ABOUT, storage=storage, load_if_exists=True)
        study.ask()
        JournalStorage(JournalFileBackend(str(copy)))
    except ValueError:
        return True
    finally:
        copy.unlink()
    return False


def test_damage_inside_a_journal_is_named(tmp_path):
    run(tmp_path, n_trials=2)
    file = tmp_path / journal.FILE
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:3], "{nonsense\n", *lines[4:]]))
    with pytest.raises(ValueError, match="line 4 is damaged"):
        open_study(file)


@pytest.mark.parametrize("entry", ["[1,2]", '{"op_code":2}', '{"op_code":8,"worker_id":"w","trial_id":0}', "3", "{}"])
def test_a_line_that_is_no_entry_of_a_journal_is_named(tmp_path, entry):
    run(tmp_path, n_trials=1)
    file = tmp_path / journal.FILE
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:3], f"{entry}\n", *lines[3:]]))
    for read in (journal.about, open_study):
        with pytest.raises(ValueError, match="line 4 is damaged"):
            read(file)


def test_another_search_in_the_same_folder_is_refused(tmp_path):
    run(tmp_path, n_trials=2)
    for overrides, changes, key in [
        ((*SPACE[:1], "data.batch_size=4,8", SPACE[2]), {}, "space.data.batch_size"),
        ((*SPACE, "model=reseg"), {}, "fixed.model"),
        (SPACE, {"sampler": "tpe"}, "sampler._target_"),
        (SPACE, {"pruner": "median"}, "pruner"),
        (SPACE, {"objectives": ["val/dice"]}, "objectives"),
        (SPACE, {"seed": 1}, "seed"),
    ]:
        with pytest.raises(ConfigError, match="holds another search") as error:
            plan_of(tmp_path, *overrides, **changes)
        assert key in str(error.value)


def test_poor_trials_are_pruned(tmp_path):
    run(tmp_path, n_trials=12, pruner="asha")
    found = states(tmp_path)
    assert found.count("PRUNED") >= 6
    assert found.count("PRUNED") + found.count("COMPLETE") == 12
    trials = open_study(tmp_path / journal.FILE).get_trials()
    epochs = sum(max(trial.intermediate_values) for trial in trials)
    assert epochs < 0.5 * 12 * 8
    assert list(statuses(tmp_path).values()).count("pruned") == found.count("PRUNED")


def test_several_objectives_have_a_front(tmp_path):
    trials, _ = run(tmp_path, n_trials=4, objectives=["val/miou", "parameters"], sampler="tpe")
    assert all(len(trial.values) == 2 for trial in trials.study.get_trials())
    assert trials.study.best_trials


def lines_of(*overrides, **changes):
    space = space_of(overrides or SPACE, OverridesParser.create().parse_override)
    return check_settings(settings(**changes), space, changes.get("objectives", ["val/miou"]), ["a", "b"]).lines


@pytest.mark.parametrize("part", ["sampler", "pruner"])
def test_every_option_is_accepted(part):
    for option in options(f"hydra/sweeper/{part}"):
        finite = ("data.batch_size=4,8",) if option == "grid" else ()
        lines = lines_of(*finite, **{part: option})
        assert [line for line in lines if "pip install cmaes" not in line] == [], option


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials=0"),
        ({"n_trial": 3}, "hydra.sweeper.n_trial: unknown key. Did you mean 'n_trials'?"),
        ({"n_trials": None}, "n_trials is not set"),
        ({"seed": "x"}, "hydra.sweeper.seed='x'"),
        ({"sampler": "grid"}, "optimizer.lr: a grid has no end of values"),
        ({"objectives": ["val/mio"]}, "there is no val/mio. Did you mean 'val/miou'?"),
        ({"objectives": ["test/miou"]}, "a search that sees the test split spoils it"),
        (
            {"objectives": ["val/miou", "parameters"], "pruner": "asha"},
            "a pruner compares by one objective, and there are 2",
        ),
        ({"objectives": ["parameters"], "pruner": "asha"}, "parameters is not known before a run is over"),
    ],
)
def test_mistakes_are_a_line_each(changes, said):
    lines = lines_of(**changes)
    assert len(lines) == 1
    assert said in lines[0]


def test_mistakes_in_a_sampler_or_a_pruner_are_a_line_each():
    tpe, asha = settings("tpe")["sampler"], settings(pruner="asha")["pruner"]
    space = space_of(SPACE, OverridesParser.create().parse_override)
    for node, said in [
        ({"sampler": {**tpe, "n_startup_trails": 3}}, "Did you mean 'n_startup_trials'"),
        ({"sampler": {**tpe, "n_startup_trials": "x"}}, "n_startup_trials='x'"),
        ({"sampler": {**tpe, "_target_": "optuna.samplers.TPE"}}, "cannot be imported"),
        ({"sampler": {"_target_": "argparse.Namespace"}}, "is no BaseSampler"),
        ({"pruner": {**asha, "reduction_factor": 1}}, "reduction_factor"),
        ({"pruner": {"_target_": "argparse.Namespace"}}, "none of optuna.pruners"),
    ]:
        lines = check_settings({**settings("tpe"), **node}, space, ["val/miou"], ["a"]).lines
        assert len(lines) == 1, lines
        assert said in lines[0]


def test_the_ends_of_a_space_are_checked_before_it_begins(tmp_path):
    with pytest.raises(ConfigError) as error:
        plan_of(tmp_path, "optimizer.lr=interval(-1,1)", "model.width=3,4", "data.batch_size=1,x", inspect=inspect_jobs)
    assert "model.width: unknown key" in str(error.value)
    with pytest.raises(ConfigError) as error:
        plan_of(tmp_path, "optimizer.lr=interval(-1,1)", "data.batch_size=0,4", inspect=inspect_jobs)
    assert "lr" in str(error.value)
    assert "batch_size" in str(error.value)


def test_a_dry_run_shows_the_space(tmp_path):
    shown = describe(plan_of(tmp_path, pruner="asha"), {"COMPLETE": 3, "RUNNING": 1})
    assert "optimizer.lr     float        0.0001 to 0.1, log" in shown
    assert "maximize val/miou" in shown
    assert (
        "pruner: SuccessiveHalving(reduction_factor=2, min_epochs=1, breadth_first=True) after 1, 2, 4 epochs" in shown
    )
    assert "20 trials of at most 8 epochs: 3 completed, 0 pruned, 0 failed, 17 left, 1 of them begun" in shown


def test_a_pruner_that_cannot_prune_says_so(tmp_path):
    shown = describe(plan_of(tmp_path, *SPACE, "trainer.max_epochs=1", pruner="asha"), {})
    assert "breadth_first=True), which ends nothing: runs of 1 epoch have no half" in shown


@pytest.mark.parametrize(("given", "fix"), [("val/miou", "[val/miou]"), (5, "[val/miou]"), ([1], "[val/miou]")])
def test_objectives_are_a_list(tmp_path, given, fix):
    with pytest.raises(ConfigError) as error:
        plan_of(tmp_path, objectives=given, inspect=inspect_jobs, check=check_settings)
    (line,) = str(error.value).splitlines()
    assert line.startswith("hydra.sweeper.objectives=")
    assert line.endswith(f"Write e.g. hydra.sweeper.objectives={fix}")


def test_the_report_tells_how_a_search_went(tmp_path):
    run(tmp_path, workers=Workers(results={3: "failed"}), n_trials=12, pruner="median")
    section = search([tmp_path])
    (part,) = section.parts
    top, *_ = part.tables
    assert top.header == ("trial", "val/miou", "epochs", "optimizer.lr", "data.batch_size")
    values = [float(row[1]) for row in top.rows]
    assert values == sorted(values, reverse=True)
    counts = {name: states(tmp_path).count(name) for name in ("COMPLETE", "PRUNED")}
    assert part.sentences[0] == (
        f"12 of 12 trials are over: {counts['COMPLETE']} completed, {counts['PRUNED']} pruned, 1 failed"
    )
    assert "epochs were trained" in part.sentences[1]
    assert part.sentences[2].startswith(f"best: trial {top.rows[0][0]} with val/miou")
    assert len(part.records) == 12
    (line,) = part.panels[0].lines
    assert [y.mean for _, y in line.points] == sorted(y.mean for _, y in line.points)


def test_a_report_of_several_objectives_begins_with_the_front(tmp_path):
    run(tmp_path, n_trials=4, objectives=["val/miou", "parameters"])
    (part,) = search([tmp_path]).parts
    assert part.tables[0].header[:3] == ("trial", "val/miou", "parameters")
    assert part.panels == []
    assert search([tmp_path / "nowhere"]) is None


def test_a_journal_names_no_code():
    with pytest.raises(ValueError, match=r"none of optuna\.pruners"):
        make_pruner({"_target_": "os.system", "command": "true"})
    with pytest.raises(ValueError, match=r"none of optuna\.pruners"):
        make_pruner({"_target_": "optuna.pruners.os"})


def test_hydra_starts_without_importing_optuna():
    script = "import sys, hydra_plugins.segsweep; print('optuna' in sys.modules, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_a_search_that_is_killed_20_times_has_its_30_trials(tmp_path):
    command = [sys.executable, "-m", "tests.searches", str(tmp_path / "s"), "30", "0.4"]
    chance, num_kills = random.Random(0), 0
    while num_kills < 20:
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
        file = tmp_path / "s" / journal.FILE
        size = file.stat().st_size if file.exists() else 0
        while process.poll() is None and (not file.exists() or file.stat().st_size == size):
            time.sleep(0.01)  # its imports: nothing happens there
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(chance.uniform(0, 0.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_kills += 1
        open_study(file)  # opens every time
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert len(found) == 30
    assert set(found) <= {"COMPLETE", "PRUNED"}
    assert set(statuses(tmp_path / "s").values()) <= {"completed", "pruned"}
    assert len(statuses(tmp_path / "s")) == 30
    with lock(tmp_path / "s"):
        pass  # nobody is left


@pytest.mark.slow
def test_a_search_in_which_every_trial_failed_exits_with_3(tmp_path):
    command = [
        *(sys.executable, "-m", "segsweep", "-m", *TINY, "model=unet", "model._target_=tests.misbehaving.Raises"),
        *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optimizer.lr=interval(1e-4,1e-2)"),
        f"hydra.sweep.dir={tmp_path / 'search'}",
    ]
    for _ in range(2):  # nothing is left to do the second time, which makes it no better
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert result.returncode == 3, result.stdout + result.stderr
        assert "no trial has completed. 2 trials failed, listed in" in result.stdout + result.stderr
    assert len((tmp_path / "search" / "failed.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_a_search_of_real_runs_survives_a_kill(tmp_path):
    folder = tmp_path / "search"
    command = [
        *(sys.executable, "-m", "segsweep", "-m", *TINY, "trainer.max_epochs=3", "model=conv_autoencoder"),
        *("hydra/sweeper=optuna", "hydra/sweeper/pruner=asha", "hydra.sweeper.n_trials=5", "sweep.jobs=2"),
        *("optimizer.lr=tag(log,interval(1e-5,1e-2))", "name=search", f"hydra.sweep.dir={folder}"),
    ]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while "completed" not in statuses(folder).values() and first.poll() is None:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    finished = {file: file.read_bytes() for file in folder.glob("*/record.json") if b'"completed"' in file.read_bytes()}
    subprocess.run(command, check=True, capture_output=True)
    assert len(states(folder)) == 5
    assert set(states(folder)) <= {"COMPLETE", "PRUNED"}
    assert sorted(statuses(folder).values()) == sorted(
        {"COMPLETE": "completed", "PRUNED": "pruned"}[state] for state in states(folder)
    )
    assert finished
    assert all(file.read_bytes() == before for file, before in finished.items())
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "5 done already" in again.stdout + again.stderr

"""Plans of sweeps: composed and checked in this process, without a launcher."""

import errno
import json
from unittest.mock import MagicMock

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict, read_write

from segsweep import CONF_DIR, sweeper
from segsweep.arguments import as_axes
from segsweep.command import Preflight
from segsweep.composer import Composer
from segsweep.config import fingerprint, semantic_part, settle
from segsweep.hardware import pick_precision
from segsweep.inspection import inspect_jobs, resolved
from segsweep.plan import make_plan
from segsweep.run import ConfigError, lock
from segsweep.sweep.job import folder_name

COMPOSER = Composer()  # remembers what it has composed


@pytest.fixture
def plan(tmp_path):
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield lambda *overrides, zipped=(): make_plan(tmp_path, overrides, zipped, COMPOSER, inspect_jobs)


def names(plan):
    return [job.name for job in plan.jobs]


def record(job, **values):
    job.folder.mkdir()
    facts = {"fingerprint": job.fingerprint, "fingerprint_without_seed": job.kind, "config": {}, **values}
    (job.folder / "record.json").write_text(json.dumps(facts))


def test_jobs_are_what_the_command_line_would_compose(plan):
    job = plan("model=unet,reseg", "seed=3", "optimizer.lr=0.01").jobs[1]
    alone = compose("train", ["model=reseg", "seed=3", "optimizer.lr=0.01"])
    assert job.config == OmegaConf.to_container(alone, resolve=False)
    assert job.choices["model"] == "reseg"
    assert job.fingerprint == fingerprint(settle(alone))
    assert resolved(compose("train", list(job.overrides))) == resolved(alone)


def test_folders_are_named_by_what_is_swept(plan):
    made = plan("model=unet,reseg", "seed=0,1", "optimizer.lr=0.01")
    assert names(made) == ["model=unet,seed=0", "model=unet,seed=1", "model=reseg,seed=0", "model=reseg,seed=1"]
    assert names(plan("model=unet")) == ["0"]


def test_a_folder_name_holds_no_separator_and_stays_short(plan):
    widths = [list([8] * n) for n in (60, 61)]
    values = ",".join(str(one).replace(" ", "") for one in widths)
    made = plan(f"model.widths={values}", "data.num_train=10")
    assert len(set(names(made))) == 2
    assert all("/" not in name and len(name) < 180 for name in names(made))


@pytest.mark.parametrize("shift", range(4))
def test_a_folder_name_of_any_script_fits_the_file_system(tmp_path, shift):
    name = folder_name(["a" * shift + "ф€" * 140], "0123456789abcdef")
    assert len(name.encode()) <= 159
    assert name.endswith("_01234567")
    (tmp_path / name).mkdir()


def test_a_key_that_only_some_models_have_is_left_out_of_the_others(plan):
    made = plan("model=unet,reseg", "model.recurrence=on,off")
    assert names(made) == ["model=unet", "model=reseg,model.recurrence=on", "model=reseg,model.recurrence=off"]
    assert (made.dropped, made.num_equal) == ({"model.recurrence": 2}, 1)
    assert "model.recurrence=on" not in made.jobs[0].overrides


def test_a_key_that_no_job_has_is_a_mistake(plan):
    with pytest.raises(ConfigError, match=r"model.recurence: unknown key. Did you mean 'model.recurrence'"):
        plan("model=unet,reseg", "model.recurence=on,off")


def test_all_mistakes_of_all_jobs_are_named_once(plan):
    with pytest.raises(ConfigError) as caught:
        plan("model=unet,unett", "optimizer.lr=-1,0.01", "seed=0,1", "data.batch_sice=4")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(set(lines)) == 3
    assert any("optimizer.lr=-1" in line for line in lines)
    assert any("model=unett" in line for line in lines)
    assert any("data.batch_size" in line for line in lines)


def test_jobs_that_differ_in_nothing_that_is_read_are_a_mistake(plan):
    with pytest.raises(ConfigError, match=r"data\.num_workers changes no result"):
        plan("data.num_workers=0,1", "seed=0,1")
    with pytest.raises(ConfigError, match="they compose to the same config"):
        plan("trainer=cpu", f"trainer.precision=auto,{pick_precision('cpu')}")


def test_states_follow_the_records(plan):
    jobs = plan("seed=range(0,5)").jobs
    for job, status in zip(jobs, ["completed", "failed", "interrupted", "running"], strict=False):
        record(job, status=status, wall_s=10)
    assert plan("seed=range(0,5)").states == ("done", "retry", "continue", "continue", "new")
    with lock(jobs[3].folder):
        made = plan("seed=range(0,5)")
    assert made.states[3] == "running"
    assert made.pending == list(made.jobs[1:])
    assert made.seconds == 40  # four jobs like the finished one


@pytest.mark.parametrize(
    "override", ["optimizer.lr=${foo.bar}", "optimizer.lr=${oc.env:NOPE}", "seed=${hydra:job.num}"]
)
def test_what_refers_to_nothing_is_a_line_for_all_jobs(plan, override):
    with pytest.raises(ConfigError) as caught:
        plan("model=unet,reseg", override)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(override.partition("=")[0])


def sweep_config(*overrides, config_name="train"):
    """As Hydra's app composes it: overrides of the sweep's own config, its own node included."""
    return compose(config_name, list(overrides), return_hydra_config=True)


def test_overrides_that_differ_in_an_interpolation_name_different_sweeps(plan):
    names = set()
    for lr in ("${seed}", "0", "${foo.bar}"):
        cfg = sweep_config("seed=0", f"optimizer.lr={lr}", "hydra.run.dir=${hydra.job.num}")
        Preflight().on_multirun_start(cfg)
        names.add(cfg.name)
    assert len(names) == 3


def test_jobs_are_composed_from_the_file_that_was_named(tmp_path):
    own = f"defaults: [train, _self_]\noptimizer: {{lr: 0.5}}\nhydra: {{searchpath: ['file://{CONF_DIR}']}}\n"
    (tmp_path / "mine.yaml").write_text(own)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        cfg = sweep_config(config_name="mine")
        made = make_plan(tmp_path / "s", ["seed=0,1"], (), Composer.of(cfg), inspect_jobs)
        with pytest.raises(ConfigError, match=r"optimizer\.lr='x'"):
            make_plan(tmp_path / "s", ["optimizer.lr=x"], (), Composer.of(cfg), inspect_jobs)
    assert [job.config["optimizer"]["lr"] for job in made.jobs] == [0.5, 0.5]


def test_options_are_matched_by_a_pattern(plan):
    assert names(plan("model=glob(unet*)")) == ["model=unet", "model=unetplusplus"]
    with pytest.raises(ConfigError, match="no option is called like that"):
        plan("model=glob(zz*)")


def test_a_sweep_that_is_done_starts_nothing(plan, caplog):
    for job in plan("seed=0,1").jobs:
        record(job, status="completed")
    with caplog.at_level("INFO"):
        assert sweeper.run(None, plan("seed=0,1")) == []
    assert "all 2 jobs are done already" in caplog.text


def test_a_damaged_record_costs_its_job_alone_another_try(plan, caplog):
    for job in plan("seed=0,1").jobs:
        record(job, status="completed")
    torn = plan("seed=0,1").jobs[1].folder
    (torn / "record.json").write_text('{"schema": 1, "sta')
    made = plan("seed=0,1")
    assert made.states == ("done", "retry")
    sweeper._mend(made)
    assert "record.json.damaged" in caplog.text
    assert [file.name for file in torn.glob("record*")] == ["record.json.damaged"]
    assert plan("seed=0,1").states == ("done", "new")


@pytest.fixture
def read_only(plan, tmp_path, monkeypatch):
    """Runs the grid sweeper on a plan, in a folder where nobody can write."""

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / ".lock"))

    def sweep(*overrides):
        made = plan(*overrides)
        grid = sweeper.GridSweeper()
        grid.launcher = None
        grid.config = OmegaConf.create(
            {"sweep": {}, "hydra": {"sweep": {"dir": str(tmp_path)}, "overrides": {"hydra": []}}}
        )
        monkeypatch.setattr(sweeper, "Composer", MagicMock())
        monkeypatch.setattr(sweeper, "make_plan", lambda *args: made)
        with monkeypatch.context() as patch:
            patch.setattr(sweeper, "lock", refuse)
            return grid.sweep([])

    return sweep


def test_a_sweep_that_is_done_needs_nothing_to_be_written(plan, read_only, caplog):
    for job in plan("seed=0,1").jobs:
        record(job, status="completed")
    with caplog.at_level("INFO"):
        assert read_only("seed=0,1") == []
    assert "all 2 jobs are done already" in caplog.text


def test_a_sweep_that_cannot_write_says_where_and_what_to_do(read_only, capsys):
    with pytest.raises(SystemExit) as info:
        read_only("seed=0,1")
    assert info.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Read-only file system. Make it writable, or choose another place: hydra.sweep.dir=" in said


def test_a_longer_sweep_finds_the_runs_of_a_shorter_one(plan):
    record(plan("model=unet,reseg").jobs[0], status="completed")
    made = plan("model=unet,reseg", "seed=0,1")
    assert made.states == ("done", "new", "new", "new")
    assert names(made)[:2] == ["model=unet", "model=unet,seed=1"]


def test_a_changed_config_under_the_same_name_is_refused(plan):
    job = plan("seed=0,1", "optimizer.lr=0.01").jobs[0]
    config = semantic_part(settle(OmegaConf.create(job.config)))
    record(job, status="completed", config={**config, "optimizer": {**config["optimizer"], "lr": 0.02}})
    record_file = job.folder / "record.json"
    record_file.write_text(record_file.read_text().replace(job.fingerprint, "0" * 16))
    with pytest.raises(ConfigError, match=r"config \(optimizer.lr: 0.02 -> 0.01\)"):
        plan("seed=0,1", "optimizer.lr=0.01")


@pytest.mark.parametrize(
    ("typed", "axis"),
    [
        ("model.recurrence=off", "model.recurrence=choice(off)"),
        ("data.size=[48,48]", "data.size=choice([48,48])"),
        ("loss.terms={dice:1}", "loss.terms=choice({dice:1})"),
        ("optimizer.lr=0.1,0.2", "optimizer.lr=0.1,0.2"),
        ("model=unet", "model=unet"),
        ("sweep.jobs=2", "sweep.jobs=2"),
        ("hydra.sweep.dir=x", "hydra.sweep.dir=x"),
        ("+model.extra=1", "+model.extra=1"),
        ("trainer.ema=null", "trainer.ema=null"),  # no choice of Hydra can be null
    ],
)
def test_single_values_reach_the_jobs_as_axes_of_one_value(typed, axis):
    assert as_axes(["-m", typed]) == ["-m", axis]
    assert as_axes([typed]) == [typed]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("name=x,y", "name=x,y: a sweep has one name"),
        ("hydra.sweep.subdir=${hydra.job.num}", "hydra.sweep.subdir=${hydra.job.num}: this sweeper names jobs itself"),
        ("hydra.job.chdir=true", "hydra.job.chdir=true: jobs stay in the folder"),
    ],
)
def test_what_makes_no_difference_to_a_sweep_is_refused(plan, capsys, override, said):
    is_hydras = override.startswith("hydra")
    cfg = sweep_config(*[override] * is_hydras)
    with read_write(cfg), open_dict(cfg):
        cfg.hydra.overrides.task = ["seed=0,1", *[override] * (not is_hydras)]
    with pytest.raises(SystemExit) as info:
        Preflight().on_multirun_start(cfg)
    assert info.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_a_dry_run_of_one_run_says_where_and_whether_it_goes_on(plan, tmp_path, capsys):
    """Nothing is written, and nothing trained."""

    def dry(*overrides):
        with pytest.raises(SystemExit) as info:
            Preflight().on_run_start(sweep_config("trainer=cpu", "sweep.dry_run=true", *overrides))
        said = capsys.readouterr()
        return info.value.code, said.out + said.err

    code, said = dry()
    assert (code, said.splitlines()[-1]) == (0, "1 job: 1 new")
    folder = tmp_path / "single"
    place = f"hydra.run.dir={folder}"
    assert dry("name=single", place) == (0, f"{folder}  new\n1 job: 1 new\n")
    assert list(tmp_path.iterdir()) == []
    plain = settle(OmegaConf.masked_copy(sweep_config("trainer=cpu"), [str(k) for k in sweep_config() if k != "hydra"]))
    facts = {"fingerprint": fingerprint(plain), "config": semantic_part(plain)}
    folder.mkdir()
    for status, state in [("completed", "done"), ("failed", "retry"), ("interrupted", "continue")]:
        (folder / "record.json").write_text(json.dumps({**facts, "status": status}))
        assert dry("name=single", place) == (0, f"{folder}  {state}\n1 job: 1 {state}\n")
    code, said = dry("name=single", place, "seed=3")
    assert code == 1
    assert "seed" in said

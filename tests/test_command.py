"""What the command line answers: quickly, and with every mistake in one line that says how to fix it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segsweep import CONF_DIR, command
from segsweep.__main__ import main
from segsweep.arguments import single_values
from segsweep.check import mistakes
from segsweep.refused import all_mistakes
from tests.conftest import options

CHECKED = {}  # what was said of a group, which most tests leave as it is


def value_mistakes(composed, *overrides, memo=CHECKED):
    job = composed(*overrides)
    return mistakes(job.config, job.choices, memo)


def run(*arguments, cwd=None, module="segsweep"):
    environment = {**os.environ, "HYDRA_FULL_ERROR": "0"}
    command_line = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    return subprocess.run(command_line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--cfg", "job"], ["--info", "defaults"], ["model=reseg", "--cfg", "job", "--resolve"]]
)
def test_questions_are_answered_without_torch(arguments, tmp_path):
    script = f"import sys; sys.argv = ['segsweep', *{arguments}]\nfrom segsweep.__main__ import main\n"
    script += "try: main()\nfinally: print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr.split()[-2:] == ["False", "False"]
    assert "unet" in result.stdout or "ReSeg" in result.stdout
    assert list(tmp_path.iterdir()) == []  # a question leaves nothing behind


def test_help_has_an_example_and_the_choices():
    text = run("--help").stdout
    assert "segsweep -m model=unet,reseg,conv_autoencoder" in text
    assert f"  model        {', '.join(options('model'))}\n" in text


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("hydra.sweep.dir=out/mine", "mine"),
        ("hydra.sweep.dir=out/2025/", '"2025"'),
        ("hydra.sweep.dir=out/${name}", r"s[0-9a-f]{8}"),
        ("hydra.verbose=true", r"s[0-9a-f]{8}"),
    ],
)
def test_a_sweep_is_named_by_its_folder_if_that_was_typed(typed, name):
    folder = typed.partition("dir=")[2]
    config = OmegaConf.create(
        {"name": None, "hydra": {"sweep": {"dir": folder}, "sweeper": {}, "overrides": {"task": [], "hydra": [typed]}}}
    )
    command.Preflight()._name_sweep(config)
    assert re.fullmatch(f"name={name}", config.hydra.overrides.task[-1])
    assert config.name == config.hydra.overrides.task[-1].partition("=")[2].strip('"')


@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_is_free_of_mistakes(composed, name, tmp_path):
    """Its first job, and the options that it sweeps; without its files, and without weights that have to be fetched."""
    given = [f"experiment={name}", "trainer.accelerator=cpu"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", given, return_hydra_config=True)
    if "root" in list(cfg.data):  # `in` says no where a value is missing
        given.append(f"data.root={tmp_path}")
    if cfg.model.get("trunk_weights"):
        given.append("model.trunk_weights=null")
    params = (cfg.hydra.sweeper.get("params") or {}).items()
    swept = {key: single_values(f"{key}={values}") for key, values in params}
    lines = value_mistakes(composed, *given, *(overrides[0] for overrides in swept.values()))
    assert [line for line in lines if not line.startswith(f"E-ROOT data.root={tmp_path}")] == []
    for group in swept.keys() & {"model", "loss"}:
        assert {override.partition("=")[2] for override in swept[group]} <= set(options(group))


def test_completion_knows_options():
    environment = {**os.environ, "COMP_LINE": "segsweep model=", "COMP_POINT": "15"}
    executable = Path(sys.executable).parent / "segsweep"
    result = subprocess.run(
        [executable, "-sc", "query=bash"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert {"model=unet", "model=reseg"} <= set(result.stdout.split())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer.lr=abc"], ["optimizer.lr='abc'", "valid number", "0.005, in conf/optimizer/adamw.yaml"]),
        (["optimizer.lr=-1"], ["optimizer.lr=-1", "Invalid learning rate", "default is 0.005"]),
        pytest.param(
            ["trainer.max_epochs=1.5"],
            ["trainer.max_epochs=1.5", "valid integer", "default is 8"],
            marks=pytest.mark.slow,
        ),
        (["trainer=cpu", "trainer.precision=fp8"], ["trainer.precision='fp8': use '32-true' or 'bf16-mixed'"]),
        (["+trianer.max_epochs=3"], ["trianer: unknown key", "Did you mean 'trainer'?"]),
        pytest.param(["+optimizer.momentun=0.9"], ["optimizer.momentun: unknown key"], marks=pytest.mark.slow),
        (["+trainer.max_epoch=3"], ["trainer.max_epoch: unknown key", "Did you mean 'max_epochs'?"]),
        pytest.param(["+model.depth=3"], ["model.depth: unknown key"], marks=pytest.mark.slow),
        (["model.widths=[8,x]"], ["model.widths=[8,x]", "valid integer"]),
        (["data=camvid"], ["data.root is not set", "data.root=/data/camvid"]),
        (["data=camvid", "data.root=/nowhere"], ["data.root=/nowhere is not a folder"]),
        (["data.batch_size=0"], ["data.batch_size=0", "greater than 0", "default is 16"]),
        pytest.param(
            ["data.labelled_fraction=2"],
            ["data.labelled_fraction=2", "less than or equal to 1"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["augment.zoom=0.5"], ["augment.zoom=0.5", "greater than or equal to 1"], marks=pytest.mark.slow),
        (["model=reseg", "model.cell=gro"], ["model.cell='gro'", "'gru', 'lstm' or 'mingru'"]),
        (
            ["model._target_=segsweep.models.unet.Unet"],
            ["model._target_='segsweep.models.unet.Unet' cannot be imported"],
        ),
        (["monitor=val/mIoU"], ["monitor='val/mIoU' is not logged", "Did you mean 'val/miou'?"]),
        pytest.param(["seed=-1"], ["seed=-1"], marks=pytest.mark.slow),
        (["name=a/b"], ["name='a/b' does not name a folder"]),
        ([f"name={'x' * 256}"], ["name is 256 bytes long", "Choose a shorter one"]),
        pytest.param([f"name='{'ф' * 128}'"], ["name is 256 bytes long"], marks=pytest.mark.slow),
        (["regime.stages.supervised.share=0.5"], ["add up to 0.5"]),
        pytest.param(
            ["loss.terms.dice=x"],
            ["loss.terms.dice='x'", "valid number", "default is 1.0, in conf/loss/ce_dice.yaml"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["loss.terms.dice=-1"], ["loss.terms.dice=-1", "greater than or equal to 0"], marks=pytest.mark.slow
        ),
        (["+loss.terms.dise=1"], ["loss.terms.dise=1: no term", "Did you mean 'dice'?"]),
        (["loss=sum"], ["loss.terms: none of those", "loss.terms.dice=1"]),
        pytest.param(
            ["loss.focal.gamma=x"],
            ["loss.focal.gamma='x'", "valid number", "2.0, in conf/loss/sum.yaml"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["+loss.focal.gama=3"], ["loss.focal.gama: unknown key", "Did you mean 'gamma'?"], marks=pytest.mark.slow
        ),
        (["+loss.mine._target_=torch.nn.Identity"], ["loss.mine: is defined but has no factor", "+loss.terms.mine=1"]),
        (["+loss.mine=3", "+loss.terms.mine=1"], ["loss.mine=3: is no term"]),
        (["loss.cross_entropy.weights=median"], ["loss.cross_entropy.weights='median'", "'median_frequency'"]),
        (["loss.cross_entropy.weights=[1,2]"], ["loss.cross_entropy.weights=[1, 2] are 2 numbers", "11 classes"]),
        pytest.param(["monitor=val/loss/focal"], ["monitor='val/loss/focal' is not logged"], marks=pytest.mark.slow),
        pytest.param(
            ["trainer.early_stopping.patience=abc"],
            ["trainer.early_stopping.patience='abc'", "valid integer"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["+trainer.early_stopping.patienc=3"],
            ["trainer.early_stopping.patienc: unknown key", "'patience'"],
            marks=pytest.mark.slow,
        ),
        (["trainer.early_stopping=null"], ["trainer.early_stopping is no pair"]),
        (["trainer.max_epochs=0"], ["trainer.max_epochs=0: give 1 or more"]),
        pytest.param(
            ["trainer.accumulate_grad_batches=0"],
            ["trainer.accumulate_grad_batches=0: give 1 or more"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["trainer.gradient_clip_val=-1"],
            ["trainer.gradient_clip_val=-1: give a number above 0"],
            marks=pytest.mark.slow,
        ),
        (["trainer.gradient_clip_algorithm=foo"], ["trainer.gradient_clip_algorithm='foo': use null or 'norm'"]),
        (["trainer=cpu", "trainer.precision=16-mixed"], ["trainer.precision=16-mixed is for GPUs"]),
        (["trainer.devices=2"], ["trainer.devices=2: trainer.strategy=auto does not share", "trainer=ddp"]),
        (["trainer.precision=bf16-true"], ["trainer.precision='bf16-true': use '32-true'"]),
        pytest.param(
            ["trainer.enable_checkpointing=false"],
            ["trainer.enable_checkpointing=false: use true"],
            marks=pytest.mark.slow,
        ),
        (["data.num_classes=5"], ["data.num_classes=5 but data.class_names has 11"]),
        (["data.crop=[64,64]"], ["data.crop=[64,64] is larger than data.size"]),
        (["model.widths=[8]"], ["model.widths=[8]", "two or more"]),
        pytest.param(
            ["scheduler=poly", "scheduler.power=0"],
            ["scheduler.power=0", "greater than 0", "default is 0.9"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_wrong_values_are_named_with_the_fix(composed, overrides, expected):
    lines = value_mistakes(composed, *overrides)
    assert len(lines) == 1, lines
    for part in expected:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "optimizer.lr=${foo.bar}",
            "optimizer.lr: Interpolation key 'foo.bar' not found. Refer to a key that there is",
        ),
        ("optimizer.lr=${oc.env:NOPE}", "optimizer.lr: KeyError raised while resolving interpolation"),
        ("seed=${hydra:job.num}", "seed: a run knows nothing of ${hydra:...}. Write the value itself"),
    ],
)
def test_what_refers_to_nothing_is_a_line(composed, override, said):
    (line,) = value_mistakes(composed, override)
    assert line.startswith(said)


def test_a_line_reads_as_a_sentence(composed):
    assert value_mistakes(composed, "optimizer.lr=abc") == [
        "optimizer.lr='abc': should be a valid number (the default is 0.005, in conf/optimizer/adamw.yaml)"
    ]


def test_a_correct_config_has_no_mistakes(composed):
    assert value_mistakes(composed) == []
    assert value_mistakes(composed, "model=reseg", "model.cell=lstm", "optimizer=sgd", "scheduler=plateau") == []


def test_a_precision_that_there_is_not_hides_no_other_mistake(composed):
    lines = value_mistakes(composed, "trainer=cpu", "trainer.precision=fp8", "trainer.ema=3")
    assert lines[0] == "trainer.precision='fp8': use '32-true' or 'bf16-mixed'"
    assert [line.split(" ")[0] for line in lines[1:]] == ["trainer.ema=3"]


def test_missing_values_do_not_hide_other_mistakes(composed):
    lines = value_mistakes(composed, "data=camvid", "optimizer.lr=-1", "model=reseg", "model.cell=x")
    assert [line.split(" ")[0].split("=")[0] for line in lines] == ["data.root", "model.cell", "optimizer.lr"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model=unett"], ["model=unett: there is no such option", "Did you mean 'unet'?"]),
        (["modle=unet"], ["modle: unknown key", "Did you mean 'model'?"]),
        (["trainer.max_epoch=3"], ["trainer.max_epoch: unknown key", "Did you mean 'trainer.max_epochs'?"]),
        (
            ["regime=pretrain", "regime.stages.pretrian.share=0.5"],
            ["regime.stages.pretrian.share: unknown key. Did you mean 'regime.stages.pretrain'?"],
        ),
        (["trainr.max_epochs=3"], ["trainr.max_epochs: unknown key", "Did you mean 'trainer'?"]),
        (["model=[", "seed=1"], ["model=[: no override"]),
        (["model=unet,reseg"], ["model=unet,reseg: several values need -m"]),
        (["-m", "model=unet,unett"], ["model=unett: there is no such option"]),
        (["hydra.sweeper.ntrials=5", "hydra/sweeper=optuna", "-m"], ["hydra.sweeper.ntrials: unknown key"]),
        (
            ["hydra/sweeper=optuna", "hydra.sweeper.ntrials=5", "-m"],
            ["hydra.sweeper.ntrials: unknown key. Did you mean 'hydra.sweeper.n_trials'?"],
        ),
        (["hydra.sweep.dirr=x"], ["hydra.sweep.dirr: unknown key. Did you mean 'hydra.sweep.dir'?"]),
        (["-m", "hydra.sweeper.params={},{}"], ["jobs share the keys of hydra"]),
        (["hydra/launcher=locl", "hydra.launcher.partition=x"], ["hydra/launcher=locl: there is no such option"]),
        (["experiment=familys"], ["experiment=familys: there is no such option", "Did you mean 'families'?"]),
    ],
)
def test_what_hydra_refuses_is_explained(arguments, expected):
    lines = all_mistakes(arguments)
    assert len(lines) == 1, lines
    for part in expected:
        assert part in lines[0]


def test_all_mistakes_are_named_at_once():
    lines = all_mistakes(["model=unett", "trainer.max_epoch=3", "optimizer.lr=abc", "seed=1"])
    assert [line.split(":")[0] for line in lines] == ["model=unett", "trainer.max_epoch", "optimizer.lr='abc'"]


@pytest.mark.usefixtures("in_process")
def test_a_mistake_stops_the_command_before_it_leaves_a_trace(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["segsweep", "optimizer.lr=abc", "+trianer.max_epochs=3"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_mistake_in_one_job_stops_a_sweep_before_the_first(tmp_path):
    result = run("-m", "optimizer.lr=0.01,-1", "seed=0,1", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("optimizer.lr=-1") == 1  # once, not for every seed
    assert list(tmp_path.iterdir()) == []

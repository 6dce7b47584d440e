"""What the YAML files promise."""

import inspect
import re

import pytest
import pytorch_lightning as pl
import torch
import yaml

from segsweep import CONF_DIR, config, hardware
from segsweep.check import mistakes
from tests.conftest import options

FILES = sorted(CONF_DIR.rglob("*.yaml"))
GROUP_FILES = [file for file in FILES if file.parent.name in config.GROUPS]


@pytest.fixture
def settled(composer):
    return lambda *overrides: config.settle(composer("trainer=cpu", *overrides))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF_DIR)))
def test_every_file_says_what_it_is_and_every_key_what_it_means(file):
    lines = file.read_text().splitlines()
    if "hydra/" in str(file):
        yaml.safe_load(file.read_text())  # Hydra's own keys
        return
    assert any(line.startswith("# ") and "@package" not in line for line in lines[:2])
    for number, line in enumerate(lines, start=1):
        code, _, comment = line.partition(" #")
        is_leaf = re.match(r"^\s*[\w-]+:\s*\S", code) is not None
        if is_leaf and "_target_" not in code and "package" not in line:
            assert comment.strip(), f"line {number} has no comment: {line}"


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(group, marks=[pytest.mark.slow] * (group in ("model", "regime", "scheduler")))
        for group in config.GROUPS
    ],
)
def test_every_option_passes_the_check(group, composed):
    memo = {}
    for option in options(group):
        has_root = group == "data" and option not in ("digits", "far_cue")
        job = composed(f"{group}={option}", *["data.root=/nowhere"] * has_root)
        found = mistakes(job.config, job.choices, memo)
        # Without a dataset, a GPU, a teacher and, for loss=sum, a factor at hand, that much is missing.
        missing = ("data.root=/nowhere", "sees no GPU", "give one, e.g. loss.terms.dice=1", "init_from=RUN")
        expected = [line for line in found if line.startswith("data.") or any(part in line for part in missing)]
        assert found == expected


def test_the_trainer_lists_every_argument_of_lightning(composer):
    arguments = inspect.signature(pl.Trainer).parameters
    passed = {"logger", "callbacks", "plugins", "default_root_dir"}
    own = {
        "_target_",
        "early_stopping",
        "tensorboard",
        "checkpoint_every_steps",
        "on_oom",
        "stack_seeds",
        "tf32",
        "compile",
        "ema",
    }
    listed = composer().trainer
    assert set(listed) - own == set(arguments) - passed
    ours = {"accelerator", "devices", "precision", "max_epochs", "num_sanity_val_steps", "enable_model_summary"}
    for name in set(listed) - own - ours:
        default = arguments[name].default
        equal = default == listed[name] or (default is None and listed[name] in (None, True, 50))
        assert equal, f"{name}: Lightning's default is {default}, ours {listed[name]}"


def test_the_fingerprint_follows_the_resolved_config(settled):
    assert config.fingerprint(settled()) == config.fingerprint(settled())
    for change in ("optimizer.lr=0.02", "model.widths=[8,16]", "seed=1", "data.batch_size=8", "monitor=val/dice"):
        assert config.fingerprint(settled(change)) != config.fingerprint(settled()), change
    # The value counts, not how it was said.
    assert config.fingerprint(settled("optimizer.lr=1e-3")) == config.fingerprint(settled("optimizer.lr=0.0010"))


@pytest.mark.parametrize("change", ["name=x", "trainer.enable_progress_bar=false"])
def test_keys_that_change_no_result_stay_out_of_the_fingerprint(settled, change):
    assert config.fingerprint(settled(change)) == config.fingerprint(settled())


def test_the_seed_can_be_left_out(settled):
    prints = {config.fingerprint(settled(f"seed={seed}"), with_seed=False) for seed in range(3)}
    assert len(prints) == 1
    assert prints != {config.fingerprint(settled())}


def test_auto_is_resolved_before_the_fingerprint(composer, monkeypatch):
    monkeypatch.setattr(hardware, "pick_accelerator", lambda: "cpu")
    prints = []
    for precision in ("bf16-mixed", "32-true"):
        monkeypatch.setattr(hardware, "pick_precision", lambda accelerator, precision=precision: precision)
        plain = config.settle(composer())
        assert plain["trainer"]["precision"] == precision
        assert plain["trainer"]["accelerator"] == "cpu"
        prints.append(config.fingerprint(plain))
    assert prints[0] != prints[1]


def test_weights_follow_from_the_seed(settled):
    first, again, other = (config.build_model(settled(f"seed={seed}")).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_precision_follows_cpu_flags(monkeypatch):
    for flags, precision in (("avx2 avx512_bf16", "bf16-mixed"), ("amx_bf16", "bf16-mixed"), ("avx512f", "32-true")):
        monkeypatch.setattr(hardware, "_cpu_flags", lambda flags=flags: {"flags": flags})
        assert hardware.pick_precision("cpu") == precision


def test_the_experiment_of_losses_has_them_all():
    experiment = yaml.safe_load((CONF_DIR / "experiment" / "losses.yaml").read_text())
    swept = experiment["hydra"]["sweeper"]["params"]["loss"].split(",")
    assert sorted([*swept, "ncut", "sum"]) == options("loss")  # ncut has no names for its classes, sum no factors

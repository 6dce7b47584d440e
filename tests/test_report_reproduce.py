"""The command that repeats a run, typed into Hydra again."""

import json
import shlex

import pytest

from segsweep.composer import compose_job
from segsweep.config import fingerprint, settle
from segsweep.report.command import main
from segsweep.report.reproduce import caveats, command
from tests.records import write_record


def test_what_belongs_to_the_sweep_or_the_place_is_left_out():
    run = {"overrides": ["model=unet", "name=mine", "sweep.jobs=2", "hydra.run.dir=x", "+data.note='a b'", "seed=3"]}
    assert shlex.split(command(run)) == ["segsweep", "model=unet", "+data.note='a b'", "seed=3"]


def test_precision_is_written_out_once():
    chosen = {"overrides": ["model=unet"], "precision": "bf16-mixed"}
    assert command(chosen) == "segsweep model=unet trainer.precision=bf16-mixed"
    typed = {"overrides": ["trainer.precision=auto", "hydra/launcher=slurm"], "precision": "32-true"}
    assert command(typed) == "segsweep trainer.precision=32-true"


def test_what_it_cannot_promise_is_said():
    run = {
        "overrides": ["data.token=<redacted>"], "git": {"commit": "abc", "dirty": True}, "device": "a CPU",
        "threads": 2, "versions": {"torch": "2.15.0"},
    }  # fmt: skip
    text = "\n".join(caveats(run))
    for part in ("torch 2.15.0", "git checkout abc", "uncommitted changes", "secrets are redacted", "a CPU, 2 threads"):
        assert part in text
    assert "uncommitted" not in "\n".join(caveats({**run, "git": {"commit": "abc", "dirty": False}}))


@pytest.mark.parametrize("overrides", [["model=reseg", "seed=4"], ["data.size=[32,48]", "optimizer.lr=1e-3"]])
def test_the_command_composes_the_same_run(tmp_path, capsys, overrides):
    original = fingerprint(settle(compose_job(overrides)[0]))
    write_record(tmp_path / "run", 0.5, overrides=overrides, precision="32-true")
    main(["--command", str(tmp_path / "run")])
    words = shlex.split(capsys.readouterr().out)
    assert words[0] == "segsweep"
    same = [word for word in words[1:] if not word.startswith("trainer.precision=")]
    assert fingerprint(settle(compose_job(same)[0])) == original
    assert words[-1] == "trainer.precision=32-true"
    assert not (tmp_path / "report").exists()


def test_caveats_do_not_disturb_a_pipe(tmp_path, capsys):
    write_record(tmp_path / "run", 0.5, git={"commit": "abc", "dirty": True})
    main(["--command", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert all(line.startswith("# ") for line in captured.err.splitlines())
    assert "uncommitted changes" in captured.err
    assert json.loads((tmp_path / "run" / "record.json").read_text())["seed"] == 0

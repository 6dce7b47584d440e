"""The local launcher: what it says and leaves; whole sweeps in which jobs misbehave."""

import csv
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from segsweep import CONF_DIR
from segsweep.launcher import LocalLauncher, _command, _without_console, finish, train_job
from segsweep.run import read_record
from segsweep.sweep import Job, Outcome
from segsweep.sweep.pool import Event
from tests.conftest import TINY, timeless
from tests.jobs import job

SWEEP = ["name=s", "model=unet", "model.widths=[4,8]", *TINY, "trainer.max_epochs=1"]


def segsweep(folder, *arguments):
    command = [sys.executable, "-m", "segsweep", *arguments]
    paths = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    # Absolute, because the command runs in another folder.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in paths if path)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def test_a_sweep_with_failures_says_how_to_go_on_and_exits_with_3(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/segsweep", "-m", "model=unet,reseg", "data.root=my data"])
    done = Outcome(job(tmp_path, "works"), "completed")
    failed = Outcome(job(tmp_path, "raises", 1), "failed", {"class": "oom", "message": "x"})
    (tmp_path / "sweeps" / "s").mkdir(parents=True)
    (tmp_path / "sweeps" / "s" / "failed.csv").touch()
    with caplog.at_level("INFO"):
        finish(tmp_path / "sweeps" / "s", [done])
        with pytest.raises(SystemExit) as info:
            finish(tmp_path / "sweeps" / "s", [done, failed])
    assert info.value.code == 3
    assert "1 of 2 jobs completed" in caplog.text
    assert "1 failed, listed in sweeps/s/failed.csv" in caplog.text
    assert "segsweep -m model=unet,reseg 'data.root=my data'" in caplog.text


def test_a_sweep_with_a_job_that_is_not_complete_does_not_end_well(tmp_path, caplog):
    stopped = Outcome(job(tmp_path, "waits"), "interrupted", {"class": "SIGTERM", "message": "x"})
    with pytest.raises(SystemExit) as info:
        finish(tmp_path, [stopped, Outcome(job(tmp_path, "works", 1), "completed")])
    assert info.value.code == 3
    assert "1 interrupted; the same command continues" in caplog.text


def test_a_full_disk_is_what_is_said_last(tmp_path, caplog):
    error = {"class": "disk", "message": "did not start: [Errno 28] No space left on device: '/x/seed=0'"}
    with pytest.raises(SystemExit) as info:
        finish(tmp_path, [Outcome(job(tmp_path, "works"), "failed", error)])
    assert info.value.code == 3
    last = caplog.messages[-1]
    assert last.startswith("disk full: ")
    assert "failed.csv" not in caplog.text  # there was no space for it
    assert "'/x/seed=0'. Free space; the same command continues" in last


def test_failures_are_listed_as_they_happen(tmp_path):
    launcher = LocalLauncher()
    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    first = job(tmp_path, "raises")
    launcher._hear(lambda event: None, [], Event("ended", first, Outcome(first, "failed", {"class": "x"})))
    assert "0_raises" in (tmp_path / "failed.csv").read_text()


def test_the_command_is_the_one_that_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/src/segsweep/__main__.py", "-m", "seed=0,1"])
    assert _command() == "python -m segsweep -m seed=0,1"


def test_a_job_logs_to_its_file_and_not_twice():
    config = _without_console(OmegaConf.load(CONF_DIR / "hydra" / "job_logging" / "segsweep.yaml"))
    assert set(config.handlers) == {"file"}
    assert config.root.handlers == ["file"]
    console_only = OmegaConf.create(
        {"handlers": {"c": {"class": "logging.StreamHandler"}}, "root": {"handlers": ["c"]}}
    )
    assert _without_console(console_only) == console_only


def test_a_job_of_a_sweep_is_the_same_run_as_one_alone(composer, start, tmp_path, in_process):
    overrides = ["model.widths=[4,8]", "trainer.max_epochs=1"]
    alone = read_record(start("alone", *overrides))
    config = OmegaConf.to_container(composer(*TINY, *overrides), resolve=False)
    it = Job(
        0, tmp_path / "s" / "j", ("logger.token=t",), config, {"model": "unet", "hydra/launcher": "local"}, "f", "k"
    )
    it.folder.mkdir(parents=True)
    job_logging = OmegaConf.to_container(
        OmegaConf.load(CONF_DIR / "hydra" / "job_logging" / "segsweep.yaml"), resolve=False
    )
    train_job(it, "s", job_logging, "train", verbose=False)
    logging.shutdown()
    record = read_record(it.folder)
    assert record["status"] == "completed"
    assert (record["sweep"], record["choices"], record["overrides"]) == (
        "s", {"model": "unet"}, ["logger.token=<redacted>"],
    )  # fmt: skip
    assert (record["fingerprint"], record["config"]) == (alone["fingerprint"], alone["config"])
    assert timeless(record["metrics"]) == timeless(alone["metrics"])
    assert "done: " in (it.folder / "log.txt").read_text()


@pytest.mark.slow
def test_failures_cost_one_job_each_and_are_tried_again(tmp_path):
    names = ("Raises", "Exits", "IsKilled", "Hangs")
    targets = ["segsweep.models.unet.UNet", *(f"tests.misbehaving.{name}" for name in names)]
    command = ["-m", *SWEEP, f"model._target_={','.join(targets)}", "sweep.timeout_s=60"]
    result = segsweep(tmp_path, *command)
    assert result.returncode == 3, result.stderr
    folder = tmp_path / "outputs" / "sweeps" / "s"
    with (folder / "failed.csv").open(newline="") as file:
        rows = {row["job"].rpartition(".")[2]: row for row in csv.DictReader(file)}
    assert {name: row["class"] for name, row in rows.items()} == {
        "Raises": "ArithmeticError", "Exits": "exit", "IsKilled": "killed", "Hangs": "timeout",
    }  # fmt: skip
    assert rows["Raises"]["message"] == "'=1+1 is two"
    records = {file.parent: read_record(file.parent) for file in folder.glob("*/record.json")}
    assert sorted(record["status"] for record in records.values()) == ["completed", *["failed"] * 4]
    done = next(run for run, record in records.items() if record["status"] == "completed")
    before = (done / "record.json").read_bytes()
    again = segsweep(tmp_path, *command)
    assert again.returncode == 3
    assert (done / "record.json").read_bytes() == before
    report = subprocess.run(
        [sys.executable, "-m", "segsweep.report.command", str(folder)], capture_output=True, text=True, timeout=300
    )
    assert report.returncode == 0, report.stderr


@pytest.mark.slow
def test_sweepers_of_others_run_jobs_here_too(tmp_path):
    command = ["-m", "hydra/sweeper=basic", *SWEEP, "hydra.sweep.subdir=${hydra.job.num}"]
    result = segsweep(tmp_path, *command, "seed=0,1")
    assert result.returncode == 0, result.stderr
    records = [read_record(tmp_path / "outputs" / "sweeps" / "s" / str(i)) for i in range(2)]
    assert [(record["status"], record["seed"], record["sweep"]) for record in records] == [
        ("completed", 0, "s"), ("completed", 1, "s"),
    ]  # fmt: skip
    refused = segsweep(tmp_path, *command, "optimizer.lr=1e-3,-1")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: optimizer.lr=-1")

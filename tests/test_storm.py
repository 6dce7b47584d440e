"""The storms of ``scripts/storm`` at a small size, each beside the same with the protection off."""

import json
import shutil

import pytest

from kill_sweep import Storm
from mixed_failures import MixedSweep
from resume import ResumeStorm
from same_second import same_second, two_processes
from segsweep.sweep.ledger import mend_ledger
from witness import SweepWitness, digest_of


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # processes beside each other must not wait for each other


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_a_killed_sweep_loses_nothing(tmp_path, alone):
    row = Storm(num_jobs=4, num_kills=3, share=0.5, alone=alone).run(tmp_path)
    assert not row.losses
    assert row.attempts == 3


@pytest.mark.slow
def test_the_kill_storm_notices_a_sweep_that_takes_up_nothing(tmp_path):
    assert Storm(num_jobs=3, num_kills=2, share=0.9, is_control=True).run(tmp_path).losses


@pytest.mark.slow
def test_failures_are_named_and_cost_nothing_else(tmp_path):
    for row in MixedSweep(num_jobs=6, timeout_s=20).run(tmp_path):
        assert not row.losses


@pytest.mark.slow
def test_the_check_of_failures_notices_hydras_own_launcher(tmp_path):
    (row,) = MixedSweep(num_jobs=6, timeout_s=20, is_control=True).run(tmp_path)
    assert "no result of fine0" not in row.losses  # it has run
    assert "no result of fine1" in row.losses  # it comes after the job that kills its process


@pytest.mark.slow
def test_a_continued_run_is_the_same_run(tmp_path):
    for row in ResumeStorm(num_stops=2, num_kills=2).run(tmp_path):
        assert not row.losses


@pytest.mark.slow
def test_the_check_of_continuation_notices_random_numbers_that_go_on(tmp_path):
    (row,) = ResumeStorm(num_stops=1, num_kills=0, is_control=True).run(tmp_path)
    assert row.losses == ["stopped1: other weights"]


@pytest.mark.slow
def test_runs_that_start_in_the_same_second_do_not_meet(tmp_path):
    assert not same_second(tmp_path, 4).losses
    assert not two_processes(tmp_path).losses


@pytest.mark.slow
def test_the_check_of_folders_notices_shared_ones(tmp_path):
    assert same_second(tmp_path, 3, is_control=True).losses
    assert two_processes(tmp_path, is_control=True).losses


@pytest.fixture
def sweep(tmp_path):
    """Two finished jobs, as they lie on the disk."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(json.dumps({"status": "completed"}))
        _tell(tmp_path, name, "running")
        _tell(tmp_path, name, "completed")
    return tmp_path


def _tell(sweep, job, status):
    with (sweep / "ledger.jsonl").open("a") as file:
        file.write(json.dumps({"job": job, "status": status}) + "\n")


def _touch(sweep):
    (sweep / "a" / "log.txt").write_text("complete already")


def _lose(sweep):
    shutil.rmtree(sweep / "a")


def _run_again(sweep):
    _tell(sweep, "a", "running")


@pytest.mark.parametrize(
    ("damage", "said"),
    [(None, None), (_touch, "was changed"), (_lose, "no longer complete"), (_run_again, "the ledger says")],
)
def test_the_witness_sees_what_is_lost(sweep, damage, said):
    witness = SweepWitness(sweep)
    witness.look()
    if damage is not None:
        damage(sweep)
    losses = witness.judge(2)
    assert (not losses) if said is None else said in losses[0]


def test_the_witness_misses_jobs(sweep):
    assert SweepWitness(sweep).judge(3) == ["2 results instead of 3"]


def test_a_line_that_a_kill_kept_from_the_ledger_is_added_once(sweep):
    (sweep / "c").mkdir()
    (sweep / "c" / "record.json").write_text(json.dumps({"status": "completed"}))
    with (sweep / "ledger.jsonl").open("a") as file:
        file.write('{"job": "c", "status": "running"}\n{"job": "c", "sta')
    assert SweepWitness(sweep).judge(3) == ["c: the ledger says running"]
    for _ in range(2):
        mend_ledger(sweep, ["a", "b", "c"])
    assert SweepWitness(sweep).judge(3) == []


def test_a_digest_depends_on_names_and_bytes(tmp_path):
    digests = set()
    for name, content in (("x", b"1"), ("y", b"1"), ("x", b"2"), ("x", b"")):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / name).write_bytes(content)
        digests.add(digest_of(tmp_path / "run"))
    assert len(digests) == 4

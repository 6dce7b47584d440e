"""The pool survives whatever its jobs do; jobs without torch, so that they start in a moment."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver

import pytest

from segsweep.run import open_run, read_record
from segsweep.sweep import SweepOptions, ending
from segsweep.sweep import pool as pool_module
from segsweep.sweep.machine import Machine
from segsweep.sweep.pool import Pool
from segsweep.sweep.processes import call
from tests.jobs import job, target


def run(folder, *whats, cores=2, events=None, **options):
    """Runs jobs; what became of them, in their order."""
    jobs = [what if not isinstance(what, str) else job(folder, what, i) for i, what in enumerate(whats)]
    with make_pool(len(jobs), cores, events, **options) as pool:
        for each in jobs:
            pool.submit(each)
        outcomes = [pool.outcome() for _ in jobs]
        assert pool.is_idle
    return sorted(outcomes, key=lambda outcome: outcome.job.index)


def make_pool(num_jobs, cores=2, events=None, **options):
    hear = (lambda event: None) if events is None else events.append
    return Pool(SweepOptions(**options), num_jobs, target, hear, sweep="s", machine=Machine(cores), preload=())


def ledger(folder):
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    return [(line["job"], line["status"]) for line in map(json.loads, lines)]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie waits for its exit code to be read
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_each_kind_of_failure_is_named_and_costs_one_job(tmp_path):
    whats = ["works", "raises", "exits_at_once", "is_killed", "crashes", "works"]
    outcomes = run(tmp_path, *whats)
    assert [outcome.status for outcome in outcomes] == ["completed", *["failed"] * 4, "completed"]
    assert [(outcome.error or {}).get("class") for outcome in outcomes] == [
        None, "ValueError", "exit", "killed", "killed", None,
    ]  # fmt: skip
    assert outcomes[0].value == 0.5
    assert "exit code 4" in outcomes[2].error["message"]
    assert "SIGKILL" in outcomes[3].error["message"]
    assert "SIGSEGV" in outcomes[4].error["message"]
    for outcome in outcomes:
        record = read_record(outcome.job.folder)
        assert (record["status"], record["error"]) == (outcome.status, outcome.error)
        assert record["finished"]
    states = ledger(tmp_path)
    for i, what in enumerate(whats):
        name, last = f"{i}_{what}", "completed" if what == "works" else "failed"
        assert [status for job, status in states if job == name] == ["running", last]
    log = (tmp_path / "3_is_killed" / "log.txt").read_text()
    assert log == "my last words\n"
    assert "ValueError: bad" in (tmp_path / "1_raises" / "log.txt").read_text()
    assert "Segmentation fault" in (tmp_path / "4_crashes" / "log.txt").read_text()


def test_what_fails_before_its_run_has_a_record_too(tmp_path):
    jobs = [
        job(tmp_path, what, i, config={"what": what, "outside": True}, overrides=("logger.api_key=k",))
        for i, what in enumerate(("raises", "exits", "is_killed"))
    ]
    outcomes = run(tmp_path, *jobs)
    assert [outcome.error["class"] for outcome in outcomes] == ["ValueError", "exit", "killed"]
    for outcome in outcomes:
        record = read_record(outcome.job.folder)
        assert record["status"] == "failed"
        assert record["fingerprint"] == outcome.job.fingerprint  # so the same command may try again
        assert record["overrides"] == ["logger.api_key=<redacted>"]
    same = [job(tmp_path, "works", i, folder=each.folder, fingerprint=each.fingerprint) for i, each in enumerate(jobs)]
    again = run(tmp_path, *same)
    assert [outcome.status for outcome in again] == ["completed"] * 3


def test_a_run_that_is_not_ours_is_left_as_it_is(tmp_path):
    other, held = job(tmp_path, "works", 0), job(tmp_path, "works", 1)
    for each in (other, held):
        each.folder.mkdir()
    with open_run(other.folder, {"fingerprint": "another", "config": {"seed": 1}, "sweep": None}):
        pass
    before = (other.folder / "record.json").read_bytes()
    with open_run(held.folder, {"fingerprint": held.fingerprint, "config": {}, "sweep": None}):
        outcomes = run(tmp_path, other, held)
        assert read_record(held.folder)["status"] == "running"
    assert (other.folder / "record.json").read_bytes() == before
    assert [outcome.error["class"] for outcome in outcomes] == ["config", "config"]
    assert "another config" in outcomes[0].error["message"]
    assert "another process" in outcomes[1].error["message"]


def test_a_finished_job_stays_finished(tmp_path):
    first = run(tmp_path, "works")
    record = (first[0].job.folder / "record.json").read_bytes()
    assert run(tmp_path, "works") == first
    assert (first[0].job.folder / "record.json").read_bytes() == record


def test_limits_end_a_job_and_what_is_below_it(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "GRACE_S", 0.3)
    start = time.monotonic()
    hung = run(tmp_path, "hangs_with_a_child", timeout_s=1.5)[0]
    assert time.monotonic() - start < 20
    assert hung.error == {"class": "timeout", "message": "took longer than sweep.timeout_s=1.5"}
    assert read_record(hung.job.folder)["error"]["class"] == "timeout"
    assert read_record(hung.job.folder)["peak_memory_mb"]["host"] > 1
    wait_for(lambda: not is_alive((hung.job.folder / "grandchild").read_text()))

    polite = run(tmp_path, "waits", timeout_s=1)[0]  # it marks itself interrupted, but was too slow all the same
    assert (polite.status, polite.error["class"]) == ("failed", "timeout")
    assert read_record(polite.job.folder)["status"] == "failed"

    greedy = run(tmp_path, "eats", memory_gb=0.2)[0]
    assert greedy.error["class"] == "oom"
    assert "sweep.memory_gb=0.2" in greedy.error["message"]


def test_jobs_overlap_and_keep_to_their_places(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMETHING", "set after the server started")
    slow = {"what": "works", "seconds": 0.5}
    events = []
    outcomes = run(
        tmp_path, *(job(tmp_path, "works", i, config=slow) for i in range(3)), cores=5, jobs=2, events=events
    )
    times = [read_record(outcome.job.folder)["times"] for outcome in outcomes]
    assert max(times[0]["from"], times[1]["from"]) < min(times[0]["to"], times[1]["to"])
    assert times[2]["from"] > min(times[0]["to"], times[1]["to"])
    assert len({each["pid"] for each in times}) == 3
    environments = [each["environment"] for each in times]
    assert {each["OMP_NUM_THREADS"] for each in environments} == {"2"}
    assert {each["SOMETHING"] for each in environments} == {"set after the server started"}
    assert environments[0]["TORCHINDUCTOR_CACHE_DIR"] != environments[1]["TORCHINDUCTOR_CACHE_DIR"]
    assert [event.kind for event in events].count("ended") == 3
    assert all(event.seconds > 0.4 for event in events if event.kind == "ended")


def test_a_search_asks_when_there_is_room(tmp_path):
    with make_pool(4) as pool:
        assert pool.free == 2
        pool.submit(job(tmp_path, "works", 0))
        assert pool.free == 1
        pool.submit(job(tmp_path, "works", 1))
        pool.submit(job(tmp_path, "works", 2))
        assert pool.free == 0
        for _ in range(3):
            assert pool.outcome().status == "completed"
        assert pool.free == 2
        with pytest.raises(RuntimeError, match="no job to wait for"):
            pool.outcome()


def test_an_error_of_the_sweeper_ends_its_jobs(tmp_path):
    waiting = job(tmp_path, "waits")
    with pytest.raises(ZeroDivisionError), make_pool(1) as pool:  # noqa: PT012
        pool.submit(waiting)
        wait_for((waiting.folder / "hangs").exists)
        raise ZeroDivisionError
    assert read_record(waiting.folder)["status"] == "interrupted"


@pytest.fixture
def program(tmp_path):
    """Starts a program with two endless jobs, in a process group of its own; returns it and their process ids."""
    started = []

    def start(what):
        command = [sys.executable, "-m", "tests.jobs", str(tmp_path), what]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True))
        files = [tmp_path / f"{i}_{what}" / "hangs" for i in range(2)]
        wait_for(lambda: all(file.exists() and file.read_text() for file in files))
        return started[0], [int(file.read_text()) for file in files]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _as_timeout_does(process):
    process.terminate()
    os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("send", "code"),
    [
        pytest.param(lambda process: os.killpg(process.pid, signal.SIGINT), 130, id="terminal"),
        pytest.param(lambda process: process.terminate(), 143, id="kill", marks=pytest.mark.slow),
        pytest.param(lambda process: os.killpg(process.pid, signal.SIGTERM), 143, id="systemd", marks=pytest.mark.slow),
        pytest.param(_as_timeout_does, 143, id="timeout"),
    ],
)
def test_jobs_are_interrupted_when_the_sweep_is(program, tmp_path, send, code):
    process, _ = program("waits")
    send(process)
    _, stderr = process.communicate(timeout=20)
    # As a shell says it: the second signal of a slow sender may come when all is done and nobody handles it any more.
    assert (process.returncode if process.returncode >= 0 else 128 - process.returncode) == code
    assert "Traceback" not in stderr
    records = [read_record(tmp_path / f"{i}_waits") for i in range(2)]
    # The class is the run's own: it has ended as it wanted to.
    assert [(record["status"], record["error"]["class"]) for record in records] == [("interrupted", "SIGTERM")] * 2
    assert sorted(ledger(tmp_path)[2:]) == [("0_waits", "interrupted"), ("1_waits", "interrupted")]
    assert "at once" not in stderr
    assert not (tmp_path / "2_waits").exists()  # nothing new was started


@pytest.mark.slow
def test_a_second_ctrl_c_kills(program, tmp_path):
    process, pids = program("hangs")
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # the same request: programs in between may pass it on once more
    time.sleep(1)
    assert all(map(is_alive, pids))  # they have 10 s
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 130
    assert time.monotonic() - start < 5
    assert not any(map(is_alive, pids))
    assert read_record(tmp_path / "0_hangs")["status"] == "interrupted"


def test_jobs_of_a_server_that_dies_are_named_and_tried_again(tmp_path):
    waiting = [job(tmp_path, "hangs", i) for i in range(2)]
    with make_pool(3) as pool:
        for each in waiting:
            pool.submit(each)
        wait_for(lambda: all((each.folder / "hangs").exists() for each in waiting))
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        outcomes = [pool.outcome() for _ in waiting]
        pool.submit(job(tmp_path, "works", 2))
        assert pool.outcome().status == "completed"  # by a new server
    for outcome in outcomes:
        assert (outcome.status, outcome.error["class"]) == ("failed", "killed")
        assert "the server that jobs are forked from ended" in outcome.error["message"]
        assert read_record(outcome.job.folder)["error"] == outcome.error
    assert [status for name, status in ledger(tmp_path) if name == "0_hangs"] == ["running", "failed"]


def test_a_full_disk_costs_jobs_and_not_the_sweep(tmp_path, monkeypatch):
    def full(folder, *args):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "record.json"))

    (tmp_path / "1_works").touch()  # no folder can be made there
    events = []
    with monkeypatch.context() as patch:
        patch.setattr(ending, "close_run", full)
        outcomes = run(tmp_path, "is_killed", "works", "works", events=events)
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "completed"]
    killed, lacks_folder = (outcome.error for outcome in outcomes[:2])
    assert killed["class"] == "disk"
    assert "SIGKILL" in killed["message"]
    assert str(tmp_path / "0_is_killed" / "record.json") in killed["message"]
    assert lacks_folder["class"] == "FileExistsError"
    assert str(tmp_path / "1_works") in lacks_folder["message"]
    assert len([event for event in events if event.kind == "ended"]) == 3


def test_a_damaged_record_does_not_hide_how_a_job_ended(tmp_path):
    torn = job(tmp_path, "exits_at_once")
    torn.folder.mkdir()
    (torn.folder / "record.json").write_text('{"status": "runn')
    run(tmp_path, torn)
    assert read_record(torn.folder)["status"] == "failed"
    assert (torn.folder / "record.json.damaged").read_text() == '{"status": "runn'


def test_jobs_end_with_a_killed_sweep(program):
    process, pids = program("hangs")
    assert {os.getpgid(pid) for pid in pids} == {process.pid}
    process.kill()
    wait_for(lambda: not any(map(is_alive, pids)))


def _add(a, b):
    return a + b


def _raise(error):
    raise error


class TwoPartError(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


def _raise_two():
    raise TwoPartError("x", "y")


def test_call_gives_back_results_and_errors():
    assert call(_add, 1, 2, preload=()) == 3
    with pytest.raises(ZeroDivisionError, match="by zero") as info:
        call(_raise, ZeroDivisionError("by zero"), preload=())
    assert "_raise" in info.value.__notes__[0]
    with pytest.raises(SystemExit) as info:
        call(sys.exit, 2, preload=())
    assert info.value.code == 2
    with pytest.raises(RuntimeError, match="TwoPartError: x y"):  # its pickle cannot be read
        call(_raise_two, preload=())
    with pytest.raises(RuntimeError, match="_exit: its process ended with exit code 7"):
        call(os._exit, 7, preload=())

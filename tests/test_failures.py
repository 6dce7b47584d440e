import csv
import errno
import json

from segsweep.sweep import Outcome, failures
from segsweep.sweep.failures import last_lines, write_failures
from tests.jobs import job


def failed(folder, index, error, **changes):
    it = job(folder, "raises", index, **changes)
    it.folder.mkdir(parents=True, exist_ok=True)
    return Outcome(it, "failed", error)


def rows(folder):
    with (folder / "failed.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_failed_jobs_are_listed_with_what_it_takes_to_look_into_them(tmp_path):
    first = failed(tmp_path, 0, {"class": "ValueError", "message": 'bad,\n "value" \x1b[31m'})
    (first.job.folder / "metrics.jsonl").write_text(
        '{"epoch": 0, "step": 3}\n{"epoch": 1, "step": 6}\n{"epoch": 2, "st'
    )
    record = {"status": "failed", "peak_memory_mb": {"host": 512.5, "device": 1000.0}}
    (first.job.folder / "record.json").write_text(json.dumps(record))
    second = failed(tmp_path, 1, {"class": "oom", "message": "=cmd"}, overrides=("model=unet", "logger.token=t"))
    done = Outcome(job(tmp_path, "works", 2), "completed", value=0.5)
    assert write_failures(tmp_path, [first, done, second]) == tmp_path / "failed.csv"
    assert rows(tmp_path) == [
        {
            "job": "0_raises", "class": "ValueError", "message": 'bad, "value" [31m',
            "overrides": "model=raises seed=0",
            "step": "6", "epoch": "2", "peak_memory_mb": "1000.0", "log": "0_raises/log.txt",
        },
        {
            "job": "1_raises", "class": "oom", "message": "'=cmd", "overrides": "model=unet logger.token=<redacted>",
            "step": "", "epoch": "", "peak_memory_mb": "", "log": "1_raises/log.txt",
        },
    ]  # fmt: skip


def test_failures_that_still_stand_are_listed(tmp_path):
    before = [failed(tmp_path, i, {}, fingerprint=f"f{i}") for i in range(4)]
    for outcome in before:
        record = {"status": "failed", "error": {"class": "oom", "message": "big"}, "overrides": ["seed=0"]}
        (outcome.job.folder / "record.json").write_text(json.dumps(record))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "record.json").write_text('{"stat')
    done, again, _, _ = (outcome.job for outcome in before)
    write_failures(tmp_path, [Outcome(done, "completed"), Outcome(again, "failed", {"class": "nan", "message": "x"})])
    assert [(row["job"], row["class"]) for row in rows(tmp_path)] == [
        ("2_raises", "oom"), ("3_raises", "oom"), ("1_raises", "nan"),
    ]  # fmt: skip
    assert rows(tmp_path)[0]["overrides"] == "seed=0"


def test_paths_can_be_opened_as_they_are_listed(tmp_path):
    it = job(tmp_path, "raises", folder=tmp_path / "+model.fault=raise,seed=0")
    write_failures(tmp_path, [Outcome(it, "failed", {})])
    row = rows(tmp_path)[0]
    assert (row["job"], row["log"]) == ("./+model.fault=raise,seed=0", "./+model.fault=raise,seed=0/log.txt")


def test_a_list_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch, caplog):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(failures, "write_atomic", full)
    assert write_failures(tmp_path, [failed(tmp_path, 0, {})]) is None
    assert "failed.csv" in caplog.text


def test_the_list_goes_when_nothing_fails_any_more(tmp_path):
    write_failures(tmp_path, [failed(tmp_path, 0, {"class": "x", "message": "y"})])
    assert write_failures(tmp_path, [Outcome(job(tmp_path, "works"), "completed")]) is None
    assert not (tmp_path / "failed.csv").exists()


def test_only_whole_lines_count(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert last_lines(file, 1) == []
    file.write_text('{"epoch": 0}\nbroken\n{"epoch": 1}\n{"epoch": 2}')
    assert last_lines(file, 5) == [{"epoch": 0}, {"epoch": 1}]

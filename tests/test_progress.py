import io
import json

import pytest

from segsweep.sweep import Outcome
from segsweep.sweep.pool import Event
from segsweep.sweep.progress import Progress, how_far
from tests.jobs import job


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def jobs(tmp_path):
    jobs = [job(tmp_path, "works", i, config={"trainer": {"max_epochs": 8}, "monitor": "${x:y}"}) for i in range(4)]
    for each in jobs:
        each.folder.mkdir()
    return jobs


def end(job, status, seconds=30.0, **fields):
    return Event("ended", job, Outcome(job, status, **fields), seconds)


def test_plain_lines_where_nobody_looks(jobs):
    stream = io.StringIO()
    record = {"status": "completed", "metrics": {"test/miou": 0.51239}}
    (jobs[0].folder / "record.json").write_text(json.dumps(record))
    with Progress(5, 1, at_once=2, stream=stream) as progress:
        for each in jobs[:2]:
            progress(Event("started", each))
        progress(end(jobs[0], "completed"))
        progress(end(jobs[1], "failed", error={"class": "oom", "message": "took\ntoo \x1b]0;much [red]"}))
        assert progress.summary() == "2/5 done, 1 failed, 1 done before, about 30 s left"
    assert stream.getvalue().splitlines() == [
        "job 1/5 starts: 0_works",
        "job 2/5 starts: 1_works",
        "job 1/5 completed in 30.0 s: 0_works, test mIoU 0.5124",
        f"job 2/5 failed after 30 s: 1_works: oom: took too ]0;much [red]. Log: {jobs[1].folder}/log.txt",
    ]


def test_a_live_line_for_each_job_and_the_sweep(jobs):
    stream = Terminal()
    with Progress(4, stream=stream) as progress:
        progress(Event("started", jobs[0]))
        progress._live.refresh()
        assert "0_works  epoch 0/8  0 s" in stream.getvalue()
        assert "sweep: 0/4 done, 1 running" in stream.getvalue()
        progress(end(jobs[0], "interrupted"))
    assert "interrupted after 30.0 s: 0_works" in stream.getvalue()


def test_how_far_a_job_is(jobs):
    assert how_far(jobs[0]) == "epoch 0/8"
    line = {"epoch": 2, "step": 9, "val/miou": 0.25, "val/loss": 1.5, "train/images_per_s": 123.4}
    (jobs[0].folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert how_far(jobs[0]) == "epoch 3/8  val/miou 0.2500  123 images/s"
    jobs[0].config["monitor"] = "val/loss"
    assert how_far(jobs[0]) == "epoch 3/8  val/loss 1.5000  123 images/s"

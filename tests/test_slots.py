"""Who runs where, on made-up machines."""

import pytest

from segsweep.sweep import SweepOptions
from segsweep.sweep.machine import Device, Machine, usable_cores
from segsweep.sweep.slots import Slots
from tests.jobs import job

GB = 1000.0
GPU = {"trainer": {"accelerator": "auto"}}


def slots(num_jobs, cores, *memory_gb, **options):
    devices = tuple(Device(str(i), memory * GB) for i, memory in enumerate(memory_gb))
    return Slots(SweepOptions(**options), num_jobs, Machine(cores, devices))


@pytest.fixture
def a_job(tmp_path):
    return lambda kind="a", **trainer: job(tmp_path, kind, config={"trainer": {**GPU["trainer"], **trainer}})


@pytest.mark.parametrize(
    ("cores", "jobs", "num_jobs", "at_once", "threads"),
    [
        (8, "auto", 20, 8, 1),
        (8, "auto", 3, 3, 2),  # fewer jobs than cores: more threads each
        (8, 2, 20, 2, 4),
        (8, 3, 20, 3, 2),
        (2, 4, 20, 4, 1),
        (8, 4, 1, 1, 8),
    ],
)
def test_cores_are_divided_between_jobs(cores, jobs, num_jobs, at_once, threads, a_job):
    places = slots(num_jobs, cores, jobs=jobs)
    assert (places.at_once, places.threads) == (at_once, threads)
    taken = [places.take(a_job()) for _ in range(at_once)]
    assert [place.slot for place in taken] == list(range(at_once))
    assert {place.devices for place in taken} == {None}
    assert places.take(a_job()) is None
    places.give_back(taken[0], "a")
    assert places.take(a_job()).slot == 0


def test_every_gpu_gets_as_many_jobs_as_asked_for(a_job):
    places = slots(20, 16, 24, 24, jobs_per_device=2)
    taken = [places.take(a_job()) for _ in range(4)]
    assert [place.devices for place in taken] == [("0",), ("1",), ("0",), ("1",)]
    assert taken[1].environment()["CUDA_VISIBLE_DEVICES"] == "1"
    assert places.take(a_job()) is None
    places.give_back(taken[3], "a")
    assert places.take(a_job()).devices == ("1",)


def test_the_first_of_a_kind_is_measured_alone_then_they_are_packed(a_job):
    places = slots(40, 16, 24, jobs_per_device="auto")
    first = places.take(a_job("a"))
    assert places.take(a_job("a")) is None
    assert places.take(a_job("b")) is None
    places.give_back(first, "a", {"device_reserved": 4.7 * GB})  # 5.4 with what CUDA itself takes
    packed = [places.take(a_job("a")) for _ in range(5)]
    assert [place is not None for place in packed] == [True] * 4 + [False]  # 4 * 5.4 <= 0.9 * 24 < 5 * 5.4
    assert places.take(a_job("b")) is None  # has to be measured, too
    for place in packed[:4]:
        places.give_back(place, "a", {"device_reserved": 4.7 * GB})
    assert places.take(a_job("b")) is not None


def test_kinds_are_measured_on_several_gpus_at_once(a_job):
    places = slots(40, 16, 24, 80, jobs_per_device="auto")
    taken = [places.take(a_job(kind)) for kind in "ab"]
    assert {place.devices for place in taken} == {("0",), ("1",)}
    assert places.take(a_job("a")) is None


def test_a_job_that_was_not_measured_tells_nothing(a_job):
    places = slots(40, 16, 24, jobs_per_device="auto")
    for peak in (None, {"host": 1.0}):
        places.give_back(places.take(a_job()), "a", peak)
    assert places.take(a_job()) is not None
    assert places.take(a_job()) is None


def test_a_job_too_large_for_its_share_still_runs_alone(a_job):
    places = slots(40, 16, 24, jobs_per_device="auto")
    places.give_back(places.take(a_job()), "a", {"device_reserved": 23.5 * GB})
    assert places.take(a_job()) is not None
    assert places.take(a_job()) is None


def test_a_job_may_want_several_gpus_or_none(a_job):
    places = slots(10, 16, 24, 24, 24, jobs=10)
    pair = places.take(a_job(devices=2))
    assert pair.devices == ("0", "1")
    assert places.take(a_job(devices=2)) is None
    assert places.take(a_job(devices=1)).devices == ("2",)
    on_cpu = places.take(a_job(accelerator="cpu"))
    assert on_cpu.devices is None
    assert "CUDA_VISIBLE_DEVICES" not in on_cpu.environment()
    assert slots(1, 16, 24).take(a_job(devices=8)).devices == ("0",)  # torch will say what is wrong


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_cores_that_a_container_grants(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(64), raising=False)
    groups = tmp_path / "cgroup"
    groups.write_text("9:name=systemd:/\n3:cpu,cpuacct:/\n0::/a/b\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(groups, tmp_path) == cores

"""Accuracy against the size of a code, from records written by hand."""

import csv

import pytest

from segsweep.report.compression import compression
from segsweep.report.leaderboard import main
from segsweep.report.runs import compare, find_records
from tests.records import write_record

SCORES = {64: 0.80, 16: 0.75, 4: 0.60}  # channels of a 6x6 code -> test mIoU


@pytest.fixture
def sweep(tmp_path):
    for channels, score in SCORES.items():
        for seed in range(3):
            values = channels * 36
            write_record(
                tmp_path / f"latent={channels},seed={seed}", score + 0.1 * seed, seed=seed, model="segment_latent",
                config={"latent_channels": channels}, code={"values": values, "reduction": 48 * 48 * 3 / values},
                images_per_s={"train": 100.0, "inference": 8000.0 / channels},
            )  # fmt: skip
    return tmp_path


def section(folder):
    return compression(compare(find_records([folder]), "test/miou"))


def test_the_curve_runs_over_sizes_of_the_code(sweep):
    (part,) = section(sweep).parts
    accuracy, speed = part.panels
    (line,) = accuracy.lines
    assert [x for x, _ in line.points] == [3, 12, 48]
    assert [y.mean for _, y in line.points] == pytest.approx([0.9, 0.85, 0.7])
    assert [y.mean for _, y in speed.lines[0].points] == pytest.approx([125, 500, 2000])
    assert part.sentences == [
        "model=segment_latent: from a reduction of 3x to 48x: -0.2000 test mIoU, 95 % interval -0.2000 to -0.2000 "
        "(paired over 3 seeds); 125 -> 2,000 images/s in inference."
    ]


def test_the_best_run_without_a_code_stands_beside_it(sweep):
    for model, score in (("unet", 0.85), ("fcn", 0.65)):
        for seed in range(3):
            write_record(sweep / f"{model}{seed}", score + 0.1 * seed, seed=seed, model=model)
    (part,) = section(sweep).parts
    assert part.panels[0].level == (pytest.approx(0.95), "no code: model=unet")
    main([str(sweep)])
    with (sweep / "report" / "compression.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["reduction"] for row in rows] == ["3", "12", "48", "-"]
    assert [row["values"] for row in rows] == ["2304", "576", "144", "-"]
    assert [row["difference"] for row in rows] == ["-0.050000", "-0.100000", "-0.250000", "-"]
    assert (sweep / "report" / "compression.svg").stat().st_size > 1000


def test_any_model_with_a_code_joins(sweep):
    for values in (100, 200):
        more = {"model": "another", "config": {"size": values}, "code": {"values": values, "reduction": 6912 / values}}
        write_record(sweep / f"another{values}", 0.5, **more)
    (part,) = section(sweep).parts
    assert {line.name.split()[0] for line in part.panels[0].lines} == {"model=segment_latent", "model=another"}


def test_one_size_is_no_curve(tmp_path):
    write_record(tmp_path / "a", 0.5, model="segment_latent", code={"values": 100, "reduction": 4.0})
    write_record(tmp_path / "b", 0.5)
    assert section(tmp_path) is None
    main([str(tmp_path)])
    assert not (tmp_path / "report" / "compression.md").exists()

"""Accuracy against the size of a code, from records written by hand."""

import csv

import pytest

from segsweep.report.command import main
from segsweep.report.compression import compression
from segsweep.report.records import find_records
from segsweep.report.runs import compare
from tests.records import write_record

pytestmark = pytest.mark.usefixtures("without_figures")
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
    return compression(compare(find_records([folder])))


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


def test_stored_codes_have_a_speed_of_their_own(tmp_path):
    for channels in SCORES:
        speeds = {"train": 100.0, "inference": 1000.0, "from_code": 64_000.0 / channels}
        write_record(
            tmp_path / str(channels), 0.5, model="segment_latent", config={"latent_channels": channels},
            code={"values": channels * 36, "reduction": 192 / channels}, images_per_s=speeds,
        )  # fmt: skip
    write_record(tmp_path / "unet", 0.6)
    (part,) = (found := section(tmp_path)).parts
    assert found.columns == len(part.panels) == 3
    assert [y.mean for _, y in part.panels[2].lines[0].points] == [1000, 4000, 16_000]
    assert part.panels[2].level is None  # who segments the image itself has no codes to start from
    assert "1,000 -> 16,000 from stored codes" in part.sentences[0]
    column = part.tables[0].header.index("from code")
    assert [row[column] for row in part.tables[0].rows] == ["1,000", "4,000", "16,000", "-"]


def test_one_size_in_two_ways_gives_two_curves(tmp_path):
    for widths, stride in (([8, 16], 2), ([8, 16, 32], 4)):
        for channels in (4, 1):
            code = {"values": channels * (48 // stride) ** 2, "reduction": stride**2 / channels}
            config = {"latent_channels": channels, "widths": widths}
            folder = tmp_path / f"{stride}-{channels}"
            write_record(folder, 0.5, model="segment_latent", config=config, code=code)
    (part,) = section(tmp_path).parts
    found = {line.name: [x for x, _ in line.points] for line in part.panels[0].lines}
    assert found == {"model.widths=[8, 16]": [1, 4], "model.widths=[8, 16, 32]": [4, 16]}


def test_one_size_is_no_curve(tmp_path):
    write_record(tmp_path / "a", 0.5, model="segment_latent", code={"values": 100, "reduction": 4.0})
    write_record(tmp_path / "b", 0.5)
    assert section(tmp_path) is None
    main([str(tmp_path)])
    assert not (tmp_path / "report" / "compression.md").exists()

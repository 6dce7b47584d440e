"""The section on several datasets, from records written by hand."""

import csv

import pytest

from segsweep.report.command import main
from segsweep.report.judge import judge
from segsweep.report.records import find_records
from segsweep.report.runs import compare
from segsweep.report.several import several
from tests.records import DATA, write_record

pytestmark = pytest.mark.usefixtures("without_figures")
MODELS = {"unet": 0.8, "reseg": 0.75, "conv_autoencoder": 0.6}


def write(folder, num_datasets, models=MODELS):
    for data in range(num_datasets):
        facts = {"data": {**DATA, "fingerprint": f"d{data}"}}
        for model, score in models.items():
            for seed in range(3):
                noise = ((data * 7 + seed * 3 + len(model)) % 5) / 1000
                choices = {"model": model, "regime": "supervised", "data": f"data{data}"}
                write_record(folder / f"{data}-{model}-{seed}", score - data / 50 + noise, seed=seed, model=model,
                             choices=choices, **facts)  # fmt: skip
    return folder


def section(folder):
    comparisons = compare(find_records([folder]))
    return several(comparisons, [judge(comparison) for comparison in comparisons])


@pytest.mark.parametrize("num", [0, 1])
def test_fewer_than_two_datasets_make_no_section(tmp_path, num):
    assert section(write(tmp_path, num)) is None if num else several([], []) is None


def test_differences_on_each_dataset_come_first(tmp_path):
    (part,) = section(write(tmp_path, 3)).parts
    scores, differences = part.tables
    assert [row[0] for row in scores.rows] == ["model=unet", "model=reseg", "model=conv_autoencoder"]
    assert len(differences.rows) == 3
    assert all(cell.startswith("+0.0") for cell in differences.rows[0][2:5])
    assert part.sentences[0].startswith(
        "model=unet scores higher than model=reseg on 3 of 3 datasets, lower on 0, undecided"
    )
    assert any(line.startswith("no ranks: with fewer than 6 datasets") for line in part.sentences)
    assert part.figures == []


def test_six_datasets_are_ranked(tmp_path):
    (part,) = section(write(tmp_path, 6)).parts
    assert [row[-1] for row in part.tables[0].rows] == ["1.00", "2.00", "3.00"]
    assert any("critical difference" in line for line in part.notes)
    (diagram,) = part.figures
    assert "model=unet 1.00" in diagram.svg
    # sqrt(3 x 4 / (6 x 6)) x 2.343 = 1.353: neighbours lie within it, the first and the last do not
    assert "critical difference 1.35" in diagram.svg
    assert diagram.svg.count('class="alike"') == 2


def test_the_files_have_the_section(tmp_path):
    folder = write(tmp_path, 6)
    main([str(folder)])
    report = folder / "report"
    with (report / "datasets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 6
    assert "[Over several datasets](datasets.md)" in (report / "report.md").read_text()
    assert "Mean ranks over 6 datasets" in (report / "index.html").read_text()

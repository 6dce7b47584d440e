"""Models that have seen no label beside their controls, from records written by hand."""

import csv

import pytest

from segsweep.report.command import main
from segsweep.report.readout import readout
from segsweep.report.records import find_records
from segsweep.report.runs import compare
from tests.records import write_record

pytestmark = pytest.mark.usefixtures("without_figures")


def scores(clusters, prior=0.3):
    values = {"clusters": clusters, "probe": 0.8, "colour_clusters": 0.2, "xy_clusters": 0.1, "location_prior": prior}
    return {name: {"test/miou": value, "test/pixel_accuracy": 0.5} for name, value in values.items()}


def write(folder, model, clusters, **changes):
    for seed, score in enumerate(clusters):
        write_record(
            folder / f"{model}{seed}", score, seed=seed, model=model, regime="unsupervised", readout=scores(score),
            **changes,
        )  # fmt: skip


def section(folder):
    return readout(compare(find_records([folder])))


@pytest.mark.parametrize(
    ("clusters", "sentence"),
    [
        ((0.39, 0.40, 0.41), "model=x: beats its best control, location prior: +0.1000 test mIoU, 95 % interval"),
        ((0.19, 0.20, 0.21), "model=x: loses to its best control, location prior: -0.1000 test mIoU, 95 % interval"),
        ((0.20, 0.30, 0.41), "model=x: is not shown to differ from its best control, location prior: +0.0033"),
        ((0.50,), "model=x: too few seeds to compare clusters and controls."),
    ],
)
def test_the_sentence_holds_clusters_against_the_best_control(tmp_path, clusters, sentence):
    write(tmp_path, "x", clusters)
    (part,) = section(tmp_path).parts
    assert part.sentences[0].startswith(sentence)


def test_the_table_and_its_files(tmp_path, capsys):
    write(tmp_path, "x", (0.39, 0.40, 0.41))
    write(tmp_path, "y", (0.25,))
    write_record(tmp_path / "supervised", 0.9)  # has no readout, and no place here
    (part,) = section(tmp_path).parts
    (table,) = part.tables
    x, y = table.rows
    assert x[1:] == (
        "0.4000 ± 0.0248", "0.8000 ± 0.0000", "0.2000 ± 0.0000", "0.1000 ± 0.0000", "0.3000 ± 0.0000",
        "+0.1000 ± 0.0248", "3",
    )  # fmt: skip
    assert y[1:] == ("0.2500", "0.8000", "0.2000", "0.1000", "0.3000", "-0.0500", "1")
    main([str(tmp_path)])
    out = tmp_path / "report"
    with (out / "readout.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["readout"] for row in rows[:3]] == ["clusters", "probe", "colour_clusters"]
    assert (rows[0]["mean"], rows[0]["n"], rows[0]["clusters"]) == ("0.400000", "3", "classes")
    assert "| model=x" in (out / "readout.md").read_text().replace("regime=unsupervised ", "")
    assert not (out / "readout.svg").exists()
    assert "readout.md, .csv" in capsys.readouterr().out


def test_more_clusters_than_classes_are_called_an_upper_bound(tmp_path):
    node = {"stages": "unsupervised", "readout": {"clusters": 20}}
    write_record(tmp_path / "a", 0.5, readout=scores(0.5))
    record = tmp_path / "a" / "record.json"
    import json

    content = json.loads(record.read_text())
    content["config"]["regime"] = node
    record.write_text(json.dumps(content))
    (part,) = section(tmp_path).parts
    assert part.sentences[0].endswith("20 clusters, many to one: an upper bound.")


def test_no_run_without_labels_no_section(tmp_path):
    write_record(tmp_path / "a", 0.5)
    assert section(tmp_path) is None
    main([str(tmp_path)])
    assert not (tmp_path / "report" / "readout.md").exists()

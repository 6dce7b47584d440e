"""The report on records written by hand: what is ranked with what, and what must never vanish."""

import csv
import json
import statistics

import pytest

from segsweep.report.command import main
from segsweep.report.records import find_records
from segsweep.report.runs import compare

pytestmark = pytest.mark.usefixtures("without_figures")
DATA = {
    "fingerprint": "d1", "split_sizes": {"train": 8, "val": 2, "test": 2}, "size": [48, 48],
    "class_names": ["background", "thing"], "labelled_fraction": 1.0,
}  # fmt: skip
FLOORS = {"most_frequent": {"test/miou": 0.1}, "location_prior": {"test/miou": 0.2}}


@pytest.fixture
def write(tmp_path):
    """``write("folder", model, seed, miou, ...)`` puts a record there."""

    def record(folder, model, seed, miou, **changes):
        config = {"model": {"_target_": model}, "optimizer": {"lr": changes.pop("lr", 0.01)}, "seed": seed}
        config["loss"] = {"terms": {"reconstruction": 0.1}}
        content = {
            "schema": 1, "status": "completed", "error": None, "started": "2026-01-01", "seed": seed,
            "family": {"unet": "cnn", "reseg": "rnn"}.get(model, "autoencoder"), "metric_version": 1,
            "fingerprint_without_seed": f"{model}-{config['optimizer']['lr']}", "config": config, "overrides": [],
            "choices": {"model": model, "data": "digits"}, "data": DATA, "floors": FLOORS, "precision": "32-true",
            "device": "a CPU", "threads": 2, "parameters": 1_500_000, "flops": 10, "wall_s": 90.0,
            "images_per_s": {"train": 100.0, "inference": 1000.0},
            "metrics": {"test/miou": miou, "val/miou": 0.5}, "images_tested": 2,
        }  # fmt: skip
        path = tmp_path / "sweep" / folder
        path.mkdir(parents=True)
        (path / "record.json").write_text(json.dumps({**content, **changes}))
        return tmp_path / "sweep"

    return record


def unfinished(status, error=None):
    return {"status": status, "error": error, "metrics": {}, "images_per_s": {}, "data": None, "floors": {}}


def table(sweep):
    main([str(sweep)])
    with (sweep / "report" / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def test_configurations_are_ranked_by_their_mean_over_seeds(write, capsys):
    scores = {"unet": [0.8, 0.9, 0.85], "reseg": [0.7, 0.95, 0.6]}
    for model, values in scores.items():
        for seed, value in enumerate(values):
            sweep = write(f"model={model},seed={seed}", model, seed, value)
    rows = table(sweep)
    assert [(row["rank"], row["configuration"], row["family"], row["n"]) for row in rows] == [
        ("1", "model=unet", "cnn", "3"), ("2", "model=reseg", "rnn", "3"),
    ]  # fmt: skip
    for row, values in zip(rows, scores.values(), strict=True):
        assert row["test mIoU"] == f"{statistics.mean(values):.4f}"
        assert row["SD"] == f"{statistics.stdev(values):.4f}"
    assert (rows[0]["M params"], rows[0]["img/s train"], rows[0]["min/run"]) == ("1.500", "100", "1.50")
    screen = capsys.readouterr().out
    assert "location prior  test mIoU 0.2000" in screen
    assert "most frequent  test mIoU 0.1000" in screen


def test_one_run_has_no_deviation(write):
    assert table(write("a", "unet", 0, 0.5))[0]["SD"] == "-"


def test_failed_and_unfinished_runs_are_rows(write):
    write("a", "unet", 0, 0.8)
    write("b", "unet", 1, None, **unfinished("failed", {"class": "oom", "message": "x"}))
    write("c", "reseg", 0, None, **unfinished("interrupted"))
    sweep = write("d", "conv", 0, None, **unfinished("running"))
    rows = {row["configuration"]: row for row in table(sweep)}
    assert rows["model=unet"]["state"] == "1 failed (oom)"
    assert rows["model=unet"]["n"] == "1"
    assert rows["model=reseg"]["state"] == "1 interrupted"
    assert rows["model=conv"]["state"] == "1 running"
    assert rows["model=reseg"]["rank"] == "-"


OTHERS = [
    {"data": {**DATA, "fingerprint": "d2"}},
    pytest.param({"metric_version": 2}, marks=pytest.mark.slow),
    pytest.param({"images_tested": 1}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("difference", OTHERS)
def test_what_is_not_comparable_is_not_ranked_together(write, difference):
    write("a", "unet", 0, 0.8)
    sweep = write("b", "reseg", 0, 0.9, **difference)
    comparisons = compare(find_records([sweep]))
    assert [len(comparison.configurations) for comparison in comparisons] == [1, 1]
    assert [row["rank"] for row in table(sweep)] == ["1", "1"]


def test_configurations_are_named_by_what_differs(write):
    write("a", "unet", 0, 0.8)
    sweep = write("b", "unet", 0, 0.9, lr=0.02, overrides=["optimizer.lr=0.02"])
    assert [row["configuration"] for row in table(sweep)] == ["optimizer.lr=0.02", "optimizer.lr=0.01"]


def test_names_tell_configurations_apart(write):
    write("a", "unet", 0, 0.8)
    write("b", "unet", 0, 0.7, lr=0.02, overrides=["optimizer.lr=0.02"])
    sweep = write("c", "unet", 0, 0.6, fingerprint_without_seed="another")
    names = [row["configuration"] for row in table(sweep)]
    assert names == ["optimizer.lr=0.01 (1)", "optimizer.lr=0.02", "optimizer.lr=0.01 (2)"]


def test_equal_choices_are_told_apart_by_what_nobody_typed(write):
    write("a", "unet", 0, 0.8)
    write("b", "unet", 0, 0.7, lr=0.02)
    sweep = write("c", "reseg", 0, 0.6)
    assert [row["configuration"] for row in table(sweep)] == [
        "model=unet optimizer.lr=0.01", "model=unet optimizer.lr=0.02", "model=reseg optimizer.lr=0.01",
    ]  # fmt: skip


def test_keys_below_a_differing_choice_tell_twins_apart(write):
    widths = [{"model": {"_target_": "unet", "widths": [n]}, "seed": 0, "loss": {"terms": {}}} for n in (4, 8)]
    write("a", "unet", 0, 0.8, config=widths[0], fingerprint_without_seed="w4")
    write("b", "unet", 0, 0.7, config=widths[1], fingerprint_without_seed="w8")
    sweep = write("c", "reseg", 0, 0.6, config={**widths[0], "model": {"_target_": "reseg"}})
    assert [row["configuration"] for row in table(sweep)] == [
        "model=unet model.widths=[4]", "model=unet model.widths=[8]", "model=reseg",
    ]  # fmt: skip


def test_a_repetition_is_not_another_seed(write):
    write("a", "unet", 0, 0.8)
    write("b", "unet", 0, 0.8)
    row = table(write("c", "unet", 1, 0.6))[0]
    assert (row["n"], row["test mIoU"], row["state"]) == ("2", "0.7000", "1 repeated")


def test_differing_precision_is_shown(write, capsys):
    write("a", "unet", 0, 0.8)
    main([str(write("b", "reseg", 0, 0.9, precision="bf16-mixed"))])
    screen = capsys.readouterr().out
    assert "not alike: precision: bf16-mixed (model=reseg); 32-true (model=unet)" in screen
    assert "threads: 2" in screen


def test_the_reconstruction_term_is_shown(write, capsys):
    write("a", "unet", 0, 0.8)
    metrics = {"test/miou": 0.7, "val/miou": 0.5, "val/loss/reconstruction": 0.3}
    main([str(write("b", "conv", 0, 0.7, metrics=metrics))])
    assert "reconstruction term: model=conv (factor 0.1)" in capsys.readouterr().out


def test_several_folders_are_one_report(write):
    sweep = write("a", "unet", 0, 0.8)
    write("b", "reseg", 0, 0.9)
    main([str(sweep / "a"), str(sweep / "b"), str(sweep / "a")])
    report = json.loads((sweep / "report" / "leaderboard.json").read_text())
    assert [row["name"] for row in report[0]["configurations"]] == ["model=reseg", "model=unet"]
    assert [row["n"] for row in report[0]["configurations"]] == [1, 1]


def test_the_report_of_one_run_does_not_litter_its_folder(write):
    sweep = write("a", "unet", 0, 0.8)
    main([str(sweep / "a")])
    assert (sweep / "report" / "report.md").exists()
    assert [path.name for path in (sweep / "a").iterdir()] == ["record.json"]


def test_text_from_records_does_no_harm(write):
    sweep = write("a", "unet", 0, 0.8, family="=cmd|' /C calc'!A0")
    assert table(sweep)[0]["family"].startswith("'=")
    markdown = (sweep / "report" / "report.md").read_text()
    assert "=cmd\\|'" in markdown


@pytest.mark.parametrize(
    ("content", "message"), [(None, "holds no run"), ("{", "is no JSON"), ("[]", "another program wrote it")]
)
def test_what_cannot_be_read_is_named(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "record.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path)])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_missing_folder_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["/nowhere"])
    assert "/nowhere is not a folder" in capsys.readouterr().err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "segsweep-report outputs/sweeps/families" in capsys.readouterr().out


def test_latex_says_what_the_table_says_and_obeys_nothing(write):
    write("a", "unet_100%", 0, 0.8)
    sweep = write("b", "reseg", 0, 0.9, data={**DATA, "class_names": ["\\input{x}", "thing"]})
    main([str(sweep)])
    tex = (sweep / "report" / "leaderboard.tex").read_text()
    assert r"model=unet\_100\% & 0.8000" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    assert all(line.count(" & ") == 9 for line in tex.splitlines() if line.endswith(r" \\"))


def test_many_configurations_are_not_all_paired_on_the_page(write):
    for n in range(15):
        for seed in range(3):
            sweep = write(f"{n}-{seed}", f"m{n:02}", seed, 0.9 - n / 100 + seed / 1000)
    main([str(sweep)])
    page = (sweep / "report" / "report.md").read_text()
    assert "Every pair of the best 12 of 15 (all: leaderboard.json)" in page
    assert page.count("| model=m00 | model=m") == 11
    (whole,) = json.loads((sweep / "report" / "leaderboard.json").read_text())
    assert len(whole["pairs"]) == 15 * 14 / 2
    assert {row["against_the_first"] for row in whole["configurations"]} == {"-", "worse"}

"""Evaluating finished runs: the same scores as their own test, other splits, other data, several as one."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from segsweep.data.labels import IGNORE
from segsweep.evaluate.classes import map_classes, parse_map
from segsweep.evaluate.command import main
from segsweep.report.command import main as report
from segsweep.run import ConfigError
from tests.conftest import FOLDER
from tests.finished import change, write_finished
from tests.sources import spec


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return [write_finished(folder / f"unet{seed}", seed=seed) for seed in (0, 1)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*arguments):
    main([*map(str, arguments), "--device", "cpu"])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        evaluate(*arguments)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert all(line.startswith(("error: ", "note: ")) for line in error.splitlines())
    return error


def read(folder):
    return json.loads((folder / "record.json").read_text())


def scores(folder):
    return {key: value for key, value in read(folder)["metrics"].items() if value is not None}


def test_the_test_of_a_run_is_repeated(here, start):
    """The run has trained and scored itself; evaluating it anew counts the same pixels."""
    trained_run = start("trained", "model.widths=[4,8]", "trainer.max_epochs=1")
    evaluate(trained_run, "--out", "scored")
    folder = here / "scored" / trained_run.name
    with np.load(trained_run / "test_confusion.npz") as own, np.load(folder / "test_confusion.npz") as anew:
        for key in own:
            assert np.array_equal(own[key], anew[key]), key
    recorded = read(trained_run)["metrics"]
    for name, value in scores(folder).items():
        assert value == pytest.approx(recorded[name], abs=1e-6), name


def test_what_is_written_is_read_by_the_report(here, finished, capsys):
    evaluate(*finished, "--ensemble")
    folders = sorted(folder.name for folder in (here / "outputs" / "evaluate").iterdir())
    assert folders == ["ensemble of unet0+unet1", "unet0", "unet1"]
    report(["outputs/evaluate", "--out", "report"])
    (comparison,) = json.loads((here / "report" / "leaderboard.json").read_text())
    assert len(comparison["configurations"]) == 2  # two seeds, and both as one
    assert "evaluate.ensemble=2" in capsys.readouterr().out
    assert len(list((here / "outputs/evaluate/unet0/test_examples").glob("worst-*.png"))) == 4


def test_an_ensemble_is_neither_of_its_runs(here, finished):
    evaluate(*finished, "--ensemble")
    alone, other, both = (
        scores(here / "outputs" / "evaluate" / name) for name in ("unet0", "unet1", "ensemble of unet0+unet1")
    )
    assert both not in (alone, other)


def test_a_run_that_is_named_twice_counts_once(here, finished, capsys):
    assert f"Leave {finished[0]} out" in refused(capsys, finished[0], finished[0], "--ensemble")
    assert not (here / "outputs").exists()
    evaluate(finished[0], finished[0].parent / "unet1" / ".." / "unet0")
    assert [folder.name for folder in (here / "outputs" / "evaluate").iterdir()] == ["unet0"]


def test_every_image_has_a_row_and_the_worst_comes_first(here, finished):
    evaluate(finished[0])
    with (here / "outputs/evaluate/unet0/images.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    values = [float(row["miou"]) for row in rows]
    assert values == sorted(values)
    assert {"image", "split", "pixel_accuracy", "iou/background"} <= rows[0].keys()


@pytest.mark.parametrize(("split", "num"), [("train", 6), ("val", 3), ("all", 13)])
def test_other_splits_are_scored_and_kept_apart(here, finished, split, num):
    evaluate(finished[0], "--split", split)
    record = read(here / "outputs" / "evaluate" / f"unet0,split={split}")
    assert record["images_tested"] == num
    assert record["data"]["fingerprint"].endswith(f":{split}")
    assert record["choices"]["data"] == f"digits:{split}"


def test_views_and_tiles_are_part_of_the_identity(here, finished):
    evaluate(finished[0], "--tta", "flips", "--flips", "h")
    evaluate(finished[0], "--tile", "32", "32", "--overlap", "0.5")
    evaluate(finished[0])
    folders = list((here / "outputs" / "evaluate").iterdir())
    assert len({read(folder)["fingerprint"] for folder in folders}) == len(folders) == 3


def test_runs_of_one_name_get_folders_of_their_own(here, finished, tmp_path):
    twin = shutil.copytree(finished[1], tmp_path / "other" / "unet0")
    evaluate(finished[0], twin)
    first, second = sorted((here / "outputs" / "evaluate").iterdir(), key=lambda folder: len(folder.name))
    before = read(first)
    assert second.name.startswith("unet0,")
    assert before["evaluated"]["weights_sha256"] != read(second)["evaluated"]["weights_sha256"]
    evaluate(twin)  # the same again is no other: it finds its folder
    assert read(first) == before
    assert len(list((here / "outputs" / "evaluate").iterdir())) == 2


def test_other_files_are_left_alone(here, finished):
    mine = here / "outputs" / "evaluate" / "unet0" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("x")
    evaluate(finished[0])
    assert [file.name for file in mine.parent.iterdir()] == ["mine.txt"]


def test_runs_of_a_folder_ask_for_its_root(here, tmp_path, image_tree, capsys):
    run = write_finished(
        tmp_path / "run",
        data=[*FOLDER[:3], "data.size=[16,16]", "trainer.precision=32-true", "data.batch_size=4", "data.root=x"],
    )
    assert "say where, with --root DIR" in refused(capsys, run)
    evaluate(run, "--root", image_tree)
    assert "config.data" not in capsys.readouterr().err


def test_other_data_are_mapped_by_name(here, tmp_path, finished, capsys):
    """Masks of 0 and 1 that mean 'one' and 'nothing': renamed, they score as the digit 1 and the background."""
    root = tmp_path / "new"
    for split in ("train", "val", "test"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        noise = np.random.default_rng(len(split)).integers(0, 255, (48, 48), np.uint8)
        Image.fromarray(noise).save(root / "images" / split / "a.png")
        Image.fromarray((noise > 200).astype(np.uint8)).save(root / "masks" / split / "a.png")
    named = ["--data", "folder", "--root", root, "--set", "data.num_classes=2", "--set"]
    line = refused(capsys, finished[0], *named, "data.class_names=[nothing,one]")
    assert "a class 'nothing' that the run does not know" in line
    assert "--map 'one=CLASS'" in line
    evaluate(finished[0], *named, "data.class_names=[nothing,one]", "--map", "nothing=background", "--map", "one=1")
    record = read(here / "outputs/evaluate/unet0,data=folder")
    assert set(record["metrics"]) >= {"test/iou/background", "test/iou/1"}
    assert record["metrics"]["test/iou/2"] is None
    with np.load(here / "outputs/evaluate/unet0,data=folder/test_confusion.npz") as counts:
        truth = counts["confusion"].sum(axis=(0, 2))
    assert truth[2] > 0  # the digit 1 is class 2
    assert truth[[0, 2]].sum() == truth.sum() == 48 * 48


def test_the_map_says_what_is_wrong():
    run, data = spec(class_names=("sky", "road")), spec(class_names=("road", "tree"))
    assert parse_map(["tree=ignore"]) == {"tree": IGNORE}
    found = map_classes(data, run, {"tree": IGNORE})
    assert found.table[:2].tolist() == [1, run.ignore_index]
    assert (found.absent, found.ignored) == (["sky"], ["tree"])
    assert torch.equal(found(torch.tensor([[[0, 1, 255]]])), torch.tensor([[[1, run.ignore_index, run.ignore_index]]]))
    for renamed, says in (({"tre": "sky"}, "Did you mean 'tree'"), ({"tree": "skyy"}, "Did you mean 'sky'")):
        with pytest.raises(ConfigError, match=says):
            map_classes(data, run, renamed)
    with pytest.raises(ConfigError, match="write the data's class, =, and the run's"):
        parse_map(["tree"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ensemble"], "needs two runs"),
        (["--set", "data.size=null"], "belongs to data that --data names"),
        (["--map", "a=b"], "belongs to data that --data names"),
        (["--flips", "h"], "together with --tta"),
        (["--tile", "24", "24", "--overlap", "2"], "below 0.9"),
        (["--tile", "24", "24", "--overlap", "nan"], "below 0.9"),
        (["--tile", "-5", "16"], "height and width in pixels"),
        (["--data", "digit"], "digits"),
        (["--data", "folder"], "data.root is not set"),
        (["--data", "digits", "--set", "data.num_tset=3"], "num_test"),
    ],
)
def test_mistakes_are_one_line_each(here, finished, capsys, arguments, says):
    assert says in refused(capsys, finished[0], *arguments)
    assert not (here / "outputs").exists()


def test_runs_that_see_images_differently_are_no_ensemble(here, finished, capsys, tmp_path):
    other = shutil.copytree(finished[1], tmp_path / "other")
    change(other / "record.json", config__data__mean=[0.1])
    assert "see images differently (data.mean)" in refused(capsys, finished[0], other, "--ensemble")


def test_names_of_a_stranger_are_shown_as_they_are(here, finished, capsys, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    names = json.loads((run / "record.json").read_text())["config"]["data"]["class_names"]
    change(run / "record.json", config__data__class_names=["[red]a[/red]\x1b[31m", "=1+1", *names[2:]])
    evaluate(run)
    assert "\x1b" not in capsys.readouterr().out
    header = (here / "outputs/evaluate/run/images.csv").read_text().splitlines()[0]
    assert "\x1b" not in header
    assert "iou/=1+1" in header  # no formula: it does not begin with one

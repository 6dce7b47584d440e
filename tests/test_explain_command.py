"""``segsweep-explain`` as a user types it, on finished runs of random weights."""

import html
import json
import re
import stat
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from segsweep.explain.command import main
from segsweep.explain.write import FILE
from tests.conftest import quick_ones
from tests.finished import change, write_finished

pytest.importorskip("captum")
QUICK = ["--steps", "8", "--patch", "24", "--stride", "24"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Runs ``unet``, ``other`` (another seed), ``renet`` and ``dropout``, and two images."""
    folder = tmp_path_factory.mktemp("explain")
    write_finished(folder / "unet")
    write_finished(folder / "other", seed=1)
    write_finished(folder / "renet", "renet")
    write_finished(folder / "dropout", "fc_densenet", "model.dropout=0.2")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (60, 48), np.uint8)).save(folder / "images" / f"{name}.png")
    return folder


@pytest.fixture
def explain(places, tmp_path, capsys):
    """``explain(run, *options)`` -> what was printed, the page and the figures."""

    def run(name, *options, images="images", quick=QUICK):
        out = tmp_path / "out"
        main([str(places / name), str(places / images), "--out", str(out), *quick, *map(str, options)])
        return capsys.readouterr().out, (out / FILE).read_text(), json.loads((out / "explain.json").read_text())

    return run


@pytest.fixture
def refused(places, tmp_path, capsys):
    """``refused(run, *options)`` -> the lines of an attempt that must fail and leave nothing."""

    def run(name, *options, images="images"):
        out = tmp_path / "out"
        with pytest.raises(SystemExit) as caught:
            main([str(places / name), str(places / images), "--out", str(out), *QUICK, *map(str, options)])
        assert caught.value.code == 1
        assert not out.exists()
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith("error: ") for line in lines)
        return "\n".join(lines)

    return run


def test_everything_is_written(explain, places, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    printed, page, facts = explain("unet", "--compare", places / "renet", "--ensemble", places / "other")
    out = tmp_path / "out"
    kinds = {"image", "prediction", "grad-cam", "integrated-gradients", "occlusion", "entropy", "ensemble-entropy",
             "ensemble-disagreement"}  # fmt: skip
    names = {file.stem for file in (out / "images").iterdir()}
    assert names == {f"{i}-{k}" for i in "ab" for k in kinds} | {"receptive-field-0", "receptive-field-1"}
    for file in (out / "images").iterdir():
        with Image.open(file) as picture:
            picture.verify()
            assert max(picture.size) >= 240
    accumulator = EventAccumulator(str(out)).Reload()
    assert set(accumulator.Tags()["images"]) == {
        *(f"explain/{i}/{k}" for i in "ab" for k in kinds),
        "explain/receptive-field/unet",
        "explain/receptive-field/renet",
    }
    assert [image["name"] for image in facts["images"]] == ["a", "b"]
    for image in facts["images"]:
        found = image["maps"]["integrated-gradients"]
        assert found["sum"] == pytest.approx(found["output_change"], rel=0.2)
        assert image["uncertainty"]["ensemble"]["members"] == 2
    assert [field["run"] for field in facts["receptive_field"]] == ["unet", "renet"]
    assert facts["receptive_field"][0]["theoretical"] == [44, 44]
    assert facts["receptive_field"][1]["theoretical"] == [None, None]
    assert "MC dropout is left out: the model has no dropout layer" in printed
    assert "calibration is left out: the run has no test_confusion.npz" in printed
    assert page.count("<img ") == 2 * len(kinds) + 2


def test_the_page_needs_nothing_from_elsewhere(explain):
    _, page, _ = explain("unet", "--no-sanity", "--most", 1)
    parser = Elements()
    parser.feed(page)
    assert not parser.found & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in parser.addresses)
    assert "url(" not in page
    assert "default-src 'none'" in page


class Elements(HTMLParser):
    """Names of elements, and what they point at."""

    def __init__(self):
        super().__init__()
        self.found, self.addresses, self.handlers = set(), [], []

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "action", "data")]
        self.handlers += [key for key, _ in attrs if key.startswith("on")]


def test_what_a_stranger_wrote_into_a_run_is_only_text(places, tmp_path, capsys):
    run = write_finished(tmp_path / "run")
    hostile = "<script>alert(1)</script>\x1b[31m\"'><img src=x onerror=alert(1)>"
    names = [hostile, *(f"{hostile}{k}" for k in range(1, 11))]
    change(run / "record.json", config__data__class_names=names, metrics={"test/miou": hostile})
    main([str(run), str(places / "images" / "a.png"), "--out", str(tmp_path / "out"), *QUICK, "--no-sanity"])
    printed, page = capsys.readouterr().out, (tmp_path / "out" / FILE).read_text()
    assert "\x1b" not in printed + page
    parser = Elements()
    parser.feed(page)
    assert "script" not in parser.found
    assert not parser.handlers
    assert html.escape("<script>alert(1)</script>") in page


def test_a_readonly_run_is_explained(explain, tmp_path, capsys, places):
    run = write_finished(tmp_path / "run")
    paths = [run, *run.rglob("*")]
    for path in paths:
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    main([str(run), str(places / "images"), "--out", str(tmp_path / "out"), *QUICK, "--no-sanity"])
    assert sorted(map(str, run.rglob("*"))) == sorted(map(str, paths[1:]))


def test_the_default_folder_is_named_after_the_run(places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([str(places / "unet"), str(places / "images" / "a.png"), "--only", "receptive-field"])
    assert (tmp_path / "outputs" / "explain" / "unet" / FILE).exists()
    assert "written: outputs/explain/unet/index.html" in capsys.readouterr().out


def test_a_point_explains_its_region(explain):
    _, page, facts = explain("unet", "--point", "59", "0", "--no-sanity", "--methods", "occlusion")
    assert all(image["region"].endswith("around row 59, column 0") for image in facts["images"])
    assert facts["receptive_field"][0]["point"] == [47, 0]  # 60 rows are seen as 48
    assert facts["receptive_field"][0]["views"] == 2
    assert "row 59, column 0" in page


def test_a_model_with_dropout_is_asked_many_times(explain):
    printed, page, facts = explain("dropout", "--only", "uncertainty", "--dropout-passes", "4")
    found = facts["images"][0]["uncertainty"]["dropout"]
    assert found["members"] == 4
    assert found["mutual_information"] > 0
    assert "left out" not in printed
    assert "Disagreement of the dropout passes" in page
    assert "Seg-Grad-CAM" not in page


@pytest.mark.parametrize("model", quick_ones("model", "reseg", "dense_cnn"))
def test_every_model_is_explained(model, tmp_path, capsys):
    run = write_finished(tmp_path / model, model)
    main([str(run), "--test", "0", "--out", str(tmp_path / "out"), *QUICK])
    facts = json.loads((tmp_path / "out" / "explain.json").read_text())
    has_encoder = "no convolutional encoder" not in capsys.readouterr().out
    assert ("grad-cam" in facts["images"][0]["maps"]) == has_encoder
    assert has_encoder == (model not in ("renet", "dpt", "dense_autoencoder") and not model.startswith("dense_cnn"))


def test_masks_give_a_calibration(explain, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((60, 48), np.uint8)).save(tmp_path / "masks" / "a.png")
    _, page, facts = explain("unet", "--only", "calibration", "--masks", tmp_path / "masks")
    (found,) = facts["calibration"]
    assert found["of"] == "1 image with masks"
    assert np.sum(found["bins"], axis=0)[0] == 60 * 48
    assert "Reliability: 1 image with masks" in page


def test_images_of_the_test_split_come_with_their_truth(places, tmp_path, capsys):
    main([str(places / "unet"), "--test", "3", "0", "--out", str(tmp_path), "--only", "uncertainty"])
    facts = json.loads((tmp_path / "explain.json").read_text())
    assert [image["name"] for image in facts["images"]] == ["test-00003", "test-00000"]
    assert (tmp_path / "images" / "test-00003-truth.png").exists()


def test_test_images_are_those_of_the_split(places, tmp_path):
    from segsweep.explain.images import split_samples as samples_of
    from segsweep.opened import open_finished
    from segsweep.opened.data import open_data

    run = open_finished(places / "unet")
    (found,) = samples_of(run, [2], None)
    batch = next(iter(open_data(run).test_dataloader()))
    assert torch.equal(found.image[0], batch.image[2])
    assert np.array_equal(found.mask, batch.mask[2])


def test_grad_cam_is_left_out_where_there_is_no_encoder(explain, refused):
    printed, _, facts = explain("renet", "--only", "attribution", "--no-sanity")
    assert re.search(r"left out: grad-cam: ReNet has no convolutional encoder.*--layer", printed)
    assert set(facts["images"][0]["maps"]) == {"integrated-gradients", "occlusion"}
    _, _, facts = explain("renet", "--only", "attribution", "--no-sanity", "--layer", "sweeps")
    assert "grad-cam" in facts["images"][0]["maps"]


def test_grad_cam_alone_needs_a_layer(refused):
    assert "ReNet has no convolutional encoder" in refused("renet", "--methods", "grad-cam")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--test", "4"], r"--test 4: the test split has the images 0\.\.3"),
        (["--max-pixels", "100"], r"a\.png has 48x60 = 2,880 pixels, the limit is 100\. Raise --max-pixels"),
        (["--root", "x"], "--root is where the data of the run lies, for --test"),
        (["--class", "bakground"], r"--class bakground: the run has no such class. Did you mean 'background'"),
        (["--point", "60", "0"], r"--point 60 0 is outside of a.png: rows are 0..59, columns 0..47"),
        (["--point", "0", "-1"], r"--point 0 -1 is outside"),
        (["--class", "1", "--point", "0", "0"], "exclude each other"),
        (["--layer", "encoder.levls.2"], "Did you mean 'encoder.levels.2'"),
        (["--steps", "1"], "--steps 1: give 2 or more"),
        (["--most", "0"], "--most 0: give 1 or more"),
        (["--patch", "4", "--stride", "9"], "--patch 4 --stride 9: the stride"),
        (["--compare", "nowhere"], "nowhere is not a folder"),
        (["--masks", "nowhere"], "--masks nowhere is not a folder"),
        (["--only", "calibration", "--compare", "x"], "--compare shows receptive fields, which --only leaves out"),
        (["--only", "calibration", "--ensemble", "x"], "--ensemble shows uncertainty, which --only leaves out"),
        (["--only", "uncertainty", "--masks", "x"], "--masks are for the calibration, which --only leaves out"),
    ],
)
def test_mistakes_are_said_with_how_to_mend_them(refused, options, said):
    assert re.search(said, refused("unet", *options))


def test_what_the_run_does_not_say_is_decided_by_an_option(places, refused, explain):
    exif = Image.Exif()
    exif[0x0112] = 6
    (places / "turned").mkdir()
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(places / "turned" / "t.png", exif=exif)
    said = refused("unet", images="turned")
    assert "t.png carries the rotation tag 6" in said
    assert "Add --exif apply (turn it as viewers do) or --exif ignore" in said
    point = ["--point", "47", "0"]  # of the turned image alone
    assert "--point 47 0 is outside" in refused("unet", "--exif", "ignore", *point, images="turned")
    explain("unet", "--exif", "apply", images="turned", quick=["--only", "receptive-field", *point])


def test_images_that_are_not_there_are_named(refused):
    assert re.search(r"nowhere\*\.png fits no image", refused("unet", images="nowhere*.png"))
    assert "unet/checkpoints holds no images" in refused("unet", images="unet/checkpoints")


def test_how_files_are_read_belongs_to_files(places, capsys):
    for options in (["--scale", "0", "9"], ["--alpha", "drop"], ["--exif", "apply"], ["--max-pixels", "9"]):
        with pytest.raises(SystemExit):
            main([str(places / "unet"), "--test", "0", *options])
        assert f"{options[0]} says how image files are read: give some with IMAGES" in capsys.readouterr().err


def test_a_run_is_not_averaged_with_itself(refused, places):
    said = refused("unet", "--ensemble", places / "other", places / "unet")
    assert f"Leave {places / 'unet'} out" in said


def test_runs_of_other_data_are_not_asked(refused, tmp_path):
    other = write_finished(tmp_path / "other")
    names = json.loads((other / "record.json").read_text())["config"]["data"]["class_names"]
    change(other / "record.json", config__data__class_names=names[::-1])
    assert "its data has class_names=" in refused("unet", "--ensemble", other)
    change(other / "record.json", config__data__class_names=names, config__data__mean=[0.1])
    assert "its data has mean=" in refused("unet", "--compare", other)
    change(other / "record.json", config__data__mean=[0.5], config__data__scale=[0, 4095])
    assert "reads images differently (data.scale)" in refused("unet", "--compare", other)


def test_without_captum_one_line_says_how_to_get_it(refused, explain, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert 'pip install "segsweep[explain]"' in refused("unet")
    explain("unet", "--only", "receptive-field")  # what does not need it goes on


def test_the_docs_name_options_that_exist(capsys):
    from pathlib import Path

    text = (Path(__file__).parents[1] / "docs" / "explain.md").read_text()
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", text)) - known == set()

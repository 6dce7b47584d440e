"""segsweep-predict from the command line: what it writes, what it refuses, and how it goes on."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import segsweep
from segsweep.data.digits import Digits
from segsweep.opened import open_finished
from segsweep.predict.command import main
from segsweep.run import ConfigError, lock
from segsweep.train import train
from tests.bad_inputs import png
from tests.conftest import FOLDER, ORIGIN
from tests.finished import write_finished


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_finished(tmp_path_factory.mktemp("runs") / "run", "unet", "model.widths=[4,8]")


@pytest.fixture(scope="module")
def scenes():
    source = Digits((48, 48), 6, 3, 6, 3, (18, 28), 2, 0.03, 0)
    return [source.read("test", i).image[:, :, 0] for i in range(6)]


@pytest.fixture
def photos(tmp_path, scenes):
    """a.png, b.png, sub/c.png, and what is no image."""
    folder = tmp_path / "my photos"
    (folder / "sub").mkdir(parents=True)
    for name, scene in zip(("a.png", "b.png", "sub/c.png"), scenes, strict=False):
        Image.fromarray(scene).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image either")
    return folder


@pytest.fixture
def predict(run, tmp_path, capsys):
    """``predict(images, ..., options)`` -> exit code, lines of output and of errors; into ``tmp_path / out``."""

    def call(*arguments, runs=run, out=None):
        code = 0
        try:
            main([str(runs), *map(str, arguments), "--out", str(out or tmp_path / "out")])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return call


def files(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def manifest(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()][1:]


def test_a_folder_is_predicted_with_its_structure(predict, photos, tmp_path, run):
    code, out, err = predict(photos)
    assert (code, err) == (0, [])
    assert out == [f"3 predicted: {tmp_path}/out/predictions.jsonl"]
    assert files(tmp_path / "out") == ["a.png", "b.png", "predictions.jsonl", "sub/c.png"]
    opened = open_finished(run)
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert (picture.mode, picture.size) == ("P", (48, 48))
        palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)
        classes = np.asarray(picture)
    assert (palette[:11] == opened.colours[:11]).all()
    pixels = torch.from_numpy(np.asarray(Image.open(photos / "a.png"))[None, None].copy())
    with torch.inference_mode():
        logits = opened.model((pixels.float() / 255 - opened.spec.mean[0]) / opened.spec.std[0]).logits
    assert (classes == logits[0].argmax(0).numpy()).mean() > 0.999
    line = manifest(tmp_path / "out")[0]
    assert line["input"] == "../my photos/a.png"
    assert line["files"] == {"classes": "a.png"}
    assert line["size"] == line["seen"] == [48, 48]
    assert sum(line["share"].values()) == pytest.approx(1, abs=1e-4)
    assert line["share"]["background"] == pytest.approx((classes == 0).mean(), abs=1e-6)
    assert len(line["sha256"]) == 64


def test_everything_that_can_be_written(predict, photos, tmp_path, run):
    assert predict(photos / "a.png", "--overlay", "--entropy", "--probabilities")[0] == 0
    out = tmp_path / "out"
    assert files(out) == ["a.entropy.png", "a.overlay.png", "a.png", "a.probabilities.npy", "predictions.jsonl"]
    probabilities = np.load(out / "a.probabilities.npy")
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (11, 48, 48))
    classes = np.asarray(Image.open(out / "a.png"))
    best = np.take_along_axis(probabilities, classes[None], 0)[0]
    assert (best == probabilities.max(0)).all()  # classes of equal float16 may be of unequal float32
    values = probabilities.astype(float)
    expected = -(values * np.log(np.maximum(values, 1e-9))).sum(0) / np.log(11)
    entropy = Image.open(out / "a.entropy.png")
    assert entropy.mode == "I;16"
    assert np.asarray(entropy) / 65535 == pytest.approx(expected, abs=0.01)
    overlay, photo = np.asarray(Image.open(out / "a.overlay.png")), np.asarray(Image.open(photos / "a.png"))
    assert overlay.shape == (48, 48, 3)
    colours = open_finished(run).colours
    assert (overlay[classes == 0] == photo[classes == 0][:, None]).all()  # black shines through
    k = int(np.bincount(classes[classes > 0]).argmax())
    assert (overlay[classes == k] == photo[classes == k][:, None] // 2 + colours[k] // 2).all()


def test_patterns_files_and_folders_each_image_once(predict, photos, tmp_path):
    code, out, _ = predict(photos / "a.png", str(photos / "**" / "*.png"), photos / "sub", photos / "a.png")
    assert code == 0
    assert out[0].startswith("3 predicted")
    assert files(tmp_path / "out") == ["a.png", "b.png", "predictions.jsonl", "sub/c.png"]


def test_pages_are_images_of_their_own(predict, tmp_path, scenes):
    stack = [Image.fromarray(scene) for scene in scenes[:3]]
    stack[0].save(tmp_path / "stack.tif", save_all=True, append_images=stack[1:])
    np.save(tmp_path / "array.npy", np.stack(scenes[:2]))
    Image.fromarray(scenes[0]).save(tmp_path / "one.tif")
    assert predict(tmp_path / "stack.tif", tmp_path / "array.npy", tmp_path / "one.tif")[0] == 0
    out = tmp_path / "out"
    assert files(out) == [
        "array_p0.png", "array_p1.png", "one.png", "predictions.jsonl", "stack_p0.png", "stack_p1.png", "stack_p2.png",
    ]  # fmt: skip
    for a, b in (("array_p0", "one"), ("stack_p0", "one"), ("stack_p1", "array_p1")):
        assert (out / f"{a}.png").read_bytes() == (out / f"{b}.png").read_bytes()
    assert (out / "stack_p2.png").read_bytes() != (out / "one.png").read_bytes()
    assert [line["page"] for line in manifest(out)] == [0, 1, 2, 0, 1, None]


BAD = {
    "empty.png": (b"", "is empty"),
    "page.jpg": (b"<!DOCTYPE html><html></html>", "HTML page"),
    "half.png": (None, "damaged"),
    "clear.png": ("RGBA", "Add --alpha drop"),
    "deep.png": ("I;16", r"--scale 0 65535"),
    "colour.png": (png(4, 4, 16, 2, bytes(4 * 25)), "add --scale BLACK WHITE"),
    "turned.jpg": ("exif", "Add --exif apply"),
    "nan.npy": ("nan", "leave it out"),
}


@pytest.fixture
def bad_folder(tmp_path, scenes):
    folder = tmp_path / "bad"
    folder.mkdir()
    Image.fromarray(scenes[0]).save(folder / "good.png")
    for name, (content, _) in BAD.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is None:
            (folder / name).write_bytes((folder / "good.png").read_bytes()[:-200])
        elif content == "RGBA":
            Image.new("RGBA", (20, 20), (1, 2, 3, 100)).save(folder / name)
        elif content == "I;16":
            Image.fromarray(scenes[0].astype(np.uint16) * 200).save(folder / name)
        elif content == "exif":
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(scenes[0]).save(folder / name, exif=exif)
        else:
            np.save(folder / name, np.full((20, 20), np.nan, np.float32))
    return folder


def test_a_bad_image_is_a_line_and_the_others_go_on(predict, bad_folder, tmp_path):
    code, out, err = predict(bad_folder, tmp_path / "missing.png")
    assert code == 1
    assert files(tmp_path / "out") == ["good.png", "predictions.jsonl"]
    assert len(err) == len(BAD) + 1
    for name, (_, said) in BAD.items():
        lines = [line for line in err if f"/{name}" in line]
        assert len(lines) == 1, name
        assert re.search(said, lines[0]), lines
        assert lines[0].startswith("error: E-")
        assert "data." not in lines[0]
    assert [line for line in err if "missing.png does not exist" in line]
    assert out == [f"1 predicted, {len(BAD) + 1} could not be: {tmp_path}/out/predictions.jsonl"]


def test_what_needs_a_decision_is_read_once_it_is_made(predict, bad_folder, tmp_path, scenes):
    chosen = [bad_folder / name for name in ("clear.png", "turned.jpg", "good.png")]
    assert predict(*chosen, "--alpha", "drop", "--exif", "apply")[0] == 0
    assert predict(bad_folder / "deep.png", "--scale", "0", str(200 * 255), out=tmp_path / "deep")[0] == 0
    # 16 bits that are 200 times the 8: the same image.
    deep, good = (
        np.asarray(Image.open(tmp_path / "deep" / "deep.png")),
        np.asarray(Image.open(tmp_path / "out" / "good.png")),
    )
    assert (deep == good).all()


def test_too_many_pixels_are_refused_before_decoding(predict, photos):
    code, _, err = predict(photos / "a.png", "--max-pixels", "1000")
    assert code == 1
    assert "limit is 1,000. Raise --max-pixels" in err[0]


def test_a_link_out_of_the_folder_is_not_followed(predict, photos, tmp_path, scenes):
    Image.fromarray(scenes[4]).save(tmp_path / "elsewhere.png")
    (photos / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (photos / "inside.png").symlink_to(photos / "a.png")
    code, _, err = predict(photos)
    assert code == 1
    assert len(err) == 1
    assert "link.png is a link out of the folder" in err[0]
    assert files(tmp_path / "out") == ["a.png", "b.png", "inside.png", "predictions.jsonl", "sub/c.png"]
    assert predict(photos / "link.png", out=tmp_path / "named")[0] == 0


def test_predictions_are_no_input(predict, photos):
    assert predict(photos, out=photos / "predictions")[0] == 0
    code, out, _ = predict(photos, out=photos / "predictions")
    assert (code, out[0].split(":")[0]) == (0, "0 predicted, 3 there already")
    code, out, _ = predict(f"{photos}/**/*.png", out=photos / "predictions")
    assert (code, out[0].split(":")[0]) == (0, "0 predicted, 3 there already")


@pytest.mark.parametrize("arguments", [["nothing*.png"], ["nowhere"], ["empty"]])
def test_nothing_to_predict(predict, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, _, err = predict(*arguments)
    assert code == 1
    assert len(err) == 1
    assert err[0].startswith(f"error: {arguments[0]}")
    assert not (tmp_path / "out").exists()


def test_the_same_command_does_what_is_left(predict, photos, tmp_path, scenes):
    predict(photos)
    out = tmp_path / "out"
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert predict(photos)[1][0].startswith("0 predicted, 3 there already")
    assert {name: (out / name).stat().st_mtime_ns for name in files(out)} == before
    # A new image, a changed one and a prediction that somebody has removed.
    Image.fromarray(scenes[3]).save(photos / "d.png")
    Image.fromarray(scenes[4]).save(photos / "b.png")
    (out / "sub" / "c.png").unlink()
    assert predict(photos)[1][0].startswith("3 predicted, 1 there already")
    assert files(out) == ["a.png", "b.png", "d.png", "predictions.jsonl", "sub/c.png"]
    assert (out / "a.png").stat().st_mtime_ns == before["a.png"]
    fresh = tmp_path / "fresh"
    predict(photos, out=fresh)
    assert all(
        (fresh / name).read_bytes() == (out / name).read_bytes() for name in files(fresh) if name != "predictions.jsonl"
    )


def test_a_torn_line_is_done_again_and_a_damaged_one_refused(predict, photos, tmp_path):
    predict(photos)
    file = tmp_path / "out" / "predictions.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    assert predict(photos)[1][0].startswith("1 predicted, 2 there already")
    lines = whole.splitlines(keepends=True)
    file.write_bytes(lines[0] + b"{}\n" + lines[2])
    code, _, err = predict(photos)
    assert code == 1
    assert "line 2 is damaged" in err[0]
    file.write_bytes(lines[0] + lines[1].replace(b'"base": "a"', b'"base": "../../a"'))
    assert "outside of the folder" in predict(photos)[2][0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("pages", value) for value in (10**12, 1_000_001, 0, -1, True, 1.0, "1", None)),
        *(("page", value) for value in (0, 7, -1, False, [0])),
        *(("size", value) for value in ([10**12, 4], [True, 4], [0, 4], [4], None)),
        ("seen", [48, 10**40]),
        ("input", 5),
        ("sha256", None),
    ],
)
def test_a_line_that_would_size_work_is_damaged(predict, photos, tmp_path, key, value):
    predict(photos / "a.png")
    file = tmp_path / "out" / "predictions.jsonl"
    head, line = file.read_text().splitlines()
    file.write_text(f"{head}\n{json.dumps({**json.loads(line), key: value})}\n")
    code, _, err = predict(photos / "a.png")
    assert code == 1
    assert len(err) == 1
    assert "line 2 is damaged" in err[0]


def test_pages_are_counted_in_the_image_whatever_a_line_says(predict, photos, tmp_path):
    predict(photos / "a.png")
    file = tmp_path / "out" / "predictions.jsonl"
    file.write_text(file.read_text().replace('"page": null, "pages": 1', '"page": 3, "pages": 900000'))
    code, out, err = predict(photos / "a.png")
    assert (code, err) == (0, [])
    assert out[0].startswith("1 predicted:")


def test_a_header_that_promises_pages_is_damage(predict, tmp_path):
    with (tmp_path / "x.npy").open("wb") as stream:
        about = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 48, 48)}
        np.lib.format.write_array_header_1_0(stream, about)
    code, _, err = predict(tmp_path / "x.npy")
    assert code == 1
    assert len(err) == 1
    assert "it holds 0 bytes" in err[0]


def test_a_file_of_too_many_pages_is_refused(predict, tmp_path, monkeypatch):
    monkeypatch.setattr("segsweep.images.reading.MOST_PAGES", 2)
    np.save(tmp_path / "x.npy", np.zeros((3, 48, 48), np.uint8))
    code, _, err = predict(tmp_path / "x.npy")
    assert code == 1
    assert "has 3 pages, the limit is 2. Divide the file" in err[0]


def test_a_run_is_not_averaged_with_itself(predict, photos, tmp_path, run):
    other = write_finished(tmp_path / "other", "unet", "model.widths=[4,8]", seed=1)
    copied = shutil.copytree(other, tmp_path / "copied")
    for given, name in (([run], run), ([other, other], other), ([other, copied], copied)):
        code, _, err = predict(photos, *(word for folder in given for word in ("--with", folder)))
        assert code == 1
        assert len(err) == 1
        assert f"Leave {name} out" in err[0]
    assert not (tmp_path / "out").exists()


def test_another_run_or_other_options_are_refused(predict, photos, tmp_path):
    predict(photos)
    _, _, err = predict(photos, "--overlay", "--tile", "32", "32")
    assert "holds predictions with other options" in err[0]
    assert "tile: None -> [32, 32]" in err[0]
    other = write_finished(tmp_path / "other", "unet", "model.widths=[4,8]", seed=1)
    code, _, err = predict(photos, runs=other)
    assert code == 1
    assert "holds predictions of another run (run). Choose another --out" in err[0]
    assert predict(photos, "--with", other)[0] == 1


def test_a_copied_run_continues(predict, photos, tmp_path, run):
    predict(photos)
    copied = shutil.copytree(run, tmp_path / "copied")
    assert predict(photos, runs=copied)[1][0].startswith("0 predicted, 3 there already")


def test_nothing_foreign_is_overwritten(predict, photos):
    before = (photos / "a.png").read_bytes()
    code, _, err = predict(photos, out=photos)
    assert code == 1
    assert "holds other files" in err[0]
    assert not (photos / ".lock").exists()
    assert (photos / "a.png").read_bytes() == before


def test_a_link_in_the_output_folder_leads_nowhere(predict, photos, tmp_path):
    predict(photos / "a.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    code, _, err = predict(photos)
    assert code == 1
    assert "is a link out of" in err[0]
    assert files(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("name", ["predictions.jsonl", ".lock", "a.png"])
def test_links_are_replaced_or_refused_and_never_written_through(predict, photos, tmp_path, name):
    (tmp_path / "secret").write_text("mine")
    predict(photos / "a.png")
    (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / name).symlink_to(tmp_path / "secret")
    code, _, err = predict(photos)
    assert (tmp_path / "secret").read_text() == "mine"
    assert code == (0 if name == "a.png" else 1)
    assert code == 0 or f"{name} is a link" in err[0]
    assert (tmp_path / "out" / name).is_symlink() == bool(code)


def test_two_processes_do_not_share_a_folder(predict, photos, tmp_path):
    predict(photos)
    with lock(tmp_path / "out"):
        code, _, err = predict(photos)
    assert code == 1
    assert "being written by another segsweep-predict" in err[0]


def test_an_ensemble_with_flips_and_tiles(predict, photos, tmp_path):
    other = write_finished(tmp_path / "other", "reseg", seed=1)
    code, _, err = predict(photos, "--with", other, "--tta", "flips+scales", "--tile", "32", "32", "--overlap", "0.5")
    assert code == 0, err
    assert err[0].startswith("note: run was trained without flips")
    head = json.loads((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()[0])
    assert head["runs"] == ["run", "other"]
    assert head["options"]["tile"] == [32, 32]
    assert head["options"]["flips"] == ["none"]
    assert head["options"]["scales"] == [0.75, 1.0, 1.25]
    assert predict(photos, "--tta", "flips", "--flips", "h", out=tmp_path / "flipped")[::2] == (0, [])
    assert (tmp_path / "flipped" / "a.png").read_bytes() != (tmp_path / "out" / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--overlap", "0.95"], "overlap=0.95 must be"),
        (["--flips", "h"], "together with --tta flips"),
        (["--tile", "0", "5"], "--tile 512 512"),
        (["--scale", "9", "1"], "must rise"),
        (["--max-pixels", "0"], "max_pixels must be"),
        (["--with", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_impossible_options_are_one_line(predict, photos, tmp_path, option, said):
    code, _, err = predict(photos, *option)
    assert code == 1
    assert len(err) == 1
    assert said in err[0]
    assert not (tmp_path / "out").exists()


def test_a_model_that_takes_one_size_says_so(predict, photos, tmp_path):
    dense = write_finished(tmp_path / "dense", "dense_cnn")
    code, _, err = predict(photos / "a.png", "--tta", "scales", runs=dense)
    assert code == 1
    assert "a.png: " in err[0]
    assert len(err) == 1


def test_names_from_an_attacker_do_not_reach_the_terminal(predict, photos):
    (photos / "evil\x1b[31m\n.png").write_bytes(b"")
    _, _, err = predict(photos)
    assert len(err) == 1
    assert "\x1b" not in err[0]


@pytest.mark.parametrize("how", [["data.size=[16,24]"], ["data.size=null", "data.crop=[16,16]", "data.tile=[16,16]"]])
def test_predictions_are_those_that_the_run_s_own_test_counted(composer, image_tree, predict, tmp_path, how):
    """Its confusion matrices, from files on disk, pixel by pixel."""
    (trained := tmp_path / "trained").mkdir()
    train(composer(*FOLDER, f'data.root="{image_tree}"', "model.widths=[4,8]", *how), trained, ORIGIN)
    assert predict(image_tree / "images" / "test", runs=trained)[0] == 0
    counted = np.load(trained / "test_confusion.npz")
    for name, confusion in zip(counted["names"], counted["confusion"], strict=True):
        file = f"{str(name).rpartition('/')[2]}.png"
        truth = np.asarray(Image.open(image_tree / "masks" / "test" / file))
        found = np.asarray(Image.open(tmp_path / "out" / file))
        pairs = truth[truth != 255].astype(int) * 3 + found[truth != 255]
        assert np.bincount(pairs, minlength=9).reshape(3, 3).tolist() == confusion.tolist()


# --- Python --------------------------------------------------------------------------------------------------------


def test_python_takes_paths_arrays_and_pictures(run, photos, scenes, tmp_path):
    predictor = segsweep.load(run)
    prediction = predictor.predict(photos / "a.png")
    assert prediction.classes.shape == (48, 48)
    assert prediction.classes.dtype == np.uint8
    array = scenes[0]
    for image in (
        str(photos / "a.png"),
        array,
        array[..., None],
        np.repeat(array[..., None], 3, 2),
        Image.fromarray(array),
    ):
        assert (predictor.predict(image).classes == prediction.classes).all()
    scaled = segsweep.load(run, scale=(0, 51000))
    assert (scaled.predict(array.astype(np.uint16) * 200).classes == prediction.classes).all()
    assert (segsweep.load(run, scale=(0, 1)).predict(array / 255).classes == prediction.classes).all()
    assert prediction.probabilities().shape == (11, 48, 48)
    assert (prediction.probabilities().argmax(0) == prediction.classes).all()
    assert 0 <= prediction.entropy().min() <= prediction.entropy().max() <= 1
    assert prediction.overlay().shape == (48, 48, 3)
    assert sum(prediction.shares().values()) == pytest.approx(1, abs=1e-4)
    prediction.save(tmp_path / "a.png")
    assert (np.asarray(Image.open(tmp_path / "a.png")) == prediction.classes).all()
    with pytest.raises(ValueError, match="no pixel changes"):
        prediction.save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="no georeference"):
        prediction.save(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((5, 5), np.float32), "--scale 0 1"),
        (np.zeros((5, 5, 4), np.uint8), "has 4 bands"),
        (np.zeros((0, 5), np.uint8), "shape"),
        (np.array(["a"]), "array of"),
        ("nowhere.png", "cannot be read"),
        ("stack.npy", "has 3 pages .* Say which, e.g. page=0"),
    ],
)
def test_python_refuses_what_it_cannot_use(run, image, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("stack.npy", np.zeros((3, 48, 48), np.uint8))
    with pytest.raises(ValueError, match=said):
        segsweep.load(run).predict(image)


def test_python_refuses_impossible_options(run):
    for options in (
        {"tta": "all"},
        {"tile": "auto"},
        {"tile": (0, 4)},
        {"device": "tpu"},
        {"alpha": "x"},
        {"scale": (1,)},
    ):
        with pytest.raises(ConfigError):
            segsweep.load(run, **options)


def test_importing_segsweep_stays_light_and_help_is_at_once():
    script = "import sys, segsweep; segsweep.load; print(len({'torch', 'numpy', 'PIL'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "0"


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "segsweep-predict RUN 'scans/**/*.tif'" in capsys.readouterr().out

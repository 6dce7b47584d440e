"""segsweep-export: one file that answers as the model does, whatever else is asked, and nothing at all if not."""

import dataclasses
import json
import os
import shutil
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from segsweep.export import command, timing, variants, work
from segsweep.export.graphs import onnx_runner, torch_runner
from segsweep.export.images import images_of_files, images_of_run
from segsweep.export.quantise import quantise
from segsweep.export.trace import Deployed, NotExportableError
from segsweep.images.inputs import find_inputs
from segsweep.images.reading import Reading
from segsweep.opened import open_finished
from segsweep.opened.data import open_data
from segsweep.run import ConfigError
from segsweep.types import SegmenterOutput
from tests.finished import change, write_finished

onnx = pytest.importorskip("onnx", reason='needs pip install "segsweep[export]"')
pytest.importorskip("onnxruntime")
HOSTILE = ["\x1b[31mred\x07", "<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", "${oc.env:HOME}", "\u202ebad`|"]


class Mirror(torch.nn.Module):
    """A segmenter that answers with what it sees."""

    def forward(self, image):
        return SegmenterOutput(image)


def equal_share(found, expected):
    return (found.argmax(1) == expected.argmax(1)).mean()


def answer(run, pixels):
    with torch.inference_mode():
        return Deployed(run.model, run.spec).eval()(torch.from_numpy(pixels)).numpy()


def files_below(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def failed(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        command.main([str(argument) for argument in arguments])
    assert caught.value.code == 1
    return [line for line in capsys.readouterr().err.splitlines() if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose classes mean harm, in a folder that nobody may write to."""
    place = tmp_path_factory.mktemp("export") / "a`<b>\x1b[1m run"
    run = write_finished(place, "unet", "model.widths=[16,32]")  # tracing takes its time by the layer
    names = [*HOSTILE, *(f"class {i}" for i in range(len(HOSTILE), 11))]
    change(run / "record.json", config__data__class_names=names)
    for place in (run / "checkpoints", run):
        place.chmod(stat.S_IRUSR | stat.S_IXUSR)
    yield run
    for place in (run, run / "checkpoints"):
        place.chmod(stat.S_IRWXU)


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """Everything that can be asked for, and what the screen showed."""
    import contextlib
    import io

    out, shown = tmp_path_factory.mktemp("out") / "export", io.StringIO()
    with contextlib.redirect_stdout(shown):
        command.main([str(folder), "--quantize", "int8", "--half", "--out", str(out), "--rounds", "0"])
    return out, shown.getvalue()


@pytest.fixture(scope="module")
def run(folder):
    return open_finished(folder)


def test_all_files_are_there_and_no_other(exported):
    names = {"model.onnx", "model.int8.onnx", "model.half.onnx", "model.pt2", "model.half.pt2"}
    assert {file.name for file in exported[0].iterdir()} == names | {"model.json", "export.md", "export.json"}


def test_a_file_holds_all_weights_and_no_path_of_this_machine(exported, folder):
    for name in ("model.onnx", "model.int8.onnx", "model.half.onnx"):
        model = onnx.load(exported[0] / name, load_external_data=False)
        assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
        onnx.checker.check_model(model)
    for data in files_below(exported[0]).values():
        for place in (os.path.dirname(command.__file__), sys.prefix, str(folder.parent), os.path.dirname(np.__file__)):
            assert place.encode() not in data


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_other_batches_and_sizes_get_the_answers_of_the_model(exported, run, name):
    execute = (onnx_runner if name.endswith("onnx") else torch_runner)((exported[0] / name).read_bytes())
    rng = np.random.default_rng(1)
    for shape in ((1, 1, 48, 48), (5, 1, 48, 48), (2, 1, 33, 70), (1, 1, 160, 97)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        found, expected = execute(pixels), answer(run, pixels)
        assert found.shape == expected.shape
        assert equal_share(found, expected) >= 0.999
        assert abs(found - expected).max() < 1e-4


def test_pixels_are_standardised_as_in_training(run):
    split = open_data(run)
    batch = next(iter(split.test_dataloader()))
    stored = split.store.splits["test"]
    pixels = np.stack([stored.image(i).transpose(2, 0, 1) for i in batch.index.tolist()])
    seen = Deployed(Mirror(), run.spec)(torch.from_numpy(pixels))
    assert torch.equal(seen, batch.image)


def test_the_files_say_what_they_are(exported, run):
    beside = json.loads((exported[0] / "model.json").read_text())
    assert beside["class_names"] == list(run.spec.class_names)
    assert (beside["mean"], beside["std"], beside["fit"]) == (list(run.spec.mean), list(run.spec.std), "stretch")
    assert beside["weights_sha256"] == run.weights_sha256
    for name in ("model.onnx", "model.int8.onnx", "model.half.onnx"):
        model = onnx.load(exported[0] / name)
        facts = {one.key: one.value for one in model.metadata_props}
        assert {key: json.loads(facts[key]) for key in beside} == beside
        assert "uint8" in facts["input"]
        assert json.loads(facts["sizes"]) == "any"
        assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        assert dims == ["batch", 1, "height", "width"]
    extra = {"segsweep.json": ""}
    torch.export.load(exported[0] / "model.pt2", extra_files=extra)
    assert json.loads(json.loads(extra["segsweep.json"])["class_names"]) == beside["class_names"]


def test_the_example_of_the_page_runs(exported, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    shutil.copy(exported[0] / "model.onnx", tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save("photo.png")
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    lines = page.partition("## Pixels in")[2].partition("\n## ")[0].splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
    found = {}
    exec(code.replace('"RGB"', '"L"').replace("image.transpose(2, 0, 1)[None]", "image[None, None]"), found)
    assert found["classes"].shape == (1, 50, 40)
    assert found["facts"]["class_names"] == list(run.spec.class_names)
    assert equal_share(found["logits"], answer(run, found["pixels"].copy())) >= 0.999


def test_a_model_that_branches_on_values_is_refused_with_the_reason(run, folder, tmp_path, monkeypatch, capsys):
    class Branching(torch.nn.Module):
        def forward(self, image):
            return SegmenterOutput(image if image.sum() > 0 else -image)

    broken = dataclasses.replace(run, model=Branching())
    monkeypatch.setattr(work, "open_finished", lambda folder, trust: broken)
    (line,) = failed(capsys, folder, "--format", "torch", "--out", tmp_path / "out", "--rounds", "0")
    assert "cannot be exported" in line
    assert "docs/export.md" in line
    assert not (tmp_path / "out").exists()


def test_hostile_names_are_inert(exported):
    out, shown = exported
    for name in ("model.onnx", "model.int8.onnx"):
        for prop in onnx.load(out / name).metadata_props:
            assert prop.value.isascii()
            assert prop.value.isprintable()
    for text in (shown, *((out / name).read_text() for name in ("export.md", "export.json", "model.json"))):
        assert all(character.isprintable() or character == "\n" for character in text)
    page = (out / "export.md").read_text()
    assert "<b>" not in page.replace("`a <b> [1m run`", "").replace("run: a <b> [1m run", "")


def test_int8_computes_in_integers_and_is_smaller(exported):
    whole, small = (onnx.load(exported[0] / name) for name in ("model.onnx", "model.int8.onnx"))
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("QuantizeLinear") >= kinds.count("Conv") > 0
    weights = [tensor for tensor in small.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    scales = {tensor.name: tensor for tensor in small.graph.initializer}
    convolutions = [tensor for tensor in weights if len(tensor.dims) == 4]
    assert len(convolutions) == [node.op_type for node in whole.graph.node].count("Conv")
    per_channel = [s for s in scales.values() if s.name.endswith("_scale") and len(s.dims) == 1 and s.dims[0] > 1]
    assert len(per_channel) >= len(convolutions)
    for tensor in convolutions:  # 7 bits: see quantise
        assert abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() <= 64
    assert small.ByteSize() < whole.ByteSize()


def test_half_weights_are_half(exported):
    model = onnx.load(exported[0] / "model.half.onnx")
    large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) > 100]
    assert large
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.FLOAT16}
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_the_table_has_every_variant(exported):
    rows = json.loads((exported[0] / "export.json").read_text())["variants"]
    assert [row["name"] for row in rows] == [
        *("torch", "onnx", "onnx int8", "onnx half", "torch.export", "torch.export half")
    ]
    for row in rows:
        assert 0 <= row["agreement"]["miou"] <= 1
        assert row["agreement"]["equal"] >= (0.999 if row["name"] in ("torch", "onnx", "torch.export") else 0.9)
        assert row["file"] is None or row["size_bytes"] == (exported[0] / row["file"]).stat().st_size
        assert row["name"] in exported[1]
    assert "4 of 4 test images of the run" in exported[1]


def test_a_difference_beyond_tolerance_writes_nothing(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.pt2").write_bytes(b"an earlier one")
    (tmp_path / "out" / "model.json").write_text(json.dumps({"weights_sha256": open_finished(folder).weights_sha256}))
    before = files_below(tmp_path)

    def wrong(data):
        execute = torch_runner(data)
        return lambda pixels: execute(pixels)[:, ::-1].copy()

    variants, make_variants = [], work.make_variants

    def made_once(*arguments):
        variants.extend([] if variants else make_variants(*arguments))
        return variants

    monkeypatch.setattr(work, "make_variants", made_once)
    monkeypatch.setattr(work, "torch_runner", wrong)
    (line,) = failed(capsys, folder, "--format", "torch", "--out", tmp_path / "out", "--rounds", "0")
    assert "torch.export: only" in line
    assert "--tolerance" in line
    assert files_below(tmp_path) == before
    failed(capsys, folder, "--format", "torch", "--out", tmp_path / "new", "--rounds", "0")
    assert not (tmp_path / "new").exists()


def test_the_files_of_another_run_are_left_alone(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.json").write_text('{"weights_sha256": "another"}')
    before = files_below(tmp_path)
    (line,) = failed(capsys, folder, "--out", tmp_path / "out", "--rounds", "0")
    assert "holds the output of another run" in line
    assert files_below(tmp_path) == before


def test_without_the_extra_one_line_says_what_to_install(folder, monkeypatch, capsys):
    find = command.importlib.util.find_spec
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    assert failed(capsys, folder) == ['error: --format onnx needs onnxruntime: pip install "segsweep[export]"']


def test_mistakes_are_one_line(folder, tmp_path, capsys):
    assert "does not exist" in failed(capsys, tmp_path, "--out", tmp_path / "out")[0]
    (tmp_path / "empty").mkdir()
    assert "holds no images" in failed(capsys, folder, "--images", tmp_path / "empty", "--out", tmp_path / "out")[0]
    assert "--alpha says how" in failed(capsys, folder, "--alpha", "drop", "--out", tmp_path / "out")[0]
    two = ("--images", tmp_path, "--root", tmp_path)
    assert "Leave out one" in failed(capsys, folder, *two, "--out", tmp_path / "out")[0]
    assert "inside the run folder" in failed(capsys, folder, "--out", folder / "export")[0]
    assert "add onnx" in failed(capsys, folder, "--format", "torch", "--quantize", "int8")[0]
    assert not (tmp_path / "out").exists()


def test_images_of_a_folder_are_compared(folder, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for i, size in enumerate(((60, 50, 3), (48, 48, 3), (100, 31, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / "images" / "deep" / f"{i}.png")
    arguments = [folder, "--format", "torch", "--images", tmp_path / "images", "--out", tmp_path / "out", "--rounds", 0]
    command.main([str(argument) for argument in arguments])
    assert "3 images of" in capsys.readouterr().out
    row = json.loads((tmp_path / "out" / "export.json").read_text())["variants"][1]
    assert (row["agreement"]["equal"], row["agreement"]["miou"]) == (1.0, None)


@pytest.mark.slow
def test_images_are_read_by_the_options_of_all_commands(folder, tmp_path, capsys):
    Image.fromarray(np.arange(2500, dtype=np.uint16).reshape(50, 50)).save(tmp_path / "deep.png")
    named = ("--images", tmp_path / "deep.png", "--out", tmp_path / "out")
    arguments = [folder, "--format", "torch", *named, "--rounds", 0]
    (line,) = failed(capsys, *arguments)
    assert "--scale 0 4095" in line
    assert "data." not in line
    command.main([str(argument) for argument in (*arguments, "--scale", 0, 4095)])
    assert "compared_on: 1 image of deep.png" in capsys.readouterr().out
    assert all(str(tmp_path).encode() not in data for data in files_below(tmp_path / "out").values())


@pytest.mark.parametrize(("num", "compared", "calibrated"), [(1, 1, 1), (2, 1, 1), (5, 3, 2)])
def test_int8_is_not_compared_on_what_it_was_calibrated_on(run, tmp_path, num, compared, calibrated):
    pages = np.random.default_rng(0).integers(0, 256, (5, 48, 48), dtype=np.uint8)[:num]
    np.save(tmp_path / "pages.npy", pages if num > 1 else pages[0])
    inputs, _ = find_inputs([str(tmp_path)])
    images = images_of_files(inputs, "mine", run, Reading(1), 500, True)
    seen, chosen = ([picture.pixels.tobytes() for picture in part] for part in (images.test, images.calibration))
    assert (len(seen), len(chosen)) == (compared, calibrated)
    if num == 1:
        assert seen == chosen
        assert images.compared_on == "1 image of mine, the one that int8 is calibrated on: that flatters it"
        assert images.calibrated_on == "the same image"
    else:
        assert set(seen) | set(chosen) == {page.tobytes() for page in pages}
        assert "other ones than int8 is calibrated on" in images.compared_on
        assert images.calibrated_on == f"{calibrated} image{'s' * (calibrated > 1)} of mine, the other ones"
    assert len(images_of_files(inputs, "mine", run, Reading(1), 500, False).test) == num


def test_what_int8_is_calibrated_on_is_said(exported):
    facts = json.loads((exported[0] / "export.json").read_text())
    assert facts["calibrated_on"] == "6 of 6 training images of the run"
    for text in (exported[1], (exported[0] / "export.md").read_text()):
        assert "calibrated_on: 6 of 6 training images of the run" in text


def test_int8_of_one_size_says_what_it_could_not_be_calibrated_on(run):
    images = images_of_run(run, (48, 48), None, 4)
    graph = SimpleNamespace(is_free=False)
    with pytest.raises(ConfigError, match="no image to calibrate on is as large as 64x64"):
        variants._int8(graph, images, {}, (64, 64))


@pytest.mark.slow
def test_data_on_disk_without_a_root_fall_back_to_noise_and_say_so(folder, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    copy.chmod(stat.S_IRWXU)
    change(copy / "record.json", config__data___target_="segsweep.data.folder.Folder")
    command.main([str(copy), "--format", "torch", "--out", str(tmp_path / "out"), "--rounds", "0"])
    shown = capsys.readouterr().out
    assert "warning: no real images" in shown
    assert "NOISE" in shown


def test_processes_are_measured_by_turns(exported):
    files = {"onnx": ("onnx", exported[0] / "model.onnx"), "int8": ("onnx", exported[0] / "model.int8.onnx")}
    costs = timing.measure(files, (1, 1, 48, 48), threads=1, rounds=2)
    assert all(len(cost.seconds) == 2 and cost.median > 0 and cost.peak_mb > 10 for cost in costs.values())
    assert costs["onnx"].times_faster_than(costs["onnx"]) == 1


def test_a_process_that_fails_is_an_error(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match="has ended with 1"):
        timing.measure({"onnx": ("onnx", tmp_path / "no.onnx")}, (1, 1, 8, 8), threads=1, rounds=1)


def test_what_has_nothing_to_quantise_is_refused():
    pixels = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, [1, 1, 4, 4])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 1, 4, 4])
    cast = onnx.helper.make_node("Cast", ["pixels"], ["logits"], to=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph([cast], "cast", [pixels], [logits])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(NotExportableError, match="no operator"):
        quantise(model.SerializeToString(), [np.zeros((1, 1, 4, 4), np.uint8)], {})

"""Opening finished runs: what comes out, and what is refused with which words."""

import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from segsweep import CONF_DIR
from segsweep.claims import refuse_foreign
from segsweep.opened import open_finished
from segsweep.opened.data import open_data
from segsweep.opened.table import MODELS, SOURCES
from segsweep.run import ConfigError
from segsweep.train import origin_of, train
from tests.conftest import FOLDER
from tests.finished import change, rewrite, write_finished


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return write_finished(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def run(untouched, tmp_path):
    return shutil.copytree(untouched, tmp_path / "run")


def refused(folder, **options):
    with pytest.raises(ConfigError) as caught:
        open_finished(folder, **options)
    assert "\n\n" not in str(caught.value)
    return str(caught.value)


def test_an_opened_run_has_its_weights_and_its_facts(run):
    opened = open_finished(run)
    saved = load_file(run / "checkpoints" / "best.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in opened.model.state_dict().items())
    assert not opened.model.training
    assert opened.spec.class_names[:2] == ("background", "0")
    assert (opened.spec.size, opened.fit, opened.name) == ((48, 48), "stretch", "run")
    assert opened.colours.shape == (256, 3)


def test_opening_leaves_the_random_state_alone(run):
    before = torch.get_rng_state()
    open_finished(run)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["reseg", "gated_sweep", "conv_autoencoder", "vae", "smp", "wnet", "dense_cnn"])
def test_models_of_all_kinds_are_opened(tmp_path, name):
    opened = open_finished(write_finished(tmp_path / "run", name))
    output = opened.model(torch.zeros(1, 1, 48, 48))
    assert output.logits.shape == (1, 11, 48, 48)
    assert not any(tensor.is_meta for tensor in opened.model.state_dict().values())


def test_the_table_holds_every_model_and_source_of_ours_and_nothing_else():
    def targets(group):
        texts = [file.read_text() for file in (CONF_DIR / group).glob("*.yaml")]
        return {target for text in texts for target in re.findall(r"^_target_: (\S+)", text, re.MULTILINE)}

    assert set(MODELS) == targets("model")
    assert set(SOURCES) == targets("data")
    with pytest.raises(TypeError):
        MODELS["os.system"] = ("os", "system")


def test_the_data_of_a_run_are_opened_as_they_were(run, monkeypatch, tmp_path):
    data = open_data(open_finished(run))
    assert {name: len(split.items) for name, split in data.store.splits.items()} == {"train": 6, "val": 3, "test": 4}
    assert next(iter(data.test_dataloader())).image.shape == (4, 1, 48, 48)
    with pytest.raises(ConfigError, match="needs no --root"):
        open_data(open_finished(run), root=tmp_path)


def test_a_readonly_copy_is_opened(run, tmp_path):
    copy = tmp_path / "elsewhere" / "copy"
    copy.parent.mkdir()
    os.rename(run, copy)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    before = sorted(str(path) for path in copy.rglob("*"))
    assert open_finished(copy).name == "copy"
    assert sorted(str(path) for path in copy.rglob("*")) == before


@pytest.mark.parametrize(
    ("target", "is_a_name"),
    [("os.system", True), ("numpy.load", True), ("segsweep.models.unet.os.system", True), ("UNet", False), ("", False),
     (None, False), ([], False), ("x;touch${IFS}y", False), (".x.Net", False)],
)  # fmt: skip
def test_only_classes_of_the_table_are_built(run, target, is_a_name):
    change(run / "checkpoints" / "best.json", model___target_=target)
    line = refused(run, trust=[str(target)] if not is_a_name else [])
    assert "is not one of segsweep's own models" in line
    assert ("--trust" in line) == is_a_name  # nothing but a name is proposed to be typed


def test_a_class_that_the_user_trusts_is_built(run, tmp_path, monkeypatch):
    (tmp_path / "my_pkg.py").write_text(
        "import torch\nfrom segsweep.models.unet import UNet\nclass MyNet(UNet): pass\ndef no_net(**_): return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    change(run / "checkpoints" / "best.json", model___target_="my_pkg.MyNet")
    assert "--trust my_pkg.MyNet" in refused(run)
    assert type(open_finished(run, trust=["my_pkg.MyNet"]).model).__name__ == "MyNet"
    assert "Did you mean 'my_pkg.MyNett'" in refused(run, trust=["my_pkg.MyNett"])
    change(run / "checkpoints" / "best.json", model___target_="my_pkg.no_net")
    assert "is no torch.nn.Module" in refused(run, trust=["my_pkg.no_net"])
    change(run / "checkpoints" / "best.json", model___target_="my_pkg.Absent")
    assert "cannot be imported" in refused(run, trust=["my_pkg.Absent"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model__widths": [8, {"_target_": "os.system", "command": "true"}]}, "'_target_' is never passed on"),
        ({"model___args_": ["x"]}, "begin with _"),
        ({"model___convert_": "all"}, "begin with _"),
        ({"model__widths": "/etc/passwd"}, "paths and addresses are never passed on"),
        ({"model__widths": [8, 10**9]}, "is beyond 16,384"),
        ({"model__widths": [8, 10**400]}, "a number of 401 digits"),
        ({"model__widths": [8, float("inf")]}, "is beyond 16,384"),
        ({"model__widths": [8] * 2000}, "more than 1000"),
        ({"model__widths": [8, 9, 10]}, "does not belong to the model"),
        ({"model__colour": "red"}, "the model cannot be built"),
        ({"model__num_classes": 5}, "are not those of the data"),
        ({"model": 3}, "lacks the model"),
    ],
)
def test_arguments_are_plain_values_that_fit_the_weights(run, values, says):
    change(run / "checkpoints" / "best.json", **values)
    assert says in refused(run)


def test_pretrained_weights_are_not_fetched(tmp_path):
    run = write_finished(tmp_path / "run", "smp")
    change(run / "checkpoints" / "best.json", model__encoder_weights="imagenet")
    open_finished(run)
    change(run / "checkpoints" / "best.json", model__encoder_name="tu-hf-hub:somebody/something")
    assert "paths and addresses" in refused(run)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"config": None}, "lacks config.data"),
        ({"config__data__class_names": ["a", "a"]}, "contradict each other"),
        ({"config__data__class_names": "abc"}, "class_names"),
        ({"config__data__mean": [0.5, 0.5]}, "mean and std need 1 values"),
        ({"config__data__std": [0.0]}, "config.data.std.0"),
        ({"config__data__std": [float("nan")]}, "config.data.std.0"),
        ({"config__data__size": [10**9, 1]}, "config.data.size.0"),
        ({"config__data__size": [16384, 16384]}, "would take gigabytes"),
        ({"config__data__scale": [0, 10**400]}, "a number of 401 digits"),
        ({"config__data__ignore_index": 3}, "contradict each other"),
        ({"config__regime__readout": {"k": 5}}, "seen no label"),
    ],
)
def test_facts_are_checked(run, values, says):
    change(run / "record.json", **values)
    assert says in refused(run)


def test_colours_are_those_of_the_masks(run):
    change(run / "record.json", config__data__palette={"1 2 3": "background", "#0a0b0c": 1, "9 9 9": 1, "x": 2})
    colours = open_finished(run).colours
    assert colours[:2].tolist() == [[1, 2, 3], [10, 11, 12]]


def tampered(header, data=b""):
    text = json.dumps(header) if isinstance(header, dict) else header
    return len(text).to_bytes(8, "little") + text.encode() + data


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no safetensors file"),
        (b"\x80\x04\x95evil pickle", "no safetensors file"),
        (tampered({"a": TENSOR}, bytes(4)), "head.weight is missing|is missing"),
        (tampered(f'{{"a": {json.dumps(TENSOR)}, "a": {json.dumps(TENSOR)}}}', bytes(4)), "stands in it twice"),
        (tampered({"a": TENSOR, "b": TENSOR}, bytes(4)), "overlap"),
        (tampered({"a": TENSOR}, bytes(8)), "more or fewer bytes"),
        (tampered({"a": {**TENSOR, "shape": [7]}}, bytes(4)), "not that of its shape"),
        (tampered({"a": {**TENSOR, "dtype": "X9"}}, bytes(4)), "X9"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "longer than the file"),
        (tampered("[" * 100_000), "no safetensors file"),
    ],
)
def test_weights_are_read_in_one_way_or_not_at_all(run, content, says):
    rewrite(run / "checkpoints" / "best.safetensors", content)
    assert re.search(says, refused(run))


def test_damaged_weights_are_refused(run):
    file = run / "checkpoints" / "best.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "its SHA-256 is not the one beside it" in refused(run)
    (run / "checkpoints" / "best.safetensors.sha256").unlink()
    assert "does not exist" in refused(run)


def test_weights_that_no_model_of_this_kind_has_are_not_read(run):
    file = run / "checkpoints" / "best.safetensors"
    with file.open("ab") as stream:
        stream.truncate(1 << 33)  # 8 GiB without a byte on the disk
    assert "are no file of a run" in refused(run)


def test_weights_of_other_types_keep_the_types_of_the_model(run):
    file = run / "checkpoints" / "best.safetensors"
    rewrite(file, save({name: value.half() for name, value in load_file(file).items()}))
    assert open_finished(run).model.state_dict()["head.weight"].dtype == torch.float32


@pytest.mark.parametrize("name", ["record.json", "checkpoints/best.json", "checkpoints/best.safetensors"])
def test_links_out_of_the_folder_and_devices_are_refused(run, tmp_path, name):
    os.rename(run / name, tmp_path / "outside")
    os.symlink(tmp_path / "outside", run / name)
    assert "leads out of its folder" in refused(run)
    os.unlink(run / name)
    os.mkfifo(run / name)
    assert "is not a plain file" in refused(run)
    os.unlink(run / name)
    (run / name).mkdir()
    assert "is not a plain file" in refused(run)
    (run / name).rmdir()
    assert "does not exist" in refused(run)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", '{"a":' * 40 + "1" + "}" * 40, "\x00"])
def test_records_that_no_run_writes_are_refused(run, text):
    (run / "record.json").write_text(text)
    assert re.search("is no JSON|does not hold what a run writes", refused(run))


def test_folders_that_are_no_runs(run, tmp_path):
    assert "is not a folder" in refused(tmp_path / "absent")
    assert "is a sweep. Give one of its runs" in refused(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "Give the folder of a finished run" in refused(tmp_path / "empty")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"config__data___target_": "os.system"}, "is not one of segsweep's own sources"),
        ({"config__data__digit_size": {"_target_": "os.system"}}, "holds a node, which is never built"),
        ({"config__data__batch_size": "many"}, "config.data.batch_size"),
        ({"config__data__num_train": None}, "config.data.num_train"),
    ],
)
def test_data_are_opened_from_plain_values(run, values, says):
    change(run / "record.json", **values)
    with pytest.raises(ConfigError) as caught:
        open_data(open_finished(run))
    assert says in str(caught.value)


@pytest.mark.parametrize("mine", ["index.html", "model.json"])
def test_an_output_folder_belongs_to_one_run(tmp_path, mine):
    refuse_foreign(tmp_path / "new", "model.json", "a")
    (tmp_path / "out").mkdir()
    refuse_foreign(tmp_path / "out", "model.json", "a")
    (tmp_path / "out" / mine).write_text('{"weights_sha256": "a"}')
    for weights in ("a", "b"):
        if mine == "model.json" and weights == "a":
            refuse_foreign(tmp_path / "out", "model.json", weights)
        else:
            with pytest.raises(ConfigError, match="Choose a"):
                refuse_foreign(tmp_path / "out", "model.json", weights)


def test_a_run_on_files_holds_no_path_of_this_machine(composer, tmp_path, image_tree):
    typed = [f"data.root='{image_tree}'", "data.size=[16,16]", "model.widths=[4,8]"]
    folder = tmp_path / "run"
    folder.mkdir()
    train(composer(*FOLDER, *typed), folder, origin_of({"model": "unet", "data": "folder"}, typed, None))
    parts = [str(image_tree), str(image_tree.parent), str(Path.home())]
    for file in folder.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        assert not [part for part in parts if part.encode() in data], file.name
    assert "data.root" not in json.loads((folder / "record.json").read_text())["config"]["data"]
    assert "<path>/my data" in (folder / "config.yaml").read_text()

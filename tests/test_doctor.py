"""``segsweep-data``: what it prints, writes and answers."""

import csv
import re
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from segsweep import doctor


@pytest.fixture
def examine(monkeypatch, tmp_path, capsys):
    """``examine(*arguments)`` -> exit code, what was printed, errors."""
    monkeypatch.setenv("SEGSWEEP_CACHE", str(tmp_path / "cache"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["segsweep-data", "--out", str(tmp_path / "out"), *arguments])
        with pytest.raises(SystemExit) as ended:
            doctor.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err.splitlines()

    return run


@pytest.fixture
def folder(image_tree):
    return ["data=folder", f"data.root='{image_tree}'", "data.num_classes=3", "data.class_names=[a,b,c]"]


def rewrite_masks(root, change):
    for file in root.glob("masks/*/*.png"):
        Image.fromarray(change(np.asarray(Image.open(file)))).save(file)


def test_a_good_dataset(examine, folder, tmp_path):
    code, printed, errors = examine(*folder, "data.size=[24,32]")
    assert (code, errors) == (0, [])
    assert "train        5 images in 5 groups" in printed
    assert "11 PNG" in printed
    for name in ("a", "b", "c", "(ignored)"):
        assert f"\n  {name} " in printed
    with (tmp_path / "out" / "data_report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train"] * 5 + ["val"] * 3 + ["test"] * 3
    for row in rows:
        pixels = sum(int(row[key]) for key in ("px a", "px b", "px c", "px (ignored)"))
        assert pixels == int(row["height"]) * int(row["width"])
        assert row["px (ignored)"] == "3"
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 10


def test_it_suggests_what_is_not_set_and_the_suggestion_works(examine, folder, image_tree):
    rewrite_masks(image_tree, lambda mask: np.array([0, 128, 254, *[255] * 253], np.uint8)[mask])
    code, printed, errors = examine(*folder[:2])
    assert (code, errors) == (1, [])
    overrides = suggested(printed.splitlines()[-1])
    assert "data.label_map={0:0,128:1,254:2,255:3}" in overrides
    code, printed, errors = examine(*folder[:2], *overrides)
    assert (code, errors) == (0, [])
    assert "class3" in printed


def test_it_prints_the_colours_it_found_as_a_palette(examine, folder, image_tree):
    colours = np.zeros((256, 3), np.uint8)
    colours[1], colours[2], colours[255] = (200, 0, 0), (0, 200, 10), (9, 9, 9)
    rewrite_masks(image_tree, lambda mask: colours[mask])
    code, printed, errors = examine(*folder, "data.size=[24,32]")
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith("error: E-COLOUR masks/")
    assert "    200 0 0: " in printed
    suggestion = next(line for line in printed.splitlines() if line.startswith("this would fit"))
    (palette,) = suggested(suggestion)
    assert "9 9 9:ignore" in palette  # the rarest, as three classes are declared
    code, _, errors = examine(*folder, "data.size=[24,32]", palette)
    assert (code, errors) == (0, [])


def test_problems_are_listed_and_nothing_is_cached(examine, folder, image_tree, tmp_path):
    (image_tree / "images" / "val" / "seq0_000.png").write_bytes(b"")
    (image_tree / "images" / "test" / "seq1_001.png").write_bytes(b"")
    code, printed, errors = examine(*folder, "data.size=[24,32]")
    assert code == 1
    assert len(errors) == 1
    assert "E-IMG images/val/seq0_000.png is empty" in errors[0]
    assert "images/test/seq1_001.png" in errors[0]
    assert "data_report.csv" in printed
    with (tmp_path / "out" / "data_report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["problem"]) for row in rows) == 2
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_cache_can_be_cleared(examine, folder, monkeypatch, capsys, tmp_path):
    examine(*folder, "data.size=[24,32]")
    monkeypatch.setattr(sys, "argv", ["segsweep-data", "--clear-cache"])
    doctor.main()
    assert "freed" in capsys.readouterr().out
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=foldr"], "error: data=foldr: there is no such option. Did you mean 'folder'?"),
        (["data=folder"], "error: data.root is not set. Give the folder of the dataset, e.g. data.root=/data/camvid"),
        (["data=folder", "data.rot=x"], "error: data.rot: unknown key. Did you mean 'data.root'?"),
    ],
)
def test_mistakes_are_one_line(examine, arguments, expected):
    code, _, errors = examine(*arguments)
    assert code == 1
    assert expected in errors


def test_digits_need_no_folder(examine):
    code, printed, _ = examine("data=digits", "data.num_train=12", "data.num_val=4", "data.num_test=4")
    assert code == 0
    assert "train       12 images" in printed


def test_help_is_answered_without_torch():
    import subprocess

    script = "import sys, segsweep.doctor as d; sys.argv = ['x', '--help']; d.main(); assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0
    assert "contact_sheet.png" in result.stdout


def test_unpaired_files_are_all_in_the_table(examine, image_tree, tmp_path):
    for i in range(14):
        Image.new("RGB", (8, 8)).save(image_tree / "images" / "train" / f"alone{i:02d}.png")
    code, _, errors = examine(
        "data=folder", f"data.root='{image_tree}'", "data.num_classes=3", "data.class_names=[a,b,c]"
    )
    assert code == 1
    (line,) = errors
    assert "alone00.png has no mask" in line
    assert "and 4 more, listed by segsweep-data" in line
    with (tmp_path / "out" / "data_report.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert names == [f"images/train/alone{i:02d}.png" for i in range(14)]


def in_one_place(root, masks, images=None):
    """Six images of 40 x 48 with these masks, in no split folders; returns the overrides that open them."""
    rng = np.random.default_rng(0)
    for i in range(6):
        image = images[i] if images else rng.integers(0, 255, (40, 48, 3), np.uint8)
        for kind, pixels in {"images": image, **masks(i)}.items():
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / kind / f"{i}.png")
    return [
        "data=folder",
        f"data.root={root}",
        "data.images='images/{n}.png'",
        "data.masks='masks/{n}.png'",
        "data.splits={train:null,val:0.2,test:0.2}",
    ]


def blocks(i, num=2, shape=(20, 24)):
    return np.random.default_rng(i).integers(0, num, (5, 6), np.uint8).repeat(shape[0] // 5, 0).repeat(shape[1] // 6, 1)


TWO = ["data.num_classes=2", "data.class_names=[a,b]", "data.size=[40,48]"]


def suggested(line):
    """The overrides of a printed line, as a shell would hand them on."""
    return [word for word in shlex.split(line) if word.startswith("data.")]


def test_grey_edges_are_two_classes_and_one_problem(examine, tmp_path):
    def smooth(i):
        return np.asarray(Image.fromarray(blocks(i) * np.uint8(255)).resize((48, 40), Image.Resampling.BILINEAR))

    data = in_one_place(tmp_path / "edges", lambda i: {"masks": smooth(i)})
    code, printed, _ = examine(*data)
    assert code == 1
    overrides = suggested(printed.splitlines()[-1])
    assert overrides == [
        "data.num_classes=2",
        "data.class_names=[class0,class1]",
        "data.threshold=127",
        "data.size=[40,48]",
    ]
    assert examine(*data, *overrides)[0] == 0
    code, printed, errors = examine(*data, *TWO)
    assert code == 1
    (line,) = errors  # although some masks hold more values than are listed
    assert "These are in-between values" in line
    assert "this would fit what the masks hold: data.threshold=127\n" in printed
    assert "occurs in no mask" not in printed
    _, printed, _ = examine(*data, "data.num_classes=3", "data.class_names=[a,b,c]", "data.size=[40,48]")
    assert "this would fit" not in printed  # no threshold makes three classes


def test_no_more_classes_are_suggested_than_declared(examine, tmp_path):
    data = in_one_place(tmp_path / "data", lambda i: {"masks": blocks(i, 3, (40, 48)) * np.uint8(10)})
    code, printed, _ = examine(*data, *TWO)
    assert code == 1
    (line,) = [line for line in printed.splitlines() if line.startswith("this would fit")]
    (mapping,) = suggested(line)
    classes = dict(pair.split(":") for pair in mapping.removeprefix("data.label_map={").removesuffix("}").split(","))
    assert sorted(classes.values()) == ["0", "1", "ignore"]
    assert "of the pixels: the masks hold more classes than data.class_names declares" in printed


def test_a_suggestion_replaces_what_is_declared(examine, tmp_path):
    data = in_one_place(tmp_path / "data", lambda i: {"masks": blocks(i, 2, (40, 48)) * np.uint8(7)})
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "mine.yaml").write_text("defaults: [folder, _self_]\nlabel_map: {0: a, 255: b}\n")
    data = ["--config-dir", str(tmp_path / "conf"), "data=mine", *data[1:], *TWO]
    code, printed, _ = examine(*data)
    assert code == 1
    (line,) = [line for line in printed.splitlines() if line.startswith("this would fit")]
    assert suggested(line) == ["data.label_map=null", "data.label_map={0:0,7:1}"]
    assert examine(*data, *suggested(line))[0] == 0


def test_masks_by_class_name_their_classes(examine, tmp_path):
    data = in_one_place(tmp_path / "data", lambda i: {k: blocks(i, 2, (40, 48)) for k in ("vessels", "discs")})
    data[3] = "data.masks={vessel:'vessels/{n}.png',disc:'discs/{n}.png'}"
    code, printed, errors = examine(*data)
    assert (code, errors) == (1, [])
    overrides = suggested(printed.splitlines()[-1])
    assert overrides == ["data.num_classes=3", "data.class_names=[background,vessel,disc]", "data.size=[40,48]"]
    assert examine(*data, *overrides)[0] == 0


def test_one_scale_for_two_depths_is_refused(examine, tmp_path):
    grey = [np.random.default_rng(i).integers(0, 250, (40, 48), np.uint8) for i in range(6)]
    images = [pixels.astype(np.uint16) * 257 if i < 3 else pixels for i, pixels in enumerate(grey)]
    data = in_one_place(tmp_path / "data", lambda i: {"masks": blocks(i, 2, (40, 48))}, images)
    code, _, errors = examine(*data, *TWO)
    assert code == 1
    assert "in all images, e.g. 'data.scale=[0,65535]'" in errors[0]
    code, _, errors = examine(*data, *TWO, "data.scale=[0,65535]")
    assert code == 1
    (line,) = errors
    assert line.startswith("error: E-DEPTH images/0.png is 16-bit, other images are not: ")
    for number, others in ((16, "0 1 2"), (8, "3 4 5")):
        names = re.search(rf"3 are {number}-bit \(([^)]*)\)", line)[1].split(", ")
        assert sorted(names) == [f"images/{i}.png" for i in others.split()]
    assert examine(*data, *TWO, "data.scale=[0,65535]", "data.exclude=[images/3,images/4,images/5]")[0] == 0


def test_a_damaged_copy_is_decoded_again(examine, folder, tmp_path):
    data = [*folder, "data.size=[24,32]"]
    examine(*data)
    (file,) = (tmp_path / "cache").glob("*/train.masks.u8")
    sound = file.read_bytes()
    file.write_bytes(bytes([77] * 50) + sound[50:])
    code, printed, errors = examine(*data)
    assert (code, errors) == (0, [])
    assert f"warning: the decoded copy was damaged (train.masks.u8 in {file.parent}): decoded again" in printed
    assert file.read_bytes() == sound
    assert "warning" not in examine(*data)[1]


def test_flags_are_written_in_two_ways(monkeypatch, examine, image_tree, tmp_path, capsys):
    (tmp_path / "my conf" / "data").mkdir(parents=True)
    (tmp_path / "my conf" / "data" / "mine.yaml").write_text(
        f"defaults: [folder, _self_]\nroot: {image_tree}\nnum_classes: 3\nclass_names: [a, b, c]\nsize: [24, 32]\n"
    )
    for flags in (["--config-dir", str(tmp_path / "my conf")], [f"--config-dir={tmp_path / 'my conf'}"]):
        code, printed, errors = examine("data=mine", *flags, f"--out={tmp_path / 'there'}")
        assert (code, errors) == (0, [])
        assert f"written: {tmp_path / 'there'}/data_report.csv" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--outt", "x", "data=digits"], "error: --outt: unknown flag. Did you mean '--out'?"),
        (["--clear_cache"], "error: --clear_cache: unknown flag. Did you mean '--clear-cache'?"),
        (["--out"], "error: --out needs a folder, e.g. --out=look"),
        (["--config-dir="], "error: --config-dir needs a folder, e.g. --config-dir=look"),
        (["--config-dir=/nowhere"], "error: --config-dir /nowhere is no folder"),
    ],
)
def test_wrong_flags_are_named(arguments, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["segsweep-data", *arguments])
    with pytest.raises(SystemExit) as ended:
        doctor.main()
    assert ended.value.code == expected  # Python prints it and answers 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("data.masks={}", "data.masks is empty; give a pattern, or a pattern for each class"),
        ("data.max_pixels=inf", "data.max_pixels=inf: should be a finite number (the default is 64000000.0, in"),
        ("data.size=[1000000,1000000]", "data.size=[1000000,1000000] has 1,000,000 million pixels, the limit is 100"),
        pytest.param(
            "data.crop=[1000000,1000000]",
            "data.crop=[1000000,1000000] has 1,000,000 million pixels",
            marks=pytest.mark.slow,
        ),
        ("data.mean=[nan,0,0]", "data.mean=[nan,0,0]: should be a finite number"),
        pytest.param("data.std=[inf,1,1]", "data.std=[inf,1,1]: should be a finite number", marks=pytest.mark.slow),
        pytest.param("data.threshold=nan", "data.threshold=nan: should be a finite number", marks=pytest.mark.slow),
        pytest.param("data.scale=[0,inf]", "data.scale=[0,inf]: should be a finite number", marks=pytest.mark.slow),
        ("data.root=", "data.root is empty; give the folder of the dataset"),
        ("data.splits={vall:0.2}", "data.splits.vall: unknown key. Did you mean 'val'?"),
        ("data.size=[32]", "data.size=[32]: should have 2 values"),
        pytest.param("data.size=[32,32,3]", "data.size=[32,32,3]: should have 2 values", marks=pytest.mark.slow),
        ("data.size=32", "data.size=32: should be a list"),
        pytest.param("data.class_names=a", "data.class_names='a': should be a list", marks=pytest.mark.slow),
        ("data.in_channels=0", "data.in_channels=0: should be greater than or equal to 1"),
        ("data.images='{stem'", "data.images '{stem': '{stem' is no placeholder; write {name}"),
        ("data.images='../{n}.png'", "data.images '../{n}.png' leaves data.root"),
        ('data.palette={"1 2":a}', 'data.palette={"1 2":a}: no override. On the command line keys in braces have no'),
        ("data.fold=1", "data.fold=1 and data.num_folds=null go together"),
        ("+data.crops=1", "data.crops: unknown key. Did you mean 'crop'?"),
        pytest.param(
            "+data.labeled_fraction=1",
            "data.labeled_fraction: unknown key. Did you mean 'labelled_fraction'?",
            marks=pytest.mark.slow,
        ),
        ("data.valid='f/{q}.png'", "data.valid 'f/{q}.png' has the placeholder {q}, which data.images "),
        ("data.unlabelled='u/{q}.png'", "E-EMPTY data.unlabelled='u/{q}.png' fits no file that is free to be used."),
    ],
)
def test_a_mistake_in_a_key_is_one_line(examine, folder, change, expected):
    code, printed, errors = examine(*folder, "data.size=[24,32]", change)
    assert code == 1
    assert len(errors) == 1, errors
    assert errors[0].startswith(f"error: {expected}")
    assert "written" not in printed  # a table of files would say nothing


@pytest.mark.parametrize("downloader", ["nodots", "os.nothing", "os.system"])
def test_a_downloader_is_a_class(examine, folder, downloader):
    code, _, errors = examine(*folder, "data.size=[24,32]", "data.download=true", f"data.downloader={downloader}")
    assert code == 1
    (line,) = errors
    assert line.startswith(f"error: E-DOWNLOAD data.downloader={downloader} is no class that can be imported.")


def test_a_cache_that_cannot_be_written(examine, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGSWEEP_CACHE", "/proc/nope")
    code, _, errors = examine(*folder, "data.size=[24,32]")
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith("error: E-CACHE the cache folder /proc/nope cannot be written")

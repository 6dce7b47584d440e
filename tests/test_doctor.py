"""``segsweep-data``: what it prints, writes and answers."""

import csv
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
    overrides = printed.splitlines()[-1].replace("'", "").split()
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
    palette = suggestion.split("'")[1]
    code, _, errors = examine(*folder, "data.size=[24,32]", palette.replace("9 9 9:3", "9 9 9:ignore"))
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

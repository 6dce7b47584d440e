"""The walk through a dataset in docs/data.md works as it is written."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segsweep import __main__, doctor
from segsweep.run import read_record

DOC = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
FILE = re.search(r"```yaml\n(.*?)```", DOC, flags=re.DOTALL).group(1)
FAST = [
    "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1", "trainer.enable_progress_bar=false",
    "model.widths=[4,8]", "data.crop=[16,16]",
]  # fmt: skip


@pytest.fixture
def retinas(tmp_path):
    """A small tree in the layout of DRIVE."""
    rng = np.random.default_rng(0)
    root = tmp_path / "drive"
    for eye in range(21, 31):
        vessels = (rng.random((40, 36)) > 0.8) * np.uint8(255)
        area = np.zeros((40, 36), np.uint8)
        area[4:36, 4:32] = 255
        photo = np.stack([vessels // 2 + rng.integers(0, 50, vessels.shape, np.uint8)] * 3, axis=2)
        for name, pixels in (
            (f"training/images/{eye}_training.tif", photo),
            (f"training/1st_manual/{eye}_manual1.gif", vessels),
            (f"training/mask/{eye}_training_mask.gif", area),
            (f"test/images/{eye - 20:02d}_test.tif", photo[::-1]),
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name, optimize=False)  # keeps 0 and 255 as they are
    return root


def run(monkeypatch, main, command, *more):
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), *more])
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return 0


def test_the_file_is_short_enough():
    assert len(FILE.strip().splitlines()) <= 15
    assert yaml.safe_load(FILE)["num_classes"] == 2


def test_the_walk(retinas, tmp_path, monkeypatch, capsys, in_process):
    monkeypatch.chdir(tmp_path)
    joined = DOC.replace("\\\n", " ")
    commands = re.findall(r"^    (segsweep(?:-data)? data=.+?)(?:\s+#.*)?$", joined, flags=re.MULTILINE)
    look, check, train = (command.replace("/data/drive", str(retinas)) for command in commands[:3])
    assert run(monkeypatch, doctor.main, look) == 1
    assert "data.label_map={0:0,255:1}" in capsys.readouterr().out

    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "drive.yaml").write_text(FILE)
    own = ["--config-dir", str(tmp_path / "conf")]
    assert run(monkeypatch, doctor.main, check, *own) == 0
    printed = capsys.readouterr().out
    assert "10 of them unlabelled" in printed
    assert "vessel" in printed
    assert (tmp_path / "outputs" / "data" / "drive" / "contact_sheet.png").stat().st_size > 0

    assert run(monkeypatch, __main__.main, train, *FAST, *own) == 0
    (record,) = [read_record(folder) for folder in (tmp_path / "outputs" / "runs").iterdir()]
    assert record["status"] == "completed"
    assert record["data"]["split_sizes"] == {"train": 16, "val": 2, "test": 2}

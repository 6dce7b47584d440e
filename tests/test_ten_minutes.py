"""docs/ten_minutes.md works as it is written: every command of it, on a small set of the same shape."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOC = (Path(__file__).parents[1] / "docs" / "ten_minutes.md").read_text()
COMMANDS = re.findall(r"^    (segsweep\S* .+)$", DOC.replace("\\\n", " "), flags=re.MULTILINE)
CODE = "\n".join(re.findall(r"^    ((?:import|cells =|mask =).*)$", DOC, flags=re.MULTILINE))
FAST = {  # what a user waits for and a test does not
    "segsweep": [
        "trainer.max_epochs=1", "model.widths=[4,8]", "data.size=[24,24]", "trainer.enable_progress_bar=false",
        "trainer=cpu", "sweep.jobs=1",
    ],
    "segsweep-explain": ["--steps", "4", "--patch", "12", "--stride", "12"],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten labelled images in the layout of the page, two others, and the file that the page has one write."""
    rng = np.random.default_rng(0)
    for name in ("cells/images", "cells/masks", "new", "my/data"):
        (tmp_path / name).mkdir(parents=True)
    for i in range(10):
        mask = np.zeros((40, 50), np.uint8)
        y, x = rng.integers(4, 28, 2)
        mask[y : y + 10, x : x + 10] = 255
        image = np.clip(mask[..., None] // 2 + rng.integers(0, 90, (40, 50, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"cells/images/a{i:02d}.png")
        Image.fromarray(mask).save(tmp_path / f"cells/masks/a{i:02d}.png")
    for i in (1, 2):
        Image.fromarray(rng.integers(0, 255, (60, 70, 3)).astype(np.uint8)).save(tmp_path / f"new/b0{i}.jpg")
    (tmp_path / "my/data/cells.yaml").write_text(re.search(r"```yaml\n(.*?)```", DOC, flags=re.DOTALL).group(1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, command):
    """Exit code of one of our commands, in this process."""
    import importlib
    from importlib.metadata import entry_points

    name, *arguments = shlex.split(command)
    (script,) = entry_points(group="console_scripts", name=name)
    typed = [a for a in arguments if not any(a.split("=")[0] == f.split("=")[0] for f in FAST.get(name, ()))]
    at = 1 if typed[0] == "-m" else 0  # Hydra takes overrides in one row
    monkeypatch.setattr(sys, "argv", [name, *typed[:at], *FAST.get(name, []), *typed[at:]])
    try:
        getattr(importlib.import_module(script.module), script.attr)()
    except SystemExit as ended:
        return ended.code or 0
    return 0


@pytest.mark.slow
def test_every_command_of_the_page(folder, monkeypatch, capsys, in_process):
    assert len(COMMANDS) == 8
    codes = {}
    for command in COMMANDS:
        codes[command] = run(monkeypatch, command)
        printed = capsys.readouterr()
        # The first one looks at masks whose classes are not named yet, and says so.
        assert codes[command] == (1 if command == COMMANDS[0] else 0), f"{command}\n{printed.out}{printed.err}"
        if command == COMMANDS[0]:
            assert "data.label_map={0:0,255:1}" in printed.out
    runs = folder / "outputs" / "sweeps" / "cells"
    assert (runs / "report" / "index.html").stat().st_size > 10_000
    assert len(list((folder / "outputs" / "evaluate").iterdir())) == 3
    for i in (1, 2):
        with Image.open(folder / f"predictions/b0{i}.png") as mask:
            assert mask.size == (70, 60)
    assert {file.suffix for file in (folder / "outputs" / "export" / "model=unet,seed=0").iterdir()} >= {".onnx", ".md"}
    assert (folder / "outputs" / "explain" / "model=unet,seed=0" / "index.html").stat().st_size > 10_000
    found = {}
    exec(CODE, found)  # what the page has one type in Python
    assert found["mask"].shape == (60, 70)
    assert json.loads((runs / "model=unet,seed=0" / "record.json").read_text())["status"] == "completed"


def test_the_page_uses_every_command():
    used = {shlex.split(command)[0] for command in COMMANDS}
    assert used == {
        f"segsweep{suffix}" for suffix in ("", "-data", "-report", "-evaluate", "-predict", "-export", "-explain")
    }

"""An image of 100 million pixels is predicted in less than 2 GB, imports included."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.finished import write_finished

_SIDE, _MOST = 10_000, 2e9
_CHILD = """
import sys
from pathlib import Path
from segsweep.predict.command import main
main(sys.argv[1:])
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def facts(num_classes, *others):
    names = ",".join(f"c{i}" for i in range(num_classes))
    return [
        "data=folder",
        "data.root=nowhere",
        f"data.num_classes={num_classes}",
        f"data.class_names=[{names}]",
        *others,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(facts(11, "data.size=null", "data.crop=[128,128]"), id="native"),
        pytest.param(facts(11, "data.size=[512,512]"), id="fixed"),
        pytest.param(facts(150, "data.size=[512,512]"), id="fixed-150"),
    ],
)
def test_a_large_image_takes_less_than_two_gigabytes(tmp_path, data):
    run = write_finished(tmp_path / "run", "unet", "model.widths=[4,8]", data=data)
    part = np.random.default_rng(0).integers(0, 256, (500, _SIDE, 3), dtype=np.uint8)
    picture = Image.new("RGB", (_SIDE, _SIDE))
    for top in range(0, _SIDE, 500):
        picture.paste(Image.fromarray(part), (0, top))
    picture.save(tmp_path / "large.png", compress_level=1)
    arguments = [str(run), str(tmp_path / "large.png"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) * 1024
    assert peak < _MOST, f"{peak / 1e6:,.0f} MB"
    with Image.open(tmp_path / "out" / "large.png") as found:
        assert found.size == (_SIDE, _SIDE)

"""A job that is killed leaves whole files, and the same command ends with what an undisturbed one would have."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segsweep.data.digits import Digits
from tests.finished import write_finished

_NUM = 40
# One process that has imported everything forks a job for each kill: torch has computed nothing in it yet.
_STORM = """
import os, random, signal, sys, time
from pathlib import Path
import torch
import segsweep.predict.job, segsweep.predict.predictor, segsweep.predict.writing
from segsweep.predict.command import main

torch.set_num_threads(1)
out, kills, *arguments = sys.argv[1:]
manifest = Path(out) / "predictions.jsonl"
random.seed(0)
for i in range(int(kills)):
    child = os.fork()
    if not child:
        main([*arguments, "--out", out])
        os._exit(0)
    enough = 1 + 36 * (i + 1) // int(kills)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if manifest.exists() and manifest.read_bytes().count(b"\\n") > enough:
            time.sleep(random.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            print("killed", manifest.read_bytes().count(b"\\n"), flush=True)
            os.waitpid(child, 0)
            break
        time.sleep(0.001)
    for file in Path(out).rglob("*"):
        if file.suffix == ".png" and not file.name.startswith("."):
            from PIL import Image
            with Image.open(file) as picture:
                picture.load()
        elif file.suffix == ".npy" and not file.name.startswith("."):
            import numpy
            numpy.load(file)
main([*arguments, "--out", out])
main([*arguments, "--out", out + "-undisturbed"])
"""


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("predictions.jsonl", ".lock")
    }


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_job_continues_where_it_stopped(tmp_path, kills):
    run = write_finished(tmp_path / "run", "unet", "model.widths=[4,8]")
    source = Digits((48, 48), 3, 3, _NUM, 3, (18, 28), 2, 0.03, 0)
    (tmp_path / "photos").mkdir()
    for i in range(_NUM):
        Image.fromarray(source.read("test", i).image[:, :, 0]).save(tmp_path / "photos" / f"{i:02d}.png")
    extras = ["--overlay", "--entropy", "--probabilities"]
    arguments = [str(tmp_path / "out"), str(kills), str(run), str(tmp_path / "photos"), *extras]
    done = subprocess.run([sys.executable, "-c", _STORM, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    killed = [line for line in lines if line.startswith("killed")]
    assert len(killed) == kills, lines
    # The last one did the rest and nothing else.
    said = next(
        line for line in lines if "there already" in line and line.startswith(f"{_NUM - _there(line)} predicted")
    )
    assert 0 < _there(said) < _NUM
    found = hashes(tmp_path / "out")
    assert len(found) == 4 * _NUM
    assert found == hashes(tmp_path / "out-undisturbed")
    manifest = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert sorted(line["base"] for line in manifest[1:]) == [f"{i:02d}" for i in range(_NUM)]


def _there(line: str) -> int:
    return int(line.partition(", ")[2].split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_stops_between_files(tmp_path, number):
    run = write_finished(tmp_path / "run", "unet", "model.widths=[4,8]")
    (tmp_path / "photos").mkdir()
    for i in range(300):
        np.save(tmp_path / "photos" / f"{i:03d}.npy", np.full((48, 48), i % 256, np.uint8))
    script = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "from segsweep.predict.command import main; import sys; main(sys.argv[1:])"
    arguments = [sys.executable, "-c", script, str(run), str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    job = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    manifest = tmp_path / "out" / "predictions.jsonl"
    while job.poll() is None and not (manifest.exists() and manifest.read_bytes().count(b"\n") > 3):
        pass
    job.send_signal(number)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 128 + number, err
    assert "the same command does what is left" in err
    assert "Traceback" not in err
    assert not list((tmp_path / "out").glob(".*.unfinished"))

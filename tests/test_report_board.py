"""The report as a run in TensorBoard."""

import io
import subprocess
import sys

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from segsweep.report.board import write_board
from segsweep.report.command import main
from segsweep.report.pareto import front
from segsweep.report.records import find_records
from segsweep.report.runs import compare
from tests.records import write_record

COSTS = {"flops": 10**9, "status": "completed"}


@pytest.fixture
def sweep(tmp_path):
    """Two models, the larger one better, with two seeds each."""
    for model, miou, parameters in (("unet", 0.5, 10**6), ("reseg", 0.7, 3 * 10**6)):
        for seed in (0, 1):
            folder = tmp_path / "sweep" / f"model={model},seed={seed}"
            write_record(folder, miou + 0.01 * seed, seed=seed, model=model, parameters=parameters, **COSTS)
    return tmp_path / "sweep"


def read(folder):
    return EventAccumulator(str(folder)).Reload()


def test_leaderboard_ranking_and_pareto_fronts(sweep, capsys):
    main([str(sweep)])
    assert "TensorBoard" in capsys.readouterr().out
    events = read(sweep / "report")
    (found,) = events.Tensors("leaderboard")
    text = make_ndarray(found.tensor_proto)[0].decode()
    assert "| 1 | model=reseg | cnn | 0.7050 | 0.0071 | 2 |" in text
    assert text.index("model=reseg") < text.index("model=unet")
    against = {
        "million parameters", "GFLOPs for an image", "minutes of a run", "inference images per second"
    }  # fmt: skip
    assert set(events.Tags()["images"]) == {"digits/ranking"} | {f"digits/against {cost}" for cost in against}
    for tag in events.Tags()["images"]:
        (shown,) = events.Images(tag)
        with Image.open(io.BytesIO(shown.encoded_image_string)) as picture:
            assert picture.size == (shown.width, shown.height)
            assert len(picture.convert("RGB").getcolors(10**6)) > 10


def test_a_report_that_is_made_again_replaces_the_run(sweep):
    main([str(sweep)])
    write_record(sweep / "model=vae,seed=0", 0.9, model="vae", **COSTS)
    main([str(sweep)])
    assert len(list((sweep / "report").glob("events.out.*"))) == 1
    (found,) = read(sweep / "report").Tensors("leaderboard")
    assert "| 1 | model=vae |" in make_ndarray(found.tensor_proto)[0].decode()


def test_runs_without_a_result_have_no_figure(tmp_path):
    error = {"class": "oom", "message": "x"}
    write_record(tmp_path / "a", None, status="failed", error=error, metrics={}, images_per_s={}, data=None)
    write_board(compare(find_records([tmp_path])), "text", tmp_path)
    events = read(tmp_path)
    assert events.Tags()["images"] == []
    assert make_ndarray(events.Tensors("leaderboard")[0].tensor_proto)[0] == b"text"


@pytest.mark.slow
def test_two_datasets_of_one_name_have_figures_of_their_own(tmp_path):
    for fingerprint in ("d1", "d2"):
        folder = tmp_path / fingerprint
        data = {
            "fingerprint": fingerprint, "split_sizes": {"train": 9, "val": 2, "test": 20}, "size": [48, 48],
            "class_names": ["a", "b"], "labelled_fraction": 1.0,
        }  # fmt: skip
        write_record(folder, 0.5, **{**COSTS, "data": data})
    write_board(compare(find_records([tmp_path])), "text", tmp_path)
    assert {"digits/ranking", "digits_2/ranking"} <= set(read(tmp_path).Tags()["images"])


def test_of_equal_costs_the_better_score_is_on_the_front():
    points = [("a", 2, 0.5), ("b", 1, 0.5), ("c", 2, 0.7), ("d", 3, 0.6)]
    assert front(points, is_gain=False) == [("b", 1, 0.5), ("c", 2, 0.7)]
    assert front([], is_gain=False) == []


def test_it_needs_no_torch(sweep):
    script = f"""
import sys
from pathlib import Path
from segsweep.report.board import write_board
from segsweep.report.records import find_records
from segsweep.report.runs import compare
write_board(compare(find_records([Path({str(sweep)!r})])), "text", Path({str(sweep)!r}))
print(*({{"torch", "tensorflow", "pytorch_lightning", "matplotlib.pyplot"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [], done.stderr
    assert done.returncode == 0, done.stderr

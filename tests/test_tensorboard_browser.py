"""A mixed sweep in TensorBoard itself: what its tabs are sent, and what they show in a browser."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlencode

import pytest

from segsweep.report.command import main as report
from segsweep.staged import StagedTraining
from segsweep.task import Task
from segsweep.train import train
from tests.browser import CHROMIUM, FIND, TEXT, browser
from tests.conftest import TINY

pytestmark = pytest.mark.slow

FAMILIES = {"unet": ["model.widths=[4,8]"], "reseg": [], "conv_autoencoder": ["model.widths=[4,8]"]}
RUNS = [f"model={model},seed={seed}" for model in FAMILIES for seed in (0, 1)]


@pytest.fixture(scope="module")
def sweep(composer, tmp_path_factory):
    """Three families with two seeds each, the first run stopped and continued; one that failed; and the report."""
    folder = tmp_path_factory.mktemp("sweep")
    patch = pytest.MonkeyPatch()
    patch.setattr("segsweep.cost._INFERENCE_S", 0.02)
    with pytest.MonkeyPatch.context() as stop:
        stop.setattr(Task, "on_train_batch_start", _stop_within_the_last_epoch)
        with pytest.raises(SystemExit):
            _train(composer, folder / RUNS[0], "unet", "seed=0", *FAMILIES["unet"])
    for model, overrides in FAMILIES.items():
        for seed in (0, 1):
            _train(composer, folder / f"model={model},seed={seed}", model, f"seed={seed}", *overrides)
    with pytest.raises(ArithmeticError):
        _train(composer, folder / "model=unet,optimizer.lr=1e9", "unet", "optimizer.lr=1e9", *FAMILIES["unet"])
    patch.undo()
    report([str(folder)])
    return folder


def _stop_within_the_last_epoch(task, batch, batch_idx):
    if (task.current_epoch, batch_idx) == (1, 2):
        raise KeyboardInterrupt
    StagedTraining.on_train_batch_start(task, batch, batch_idx)


def _train(composer, folder, model, *overrides):
    folder.mkdir(exist_ok=True)
    graph = "trainer.tensorboard.graph=true"
    origin = {"choices": {"model": model, "data": "digits"}, "overrides": [*overrides], "sweep": "mixed"}
    train(composer(*TINY, f"model={model}", graph, *overrides), folder, origin)


@pytest.fixture(scope="module")
def address(sweep):
    """Of a TensorBoard that has read it all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(sweep),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_read(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_read(address, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            tags = ask(f"{address}/data/plugin/images/tags")
            scalars = ask(f"{address}/data/plugin/scalars/tags")
            if tags.get("report") and all("table/epochs" in scalars.get(run, {}) for run in RUNS):
                return
        time.sleep(0.5)
    raise RuntimeError(f"TensorBoard does not answer (exit code {process.poll()})")


def ask(address, content=None, **query):
    """What a tab is sent."""
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{address}?{urlencode(query)}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


# What it sends.


def test_the_table_has_every_run(address):
    table = ask(f"{address}/data/plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True})
    columns = [info["name"] for info in table["hparamInfos"]]
    assert set(columns[:5]) == {"model", "family", "lr", "seed", "status"}
    tags = [info["name"]["tag"] for info in table["metricInfos"]]
    asked = {
        "experimentName": "", "startIndex": 0, "sliceSize": 100,
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE"],
        "colParams": [{"metric": {"group": "", "tag": tag}, "includeInResult": True} for tag in tags]
        + [{"hparam": name, "includeInResult": True} for name in columns],
    }  # fmt: skip
    groups = ask(f"{address}/data/plugin/hparams/session_groups", asked)["sessionGroups"]
    rows = {group["name"]: group for group in groups}
    assert set(rows) == {*RUNS, "model=unet,optimizer.lr=1e9"}
    for name, group in rows.items():
        assert set(group["hparams"]) == set(columns), name
        found = {value["name"]["tag"] for value in group["metricValues"]}
        assert found == set(tags) if name in RUNS else "table/minutes" in found
    assert rows["model=unet,optimizer.lr=1e9"]["hparams"]["status"] == "failed (nan)"


def test_the_charts_pair_training_and_validation(address):
    found = ask(f"{address}/data/plugin/custom_scalars/layout")
    titles = [category["title"] for category in found["category"]]
    assert titles == ["Training and validation", "Each class, training and validation", "Optimisation and cost"]
    matches = ask(f"{address}/data/plugin/custom_scalars/scalars", run=RUNS[0], tag="^train/miou$")
    assert [point[1] for point in matches["tag_to_events"]["train/miou"]] == [2, 5]


def test_a_run_that_was_continued_has_no_point_twice(address):
    scalars = ask(f"{address}/data/plugin/scalars/tags")
    for tag in scalars[RUNS[0]]:
        curves = [ask(f"{address}/data/plugin/scalars/scalars", run=run, tag=tag) for run in RUNS[:2]]
        assert len({tuple(point[1] for point in curve) for curve in curves}) == 1, tag
    pictures = ask(f"{address}/data/plugin/images/images", run=RUNS[0], tag="val/predictions", sample=0)
    assert [picture["step"] for picture in pictures] == [2, 5]


def test_pictures_curves_texts_graphs_and_latents(address):
    images = ask(f"{address}/data/plugin/images/tags")
    assert {"val/predictions", "val/confusion", "test/confusion"} <= set(images[RUNS[0]])
    assert "val/image_reconstruction" in images["model=conv_autoencoder,seed=0"]
    assert "digits/ranking" in images["report"]
    assert "leaderboard" in ask(f"{address}/data/plugin/text/tags")["report"]
    assert "test/background" in ask(f"{address}/data/plugin/pr_curves/tags")[RUNS[0]]
    assert ask(f"{address}/data/plugin/graphs/info")[RUNS[0]]
    latents = ask(f"{address}/data/plugin/projector/runs")
    assert set(latents) == {f"model=conv_autoencoder,seed={seed}" for seed in (0, 1)}


# What it shows.


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A tab of a headless browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: what TensorBoard shows in a browser was not looked at")
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


TABS = {
    # The table's rows and the names of its columns.
    "hparams": [f"{TEXT}.includes('best test mIoU')", f"({TEXT}.match(/model=reseg,se/g) || []).length > 0"],
    # Pictures that have arrived: their own size is known.
    "images": [f"(() => {{ {FIND} return find('img').filter(e => e.naturalWidth > 300).length >= 3; }})()"],
    # Lines are drawn into SVG or a canvas.
    "custom_scalars": [
        f"{TEXT}.includes('Training and validation')",
        f"(() => {{ {FIND} return find('svg path').length + find('canvas').length > 6; }})()",
    ],
    "projector": [f"{TEXT}.includes('Dimension: 512')", f"(() => {{ {FIND} return find('canvas').length > 0; }})()"],
}  # fmt: skip


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_shows_something(page, address, tab, tmp_path):
    page.open(f"{address}/#{tab}", 1500, 1000)
    for condition in TABS[tab]:
        page.wait_for(condition, 60)
    assert "No data" not in page.evaluate(TEXT)
    page.screenshot(tmp_path / f"{tab}.png")
    assert (tmp_path / f"{tab}.png").stat().st_size > 20_000  # a blank page has less

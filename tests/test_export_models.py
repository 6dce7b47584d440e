"""Every option of conf/model as ONNX and torch.export: what exports answers as torch does, the rest is in the docs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from segsweep.export.graphs import make_graph, onnx_runner, torch_runner
from segsweep.export.trace import Deployed, NotExportableError, trace
from segsweep.opened import open_finished
from segsweep.opened.data import open_data
from tests.conftest import options, quick_ones
from tests.finished import write_finished

pytest.importorskip("onnx", reason='needs pip install "segsweep[export]"')
pytest.importorskip("onnxruntime")
PAGE = Path(__file__).parents[1] / "docs" / "export.md"
SIZE = (48, 48)


def documented(kind):
    """Options that the page lists as taking one size only."""
    rows = re.findall(r"^\| `(\w+)` \| (ONNX|torch\.export|both) \|", PAGE.read_text(), re.MULTILINE)
    return {name for name, where in rows if where in (kind, "both")}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    def make(name):
        try:
            return open_finished(write_finished(tmp_path_factory.mktemp(name) / "run", name))
        except Exception as error:
            if isinstance(error.__cause__, ImportError):
                pytest.skip(str(error.__cause__))
            raise

    return make


def check(run, name, kind, runner, label):
    model = Deployed(run.model, run.spec).eval()
    graph = make_graph(kind, model, run.spec.in_channels, SIZE, {})
    split = open_data(run).store.splits["test"]
    pixels = np.stack([split.image(i).transpose(2, 0, 1) for i in range(len(split.items))])
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels)).numpy()
    found = runner(graph.data)(pixels)
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.999
    assert graph.is_free == (name not in documented(label)), graph.why_fixed


@pytest.mark.parametrize("name", quick_ones("model", "unet", "dense_autoencoder"))  # of any size, and of one
def test_onnx_equals_torch(opened, name):
    check(opened(name), name, "onnx", onnx_runner, "ONNX")


@pytest.mark.slow
@pytest.mark.parametrize("name", options("model"))
def test_torch_export_equals_torch(opened, name):
    check(opened(name), name, "torch", torch_runner, "torch.export")


@pytest.mark.slow
def test_a_number_of_steps_that_torch_fixes_is_found(tmp_path):
    run = open_finished(write_finished(tmp_path / "run", "reseg", "model.cell=mingru"))
    with pytest.raises(NotExportableError, match="number of steps"):
        trace(Deployed(run.model, run.spec).eval(), run.spec.in_channels, None)


@pytest.mark.slow
def test_steps_that_depend_on_the_size_fix_it_in_onnx(tmp_path):
    run = open_finished(write_finished(tmp_path / "run", "reseg", "model.cell=mingru"))
    graph = make_graph("onnx", Deployed(run.model, run.spec).eval(), 1, SIZE, {})
    assert not graph.is_free

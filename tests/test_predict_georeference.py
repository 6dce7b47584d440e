"""Where an image lies on Earth stays with its prediction."""

import json

import numpy as np
import pytest
from PIL import Image

import segsweep
from segsweep.opened import open_finished
from segsweep.predict.command import main
from segsweep.predict.georeference import read_georeference
from tests.finished import write_finished

rasterio = pytest.importorskip("rasterio")
CRS, PLACE = "EPSG:32633", rasterio.Affine(0.5, 0.1, 400_000.0, 0.1, -0.5, 5_800_000.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_finished(tmp_path_factory.mktemp("runs") / "run", "unet", "model.widths=[4,8]")


@pytest.fixture
def scene():
    return np.random.default_rng(0).integers(0, 256, (48, 60), dtype=np.uint8)


@pytest.fixture
def image(tmp_path, scene):
    file = tmp_path / "field.tif"
    shape = {"height": 48, "width": 60, "count": 1, "dtype": "uint8"}
    with rasterio.open(file, "w", driver="GTiff", crs=CRS, transform=PLACE, **shape) as target:
        target.write(scene, 1)
    return file


def test_a_prediction_lies_where_its_image_does(run, image, tmp_path):
    out = tmp_path / "out"
    main([str(run), str(image), "--out", str(out), "--overlay", "--entropy", "--probabilities"])
    files = json.loads((out / "predictions.jsonl").read_text().splitlines()[1])["files"]
    assert files == {
        "classes": "field.tif", "overlay": "field.overlay.tif", "entropy": "field.entropy.tif",
        "probabilities": "field.probabilities.npy",
    }  # fmt: skip
    for kind, dtypes in (("classes", ("uint8",)), ("overlay", ("uint8",) * 3), ("entropy", ("uint16",))):
        with rasterio.open(out / files[kind]) as found:
            assert found.crs == CRS
            assert found.transform.almost_equals(PLACE)
            assert (found.shape, found.dtypes) == ((48, 60), dtypes)
    with rasterio.open(out / files["classes"]) as found:
        colours = open_finished(run).colours
        assert all(found.colormap(1)[k] == (*colours[k], 255) for k in range(11))
        classes = found.read(1)
    main([str(run), str(image), "--out", str(tmp_path / "plain"), "--no-georeference"])
    assert (np.asarray(Image.open(tmp_path / "plain" / "field.png")) == classes).all()


def test_a_world_file_is_a_georeference(run, scene, tmp_path):
    Image.fromarray(scene).save(tmp_path / "map.png")
    (tmp_path / "map.pgw").write_text("2\n0\n0\n-2\n1001\n2001\n")
    main([str(run), str(tmp_path / "map.png"), "--out", str(tmp_path / "out")])
    with rasterio.open(tmp_path / "out" / "map.tif") as found:
        assert found.crs is None
        assert found.transform.almost_equals(rasterio.Affine(2, 0, 1000, 0, -2, 2002))


def test_plain_images_have_none(run, scene, tmp_path):
    Image.fromarray(scene).save(tmp_path / "plain.tif")
    Image.fromarray(scene).save(tmp_path / "plain.png")
    assert read_georeference(tmp_path / "plain.tif") is None
    main([str(run), str(tmp_path / "plain.tif"), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "plain.png").exists()


def test_python_keeps_it_too(run, image, tmp_path):
    prediction = segsweep.load(run).predict(image)
    prediction.save(tmp_path / "saved.tif")
    with rasterio.open(tmp_path / "saved.tif") as found:
        assert found.transform.almost_equals(PLACE)
        assert (found.read(1) == prediction.classes).all()
    prediction.save(tmp_path / "saved.png")
    assert (np.asarray(Image.open(tmp_path / "saved.png")) == prediction.classes).all()


def test_without_rasterio_the_extra_is_named(run, image, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    with pytest.raises(SystemExit):
        main([str(run), str(image), "--out", str(tmp_path / "out")])
    assert 'pip install "segsweep[geo]"' in capsys.readouterr().err
    main([str(run), str(image), "--out", str(tmp_path / "out2"), "--no-georeference"])
    assert (tmp_path / "out2" / "field.png").exists()

"""Mask conventions: every way of writing classes into a file that a dataset may have, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from segsweep.data.labels import Labels
from segsweep.data.problems import Problem
from segsweep.data.rasters import open_raster
from tests.sources import write

NAMES = ("ground", "tree", "house")
CLASSES = np.array([[0, 1, 2, 255], [2, 2, 1, 0]], np.uint8)
COLOURS = np.array([[60, 16, 152], [132, 41, 246], [254, 221, 58]], np.uint8)


def labels(class_names=NAMES, ignore_index=255, label_map=None, threshold=None, palette=None):
    return Labels(class_names, ignore_index, label_map, threshold, palette)


@pytest.fixture
def read(tmp_path):
    """``read(pixels, suffix, **convention)`` -> the classes that are read from a file with these pixels."""

    def read_back(content, suffix=".png", options=None, **convention):
        file = write(tmp_path / f"mask{suffix}", content, **(options or {}))
        return labels(**convention).read(open_raster(file, "mask 7", None, 10**6), "mask 7")

    return read_back


def paletted(indices, colours, **info):
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(np.asarray(colours, np.uint8).ravel().tolist())
    image.info.update(info)
    return image


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".npy"])
def test_values_are_classes(read, suffix):
    mask = read(CLASSES, suffix)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, CLASSES)


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, ".png"), (np.uint16, ".tif"), (np.int32, ".tif")])
def test_wide_integers_hold_classes_too(read, dtype, suffix):
    assert np.array_equal(read(CLASSES.astype(dtype), suffix), CLASSES)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int16, np.uint32, np.int64, np.uint64])
def test_any_integer_array(read, dtype):
    classes = CLASSES.clip(0, 1) if dtype is bool else CLASSES.clip(0, 2)
    assert np.array_equal(read(classes.astype(dtype), ".npy"), classes)


def test_one_bit_masks(read):
    classes = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    assert np.array_equal(read(Image.fromarray(classes * 255).convert("1")), classes)
    assert np.array_equal(read(Image.fromarray(classes * 255).convert("1"), label_map={0: "tree", 1: "ignore"}),
                          np.where(classes, 255, 1))  # fmt: skip


def test_grey_saved_as_colour_is_grey(read):
    assert np.array_equal(read(np.stack([CLASSES] * 3, axis=2)), CLASSES)


def test_ignored_pixels_keep_their_value(read):
    mask = read(np.where(CLASSES == 255, 7, CLASSES), ignore_index=7)
    assert np.array_equal(mask, np.where(CLASSES == 255, 7, CLASSES))


@pytest.mark.parametrize(
    ("label_map", "read_as"),
    [
        ({0: "ground", 100: "tree", 255: "house"}, {0: 0, 100: 1, 255: 2}),
        ({0: 2, 100: 0, 255: 1}, {0: 2, 100: 0, 255: 1}),
        ({0: "ignore", 100: "house", 255: "house"}, {0: 9, 100: 2, 255: 2}),  # several values may be one class
        ({0: 0, 50: 1, 100: "ignore", 255: "tree"}, {0: 0, 100: 9, 255: 1}),  # not every value need occur
    ],
)
def test_label_map_by_name_number_and_ignore(read, label_map, read_as):
    stored = np.array([[0, 100], [255, 0]], np.uint8)
    expected = np.vectorize(read_as.get)(stored)
    assert np.array_equal(read(stored, label_map=label_map, ignore_index=9), expected)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.int32, (0, 70000, 900000)),  # far apart
        (np.int16, (-32768, 0, 5)),  # a distance that the type itself cannot hold
        (np.int8, (-100, 60, 100)),
        (np.int64, (-1, 0, 1)),
        (np.uint16, (65533, 65534, 65535)),
    ],
)
def test_sparse_and_negative_values(read, dtype, values):
    places = np.array([[0, 1, 2], [2, 0, 1]])
    stored = np.array(values)[places].astype(dtype)
    label_map = dict(zip(values, ("ignore", "tree", "ground"), strict=True))
    assert np.array_equal(read(stored, ".npy", label_map=label_map), np.array([255, 1, 0])[places])


def test_threshold_for_grey_edges_and_lossy_files(read):
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    assert read(grey, threshold=127).tolist() == [[0, 0, 1, 1]]
    assert read(np.array([[0.2, 0.5, 0.7]], np.float32), ".npy", threshold=0.5).tolist() == [[0, 0, 1]]
    big = grey.repeat(16, 0).repeat(16, 1)
    assert np.array_equal(read(big, ".jpg", threshold=64)[4, 8::16], [0, 1, 1, 1])


def test_threshold_then_label_map_inverts(read):
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    assert read(grey, threshold=127, label_map={0: "tree", 1: "ground"}).tolist() == [[1, 1, 0, 0]]
    assert read(grey, threshold=127, label_map={0: "ground", 1: "ignore"}).tolist() == [[0, 0, 255, 255]]


@pytest.mark.parametrize(
    "keys",
    [
        ("60 16 152", "132 41 246", "254 221 58"),
        ("#3C1098", "#8429f6", "#FEDD3A"),
        ("60,16,152", "#8429F6", "254, 221, 58"),
    ],
)
def test_palette_by_colour(read, keys):
    places = np.array([[0, 1, 2], [2, 2, 0]])
    palette = dict(zip(keys, ("house", 0, "ignore"), strict=True))
    expected = np.array([2, 0, 255])[places]
    assert np.array_equal(read(COLOURS[places], palette=palette), expected)
    assert np.array_equal(read(paletted(places.astype(np.uint8), COLOURS), palette=palette), expected)
    other_order = paletted((2 - places).astype(np.uint8), COLOURS[::-1])
    assert np.array_equal(read(other_order, palette=palette), expected)  # colours count, indices do not


def test_palette_files_are_read_by_index_otherwise(read):
    image = paletted(CLASSES, np.random.default_rng(0).integers(0, 255, (256, 3)))
    for suffix in (".png", ".tif", ".bmp"):
        assert np.array_equal(read(image, suffix), CLASSES)
    assert np.array_equal(read(image, options={"transparency": 0}), CLASSES)  # how colours are shown is no matter
    assert np.array_equal(read(paletted(CLASSES % 2, COLOURS), label_map={0: "tree", 1: "ground"}), 1 - CLASSES % 2)


def test_grey_masks_have_grey_colours(read):
    assert read(np.array([[0, 255]], np.uint8), palette={"0 0 0": "ground", "#FFFFFF": "tree"}).tolist() == [[0, 1]]


def test_values_pass_while_classes_are_unknown(read):
    assert np.array_equal(read(CLASSES, class_names=None), CLASSES)


@pytest.mark.parametrize(
    ("content", "suffix", "convention", "code", "message"),
    [
        (CLASSES, ".png", {"ignore_index": 254}, "E-LABEL", r"has 255 \(1 px\); classes are 0..2.*ignore_index=255"),
        (CLASSES + np.uint8(1), ".png", {"ignore_index": 0}, "E-LABEL", r"has 3 \(3 px\); classes are 0..2"),
        (np.array([[1, 3]], np.uint8), ".png", {}, "E-LABEL", r"from 1: 'data.label_map=\{1:0,2:1,3:2,255:ignore\}"),
        (np.array([[0, -1]], np.int16), ".npy", {}, "E-LABEL", r"-1 \(1 px\).*ignore': 'data.label_map=\{-1:ignore,"),
        (
            np.array([[0, 255]], np.uint8), ".png", {"class_names": ("a", "b"), "ignore_index": 9}, "E-LABEL",
            r"masks of 0 and 255: 'data.label_map=\{0:0,255:1\}",
        ),
        (np.arange(0, 240, 12, dtype=np.uint8)[None], ".png", {}, "E-LABEL", r"and 11 more values.*in-between values"),
        (np.arange(20, dtype=np.uint8)[None], ".png", {}, "E-LABEL", r"and 9 more values.*Add the classes"),
        (CLASSES, ".png", {"label_map": {0: 0, 1: 1}}, "E-LABEL", r"255 \(1 px\); data.label_map knows 0, 1"),
        (np.array([[0, 2**30]], np.int32), ".tif", {}, "E-LABEL", r"has values from 0 to 1073741824"),
        (np.zeros((2, 2), np.float32), ".npy", {}, "E-LABEL", r"holds float32 numbers \(0 to 0\)"),
        (np.zeros((16, 16), np.uint8), ".jpg", {}, "E-LOSSY", r"is a JPEG file, .*data.threshold=127"),
        (COLOURS[None], ".png", {}, "E-COLOUR", r"has 3 colours.*'data.palette=\{60 16 152:0,132 41 246:1"),
        (COLOURS[None], ".png", {"palette": {"60 16 152": 0, "#8429F6": 1}}, "E-COLOUR", r"lacks: 254 221 58 \(1 px\)"),
        (COLOURS[None].repeat(16, 1), ".jpg", {"palette": {"60 16 152": 0}}, "E-LOSSY", r"changes colours"),
        (CLASSES.astype(np.uint16), ".png", {"palette": {"0 0 0": 0}}, "E-COLOUR", r"is I;16, without colours"),
        (np.full((2, 2, 4), 100, np.uint8), ".png", {}, "E-LABEL", r"is a mask with transparency"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_convention_is_refused(read, content, suffix, convention, code, message):
    with pytest.raises(Problem, match=message) as error:
        read(content, suffix, **convention)
    assert str(error.value).startswith(f"{code} mask 7 ")


@pytest.mark.parametrize(
    ("convention", "message"),
    [
        ({"palette": {"0 0 0": 0}, "threshold": 1.0}, r"data.palette and data.threshold exclude each other"),
        ({"palette": {"0 0 0": 0}, "label_map": {0: 0}}, r"data.palette and data.label_map exclude each other"),
        ({"label_map": {0: "hous"}}, r"data.label_map names class 'hous'. Did you mean 'house'\?"),
        ({"label_map": {0: 3}}, r"data.label_map names class 3; classes are 0..2, or 'ignore'"),
        ({"palette": {"0 0 0": -1}}, r"data.palette names class -1"),
        (
            {"palette": {"0 0 256": 0}},
            r"'0 0 256' is no colour; write red, green and blue, e.g. 60 16 152, or in a file #3C1098",
        ),
        ({"palette": {"#12345": 0}}, r"'#12345' is no colour"),
        ({"palette": {"red": 0}}, r"'red' is no colour"),
    ],
)
def test_conventions_that_make_no_sense_are_refused(convention, message):
    with pytest.raises(ValueError, match=message):
        labels(**convention)


def test_identity_follows_what_masks_mean():
    conventions = [
        {}, {"threshold": 127.0}, {"threshold": 0.0}, {"label_map": {0: 1}}, {"label_map": {0: "house"}},
        {"palette": {"0 0 0": 0}}, {"palette": {"0 0 1": 0}}, {"ignore_index": 9},
    ]  # fmt: skip
    identities = [json.dumps(labels(**convention).identity()) for convention in conventions]
    assert len(set(identities)) == len(identities)
    same = [labels(label_map={0: "tree", 255: "ignore"}), labels(label_map={255: "ignore", 0: 1})]
    assert same[0].identity() == same[1].identity()
    assert labels(palette={"#0A0B0C": 0}).identity() == labels(palette={"10 11 12": "ground"}).identity()

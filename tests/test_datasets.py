"""The data files of conf/data, each on a small tree in the layout of the real dataset, with its oddities."""

import functools
import gzip
import re
import struct
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import yaml
from PIL import Image

from segsweep import CONF_DIR, config
from segsweep.data.problems import DataError
from tests.conftest import options
from tests.sources import write


def photo(name, height=6, width=8, channels=3):
    """Noise that no other name has: two equal pictures would be a leak."""
    rng = np.random.default_rng(list(str(name).encode()))
    pixels = rng.integers(0, 256, (height, width, channels), np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def stripes(values, height=6, width=8, dtype=np.uint8):
    """A mask (height, width) whose columns hold the values in turn."""
    return np.resize(np.array(values, dtype), width)[None].repeat(height, 0)


def with_palette(indices, colours):
    """A picture of indices that brings its own colours."""
    picture = Image.fromarray(indices, mode=None)
    picture = picture.convert("P") if picture.mode != "P" else picture
    picture.frombytes(indices.tobytes())
    picture.putpalette(np.array(colours, np.uint8).ravel().tolist())
    return picture


@pytest.fixture(scope="module")
def settled(composer):
    """``settled("wbc", root, overrides...)`` -> the config, composed once for all roots."""

    @functools.cache
    def compose(name, *overrides):
        return config.settle(composer(f"data={name}", "data.root=/nowhere", "trainer=cpu", *overrides))

    def settle(name, root, *overrides):
        plain = compose(name, *overrides)
        return {**plain, "data": {**plain["data"], "root": str(root)}}

    return settle


@pytest.fixture
def open_data(settled):
    """``open_data("wbc", root, overrides...)`` -> the source, which knows the files and reads them."""

    def open_one(*arguments):
        source, _ = config.data_nodes(settled(*arguments)["data"])
        return config.make_partial(source)()  # which leaves the source's own errors as they are

    return open_one


@pytest.fixture
def build_data(settled):
    """The same with the DataModule over it, which decodes everything."""
    return lambda *arguments: config.build_data(settled(*arguments))


def stems(source):
    """Split -> names of its images without their folders."""
    return {split: [item.name.rpartition("/")[2] for item in items] for split, items in source.items().items()}


def read(source, split, stem):
    """Image and mask by name."""
    image, mask, _ = source.read(split, stems(source)[split].index(stem))
    return image, mask


def groups(source):
    """Split -> groups of its labelled images, after a check that no group is in two."""
    found = {
        split: {item.group for item in items if not item.group.startswith("unlabelled/")}
        for split, items in source.items().items()
    }
    assert sum(map(len, found.values())) == len(set.union(*found.values())), "a group is in two splits"
    return found


# Oxford-IIIT Pet


def pets(root):
    base = root / "oxford-iiit-pet"
    trainval = [f"Abyssinian_{i}" for i in range(1, 8)] + ["yorkshire_terrier_9"]
    test = ["Bengal_1", "Bengal_2", "samoyed_10"]
    for stem in [*trainval, *test, "Bengal_3"]:  # Bengal_3 is in no list
        write(base / "images" / f"{stem}.jpg", photo(stem))
        write(base / "annotations" / "trimaps" / f"{stem}.png", stripes([1, 2, 3]))
        write(base / "annotations" / "trimaps" / f"._{stem}.png", b"\x00\x05\x16\x07")  # what macOS adds
    see_through = np.dstack([photo("Abyssinian_5"), stripes([255, 0])])
    write(base / "images" / "Abyssinian_5.jpg", b"").unlink()
    Image.fromarray(see_through).save(base / "images" / "Abyssinian_5.jpg", format="PNG")
    write(base / "images" / "Abyssinian_100.mat", b"MATLAB 5.0")
    write(base / "annotations" / "xmls" / "Abyssinian_1.xml", "<annotation/>")
    write(base / "annotations" / "README", "OXFORD-IIIT PET Dataset")
    write(base / "annotations" / "trainval.txt", "".join(f"{stem} 1 1 1\n" for stem in trainval))
    write(base / "annotations" / "test.txt", "".join(f"{stem} 6 1 2\r\n" for stem in test))
    write(base / "annotations" / "list.txt", "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\n")
    return root


def test_pets_follow_the_published_lists(open_data, tmp_path):
    source = open_data("oxford_pet", pets(tmp_path))
    found = stems(source)
    assert found["test"] == ["Bengal_1", "Bengal_2", "samoyed_10"]
    assert len(found["val"]) == 1  # a tenth of eight, at least one
    listed = [*(f"Abyssinian_{i}" for i in range(1, 8)), "yorkshire_terrier_9"]
    assert sorted(found["train"] + found["val"]) == listed
    assert source.unused == {"unlisted": 1}


def test_pets_have_two_classes_and_no_outline(open_data, tmp_path):
    source = open_data("oxford_pet", pets(tmp_path))
    _, mask = read(source, "test", "samoyed_10")
    assert mask[0].tolist() == [1, 0, 255, 1, 0, 255, 1, 0]
    merged = open_data("oxford_pet", tmp_path, "data.label_map={3:pet}")
    assert read(merged, "test", "samoyed_10")[1][0].tolist() == [1, 0, 1, 1, 0, 1, 1, 0]


def test_pets_that_are_transparent_png_files_keep_their_colours(open_data, tmp_path):
    source = open_data("oxford_pet", pets(tmp_path))
    split = "train" if "Abyssinian_5" in stems(source)["train"] else "val"
    image, _ = read(source, split, "Abyssinian_5")
    assert np.array_equal(image, photo("Abyssinian_5"))


# PASCAL VOC 2012


def voc(root):
    base = root / "VOCdevkit" / "VOC2012"
    lists = {"train": [f"2007_{i:06d}" for i in range(6)], "val": ["2008_000009", "2008_000010", "2011_003271"]}
    colours = np.arange(768) % 251  # any: files are read by index
    for i, stem in enumerate([*lists["train"], *lists["val"]]):
        height, width = (6, 8) if i % 2 else (8, 6)
        write(base / "JPEGImages" / f"{stem}.jpg", photo(stem, height, width))
        mask = with_palette(stripes([0, 15, 20, 255], height, width), colours)
        write(base / "SegmentationClass" / f"{stem}.png", mask)
        write(base / "SegmentationObject" / f"{stem}.png", with_palette(stripes([0, 1, 2], height, width), colours))
    for stem in ("2009_000001", "2010_000002"):  # for the other challenges
        write(base / "JPEGImages" / f"{stem}.jpg", photo(stem))
        write(base / "Annotations" / f"{stem}.xml", "<annotation/>")
    for name, listed in lists.items():
        write(base / "ImageSets" / "Segmentation" / f"{name}.txt", "\n".join(listed) + "\n")
    write(base / "ImageSets" / "Segmentation" / "trainval.txt", "\n".join(lists["train"] + lists["val"]))
    return root


def test_voc_reports_its_val_and_validates_on_a_share_of_train(open_data, tmp_path):
    source = open_data("voc2012", voc(tmp_path))
    found = stems(source)
    assert found["test"] == ["2008_000009", "2008_000010", "2011_003271"]
    assert len(found["val"]) == 1
    assert sorted(found["train"] + found["val"]) == [f"2007_{i:06d}" for i in range(6)]
    assert source.unused == {"unlisted": 2}


def test_voc_masks_are_read_by_index(open_data, tmp_path):
    _, mask = read(open_data("voc2012", voc(tmp_path)), "test", "2008_000010")
    assert mask[0].tolist() == [0, 15, 20, 255, 0, 15, 20, 255]


def test_voc_images_without_masks_can_join_train(build_data, tmp_path):
    pattern = "data.unlabelled=VOCdevkit/VOC2012/JPEGImages/*.jpg"
    data = build_data("voc2012", voc(tmp_path), pattern, "data.crop=[4,4]")
    found = stems(data.source)
    assert found["train"][-2:] == ["2009_000001", "2010_000002"]
    assert len(found["train"]) == 7
    assert len(found["val"]) + len(found["test"]) == 4
    assert data.store.splits["train"].has_label.tolist() == [True] * 5 + [False] * 2
    assert (data.store.splits["train"].mask(6) == 255).all()
    sizes = {tuple(batch.mask.shape[1:]) for batch in data.test_dataloader()}
    assert sizes == {(6, 8), (8, 6)}  # scored at their own sizes


# Cityscapes

# What the benchmark scores, in the order of its train ids.
SCORED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def cityscapes(root):
    ids = stripes([*range(34), 255], 3, 35)
    streets = {
        "train": {"aachen": 4, "bremen": 3, "ulm": 2, "zurich": 1},
        "val": {"frankfurt": 2, "munster": 1},
        "test": {"berlin": 2},
        "train_extra": {"erlangen": 2},
    }
    for split, cities in streets.items():
        for city, num in cities.items():
            for i in range(num):
                frame = f"{city}_{i:06d}_000019"
                image = photo(split + frame, 3, 35)
                write(root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", image)
                if split == "train_extra":  # has coarse masks only
                    continue
                masks = root / "gtFine" / split / city
                write(masks / f"{frame}_gtFine_labelIds.png", np.zeros_like(ids) if split == "test" else ids)
                write(masks / f"{frame}_gtFine_instanceIds.png", ids.astype(np.uint16) * 1000)
                write(masks / f"{frame}_gtFine_color.png", image)
                write(masks / f"{frame}_gtFine_polygons.json", "{}")
    write(root / "license.txt", "The Cityscapes Dataset")
    return root


def test_cityscapes_validates_on_cities_of_train_and_reports_val(open_data, tmp_path):
    source = open_data("cityscapes", cityscapes(tmp_path))
    cities = groups(source)
    assert cities["test"] == {"frankfurt", "munster"}
    assert cities["train"] | cities["val"] == {"aachen", "bremen", "ulm", "zurich"}
    assert cities["val"]
    assert {split: len(items) for split, items in source.items().items()} == {
        "train": 10 - len(source.items()["val"]),
        "val": len(source.items()["val"]),
        "test": 3,
    }
    assert source.unused == {"test": 2, "train_extra": 2}


def test_cityscapes_label_ids_become_the_19_classes(open_data, tmp_path):
    source = open_data("cityscapes", cityscapes(tmp_path))
    _, mask = read(source, "test", "munster_000000_000019_leftImg8bit")
    expected = [SCORED.index(i) if i in SCORED else 255 for i in [*range(34), 255]]
    assert mask[0].tolist() == expected
    named = {7: "road", 13: "fence", 19: "traffic light", 24: "person", 31: "train", 33: "bicycle"}
    assert {i: source.labels.class_names[SCORED.index(i)] for i in named} == named


# ADE20K


def ade20k(root):
    base = root / "ADEChallengeData2016"
    for split, short, num in (("training", "train", 7), ("validation", "val", 3)):
        for i in range(1, num + 1):
            stem = f"ADE_{short}_{i:08d}"
            image = photo(stem, 4, 151, channels=1 if i == 2 else 3)  # some are grey
            write(base / "images" / split / f"{stem}.jpg", image)
            write(base / "annotations" / split / f"{stem}.png", stripes(range(151), 4, 151))
    write(base / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName\n1\t0.1576\t11664\t1172\twall\n")
    write(base / "sceneCategories.txt", "ADE_train_00000001 airport_terminal\n")
    return root


def test_ade20k_reports_validation(open_data, tmp_path):
    found = stems(open_data("ade20k", ade20k(tmp_path)))
    assert found["test"] == [f"ADE_val_{i:08d}" for i in (1, 2, 3)]
    assert len(found["val"]) == 1
    assert sorted(found["train"] + found["val"]) == [f"ADE_train_{i:08d}" for i in range(1, 8)]


def test_ade20k_labels_count_from_one(open_data, tmp_path):
    source = open_data("ade20k", ade20k(tmp_path))
    image, mask = read(source, "test", "ADE_val_00000002")
    assert image.shape == (4, 151, 3)
    assert mask[0].tolist() == [255, *range(150)]
    named = {1: "wall", 13: "person", 46: "counter", 76: "swivel chair", 90: "television", 131: "screen", 150: "flag"}
    assert {label: source.labels.class_names[mask[0, label]] for label in named} == named


# CamVid


def camvid(root):
    videos = {"train": ["0001TP_006690", "0001TP_006720", "0006R0_f00930"], "val": ["0016E5_07959", "0016E5_07961"],
              "test": ["0001TP_008550", "Seq05VD_f00000"]}  # fmt: skip
    for split, stems_ in videos.items():
        for stem in stems_:
            write(root / "images" / split / f"{stem}.png", photo(split + stem))
            write(root / "masks" / split / f"{stem}.png", stripes([0, 10, 11]))
    write(root / "images" / "test" / ".DS_Store", "x")
    return root


def test_camvid_frames_know_their_video_and_void_is_ignored(build_data, tmp_path):
    data = build_data("camvid", camvid(tmp_path), "data.size=[6,8]")
    items = data.source.items()
    assert {split: len(found) for split, found in items.items()} == {"train": 3, "val": 2, "test": 2}
    assert [item.group for item in items["train"]] == ["0001TP", "0001TP", "0006R0"]
    assert [item.group for item in items["test"]] == ["0001TP", "Seq05VD"]
    assert data.spec.ignore_index == 11
    _, mask = read(data.source, "test", "Seq05VD_f00000")
    assert mask[0].tolist() == [0, 10, 11, 0, 10, 11, 0, 10]
    assert data.store.splits["test"].counts[0, [0, 10, 11]].tolist() == [18, 18, 12]  # 11 counts as ignored


# White blood cells


def wbc(root):
    folder = root / "Dataset 1"
    for i in [*range(1, 10), 112, 139]:
        write(folder / f"{i:03d}.bmp", photo("112" if i == 139 else i))  # these two are one picture
        write(folder / f"{i:03d}.png", stripes([0, 128, 255]))
    write(folder / "Thumbs.db", b"x")
    write(root / "Class Labels of Dataset 1.csv", "image ID,class label\n1,1\n")
    write(root / "Dataset 2" / "001.bmp", photo("other"))
    write(root / "Dataset 2" / "001.png", stripes([0, 128, 255]))
    return root


def test_wbc_leaves_its_repeated_picture_out(build_data, tmp_path):
    data = build_data("wbc", wbc(tmp_path), "data.size=[6,8]")
    found = stems(data.source)
    assert {split: len(names) for split, names in found.items()} == {"train": 6, "val": 2, "test": 2}
    assert set().union(*found.values()) == {*(f"{i:03d}" for i in range(1, 10)), "112"}
    assert data.store.leaks == []
    _, mask = read(data.source, "test", found["test"][0])
    assert mask[0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


# ISBI 2012


def isbi(root):
    for i in range(10):
        write(root / "train" / "image" / f"{i}.png", photo(f"labelled {i}", channels=1))
        write(root / "train" / "label" / f"{i:02d}.png", stripes([0, 255]))  # 7.png goes with 07.png
    for i in range(3):
        write(root / "unlabelled" / f"{i}.png", photo(f"without {i}", channels=1))
    return root


def test_isbi_has_unlabelled_slices_in_train_alone(build_data, tmp_path):
    data = build_data("isbi2012_em", isbi(tmp_path), "data.crop=[4,4]")
    names = {split: [item.name for item in items] for split, items in data.source.items().items()}
    assert {split: len(found) for split, found in names.items()} == {"train": 6 + 3, "val": 2, "test": 2}
    assert names["train"][6:] == [f"unlabelled/{i}" for i in range(3)]
    assert data.store.splits["train"].has_label.tolist() == [True] * 6 + [False] * 3
    image, mask, _ = data.source.read("test", 0)
    assert image.shape == (6, 8, 1)
    assert mask[0].tolist() == [0, 1] * 4  # membrane, cell
    assert data.source.read("train", 7).mask is None


def test_isbi_folds_test_every_labelled_slice_once(open_data, tmp_path):
    isbi(tmp_path)
    tested, validated = [], []
    for fold in range(5):
        source = open_data("isbi2012_em", tmp_path, f"data.fold={fold}", "data.num_folds=5")
        names = {split: [item.name for item in items] for split, items in source.items().items()}
        assert [len(names[split]) for split in ("train", "val", "test")] == [6 + 3, 2, 2]
        groups(source)
        tested += names["test"]
        validated += names["val"]
    assert sorted(tested) == sorted(validated) == [f"train/image/{i}" for i in range(10)]


# Dubai

DUBAI = {"building": (60, 16, 152), "land": (132, 41, 246), "road": (110, 193, 228), "vegetation": (254, 221, 58),
         "water": (226, 169, 41), "unlabelled": (155, 155, 155), "stray": (0, 0, 0)}  # fmt: skip


def dubai(root):
    base = root / "Semantic segmentation dataset"
    columns = stripes(range(7), 5, 7)
    for tile in range(1, 7):
        for i in range(1, 4):
            height = 5 + tile  # tiles differ in size
            indices = np.resize(columns, (height, 7))
            colours = list(DUBAI.values())
            if i == 1:  # a palette of its own: other indices for the same colours
                mask = with_palette((indices + tile) % 7, np.roll(colours, tile, axis=0))
            else:
                mask = np.array(colours, np.uint8)[indices]
            write(base / f"Tile {tile}" / "images" / f"image_part_{i:03d}.jpg", photo((tile, i), height, 7))
            write(base / f"Tile {tile}" / "masks" / f"image_part_{i:03d}.png", mask)
    write(base / "classes.json", "{}")
    return root


def test_dubai_tiles_stay_together_and_colours_count_whatever_the_palette(build_data, tmp_path):
    data = build_data("dubai_landcover", dubai(tmp_path), "data.crop=[4,4]", "data.tile=[6,6]")
    tiles = groups(data.source)
    assert set.union(*tiles.values()) == {"1", "2", "3", "4", "5", "6"}
    assert all(len(items) == 3 * len(tiles[split]) for split, items in data.source.items().items())
    for split, items in data.source.items().items():
        for position, item in enumerate(items):
            mask = data.source.read(split, position).mask
            assert mask[0].tolist() == [0, 1, 2, 3, 4, 255, 255], item.name
    assert data.store.splits["train"].size is None


# MNIST


def mnist(root, num_train=20, num_test=4):
    raw = root / "MNIST" / "raw"  # where torchvision puts the files
    for stem, num in (("train", num_train), ("t10k", num_test)):
        images = np.stack([photo(f"{stem} {i}", 28, 28, 1) for i in range(num)])
        images[:, 0, :3] = (0, 1, 255)
        labels = (np.arange(num) % 10).astype(np.uint8)
        write(raw / f"{stem}-images-idx3-ubyte", struct.pack(">4I", 2051, num, 28, 28) + images.tobytes())
        packed = gzip.compress(struct.pack(">2I", 2049, num) + labels.tobytes())
        write(raw / f"{stem}-labels-idx1-ubyte.gz", packed)
    return root


def test_mnist_masks_are_the_digit_where_there_is_ink(open_data, tmp_path):
    source = open_data("mnist", mnist(tmp_path))
    found = stems(source)
    assert {split: len(names) for split, names in found.items()} == {"train": 18, "val": 2, "test": 4}
    assert len({*found["train"], *found["val"]}) == 20
    image, mask = read(source, "test", "t10k-00003")
    assert image.shape == (28, 28, 1)
    assert mask[0, :3].tolist() == [0, 4, 4]  # the digit 3 is class 4
    assert set(np.unique(mask)) == {0, 4}
    thicker = open_data("mnist", tmp_path, "data.ink=254")
    assert read(thicker, "test", "t10k-00003")[1][0, :3].tolist() == [0, 0, 4]


def test_mnist_can_be_cut_short(open_data, tmp_path):
    found = stems(open_data("mnist", mnist(tmp_path), "data.limit=3"))
    assert {split: len(names) for split, names in found.items()} == {"train": 2, "val": 1, "test": 3}


def write_idx(root, stem, num_images, labels, pack=bytes):
    images = struct.pack(">4I", 2051, num_images, 28, 28) + bytes(num_images * 784)
    write(root / f"{stem}-images-idx3-ubyte", pack(images))
    write(root / f"{stem}-labels-idx1-ubyte", struct.pack(">2I", 2049, len(labels)) + bytes(labels))


def test_mnist_labels_that_are_no_classes_are_refused(open_data, tmp_path):
    for stem in ("train", "t10k"):
        write_idx(tmp_path, stem, 20, [*range(10), *range(10)])
    assert open_data("mnist", tmp_path)
    write_idx(tmp_path, "train", 20, [26, 250, 250, *range(10), *range(7)])
    with pytest.raises(DataError, match=r"E-LABEL train-labels-idx1-ubyte has the labels 26, 250 \(in 3 of 20 "):
        open_data("mnist", tmp_path)


@pytest.mark.parametrize("num", [19, 21])
def test_mnist_images_and_labels_have_to_be_as_many(num, open_data, tmp_path):
    for stem in ("train", "t10k"):
        write_idx(tmp_path, stem, num if stem == "t10k" else 20, [1] * 20)
    with pytest.raises(DataError, match=f"E-PAIR t10k-images-idx3-ubyte has {num} images, t10k-labels.* 20 labels"):
        open_data("mnist", tmp_path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda packed: packed[:-20],
        lambda packed: packed[:-8] + bytes(8),
        lambda packed: packed[:40] + b"\xff" * 30 + packed[70:],
        lambda packed: packed[:20],
        lambda packed: b"",
        lambda packed: b"no gzip file",
    ],
)
def test_damaged_mnist_is_one_line(harm, build_data, tmp_path):
    for stem in ("train", "t10k"):
        write_idx(tmp_path, stem, 20, [1] * 20)
    packed = gzip.compress(np.random.default_rng(0).integers(0, 255, 20 * 784 + 16, np.uint8).tobytes())
    header = gzip.compress(struct.pack(">4I", 2051, 20, 28, 28))  # the beginning is sound
    (tmp_path / "train-images-idx3-ubyte").unlink()
    write(tmp_path / "train-images-idx3-ubyte.gz", header + harm(packed))
    with pytest.raises(DataError) as error:
        build_data("mnist", tmp_path).store  # noqa: B018  it is opened on first use
    (line,) = error.value.lines
    assert line.startswith("E-IMG train-images-idx3-ubyte.gz is ")
    assert line.endswith(". Download it again")


# All of them

TREES = {
    "ade20k": (ade20k, ["data.crop=[4,16]", "data.tile=[4,64]"]),
    "camvid": (camvid, ["data.size=[6,8]"]),
    "cityscapes": (cityscapes, ["data.crop=[3,16]", "data.tile=[3,16]"]),
    "dubai_landcover": (dubai, ["data.crop=[4,4]", "data.tile=[6,6]"]),
    "isbi2012_em": (isbi, ["data.crop=[4,4]"]),
    "mnist": (mnist, []),
    "oxford_pet": (pets, ["data.size=[4,4]"]),
    "voc2012": (voc, ["data.crop=[4,4]"]),
    "wbc": (wbc, ["data.size=[6,8]"]),
}


@pytest.mark.parametrize("name", TREES)
def test_every_dataset_makes_batches(name, build_data, tmp_path):
    tree, overrides = TREES[name]
    data = build_data(name, tree(tmp_path), *overrides)
    assert data.store.leaks == []
    classes = {*range(len(data.spec.class_names)), data.spec.ignore_index}
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch.image.shape[1] == data.spec.in_channels
            assert set(batch.mask.unique().tolist()) <= classes
            assert (batch.mask != data.spec.ignore_index).any()


# Data that is not there


NODES = {name: yaml.safe_load((CONF_DIR / "data" / f"{name}.yaml").read_text()) for name in options("data")}
OBTAIN = {name: node["obtain"] for name, node in NODES.items() if node.get("obtain")}
FETCHABLE = [name for name in OBTAIN if NODES[name].get("downloader")]


def test_every_dataset_of_files_is_tested_here():
    assert set(OBTAIN) == set(TREES)
    assert FETCHABLE == ["mnist", "oxford_pet", "voc2012"]


@pytest.mark.parametrize("name", OBTAIN)
def test_data_that_is_not_there_can_be_had(name, open_data, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for root in (tmp_path / "nowhere", empty):
        with pytest.raises(ValueError, match=re.escape(f"E-ROOT data.root={root}")) as error:
            open_data(name, root)
        advice = f"{OBTAIN[name]}, or set data.download=true" if name in FETCHABLE else OBTAIN[name]
        assert str(error.value).endswith(advice)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in OBTAIN if name not in FETCHABLE])
def test_what_cannot_be_fetched_can_be_had_by_hand(name, open_data, tmp_path):
    with pytest.raises(ValueError, match=r"E-DOWNLOAD data.download=true is not possible") as error:
        open_data(name, tmp_path, "data.download=true")
    assert str(error.value).endswith(OBTAIN[name])


@pytest.mark.parametrize("name", FETCHABLE)
def test_fetching_needs_torchvision_and_says_so(name, open_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ValueError, match=r"needs torchvision. Install it \(pip install torchvision\). Or: ") as error:
        open_data(name, tmp_path, "data.download=true")
    assert str(error.value).endswith(OBTAIN[name])


class Stub:
    """Takes the place of torchvision's datasets; counts how often it is asked."""

    asked = 0

    def __init__(self, root, download):
        assert download
        type(self).asked += 1
        self.fill(Path(root))


class StubPets(Stub):
    fill = staticmethod(pets)


class StubVOC(Stub):
    fill = staticmethod(voc)


class StubMNIST(Stub):
    fill = staticmethod(mnist)


class StubOffline(Stub):
    @staticmethod
    def fill(root):
        raise URLError(OSError("Name or service not known"))


class StubHalfway(Stub):
    """Fails while unpacking the first time."""

    @staticmethod
    def fill(root):
        voc(root)
        if StubHalfway.asked == 1:
            (root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").unlink()
            raise RuntimeError("File not found or corrupted.")


@pytest.mark.parametrize(
    ("name", "stub", "num"), [("oxford_pet", StubPets, 11), ("voc2012", StubVOC, 9), ("mnist", StubMNIST, 24)]
)
def test_data_is_fetched_once_into_its_root(name, stub, num, open_data, tmp_path, monkeypatch):
    monkeypatch.setattr(stub, "asked", 0)
    root = tmp_path / "not there" / "yet"
    fetch = ["data.download=true", f"data.downloader={__name__}.{stub.__name__}"]
    source = open_data(name, root, *fetch)
    assert sum(map(len, source.items().values())) == num
    again = open_data(name, root, *fetch)
    assert again.identity() == source.identity() == open_data(name, root).identity()
    assert stub.asked == 1


@pytest.mark.parametrize("name", FETCHABLE)
def test_fetching_without_network_is_one_line_with_the_way_by_hand(name, open_data, tmp_path):
    fetch = ["data.download=true", f"data.downloader={__name__}.StubOffline"]
    with pytest.raises(ValueError, match=r"data.download=true failed \(URLError: .*Name or service not known") as error:
        open_data(name, tmp_path / "root", *fetch)
    assert str(error.value).endswith(OBTAIN[name])
    assert "\n" not in str(error.value)


def test_what_was_fetched_halfway_is_fetched_again(open_data, tmp_path, monkeypatch):
    monkeypatch.setattr(StubHalfway, "asked", 0)
    fetch = ["data.download=true", f"data.downloader={__name__}.StubHalfway"]
    with pytest.raises(ValueError, match=r"failed \(RuntimeError: File not found or corrupted.\)"):
        open_data("voc2012", tmp_path, *fetch)
    assert len(stems(open_data("voc2012", tmp_path, *fetch))["test"]) == 3
    assert StubHalfway.asked == 2

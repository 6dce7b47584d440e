"""From files to samples: what ``data=folder`` reads in the layouts and conventions that datasets come in."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from segsweep.data.problems import DataError, Problem
from tests.sources import SHARES, open_folder, scenes, write, write_pages

STEMS = {"images": "i/{n}.*", "masks": "m/{n}.*", "splits": SHARES}


def samples(source):
    """Name of each item -> its sample, over all splits."""
    return {item.name: source.read(split, i) for split, items in source.items().items() for i, item in enumerate(items)}


def identity(source):
    return json.dumps(source.identity(), sort_keys=True)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "my data"


@pytest.fixture
def simple(root):
    """Four scenes as i/0.png, m/0.png and so on."""
    made = scenes(4)
    for i, (image, mask, _) in enumerate(made):
        write(root / "i" / f"{i}.png", image)
        write(root / "m" / f"{i}.png", mask)
    return made


def test_reads_image_and_mask(root, simple):
    found = samples(open_folder(root, **STEMS))
    for i, (image, mask, _) in enumerate(simple):
        assert np.array_equal(found[f"i/{i}"].image, image)
        assert np.array_equal(found[f"i/{i}"].mask, mask)
    facts = found["i/0"].facts
    assert {"image": "i/0.png", "mask": "m/0.png", "format": "PNG", "mode": "RGB", "bits": 8}.items() <= facts.items()


def test_the_default_layout(image_tree):
    source = open_folder(image_tree)
    names = [f"images/train/seq{i % 2}_00{i}" for i in (0, 2, 4, 1, 3)]
    assert [item.name for item in source.items()["train"]] == names
    assert source.read("val", 0).image.shape == (24, 32, 3)
    assert source.read("val", 0).mask[0, :4].tolist()[:3] == [255] * 3
    assert open_folder(image_tree, in_channels=1).read("val", 0).image.shape == (24, 32, 1)


def test_groups_come_with_the_items(image_tree):
    source = open_folder(
        image_tree, images="images/{split}/{video}_{n}.png", masks="masks/{split}/{video}_{n}.png", group_by="video"
    )
    assert {item.group for item in source.items()["train"]} == {"seq0", "seq1"}


def test_one_file_for_each_object_becomes_one_mask(root):
    image, _, _ = scenes(1)[0]
    parts = np.zeros((3, 16, 20), np.uint8)
    parts[0, :4], parts[1, 2:6], parts[2, 10:, 10:] = 255, 255, 255
    for case in "pqrs":
        write(root / case / "images" / f"{case}.png", image)
        for k, part in enumerate(parts):
            write(root / case / "masks" / f"{k}.png", part)
    options = {"images": "{id}/images/{id}.png", "splits": SHARES, "label_map": {0: "a", 255: "c"}}
    for masks in ("{id}/masks/{object}.png", "{id}/masks/*.png"):
        for sample in samples(open_folder(root, masks=masks, **options)).values():
            assert np.array_equal(sample.mask, 2 * (parts.max(axis=0) > 0))
            assert sample.facts["mask"].endswith("masks/0.png and 2 more")


@pytest.fixture
def by_class(root):
    """Four images with one mask for each of the classes b and c, grey at their edges."""
    layers = np.zeros((2, 16, 20), np.uint8)
    layers[0, :8], layers[0, 8], layers[1, 6:, 10:], layers[1, 5] = 255, 90, 255, 90
    for i, (image, _, _) in enumerate(scenes(4)):
        write(root / "i" / f"{i}.png", image)
        for name, layer in zip("bc", layers, strict=True):
            write(root / name / f"{i}.png", layer)
    return layers


def test_one_file_for_each_class_later_ones_on_top(root, by_class):
    b, c = by_class > 0
    options = {"images": "i/{n}.png", "splits": SHARES}
    first = samples(open_folder(root, masks={"b": "b/{n}.png", "c": "c/{n}.png"}, **options))["i/1"].mask
    assert np.array_equal(first, np.where(c, 2, np.where(b, 1, 0)))
    second = samples(open_folder(root, masks={"c": "c/{n}.png", "b": "b/{n}.png"}, **options))["i/1"].mask
    assert np.array_equal(second, np.where(b, 1, np.where(c, 2, 0)))
    ignored = samples(open_folder(root, masks={"b": "b/{n}.png", "ignore": "c/{n}.png"}, **options))["i/1"].mask
    assert np.array_equal(ignored, np.where(c, 255, np.where(b, 1, 0)))


def test_a_class_without_a_file_does_not_occur(root, by_class):
    (root / "c" / "1.png").unlink()
    masks = {"b": "b/{n}.png", "c": "c/{n}.png"}
    sample = samples(open_folder(root, images="i/{n}.png", masks=masks, splits=SHARES))["i/1"]
    assert np.array_equal(sample.mask, by_class[0] > 0)


def test_a_threshold_counts_for_one_file_a_class_too(root, by_class):
    b, c = by_class > 127
    masks = {"b": "b/{n}.png", "c": "c/{n}.png"}
    options = {"images": "i/{n}.png", "masks": masks, "splits": SHARES}
    mask = samples(open_folder(root, threshold=127, **options))["i/1"].mask
    assert np.array_equal(mask, np.where(c, 2, np.where(b, 1, 0)))
    for useless in ({"label_map": {0: 0, 255: 1}}, {"palette": {"0 0 0": 0}}):
        with pytest.raises(
            ValueError, match=r"data.masks names classes, so data.(label_map|palette) has nothing to map"
        ):
            open_folder(root, **options, **useless)


def test_classes_of_patterns_are_checked(root, by_class):
    with pytest.raises(ValueError, match=r"data.masks names class 'bb'. Did you mean 'b'\?"):
        open_folder(root, images="i/{n}.png", masks={"bb": "b/{n}.png"}, splits=SHARES)


def test_a_stack_of_pages(root):
    image_pages, mask_pages = (
        np.stack(part) for part in zip(*[(s.image[:, :, 0], s.mask) for s in scenes(6)], strict=True)
    )
    write_pages(root / "volume.tif", list(image_pages))
    write_pages(root / "labels.tif", list(mask_pages))
    write_pages(root / "volume2.tif", list(image_pages[:3]))
    write_pages(root / "labels2.tif", list(mask_pages[:3][::-1]))
    options = {"images": "volume{n}.tif", "masks": "labels{n}.tif", "splits": SHARES, "in_channels": 1}
    for name in ("volume", "labels"):
        (root / f"{name}.tif").rename(root / f"{name}1.tif")
        shutil.copy(root / f"{name}2.tif", root / f"{name}3.tif")
    source = open_folder(root, page="all", **options)
    found = samples(source)
    assert sorted(found) == [f"volume1#00{i}" for i in range(6)] + [
        f"volume{n}#00{i}" for n in (2, 3) for i in range(3)
    ]
    for i in range(6):
        assert np.array_equal(found[f"volume1#00{i}"].image[:, :, 0], image_pages[i])
        assert np.array_equal(found[f"volume1#00{i}"].mask, mask_pages[i])
    assert np.array_equal(found["volume2#000"].mask, mask_pages[2])
    # Pages of one file are neighbours: they never straddle splits.
    for split, items in source.items().items():
        assert {item.name.split("#")[0] for item in items}.isdisjoint(
            {item.name.split("#")[0] for other, more in source.items().items() if other != split for item in more}
        )
    second = samples(open_folder(root, page=1, **options))
    assert np.array_equal(second["volume1#001"].mask, mask_pages[1])
    assert len(second) == 3
    with pytest.raises(Problem, match=r"E-PAGE volume\d.tif has \d pages"):
        open_folder(root, **options).read("train", 0)


def test_a_mask_with_fewer_pages_is_refused(root):
    for i in range(3):
        write_pages(root / f"v{i}.tif", [np.zeros((4, 6), np.uint8)] * 2)
        write(root / f"l{i}.tif", (4, 6))
    with pytest.raises(
        DataError, match=r"E-PAGE l\d.tif has 1 page, its image v\d.tif 2\. .*Likewise: l\d.tif, l\d.tif"
    ):
        open_folder(root, images="v{n}.tif", masks="l{n}.tif", splits=SHARES, page="all", in_channels=1)


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("kind", ["l", "f"])
def test_pages_beyond_those_of_the_image_are_refused(root, pages, kind):
    for i in range(3):
        for name in "vlf":
            num = pages + 2 * (name == kind and i == 1)
            write_pages(root / f"{name}{i}.tif", [np.full((4, 6), k, np.uint8) for k in range(num)])
    stacks = {"images": "v{n}.tif", "masks": "l{n}.tif", "valid": "f{n}.tif", "page": "all", "in_channels": 1}
    with pytest.raises(DataError) as error:
        open_folder(root, splits=SHARES, **stacks)
    (line,) = error.value.lines
    assert line.startswith(f"E-PAGE {kind}1.tif has {pages + 2} pages, its image v1.tif {pages}. ")


def test_valid_areas_ignore_the_rest(root, simple):
    area = np.zeros((16, 20), np.uint8)
    area[4:12, 5:15] = 255
    for i in range(4):
        write(root / "v" / f"{i}.gif", area)
    found = samples(open_folder(root, **STEMS, valid="v/{n}.gif"))
    assert np.array_equal(found["i/2"].mask, np.where(area, simple[2].mask, 255))
    write(root / "v" / "2.gif", area[:8])
    with pytest.raises(Problem, match=r"E-SIZE v/2.gif has 20x8 pixels, its mask 20x16"):
        samples(open_folder(root, **STEMS, valid="v/{n}.gif"))


def test_unlabelled_images_have_no_mask(root, simple):
    write(root / "more" / "9.png", simple[0].image)
    source = open_folder(root, **STEMS, unlabelled="more/{n}.png")
    sample = samples(source)["more/9"]
    assert sample.mask is None
    assert np.array_equal(sample.image, simple[0].image)
    assert source.items()["train"][-1].name == "more/9"


def test_a_mask_of_another_size_is_refused(root, simple):
    write(root / "m" / "1.png", (20, 16))
    with pytest.raises(
        Problem, match=r"E-SIZE m/1.png has 16x20 pixels, its image i/1.png 20x16. Masks are never resized"
    ):
        samples(open_folder(root, **STEMS))


@pytest.mark.parametrize("is_mask_upright", [True, False])
def test_the_size_of_the_mask_decides_about_rotation(root, is_mask_upright):
    image, mask, _ = scenes(1)[0]
    tagged = Image.fromarray(image)
    tagged.getexif()[0x0112] = 6
    for i in range(3):
        write(root / "i" / f"{i}.png", tagged, exif=tagged.getexif())
        write(root / "m" / f"{i}.png", np.rot90(mask, -1) if is_mask_upright else mask)
    sample = samples(open_folder(root, **STEMS))["i/0"]
    assert np.array_equal(sample.image, np.rot90(image, -1) if is_mask_upright else image)
    assert sample.facts["exif"] == 6
    assert (sample.facts["turned"] == 6) is is_mask_upright


def test_rotation_that_nothing_decides_needs_a_word(root):
    tagged = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    tagged.getexif()[0x0112] = 3
    for i in range(3):
        write(root / "i" / f"{i}.png", tagged, exif=tagged.getexif())
        write(root / "m" / f"{i}.png", (4, 4))
    with pytest.raises(
        Problem, match=r"E-EXIF i/\d.png carries the rotation tag 3.*data.exif=apply or data.exif=ignore"
    ):
        samples(open_folder(root, **STEMS))
    pixels = np.asarray(tagged)
    assert np.array_equal(samples(open_folder(root, **STEMS, exif="ignore"))["i/0"].image, pixels)
    assert np.array_equal(samples(open_folder(root, **STEMS, exif="apply"))["i/0"].image, pixels[::-1, ::-1])


def test_a_wrong_suffix_is_read_and_said(root, simple):
    (root / "i" / "1.png").rename(root / "i" / "1.jpg")
    sample = samples(open_folder(root, **STEMS))["i/1"]
    assert np.array_equal(sample.image, simple[1].image)
    assert sample.facts["note"].startswith("PNG by content")
    assert "note" not in samples(open_folder(root, **STEMS))["i/2"].facts


def test_large_images_are_refused_unless_scored_by_tiles(root, simple):
    with pytest.raises(Problem, match=r"E-BIG i/\d.png has 20x16"):
        samples(open_folder(root, **STEMS, max_pixels=300))
    samples(open_folder(root, **STEMS, max_pixels=300, tile=(8, 8)))


def test_identity_follows_content_not_place(root, simple, tmp_path):
    before = identity(open_folder(root, **STEMS))
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)  # copies modification times as well
    assert identity(open_folder(moved, **STEMS)) == before
    os.utime(moved / "m" / "1.png", (0, 0))
    assert identity(open_folder(moved, **STEMS)) != before


@pytest.mark.parametrize(
    "change",
    [
        {"in_channels": 1}, {"scale": (0, 255)}, {"alpha": "drop"}, {"exif": "apply"}, {"page": 0}, {"threshold": 1.0},
        {"label_map": {0: 0, 1: 1, 2: 1}}, {"palette": {"0 0 0": 0}}, {"ignore_index": 254}, {"split_seed": 9},
        {"exclude": ["i/0"]}, {"fold": 0, "num_folds": 3}, {"valid": "m/{n}.*"},
    ],
)  # fmt: skip
def test_identity_follows_whatever_changes_what_is_read(root, simple, change):
    assert identity(open_folder(root, **(STEMS | change))) != identity(open_folder(root, **STEMS))


def test_identity_follows_which_file_means_what(root, by_class):
    """The same files in other roles are another dataset."""
    options = {"images": "i/{n}.png", "splits": SHARES}
    roles = [
        {"masks": {"b": "b/{n}.png", "c": "c/{n}.png"}},
        {"masks": {"b": "c/{n}.png", "c": "b/{n}.png"}},
        {"masks": {"c": "b/{n}.png", "b": "c/{n}.png"}},
        {"masks": "b/{n}.png", "valid": "c/{n}.png"},
        {"masks": "c/{n}.png", "valid": "b/{n}.png"},
    ]
    assert len({identity(open_folder(root, **options, **role)) for role in roles}) == len(roles)


@pytest.mark.parametrize(("scale", "low_high"), [((0, 0), "0,0"), ((5, 1), "5,1")])
def test_a_scale_has_to_rise(root, simple, scale, low_high):
    with pytest.raises(ValueError, match=rf"data.scale=\[{low_high}\] must rise"):
        open_folder(root, **STEMS, scale=scale)


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"E-ROOT data.root=.*nowhere is not a folder.*Get it from the author"):
        open_folder(tmp_path / "nowhere", obtain="Get it from the author")


def test_a_download_that_is_not_possible_says_how_to_do_it_by_hand(tmp_path):
    with pytest.raises(DataError, match=r"E-DOWNLOAD data.download=true is not possible for this dataset. Fetch it"):
        open_folder(tmp_path, download=True, obtain="Fetch it")

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from segsweep.data.folder import Folder


def open_folder(root, **changes):
    settings = {"images": "images/{split}", "masks": "masks/{split}", "in_channels": 3, "group": "[^_]+"}
    return Folder(str(root), **(settings | changes))


def test_pairs_by_stem_in_sorted_order(image_tree):
    items = open_folder(image_tree).items()
    assert [item.name for item in items["train"]] == ["seq0_000", "seq0_002", "seq0_004", "seq1_001", "seq1_003"]
    assert {item.group for item in items["train"]} == {"seq0", "seq1"}


def test_reads_image_and_mask(image_tree):
    image, mask = open_folder(image_tree).read("val", 0)
    assert image.shape == (24, 32, 3)
    assert mask.shape == (24, 32)
    assert set(np.unique(mask)) <= {0, 1, 2, 255}
    assert open_folder(image_tree, in_channels=1).read("val", 0)[0].shape == (24, 32, 1)


def test_identity_follows_content_not_place(image_tree, tmp_path):
    before = open_folder(image_tree).identity()
    moved = tmp_path / "elsewhere"
    shutil.copytree(image_tree, moved)  # copies modification times as well
    assert open_folder(moved).identity() == before
    os.utime(next((moved / "masks" / "train").iterdir()), (0, 0))
    assert open_folder(moved).identity() != before


def test_wrong_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data.root=/nowhere is not a folder.*the folder that holds 'images'"):
        open_folder("/nowhere")


def test_root_one_level_off_is_recognised(image_tree):
    with pytest.raises(FileNotFoundError, match=r"has no folder 'images/train'.*Did you mean data.root=.*my data\?"):
        open_folder(image_tree.parent)
    with pytest.raises(FileNotFoundError, match=r"Did you mean data.root=.*my data\?"):
        open_folder(image_tree / "images")


def test_missing_partner_is_named(image_tree):
    (image_tree / "masks" / "val" / "seq1_001.png").unlink()
    (image_tree / "images" / "val" / "seq0_000.png").unlink()
    with pytest.raises(ValueError, match=r"1 images without a mask \(e.g. seq1_001\) and 1 masks without an image"):
        open_folder(image_tree)


def test_two_files_of_one_stem_are_refused(image_tree):
    Image.new("RGB", (4, 4)).save(image_tree / "images" / "train" / "seq0_000.jpg")
    with pytest.raises(ValueError, match=r"seq0_000.jpg and seq0_000.png share a stem"):
        open_folder(image_tree)


def test_other_files_are_left_alone(image_tree):
    (image_tree / "images" / "train" / ".DS_Store").write_text("x")
    (image_tree / "images" / "train" / "notes.txt").write_text("x")
    assert len(open_folder(image_tree).items()["train"]) == 5


def test_an_empty_folder_is_refused(image_tree):
    for file in (image_tree / "images" / "test").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"images/test holds no image file"):
        open_folder(image_tree)


def test_a_pattern_needs_its_placeholder(image_tree):
    with pytest.raises(ValueError, match=r"lacks \{split\}"):
        open_folder(image_tree, images="images")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be read"),
        (lambda path: Image.fromarray(np.zeros((24, 32), np.int32)).save(path, format="TIFF"), "more than 8 bits"),
        (lambda path: Image.new("RGB", (32, 24)).save(path), "one channel of class numbers"),
    ],
)
def test_bad_masks_are_named(image_tree, write, message):
    file = image_tree / "masks" / "val" / "seq0_000.png"
    write(file)
    with pytest.raises(ValueError, match=message) as error:
        open_folder(image_tree).read("val", 0)
    assert "seq0_000.png" in str(error.value)


def test_palette_masks_are_read_by_index(image_tree):
    file = image_tree / "masks" / "val" / "seq0_000.png"
    mask = np.asarray(Image.open(file))
    paletted = Image.fromarray(mask).convert("P")
    paletted.putdata(mask.ravel().tolist())
    paletted.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200] + [9] * 759)
    paletted.save(file)
    assert np.array_equal(open_folder(image_tree).read("val", 0)[1], mask)

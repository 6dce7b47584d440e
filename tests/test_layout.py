"""Layouts that real datasets come in: which image has which masks, and which split it belongs to."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from segsweep.data.absent import refuse_missing_root
from segsweep.data.layout import Declaration, find_pairs
from segsweep.data.problems import DataError
from segsweep.hints import override
from tests.sources import SHARES, write

BY_FOLDER = {"train": "train", "val": "val", "test": "test"}


def pairs(root, images, masks, splits=SHARES, **changes):
    options = {
        "unlabelled": None, "valid": None, "group_by": None, "fold": None, "num_folds": None, "split_seed": 0,
        "exclude": (), "follow_links": False, "obtain": None,
    }  # fmt: skip
    return find_pairs(root, Declaration(images=images, masks=masks, splits=splits, **(options | changes)))


def by_image(layout):
    """Name of each image -> names of its masks, over all splits."""
    everything = sorted((pair for split in layout.splits.values() for pair in split), key=lambda pair: pair.image.name)
    return {pair.image.name: [file.name for _, file in pair.masks] for pair in everything}


def areas(layout):
    """Names of the valid areas, over all images."""
    return {pair.valid.name for split in layout.splits.values() for pair in split}


def in_split(layout, split):
    return [pair.image.name for pair in layout.splits[split]]


def problems(*arguments, **options):
    with pytest.raises(DataError) as error:
        pairs(*arguments, **options)
    return [str(problem) for problem in error.value.problems]


@pytest.fixture
def make(tmp_path):
    """``make(name, ...)`` writes empty files below a root, which it returns."""

    def write_all(*names):
        for name in names:
            write(tmp_path / "my data" / name, b"x")
        return tmp_path / "my data"

    return write_all


@pytest.mark.parametrize(
    ("images", "masks", "names"),
    [
        # two folders, equal stems
        ("images/{stem}.*", "masks/{stem}.*", {f"images/{i}.JPG": [f"masks/{i}.png"] for i in range(4)}),
        # two folders, a suffix on the mask's name
        ("img/{n}.jpg", "lab/{n}_label.PNG", {f"img/{i:03d}.jpg": [f"lab/{i:03d}_label.PNG"] for i in range(4)}),
        # DRIVE
        (
            "images/{n}_training.tif",
            "1st_manual/{n}_manual1.gif",
            {f"images/{i}_training.tif": [f"1st_manual/{i}_manual1.gif"] for i in range(21, 25)},
        ),
        # both in one folder
        ("{stem}.png", "{stem}_mask.png", {f"{i}.png": [f"{i}_mask.png"] for i in range(4)}),
        ("{stem}.jpg", "{stem}.png", {f"{i}.jpg": [f"{i}.png"] for i in range(4)}),
        # a folder for each case, in which all files are called the same
        ("{case}/image.png", "{case}/label.png", {f"case {i}/image.png": [f"case {i}/label.png"] for i in range(4)}),
        # the same names in many folders
        (
            "Tile {tile}/images/{stem}.jpg",
            "Tile {tile}/masks/{stem}.png",
            {f"Tile {t}/images/part_{i}.jpg": [f"Tile {t}/masks/part_{i}.png"] for t in (1, 2) for i in (1, 2)},
        ),
        # numbers that are written with more or fewer zeros
        ("in/img{n:d}.png", "out/{n:d}.png", {f"in/img{i:03d}.png": [f"out/{i}.png"] for i in range(4)}),
        # names that differ by a rule: cityscapes
        (
            "leftImg8bit/{city}/{id}_leftImg8bit.png",
            "gtFine/{city}/{id}_gtFine_labelIds.png",
            {f"leftImg8bit/ulm/{i}_0_leftImg8bit.png": [f"gtFine/ulm/{i}_0_gtFine_labelIds.png"] for i in range(4)},
        ),
        # several masks an image, each with some objects
        (
            "{id}/images/{id}.png",
            "{id}/masks/{object}.png",
            {f"{i}/images/{i}.png": [f"{i}/masks/a{i}.png", f"{i}/masks/b{i}.png"] for i in range(4)},
        ),
        ("{id}.jpg", "{id}_*.png", {f"{i}.jpg": [f"{i}_left.png", f"{i}_right.png"] for i in range(4)}),
    ],
)
def test_which_masks_an_image_has(make, images, masks, names):
    root = make(*names, *(mask for own in names.values() for mask in own))
    assert by_image(pairs(root, images, masks)) == names


def test_one_mask_for_each_class(make):
    names = [f"{kind}/{i}.png" for kind in ("img", "vessel", "disc") for i in range(4)]
    root = make(*names)
    (root / "disc" / "2.png").unlink()  # nothing of that class there
    found = pairs(root, "img/{i}.png", {"vessel": "vessel/{i}.png", "disc": "disc/{i}.png"})
    numbered = {
        pair.image.name: [(k, file.name) for k, file in pair.masks] for part in found.splits.values() for pair in part
    }
    assert numbered["img/1.png"] == [(0, "vessel/1.png"), (1, "disc/1.png")]
    assert numbered["img/2.png"] == [(0, "vessel/2.png")]


def test_splits_by_folder(make):
    root = make(*(f"{kind}/{s}/{i}.png" for kind in ("i", "m") for s in ("train", "val", "test") for i in (2, 0, 1)))
    layout = pairs(root, "i/{split}/{stem}.png", "m/{split}/{stem}.png", BY_FOLDER)
    for split in BY_FOLDER:
        assert in_split(layout, split) == [f"i/{split}/{i}.png" for i in range(3)]
    assert all(file.name.startswith(f"m/{s}/") for s in BY_FOLDER for p in layout.splits[s] for _, file in p.masks)


def test_splits_by_folder_with_other_names_and_a_share(make):
    names = [
        f"{s}/{i}.{suffix}" for s in ("training", "testing", "extra") for i in range(8) for suffix in ("jpg", "png")
    ]
    splits = {"train": "training", "val": 0.25, "test": "testing"}
    layout = pairs(make(*names), "{split}/{n}.jpg", "{split}/{n}.png", splits)
    assert {split: len(part) for split, part in layout.splits.items()} == {"train": 6, "val": 2, "test": 8}
    assert all(name.startswith("training/") for split in ("train", "val") for name in in_split(layout, split))
    assert layout.unused == {"extra": 8}


def test_splits_by_lists_as_in_voc(make):
    names = [f"2007_{i:06d}" for i in range(8)]
    root = make(*(f"JPEGImages/{n}.jpg" for n in names), *(f"SegmentationClass/{n}.png" for n in names[:6]))
    write(root / "sets" / "train.txt", "\ufeff2007_000000\r\n2007_000001\r\n\r\n2007_000002  1\r\n".encode())
    write(root / "sets" / "val.txt", "2007_000003.jpg\n")
    write(root / "sets" / "test.txt", "JPEGImages/2007_000005.jpg SegmentationClass/2007_000005.png\n")
    splits = {split: f"sets/{split}.txt" for split in ("train", "val", "test")}
    layout = pairs(root, "JPEGImages/{stem}.jpg", "SegmentationClass/{stem}.png", splits)
    found = {split: [pair.image.values["stem"][-1] for pair in part] for split, part in layout.splits.items()}
    assert found == {"train": ["0", "1", "2"], "val": ["3"], "test": ["5"]}
    assert layout.unused == {"unlisted": 3}  # 4, and 6 and 7, which need no mask because nobody lists them


def test_lists_come_in_the_order_of_names(make):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(5)))
    write(root / "val.txt", "4\n1\n")
    layout = pairs(root, "i/{n}.png", "m/{n}.png", {"train": None, "val": "val.txt", "test": 0.34})
    assert in_split(layout, "val") == ["i/1.png", "i/4.png"]
    assert len(layout.splits["test"]) == 1
    assert len(layout.splits["train"]) == 2


def test_an_image_in_two_lists_is_a_leak(make):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(5)))
    write(root / "val.txt", "1\n2\n")
    write(root / "test.txt", "2\n3\n")
    found = problems(root, "i/{n}.png", "m/{n}.png", {"train": None, "val": "val.txt", "test": "test.txt"})
    assert found == ["E-LEAK i/2.png is in val and in test. Correct the list files in data.splits"]


def test_all_mistakes_in_lists_are_said_at_once(make):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(5)))
    write(root / "val.txt", "9\n")
    found = problems(root, "i/{n}.png", "m/{n}.png", {"train": None, "val": "val.txt", "test": "test.txt"})
    assert len(found) == 2


def test_groups_do_not_straddle_shares_or_folds(make):
    root = make(*(f"{kind}/p{p}_{i}.png" for kind in "im" for p in range(6) for i in range(4)))
    options = {"images": "i/{patient}_{n}.png", "masks": "m/{patient}_{n}.png", "group_by": "patient"}
    for folds in ({}, {"fold": 1, "num_folds": 3}):
        layout = pairs(root, **options, **folds)
        groups = [{pair.group for pair in layout.splits[split]} for split in ("train", "val", "test")]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 6
    with pytest.raises(ValueError, match=r"6 groups cannot be divided into 7 parts"):
        pairs(root, **options, fold=0, num_folds=7)


def test_folds_through_the_layout(make):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(9)))
    folds = [pairs(root, "i/{n}.png", "m/{n}.png", fold=fold, num_folds=3) for fold in range(3)]
    assert sorted(name for layout in folds for name in in_split(layout, "test")) == [f"i/{i}.png" for i in range(9)]
    assert [in_split(layout, "val") for layout in folds] == [in_split(folds[i], "test") for i in (1, 2, 0)]


def test_the_split_seed_decides_and_exclusion_moves_nobody_else(make):
    root = make(*(f"{kind}/{i:02d}.png" for kind in "im" for i in range(20)))
    options = {"images": "i/{n}.png", "masks": "m/{n}.png"}
    first = pairs(root, **options)
    assert first == pairs(root, **options)
    assert in_split(first, "test") != in_split(pairs(root, **options, split_seed=1), "test")


def test_a_valid_area_of_each_image(make):
    root = make(*(f"{i}_{kind}" for i in range(4) for kind in ("image.tif", "manual.gif", "area.gif")))
    layout = pairs(root, "{n}_image.tif", "{n}_manual.gif", valid="{n}_area.gif")
    assert all(
        pair.valid.name == f"{pair.image.values['n']}_area.gif" for part in layout.splits.values() for pair in part
    )
    (root / "2_area.gif").unlink()
    (problem,) = problems(root, "{n}_image.tif", "{n}_manual.gif", valid="{n}_area.gif")
    assert problem.startswith("E-PAIR 2_image.tif has no valid area (looked for 2_area.gif)")


def test_valid_areas_beside_images_are_no_images(make):
    root = make(*(f"{i}{kind}.png" for i in range(4) for kind in ("", "_mask", "_area")))
    layout = pairs(root, "{n}.png", "{n}_mask.png", valid="{n}_area.png")
    assert by_image(layout) == {f"{i}.png": [f"{i}_mask.png"] for i in range(4)}


def test_unlabelled_images_join_train(make):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(4)), "more/8.png", "more/9.png")
    layout = pairs(root, "i/{n}.png", "m/{n}.png", unlabelled="more/{n}.png")
    assert in_split(layout, "train")[-2:] == ["more/8.png", "more/9.png"]
    assert [pair.masks for pair in layout.splits["train"][-2:]] == [(), ()]
    assert sum(map(len, layout.splits.values())) == 6


def test_images_without_masks_may_be_unlabelled(make):
    root = make(*(f"{i}.png" for i in range(6)), *(f"{i}_mask.png" for i in range(4)))
    layout = pairs(root, "{n}.png", "{n}_mask.png", unlabelled="{n}.png")
    assert in_split(layout, "train")[-2:] == ["4.png", "5.png"]
    assert sum(map(len, layout.splits.values())) == 6  # and no mask is taken for an image
    found = problems(root, "{n}.png", "{n}_mask.png")
    assert sorted(problem.split(". ")[0] for problem in found) == [
        "E-PAIR 4.png has no mask (looked for 4_mask.png)",
        "E-PAIR 5.png has no mask (looked for 5_mask.png)",
    ]


def test_exclude_by_path_with_or_without_suffix(make):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(6)))
    (root / "m" / "3.png").unlink()
    layout = pairs(root, "i/{n}.png", "m/{n}.png", exclude=["i/3", "i/4.png"])
    assert [name[2] for name in by_image(layout)] == ["0", "1", "2", "5"]
    assert problems(root, "i/{n}.png", "m/{n}.png", exclude=["i/7.png", "i/3"])[0].startswith(
        "E-EXCLUDE i/7.png is in data.exclude but no such file exists"
    )


def test_masks_without_images_and_images_without_masks_are_all_named(make):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(6)), "m/8.png", "m/9.png")
    found = problems(root, "i/{n}.png", "m/{n}.png")
    assert [text.split(". ")[0] for text in found] == [f"E-PAIR m/{i}.png is a mask without an image" for i in (8, 9)]


def test_two_files_for_one_image_are_refused(make):
    root = make("i/a.png", "i/a.jpg", "i/b.png", "m/a.png", "m/b.png")
    (problem,) = problems(root, "i/{n}.*", "m/{n}.png")
    assert problem.startswith("E-NAME i/a.png and i/a.jpg are the same for the pattern 'i/{n}.*'")


def test_two_masks_for_one_image_are_refused_unless_the_pattern_has_them(make):
    root = make("i/a.png", "i/b.png", "i/c.png", "m/a.png", "m/a.gif", "m/b.png", "m/c.png")
    (problem,) = problems(root, "i/{n}.png", "m/{n}.*")
    assert problem.startswith("E-NAME m/a.png and m/a.gif are the same for the pattern 'm/{n}.*'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": "m/{other}.png"}, r"share no placeholder; the same \{stem\} in both pairs them"),
        ({"masks": {"b": "m/{n}.png", "c": "m/{other}.png"}}, r"'m/\{other\}.png' share no placeholder"),
        ({"masks": "i/{n}.png"}, r"data.images and data.masks both match i/0.png; make one pattern say more"),
        ({"valid": "v/{q}.png"}, r"data.valid 'v/\{q\}.png' has the placeholder \{q\}, which data.images .*lacks"),
        ({"masks": "m/{n:x}.png"}, r"data.masks 'm/\{n:x\}.png': '\{n:x\}' is no placeholder; write \{name\}, or"),
        ({"images": "i/{n"}, r"data.images 'i/\{n': '\{n' is no placeholder"),
        ({"images": "i/{1n}.png"}, r"data.images 'i/\{1n\}.png': '\{1n\}' is no placeholder"),
        ({"images": "i/n}.png"}, r"data.images 'i/n\}.png': '\}' is no placeholder"),
        ({"valid": "../{n}.png"}, r"data.valid '../\{n\}.png' leaves data.root"),
        ({"unlabelled": "/u/{n}.png"}, r"data.unlabelled '/u/\{n\}.png' leaves data.root"),
        ({"masks": {"b": "~/{n}.png"}}, r"data.masks.b '~/\{n\}.png' leaves data.root"),
        ({"images": ""}, r"data.images is empty; write a path below data.root"),
        ({"splits": {"vall": 0.2}}, r"data.splits.vall: there is no such split. Did you mean 'val'\?"),
        ({"group_by": "patient"}, r"data.group_by=patient is no placeholder of data.images"),
        ({"fold": 1}, r"data.fold=1 and data.num_folds=null go together"),
        ({"fold": 3, "num_folds": 3}, r"fold below num_folds"),
        ({"splits": {"train": None, "val": 0.2, "test": None}}, r"data.splits.test is not set"),
        ({"splits": {"train": 0.6, "val": 0.2, "test": 0.2}}, r"train is null \(the rest\), a name, or a list file"),
        ({"splits": {"train": None, "val": 0.5, "test": 0.5}}, r"shares that add up to less than 1"),
        ({"splits": {"train": None, "val": "val", "test": 0.2}}, r"data.images 'i/\{n\}.png' has no \{split\}"),
        (
            {"splits": dict.fromkeys(SHARES, "a.txt"), "fold": 0, "num_folds": 3},
            r"data.num_folds needs val or test to be a share",
        ),
    ],
)
def test_options_that_contradict_each_other(make, options, message):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(6)))
    with pytest.raises(ValueError, match=message):
        pairs(root, **({"images": "i/{n}.png", "masks": "m/{n}.png"} | options))


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"E-ROOT data.root=.*nowhere is not a folder.*holds 'images'. Ask the author"):
        refuse_missing_root(tmp_path / "nowhere", "images/{stem}.png", "Ask the author")
    archive = write(tmp_path / "set.zip", b"PK")
    with pytest.raises(DataError, match=r"is an archive, which is never unpacked here. Unpack it yourself"):
        refuse_missing_root(archive, "images/{stem}.png", None)
    refuse_missing_root(tmp_path, "images/{stem}.png", None)


def test_a_root_that_is_a_level_off(make):
    root = make("images/train/a.png", "masks/train/a.png")
    for wrong in (root.parent, root / "images"):
        (problem,) = problems(wrong, "images/{split}/{n}.png", "masks/{split}/{n}.png", BY_FOLDER)
        assert problem.endswith(f"Did you mean {override('data.root', str(root))}?")


def test_images_in_another_folder_are_pointed_out(make):
    root = make("pictures/2024/a.png", "pictures/2024/b.png", "notes.txt")
    (problem,) = problems(root, "images/{n}.png", "masks/{n}.png")
    assert problem.startswith(f"E-ROOT data.root={root} holds no image that fits data.images 'images/{{n}}.png'")
    assert "Images lie in 'pictures/2024' (2 files, e.g. a.png); correct data.images or data.root" in problem


def test_folders_with_other_names_than_the_splits_are_proposed(make):
    folders = ("Train", "validation", "testing")
    root = make(*(f"{kind}/{s}/{i}.png" for kind in "im" for s in folders for i in range(3)))
    found = problems(root, "i/{split}/{n}.png", "m/{split}/{n}.png", BY_FOLDER)
    assert len(found) == 3
    for text, split, folder in zip(found, ("train", "val", "test"), folders, strict=True):
        assert text.startswith(f"E-EMPTY split {split} has no images (data.splits.{split}={split}, ")
        assert f"Images lie in Train, testing, validation; name one of them (data.splits.{split}={folder}?)" in text
    selectors = dict(zip(("train", "val", "test"), folders, strict=True))
    assert len(by_image(pairs(root, "i/{split}/{n}.png", "m/{split}/{n}.png", selectors))) == 9
    with_share = problems(root, "i/{split}/{n}.png", "m/{split}/{n}.png", {"train": "train", "val": 0.2, "test": 0.2})
    assert [text.split(" (")[0] for text in with_share] == ["E-EMPTY split train has no images"]


def test_images_find_one_valid_area_each(make):
    root = make(*(f"{kind}/{i}.png" for kind in "imv" for i in range(6)), "v/3.gif", "field.png")
    (problem,) = problems(root, "i/{n}.png", "m/{n}.png", valid="v/{n}.*")
    assert problem.startswith("E-NAME v/3.png and v/3.gif are the same for the pattern 'v/{n}.*'")
    found = pairs(root, "i/{n}.png", "m/{n}.png", valid="v/{n}.*", exclude=["v/3.gif"])
    assert areas(found) == {f"v/{i}.png" for i in range(6)}
    found = pairs(root, "i/{n}.png", "m/{n}.png", valid="field.png")  # of a camera that never moves
    assert areas(found) == {"field.png"}


def test_unlabelled_images_that_are_not_there_are_missed(make):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(6)), "more/a.png")
    (problem,) = problems(root, "i/{n}.png", "m/{n}.png", unlabelled="mor/{n}.png")
    assert problem.startswith(
        "E-EMPTY data.unlabelled='mor/{n}.png' fits no file that is free to be used. Images lie in"
    )
    assert "'more' (1 files, e.g. a.png); correct it, or set data.unlabelled=null" in problem


def test_a_split_without_images_is_named(make):
    root = make(*(f"{kind}/{s}/{i}.png" for kind in "im" for s in ("train", "validation") for i in range(3)))
    found = problems(root, "i/{split}/{n}.png", "m/{split}/{n}.png", BY_FOLDER)
    assert [text.split(" (")[0] for text in found] == [
        "E-EMPTY split val has no images",
        "E-EMPTY split test has no images",
    ]
    assert "looked for i/val/{n}.png" in found[0]


def test_links_that_lead_out_stop_the_search(make, tmp_path):
    root = make(*(f"{kind}/{i}.png" for kind in "im" for i in range(4)))
    outside = write(tmp_path / "outside.png", Image.new("L", (4, 4)))
    (root / "i" / "9.png").symlink_to(outside)
    (root / "m" / "9.png").symlink_to(outside)
    assert [text.split(" is ")[0] for text in problems(root, "i/{n}.png", "m/{n}.png")] == [
        "E-LINK i/9.png",
        "E-LINK m/9.png",
    ]
    assert len(by_image(pairs(root, "i/{n}.png", "m/{n}.png", follow_links=True))) == 5


def test_a_root_of_any_name_is_proposed_so_that_it_can_be_typed(make):
    root = make("one, v=2 (it's)/images/a.png")
    (problem,) = problems(root, "images/{n}.png", "masks/{n}.png")
    (typed,) = shlex.split(problem.partition("Did you mean ")[2].removesuffix("?"))
    assert OverridesParser.create().parse_override(typed).value() == str(root / "one, v=2 (it's)")

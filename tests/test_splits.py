import random
from collections import Counter

import pytest

from segsweep.data.problems import DataError
from segsweep.data.splits import divide, read_list
from tests.sources import write

SHARES = {"val": 0.2, "test": 0.3}


def videos(num_groups, rng=None):
    """Names of images -> their group; groups of 1 to 9 images."""
    rng = rng or random.Random(0)
    return {f"{group}_{i}": f"video{group}" for group in range(num_groups) for i in range(rng.randint(1, 9))}


@pytest.mark.parametrize("seed", range(5))
def test_no_group_straddles_and_shares_are_roughly_met(seed):
    groups = videos(60, random.Random(seed))
    dealt = divide(groups, SHARES, seed, None, None)
    assert dealt.keys() == groups.keys()
    where = {}
    for name, split in dealt.items():
        assert where.setdefault(groups[name], split) == split
    sizes = Counter(dealt.values())
    for split, share in {**SHARES, "train": 0.5}.items():
        assert sizes[split] / len(groups) == pytest.approx(share, abs=0.02)


def test_shares_of_single_images_are_met_exactly():
    dealt = divide({str(i): str(i) for i in range(100)}, SHARES, 0, None, None)
    assert Counter(dealt.values()) == {"train": 50, "test": 30, "val": 20}


def test_the_order_of_files_does_not_matter():
    groups = videos(30)
    names = list(groups)
    random.Random(1).shuffle(names)
    assert divide({name: groups[name] for name in names}, SHARES, 3, None, None) == divide(
        groups, SHARES, 3, None, None
    )


def test_the_seed_decides():
    groups = {str(i): str(i) for i in range(40)}
    dealt = [divide(groups, SHARES, seed, None, None) for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1]
    assert dealt[0] != dealt[2]


def test_every_split_gets_a_group_however_small_its_share():
    dealt = divide({"a": "big", "b": "big", "c": "big", "d": "x", "e": "y"}, {"val": 0.01, "test": 0.01}, 0, None, None)
    assert set(dealt.values()) == {"train", "val", "test"}
    assert dealt["a"] == dealt["b"] == dealt["c"]


@pytest.mark.parametrize("num_folds", [3, 5])
@pytest.mark.parametrize("is_grouped", [False, True])
def test_folds_test_every_image_once_and_validate_on_the_next(num_folds, is_grouped):
    groups = videos(20) if is_grouped else {str(i): str(i) for i in range(23)}
    folds = [divide(groups, SHARES, 0, fold, num_folds) for fold in range(num_folds)]
    held_out = [{name for name, split in dealt.items() if split == "test"} for dealt in folds]
    validated = [{name for name, split in dealt.items() if split == "val"} for dealt in folds]
    assert sorted(name for part in held_out for name in part) == sorted(groups)
    assert validated == [*held_out[1:], held_out[0]]
    for part in held_out:
        assert len(part) == pytest.approx(len(groups) / num_folds, abs=4 if is_grouped else 1)
        assert {groups[name] for name in part}.isdisjoint({groups[name] for name in groups.keys() - part})


def test_folds_of_val_alone_leave_test_as_it_is():
    groups = {str(i): str(i) for i in range(12)}
    folds = [divide(groups, {"val": 0.2}, 0, fold, 4) for fold in range(4)]
    assert all(Counter(dealt.values()) == {"train": 9, "val": 3} for dealt in folds)
    assert len({name for dealt in folds for name, split in dealt.items() if split == "val"}) == 12


@pytest.mark.parametrize(("shares", "num_folds"), [({"val": 0.2, "test": 0.2}, None), ({"val": 0.2}, 3)])
def test_fewer_groups_than_parts_are_refused(shares, num_folds):
    groups = {"a": "x", "b": "x", "c": "y"}
    with pytest.raises(ValueError, match=r"2 groups cannot be divided into 3 parts. Choose another data.group_by"):
        divide(groups, shares, 0, num_folds and 0, num_folds)


KNOWN = [
    ["images/a.png", "a.png", "images/a", "a"],
    ["images/b 1.png", "b 1.png", "images/b 1", "b 1"],
    ["images/c.png", "c.png", "images/c", "c", "twice"],
    ["images/ü.png", "ü.png", "images/ü", "ü", "twice"],
]


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("a\nc\n", [0, 2]),
        ("c.png\nimages/a.png\n", [2, 0]),
        ("a", [0]),  # no line break at the end
        ("\ufeffa\nc", [0, 2]),  # a byte-order mark, as some editors write
        ("a\r\nc\r\n", [0, 2]),
        ("\n  a  \n\n\tc\n\n", [0, 2]),
        ("a 1\nc -1\n", [0, 2]),  # VOC's ImageSets/Main
        ("images/a.png masks/a.png\n", [0]),
        ("b 1\n", [1]),
        ("a\na.png\na\n", [0]),  # listed three times
        ("u\u0308\n", [3]),  # composed in another way, as on a Mac
    ],
)
def test_list_files(tmp_path, text, positions):
    write(tmp_path / "lists" / "train.txt", text.encode())
    assert read_list(tmp_path, "lists/train.txt", KNOWN) == positions


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nx\n\ny.png 1\n", r"train.txt:2 names no image of data.images \(x\).*Likewise: train.txt:4"),
        (b"twice\n", r"train.txt:1 fits several images \(twice\). List it by its path below data.root"),
        (b"a\n/data/b.png\n", r"train.txt:2 leads out of data.root \(/data/b.png\)"),
        (b"../a\n", r"train.txt:1 leads out of data.root"),
        (b"\n \n", r"train.txt lists no image"),
        ("ä".encode("utf-16"), r"train.txt is not a UTF-8 text file"),
        (b"x" * 500, r"names no image of data.images \(x{77}\.\.\.\)"),
    ],
)
def test_list_files_that_are_wrong(tmp_path, content, message):
    write(tmp_path / "train.txt", content)
    with pytest.raises(DataError, match=message):
        read_list(tmp_path, "train.txt", KNOWN)


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"E-LIST lists/val.txt is not there"):
        read_list(tmp_path, "lists/val.txt", KNOWN)

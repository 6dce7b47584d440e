"""Where predictions go: no two images share a file, whatever they are called, and none moves in a later run."""

from pathlib import Path

import pytest

from segsweep.images.inputs import Input, page_name
from segsweep.predict.names import give_names


def named(*paths, taken=()):
    """Bases of images ``root:name``."""
    inputs = {}
    for path in paths:
        root, _, name = path.rpartition(":")
        inputs[path] = Input(Path(root, name), name, root)
    return give_names(inputs, dict(taken))


@pytest.mark.parametrize(
    ("paths", "bases"),
    [
        (["p:a.png", "p:sub/a.png"], ["a", "sub/a"]),
        (["p:a.png", "p:a.jpg", "p:b.png"], ["a.png", "a.jpg", "b"]),
        (["p:a.png", "q:a.png"], ["p/a", "q/a"]),
        (["p:a.png", "q:a.png", "q:a.jpg"], ["p/a", "q/a", "a.jpg"]),
        (["p:A.png", "p:a.png"], ["A.png_2", "a.png_3"]),  # one file where a system does not tell A from a
        (["p:a.tif", "p:a_p0.png"], ["a.tif", "a_p0.png"]),  # the first page of a.tif
        (["p:a.tif", "p:a_p0.tif"], ["a.tif", "a_p0.tif"]),
        (["p:a.png", "p:a.overlay.png"], ["a.png", "a.overlay.png"]),  # beside a.png
        (["p:a_p0.png", "p:a_p1.png"], ["a_p0", "a_p1"]),
        (["p:a", "p:b.c.png"], ["a", "b.c"]),
        (["p:\u00e9.png", "p:e\u0301.jpg"], ["\u00e9.png", "e\u0301.jpg"]),
    ],
)
def test_bases(paths, bases):
    found = named(*paths)
    assert [found[path] for path in paths] == bases


def test_two_folders_of_one_name():
    inputs = {"x": Input(Path("x/p/a.png"), "a.png", "p"), "y": Input(Path("y/p/a.png"), "a.png", "p")}
    assert give_names(inputs, {}) == {"x": "a.png_2", "y": "a.png_3"}


def test_names_of_an_earlier_run_stay():
    assert named("p:a.png", "p:a.jpg", taken={"p:a.png": "a"}) == {"p:a.png": "a", "p:a.jpg": "a.jpg"}
    assert named("q:a.png", taken={"p:a.png": "a"}) == {"q:a.png": "a.png"}
    assert named("p:b.png", taken={"p:b.png": "b", "gone": "c"}) == {"p:b.png": "b"}


def test_many_names_are_all_different():
    paths = [
        f"r{i % 3}:{folder}n{i % 7}{suffix}" for i in range(21) for folder in ("", "s/") for suffix in (".png", ".tif")
    ]
    bases = named(*paths)
    files = [page_name(base, page) for base in bases.values() for page in (None, 0, 1)]
    assert len({file.casefold() for file in files}) == len(files)


def test_pages():
    assert (page_name("sub/a", None), page_name("sub/a", 3)) == ("sub/a", "sub/a_p3")

import unicodedata

import pytest

from segsweep.data.patterns import SUFFIXES, Pattern, Tree
from tests.sources import write


def found(root, pattern, follow_links=False):
    tree = Tree(root, follow_links)
    return [file.name for file in tree.find(Pattern(pattern))], [str(problem) for problem in tree.problems]


@pytest.mark.parametrize(
    ("pattern", "name", "values"),
    [
        ("{stem}.png", "a.png", {"stem": "a"}),
        ("{stem}.png", "a.b.png", {"stem": "a.b"}),
        ("{stem}.png", "a.PNG", None),  # a suffix that is written out is meant as it is written
        ("{stem}.png", "a.png.txt", None),
        ("{stem}.png", "aXpng", None),  # a dot is a dot
        ("{stem}.png", "folder/a.png", None),  # a placeholder stays within a name
        ("{stem}.png", ".png", None),  # and stands for something
        ("img/{stem}.png", "img/ä ö (1)+.png", {"stem": "ä ö (1)+"}),
        ("Tile {tile}/images/{stem}.jpg", "Tile 3/images/part_001.jpg", {"tile": "3", "stem": "part_001"}),
        ("{video}_{frame}.png", "a_b_1.png", {"video": "a", "frame": "b_1"}),  # the first takes as little as it can
        ("{n:d}.png", "007.png", {"n": "7"}),
        ("{n:d}.png", "000.png", {"n": "0"}),
        ("{n:d}.png", "7a.png", None),
        ("{n:d}.png", "-7.png", None),
        ("img{n:d}_{kind}.png", "img010_x.png", {"n": "10", "kind": "x"}),
        ("{id}/images/{id}.png", "42/images/42.png", {"id": "42"}),  # the same placeholder is the same text
        ("{id}/images/{id}.png", "42/images/43.png", None),
        ("{stem}_*.png", "a_left.png", {"stem": "a"}),
        ("{stem}_*.png", "a_.png", {"stem": "a"}),
        ("*/{stem}.png", "any folder/a.png", {"stem": "a"}),
        ("*/{stem}.png", "two/folders/a.png", None),
        ("{stem}.*", "a.b.tif", {"stem": "a.b"}),
        ("{stem}.*", "a.txt", None),
        ("{stem}.*", "a", None),
        ("[{stem}](1).png", "[a](1).png", {"stem": "a"}),  # nothing else has a meaning
    ],
)
def test_what_a_pattern_matches(pattern, name, values):
    assert Pattern(pattern).match(name) == values


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_image_suffix_in_any_case(suffix):
    pattern = Pattern("{stem}.*")
    assert pattern.match("a" + suffix) == pattern.match("a" + suffix.upper()) == {"stem": "a"}
    assert pattern.match("a" + suffix.title()) == {"stem": "a"}


@pytest.mark.parametrize(
    "text", ["/data/{stem}.png", "~/{stem}.png", "../{stem}.png", "a/../../{stem}.png", "a\\{s}.png"]
)
def test_a_pattern_stays_below_the_root(text):
    with pytest.raises(ValueError, match=r"leaves data.root; write a path below it, with forward slashes"):
        Pattern(text)


def test_two_dots_within_a_name_are_a_name():
    assert Pattern("a..b/{stem}.png").match("a..b/c.png") == {"stem": "c"}


def test_an_example_shows_what_was_looked_for():
    assert Pattern("masks/{split}/{stem}_{n:d}.*").example({"split": "val", "n": "7"}) == "masks/val/{stem}_7.*"


def test_files_are_found_below_the_root_in_order(tmp_path):
    for name in ("b.png", "a.png", "sub/c.png", "sub/deep/d.png", "e.txt"):
        write(tmp_path / name, b"x")
    assert found(tmp_path, "{stem}.png")[0] == ["a.png", "b.png"]
    assert found(tmp_path, "{folder}/{stem}.png")[0] == ["sub/c.png"]
    assert found(tmp_path, "sub/deep/{stem}.png")[0] == ["sub/deep/d.png"]
    assert found(tmp_path, "elsewhere/{stem}.png") == ([], [])


def test_a_file_says_its_size_and_time(tmp_path):
    path = write(tmp_path / "07.png", b"12345")
    (file,) = Tree(tmp_path, False).find(Pattern("{n:d}.png"))
    assert (file.path, file.name, file.values, file.size) == (path, "07.png", {"n": "7"}, 5)
    assert file.mtime_ns == path.stat().st_mtime_ns


def test_what_is_never_data_is_counted_and_left_alone(tmp_path):
    for name in ("a.png", "._a.png", ".hidden/b.png", "__MACOSX/c.png", "Thumbs.db", "x/d.png"):
        write(tmp_path / name, b"x")
    tree = Tree(tmp_path, False)
    assert [file.name for file in tree.find(Pattern("{stem}.png"))] == ["a.png"]
    assert tree.num_ignored == 4
    assert found(tmp_path, "{folder}/{stem}.png")[0] == ["x/d.png"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("typed", ["NFC", "NFD"])
def test_letters_are_equal_however_unicode_composes_them(tmp_path, on_disk, typed):
    write(tmp_path / unicodedata.normalize(on_disk, "Größe/bär_ü.png"), b"x")
    for text in ("Größe/{stem}_ü.png", "{folder}/{stem}_ü.png"):
        (file,) = Tree(tmp_path, False).find(Pattern(unicodedata.normalize(typed, text)))
        assert file.name == unicodedata.normalize("NFC", "Größe/bär_ü.png")
        assert file.values["stem"] == unicodedata.normalize("NFC", "bär")
        assert file.path.is_file()  # as it is spelled on disk


def test_two_spellings_of_one_name_are_refused(tmp_path):
    for form in ("NFC", "NFD"):
        write(tmp_path / unicodedata.normalize(form, "ü.png"), b"x")
    _, problems = found(tmp_path, "{stem}.png")
    assert len(problems) == 1
    assert "spell one name in two ways of Unicode" in problems[0]


def test_names_that_differ_in_capitals_only_are_refused(tmp_path):
    for name in ("a.png", "A.png", "b.png"):
        write(tmp_path / name, b"x")
    _, problems = found(tmp_path, "{stem}.png")
    assert problems == ["E-NAME a.png and A.png differ only in capital letters. Rename one of them"]


@pytest.fixture
def linked(tmp_path):
    """A root with links: to a file and a folder inside, to a file and a folder outside, to nothing and to itself."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    write(root / "real" / "a.png", b"x")
    write(outside / "b.png", b"x")
    (root / "real" / "inside.png").symlink_to(root / "real" / "a.png")
    (root / "folder").symlink_to(root / "real", target_is_directory=True)
    return root, outside


def test_links_within_the_root_are_followed(linked):
    root, _ = linked
    assert found(root, "real/{stem}.png") == (["real/a.png", "real/inside.png"], [])
    names = ["folder/a.png", "folder/inside.png", "real/a.png", "real/inside.png"]
    assert found(root, "{folder}/{stem}.png") == (names, [])
    assert found(root, "folder/{stem}.png") == (names[:2], [])


@pytest.mark.parametrize("is_folder", [False, True])
def test_links_out_of_the_root_are_refused_unless_allowed(linked, is_folder):
    root, outside = linked
    link = root / "real" / ("out" if is_folder else "out.png")
    link.symlink_to(outside if is_folder else outside / "b.png", target_is_directory=is_folder)
    name = "real/out/b.png" if is_folder else "real/out.png"
    # The link is refused wherever in the pattern it stands, in a part with a placeholder or in one that is spelled out.
    for pattern in ("real/{folder}/{stem}.png", "real/out/{stem}.png") if is_folder else ("real/{stem}.png",):
        names, problems = found(root, pattern)
        assert name not in names
        (problem,) = problems
        assert problem.startswith(f"E-LINK {name.removesuffix('/b.png')} is a link that leads out of data.root")
        assert problem.endswith("Set data.follow_links=true if that is meant")
        names, problems = found(root, pattern, follow_links=True)
        assert name in names
        assert problems == []


def test_a_root_that_is_a_link_itself_is_no_way_out(linked, tmp_path):
    root, _ = linked
    (tmp_path / "alias").symlink_to(root, target_is_directory=True)
    assert found(tmp_path / "alias", "real/{stem}.png") == (["real/a.png", "real/inside.png"], [])


def test_links_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "not there.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names, problems = found(tmp_path, "{stem}.png")
    assert names == []
    assert [problem.split()[1] for problem in problems] == ["gone.png", "loop.png"]
    assert all("is a link that leads" in problem for problem in problems)


def test_a_folder_that_links_to_its_parent_ends(tmp_path):
    write(tmp_path / "sub" / "a.png", b"x")
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert found(tmp_path, "{x}/{y}/{stem}.png") == ([], [])
    assert found(tmp_path, "{x}/{y}/{z}/{stem}.png")[0] == ["sub/up/sub/a.png"]


def test_what_is_no_file_is_named(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    names, problems = found(tmp_path, "{stem}.png")
    assert names == []
    assert problems == ["E-READ pipe.png is no regular file. Remove it or list it in data.exclude"]


def test_a_line_break_in_a_name_is_named_in_one_line(tmp_path):
    write(tmp_path / "a\nb.png", b"x")
    names, problems = found(tmp_path, "{stem}.png")
    assert names == []
    (problem,) = problems
    assert "has a line break, a control character" in problem
    assert "\n" not in problem

"""The store that decodes a dataset once for all runs."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from segsweep.data import storage
from segsweep.data.cache import cache_root, clear_cache
from segsweep.data.decoding import survey
from segsweep.data.problems import DataError
from segsweep.data.source import Sample
from segsweep.data.splits import SPLITS
from segsweep.data.storage import open_store
from tests.sources import Arrays, open_folder, scenes, spec, three_splits

# Tests are not the only threads of their process, but no lock is held here that a child would need.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
KEY = "0123456789abcdef0123"  # of an entry
fork = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def mixed_sizes(**options):
    """Images of three sizes in each split."""
    sizes = [(16, 20), (9, 31), (24, 12)]
    return Arrays(
        **{s: [scenes(1, size, seed=i * 7 + k)[0] for k, size in enumerate(sizes)] for i, s in enumerate(SPLITS)},
        **options,
    )


def entries(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_a_store_holds_what_its_source_reads():
    source = mixed_sizes()
    store = open_store(source, spec(), "stretch")
    for name, split in store.splits.items():
        assert split.items == source.items()[name]
        assert split.size is None
        assert split.sizes.tolist() == [[16, 20], [9, 31], [24, 12]]
        for i, (image, mask, _) in enumerate(source.samples[name]):
            assert np.array_equal(split.image(i), image)
            assert np.array_equal(split.mask(i), mask)
            assert np.array_equal(split.native_mask(i), mask)
            assert split.counts[i].tolist() == [*np.bincount(mask.ravel(), minlength=3), 0]
        assert split.has_label.all()
    assert store.num_bytes() > 0
    assert [fact["height"] for fact in store.facts()["val"]] == [16, 9, 24]


def test_files_are_read_once(tmp_path):
    source = three_splits(6)
    source.log = tmp_path / "log"
    first = open_store(source, spec(), "stretch")
    assert source.log.stat().st_size == 10
    again = open_store(source, spec(), "stretch")
    assert source.log.stat().st_size == 10
    assert (again.folder, again.fingerprint, again.notes) == (first.folder, first.fingerprint, first.notes)
    assert np.array_equal(again.splits["train"].images, first.splits["train"].images)


def test_other_settings_are_other_entries(cache):
    source = three_splits()
    settings = [
        (spec(), "stretch"),
        (spec(size=(8, 10)), "stretch"),
        (spec(size=(8, 8)), "stretch"),
        (spec(size=(8, 8)), "pad"),
        (spec(class_names=("a", "b", "x")), "stretch"),
        (spec(ignore_index=254), "stretch"),
    ]
    stores = [open_store(source, *setting) for setting in settings]
    assert len({store.fingerprint for store in stores}) == len(settings)
    assert len(entries(cache)) == len(settings)


def test_writing_to_a_split_leaves_the_cache_alone():
    source = three_splits()
    open_store(source, spec(), "stretch").splits["train"].images[:] = 0
    assert open_store(source, spec(), "stretch").splits["train"].images.any()


def test_all_problems_of_all_files_are_said_and_nothing_is_left(cache):
    source = mixed_sizes(bad=("train/001", "val/000", "test/002"))
    with pytest.raises(DataError) as error:
        open_store(source, spec(), "stretch")
    assert [problem.where for problem in error.value.problems] == ["train/001", "val/000", "test/002"]
    assert error.value.lines == ["E-IMG train/001 is empty (0 bytes). Copy it again. Likewise: val/000, test/002"]
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert [problem.where for problem in survey(source, spec(), "stretch").problems] == [
        "train/001",
        "val/000",
        "test/002",
    ]


def test_an_interruption_leaves_nothing(cache, monkeypatch):
    source = three_splits()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage.np, "savez", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_store(source, spec(), "stretch")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    open_store(source, spec(), "stretch")


def _open_together(source, barrier, results):
    barrier.wait()
    store = open_store(source, spec(size=(8, 10)), "stretch")
    results.put((store.fingerprint, int(store.splits["test"].images.sum())))


@pytest.mark.parametrize("num", [2, 4])
def test_processes_that_start_together_decode_once(num, tmp_path, cache):
    source = three_splits(8)
    source.log = tmp_path / "log"
    barrier, results = fork.Barrier(num), fork.Queue()
    processes = [fork.Process(target=_open_together, args=(source, barrier, results)) for _ in range(num)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * num
    assert len(set(found)) == 1
    assert source.log.stat().st_size == 12
    assert len(entries(cache)) == 1
    assert open_store(source, spec(size=(8, 10)), "stretch").fingerprint == found[0][0]


class _Deadly(Arrays):
    """Its process is killed while it decodes the test split."""

    def read(self, split, position):
        if split == "test":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(split, position)


def test_a_killed_decoder_blocks_nobody_and_is_cleaned_up(cache):
    source = three_splits()
    process = fork.Process(target=open_store, args=(_Deadly(**source.samples), spec(), "stretch"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left_over,) = entries(cache)
    assert left_over.startswith(".decoding-")
    store = open_store(source, spec(), "stretch")
    assert np.array_equal(store.splits["test"].image(0), source.samples["test"][0].image)
    assert entries(cache) == [store.folder.name]
    assert clear_cache() > store.splits["train"].images.nbytes
    assert entries(cache) == []


def test_clear_cache_frees_and_a_later_run_decodes_again(tmp_path, cache):
    source = three_splits()
    source.log = tmp_path / "log"
    store = open_store(source, spec(), "stretch")
    size = store.num_bytes()
    assert clear_cache() == size
    assert clear_cache() == 0
    assert store.splits["train"].images.any()  # whoever has it open keeps it
    assert open_store(source, spec(), "stretch").fingerprint == store.fingerprint
    assert source.log.stat().st_size == 20
    shutil.rmtree(cache)
    assert clear_cache() == 0


def test_clear_cache_spares_what_is_being_decoded(cache):
    being_decoded = cache / f".decoding-{KEY}-x"
    being_decoded.mkdir(parents=True)
    (being_decoded / "train.images.u8").write_bytes(b"12345")
    with (cache / f"{KEY}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert clear_cache() == 0
    assert being_decoded.is_dir()
    assert clear_cache() == 5  # nobody holds the lock any more
    assert not being_decoded.exists()


def test_clear_cache_leaves_alone_what_is_not_its_own(cache):
    store = open_store(three_splits(), spec(), "stretch")
    others = {
        name: cache / name for name in ("uv.lock", ".hidden.lock", f"{KEY[:-1]}.lock", f"x{KEY}.lock", "notes.txt")
    }
    for file in others.values():
        file.write_text("precious")
    (cache / f"{KEY}.lock").write_text("of an entry, by its name")
    (cache / "project").mkdir()
    (cache / "project" / "items.json").write_text("{}")
    assert clear_cache() > 0
    assert entries(cache) == ["project"]
    assert not store.folder.exists()
    assert {file.read_text() for file in others.values()} == {"precious"}
    assert (cache / "project" / "items.json").read_text() == "{}"
    assert (cache / f"{KEY}.lock").read_text() == "of an entry, by its name"


def test_clear_cache_spares_an_entry_that_is_nearly_done(cache):
    nearly_done = cache / f".decoding-{KEY}-x"
    nearly_done.mkdir(parents=True)
    (nearly_done / "items.json").write_text("{}")
    with (cache / f"{KEY}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert clear_cache() == 0
        assert nearly_done.is_dir()


@pytest.mark.parametrize("place", ["/proc/nope", "file", "file/below"])
def test_a_cache_that_cannot_be_written_is_named(place, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    place = str(tmp_path / place)  # an absolute place stays as it is
    monkeypatch.setenv("SEGSWEEP_CACHE", place)
    with pytest.raises(DataError) as error:
        open_store(three_splits(), spec(), "stretch")
    (line,) = error.value.lines
    assert line.startswith(f"E-CACHE the cache folder {place} cannot be written (")
    assert "SEGSWEEP_CACHE" in line.rpartition("). ")[2]
    assert clear_cache() == 0


def test_a_full_disk_is_named_and_leaves_nothing(cache, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("segsweep.data.decoding.np.savez", full)
    with pytest.raises(DataError, match=r"E-CACHE the cache folder .* cannot be written \(No space left on device\)"):
        open_store(three_splits(), spec(), "stretch")
    assert entries(cache) == []


def _truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def _empty(file):
    file.write_bytes(b"")


def _garble(file):
    file.write_bytes(b"PK" + bytes(file.stat().st_size - 2))


@pytest.mark.parametrize("harm", [_truncate, _empty, _garble, os.remove])
@pytest.mark.parametrize("name", ["train.npz", "facts.json", "items.json", "test.masks.u8", "val.images.u8"])
def test_a_damaged_entry_is_decoded_again(name, harm, tmp_path):
    source = three_splits()
    source.log = tmp_path / "log"
    store = open_store(source, spec(), "stretch")
    harm(store.folder / name)
    if harm is _garble and name not in ("train.npz", "items.json"):
        assert store.damaged() == [name]  # of its old size: that takes a look at its bytes
        store.discard()
    again = open_store(source, spec(), "stretch")
    assert source.log.stat().st_size == 20
    assert again.damaged() == []
    assert again.fingerprint == store.fingerprint
    assert [len(facts) for facts in again.facts().values()] == [6, 2, 2]


@pytest.mark.parametrize("index", ["[]", "{}", "null", '{"files": []}'])
def test_an_index_that_lacks_something_is_no_entry(index, tmp_path):
    source = three_splits()
    source.log = tmp_path / "log"
    store = open_store(source, spec(), "stretch")
    (store.folder / "items.json").write_text(index)
    assert open_store(source, spec(), "stretch").leaks == []
    whole = json.loads((store.folder / "items.json").read_text())
    (store.folder / "items.json").write_text(json.dumps({key: whole[key] for key in whole if key != "leaks"}))
    assert open_store(source, spec(), "stretch").leaks == []
    assert source.log.stat().st_size == 30


def test_a_lower_limit_holds_for_what_is_decoded_already():
    source = mixed_sizes()
    open_store(source, spec(size=(8, 8)), "stretch")
    source.max_pixels = 319
    with pytest.raises(DataError) as error:
        open_store(source, spec(size=(8, 8)), "stretch")
    (line,) = error.value.lines
    assert line.startswith("E-BIG train/000 has 20x16 = 320 pixels, the limit is 319. ")
    assert line.endswith(". Likewise: val/000, test/000")
    source.max_pixels = 320
    open_store(source, spec(size=(8, 8)), "stretch")


def test_values_that_are_no_classes_are_refused_whatever_the_source(cache):
    source = three_splits()
    image, mask, facts = source.samples["val"][1]
    source.samples["val"][1] = Sample(image, np.where(mask == 1, 27, mask).astype(np.uint8), facts)
    with pytest.raises(DataError, match=r"E-LABEL val/001 has a mask with the values 27; classes are 0..2"):
        open_store(source, spec(), "stretch")
    assert entries(cache) == []


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("SEGSWEEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "segsweep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "segsweep"


def test_the_fingerprint_is_of_the_content_not_of_the_place(image_tree, tmp_path, cache):
    before = open_store(open_folder(image_tree), spec(), "stretch")
    copied = tmp_path / "copied"
    shutil.copytree(image_tree, copied)
    for i, file in enumerate(sorted(copied.rglob("*.png"))):
        os.utime(file, (1000 + i, 1000 + i))
    after = open_store(open_folder(copied), spec(), "stretch")
    assert len(entries(cache)) == 2  # decoded again, because the files might have changed
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("split", SPLITS)
def test_changed_content_changes_the_fingerprint(image_tree, kind, split):
    before = open_store(open_folder(image_tree), spec(), "stretch").fingerprint
    file = image_tree / kind / split / "seq1_001.png"
    pixels = np.array(Image.open(file))
    pixels[5, 5] = (pixels[5, 5] + 1) % 3
    Image.fromarray(pixels).save(file)
    assert open_store(open_folder(image_tree), spec(), "stretch").fingerprint != before


def test_order_of_files_and_other_names_count(image_tree):
    before = open_store(open_folder(image_tree), spec(), "stretch").fingerprint
    for kind in ("images", "masks"):
        (image_tree / kind / "val" / "seq0_000.png").rename(image_tree / kind / "val" / "seq0_009.png")
    assert open_store(open_folder(image_tree), spec(), "stretch").fingerprint != before


def test_stretching_resizes_images_smoothly_and_masks_by_nearest():
    source = mixed_sizes()
    split = open_store(source, spec(size=(12, 10)), "stretch").splits["val"]
    assert split.size == (12, 10)
    for i, (image, mask, _) in enumerate(source.samples["val"]):
        expected = Image.fromarray(image).resize((10, 12), Image.Resampling.BILINEAR)
        assert np.array_equal(split.image(i), np.asarray(expected))
        rows, columns = (np.arange(12) + 0.5) * mask.shape[0] // 12, (np.arange(10) + 0.5) * mask.shape[1] // 10
        assert np.array_equal(split.mask(i), mask[rows.astype(int)][:, columns.astype(int)])


@pytest.mark.parametrize(
    ("size", "sizes"), [((12, 12), [[10, 12], [3, 12], [12, 6]]), ((32, 62), [[32, 40], [18, 62], [32, 16]])]
)
def test_padding_keeps_aspect_ratios(size, sizes):
    split = open_store(mixed_sizes(), spec(size=size), "pad").splits["train"]
    assert split.sizes.tolist() == sizes
    assert split.size is None


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_masks_of_val_and_test_are_kept_at_their_own_size(fit):
    source = mixed_sizes()
    store = open_store(source, spec(size=(12, 10)), fit)
    for name in ("val", "test"):
        for i, sample in enumerate(source.samples[name]):
            assert np.array_equal(store.splits[name].native_mask(i), sample.mask)
        assert store.splits[name].shapes.tolist() == [[16, 20], [9, 31], [24, 12]]
    assert store.splits["train"].native is None


def test_grey_images_and_single_pixels():
    source = Arrays(**{s: [Sample(np.full((1, 5, 1), 9, np.uint8), np.zeros((1, 5), np.uint8), {})] for s in SPLITS})
    facts = {"in_channels": 1, "mean": (0.5,), "std": (0.25,)}
    assert open_store(source, spec(**facts), "stretch").splits["val"].image(0).shape == (1, 5, 1)
    assert open_store(source, spec(size=(4, 4), **facts), "pad").splits["val"].image(0).tolist() == [[[9]] * 4]


def test_unlabelled_images_have_an_ignored_mask():
    source = three_splits(3)
    source.samples["train"][1] = source.samples["train"][1]._replace(mask=None)
    split = open_store(source, spec(ignore_index=7), "stretch").splits["train"]
    assert split.has_label.tolist() == [True, False, True]
    assert (split.mask(1) == 7).all()
    assert split.counts[1].tolist() == [0, 0, 0, 320]


def test_the_same_picture_in_two_splits_is_found():
    source = three_splits()
    source.samples["test"][1] = Sample(source.samples["train"][4].image.copy(), np.zeros((16, 20), np.uint8), {})
    source.samples["train"][5] = source.samples["train"][0]  # twice in one split is no leak
    assert open_store(source, spec(), "stretch").leaks == [("train/004 (train)", "test/001 (test)")]
    assert survey(source, spec(), "stretch").leaks() == [("train/004 (train)", "test/001 (test)")]


def test_a_survey_keeps_nothing(cache):
    found = survey(mixed_sizes(), spec(), "stretch")
    assert {name: len(facts) for name, facts in found.facts.items()} == dict.fromkeys(SPLITS, 3)
    assert found.problems == []
    assert not cache.exists()


def test_an_empty_split_is_refused():
    source = three_splits()
    source.samples["val"] = []
    with pytest.raises(DataError, match=r"E-EMPTY split val has no images"):
        open_store(source, spec(), "stretch")

"""The store that decodes once, and the DataModule over it."""

import json
import multiprocessing

import numpy as np
import pytest
import torch

from segsweep import config
from segsweep.data import storage
from segsweep.data.datamodule import DataModule
from segsweep.floors import floors
from tests.conftest import FOLDER, TINY, options


def make_data(composer, *overrides) -> DataModule:
    plain = config.settle(composer(*overrides))
    parts = {"augment": config.make(plain["augment"]), "regime": config.make(plain["regime"])}
    return config.make_partial(plain["data"])(**parts, seed=plain["seed"])


@pytest.fixture
def digits(composer):
    return lambda *overrides: make_data(composer, *TINY, *overrides)


@pytest.fixture
def folder(composer, image_tree):
    keys = [*FOLDER, f"data.root='{image_tree}'", "data.size=[24,32]"]
    return lambda *overrides: make_data(composer, *keys, *overrides)


def test_a_dataset_is_decoded_once(folder, monkeypatch):
    first = folder().store
    monkeypatch.setattr(storage, "_decode_into", None)  # decoding again would fail
    again = folder().store
    assert again.folder == first.folder
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.splits["train"].images, first.splits["train"].images)


def test_other_decode_settings_are_another_entry(folder):
    assert folder().store.fingerprint != folder("data.size=[12,16]").store.fingerprint


def test_the_fingerprint_is_of_the_content(folder, image_tree, monkeypatch, tmp_path):
    before = folder().store.fingerprint
    monkeypatch.setenv("SEGSWEEP_CACHE", str(tmp_path / "another cache"))
    assert folder().store.fingerprint == before
    mask = image_tree / "masks" / "test" / "seq1_001.png"
    from PIL import Image

    changed = np.array(Image.open(mask))
    changed[5, 5] = (changed[5, 5] + 1) % 3
    Image.fromarray(changed).save(mask)
    assert folder().store.fingerprint != before


def test_nothing_is_left_behind_when_decoding_fails(folder, image_tree, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGSWEEP_CACHE", str(tmp_path / "cache"))
    (image_tree / "images" / "test" / "seq1_001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"seq1_001.png: cannot be read"):
        _ = folder().store
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_masks_with_unknown_values_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"train/seq\d_\d+: the mask holds 255 \(3 px\), but classes are 0..2"):
        _ = folder("data.ignore_index=254").store


def test_processes_that_start_together_decode_once(tmp_path, monkeypatch, digits):
    monkeypatch.setenv("SEGSWEEP_CACHE", str(tmp_path))
    data = digits()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        prints = pool.starmap(_fingerprint, [(data.source, data.spec)] * 4)
    assert len(set(prints)) == 1
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def _fingerprint(source, spec):
    return storage.open_store(source, spec).fingerprint


def test_validation_is_scored_at_the_size_of_each_mask(folder):
    data = folder("data.batch_size=2")
    batches = list(data.val_dataloader())
    assert {tuple(batch.mask.shape[1:]) for batch in batches} == {(24, 32), (20, 30)}
    assert all(batch.image.shape[2:] == (24, 32) for batch in batches)
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == [0, 1, 2]
    for batch in batches:
        for position, mask in zip(batch.index.tolist(), batch.mask, strict=True):
            original = data.source.read("val", position)[1]
            assert np.array_equal(mask.numpy(), original)


def test_images_are_standardised(digits):
    batch = next(iter(digits("data.mean=[0.4]", "data.std=[0.1]").val_dataloader()))
    raw = digits().store.splits["val"].images[0, :, :, 0] / 255
    assert batch.image.dtype == torch.float32
    np.testing.assert_allclose(batch.image[0, 0].numpy(), (raw - 0.4) / 0.1, atol=1e-4)


def test_an_epoch_shows_every_image_and_fills_the_last_batch(digits):
    loader = digits("data.batch_size=5").train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 3  # ceil(12 / 5)
    shown = torch.cat([batch.index for batch in batches])
    assert len(shown) == 15
    assert set(shown.tolist()) == set(range(12))
    assert len(set(shown[:12].tolist())) == 12


def test_order_and_augmentation_follow_from_seed_and_epoch(digits):
    def epoch(number, *overrides):
        loader = digits(*overrides).train_dataloader()
        loader.set_epoch(number)
        return list(loader)

    first, again, later, other = epoch(3), epoch(3), epoch(4), epoch(3, "seed=1")
    assert all(torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) for a, b in zip(first, again, strict=True))
    orders = [torch.cat([batch.index for batch in batches]).tolist() for batches in (first, later, other)]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_augmentation_does_not_depend_on_the_batch(digits):
    by_index = {}
    for batch_size in (4, 6):
        for batch in digits(f"data.batch_size={batch_size}").train_dataloader():
            for position, image in zip(batch.index.tolist(), batch.image, strict=True):
                by_index.setdefault(position, []).append(image)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b, *_ in by_index.values())


def test_labelled_subsets_are_nested_and_repeat(digits):
    few, more = (digits(f"data.labelled_fraction={share}") for share in (0.25, 0.5))
    assert set(few.labelled().tolist()) < set(more.labelled().tolist())
    shown = torch.cat([batch.index for batch in few.train_dataloader()])
    assert len(shown) == 12  # as many steps as with all labels
    assert set(shown.tolist()) == set(few.labelled().tolist())
    assert torch.bincount(shown).max() == 4


def test_unlabelled_images_carry_an_ignored_mask(digits):
    data = digits("data.labelled_fraction=0.5", "regime.stages.0.images=all", "augment=none")
    labelled = set(data.labelled().tolist())
    for batch in data.train_dataloader():
        for position, mask in zip(batch.index.tolist(), batch.mask, strict=True):
            assert (mask == 255).all() == (position not in labelled)


def test_facts_that_contradict_each_other_are_refused(digits):
    with pytest.raises(ValueError, match=r"data.num_classes=11 but data.class_names has 1"):
        digits("data.class_names=[a]")
    with pytest.raises(ValueError, match=r"data.crop=.* is larger than data.size"):
        digits("data.crop=[60,20]")
    with pytest.raises(ValueError, match=r"data.mean and data.std need data.in_channels=1 values"):
        digits("data.mean=[0.5,0.5]")


def test_floors_against_a_slow_computation(folder):
    data = folder()
    found = floors(data.store, data.spec)
    train = [data.source.read("train", i)[1] for i in range(5)]
    pooled = np.concatenate([mask.ravel() for mask in train])
    most = np.bincount(pooled[pooled != 255], minlength=3).argmax()
    truth = np.concatenate([data.source.read("test", i)[1].ravel() for i in range(3)])
    truth = truth[truth != 255]
    assert found["most_frequent"]["test/pixel_accuracy"] == pytest.approx((truth == most).mean())
    assert found["most_frequent"]["test/miou"] == pytest.approx((truth == most).mean() / 3)
    assert found["location_prior"]["test/miou"] >= 0
    assert json.loads((data.store.folder / "floors-1.json").read_text()) == found


@pytest.mark.parametrize("name", options("data"))
def test_every_dataset_states_its_facts(name, composer):
    data = composer(f"data={name}").data
    from omegaconf import OmegaConf

    if not OmegaConf.is_missing(data, "num_classes"):
        assert len(data.class_names) == data.num_classes
    assert len(data.mean) == len(data.std) == data.in_channels
    assert OmegaConf.is_missing(data, "root") or data.root is None

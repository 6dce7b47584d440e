"""The DataModule: what a run sees of a dataset, whatever the batch size, the storage and the threads."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from segsweep.data.problems import DataError
from segsweep.data.source import Sample
from segsweep.data.splits import SPLITS
from segsweep.data.train_batches import TrainBatches
from tests.conftest import options
from tests.sources import Arrays, node, open_data, open_folder, scenes, three_splits

SIZES = [(16, 20), (9, 31), (24, 12), (28, 28)]
MOVING = {"hflip": 0.5, "rotate": 20.0, "zoom": 1.3, "shift": 0.1}


def mixed_sizes(num=8):
    """Images of four sizes in each split, eight of them to train on."""
    return Arrays(
        **{
            name: [scenes(1, SIZES[k % 4], seed=100 * i + k)[0] for k in range(num if name == "train" else 4)]
            for i, name in enumerate(SPLITS)
        }
    )


def with_rare_class(num=12, side=64):
    """One corner of 4 x 4 pixels of class 2 in each large image, somewhere; its colour tells a pixel's class."""
    rng = np.random.default_rng(3)

    def scene():
        mask = np.zeros((side, side), np.uint8)
        mask[:, side // 2 :] = 1
        y, x = rng.integers(0, side - 4, 2)
        mask[y : y + 4, x : x + 4] = 2
        return Sample(np.stack([mask * 80, mask, rng.integers(0, 255, mask.shape)], 2).astype(np.uint8), mask, {})

    return Arrays(**{name: [scene() for _ in range(num if name == "train" else 1)] for name in SPLITS})


def epoch(data, number=0):
    loader = data.train_dataloader()
    loader.set_epoch(number)
    return list(loader)


def by_image(batches):
    """Position -> image and mask, which have to be equal however often a position comes."""
    found = {}
    for batch in batches:
        for position, image, mask in zip(batch.index.tolist(), batch.image, batch.mask, strict=True):
            first = found.setdefault(position, (image, mask))
            assert torch.equal(first[0], image)
            assert torch.equal(first[1], mask)
    return found


def intensities(data, image):
    """0..255 again, (..., H, W, C) as decoded."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.spec.mean, data.spec.std))
    return ((image * std + mean) * 255).round().byte().movedim(-3, -1).numpy()


WAYS = [
    {"batch_size": 3}, {"batch_size": 8}, {"batch_size": 1}, {"storage": "memory", "num_workers": 0},
    {"storage": "memory", "num_workers": 2, "batch_size": 3}, {"storage": "memory", "num_workers": 3},
]  # fmt: skip


@pytest.mark.parametrize(
    ("augment", "kind"),
    [  # mixing comes last, whatever was drawn before it
        pytest.param(
            augment, kind, marks=[pytest.mark.slow] * (kind in ("classmix", "copy_paste") and augment != "strong")
        )
        for augment in options("augment")
        for kind in (None, "cutmix", "classmix", "copy_paste")
    ],
)
def test_an_image_is_the_same_however_it_is_batched_and_read(augment, kind):
    """Bit by bit: the same (seed, epoch, index) gives the same pixels."""
    mixing = {"mix": kind, "mix_probability": 0.7} if kind else {}
    source, settings = mixed_sizes(), {"augment": node(f"augment/{augment}") | mixing, "crop": (13, 17), "seed": 5}
    settings["crop_balance"] = 0.5
    expected = by_image(epoch(open_data(source, batch_size=4, **settings), 2))
    assert expected.keys() == set(range(8))
    for way in WAYS:
        found = by_image(epoch(open_data(source, **({"batch_size": 4} | settings | way)), 2))
        for position, (image, mask) in expected.items():
            assert torch.equal(found[position][0], image)
            assert torch.equal(found[position][1], mask)


@pytest.mark.parametrize("augment", options("augment"))
def test_whole_images_are_the_same_too(augment):
    source = three_splits(7)
    expected = by_image(epoch(open_data(source, augment, batch_size=4)))
    for way in WAYS:
        found = by_image(epoch(open_data(source, augment, **({"batch_size": 4} | way))))
        assert all(torch.equal(found[i][k], expected[i][k]) for i in expected for k in (0, 1))


def test_order_and_pixels_follow_from_seed_and_epoch():
    def run(number, seed=0):
        return epoch(open_data(three_splits(12), MOVING, seed=seed, batch_size=4), number)

    first, again, later, other = run(3), run(3), run(4), run(3, seed=1)
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
    orders = [torch.cat([batch.index for batch in batches]).tolist() for batches in (first, later, other)]
    assert len({tuple(order) for order in orders}) == 3
    pixels = [by_image(batches) for batches in (first, later, other)]
    assert not any(torch.equal(pixels[0][i][0], other[i][0]) for i in range(12) for other in pixels[1:])


def test_an_epoch_that_is_left_early_changes_nothing():
    loader = open_data(three_splits(12), MOVING, batch_size=2, storage="memory", num_workers=2).train_dataloader()
    whole = [batch.image for batch in loader]
    next(iter(loader))
    assert all(torch.equal(a, b.image) for a, b in zip(whole, loader, strict=True))


def test_a_mistake_in_a_reading_thread_is_raised(monkeypatch):
    loader = open_data(mixed_sizes(), crop=(8, 8), storage="memory", num_workers=2).train_dataloader()

    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(loader.windows, "cut", fail)
    with pytest.raises(OSError, match=r"the disk is gone"):
        list(loader)


@pytest.mark.parametrize(("num", "batch_size", "steps"), [(12, 5, 3), (12, 4, 3), (12, 12, 1), (3, 8, 1)])
def test_an_epoch_shows_every_image_and_fills_the_last_batch(num, batch_size, steps):
    loader = open_data(three_splits(num), batch_size=batch_size).train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == steps
    assert all(len(batch.index) == batch_size for batch in batches)
    shown = torch.cat([batch.index for batch in batches])
    assert sorted(shown[:num].tolist()) == list(range(num))


def test_a_batch_is_what_its_type_says():
    source = three_splits(4)
    data = open_data(source, batch_size=2)
    batch = epoch(data)[0]
    assert (batch.image.dtype, batch.mask.dtype, batch.index.dtype) == (torch.float32, torch.int64, torch.int64)
    assert (batch.image.shape, batch.mask.shape) == ((2, 3, 16, 20), (2, 16, 20))
    for position, image, mask in zip(batch.index.tolist(), batch.image, batch.mask, strict=True):
        sample = source.samples["train"][position]
        expected = (sample.image / 255 - np.array([0.5] * 3)) / 0.25
        np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5)
        assert np.array_equal(mask.numpy(), sample.mask)


@pytest.mark.parametrize(
    "augment", [{}, MOVING, {"mix": "cutmix", "mix_probability": 1.0}], ids=["none", "moved", "mixed"]
)
def test_images_lie_in_memory_as_convolutions_want_them(augment):
    for batch in epoch(open_data(three_splits(), augment=augment)):
        assert batch.image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("storage", ["device", "memory"])
def test_a_crop_is_a_piece_of_its_image(storage):
    source = with_rare_class(6)
    data = open_data(source, crop=(10, 14), crop_balance=0.5, storage=storage)
    places = set()
    for number in range(4):
        for position, (image, mask) in by_image(epoch(data, number)).items():
            sample, pixels = source.samples["train"][position], intensities(data, image)
            views = np.lib.stride_tricks.sliding_window_view(sample.image[:, :, 2], (10, 14))
            ((y, x),) = np.argwhere((views == pixels[:, :, 2]).all(axis=(2, 3)))
            places.add((y, x))
            assert np.array_equal(pixels, sample.image[y : y + 10, x : x + 14])
            assert np.array_equal(mask.numpy(), sample.mask[y : y + 10, x : x + 14])
    assert len(places) > 20


def test_crops_reach_every_part_of_an_image():
    """Corners included: the first and the last row and column come as often as their windows do."""
    source = three_splits(6, size=(12, 12))
    data = open_data(source, crop=(10, 10))
    corners = []
    for number in range(30):
        for position, (image, _) in by_image(epoch(data, number)).items():
            views = np.lib.stride_tricks.sliding_window_view(source.samples["train"][position].image[:, :, 2], (10, 10))
            corners += np.argwhere((views == intensities(data, image)[:, :, 2]).all(axis=(2, 3))).tolist()
    counts = np.zeros((3, 3))
    np.add.at(counts, tuple(np.array(corners).T), 1)
    assert counts.sum() == 180
    assert counts.min() >= 8  # 20 are expected


def test_moved_crops_take_what_lies_around_them():
    """Rotation and zoom need pixels beyond the crop: they come from the image, not from a mirror."""
    source = with_rare_class(8, side=160)
    cut, whole = open_data(source, MOVING, crop=(12, 12)), open_data(source, MOVING)
    ignored = [
        np.mean([(mask == 255).float().mean() for n in range(4) for _, mask in by_image(epoch(data, n)).values()])
        for data in (cut, whole)
    ]
    assert ignored[0] < 0.01
    assert ignored[1] > 0.03


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_crop_balance_makes_rare_classes_frequent(augment):
    def share(balance):
        data = open_data(with_rare_class(), augment, crop=(10, 10), crop_balance=balance)
        masks = [mask for number in range(16) for _, mask in by_image(epoch(data, number)).values()]
        return np.mean([(mask == 2).any() for mask in masks])

    uniform, half, balanced = share(0.0), share(0.5), share(1.0)
    assert uniform < 0.1  # where it is 0.4 % of the pixels
    assert balanced > 3 * uniform
    assert uniform < half < balanced


def test_balanced_crops_lie_within_their_image():
    data = open_data(with_rare_class(), crop=(12, 12), crop_balance=1.0)
    assert not any((mask == 255).any() for n in range(4) for _, mask in by_image(epoch(data, n)).values())


@pytest.mark.parametrize("mix", [None, "cutmix", "classmix", "copy_paste"])
def test_masks_that_may_not_be_used_change_nothing(mix):
    """Hidden masks neither steer crops nor come back through a partner: other masks there, the same batches."""
    augment = {"mix": mix, "mix_probability": 0.6 if mix else 0.0}
    data = open_data(
        with_rare_class(), augment, crop=(12, 12), crop_balance=1.0, labelled_fraction=0.5, train_on="all", batch_size=4
    )
    loader = TrainBatches(data, torch.device("cpu"))
    before = [tuple(map(torch.clone, batch[:3])) for batch in loader]
    hidden = sorted(set(range(12)) - set(data.labelled().tolist()))
    for position in hidden:
        data.store.splits["train"].mask(position)[:] = np.random.default_rng(position).integers(0, 3, (64, 64))
    for a, b in zip(before, loader, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
        for position, mask in zip(b.index.tolist(), b.mask, strict=True):
            if position in hidden and mix is None:
                assert (mask == 255).all()


def test_padding_keeps_the_aspect_ratio():
    source = mixed_sizes()
    data = open_data(source, size=(24, 24), fit="pad")
    split = data.store.splits["train"]
    for position, (image, mask) in by_image(epoch(data)).items():
        (height, width), own = split.sizes[position].tolist(), source.samples["train"][position].mask.shape
        assert max(height, width) == 24
        assert abs(height / width - own[0] / own[1]) < 0.1
        top, left = (24 - height + 1) // 2, (24 - width + 1) // 2
        padding = ((top, 24 - height - top), (left, 24 - width - left))
        mirrored = np.pad(split.image(position), (*padding, (0, 0)), mode="symmetric")
        assert np.array_equal(intensities(data, image), mirrored)
        assert np.array_equal(mask.numpy(), np.pad(split.mask(position), padding, constant_values=255))


def test_a_crop_larger_than_an_image_is_mirrored_and_ignored():
    source = three_splits(5, size=(9, 30))
    data = open_data(source, crop=(16, 20), crop_balance=0.5)
    for position, (image, mask) in by_image(epoch(data)).items():
        sample, pixels = source.samples["train"][position], intensities(data, image)
        inside = mask.numpy() != 255
        assert inside.all(axis=1).sum() == 9
        assert inside.any(axis=1).sum() == 9
        padded = np.pad(sample.image[:, :, 2], ((4, 3), (0, 0)), mode="symmetric")
        views = np.lib.stride_tricks.sliding_window_view(padded, (16, 20))
        assert (views == pixels[:, :, 2]).all(axis=(2, 3)).any()


def test_mixed_images_bring_their_classes_along():
    """Colours tell classes, so a mask that did not come with its pixels would show."""
    for kind in ("cutmix", "classmix", "copy_paste"):
        source = with_rare_class()
        data = open_data(source, {"mix": kind, "mix_probability": 1.0}, batch_size=4)
        plain = by_image(epoch(open_data(source, batch_size=4)))
        changed = 0
        for position, (image, mask) in by_image(epoch(data)).items():
            assert np.array_equal(intensities(data, image)[:, :, 1], mask.numpy())
            changed += not torch.equal(image, plain[position][0])
        assert changed >= 8


def test_copy_paste_brings_rare_classes_from_images_that_have_them():
    source = with_rare_class()
    for sample in source.samples["train"][2:]:
        sample.mask[sample.mask == 2] = 0
    for train_on in ("labelled", "all"):
        data = open_data(source, {"mix": "copy_paste", "mix_probability": 1.0}, train_on=train_on)
        assert all((mask == 2).any() for _, mask in by_image(epoch(data)).values())


def test_unlabelled_images_are_ignored_and_count_in_the_epoch(image_tree):
    for i in range(4):
        (image_tree / "more").mkdir(exist_ok=True)
        (image_tree / "images" / "train" / f"seq{i % 2}_00{i}.png").rename(image_tree / "more" / f"{i}.png")
        (image_tree / "masks" / "train" / f"seq{i % 2}_00{i}.png").unlink()
    for i in range(3):
        for kind in ("images", "masks"):
            (image_tree / kind / "val" / f"seq{i % 2}_00{i}.png").rename(image_tree / kind / "train" / f"x{i}.png")
    source = open_folder(image_tree, unlabelled="more/{n}.png", splits={"train": "train", "val": 0.3, "test": "test"})
    settings = {"size": (24, 32), "batch_size": 2}
    assert len(source.items()["train"]) == 7
    assert sorted(open_data(source, **settings).labelled().tolist()) == [0, 1, 2]
    everything = open_data(source, train_on="all", **settings).train_dataloader()
    assert len(everything) == 4
    for position, (_, mask) in by_image(list(everything)).items():
        assert (mask == 255).all() == (position >= 3)
    labelled = open_data(source, **settings).train_dataloader()
    assert len(labelled) == 4  # as many steps, of labelled images alone
    assert set(torch.cat([batch.index for batch in labelled]).tolist()) == {0, 1, 2}


def test_a_labelled_share_costs_no_steps():
    data = open_data(three_splits(12), labelled_fraction=0.25, batch_size=4)
    shown = torch.cat([batch.index for batch in epoch(data)])
    assert len(shown) == 12
    assert torch.bincount(shown).max() == 4
    assert set(shown.tolist()) == set(data.labelled().tolist())


def test_a_labelled_image_that_comes_again_in_an_epoch_is_drawn_for_anew():
    def showings(batch_size):
        data = open_data(three_splits(12), MOVING, labelled_fraction=0.25, batch_size=batch_size)
        found = {}
        for batch in epoch(data):
            for position, image in zip(batch.index.tolist(), batch.image, strict=True):
                found.setdefault(position, []).append(image)
        return found

    expected = showings(4)
    for position, images in showings(3).items():  # the k-th showing is the same in whatever batch it comes
        assert len(images) == 4
        assert all(torch.equal(a, b) for a, b in zip(images, expected[position], strict=True))
        assert not any(torch.equal(images[0], image) for image in images[1:])


@pytest.mark.parametrize("storage", ["device", "memory"])
@pytest.mark.parametrize(("size", "fit"), [(None, "stretch"), ((12, 10), "stretch"), ((12, 10), "pad")])
def test_evaluation_shows_whole_images_and_masks_at_their_own_size(storage, size, fit):
    source = mixed_sizes()
    source.samples["val"] += [scenes(1, SIZES[1], seed=900 + i)[0] for i in range(3)]
    data = open_data(source, size=size, fit=fit, crop=(8, 8), batch_size=2, storage=storage)
    loader = data.val_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 5  # one of each size, and two of the one that comes four times
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(7))
    for batch in batches:
        for position, image, mask in zip(batch.index.tolist(), batch.image, batch.mask, strict=True):
            assert np.array_equal(mask.numpy(), source.samples["val"][position].mask)
            assert np.array_equal(intensities(data, image), data.store.splits["val"].image(position))
    assert len(list(data.test_dataloader())) == 4


def test_images_that_are_scored_by_tiles_come_one_by_one():
    batches = list(open_data(three_splits(), tile=(8, 8)).val_dataloader())
    assert [len(batch.index) for batch in batches] == [1, 1]


def test_masks_may_have_another_size_than_images_that_were_stretched():
    source = mixed_sizes()
    for batch in open_data(source, size=(16, 16), batch_size=4).val_dataloader():
        assert batch.image.shape[2:] == (16, 16)
        assert tuple(batch.mask.shape[1:]) in SIZES


def test_images_of_several_sizes_need_a_crop_or_a_size():
    with pytest.raises(
        DataError, match=r"E-SIZE split train has 4 sizes of images, from \[9, 31\] to \[28, 28\].*data.crop="
    ):
        _ = open_data(mixed_sizes()).store
    assert open_data(mixed_sizes(), crop=(8, 9)).train_size == (8, 9)
    assert open_data(mixed_sizes(), size=(10, 11)).train_size == (10, 11)
    assert open_data(three_splits()).train_size == (16, 20)


def test_the_same_picture_in_two_splits_is_refused_unless_allowed():
    source = three_splits()
    source.samples["test"][0] = source.samples["train"][0]
    with pytest.raises(DataError, match=r"E-LEAK train/000 \(train\) .*test/000 \(test\).*data.allow_leak=true"):
        _ = open_data(source).store
    assert open_data(source, allow_leak=True).store.leaks


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"class_names": ("a", "b", "a")}, r"data.num_classes=3 but data.class_names has 2 different names"),
        ({"class_names": ("a", "ignore")}, r"'ignore' means ignored pixels"),
        (
            {"ignore_index": 2},
            r"data.ignore_index=2 is the class 'c', which would vanish; choose a value from 3 to 255",
        ),
        ({"in_channels": 2, "mean": (0.5,) * 2, "std": (0.2,) * 2}, r"read as grey \(1\) or RGB \(3\)"),
        ({"mean": (0.5,)}, r"data.mean and data.std need data.in_channels=3 values each"),
        ({"size": (16, 16), "crop": (20, 10)}, r"data.crop=\[20,10\] is larger than data.size=\[16,16\]"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(facts, message):
    with pytest.raises(ValueError, match=message):
        open_data(three_splits(), **facts)


@pytest.mark.parametrize("name", options("data"))
def test_every_dataset_states_its_facts(name, composer):
    data = composer(f"data={name}").data
    if not OmegaConf.is_missing(data, "num_classes"):
        assert len(data.class_names) == data.num_classes
    assert len(data.mean) == len(data.std) == data.in_channels
    assert "root" not in data or OmegaConf.is_missing(data, "root")

import pytest
import torch

from segsweep import config
from segsweep.augment import Augment
from tests.conftest import options

OFF = {"hflip": 0.0, "vflip": 0.0, "rotate": 0.0, "zoom": 1.0, "shift": 0.0, "brightness": 0.0, "contrast": 1.0}
IGNORED = 255


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 20, 24, 3), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 4, (6, 20, 24), generator=generator, dtype=torch.uint8)
    return images, masks, torch.rand(6, Augment.num_draws, generator=generator)


def apply(batch, crop=None, **settings):
    images, masks, draws = batch
    return Augment(**{**OFF, **settings})(images, masks, draws, crop, IGNORED)


def test_nothing_is_nothing(batch):
    image, mask = apply(batch)
    assert torch.equal(image, batch[0].permute(0, 3, 1, 2) / 255)
    assert torch.equal(mask, batch[1].long())


def test_a_crop_copies_pixels_from_one_place(batch):
    image, mask = apply(batch, crop=(8, 10))
    assert image.shape == (6, 3, 8, 10)
    whole = batch[0].permute(0, 3, 1, 2) / 255
    places = set()
    for n in range(6):
        windows = whole[n].unfold(1, 8, 1).unfold(2, 10, 1)  # (3, tops, lefts, 8, 10)
        hits = (windows - image[n][:, None, None]).abs().amax(dim=(0, 3, 4)) < 1e-4
        assert hits.sum() == 1
        top, left = hits.nonzero()[0].tolist()
        assert torch.equal(mask[n], batch[1][n, top : top + 8, left : left + 10].long())
        places.add((top, left))
    assert len(places) > 1


@pytest.mark.parametrize(("setting", "axis"), [("hflip", -1), ("vflip", -2)])
def test_a_flip_mirrors_image_and_mask(batch, setting, axis):
    image, mask = apply(batch, **{setting: 1.0})
    torch.testing.assert_close(image, (batch[0].permute(0, 3, 1, 2) / 255).flip(axis), atol=1e-4, rtol=0)
    assert torch.equal(mask, batch[1].long().flip(axis))


def test_image_and_mask_move_together():
    mask = torch.zeros(8, 48, 48, dtype=torch.uint8)
    mask[:, 10:30, 20:40] = 1
    images = (mask * 255)[..., None]
    draws = torch.rand(8, Augment.num_draws, generator=torch.Generator().manual_seed(3))
    image, moved = apply((images, mask, draws), rotate=20.0, zoom=1.3, shift=0.1, hflip=0.5)
    inside = moved != IGNORED
    agree = ((image[:, 0] > 0.5).long() == moved)[inside].float().mean()
    assert agree > 0.99
    assert not torch.equal(moved, mask.long())


def test_what_comes_from_outside_is_ignored():
    images = torch.full((4, 16, 16, 1), 200, dtype=torch.uint8)
    masks = torch.ones(4, 16, 16, dtype=torch.uint8)
    draws = torch.zeros(4, Augment.num_draws)  # shift by -0.5 of each side
    image, mask = apply((images, masks, draws), shift=0.5)
    assert (mask == IGNORED).float().mean() == pytest.approx(0.75)
    assert image.min() == pytest.approx(200 / 255, abs=1e-5)  # mirrored, not black


def test_intensity_changes_leave_the_mask_alone(batch):
    image, mask = apply(batch, brightness=0.2, contrast=1.5)
    assert torch.equal(mask, batch[1].long())
    assert image.min() >= 0
    assert image.max() <= 1
    assert not torch.equal(image, batch[0].permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize("name", options("augment"))
def test_every_option_keeps_shapes_and_ranges(name, composer, batch):
    augment = config.make(config.settle(composer(f"augment={name}", "trainer=cpu"))["augment"])
    image, mask = augment(batch[0], batch[1], batch[2], (12, 12), IGNORED)
    assert image.shape == (6, 3, 12, 12)
    assert image.dtype == torch.float32
    assert mask.dtype == torch.int64
    assert set(mask.unique().tolist()) <= {0, 1, 2, 3, IGNORED}


@pytest.mark.parametrize("name", options("augment"))
def test_an_image_is_augmented_alone_as_in_a_batch(name, composer, batch):
    augment = config.make(config.settle(composer(f"augment={name}", "trainer=cpu"))["augment"])
    images, masks, draws = batch
    together, _ = augment(images, masks, draws, None, IGNORED)
    alone, _ = augment(images[2:3], masks[2:3], draws[2:3], None, IGNORED)
    torch.testing.assert_close(alone[0], together[2], rtol=0, atol=1e-6)

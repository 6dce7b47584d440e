import inspect
import itertools

import pytest
import torch
import torch.nn.functional as F

from segsweep import config
from segsweep.augment import Augment
from segsweep.augment.draws import Draw
from tests.conftest import options

OFF = {
    "hflip": 0.0, "vflip": 0.0, "rotate": 0.0, "zoom": 1.0, "shift": 0.0, "shear": 0.0,
    "brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "gamma": 1.0, "noise": 0.0, "blur": 0.0,
    "cutout": 0.0, "mix": None, "mix_probability": 0.0,
}  # fmt: skip
MOVES = {"hflip": 0.5, "vflip": 0.5, "rotate": 25.0, "zoom": 1.4, "shift": 0.1, "shear": 12.0}
VALUES = {
    "brightness": 0.15, "contrast": 1.4, "saturation": 1.4, "hue": 0.05, "gamma": 1.4, "noise": 0.03, "blur": 1.2,
    "cutout": 0.4,
}  # fmt: skip
MIXES = ("cutmix", "classmix", "copy_paste")
IGNORED = 255
# Colours of four classes, far enough apart that no intensity change above turns one into another.
COLOURS = torch.tensor([[60, 60, 60], [190, 70, 70], [70, 190, 70], [200, 200, 200]], dtype=torch.uint8)
ALMOST_ONE = 1 - 2**-24


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 20, 24, 3), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 4, (6, 20, 24), generator=generator, dtype=torch.uint8)
    return images, masks, torch.rand(6, Augment.num_draws, generator=generator)


def blocks(num=8, channels=3, size=64, seed=5):
    """Images in which every class has a colour of its own, so that they tell what their masks must be."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 4, (num, 4, 4), generator=generator, dtype=torch.uint8)
    masks = masks.repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
    images = COLOURS[masks.long()] if channels == 3 else (masks * 60 + 30)[..., None]
    return images, masks, torch.rand(num, Augment.num_draws, generator=generator)


def make(**settings):
    return Augment(**{**OFF, **settings})


def middle(images):
    return torch.tensor([(images.shape[1] - 1) / 2, (images.shape[2] - 1) / 2]).expand(len(images), 2)


def run(augment, batch, out=None):
    images, masks, draws = batch
    return augment(images, masks, draws, middle(images), out or tuple(images.shape[1:3]), IGNORED)


def apply(batch, out=None, **settings):
    return run(make(**settings), batch, out)


def mix(augment, one, other, draws, is_rare=(False, True, False, True)):
    return augment.mix_in(*one, *other, draws, torch.tensor(is_rare), IGNORED)


def plain(images):
    return images.permute(0, 3, 1, 2) / 255


def agreement(image, mask):
    """Share of pixels whose colour is nearest to that of their class; at edges, colours are mixtures."""
    largest, smallest = (sign * F.max_pool2d(sign * mask[:, None].float(), 5, 1, 2)[:, 0] for sign in (1, -1))
    counted = (largest == smallest) & (mask != IGNORED)
    right = 0
    for pixels, classes, here in zip(image.flatten(2), mask.flatten(1), counted.flatten(1), strict=True):
        pixels, classes = pixels[:, here], classes[here]
        present = classes.unique()
        medians = torch.stack([pixels[:, classes == k].median(dim=1).values for k in present])
        right += (present[torch.cdist(pixels.T, medians).argmin(dim=1)] == classes).sum().item()
    return right / counted.sum().item()


@pytest.fixture(params=options("augment"))
def option(request, composer):
    return config.make(config.settle(composer(f"augment={request.param}", "trainer=cpu"))["augment"])


def test_nothing_is_nothing(batch):
    image, mask = apply(batch)
    assert torch.equal(image, plain(batch[0]))
    assert torch.equal(mask, batch[1].long())
    assert make().reach((20, 24)) == (20, 24)
    assert not make().moves
    assert not make(mix="cutmix").mixes


@pytest.mark.parametrize(("setting", "axis"), [("hflip", -1), ("vflip", -2)])
def test_a_flip_mirrors_image_and_mask(batch, setting, axis):
    image, mask = apply(batch, **{setting: 1.0})
    torch.testing.assert_close(image, plain(batch[0]).flip(axis), atol=1e-4, rtol=0)
    assert torch.equal(mask, batch[1].long().flip(axis))
    assert make(**{setting: 1.0}).reach((20, 24)) == (20, 24)


def test_an_output_smaller_than_its_window_lies_around_its_centre(batch):
    images, masks, draws = batch
    corners = torch.tensor([[0, 0], [12, 14], [5, 3], [1, 9], [7, 7], [2, 11]])
    centre = corners + torch.tensor([(8 - 1) / 2, (10 - 1) / 2])
    image, mask = make(hflip=1.0)(images, masks, draws, centre, (8, 10), IGNORED)
    for n, (top, left) in enumerate(corners.tolist()):
        here = slice(top, top + 8), slice(left, left + 10)
        torch.testing.assert_close(image[n], plain(images)[n][:, *here].flip(-1), atol=1e-4, rtol=0)
        assert torch.equal(mask[n], masks[n][here].long().flip(-1))


@pytest.mark.parametrize("names", [*[(name,) for name in MOVES], tuple(MOVES)], ids=", ".join)
@pytest.mark.parametrize("axis", [1, 2])
def test_image_and_mask_are_sampled_at_the_same_point(names, axis):
    """In a ramp the value tells the position: the mask's is rounded, the image's is not."""
    shape = (16, 40, 50)
    ramp = torch.arange(shape[axis], dtype=torch.uint8).view([-1 if a == axis else 1 for a in range(3)]).expand(shape)
    draws = torch.rand(16, Augment.num_draws, generator=torch.Generator().manual_seed(6))
    image, mask = apply((ramp[..., None], ramp, draws), **{name: MOVES[name] for name in names})
    scored = mask != IGNORED
    assert scored.float().mean() > 0.7
    assert (image[:, 0] * 255 - mask)[scored].abs().max() < 0.501


def test_moves_are_mirror_then_shear_then_turn_then_scale():
    rows, columns = torch.meshgrid(torch.arange(61), torch.arange(81), indexing="ij")
    draws = torch.rand(32, Augment.num_draws, generator=torch.Generator().manual_seed(7))
    augment, centre = make(**MOVES), torch.tensor([30.0, 40.0]).expand(32, 2)
    found = []
    for position in (columns, rows):
        image = position.to(torch.uint8).expand(32, -1, -1)[..., None]
        found.append(augment(image, image[..., 0], draws, centre, (11, 15), IGNORED)[0] * 255)
    for n, u in enumerate((2 * draws - 1).double()):
        angle, lean = (torch.deg2rad(limit * u[draw]) for limit, draw in ((25.0, Draw.ROTATE), (12.0, Draw.SHEAR)))
        turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
        shear = torch.tensor([[1, lean.tan()], [0, 1]])
        mirror = torch.diag(torch.tensor([-1.0 if u[draw] < 0 else 1.0 for draw in (Draw.HFLIP, Draw.VFLIP)]))
        matrix = turn @ shear @ mirror.double() / 1.4 ** u[Draw.ZOOM]
        offset = torch.stack([columns[:11, :15] - 7, rows[:11, :15] - 5]).double()
        shift = torch.stack([15 * 0.1 * u[Draw.SHIFT_X], 11 * 0.1 * u[Draw.SHIFT_Y]])
        expected = torch.einsum("ij,jyx->iyx", matrix, offset) + (shift + torch.tensor([40, 30]))[:, None, None]
        torch.testing.assert_close(torch.stack([f[n, 0] for f in found]).double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*MOVES, *VALUES])
def test_image_and_mask_stay_aligned(name, channels):
    batch = blocks(channels=channels)
    image, mask = apply(batch, **{name: {**MOVES, **VALUES}[name]})
    assert agreement(image, mask) > 0.99
    if channels == 3 or name not in ("saturation", "hue"):
        assert not torch.equal(image, plain(batch[0]))
    assert torch.equal(mask, batch[1].long()) == (name not in (*MOVES, "cutout"))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_and_mask_stay_aligned_through_everything(channels):
    image, mask = apply(blocks(channels=channels), **MOVES, **VALUES)
    assert agreement(image, mask) > 0.99
    assert 0.4 < (mask != IGNORED).float().mean() < 1


@pytest.mark.parametrize("name", [*VALUES])
def test_intensity_stays_in_range_and_leaves_the_mask_alone(batch, name):
    most = {"brightness": 1.0, "contrast": 5.0, "saturation": 5.0, "hue": 0.5, "gamma": 3.0, "noise": 1.0, "blur": 3.0}
    image, mask = apply(batch, **{name: most.get(name, 1.0)})
    assert image.min() >= 0
    assert image.max() <= 1
    hole = mask == IGNORED
    assert torch.equal(mask[~hole], batch[1].long()[~hole])
    assert hole.any() == (name == "cutout")
    assert torch.equal(hole, (image == 0.5).all(dim=1))


def test_grey_images_have_no_colour():
    batch = blocks(channels=1)
    image, _ = apply(batch, saturation=3.0, hue=0.5)
    assert torch.equal(image, plain(batch[0]))


def test_intensity_follows_its_formulas(batch):
    images, _, draws = batch
    half = torch.full_like(draws, 0.75)  # half of the way to the upper limit
    image, _ = apply((images, batch[1], half), brightness=0.4)
    torch.testing.assert_close(image, (plain(images) + 0.2).clamp(0, 1))
    image, _ = apply((images, batch[1], half), gamma=4.0)
    torch.testing.assert_close(image, plain(images) ** 2)
    image, _ = apply((images, batch[1], half), contrast=4.0)
    level = plain(images).mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(image, ((plain(images) - level) * 2 + level).clamp(0, 1), atol=1e-4, rtol=0)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    image, _ = apply(((images // 4) + 96, batch[1], half), saturation=1.5, hue=0.1)  # too weak to leave 0..1
    before = (plain(images // 4 + 96) * weights).sum(dim=1)
    torch.testing.assert_close((image * weights).sum(dim=1), before, atol=1e-4, rtol=0)  # grey is kept


def test_blur_is_a_gaussian():
    images = torch.zeros(1, 25, 25, 1, dtype=torch.uint8)
    images[0, 12, 12] = 255
    draws = torch.full((1, Augment.num_draws), 0.75)
    image, _ = apply((images, torch.zeros(1, 25, 25, dtype=torch.uint8), draws), blur=2.0)
    offset = torch.arange(25) - 12.0
    profile = torch.exp(-(offset**2) / (2 * 1.5**2)) * (offset.abs() <= 4)
    profile /= profile.sum()
    torch.testing.assert_close(image[0, 0], profile[:, None] * profile, atol=1e-5, rtol=0)
    constant, _ = apply((images * 0 + 100, images[..., 0], draws), blur=2.0)
    torch.testing.assert_close(constant, torch.full_like(constant, 100 / 255))


def test_noise_is_white_and_follows_from_the_draws_alone():
    images = torch.full((4, 96, 128, 3), 128, dtype=torch.uint8)
    masks = torch.zeros(4, 96, 128, dtype=torch.uint8)
    draws = torch.rand(4, Augment.num_draws, generator=torch.Generator().manual_seed(1))
    draws[:, Draw.NOISE] = 0.5
    draws[3] = draws[2]
    torch.manual_seed(0)
    image, _ = apply((images, masks, draws), noise=0.2)
    torch.manual_seed(1)
    assert torch.equal(image, apply((images, masks, draws), noise=0.2)[0])
    assert torch.equal(image[2], image[3])
    noise = (image - 128 / 255) / 0.1
    deviation, mean = torch.std_mean(noise, dim=(1, 2, 3))
    assert (mean.abs() < 0.03).all()
    assert ((deviation - 1).abs() < 0.03).all()
    # Neighbours, channels and images have nothing in common: five standard errors of the mean of 36864 products.
    limit = 5 / 36864**0.5
    assert (noise[..., 1:] * noise[..., :-1]).mean(dim=(1, 2, 3)).abs().max() < limit
    assert (noise[..., 1:, :] * noise[..., :-1, :]).mean(dim=(1, 2, 3)).abs().max() < limit
    assert (noise[:, 1:] * noise[:, :-1]).mean(dim=(1, 2, 3)).abs().max() < 2 * limit
    assert (noise[0] * noise[1]).mean().abs() < limit


def test_cutout_covers_what_it_draws():
    batch = blocks(num=64, size=32)
    _, mask = apply(batch, cutout=0.5)
    # Sides are half of 0.5 on average, and an edge cuts off a little less than a quarter of that.
    assert 0.03 < (mask == IGNORED).float().mean() < 0.0625


def test_what_comes_from_outside_is_ignored():
    images = torch.full((4, 16, 16, 1), 200, dtype=torch.uint8)
    masks = torch.ones(4, 16, 16, dtype=torch.uint8)
    image, mask = apply((images, masks, torch.zeros(4, Augment.num_draws)), shift=0.5)  # by -0.5 of each side
    assert (mask == IGNORED).float().mean() == pytest.approx(0.75)
    assert image.min() == pytest.approx(200 / 255, abs=1e-5)  # mirrored, not black


def test_an_ignored_class_may_have_any_number(batch):
    images, masks, draws = batch
    moved, expected = (
        make(**MOVES)(images, masks, draws, middle(images), (20, 24), ignore_index)[1] for ignore_index in (2, IGNORED)
    )
    assert torch.equal(moved, expected.masked_fill(expected == IGNORED, 2))


EXTREMES = [
    {name: MOVES[name] for name in names}
    for names in (("rotate",), ("zoom",), ("shift",), ("shear",), ("rotate", "shear"), tuple(MOVES))
] + [{"rotate": 180.0}, {"rotate": 90.0, "shear": 40.0, "zoom": 2.0, "shift": 0.5}]


@pytest.mark.parametrize("settings", EXTREMES, ids=str)
@pytest.mark.parametrize("out", [(12, 12), (9, 22), (31, 8)])
def test_the_window_of_reach_suffices(settings, out):
    augment = make(**settings)
    columns = [Draw.HFLIP, Draw.ROTATE, Draw.ZOOM, Draw.SHEAR, Draw.SHIFT_Y, Draw.SHIFT_X]
    extremes = torch.tensor(list(itertools.product((0.0, 0.5, ALMOST_ONE), repeat=len(columns))))
    draws = torch.rand(len(extremes) + 200, Augment.num_draws, generator=torch.Generator().manual_seed(2))
    draws[: len(extremes), columns] = extremes
    size = augment.reach(out)
    height, width = size[0] + 8, size[1] + 8
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (1, height, width, 1), generator=generator, dtype=torch.uint8)
    images = images.expand(len(draws), -1, -1, -1)
    # Masks that tell where a pixel comes from: at a tie between two neighbours either may win, by a rounding error.
    rows, columns = torch.arange(height, dtype=torch.uint8)[:, None], torch.arange(width, dtype=torch.uint8)
    for position in (rows, columns):
        masks = position.expand(len(draws), height, width)
        large, large_mask = run(augment, (images, masks, draws), out)
        small, small_mask = run(augment, (images[:, 4:-4, 4:-4], masks[:, 4:-4, 4:-4], draws), out)
        torch.testing.assert_close(small, large, atol=1e-4, rtol=0)
        assert (small_mask != IGNORED).all()
        assert ((small_mask - large_mask).abs() <= 1).all()
    assert [(a - b) % 2 for a, b in zip(size, out, strict=True)] == [0, 0]


def test_reach_is_no_larger_than_needed():
    assert make(zoom=1.5).reach((21, 41)) == (31, 61)
    assert make(shift=0.25).reach((20, 40)) == (30, 60)
    assert make(rotate=90.0).reach((21, 41)) == (47, 47)  # the diagonal of 20 x 40 pixels is 44.7 long
    assert make(shear=45.0).reach((21, 41)) == (21, 61)


def test_every_option_keeps_shapes_and_ranges(option, batch):
    out = (20, 24) if not option.moves else (12, 12)
    image, mask = run(option, batch, out)
    assert image.shape == (6, 3, *out)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert mask.dtype == torch.int64
    assert set(mask.unique().tolist()) <= {0, 1, 2, 3, IGNORED}


# 37: more than a vector of the CPU and a rest, which some functions compute in another way.
@pytest.mark.parametrize(("num", "channels", "size"), [(5, 3, 60), (37, 1, 28), (3, 3, 220)])
def test_an_image_is_augmented_alone_as_in_a_batch(option, num, channels, size):
    images, masks, draws = blocks(num=num, channels=channels, size=size)
    partners = run(option, (images.flip(0), masks.flip(0), draws.flip(1)))
    image, mask = together = run(option, (images, masks, draws))
    mixed = mix(option, together, partners, draws)
    for n in range(num):
        row = slice(n, n + 1)
        alone = run(option, (images[row], masks[row], draws[row]))
        assert torch.equal(alone[0][0], image[n])
        assert torch.equal(alone[1][0], mask[n])
        alone = mix(option, alone, (partners[0][row], partners[1][row]), draws[row])
        assert torch.equal(alone[0][0], mixed[0][n])
        assert torch.equal(alone[1][0], mixed[1][n])


def test_an_image_with_every_operation_is_augmented_alone_as_in_a_batch(batch):
    images, masks, draws = batch
    image, mask = apply(batch, **MOVES, **VALUES)
    for row in (slice(0, 1), slice(2, 5)):
        alone = apply((images[row], masks[row], draws[row]), **MOVES, **VALUES)
        assert torch.equal(alone[0], image[row])
        assert torch.equal(alone[1], mask[row])


@pytest.mark.parametrize("name", [*MOVES, *VALUES])
def test_an_operation_reads_columns_of_its_own(name, batch):
    images, masks, draws = batch
    own = torch.tensor([draw.name.lower().startswith(name) for draw in Draw])
    settings = {name: {**MOVES, **VALUES}[name]}
    before = apply(batch, **settings)
    others_change, own_changes = torch.where(own, draws, 1 - draws), torch.where(own, 1 - draws, draws)
    assert all(map(torch.equal, before, apply((images, masks, others_change), **settings)))
    assert not torch.equal(before[0], apply((images, masks, own_changes), **settings)[0])
    assert len(Draw) == Augment.num_draws


@pytest.mark.parametrize("kind", MIXES)
def test_mixing_takes_image_and_mask_from_the_same_place(kind):
    one, other = blocks(num=32, seed=1), blocks(num=32, seed=2)
    augment = make(**MOVES, mix=kind, mix_probability=0.6)
    assert augment.mixes
    first, second = run(augment, one), run(augment, other)
    image, mask = mix(augment, first, second, one[2])
    is_mixed = augment.is_mixed(one[2])
    assert 0 < is_mixed.sum() < 32
    from_own = (image == first[0]).all(dim=1) & (mask == first[1])
    from_partner = (image == second[0]).all(dim=1) & (mask == second[1])
    assert (from_own | from_partner).all()
    assert from_own[~is_mixed].all()
    changed = ~from_own.flatten(1).all(dim=1)
    assert changed.sum() > 0.7 * is_mixed.sum()
    assert agreement(image, mask) > 0.99


@pytest.mark.parametrize("kind", MIXES)
@pytest.mark.parametrize("values", [False, True])
def test_everything_and_mixing_stay_aligned(kind, values):
    # The same intensities for both, so that a class keeps one colour: equal draws, and no contrast, which is relative
    # to the image's own mean.
    settings = {**MOVES, **(VALUES if values else {}), "contrast": 1.0, "mix": kind, "mix_probability": 1.0}
    augment = make(**settings)
    one, other = blocks(num=8, seed=1), blocks(num=8, seed=2)
    same = slice(Draw.BRIGHTNESS, Draw.GAMMA + 1)
    other[2][:, same] = one[2][:, same]
    assert agreement(*mix(augment, run(augment, one), run(augment, other), one[2])) > 0.99


def test_cutmix_pastes_one_rectangle_of_the_share_that_was_drawn():
    draws = torch.rand(200, Augment.num_draws, generator=torch.Generator().manual_seed(4))
    shape = (200, 40, 30)
    one = torch.zeros(200, 1, 40, 30), torch.zeros(shape, dtype=torch.int64)
    other = torch.ones(200, 1, 40, 30), torch.ones(shape, dtype=torch.int64)
    _, mask = mix(make(mix="cutmix", mix_probability=1.0), one, other, draws)
    rows, columns = mask.amax(dim=2), mask.amax(dim=1)
    assert torch.equal(mask, rows[:, :, None] * columns[:, None, :])
    assert (rows.diff(dim=1).abs().sum(dim=1) <= 2).all()
    share = mask.float().mean(dim=(1, 2))
    assert (share - draws[:, Draw.MIX_AREA]).abs().max() < 0.05
    assert (mask.float().mean(dim=0) > 0).all()  # every place can be covered


def test_classmix_pastes_half_of_the_classes_and_nothing_ignored():
    num = 300
    draws = torch.rand(num, Augment.num_draws, generator=torch.Generator().manual_seed(4))
    mask = torch.arange(6).repeat_interleave(4).view(1, 4, 6).expand(num, -1, -1).clone()  # 0..5 in rows of four
    mask[mask == 5] = IGNORED
    one = torch.zeros(num, 3, 4, 6), torch.full_like(mask, 7)
    _, mixed = mix(make(mix="classmix", mix_probability=1.0), one, (torch.ones(num, 3, 4, 6), mask), draws)
    counts = torch.stack([(mixed == k).any(dim=2).any(dim=1) for k in range(5)], dim=1)
    assert (counts.sum(dim=1) == 2).all()  # half of five, rounded down
    assert ((counts.float().mean(dim=0) - 0.4).abs() < 0.1).all()  # each class as often as any other
    assert not (mixed == IGNORED).any()
    only = torch.full_like(mask, 3), torch.full_like(mask, IGNORED)
    for masks in only:  # one class, or nothing known: there is no half to paste
        unchanged = mix(make(mix="classmix", mix_probability=1.0), one, (torch.ones(num, 3, 4, 6), masks), draws)
        assert torch.equal(unchanged[1], one[1])


def test_copy_paste_pastes_rare_classes_only(batch):
    _, masks, draws = batch
    mask = masks.long()
    mask[:, :5] = IGNORED
    shape = (6, 3, 20, 24)
    one, other = (torch.zeros(shape), torch.full_like(mask, 1)), (torch.ones(shape), mask)
    augment = make(mix="copy_paste", mix_probability=1.0)
    image, mixed = mix(augment, one, other, draws, is_rare=(False, False, True, False))
    assert torch.equal(mixed, torch.where(mask == 2, 2, 1))
    assert torch.equal(image[:, 0] == 1, mask == 2)
    _, mixed = augment.mix_in(*one, *other, draws, torch.tensor([True] * 4), 2)  # even if it is called rare
    assert not (mixed == 2).any()


@pytest.mark.parametrize("kind", MIXES)
def test_nothing_waits_for_the_device(kind):
    """Tensors without data have shapes only: what reads a value or lets one decide a shape fails on them."""
    augment = make(**MOVES, **VALUES, mix=kind, mix_probability=0.5)
    with torch.device("meta"):
        images, masks = torch.empty(2, 30, 30, 3, dtype=torch.uint8), torch.empty(2, 30, 30, dtype=torch.uint8)
        draws, centre = torch.empty(2, Augment.num_draws), torch.empty(2, 2)
        image, mask = augment(images, masks, draws, centre, (20, 20), IGNORED)
        image, mask = augment.mix_in(image, mask, image, mask, draws, torch.empty(4, dtype=torch.bool), IGNORED)
    assert image.shape == (2, 3, 20, 20)
    assert mask.shape == (2, 20, 20)


def test_defaults_live_in_the_config_alone():
    parameters = inspect.signature(Augment).parameters
    assert set(parameters) == set(OFF)
    assert all(p.default is inspect.Parameter.empty for p in parameters.values())

"""Explanations of models whose answers are known: linear, quadratic, far-sighted, overconfident."""

import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from segsweep.explain import calibration, target
from segsweep.explain.attribution import (
    RegionScore,
    baseline_of,
    grad_cam,
    integrated_gradients,
    num_patches,
    occlusion,
    patches,
)
from segsweep.explain.extent import theoretical_extent
from segsweep.explain.field import Field, effective_field
from segsweep.explain.images import prepared, read_samples
from segsweep.explain.layers import choose_layer, maps_of
from segsweep.explain.masks import with_masks
from segsweep.explain.sanity import randomised, rank_correlation
from segsweep.explain.uncertainty import dropout_doubt, ensemble_doubt, has_dropout, probabilities
from segsweep.images.inputs import find_inputs
from segsweep.images.reading import Reading
from segsweep.models.renet import ReNet
from segsweep.models.unet import UNet
from segsweep.run import ConfigError
from segsweep.types import DataSpec, SegmenterOutput

pytest.importorskip("captum")
SPEC = DataSpec(("background", "cell", "edge"), 1, 255, (0.5,), (0.25,), (8, 10))


class Segmenter(nn.Module):
    """Image -> logits by any function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image):
        return SegmenterOutput(self.function(image))


def region(shape, rows, columns):
    inside = np.zeros(shape, bool)
    inside[rows, columns] = True
    return inside


def convolutions(num, channels=1, kernel=3):
    layers = [nn.Conv2d(channels, channels, kernel, padding=kernel // 2) for _ in range(num)]
    for layer in layers:
        nn.init.constant_(layer.weight, 0.1)
    return Segmenter(nn.Sequential(*layers)).eval()


class RowSweep(nn.Module):
    """A GRU along each row and nothing else."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(1, 2, batch_first=True, bidirectional=True)

    def forward(self, image):
        num, _, height, width = image.shape
        out, _ = self.gru(image.reshape(num * height, width, 1))
        return SegmenterOutput(out.reshape(num, height, width, 4).permute(0, 3, 1, 2))


def test_integrated_gradients_of_a_linear_segmenter_are_weight_times_value():
    image = torch.randn(1, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1)
    inside = region((6, 7), slice(1, 3), slice(2, 5))
    score = RegionScore(Segmenter(lambda x: x * weight), 1, inside)
    found = integrated_gradients(score, image, torch.zeros_like(image), 5)
    expected = np.where(inside, -2.0 * image[0, 0].numpy() / 6, 0.0)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert found.gap < 1e-5


def test_integrated_gradients_are_integrated():
    # Gradient times input would be 2 x^2; the way from the baseline gives x^2 - b^2.
    image, baseline = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 1.0)
    inside = np.ones((2, 2), bool)
    score = RegionScore(Segmenter(lambda x: torch.cat([x, x**2], dim=1)), 1, inside)
    found = integrated_gradients(score, image, baseline, 64)
    np.testing.assert_allclose(found.values, np.full((2, 2), 8 / 4), rtol=1e-4)
    assert found.total == pytest.approx(8, rel=1e-4)
    assert found.difference == pytest.approx(8, rel=1e-6)


def test_an_incomplete_sum_is_seen():
    # One step across a kink misses it.
    image = torch.full((1, 1, 1, 2), 1.0)
    score = RegionScore(Segmenter(lambda x: (x - 0.9).relu().repeat(1, 2, 1, 1)), 1, np.ones((1, 2), bool))
    assert integrated_gradients(score, image, torch.zeros_like(image), 2).gap > 0.5
    assert integrated_gradients(score, image, torch.zeros_like(image), 200).gap < 0.1


class Bright(nn.Module):
    """One channel for what is bright, one for what is dark; class 1 is bright, class 2 dark."""

    def __init__(self):
        super().__init__()
        conv = nn.Conv2d(1, 2, 1, bias=False)
        conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.encoder = nn.Sequential(conv, nn.ReLU(), nn.AvgPool2d(2))
        self.head = nn.Conv2d(2, 3, 1, bias=False)
        self.head.weight.data = torch.tensor([[0.0, 0.0], [1.0, -1.0], [-1.0, 1.0]]).view(3, 2, 1, 1)

    def forward(self, image):
        small = self.head(self.encoder(image))
        return SegmenterOutput(nn.functional.interpolate(small, image.shape[-2:], mode="nearest"))


def test_grad_cam_shows_what_speaks_for_the_class():
    image = torch.zeros(1, 1, 8, 8)
    image[..., :4, :4], image[..., 4:, 4:] = 1.0, -1.0
    model = Bright().eval()
    layer = choose_layer(model, image, None)
    assert layer == "encoder.2"
    everywhere = np.ones((8, 8), bool)
    bright, dark = (grad_cam(RegionScore(model, k, everywhere), image, layer).values for k in (1, 2))
    assert np.unravel_index(bright.argmax(), bright.shape)[0] < 4
    assert bright[:3, :3].min() > 0
    assert bright[5:, 5:].max() == 0
    assert dark[5:, 5:].min() > 0
    assert dark[:3, :3].max() == 0


def test_a_layer_is_chosen_by_name_or_refused_with_the_nearest():
    model, image = Bright().eval(), torch.zeros(1, 1, 8, 8)
    assert choose_layer(model, image, "head") == "head"
    with pytest.raises(ConfigError, match=r"--layer hed: .* Did you mean 'head'"):
        choose_layer(model, image, "hed")
    renet = ReNet(1, 3, 2, 1, 4, "gru", "on").eval()
    with pytest.raises(ConfigError, match=r"ReNet has no convolutional encoder.*sweeps\.0 \(8x4x4\)"):
        choose_layer(renet, image, None)


def test_the_last_map_of_an_encoder_is_the_coarsest():
    model, image = UNet(1, 3, (4, 8, 8)).eval(), torch.zeros(1, 1, 16, 16)
    assert choose_layer(model, image, None) == "encoder.levels.2"
    assert maps_of(model, image)["encoder.levels.2"] == (8, 4, 4)


def test_occlusion_finds_the_only_block_that_matters():
    image = torch.ones(1, 1, 12, 16)
    inside = region((12, 16), slice(8, 12), slice(12, 16))  # far from what it is decided by

    def decide(x):
        cause = x[..., 2:4, 4:6].mean(dim=(1, 2, 3)).view(-1, 1, 1, 1)
        return torch.cat([torch.zeros_like(x), cause.expand_as(x)], dim=1)

    found = occlusion(RegionScore(Segmenter(decide), 1, inside), image, torch.zeros_like(image), 2, 2).values
    expected = np.zeros((12, 16), np.float32)
    expected[2:4, 4:6] = 1.0
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (48, 48), (180, 240), (720, 960)])
def test_occlusion_takes_four_hundred_places_at_most(size):
    patch, stride = patches(size, None, None)
    assert patch == 2 * stride
    assert num_patches(size, patch, stride) <= 441


def test_patches_that_leave_gaps_are_refused():
    assert patches((48, 48), 8, None) == (8, 4)
    for patch, stride in ((4, 5), (4, 0), (0, None), (4, -1)):
        with pytest.raises(ConfigError, match="--stride"):
            patches((48, 48), patch, stride)


def test_baselines_are_colours_of_images():
    image = torch.zeros(1, 1, 2, 2)
    assert baseline_of("mean", image, SPEC).unique().tolist() == [0.0]
    assert baseline_of("black", image, SPEC).unique().tolist() == [-2.0]
    assert baseline_of("white", image, SPEC).unique().tolist() == [2.0]


def test_random_weights_have_the_same_values_in_another_order():
    model = UNet(1, 3, (4, 8))
    other = randomised(model)
    before, after = model.state_dict(), other.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert "encoder.levels.0.0.weight" in changed
    for name in changed:
        assert torch.equal(before[name].flatten().sort().values, after[name].flatten().sort().values)
    rising = np.arange(12.0).reshape(3, 4)
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(1)  # sizes, not signs
    assert rank_correlation(rising, rising[::-1, ::-1]) == pytest.approx(-1)
    assert rank_correlation(rising, np.ones((3, 4))) is None


@pytest.mark.parametrize("num", [1, 2, 4])
def test_convolutions_see_two_pixels_more_each(num):
    model = convolutions(num)
    side = 2 * num + 1
    assert theoretical_extent(model, 1, (16, 20))[:2] == (side, side)
    found, point, views = effective_field(model, [torch.randn(1, 1, 16, 20)])
    assert (point, views) == ((8, 10), 16)
    seen = found > 0
    assert seen[8 - num : 9 + num, 10 - num : 11 + num].all()
    assert seen.sum() == side**2
    assert found.sum() == pytest.approx(1)


def test_the_square_that_holds_a_share():
    field = Field("a", "cnn", np.full((9, 9), 1 / 81), (4, 4), 1, 1, theoretical_extent(convolutions(1), 1, (9, 9)))
    assert [field.side(share) for share in (0.01, 0.5, 0.9, 1.0)] == [1, 7, 9, 9]
    assert field.reach() == pytest.approx([1 / 81, 9 / 81, 25 / 81, 49 / 81, 1])


def test_a_small_canvas_grows_until_the_ends_are_found():
    found = theoretical_extent(convolutions(6, kernel=5), 1, (8, 8))
    assert found[:2] == (25, 25)
    assert found.canvas[0] > 8


def test_a_sweep_along_rows_spans_its_row_and_no_other():
    model = RowSweep().eval()
    found, _, _ = effective_field(model, [torch.randn(1, 1, 7, 24)])
    assert (found[3] > 0).all()
    assert found[[0, 1, 2, 4, 5, 6]].max() == 0
    extent = theoretical_extent(model, 1, (7, 24))
    assert (extent.height, extent.width) == (1, None)
    assert extent.canvas[1] == 384


def test_recurrence_is_what_lets_a_sweep_see():
    found = [theoretical_extent(ReNet(1, 3, 2, 1, 4, "gru", each).eval(), 1, (12, 12)) for each in ("on", "off")]
    assert found[0][:2] == (None, None)
    assert found[1][:2] == (2, 2)


def test_a_model_for_one_size_sees_all_of_it():
    class Dense(nn.Module):
        def forward(self, image):
            if image.shape[-2:] != (8, 8):
                raise ValueError("one size")
            return SegmenterOutput(image.mean(dim=(2, 3), keepdim=True).expand(-1, 2, 8, 8))

    assert theoretical_extent(Dense(), 1, (8, 8)) == (None, None, (8, 8))


def test_a_point_is_looked_at_in_the_images_as_they_are():
    image = torch.randn(1, 1, 9, 9)
    found, point, views = effective_field(convolutions(1), [image], (2, 5))
    assert (point, views) == ((2, 5), 1)
    assert set(zip(*np.nonzero(found), strict=True)) == {(r, c) for r in (1, 2, 3) for c in (4, 5, 6)}


def test_the_most_frequent_class_but_the_first_is_explained():
    prediction = np.zeros((4, 6), int)
    prediction[0, :2], prediction[2:, 3:] = 1, 2
    found = target.class_target(prediction, SPEC, None)
    assert (found.number, found.name, found.about) == (2, "edge", "the 6 pixels predicted as it")
    assert target.class_target(prediction, SPEC, "cell").region.sum() == 2
    assert target.class_target(np.zeros((2, 2), int), SPEC, None).number == 0
    absent = target.class_target(prediction * 0, SPEC, "cell")
    assert absent.region.all()
    assert "nowhere predicted" in absent.about
    with pytest.raises(ConfigError, match=r"--class cel: .* Did you mean 'cell'"):
        target.class_target(prediction, SPEC, "cel")


def test_a_point_chooses_the_region_around_it_in_the_images_own_pixels():
    prediction = np.zeros((4, 6), int)
    prediction[0, :2], prediction[2:, 3:] = 1, 1
    found = target.point_target(prediction, SPEC, (30, 50), (40, 60), "a.png")  # ten times as large
    assert found.number == 1
    assert found.region.sum() == 6
    assert not found.region[0].any()
    assert target.point_target(prediction, SPEC, (25, 10), (40, 60), "a.png").number == 0
    for point in ((40, 0), (0, 60), (-1, 0)):
        with pytest.raises(ConfigError, match=r"outside of a\.png: rows are 0\.\.39, columns 0\.\.59"):
            target.point_target(prediction, SPEC, point, (40, 60), "a.png")


def test_seeds_that_disagree_have_mutual_information():
    first, second = (Segmenter(lambda x, s=s: torch.cat([s * 9 + 0 * x, 0 * x], dim=1)) for s in (1, -1))
    image = torch.zeros(1, 1, 2, 2)
    alike, apart = ensemble_doubt([first, first], image), ensemble_doubt([first, second], image)
    assert alike.mutual.max() == pytest.approx(0, abs=1e-6)
    assert alike.entropy.max() < 0.01
    assert apart.mutual.min() > 0.98
    assert apart.entropy.min() > 0.999


def test_dropout_is_switched_on_alone():
    torch.manual_seed(0)
    model = Segmenter(nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))).eval()
    image = torch.randn(1, 1, 4, 4)
    assert has_dropout(model)
    assert not has_dropout(UNet(1, 3, (4, 8)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, again = (dropout_doubt(model, image, 10) for _ in range(2))
    assert (first.mutual > 1e-3).all()
    np.testing.assert_array_equal(first.mutual, again.mutual)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # no batch statistics
    assert torch.equal(probabilities(model, image), probabilities(model, image))


def test_calibration_of_a_predictor_that_is_known():
    confidence = torch.tensor([0.8, 0.2]).log().view(1, 2, 1, 1).expand(1, 2, 4, 5)
    mask = torch.zeros(1, 4, 5, dtype=torch.int64)
    mask[0, :2, :4], mask[0, 3, 0] = 1, 255  # 8 of 19 are wrong
    found = calibration.Calibration("known", calibration.count(confidence, mask, 255), 1)
    assert found.counts.sum(axis=0)[0] == 19
    assert found.error == pytest.approx(0.8 - 11 / 19, abs=1e-6)
    assert found.overconfidence == pytest.approx(0.8 - 11 / 19, abs=1e-6)


def write_counts(folder, data):
    folder.mkdir(exist_ok=True)
    (folder / calibration.FILE).write_bytes(data)
    return folder


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def test_the_counts_of_a_test_split_are_read(tmp_path):
    counts = np.zeros((3, 15, 3))
    counts[0, 13], counts[2, 7] = (10, 9.0, 7), (5, 2.5, 2.5)
    found = calibration.of_test_split(write_counts(tmp_path, npz(calibration=counts)))
    assert found.error == pytest.approx(2 / 15)
    assert found.num_images == 3
    for said in (calibration.of_test_split(tmp_path / "none"),
                 calibration.of_test_split(write_counts(tmp_path, npz(confusion=np.zeros(1)))),
                 calibration.of_test_split(write_counts(tmp_path, npz(calibration=counts * 0)))):  # fmt: skip
        assert said.startswith("calibration is left out")


def hostile_counts():
    """What a stranger may have written in place of counts."""
    good = npz(calibration=np.ones((2, 15, 3)))
    pickled = io.BytesIO()
    np.save(pickled, np.array([print], dtype=object), allow_pickle=True)
    vast = io.BytesIO()
    np.lib.format.write_array_header_1_0(vast, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 15, 3)})

    def archive(content):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
            target.writestr("calibration.npy", content)
        return file.getvalue()

    return {
        "cut": good[:200], "empty": b"", "text": b"hello", "pickle": archive(pickled.getvalue()),
        "vast": archive(vast.getvalue()), "shape": npz(calibration=np.ones((2, 15))),
        "nan": npz(calibration=np.full((2, 15, 3), np.nan)), "negative": npz(calibration=-np.ones((2, 15, 3))),
        "integers": npz(calibration=np.ones((2, 15, 3), np.int64)),
        "header": archive(b"\x93NUMPY\x01\x00" + struct.pack("<H", 9) + b"{'a': 1}\n"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(hostile_counts()))
def test_counts_that_are_none_are_refused(tmp_path, kind):
    with pytest.raises(ConfigError, match="is not what a run writes"):
        calibration.of_test_split(write_counts(tmp_path, hostile_counts()[kind]))


def write_png(path, pixels):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


READING = Reading(SPEC.in_channels)


def read(*named, spec=SPEC, reading=READING):
    inputs, lines = find_inputs([str(path) for path in named])
    assert not lines
    return read_samples(inputs, spec, "stretch", reading)


def test_images_are_read_as_in_training(tmp_path):
    pixels = np.arange(80).reshape(8, 10)
    write_png(tmp_path / "a" / "x.png", pixels)
    write_png(tmp_path / "b" / "x.png", pixels)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    first, second = read(tmp_path / "a", tmp_path / "b" / "*.png", tmp_path / "a" / "x.png")
    assert (first.name, second.name, first.native) == ("x", "x-2", (8, 10))
    torch.testing.assert_close(first.image[0, 0], (torch.from_numpy(pixels) / 255 - 0.5) / 0.25, check_dtype=False)
    tall = np.zeros((40, 10, 1), np.uint8)
    assert prepared(tall, SPEC, "stretch").shape[-2:] == (8, 10)
    assert prepared(tall, SPEC, "pad").shape[-2:] == (8, 2)


def test_each_page_of_a_file_is_an_image(tmp_path):
    stack = np.arange(3 * 80, dtype=np.uint8).reshape(3, 8, 10)
    np.save(tmp_path / "x.npy", stack)
    samples = read(tmp_path / "x.npy")
    assert [(sample.name, sample.page) for sample in samples] == [("x_p0", 0), ("x_p1", 1), ("x_p2", 2)]
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks" / "x.npy", stack % 3)
    found = with_masks(samples, tmp_path / "masks", SPEC, {}, READING)
    assert all((sample.mask == stack[i] % 3).all() for i, sample in enumerate(found))
    np.save(tmp_path / "masks" / "x.npy", stack[:2] % 3)
    with pytest.raises(ValueError, match=r"has no page 2, only 2 .*as many pages as its image x\.npy"):
        with_masks(samples, tmp_path / "masks", SPEC, {}, READING)


def test_what_is_too_large_for_one_piece_is_refused(tmp_path, monkeypatch):
    path = write_png(tmp_path / "x.png", np.zeros((8, 10)))
    monkeypatch.setattr("segsweep.explain.images._MOST_VALUES", 79)
    with pytest.raises(ConfigError, match=r"with the 0 images before it, more than is held in memory"):
        read(path)
    monkeypatch.setattr("segsweep.explain.images.MOST_PIXELS", 79)
    with pytest.raises(ConfigError, match=r"10x8 = 80 pixels .* more than 79 are not explained in one piece\. Crop"):
        read(path)


def test_two_images_do_not_share_a_mask(tmp_path):
    samples = read(*(write_png(tmp_path / folder / "x.png", np.zeros((8, 10))) for folder in "ab"))
    write_png(tmp_path / "masks" / "x.png", np.zeros((8, 10)))
    with pytest.raises(ConfigError, match=r"masks/x\.png would be the mask of both .*a/x\.png and .*b/x\.png"):
        with_masks(samples, tmp_path / "masks", SPEC, {}, READING)


def test_masks_are_no_larger_than_images_may_be(tmp_path):
    (sample,) = read(write_png(tmp_path / "x.png", np.zeros((8, 10))))
    write_png(tmp_path / "masks" / "x.png", np.zeros((80, 10)))
    with pytest.raises(ValueError, match=r"limit is 799\. Raise --max-pixels"):
        with_masks([sample], tmp_path / "masks", SPEC, {}, Reading(SPEC.in_channels, max_pixels=799))


@pytest.mark.parametrize("node", [{"label_map": {"x": 0}}, {"label_map": {"0": 1.5}}, {"palette": {"red": []}}])
def test_a_convention_that_is_none_is_refused_in_a_line(tmp_path, node):
    (sample,) = read(write_png(tmp_path / "x.png", np.zeros((8, 10))))
    write_png(tmp_path / "masks" / "x.png", np.zeros((8, 10)))
    with pytest.raises(ConfigError, match=r"record\.json: its masks cannot be read"):
        with_masks([sample], tmp_path / "masks", SPEC, node, READING)


def test_masks_belong_to_images_of_their_stem(tmp_path):
    (sample,) = read(write_png(tmp_path / "x.png", np.zeros((8, 10))))

    def counted(node=None):
        samples = with_masks([sample], tmp_path / "masks", SPEC, node or {}, READING)
        return calibration.of_images(samples, score, SPEC.ignore_index)

    def score(image):
        return torch.tensor([9.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, *image.shape[-2:])

    with pytest.raises(ConfigError, match="is not a folder"):
        counted()
    write_png(tmp_path / "masks" / "y.png", np.zeros((8, 10)))
    with pytest.raises(ConfigError, match="no mask has the stem"):
        counted()
    write_png(tmp_path / "masks" / "x.png", np.zeros((4, 10)))
    with pytest.raises(ConfigError, match="Masks are never resized"):
        counted()
    write_png(tmp_path / "masks" / "x.png", np.tile([0, 0, 0, 0, 200], (8, 2)))
    with pytest.raises(ValueError, match=r"200 \(16 px\).* as those that the run has learnt from \(class numbers\)"):
        counted()
    assert counted({"label_map": {"0": "background", "200": "cell"}}).error == pytest.approx(0.2, abs=0.01)
    write_png(tmp_path / "masks" / "x.png", np.full((8, 10), 255))
    with pytest.raises(ConfigError, match="no pixel is labelled"):
        counted()

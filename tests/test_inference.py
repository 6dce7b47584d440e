"""Several models as one, views, tiles and sizes: what the commands that use a finished run share."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segsweep.inference import Ensemble, mean_scores, precision_on, trained_flips
from segsweep.inference.answer import resized_blocks
from segsweep.models.blocks import conv_block
from segsweep.opened import open_finished
from segsweep.opened.data import open_data
from segsweep.run import ConfigError
from segsweep.types import DataSpec, SegmenterOutput
from tests.finished import change, write_finished

SPEC = DataSpec(("a", "b", "c"), 3, 255, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), None)


class Small(nn.Module):
    """Two 3x3 convolutions: a pixel sees two pixels to each side."""

    def __init__(self, seed=0, channels=3, classes=3):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(conv_block(channels, 8, 2), nn.Conv2d(8, classes, 1))

    def forward(self, image):
        return SegmenterOutput(self.layers(image))


def picture(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def scores_of(ensemble, image):
    answer = ensemble.answer(image)
    found = torch.full((answer.num_classes, *answer.size), torch.nan)
    for block in answer.blocks():
        found[(slice(None), *block.place)] = block.scores
    return found


def test_tiles_equal_the_whole_image_away_from_their_borders():
    image = picture(61, 83)
    model = Small()
    whole = scores_of(Ensemble([model], SPEC), image)
    tiled = scores_of(Ensemble([model], SPEC, tile=(24, 24), overlap=0.25), image)
    near = torch.zeros(61, 83, dtype=torch.bool)
    for axis, length in ((0, 61), (1, 83)):
        starts = [round(i * (length - 24) / n) for n in [-(-(length - 24) // 18)] for i in range(n + 1)]
        for border in [*starts[1:], *(start + 24 for start in starts[:-1])]:
            near.index_fill_(axis, torch.arange(border - 2, border + 2), True)
    assert 0.2 < near.float().mean() < 0.6
    torch.testing.assert_close(tiled[:, ~near], whole[:, ~near], atol=1e-5, rtol=1e-5)
    assert (tiled[:, near] - whole[:, near]).abs().max() > 1e-3  # or the test would show nothing


class Blur(nn.Module):
    """Decides by the mean of 21x21 pixels: right for large areas in strong noise, less so where it sees less."""

    def forward(self, image):
        mean = F.conv2d(image, torch.ones(1, 1, 21, 21) / 441, padding=10)
        return SegmenterOutput(torch.cat([-mean, mean], dim=1) * 5)


def test_blended_borders_score_at_least_as_well_as_plain_tiles():
    generator = torch.Generator().manual_seed(0)
    field = F.interpolate(torch.randn(1, 1, 12, 12, generator=generator), (384, 384), mode="bicubic")[0, 0]
    truth = (field > 0).numpy()
    noise = torch.randn(384, 384, generator=generator) * 80
    image = (128 + 30 * field.sign() + noise).clamp(0, 255).byte().numpy()[..., None]
    spec = DataSpec(("a", "b"), 1, 255, (0.5,), (0.2,), None)

    def accuracy(**options):
        return float((Ensemble([Blur()], spec, **options).answer(image).classes() == truth).mean())

    plain, blended, whole = accuracy(tile=(48, 48), overlap=0.0), accuracy(tile=(48, 48), overlap=0.5), accuracy()
    assert plain + 0.005 < blended <= whole + 0.002


def test_a_stream_is_cut_as_its_strips_fit(monkeypatch):
    image = picture(70, 90)
    want = scores_of(Ensemble([Small()], SPEC, tile=(16, 16)), image)
    monkeypatch.setattr("segsweep.tiling._BLOCK", 3 * 90 * 4)
    assert torch.equal(scores_of(Ensemble([Small()], SPEC, tile=(16, 16)), image), want)


def test_images_that_are_too_large_for_one_piece_are_tiled_and_others_not(monkeypatch):
    monkeypatch.setattr("segsweep.inference.ensemble._WHOLE_PIXELS", 1000)
    monkeypatch.setattr("segsweep.inference.ensemble._TILE", 32)
    ensemble = Ensemble([Small()], SPEC)
    assert ensemble.tile_for((20, 50)) is None
    assert ensemble.tile_for((20, 51)) == (32, 32)
    assert Ensemble([Small()], SPEC, tile="never").tile_for((2000, 2000)) is None
    whole = Ensemble([Small()], SPEC, tile="never").answer(picture(60, 80)).classes()
    assert (ensemble.answer(picture(60, 80)).classes() == whole).mean() > 0.95


def test_many_classes_count_towards_what_is_too_large():
    spec = DataSpec(tuple(map(str, range(150))), 3, 255, (0.5,) * 3, (0.2,) * 3, None)
    assert Ensemble([Small()], spec).tile_for((1000, 1000)) == (512, 512)
    assert Ensemble([Small()], SPEC).tile_for((1000, 1000)) is None


def test_an_ensemble_is_the_mean_of_probabilities():
    models = [Small(seed) for seed in range(3)]
    image = torch.randn(2, 3, 20, 24)
    scores = Ensemble(models, SPEC).scores(image)
    with torch.no_grad():
        mean = torch.stack([model(image).logits.softmax(1) for model in models]).mean(0)
    torch.testing.assert_close(scores.softmax(1), mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores.exp(), mean, atol=1e-5, rtol=1e-4)


def test_a_lone_model_gives_its_logits():
    model, image = Small().eval(), torch.randn(2, 3, 20, 24)
    with torch.no_grad():
        want = model(image).logits
    torch.testing.assert_close(Ensemble([model], SPEC).scores(image), want)
    assert not torch.allclose(Ensemble([model], SPEC).scores(image).exp().sum(1), torch.ones(1))


def test_views_are_turned_back():
    """A model that looks at single pixels has the same answer for each, once it lies where it belongs."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 1).requires_grad_(False)
    image = torch.randn(1, 3, 9, 14)
    seen = []

    def model(image):
        seen.append(image)
        return SegmenterOutput(conv(image))

    scores = mean_scores([model], image, flips=("", "h", "v", "hv"))
    torch.testing.assert_close(scores.softmax(1), conv(image).softmax(1))
    assert torch.equal(seen[1], image.flip(3))
    assert torch.equal(seen[2], image.flip(2))
    assert torch.equal(seen[3], image.flip(2, 3))
    smooth = F.interpolate(torch.randn(1, 3, 3, 3), (64, 48), mode="bilinear")
    scores = mean_scores([model], smooth, scales=(0.75, 1.0, 1.25))
    assert [tuple(image.shape[2:]) for image in seen[-3:]] == [(48, 36), (64, 48), (80, 60)]
    torch.testing.assert_close(scores.softmax(1), conv(smooth).softmax(1), atol=0.05, rtol=0.1)


@pytest.mark.parametrize("size", [(33, 50), (7, 130), (401, 333), (1, 1), (66, 25)])
def test_scores_are_resized_by_blocks_as_a_whole(size):
    scores = torch.randn(5, 33, 50)
    whole = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    for at_once in (1, 1 << 30):
        found = torch.full_like(whole, torch.nan)
        for block in resized_blocks(scores, size, at_once):
            found[(slice(None), *block.place)] = block.scores
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
        assert torch.equal(found.argmax(0), whole.argmax(0))


def test_images_of_a_fixed_size_are_answered_at_their_own():
    spec = DataSpec(("a", "b", "c"), 3, 255, (0.4,) * 3, (0.2,) * 3, (32, 40))
    for fit, seen in (("stretch", (32, 40)), ("pad", (32, 27))):
        ensemble = Ensemble([Small()], spec, fit)
        image = picture(71, 60)
        assert ensemble.decoded(image).shape == (*seen, 3)
        answer = ensemble.answer(image)
        assert answer.classes().shape == (71, 60)
        probabilities = answer.probabilities()
        assert probabilities.shape == (3, 71, 60)
        assert probabilities.sum(0) == pytest.approx(np.ones((71, 60)), abs=1e-5)
        assert (probabilities.argmax(0) == answer.classes()).all()
        entropy = -(probabilities * np.log(probabilities)).sum(0) / np.log(3)
        assert answer.entropy() == pytest.approx(entropy, abs=1e-4)
        # In tiles of the decoded image as well.
        tiled = Ensemble([Small()], spec, fit, tile=(16, 16), overlap=0.5).answer(image)
        assert (tiled.classes() == answer.classes()).mean() > 0.9


def test_several_images_are_answered_as_each_alone():
    images = [picture(20, 24, seed) for seed in range(3)]
    ensemble = Ensemble([Small()], SPEC)
    together = ensemble.answers(images, [image.shape[:2] for image in images])
    assert all(
        (one.classes() == ensemble.answer(image).classes()).all() for one, image in zip(together, images, strict=True)
    )
    assert not torch.is_inference_mode_enabled()
    next(iter(together[0].blocks()))
    assert not torch.is_inference_mode_enabled()


def test_an_opened_run_scores_what_its_model_does(tmp_path):
    runs = [open_finished(write_finished(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    batch = next(iter(open_data(runs[0]).test_dataloader()))
    with torch.inference_mode():
        want = [run.model(batch.image).logits for run in runs]
    assert torch.equal(Ensemble.of_runs(runs[:1]).scores(batch.image).argmax(1), want[0].argmax(1))
    mean = torch.stack(want).softmax(2).mean(0)
    torch.testing.assert_close(Ensemble.of_runs(runs).scores(batch.image).exp(), mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("override", "said"),
    [("data.size=[56,56]", r"see images differently \(data.size\)"), ("data.mean=[0.4]", "data.mean")],
)
def test_runs_that_do_not_fit_together_are_refused(tmp_path, override, said):
    runs = [
        open_finished(write_finished(tmp_path / "a")),
        open_finished(write_finished(tmp_path / "b", "unet", override)),
    ]
    with pytest.raises(ConfigError, match=said):
        Ensemble.of_runs(runs)


def test_runs_with_other_classes_are_refused(tmp_path):
    folder = write_finished(tmp_path / "b")
    names = ["background", *"1023456789"]
    change(folder / "record.json", config__data__class_names=names)
    runs = [open_finished(write_finished(tmp_path / "a")), open_finished(folder)]
    with pytest.raises(ConfigError, match="b and a have different classes"):
        Ensemble.of_runs(runs)


def test_equal_weights_are_one_run_whatever_it_is_called(tmp_path):
    first, twin = (open_finished(write_finished(tmp_path / name)) for name in ("a", "b"))
    assert first.weights_sha256 == twin.weights_sha256
    with pytest.raises(ConfigError, match=r"b has the very weights of .*a: .* Leave .*b out$"):
        Ensemble.of_runs([first, twin])


def test_flips_are_those_of_training():
    def record(**augment):
        return {"config": {"augment": augment}}

    assert trained_flips(record(hflip=0.5, vflip=0.5)) == ("", "h", "v", "hv")
    assert trained_flips(record(hflip=0.0, vflip=0.5)) == ("", "v")
    assert trained_flips(record()) == trained_flips({}) == trained_flips({"config": None}) == ("",)


def test_precision_is_the_run_s_where_the_device_has_it(monkeypatch):
    cpu = torch.device("cpu")
    for native in ("bf16-mixed", "32-true"):
        monkeypatch.setattr("segsweep.inference.hardware.pick_precision", lambda accelerator, native=native: native)
        assert precision_on(cpu, "bf16-mixed") == native
        assert precision_on(cpu, "32-true") == "32-true"
        assert precision_on(cpu, "16-mixed") == "32-true"
        assert precision_on(cpu, ["evil"]) == "32-true"

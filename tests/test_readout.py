"""Classes read off a model that has seen no label: clusters, their match, the probe, and whole runs."""

import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from segsweep import config
from segsweep.check import mistakes
from segsweep.data import datamodule
from segsweep.models.conv_autoencoder import ConvAutoencoder
from segsweep.models.unet import UNet
from segsweep.readout import ClusterReadout
from segsweep.readout.clusters import cluster
from segsweep.readout.features import (
    Sample,
    at_places,
    colour_maps,
    dense,
    draw_sample,
    learnt_maps,
    position_maps,
)
from segsweep.readout.matching import match
from segsweep.readout.probe import probe
from segsweep.readout.scores import Scores
from segsweep.run import read_record
from segsweep.train import train
from segsweep.types import Batch, DataSpec, SegmenterOutput
from tests.conftest import TINY

SPEC = DataSpec(("a", "b", "c"), 1, 255, (0.0,), (1.0,), (8, 8))
QUICK = [*TINY, "regime=unsupervised", "regime.readout.pixels=2000", "data.num_classes=11"]


def separable(permutation, n=600, noise=0.05):
    """Three blobs on three axes; the blob on axis ``permutation[k]`` is class k."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    centres = torch.eye(3)[list(permutation)]
    return Sample(centres[labels] + noise * torch.randn(n, 3, generator=generator), labels)


def predicted(scores: Scores, sample: Sample) -> Tensor:
    return scores(sample.features.T[None, :, :, None]).argmax(dim=1)[0, :, 0]


# Matching


def test_the_match_by_hand():
    # Rows are classes. IoU of each pair, in 60ths of a pixel count: most pixels alone would give cluster 0 to class 0.
    confusion = np.array([[6, 5, 0], [6, 0, 0], [0, 1, 4]])
    union = np.array([[17, 12, 15], [12, 12, 10], [17, 10, 5]])
    iou = confusion / union
    best = max(
        (iou[[0, 1, 2], list(p)].sum(), p) for p in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    )[1]
    assert best == (1, 0, 2)  # of each class
    assert match(confusion).tolist() == [1, 0, 2]  # of each cluster


def test_the_match_maximises_the_mean_iou_over_all_permutations():
    import itertools

    rng = np.random.default_rng(0)
    for _ in range(20):
        confusion = rng.integers(0, 50, (4, 4))
        union = confusion.sum(1, keepdims=True) + confusion.sum(0, keepdims=True) - confusion
        iou = confusion / union
        best = max(itertools.permutations(range(4)), key=lambda p: sum(iou[k, c] for c, k in enumerate(p)))
        assert match(confusion).tolist() == list(best)


def test_more_clusters_than_classes_go_many_to_one():
    assert match(np.array([[9, 1, 5, 0], [1, 8, 4, 2]])).tolist() == [0, 1, 0, 1]


def test_fewer_clusters_than_classes_are_refused():
    with pytest.raises(ValueError, match="2 clusters cannot stand for 3 classes"):
        match(np.zeros((3, 2), np.int64))


# Clusters and the probe


@pytest.mark.parametrize("permutation", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_separable_features_give_the_permutation_exactly(permutation):
    sample = separable(permutation)
    hidden = sample._replace(labels=torch.full_like(sample.labels, 255))
    scores = cluster(hidden, sample, 3, SPEC, seed=0)
    assert torch.equal(predicted(scores, sample), sample.labels)
    axis_of_cluster = scores.weight.argmax(dim=1)
    assert [permutation[k] for k in scores.classes.tolist()] == axis_of_cluster.tolist()


def test_few_labels_are_enough_for_the_match_and_ignored_ones_do_not_count():
    sample = separable((2, 0, 1))
    few = Sample(sample.features[:30], sample.labels[:30].clone())
    few.labels[9:] = 255
    scores = cluster(sample, few, 3, SPEC, seed=0)
    assert torch.equal(predicted(scores, sample), sample.labels)


def test_clusters_follow_from_the_seed():
    sample = separable((0, 1, 2), noise=1.0)
    first, again, other = (cluster(sample, sample, 5, SPEC, seed) for seed in (0, 0, 1))
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.classes, again.classes)
    assert not torch.equal(first.weight, other.weight)


def test_a_cluster_scores_by_its_distance():
    centres = torch.tensor([[0.0, 1.0], [3.0, 0.0], [0.0, -2.0]])
    scores = Scores(2 * centres, -centres.square().sum(dim=1), torch.tensor([2, 0, 2]), 3)
    features = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    distance = (features[:, None] - centres[None, :, :, None, None]).square().sum(dim=2)
    expected = -distance + features.square().sum(dim=1, keepdim=True)
    found = scores(features)
    assert torch.allclose(found[:, 0], expected[:, 1], atol=1e-5)
    assert torch.allclose(found[:, 2], expected[:, [0, 2]].amax(dim=1), atol=1e-5)
    assert (found[:, 1] < -1000).all()  # nothing stands for class 1


@pytest.mark.parametrize("classes", [3, 2, 1])
def test_the_probe_is_right_on_separable_features(classes):
    sample = separable((1, 2, 0))
    kept = sample.labels < classes
    sample = Sample(1000 + 0.01 * sample.features[kept], sample.labels[kept])  # far from 0 and of no size: no matter
    scores = probe(sample, SPEC)
    assert (predicted(scores, sample) == sample.labels).float().mean() == 1.0


def test_the_probe_needs_a_label():
    sample = separable((0, 1, 2))
    with pytest.raises(ValueError, match="no class"):
        probe(sample._replace(labels=torch.full_like(sample.labels, 255)), SPEC)


# Features


def test_places_hold_what_dense_maps_hold():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, d, h, w, generator=generator) for d, h, w in ((3, 8, 12), (5, 2, 3))]
    full = dense(maps, (8, 12), unit_length=True)
    assert full.shape == (2, 8, 8, 12)
    assert torch.allclose(full[:, :3].norm(dim=1), torch.ones(2, 8, 12))
    rows, columns = torch.tensor([0, 3, 7]), torch.tensor([11, 5, 0])
    place = torch.stack([(rows + 0.5) / 8, (columns + 0.5) / 12], dim=-1).expand(2, -1, -1)
    assert torch.allclose(at_places(maps, place, True), full[:, :, rows, columns].transpose(1, 2), atol=1e-5)


def test_a_sample_holds_the_label_of_its_place_whatever_the_sizes():
    mask = torch.arange(4).view(1, 2, 2).repeat_interleave(3, 1).repeat_interleave(5, 2).expand(3, -1, -1)
    batch = Batch(torch.zeros(3, 1, 8, 8), mask, torch.tensor([0, 4, 2]))
    sample = draw_sample(position_maps, [batch], 50, False, seed=0)
    assert len(sample.labels) == 150
    quadrant = 2 * (sample.features[:, 0] >= 0.5).long() + (sample.features[:, 1] >= 0.5).long()
    near_the_border = ((sample.features - 0.5).abs() < 0.01).any(dim=1)
    assert ((quadrant == sample.labels) | near_the_border).all()
    other = draw_sample(position_maps, [batch._replace(mask=torch.zeros_like(mask))], 50, False, seed=0)
    assert torch.equal(sample.features, other.features)  # masks decide no place


def test_what_is_looked_at_follows_from_the_model():
    image = torch.randn(2, 1, 16, 16)
    autoencoder = ConvAutoencoder(1, 3, (4, 8), 6, True, 0.0, 0.0, 8).eval()
    assert [tuple(x.shape) for x in learnt_maps(autoencoder, None)(image)] == [(2, 6, 8, 8)]
    unet = UNet(1, 3, (4, 8)).eval()
    assert [tuple(x.shape) for x in learnt_maps(unet, None)(image)] == [(2, 8, 8, 8)]
    assert [tuple(x.shape) for x in learnt_maps(unet, (0, 1))(image)] == [(2, 4, 16, 16), (2, 8, 8, 8)]
    assert colour_maps(image)[0] is image
    with pytest.raises(ValueError, match=r"levels=\[2\].*levels 0 to 1"):
        learnt_maps(unet, (2,))(image)


# The whole, on a model that is known


class Levels(nn.Module):
    """A latent that shows the class of each pixel, if the image does."""

    def forward(self, image: Tensor) -> SegmenterOutput:
        level = image.round().long().clamp(0, 2)[:, 0]
        return SegmenterOutput(torch.zeros(len(image), 3, *image.shape[-2:]), latent=torch.eye(3)[level].movedim(3, 1))


def blocks(seed, permutation=(0, 1, 2)):
    """Four images in grey levels 0, 1, 2, which are the classes of the permutation."""
    mask = torch.randint(0, 3, (4, 4, 4), generator=torch.Generator().manual_seed(seed))
    mask = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return Batch(mask[:, None].float(), torch.tensor(permutation)[mask], torch.arange(4))


def train_images(only_labelled):
    batch = blocks(0, (1, 2, 0))
    return 4, iter([batch if only_labelled else batch._replace(mask=torch.full_like(batch.mask, 255))])


def test_the_readout_and_its_controls_on_a_known_model():
    readout, test = ClusterReadout(None, 2000, None), blocks(1, (1, 2, 0))
    readout.fit(Levels(), train_images, SPEC, seed=0)
    assert torch.equal(readout(Levels(), test.image).argmax(dim=1), test.mask)
    scores = readout.compare(Levels(), train_images, [test], SPEC, seed=0)
    assert scores["probe"]["test/miou"] == 1.0
    assert scores["colour_clusters"]["test/miou"] == 1.0  # the image shows it all
    assert scores["xy_clusters"]["test/miou"] < 0.6


def test_the_match_never_follows_the_labels_it_is_scored_on():
    readout = ClusterReadout(None, 2000, None)
    readout.fit(Levels(), train_images, SPEC, seed=0)
    before = readout.scores
    right, permuted = (blocks(1, permutation) for permutation in ((1, 2, 0), (0, 1, 2)))
    good, bad = (readout.compare(Levels(), train_images, [test], SPEC, seed=0) for test in (right, permuted))
    assert torch.equal(readout.scores.classes, before.classes)
    assert good["probe"]["test/miou"] == 1.0
    assert bad["probe"]["test/miou"] == bad["colour_clusters"]["test/miou"] == 0.0


# Whole runs


@pytest.fixture
def start(composer, tmp_path):
    def run(name, *overrides):
        folder = tmp_path / name
        folder.mkdir()
        origin = {"choices": {"model": "x", "data": "digits", "regime": "unsupervised"}, "overrides": [], "sweep": None}
        train(composer(*QUICK, *overrides), folder, origin)
        return folder

    return run


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            ["model=conv_autoencoder", "model.widths=[4,8]", "model.latent_channels=6"], marks=pytest.mark.slow
        ),
        ["model=unet", "model.widths=[4,8]", "regime.readout.levels=[0,1]"],
        pytest.param(["model=wnet", "model.widths=[4,8]", "loss=ncut"], marks=pytest.mark.slow),
    ],
    ids=lambda model: model[0],
)
def test_a_whole_run(start, model):
    folder = start("run", *model)
    record = read_record(folder)
    assert record["status"] == "completed"
    assert record["monitor"] == "val/loss"
    readout = record["readout"]
    assert list(readout) == ["clusters", "location_prior", "probe", "colour_clusters", "xy_clusters"]
    assert readout["clusters"]["test/miou"] == record["metrics"]["test/miou"]
    assert readout["location_prior"] == {
        key: record["floors"]["location_prior"][key] for key in ("test/miou", "test/pixel_accuracy")
    }
    assert all(0 <= value <= 1 for scores in readout.values() for value in scores.values())
    with np.load(folder / "test_confusion.npz") as stored:  # of the clusters: each is a class
        assert (stored["confusion"].sum(axis=(0, 1)) > 0).sum() > 5
    events = EventAccumulator(str(folder)).Reload()
    assert {f"readout/{name}" for name in readout} <= set(events.Tags()["scalars"])


SMALL = ["model=conv_autoencoder", "model.widths=[4,8]", "model.latent_channels=6"]


@pytest.mark.slow
def test_the_same_run_twice_reads_the_same(start):
    first, second = (read_record(start(name, *SMALL)) for name in "ab")
    assert first["readout"] == second["readout"]
    # Times aside, to the last digit.
    keys = [key for key in first["metrics"] if key != "train/images_per_s"]
    assert all(
        first["metrics"][key] == second["metrics"][key] or math.isnan(first["metrics"][key] or math.nan) for key in keys
    )


@pytest.mark.slow
def test_the_match_sees_labelled_training_masks_alone(start, monkeypatch):
    """Other classes in val and test change the score and not the match; a fit sees the train split alone."""
    seen, fitted = [], []
    as_is, fit = datamodule.DataModule.train_as_is, ClusterReadout.fit

    def noted(self, only_labelled):
        num, batches = as_is(self, only_labelled)
        batches = list(batches)
        seen.append((only_labelled, num, torch.cat([batch.index for batch in batches]).sort().values.tolist()))
        if not only_labelled:
            assert all((batch.mask == 255).all() for batch in batches)
        return num, iter(batches)

    def kept(self, *arguments):
        fit(self, *arguments)
        fitted.append(self.scores)

    monkeypatch.setattr(datamodule.DataModule, "train_as_is", noted)
    monkeypatch.setattr(ClusterReadout, "fit", kept)
    record = read_record(start("straight", *SMALL, "data.labelled_fraction=0.25"))
    assert {(only, num) for only, num, _ in seen} == {(True, 3), (False, 12)}
    assert {tuple(index) for only, _, index in seen if not only} == {tuple(range(12))}
    assert len({tuple(index) for only, _, index in seen if only}) == 1

    batch = datamodule.EvalBatches.batch

    def permuted(self, positions):
        found = batch(self, positions)
        is_train = self.split is self.data_splits["train"]
        return found if is_train else found._replace(mask=(found.mask + 1) % 11)

    init = datamodule.EvalBatches.__init__

    def with_splits(self, data, *arguments, **options):
        init(self, data, *arguments, **options)
        self.data_splits = data.store.splits

    straight = list(fitted)
    fitted.clear()
    monkeypatch.setattr(datamodule.EvalBatches, "batch", permuted)
    monkeypatch.setattr(datamodule.EvalBatches, "__init__", with_splits)
    other = read_record(start("permuted", *SMALL, "data.labelled_fraction=0.25"))
    assert other["metrics"]["test/miou"] != record["metrics"]["test/miou"]
    assert other["metrics"]["val/loss"] == record["metrics"]["val/loss"]
    assert len(fitted) == len(straight) >= 3
    for a, b in zip(straight, fitted, strict=True):
        assert torch.equal(a.classes, b.classes)
        assert torch.equal(a.weight, b.weight)


@pytest.mark.slow
def test_no_label_is_trained_on(start, monkeypatch):
    """A run whose training masks are all something else has the same losses."""
    from segsweep.data.train_batches import TrainBatches

    make = TrainBatches.finished

    def garbled(self, *arguments):
        found = make(self, *arguments)
        return found._replace(mask=(found.mask * 0 + 3))

    straight = read_record(start("straight", *SMALL))["metrics"]
    monkeypatch.setattr(TrainBatches, "finished", garbled)
    other = read_record(start("garbled", *SMALL))["metrics"]
    assert other["train/loss"] == straight["train/loss"]
    assert other["test/miou"] == straight["test/miou"]


def test_large_images_are_read_off_by_tiles(start):
    record = read_record(start("tiles", *SMALL, "data.tile=[32,32]"))
    assert 0 <= record["readout"]["clusters"]["test/miou"] <= 1


# The config


def test_the_regime_chooses_the_monitor_unless_somebody_types_one(composer):
    for overrides, monitor in (
        ([], "val/miou"),
        (["regime=pretrain"], "val/miou"),
        (["regime=unsupervised"], "val/loss"),
        (["regime=unsupervised", "monitor=val/dice"], "val/dice"),
    ):
        assert config.settle(composer("trainer=cpu", *overrides))["monitor"] == monitor


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("regime.readout.pixels=10", "regime.readout.pixels=10"),
        ("regime.readout.cluster=20", "regime.readout.cluster"),
        ("regime.monitor=val/mIoU", "Did you mean 'val/miou'?"),
        ("model=dense_cnn", "needs a model with an encoder"),
    ],
)
def test_mistakes_are_named(composer, override, said):
    prefix = "+" if "cluster=" in override else ""
    cfg = composer("trainer=cpu", "regime=unsupervised", prefix + override)
    assert any(said in line for line in mistakes(cfg, {"regime": "unsupervised"}))

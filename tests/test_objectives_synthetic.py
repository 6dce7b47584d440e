import pytest
import torch

from segsweep.losses import CrossEntropy, WeightedSum
from segsweep.models.pair_vae import PairVAE
from segsweep.models.unet import UNet
from segsweep.objectives import Generate, Segment, SegmentSynthetic
from segsweep.objectives.synthetic import decoded_pairs
from segsweep.types import Batch, DataSpec

SPEC = DataSpec(("a", "b", "c"), 1, 255, (0.5,), (0.2,), (17, 14))
LOSS = WeightedSum({"cross_entropy": 1.0}, cross_entropy=CrossEntropy(3, 255, "none", 0.0, 1.0))


def pairs(num=4, size=(17, 14), seed=0):
    """Images that show their mask: class 1 is bright, class 2 dark."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 3, (num, 1, 5, 4), generator=generator).float()
    mask = torch.nn.functional.interpolate(coarse, size).long()[:, 0]
    image = torch.tensor([0.0, 1.5, -1.5])[mask][:, None] + 0.05 * torch.randn(num, 1, *size, generator=generator)
    return Batch(image, mask, torch.arange(num))


def built(share=0.5, source="interpolate", threshold=0.5, reach=1.0):
    torch.manual_seed(0)
    first, second = Generate((8, 16), 4, 0.01), SegmentSynthetic(share, source, reach, threshold)
    model = UNet(1, 3, (4, 8))
    first.prepare(model, SPEC, {})
    second.prepare(model, SPEC, {"generate": first})
    return model, first, second


def test_the_generator_learns_pairs_and_leaves_the_segmenter_alone():
    model, first, _ = built()
    optimizer = torch.optim.Adam([*model.parameters(), *first.parameters()], 1e-2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batch = pairs()
    totals = []
    for _ in range(60):
        output, terms = first(model, batch, LOSS)
        assert output is None
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        totals.append(terms["total"].item())
    assert totals[-1] < 0.3 * totals[0]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    first.eval()
    rebuilt = first.generator(batch.image, batch.mask)
    assert (rebuilt.logits.argmax(dim=1) == batch.mask).float().mean() > 0.9
    scored = first.score(rebuilt, batch, LOSS)
    expected = scored["pair_image"] + scored["pair_mask"] + 0.01 * scored["pair_kl"]
    assert scored["total"].item() == pytest.approx(expected.item())
    assert scored["pair_kl"].item() == pytest.approx(rebuilt.divergence.mean().item() / (17 * 14))


def test_masks_are_seen_and_ignored_pixels_have_no_class():
    vae = PairVAE(1, 3, (4, 8), 2).eval()
    batch = pairs()
    codes = [vae.posterior(batch.image, mask)[0] for mask in (batch.mask, (batch.mask + 1) % 3)]
    assert not torch.equal(*codes)
    seen = []
    vae.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    vae.posterior(batch.image, torch.where(batch.mask == 2, 255, batch.mask))
    assert torch.equal(seen[0][:, 1:].sum(dim=1) == 0, batch.mask == 2)


def test_a_batch_without_labels_costs_the_generator_no_nan():
    model, first, _ = built()
    batch = pairs()
    _, terms = first(model, batch._replace(mask=torch.full_like(batch.mask, 255)), LOSS)
    assert torch.isfinite(terms["total"])
    assert terms["pair_mask"] == 0


@pytest.mark.parametrize("source", ["interpolate", "prior"])
def test_made_up_pairs_have_the_form_of_real_ones(source):
    _, first, second = built(source=source, threshold=0.4)
    batch = pairs(5)
    before = {key: value.clone() for key, value in first.state_dict().items()}
    image, mask = second.train().made_up(batch.image, batch.mask)
    assert (image.shape, image.dtype) == (batch.image.shape, torch.float32)
    assert (mask.shape, mask.dtype) == (batch.mask.shape, torch.int64)
    assert torch.isfinite(image).all()
    assert set(mask.unique().tolist()) <= {0, 1, 2, 255}
    assert not image.requires_grad
    assert all(torch.equal(before[key], value) for key, value in first.state_dict().items())


def test_undecided_pixels_are_ignored():
    vae = PairVAE(1, 3, (4, 8), 2).eval()
    code = torch.randn(2, 2, 8, 8)
    probability = vae.decode(code, torch.zeros(2, 1, 16, 16))[1].softmax(dim=1).amax(dim=1)
    threshold = probability.median().item()
    mask = decoded_pairs(vae, code, torch.zeros(2, 1, 16, 16), threshold, 255)[1]
    assert torch.equal(mask == 255, probability < threshold)


@pytest.mark.parametrize("reach", [1.0, 0.25])
def test_codes_lie_between_two_of_the_batch(monkeypatch, reach):
    _, first, second = built(reach=reach)
    first.generator.eval()
    batch = pairs(3)
    taken = []
    decode = PairVAE.decode
    monkeypatch.setattr(PairVAE, "decode", lambda self, code, like: taken.append(code) or decode(self, code, like))
    second.made_up(batch.image, batch.mask)
    code = first.generator.posterior(batch.image, batch.mask)[0]
    other = code.roll(1, 0)
    place = ((taken[0] - code) * (other - code)).sum(dim=(1, 2, 3)) / (other - code).square().sum(dim=(1, 2, 3))
    assert (place >= -1e-6).all()
    assert (place <= reach + 1e-6).all()
    assert len(set(place.tolist())) == 3
    torch.testing.assert_close(taken[0], code.lerp(other, place[:, None, None, None]))


@pytest.mark.parametrize(("share", "num"), [(0.5, 2), (1.0, 4), (0.25, 1), (0.0, 0)])
def test_the_share_of_a_batch_is_made_up(share, num):
    _, _, second = built(share)
    batch = pairs()
    given = {}

    def model(image):
        given["image"] = image
        return UNet(1, 3, (4, 8))(image)

    def spy(output, mixed):
        given["mask"] = mixed.mask
        return LOSS(output, mixed)

    output, _ = second(model, batch, spy)
    real = [torch.equal(given["image"][i], batch.image[i]) for i in range(4)]
    assert real == [True] * (4 - num) + [False] * num
    assert torch.equal(given["mask"][: 4 - num], batch.mask[: 4 - num])
    assert (output is None) == (num > 0)


def test_no_share_is_plain_segmentation_step_for_step():
    weights = []
    for own in (True, False):
        model, _, second = built(0.0)
        objective = second if own else Segment()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        torch.manual_seed(1)
        for step in range(4):
            _, terms = objective(model, pairs(seed=step), LOSS)
            optimizer.zero_grad()
            terms["total"].backward()
            optimizer.step()
        weights.append((model.state_dict(), torch.rand(3)))
    assert all(torch.equal(weights[0][0][key], weights[1][0][key]) for key in weights[0][0])
    assert torch.equal(weights[0][1], weights[1][1])  # not a number was drawn


def test_the_generator_is_in_checkpoints_once_and_not_trained_by_the_second_stage():
    _, first, second = built()
    assert second.generator is first.generator
    assert list(second.parameters()) == []
    assert dict(second.state_dict()) == {}


def test_a_missing_generator_is_named():
    with pytest.raises(ValueError, match=r"earlier stage with the objective segsweep.objectives.Generate; before it"):
        SegmentSynthetic(0.5, "prior", 1.0, 0.5).prepare(UNet(1, 3, (4, 8)), SPEC, {"warm_up": Segment()})

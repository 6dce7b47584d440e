import copy

import pytest
import torch
from torch import nn

from segsweep.losses import CrossEntropy, WeightedSum
from segsweep.models.unet import UNet
from segsweep.objectives import MeanTeacher
from segsweep.objectives.mean_teacher import boxes, paste_neighbour
from segsweep.types import Batch, DataSpec, SegmenterOutput

SPEC = DataSpec(("a", "b", "c"), 1, 255, (0.5,), (0.2,), (16, 16))
LOSS = WeightedSum({"cross_entropy": 1.0}, cross_entropy=CrossEntropy(3, 255, "none", 0.0, 1.0))


class PerPixel(nn.Module):
    """Logits that are a linear function of the pixel alone."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 1)
        self.seen = []

    def forward(self, image):
        self.seen.append(image)
        return SegmenterOutput(self.layer(image))


def batch_of(num_labelled, num_unlabelled, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    num = num_labelled + num_unlabelled
    mask = torch.randint(0, 3, (num, size, size), generator=generator)
    mask[num_labelled:] = 255
    return Batch(torch.randn(num, 1, size, size, generator=generator), mask, torch.arange(num))


def prepared(model, weight=1.0, threshold=0.0, decay=0.9):
    objective = MeanTeacher(weight, threshold, decay)
    objective.prepare(model, SPEC, {})
    objective.enter(model)
    return objective


def test_the_average_by_hand():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    objective = prepared(model, decay=0.6)
    expected = []
    for step, value in enumerate((2.0, 4.0, 8.0, 16.0)):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].running_mean.fill_(-value)
            model[1].num_batches_tracked.fill_(step)
        objective.follow(model)
        assert objective.teacher[1].running_mean.item() == pytest.approx(-objective.teacher[0].weight.item())
        assert objective.teacher[1].num_batches_tracked == step
        expected.append(objective.teacher[0].weight.item())
    # decays 0, 1/2, 0.6 (of 2/3) and 0.6 (of 3/4)
    assert expected == pytest.approx([2.0, 3.0, 0.6 * 3 + 0.4 * 8, 0.6 * 5 + 0.4 * 16])


def test_the_teacher_is_no_part_of_what_is_trained():
    model = UNet(1, 3, (4, 8))
    objective = prepared(model)
    assert not any(parameter.requires_grad for parameter in objective.parameters())
    objective.train()
    _, terms = objective(model, batch_of(2, 2), LOSS)
    terms["total"].backward()
    assert not any(module.training for module in objective.teacher.modules())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_entering_a_stage_starts_from_the_student():
    model = UNet(1, 3, (4, 8))
    objective = prepared(model)
    objective.follow(model)
    with torch.no_grad():
        model.encoder.levels[0][0].weight.add_(1)
    objective.enter(model)
    mine, other = objective.teacher.state_dict(), model.state_dict()
    assert all(torch.equal(mine[key], other[key]) for key in other)
    assert objective.step == 0


def steps(model, objective, optimizer, first, end):
    totals = []
    for step in range(first, end):
        torch.manual_seed(step)
        _, terms = objective(model, batch_of(2, 2, seed=step), LOSS)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        totals.append(terms["total"].item())
    return totals


def test_a_continued_stage_goes_on_exactly():
    torch.manual_seed(0)
    model = UNet(1, 3, (4, 8))
    objective = prepared(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    steps(model, objective, optimizer, 0, 3)
    states = copy.deepcopy((model.state_dict(), objective.state_dict()))
    straight = steps(model, objective, optimizer, 3, 6)

    again = UNet(1, 3, (4, 8))
    continued = MeanTeacher(1.0, 0.0, 0.9)
    continued.prepare(again, SPEC, {})  # enter is not called where a stage is continued
    again.load_state_dict(states[0])
    continued.load_state_dict(states[1])
    assert steps(again, continued, torch.optim.SGD(again.parameters(), 0.1), 3, 6) == straight
    assert torch.equal(continued.step, objective.step)


def test_labelled_images_and_their_masks_stay_as_they_are(monkeypatch):
    model = PerPixel()
    objective = prepared(model, threshold=0.4)
    batch = batch_of(3, 2)
    seen = {}

    def spy(output, given):
        seen["image"], seen["mask"] = given.image, given.mask
        return LOSS(output, given)

    objective(model, batch, spy)
    assert torch.equal(seen["mask"], batch.mask)
    assert torch.equal(seen["image"][:3], batch.image[:3])
    assert not torch.equal(seen["image"][3:], batch.image[3:])
    assert torch.equal(model.seen[-1], seen["image"])


def test_with_labels_everywhere_it_is_supervised_training():
    model = PerPixel()
    batch = batch_of(4, 0)
    _, terms = prepared(model)(model, batch, LOSS)
    assert terms["total"].item() == LOSS(model(batch.image), batch)["total"].item()
    assert terms["consistency"] == terms["pseudo_share"] == 0


def test_the_consistency_by_hand(monkeypatch):
    """A labelled image and an unlabelled one, of which every second column is pasted from the labelled one."""
    model = PerPixel()
    objective = prepared(model, weight=2.0, threshold=0.5)
    batch = batch_of(1, 1)
    columns = (torch.arange(16) % 2).bool().expand(2, 16, 16)
    monkeypatch.setattr("segsweep.objectives.mean_teacher.boxes", lambda mask: columns)
    _, terms = objective(model, batch, LOSS)
    probability, label = model.layer(batch.image).softmax(dim=1).max(dim=1)
    sure = probability[1] >= 0.5
    assert 0 < sure.sum() < sure.numel()
    total = 0.0
    for y in range(16):
        for x in range(16):
            image = batch.image[0 if x % 2 else 1, 0, y, x].view(1, 1, 1, 1)
            target = batch.mask[0, y, x] if x % 2 else label[1, y, x]
            if x % 2 or sure[y, x]:
                total += -model.layer(image).log_softmax(dim=1)[0, target, 0, 0].item()
    assert terms["consistency"].item() == pytest.approx(total / 256, rel=1e-5)
    assert terms["total"].item() == pytest.approx(terms["cross_entropy"].item() + 2 * total / 256, rel=1e-5)
    assert terms["pseudo_share"].item() == pytest.approx(sure.float().mean().item())


def test_pixels_below_the_threshold_teach_nothing():
    model = PerPixel()
    batch = batch_of(0, 4)
    grads = {}
    for threshold in (0.0, 1.0):
        objective = prepared(model, threshold=threshold)
        model.zero_grad()
        _, terms = objective(model, batch, LOSS)
        terms["total"].backward()
        grads[threshold] = model.layer.weight.grad.abs().sum().item()
        assert terms["pseudo_share"] == 1 - threshold
    assert grads[1.0] == 0 < grads[0.0]


def test_a_rectangle_of_half_the_area():
    torch.manual_seed(0)
    drawn = boxes(torch.zeros(200, 40, 60))
    areas = drawn.float().mean(dim=(1, 2))
    assert areas.mean().item() == pytest.approx(0.5, abs=0.01)
    assert (areas - 0.5).abs().max() < 0.05  # whole pixels
    rows, columns = drawn.any(dim=2), drawn.any(dim=1)
    assert torch.equal(drawn, rows[:, :, None] & columns[:, None, :])
    borders = (drawn[:, 0], drawn[:, -1], drawn[:, :, 0], drawn[:, :, -1])
    assert all(border.any() for border in borders)
    assert len({int(count) for count in rows.sum(dim=1)}) > 10


def test_image_and_target_move_alike():
    torch.manual_seed(0)
    target = torch.arange(5 * 36).view(5, 6, 6)
    image = target[:, None].float().repeat(1, 2, 1, 1)
    pasted = boxes(target)
    moved = paste_neighbour(target, pasted)
    assert torch.equal(paste_neighbour(image, pasted[:, None]), moved[:, None].float().repeat(1, 2, 1, 1))
    assert torch.equal(moved[pasted], target.roll(-1, 0)[pasted])
    assert torch.equal(moved[~pasted], target[~pasted])

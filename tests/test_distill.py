"""Distillation: a small model learns what a trained one thinks of every pixel."""

import json
import shutil

import pytest
import torch
from torch import nn

from segsweep.check import mistakes
from segsweep.checkpoints import HashedCheckpointIO
from segsweep.files import write_atomic
from segsweep.losses import CrossEntropy, WeightedSum
from segsweep.objectives import Distill
from segsweep.run import read_record
from segsweep.types import Batch, SegmenterOutput
from tests.conftest import TINY, history, timeless

LOSS = WeightedSum({"cross_entropy": 1.0}, cross_entropy=CrossEntropy(3, 255, "none", 0.0, 1.0))
DISTILL = ["regime=distill", "model.widths=[2,4]", "data.labelled_fraction=0.5"]


class PerPixel(nn.Module):
    """Logits that are a linear function of the pixel alone."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(1, 3, 1)

    def forward(self, image):
        return SegmenterOutput(self.layer(image))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (4, 8, 8), generator=generator)
    mask[2:] = 255
    return Batch(torch.randn(4, 1, 8, 8, generator=generator), mask, torch.arange(4), 2)


def taught(weight, temperature=2.0, order=(0, 1, 2)):
    objective, teacher = Distill(weight, temperature), PerPixel(1)
    objective.learn_from(teacher, order)
    return objective, teacher


def test_the_loss_by_hand(batch):
    objective, teacher = taught(0.3, order=(2, 0, 1))
    model = PerPixel(2)
    output, terms = objective(model, batch, LOSS)
    student = (model(batch.image).logits / 2).softmax(1)
    target = (teacher(batch.image).logits[:, [2, 0, 1]] / 2).softmax(1)
    divergence = (target * (target.log() - student.log())).sum(1).mean()
    labelled = batch.divide()[0]
    own = LOSS(model(labelled.image), labelled)["total"]
    assert len(output.logits) == 2
    assert torch.isclose(terms["distillation"], divergence, atol=1e-6)
    assert torch.isclose(terms["total"], 0.7 * own + 0.3 * 4 * divergence, atol=1e-6)


def test_images_that_are_hidden_among_labelled_ones_count_for_the_teacher_alone(batch):
    objective, _ = taught(0.5)
    model = PerPixel(2)
    mixed = objective(model, batch, LOSS)[1]
    hidden = objective(model, batch._replace(num_unlabelled=0), LOSS)[1]
    assert torch.isclose(mixed["total"], hidden["total"])


def test_the_teacher_is_neither_trained_nor_stored(batch):
    objective, teacher = taught(1.0)
    objective.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    objective(PerPixel(2), batch, LOSS)[1]["total"].backward()
    assert not teacher.training
    assert list(objective.parameters()) == []
    assert objective.state_dict() == {}
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_a_student_comes_nearer_to_the_teacher_than_one_that_learns_from_labels(batch):
    left = []
    for weight in (0.0, 1.0):
        objective, _ = taught(weight)
        model = PerPixel(2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            terms = objective(model, batch, LOSS)[1]
            terms["total"].backward()
            optimizer.step()
        left.append(terms["distillation"].item())
    assert left[1] < 0.01 < 0.1 < left[0]


def test_a_run_learns_from_the_run_that_it_names(finished, start):
    folder = start("run", *DISTILL, f'init_from="{finished}"')
    lines = history(folder)
    assert lines[0]["train/loss/distillation"] > lines[1]["train/loss/distillation"] > 0
    assert "val/loss/distillation" not in lines[0]
    record = read_record(folder)
    assert record["init_from"]["run"] == "model=unet,seed=0"
    state = HashedCheckpointIO().load_checkpoint(folder / "checkpoints" / "last-1.ckpt")["state_dict"]
    assert not any("teacher" in name for name in state)
    assert record["parameters"] < read_record(finished)["parameters"]


@pytest.mark.slow
def test_an_interrupted_run_goes_on(finished, start, interrupted):
    overrides = [*DISTILL, f'init_from="{finished}"', "trainer.max_epochs=3"]
    straight = start("straight", *overrides)
    with interrupted(before_epoch=1):
        start("stopped", *overrides)
    stopped = start("stopped", *overrides)
    assert history(stopped) == history(straight)
    scores = [timeless(read_record(folder)["metrics"]) for folder in (straight, stopped)]
    assert scores[0] == scores[1]


def test_without_a_teacher_it_is_refused(composer):
    (line,) = mistakes(composer(*TINY, "regime=distill"), {"regime": "distill"})
    assert "init_from=RUN" in line
    with pytest.raises(ValueError, match="init_from=RUN"):
        Distill(0.5, 1.0).divergence(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("class_names", ["cat", *map(str, range(10))], "the teacher knows other classes (background, cat"),
        ("mean", [0.25], "the teacher has seen data.mean=[0.25]"),
    ],
)
def test_a_teacher_of_other_data_is_refused(finished, tmp_path, composer, key, value, said):
    folder = shutil.copytree(finished, tmp_path / "other")
    record = json.loads((folder / "record.json").read_text())
    record["config"]["data"][key] = value
    write_atomic(folder / "record.json", json.dumps(record).encode())
    (line,) = mistakes(composer(*TINY, *DISTILL, f'init_from="{folder}"'), {"regime": "distill"})
    assert said in line


def test_a_teacher_of_a_strange_class_is_not_built(finished, tmp_path, composer):
    folder = shutil.copytree(finished, tmp_path / "other")
    best = json.loads((folder / "checkpoints" / "best.json").read_text())
    best["model"]["_target_"] = "os.system"
    write_atomic(folder / "checkpoints" / "best.json", json.dumps(best).encode())
    (line,) = mistakes(composer(*TINY, *DISTILL, f'init_from="{folder}"'), {"regime": "distill"})
    assert "'os.system', which is not segsweep's own" in line

"""Seeds that are trained as one train as they would alone, and each leaves a run of its own."""

import copy
import json
import re
import shlex
import time
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segsweep.check import mistakes
from segsweep.check_stacking import stacking_mistakes
from segsweep.checkpoints import HashedCheckpointIO
from segsweep.config import build_model, settle
from segsweep.guard import NotFiniteError, UpdateGuard
from segsweep.stacked import StackedMember, StackedTask
from segsweep.stacking import Stack
from segsweep.sweep.groups import grouped, num_groups
from segsweep.task import Task
from segsweep.together import Member, train_together
from tests.conftest import ORIGIN, TINY, history, timeless
from tests.jobs import job
from tests.narrow import NARROW
from tests.test_launcher import segsweep

FEW = ["model=unet", "model.widths=[4,8]"]
STEPS = ["data.num_train=40", "trainer.max_epochs=2", "trainer.tensorboard.pictures_every=0"]  # 20 of 4 images


def trained(composer, place, seeds, *overrides):
    """Trains seeds as one and returns their folders."""
    members = []
    for seed in seeds:
        folder = place / f"seed={seed}"
        folder.mkdir(parents=True, exist_ok=True)
        cfg = composer(*TINY, "trainer.stack_seeds=3", f"seed={seed}", *overrides)
        members.append(Member(cfg, folder, {**ORIGIN, "sweep": place.name}))
    train_together(members)
    return [member.folder for member in members]


@pytest.fixture
def stack(composer, tmp_path):
    """``stack("folder", [0, 1], *overrides)`` trains seeds as one and returns their folders."""
    return lambda name, seeds, *overrides: trained(composer, tmp_path / name, seeds, *overrides)


@pytest.fixture(scope="module")
def pair(composer, tmp_path_factory):
    """What ``stack("together", [3, 5], *FEW)`` returns. Not to be written to."""
    return trained(composer, tmp_path_factory.mktemp("pair") / "together", [3, 5], *FEW)


@pytest.fixture
def losses(monkeypatch):
    """Seed -> the losses of its training steps so far."""
    seen = defaultdict(list)
    original = Task.training_step

    def step(self, batch, batch_idx):
        total = original(self, batch, batch_idx)
        seen[self.seed].append(total.item())
        return total

    monkeypatch.setattr(Task, "training_step", step)
    return seen


def record(folder):
    return json.loads((folder / "record.json").read_text())


# A stack rounds differently, in the seventh digit. Training enlarges that, as any other order of the same sums: losses
# of such small batches differ in the second or third digit after 20 steps of Adam at its usual rate. So weights are
# compared after small steps, and below in double precision, where nothing is left to enlarge.
OPTIMIZERS = {"small": ("optimizer=sgd", "optimizer.lr=0.0003"), "adamw": ("optimizer=adamw",)}
LOSSES = {"small": 1e-4, "adamw": 2e-2}


@pytest.mark.parametrize(
    ("model", "optimizer", "augment"),
    [
        ("unet", "small", "strong"),  # mixes images
        pytest.param("unet", "adamw", "light", marks=pytest.mark.slow),
        pytest.param("gated_sweep", "small", "light", marks=pytest.mark.slow),
        pytest.param("conv_autoencoder", "small", "standard", marks=pytest.mark.slow),
    ],
)
def test_twenty_steps_are_those_of_each_alone(stack, start, losses, model, optimizer, augment):
    overrides = [f"model={model}", *NARROW[model], *STEPS, f"augment={augment}", *OPTIMIZERS[optimizer]]
    folder = stack("together", [0, 1], *overrides)[0]
    together = {seed: values[:] for seed, values in losses.items()}
    losses.clear()
    state = HashedCheckpointIO().load_checkpoint(folder / "checkpoints" / "stacked" / "last-1.ckpt")["state_dict"]
    for seed in (0, 1):
        alone = start(f"alone{seed}", f"seed={seed}", *overrides)
        assert len(losses[seed]) == 20
        assert together[seed] == pytest.approx(losses[seed], rel=LOSSES[optimizer])
        assert together[seed][0] == pytest.approx(losses[seed][0], rel=1e-6)
        own = weights(alone)
        rows = [value[seed] for name, value in state.items() if name.startswith("model.weights.")]
        if optimizer == "small":
            for row, value in zip(rows, own, strict=True):
                torch.testing.assert_close(row, value, rtol=1e-4, atol=1e-5)
    assert together[0] != pytest.approx(together[1], rel=1e-3)  # seeds are not alike


def weights(folder):
    """Of the last checkpoint, buffers left out."""
    state = HashedCheckpointIO().load_checkpoint(folder / "checkpoints" / "last-1.ckpt")["state_dict"]
    names = ("running_mean", "running_var", "num_batches_tracked", "reverse")
    return [value for name, value in state.items() if name.startswith("model.") and not name.endswith(names)]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["conv_autoencoder", "unet", "gated_sweep"])
def test_in_double_precision_a_stack_is_its_models(composer, model):
    plain = settle(composer(*TINY, f"model={model}", *NARROW[model]))
    models = [build_model({**plain, "seed": seed}).double().train() for seed in (0, 1)]
    alone = copy.deepcopy(models)
    stack = Stack(models)
    optimizers = [torch.optim.AdamW(one.parameters(), lr=0.005) for one in (stack, *alone)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        image = torch.randn(8, 1, 48, 48, dtype=torch.float64, generator=generator)
        mask = torch.randint(11, (8, 48, 48), generator=generator)
        both = [F.cross_entropy(*pair) for pair in zip(stack(image).logits.chunk(2), mask.chunk(2), strict=True)]
        each = [
            F.cross_entropy(one(own).logits, truth)
            for one, own, truth in zip(alone, image.chunk(2), mask.chunk(2), strict=True)
        ]
        torch.testing.assert_close(both, each, rtol=1e-12, atol=0)
        sum([*both, *each]).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    stack.lend()
    for own, one in zip(models, alone, strict=True):
        torch.testing.assert_close(own.state_dict(), one.state_dict(), rtol=1e-9, atol=1e-9)


def test_a_group_leaves_runs_like_any_other(pair, start):
    alone = start("alone", "seed=5", *FEW)
    assert files(pair[1]) == {name for name in files(alone) if not name.startswith("last-")}
    own, other = record(pair[1]), record(alone)
    assert set(own) - set(other) == {"stack"}
    assert own["status"] == "completed"
    assert own["stack"] == {"seeds": [3, 5], "checkpoints": "../seed=3/checkpoints/stacked"}
    same = ("epochs", "steps", "images_seen", "images_tested", "parameters", "flops", "floors", "data")
    assert {key: own[key] for key in same} == {key: other[key] for key in same}
    for line, theirs in zip(history(pair[1]), history(alone), strict=True):
        assert line.keys() == theirs.keys()
        assert line["train/loss"] == pytest.approx(theirs["train/loss"], rel=2e-3)
        assert line["lr"] == theirs["lr"]
    assert points(pair[1]) == points(alone)
    assert record(pair[0])["metrics"] != own["metrics"]


@pytest.mark.slow
def test_time_is_divided_between_the_members(stack):
    began = time.time()
    folders = stack("together", [0, 1], *FEW)
    passed = time.time() - began
    walls = [record(folder)["wall_s"] for folder in folders]
    assert 0.5 * passed < sum(walls) <= passed


def test_an_interrupted_group_goes_on(pair, stack, interrupted, tmp_path):
    with interrupted(before_epoch=1):
        stack("together", [3, 5], *FEW)
    folders = [tmp_path / "together" / folder.name for folder in pair]
    assert {record(folder)["status"] for folder in folders} == {"interrupted"}
    stack("together", [3, 5], *FEW)
    for folder, other in zip(folders, pair, strict=True):
        assert record(folder)["status"] == "completed"
        assert history(folder) == history(other)
        assert points(folder) == points(other)
        assert timeless(record(folder)["metrics"]) == timeless(record(other)["metrics"])


@pytest.mark.slow
def test_what_is_left_of_a_group_goes_on_without_the_others(stack, interrupted, caplog):
    whole = stack("whole", [0, 1, 2], *FEW)
    with interrupted(before_epoch=1):
        stack("together", [0, 1, 2], *FEW)
    folders = stack("together", [2, 1], *FEW)
    assert "from the start" not in caplog.text
    for folder in folders:
        assert record(folder)["stack"]["seeds"] == [0, 1, 2]
        together = history(whole[0].parent / folder.name)
        assert [line["train/loss"] for line in history(folder)] == pytest.approx(
            [line["train/loss"] for line in together], rel=2e-3
        )


@pytest.mark.slow
def test_another_group_starts_again(stack, interrupted, caplog):
    with interrupted(before_epoch=1):
        stack("together", [0, 1], *FEW)
    folders = stack("together", [1, 4], *FEW)
    assert "as another group they are trained again from the start" in caplog.text
    assert [line["epoch"] for line in history(folders[0])] == [0, 1]


def test_hooks_that_nobody_has_are_passed_over(stack, monkeypatch):
    """As in a run alone (test_step_cost.py): around small models, for which stacks are made, they are most of it."""
    seen = []
    monkeypatch.setattr(StackedTask, "on_train_end", lambda self: seen.append(self))
    stack("together", [0, 1], *FEW, "trainer.limit_train_batches=1", "trainer.max_epochs=1")
    (task,) = seen
    assert task.on_after_backward is task.on_before_zero_grad is None
    assert callable(task.on_before_optimizer_step)


def test_a_bad_update_names_its_seed(stack, monkeypatch):
    original = StackedMember._learn

    def spoilt(self, batch):
        output, terms = original(self, batch)
        bad = self.seed == 1 and self.global_step == 2
        return output, {name: value * float("nan") if bad else value for name, value in terms.items()}

    monkeypatch.setattr(StackedMember, "_learn", spoilt)
    with pytest.raises(NotFiniteError, match=r"^seed=1, of 2 that are trained as one"):
        stack("together", [0, 1], *FEW)


def test_on_a_gpu_only_the_bad_seed_is_held_back(stack, monkeypatch):
    """There the host looks later: meanwhile the others step on."""
    monkeypatch.setattr("segsweep.task.UpdateGuard", lambda name_of, looks_at_once: UpdateGuard(name_of, False))
    original, kept = StackedTask.on_before_optimizer_step, []

    def spoil(self, optimizer):
        if self.global_step == 1:
            self.model.weights[0].grad[1, 0] = float("nan")
        original(self, optimizer)
        kept.append([bool((own[0] != 0).any()) for own in self.model.gradients()])

    monkeypatch.setattr(StackedTask, "on_before_optimizer_step", spoil)
    with pytest.raises(NotFiniteError, match=r"^seed=5.*the gradient is not finite at step 1"):
        stack("together", [4, 5], *FEW)
    assert kept[:3] == [[True, True], [True, False], [True, True]]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=vae"], "the model draws random numbers in training"),
        (["model=reseg"], "torch cannot run several of these models as one (Batching rule not implemented"),
        (["regime=pretrain", "model=conv_autoencoder"], "only plain supervised training"),
        (["scheduler=plateau"], "scheduler=plateau would change"),
        (["trainer.early_stopping.patience=3"], "early stopping would end all seeds"),
        (["trainer.gradient_clip_val=1"], "trainer.gradient_clip_val would clip"),
        (["trainer.on_oom=halve"], "trainer.on_oom=halve divides"),
        (["trainer.ema=0.9"], "trainer.ema knows one model alone"),
        (["trainer=ddp", "trainer.accelerator=cpu"], "trainer.strategy=ddp shares one run"),
        (["sweep.trial=1"], "the trials of a search"),
        (["optimizer._target_=torch.optim.NAdam", "~optimizer.fused"], "may treat the weights of several seeds"),
        (["trainer.stack_seeds=1"], "give 2 or more"),
        (["trainer.stack_seeds=true"], "give 2 or more"),
    ],
)
def test_what_cannot_be_stacked_is_refused(composed, overrides, said):
    job = composed("trainer=cpu", "trainer.precision=32-true", "trainer.stack_seeds=2", *overrides)
    lines = [line for line in mistakes(job.config, job.choices) if "stack_seeds" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert "stack_seeds" in lines[0].split(":")[0]


def test_scaled_losses_cannot_be_stacked_on_any_device(composer):
    plain = settle(composer("trainer=cpu", "trainer.precision=16-mixed", "trainer.stack_seeds=2"))
    assert any("trainer.precision=16-mixed scales" in line for line in stacking_mistakes(plain))


def test_groups_are_of_all_jobs_of_a_sweep(tmp_path):
    def one(index, kind, size=2):
        return job(tmp_path, f"works{index}", index, kind=kind, identity={"trainer": {"stack_seeds": size}})

    jobs = [one(0, "a"), one(1, "b"), one(2, "a"), one(3, "b"), one(4, "a"), one(5, "c", None), one(6, "c", None)]

    def shape(pending):
        return [(each.index, each.others and [other.index for other in each.others]) for each in grouped(jobs, pending)]

    assert shape(jobs) == [(0, [2]), (1, [3]), (4, None), (5, None), (6, None)]
    assert shape(jobs[2:]) == [(2, ()), (3, ()), (4, None), (5, None), (6, None)]
    assert num_groups(jobs) == 5


@pytest.mark.slow
def test_a_sweep_of_three_seeds(tmp_path):
    """Two are trained as one, the third alone; the same command finds all of them done."""
    sweep = ["-m", *TINY, *FEW, "name=s", "seed=0,1,2", "trainer.stack_seeds=2", "trainer.max_epochs=1"]
    done = segsweep(tmp_path, *sweep)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 jobs completed" in done.stderr
    assert "on a CPU, seeds are quicker each by itself" in done.stderr
    root = tmp_path / "outputs" / "sweeps" / "s"
    for seed in range(3):
        own = record(root / f"seed={seed}")
        assert own["status"] == "completed"
        assert own["stack"]["seeds"] == [0, 1] if seed < 2 else "stack" not in own
        assert "training" in (root / f"seed={seed}" / "log.txt").read_text()
    assert "trained alone" in (root / "seed=2" / "log.txt").read_text()
    ledger = [json.loads(line) for line in (root / "ledger.jsonl").read_text().splitlines()]
    assert [sum(line["job"] == f"seed={seed}" for line in ledger) for seed in range(3)] == [2, 2, 2]
    assert "all 3 jobs are done already" in segsweep(tmp_path, *sweep).stderr


@pytest.mark.slow
def test_the_command_of_the_docs_is_planned_as_it_says(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "stacking.md").read_text()
    (command,) = re.findall(r"^    segsweep (.+)$", text, flags=re.MULTILINE)
    planned = segsweep(tmp_path, *shlex.split(command), "trainer=cpu", "sweep.dry_run=true")
    assert planned.returncode == 0, planned.stderr
    assert "they are trained as 1: trainer.stack_seeds" in planned.stdout


def files(folder):
    """Names of the files of a run, without those whose names say when they were written."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name.split("/")[-1] for name in names if "tfevents" not in name and "stacked" not in name}


def points(folder):
    """Tag -> the steps at which TensorBoard has something."""
    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0}).Reload()
    found = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found | {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}

"""Pruning: what is taken out stays out, a run goes on exactly, and channels leave the network for good."""

import json

import pytest
import torch
from safetensors.torch import load_file

from segsweep.channels import least, num_kept, pairs, taken_out
from segsweep.check import mistakes
from segsweep.checkpoints import HashedCheckpointIO
from segsweep.config import build_data, build_model, make, make_model, settle
from segsweep.objectives import Prune, SegmentPruned
from segsweep.opened import open_finished
from segsweep.run import read_record
from segsweep.staged import prepare
from tests.conftest import TINY, history, timeless
from tests.narrow import NARROW

PRUNE = ["regime=prune", "model.widths=[4,8]", "trainer.max_epochs=4", "regime.stages.shrink.objective.rounds=4"]
STRUCTURED = "regime.stages.shrink.objective.structured=true"


def zeros(weights):
    """Share of zeros in what is pruned."""
    values = torch.cat([value.flatten() for value in weights.values() if value.dim() > 1])
    return float((values == 0).float().mean())


def best_of(folder):
    return load_file(folder / "checkpoints" / "best.safetensors")


def checkpoint(folder, epoch):
    state = HashedCheckpointIO().load_checkpoint(folder / "checkpoints" / f"last-{epoch}.ckpt")["state_dict"]
    return {key.removeprefix("model."): value for key, value in state.items()}


@pytest.fixture
def pruned(composer):
    """``pruned(amount, *overrides)`` -> a model with statistics of its own, without some channels, and its parts."""

    def build(amount, *overrides):
        plain = settle(composer(*TINY, *overrides))
        model = build_model(plain)
        generator = torch.Generator().manual_seed(1)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        objective = Prune(amount, True, 1)
        objective.prepare(model, build_data(plain).spec, {})
        objective.advance(model, 0, 4)
        return model.eval(), objective, plain["model"]

    return build


def test_single_weights_are_out_from_the_second_stage_on_and_the_record_says_so(finished, start):
    folder = start("run", *PRUNE, f'init_from="{finished}"', "regime.stages.shrink.objective.amount=0.75")
    assert zeros(best_of(folder)) == pytest.approx(0.75, abs=0.005)
    first = {name: value for name, value in checkpoint(folder, 2).items() if "objectives" not in name}
    assert zeros(first) == pytest.approx(0.75, abs=0.005)
    record = read_record(folder)
    sparsity, nonzero = record["sparsity"], sum(int((value != 0).sum()) for value in _parameters(folder).values())
    assert sparsity["nonzero_parameters"] == nonzero
    assert sparsity["parameters_before"] == record["parameters"]
    assert open_finished(folder).model_node["widths"] == [4, 8]


def _parameters(folder):
    return dict(open_finished(folder).model.named_parameters())


def test_pruning_is_gradual_and_what_is_out_stays_out(composer):
    plain = settle(composer(*TINY, "model.widths=[4,8]"))
    model = build_model(plain)
    objective = Prune(0.8, False, 4)
    objective.prepare(model, build_data(plain).spec, {})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    shares, before = [], None
    for done in range(8):
        objective.advance(model, done, 8)
        out = torch.cat([mask.flatten() == 0 for mask in objective.masks])
        assert before is None or bool(out[before].all())
        shares.append(float(out.float().mean()))
        before = out
        model(torch.randn(2, 1, 16, 16)).logits.square().mean().backward()
        optimizer.step()
        objective.after_update(model)
    expected = [0.8 * (1 - (1 - r / 4) ** 3) for r in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert shares == pytest.approx(expected, abs=1e-3)
    assert zeros(model.state_dict()) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("rounds", "total"), [(1, 5), (8, 3), (8, 8), (3, 7)])
def test_the_whole_amount_is_out_before_the_stage_ends(composer, rounds, total):
    plain = settle(composer(*TINY, "model.widths=[4,8]"))
    model = build_model(plain)
    objective = Prune(0.5, False, rounds)
    objective.prepare(model, build_data(plain).spec, {})
    for done in range(total):
        objective.advance(model, done, total)
    assert zeros(model.state_dict()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_an_interrupted_run_goes_on_with_its_masks(start, interrupted, epoch):
    straight = start("straight", *PRUNE)
    with interrupted(before_epoch=epoch):
        start("stopped", *PRUNE)
    stopped = start("stopped", *PRUNE)
    assert history(stopped) == history(straight)
    one, other = (checkpoint(folder, 3) for folder in (straight, stopped))
    assert any("mask" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    scores = [timeless(read_record(folder)["metrics"]) for folder in (straight, stopped)]
    assert scores[0] == scores[1]


def test_no_other_callback_sees_what_is_pruned(start, monkeypatch):
    from segsweep.callbacks import History

    seen = []
    monkeypatch.setattr(
        History, "on_train_batch_end", lambda self, trainer, task, *_: seen.append(zeros(task.model.state_dict())),
        raising=False,
    )  # fmt: skip
    start("run", *PRUNE, "regime.stages.shrink.objective.rounds=1")
    assert len(seen) == 12
    assert min(seen) >= 0.49


def test_channels_leave_the_model_and_its_run_is_opened_like_any_other(finished, start):
    folder = start("run", *PRUNE, f'init_from="{finished}"', STRUCTURED, "trainer.max_epochs=2")
    record = read_record(folder)
    assert json.loads((folder / "checkpoints" / "best.json").read_text())["model"]["widths"] == [2, 4]
    run = open_finished(folder)
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    assert record["parameters"] == parameters < record["sparsity"]["parameters_before"] / 3
    assert record["flops"] < read_record(finished)["flops"] / 2
    # What was tested is what was written.
    assert run.model(torch.zeros(1, 1, 48, 48)).logits.shape == (1, 11, 48, 48)


REMOVABLE = {
    "unet": ["model.widths=[8,16,32]"],
    "fcn": NARROW["fcn"],
    "conv_autoencoder": NARROW["conv_autoencoder"],
    "vae": NARROW["vae"],
}


@pytest.mark.parametrize("model", REMOVABLE)
@pytest.mark.parametrize("amount", [0.25, 0.5])
def test_taking_dead_channels_out_changes_no_logit(pruned, model, amount):
    whole, objective, node = pruned(amount, f"model={model}", *REMOVABLE[model])
    narrow, narrow_node = objective.kept(whole, node, make_model)
    assert narrow_node["widths"] == [num_kept(width, amount) for width in node["widths"]]
    image = torch.randn(2, 1, 40, 56, generator=torch.Generator().manual_seed(0))
    before, after = (one.eval()(image).logits for one in (whole, narrow))
    assert torch.allclose(before, after, atol=1e-4)
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.999
    assert sum(p.numel() for p in narrow.parameters()) < (1.15 - amount) * sum(p.numel() for p in whole.parameters())
    again = make_model(narrow_node)
    again.load_state_dict(narrow.state_dict())


def test_where_other_modules_see_the_channels_zeros_stay_and_the_log_says_so(pruned, caplog):
    whole, objective, node = pruned(0.5, "model=reseg", *NARROW["reseg"])
    kept, kept_node = objective.kept(whole, node, make_model)
    objective.kept(whole, node, make_model)
    assert kept is whole
    assert kept_node == node
    assert caplog.text.count("save neither time nor space") == 1


def test_random_numbers_are_those_of_a_run_that_keeps_the_model(pruned):
    whole, objective, node = pruned(0.5, "model.widths=[4,8]")
    state = torch.get_rng_state()
    objective.kept(whole, node, make_model)
    assert torch.equal(torch.get_rng_state(), state)


def test_channels_that_are_worth_least_go_first():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1, bias=False), torch.nn.BatchNorm2d(3))
    with torch.no_grad():
        model[0].weight[:, 0, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
        model[1].weight[:] = torch.tensor([1.0, -1.0, 0.1])
    objective = Prune(0.34, True, 1)
    objective.prepare(model, None, {})
    objective.advance(model, 0, 1)
    assert [pair.name for pair in pairs(model)] == ["0"]
    assert objective.masks[0].tolist() == [1, 1, 0]
    assert model[0].weight.flatten().tolist() == [1.0, 2.0, 0.0]
    assert least(torch.tensor([[3.0, 1.0], [2.0, 4.0]]), 2).tolist() == [[1, 0], [0, 1]]
    assert taken_out(model, {}, {}, make_model) is None  # no widths


@pytest.mark.parametrize(
    "model",
    ["reseg", "segnet_basic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("renet", "fc_densenet"))],
)
def test_single_weights_of_any_model_can_go(composer, model):
    plain = settle(composer(*TINY, f"model={model}", *NARROW[model], "regime=prune"))
    assert mistakes(composer(*TINY, f"model={model}", *NARROW[model], "regime=prune"), {"regime": "prune"}) == []
    segmenter, data = build_model(plain), build_data(plain)
    prepare(data.regime, segmenter, data.spec)
    shrink, finetune = data.regime.objectives.values()
    shrink.advance(segmenter, 0, 1)
    _, terms = finetune(segmenter, next(iter(data.train_dataloader())), make(plain["loss"]))
    terms["total"].backward()
    finetune.after_update(segmenter)
    assert zeros(dict(segmenter.named_parameters())) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.ema=0.9"], "trainer.ema: averages bring back weights"),
        (["regime.stages.shrink.objective.amount=1.0"], "amount=1.0"),
        (["model=renet", *NARROW["renet"], STRUCTURED], "no convolution followed by batch normalisation"),
        (
            ["regime.stages.finetune.objective._target_=segsweep.objectives.Segment"],
            "what is pruned in shrink grows again",
        ),
        (
            ["~regime.stages.shrink", "regime.stages.finetune.share=1.0"],
            "needs an earlier stage with the objective segsweep.objectives.Prune",
        ),
    ],
)
def test_what_cannot_be_pruned_is_refused_in_a_line(composer, overrides, said):
    (line,) = mistakes(composer(*TINY, "regime=prune", *overrides), {"regime": "prune"})
    assert said in line


def test_what_is_left_needs_a_stage_that_prunes():
    with pytest.raises(ValueError, match=r"segsweep\.objectives\.Prune; before it there is none"):
        SegmentPruned().prepare(torch.nn.Identity(), None, {})

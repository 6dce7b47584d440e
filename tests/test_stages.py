"""Training in stages: what is handed over, frozen, continued, and which images a stage sees."""

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from segsweep.check import mistakes
from segsweep.checkpoints import BestWeights, HashedCheckpointIO
from segsweep.config import build_data, build_model, make, make_model, settle
from segsweep.freezing import EncoderSwitch
from segsweep.losses import Reconstruction
from segsweep.models.blocks import ConvEncoder
from segsweep.objectives import Joint, Reconstruct, Segment
from segsweep.run import read_record
from segsweep.staged import prepare
from segsweep.types import Batch
from tests.conftest import TINY, history, quick_ones, timeless
from tests.narrow import NARROW

FEW_LABELS = ["data.labelled_fraction=0.5", "trainer.max_epochs=4"]
PRETRAIN = ["regime=pretrain", "regime.stages.pretrain.share=0.5", *FEW_LABELS]  # two epochs a stage


def weights(folder, epoch, prefix="model."):
    """The weights of a checkpoint whose names begin with a prefix."""
    state = HashedCheckpointIO().load_checkpoint(folder / "checkpoints" / f"last-{epoch}.ckpt")["state_dict"]
    return {name: value for name, value in state.items() if name.startswith(prefix)}


def same(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if torch.equal(a[name], b[name])]


def without_encoder(model):
    return not hasattr(model, "encoder")


@pytest.fixture
def batch():
    """Four images, the last two of which have no label."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 11, (4, 16, 16), generator=generator)
    mask[2:] = 255
    return Batch(torch.randn(4, 1, 16, 16, generator=generator), mask, torch.arange(4), 2)


@pytest.fixture
def parts(composer):
    """``parts(*overrides)`` -> model, loss and facts of the data, as a run would build them."""

    def build(*overrides):
        plain = settle(composer(*TINY, *overrides))
        return build_model(plain), make(plain["loss"]), build_data(plain).spec

    return build


def test_the_segmenter_takes_over_the_encoder_of_the_autoencoder_weight_for_weight(start):
    # The second stage freezes it, so what its epochs hold is what was handed over.
    folder = start("run", *PRETRAIN, "trainer.max_epochs=2", "regime.stages.finetune.encoder=frozen")
    autoencoder, segmenter = (weights(folder, epoch, "model.encoder.") for epoch in (0, 1))
    assert len(autoencoder) > 10
    assert same(autoencoder, segmenter) == list(autoencoder)  # statistics of batch normalisation included
    best = load_file(folder / "checkpoints" / "best.safetensors")
    for name, value in autoencoder.items():
        assert torch.equal(best[name.removeprefix("model.")], value)


def test_each_stage_trains_its_own_part(start, parts):
    folder = start("run", *PRETRAIN, "trainer.max_epochs=2")
    model, _, _ = parts("model.widths=[4,8]")
    fresh = {f"model.{name}": value for name, value in model.state_dict().items()}
    first, second = weights(folder, 0), weights(folder, 1)
    trained = [name for name in first if name.endswith("weight")]
    assert {name for name in trained if not torch.equal(first[name], fresh[name])} == {
        name for name in trained if name.startswith("model.encoder.")
    }
    assert not [name for name in trained if torch.equal(first[name], second[name])]
    decoder = "objectives.pretrain.decoder."
    assert same(weights(folder, 0, decoder), weights(folder, 1, decoder)) == list(weights(folder, 0, decoder))


def test_what_only_training_needs_is_not_kept(start, parts):
    best = load_file(start("run", *PRETRAIN) / "checkpoints" / "best.safetensors")
    assert best.keys() == parts("model.widths=[4,8]")[0].state_dict().keys()


def test_every_stage_has_an_optimizer_and_a_schedule_of_its_own(start):
    folder = start("run", *PRETRAIN, "scheduler=cosine")
    rates = [line["lr"] for line in history(folder)]
    assert rates[1] < 0.2 * max(rates[0], rates[2])
    assert rates[3] < 0.2 * rates[2]
    state = HashedCheckpointIO().load_checkpoint(folder / "checkpoints" / "last-3.ckpt")["optimizer_states"][0]
    steps = {int(value["step"]) for value in state["state"].values()}
    assert steps == {6}  # two epochs of three steps: nothing is left of the stage before


@pytest.mark.parametrize(
    ("regime", "stage", "epochs", "epoch"),
    [
        pytest.param("pretrain", "finetune", 4, 1, marks=pytest.mark.slow),  # in the first stage
        ("pretrain", "finetune", 4, 2),  # between both
        pytest.param("pretrain", "finetune", 4, 3, marks=pytest.mark.slow),
        pytest.param("pretrain", "finetune", 5, 3, marks=pytest.mark.slow),  # the second stage began within an epoch
        pytest.param("joint", "joint", 4, 2, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on_in_its_stage(start, interrupted, regime, stage, epochs, epoch):
    overrides = ["name=run", *(PRETRAIN if regime == "pretrain" else FEW_LABELS)]
    overrides += [f"regime={regime}", f"trainer.max_epochs={epochs}"]
    overrides.append(f"regime.stages.{stage}.encoder=thawed")
    straight = start("straight", *overrides)
    with interrupted(before_epoch=epoch):
        start("stopped", *overrides)
    stopped = start("stopped", *overrides)
    assert history(stopped) == history(straight)
    last = weights(straight, epochs - 1, "")
    assert same(last, weights(stopped, epochs - 1, "")) == list(last)
    scores = [timeless(read_record(folder)["metrics"]) for folder in (straight, stopped)]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_scratch_run_has_as_many_steps(start):
    folders = [start(regime, *FEW_LABELS, f"regime={regime}") for regime in ("supervised", "pretrain")]
    assert [read_record(folder)["steps"] for folder in folders] == [12, 12]


def test_the_best_epoch_is_one_of_the_last_stage(tmp_path):
    def epoch(number, stage, value):
        task = SimpleNamespace(stage_index=stage, is_validated=True, model=torch.nn.Linear(1, 1))
        trainer = SimpleNamespace(current_epoch=number, callback_metrics={"val/miou": torch.tensor(value)})
        best.on_train_epoch_end(trainer, task)
        return best.epoch

    best = BestWeights(tmp_path, "val/miou", {}, make_model)
    assert [epoch(0, 0, 0.8), epoch(1, 0, 0.9), epoch(2, 1, 0.1), epoch(3, 1, 0.05), epoch(4, 1, 0.2)] == [
        0,
        1,
        2,
        2,
        4,
    ]
    continued = BestWeights(tmp_path, "val/miou", {}, make_model)
    continued.load_state_dict(best.state_dict())
    assert (continued.epoch, continued.stage) == (4, 1)


def test_early_stopping_waits_for_the_last_stage(start):
    folder = start("run", *PRETRAIN, "trainer.max_epochs=6", "trainer.early_stopping.threshold=0.0")
    assert [line["stage"] for line in history(folder)] == [0, 0, 0, 1]


def test_an_encoder_thaws_from_its_coarsest_level():
    model = torch.nn.Module()
    model.encoder = ConvEncoder(1, (2, 4))
    switch = EncoderSwitch(model)
    names = [name for name, _ in model.encoder.named_parameters()]

    def trained():
        return [name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad]

    switch.set("thawed")
    assert trained() == []
    switch.thaw(0.25)
    assert trained() == names[-math.ceil(len(names) / 4) :]
    switch.thaw(1.5)
    assert trained() == names


def test_what_a_model_has_frozen_stays_frozen():
    model = torch.nn.Module()
    model.encoder = ConvEncoder(1, (2, 4))
    model.encoder.levels[0].requires_grad_(False)
    switch = EncoderSwitch(model)
    switch.set("trained")
    assert not any(parameter.requires_grad for parameter in model.encoder.levels[0].parameters())
    assert all(parameter.requires_grad for parameter in model.encoder.levels[1].parameters())


def test_a_mixed_batch_holds_as_many_unlabelled_images_as_labelled_ones(composer):
    plain = settle(composer(*TINY, "regime=joint", "data.labelled_fraction=0.25", "data.batch_size=5"))
    data = build_data(plain)
    labelled = set(data.labelled().tolist())
    shown = [batch.index.tolist() for batch in data.train_dataloader()]
    assert [len(index) for index in shown] == [10, 10, 10]
    for index in shown:
        assert [position in labelled for position in index] == [True] * 5 + [False] * 5
    masks = torch.cat([batch.mask for batch in data.train_dataloader()]).flatten(1)
    assert [bool((mask == 255).all()) for mask in masks] == [i % 10 >= 5 for i in range(30)]


def test_a_mixed_batch_without_unlabelled_images_is_labelled(composer):
    batches = {}
    for images in ("mixed", "labelled"):
        plain = settle(composer(*TINY, "regime=joint", f"regime.stages.joint.images={images}"))
        batches[images] = [batch.index.tolist() for batch in build_data(plain).train_dataloader()]
    assert batches["mixed"] == batches["labelled"]


def test_joint_training_adds_the_reconstruction_of_all_images(parts, batch):
    model, loss, spec = parts("model.widths=[4,8]")
    objective = Joint(0.5)
    objective.prepare(model, spec, {})
    model.eval()
    objective.eval()
    output, terms = objective(model, batch, loss)
    rebuilt = objective.decoder(model.encoder(batch.image)[-1])
    expected = torch.nn.functional.mse_loss(rebuilt, batch.image)
    labelled = Batch(batch.image[:2], batch.mask[:2], batch.index[:2])
    assert torch.isclose(terms["joint_reconstruction"], expected)
    assert torch.isclose(terms["total"], loss(model(labelled.image), labelled)["total"] + 0.5 * expected)
    assert output.logits.shape[0] == 2
    assert torch.equal(objective.view(model, batch.image).reconstruction, rebuilt)


def test_joint_training_of_an_autoencoder_uses_its_own_decoder(parts, batch):
    model, loss, spec = parts("model=conv_autoencoder", *NARROW["conv_autoencoder"])
    objective = Joint(0.5)
    objective.prepare(model, spec, {})
    model.eval()
    _, terms = objective(model, batch, loss)
    labelled, unlabelled = batch.divide()
    own = [loss.without_labels(model(part.image), part)["total"] for part in (labelled, unlabelled)]
    segmentation = loss(model(labelled.image), labelled)["total"] - own[0]
    assert not list(objective.parameters())
    assert torch.isclose(terms["total"], segmentation + (own[0] + own[1]) / 2)
    control = Joint(0.0)
    control.prepare(model, spec, {})
    assert torch.isclose(control(model, batch, loss)[1]["total"], segmentation)


def test_joint_training_with_factor_0_is_supervised(parts, batch):
    model, loss, spec = parts("model.widths=[4,8]")
    joint, supervised = Joint(0.0), Segment()
    joint.prepare(model, spec, {})
    assert joint(model, batch, loss)[1].keys() == supervised(model, batch, loss)[1].keys()
    assert not list(joint.parameters())


def test_a_model_with_an_image_decoder_reconstructs_with_it(parts, batch):
    model, loss, spec = parts("model=vae", *NARROW["vae"])
    objective = Reconstruct(0.0, 0.0, 8)
    objective.prepare(model, spec, {})
    output, terms = objective(model, batch, loss)
    assert output is None
    assert objective.decoder is None
    assert set(terms) == {"total", "reconstruction", "kl"}
    terms["total"].backward()
    assert all(parameter.grad is None for parameter in model.mask_decoder.parameters())
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


@pytest.mark.parametrize(("noise", "mask_ratio"), [(0.5, 0.0), (0.0, 0.5)])
def test_reconstruction_sees_spoilt_images_and_is_compared_with_clean_ones(parts, batch, noise, mask_ratio):
    model, loss, spec = parts("model.widths=[4,8]")
    objective = Reconstruct(noise, mask_ratio, 4)
    objective.prepare(model, spec, {})
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    _, terms = objective(model, batch, loss)
    assert not torch.allclose(seen[0], batch.image)
    with torch.no_grad():
        objective.decoder = torch.nn.Conv2d(8, 1, 1)  # a reconstruction that is 0 everywhere
        for parameter in objective.decoder.parameters():
            parameter.zero_()
    _, terms = objective(model, batch, loss)
    assert torch.isclose(terms["total"], batch.image.square().mean())


def test_a_loss_whose_terms_all_need_labels_says_so(parts, batch):
    model, loss, spec = parts("model=conv_autoencoder", *NARROW["conv_autoencoder"], "loss.terms.reconstruction=0")
    objective = Reconstruct(0.0, 0.0, 8)
    objective.prepare(model, spec, {})
    with pytest.raises(ValueError, match="none of them applies"):
        objective(model, batch, loss)


def test_a_custom_loss_has_to_tell_which_terms_need_no_label(parts, batch):
    model, _, spec = parts("model=conv_autoencoder", *NARROW["conv_autoencoder"])
    objective = Reconstruct(0.0, 0.0, 8)
    objective.prepare(model, spec, {})
    with pytest.raises(ValueError, match="without_labels"):
        objective(model, batch, Reconstruction("mse", (0.5,), (0.5,)))


@pytest.mark.parametrize("model", quick_ones("model", "unet", "renet"))
def test_every_model_with_an_encoder_can_be_pretrained_from_the_command_line(composer, model):
    overrides = [f"model={model}", *NARROW.get(model, ()), "regime=pretrain"]
    lines = mistakes(composer(*TINY, *overrides), {"model": model, "regime": "pretrain"})
    plain = settle(composer(*TINY, *overrides))
    segmenter = build_model(plain)
    if without_encoder(segmenter):
        assert len(lines) == 1
        assert "needs a model with an encoder" in lines[0]
        assert "regime=supervised" in lines[0]
        return
    assert lines == []
    data = build_data(plain)
    prepare(data.regime, segmenter, data.spec)
    _, terms = data.regime.objectives["pretrain"](segmenter, next(iter(data.train_dataloader())), make(plain["loss"]))
    terms["total"].backward()
    gradients = [parameter.grad for parameter in segmenter.encoder.parameters() if parameter.requires_grad]
    reached = [gradient for gradient in gradients if gradient is not None]
    # A library's encoder may have layers behind the map that is used.
    assert len(reached) >= 0.9 * len(gradients)
    assert all(torch.isfinite(gradient).all() for gradient in reached)
    assert not gradients or any(gradient.count_nonzero() for gradient in reached)  # the published trunk is frozen


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("regime.stages.pretrain.images=unlabelled", "regime.stages.pretrain.images"),
        ("regime.stages.finetune.encoder=forzen", "regime.stages.finetune.encoder"),
        ("regime.stages.pretrain.share=0", "regime.stages.pretrain.share"),
        ("regime.stages.pretrain.share=-0.5", "regime.stages.pretrain.share"),
        ("regime.stages.pretrain.objective.noise=-1", "regime.stages.pretrain.objective.noise"),
    ],
)
def test_a_stage_with_a_wrong_value_is_refused(composer, override, key):
    lines = mistakes(composer(*TINY, "regime=pretrain", override), {"regime": "pretrain"})
    assert len(lines) == 1
    assert lines[0].startswith(f"{key}=")


@pytest.mark.parametrize("readout", ["clusters=5", "levels=[9]"])
def test_a_readout_that_does_not_suit_is_refused(composer, readout):
    lines = mistakes(composer(*TINY, "regime=unsupervised", f"regime.readout.{readout}"), {"regime": "unsupervised"})
    assert len(lines) == 1
    assert lines[0].startswith("regime.readout.")


def test_batches_gathered_in_one_stage_do_not_move_a_frozen_encoder(start):
    # Six batches, gathered by two; the second stage begins after the third, within a window.
    overrides = ["regime=pretrain_frozen", "regime.stages.pretrain.share=0.5", "trainer.accumulate_grad_batches=2"]
    early = start("early", *overrides, "trainer.max_epochs=2")
    before, after = (weights(early, epoch, "model.encoder.") for epoch in (0, 1))
    assert same(before, after) == list(before)
    assert read_record(early)["steps"] == 4


def test_a_boundary_within_a_window_hands_over_no_gradient(start):
    overrides = ["regime=pretrain_frozen", "regime.stages.pretrain.share=0.3333", "trainer.max_epochs=1"]
    waiting = start("waiting", *overrides, "trainer.accumulate_grad_batches=3")  # no step before the stage changes
    fresh = start("fresh", *overrides, "trainer.accumulate_grad_batches=3", "optimizer.lr=0.0001")
    trained = [name for name in weights(fresh, 0, "model.encoder.") if name.endswith("weight")]
    same_weights = same(weights(waiting, 0, "model.encoder."), weights(fresh, 0, "model.encoder."))
    assert set(trained) <= set(same_weights)  # whatever the learning rate, nothing moved them


@pytest.mark.parametrize("scheduler", ["one_cycle", pytest.param("cosine", marks=pytest.mark.slow)])
def test_schedules_fit_stages_of_gathered_batches(start, scheduler):
    overrides = ["regime=pretrain", "trainer.accumulate_grad_batches=2", f"scheduler={scheduler}"]
    assert read_record(start("run", *overrides, "data.num_train=20", "trainer.max_epochs=4"))["steps"] == 12


def test_fewer_batches_than_stages_are_refused(start):
    with pytest.raises(ValueError, match="2 stages, and training 1 batches"):
        start("run", *PRETRAIN, "trainer.max_epochs=1", "trainer.limit_train_batches=1")


@pytest.mark.slow
def test_a_plateau_schedule_goes_on_where_it_was(start, interrupted):
    overrides = ["name=run", *FEW_LABELS, "scheduler=plateau", "scheduler.patience=0", "trainer.max_epochs=5"]
    overrides.append("+scheduler.threshold=1.0")  # nothing counts as better

    straight = start("straight", *overrides)
    with interrupted(before_epoch=3):
        start("stopped", *overrides)
    stopped = start("stopped", *overrides)
    rates = [line["lr"] for line in history(straight)]
    assert len(set(rates)) > 1
    assert history(stopped) == history(straight)
    assert sorted(path.name for path in (stopped / "checkpoints").glob("*.ckpt")) == ["last-3.ckpt", "last-4.ckpt"]


@pytest.mark.parametrize(
    "mix", ["classmix", *(pytest.param(n, marks=pytest.mark.slow) for n in ("cutmix", "copy_paste"))]
)
def test_mixing_takes_no_label_from_labelled_images(composer, mix):
    augment = ["augment=none", f"augment.mix={mix}", "augment.mix_probability=1.0", "data.labelled_fraction=0.25"]
    shown = {}
    for regime in ("supervised", "joint"):
        plain = settle(composer(*TINY, *augment, f"regime={regime}"))
        shown[regime] = next(iter(build_data(plain).train_dataloader()))
    assert torch.equal(shown["supervised"].image, shown["joint"].image[:4])
    assert torch.equal(shown["supervised"].mask, shown["joint"].mask[:4])
    assert (shown["joint"].mask[:4] != 255).all()

"""What the history file says of a run."""

import json

from segsweep.train import train
from tests.conftest import TINY


def test_an_epoch_has_the_loss_terms_of_its_own_stages_alone(composer, tmp_path):
    """Four epochs of three steps; stage 2 begins after the fourth step, within the second epoch."""
    overrides = ["model=unet", "model.widths=[4,8]", "regime=pretrain", "regime.stages.pretrain.share=0.33"]
    cfg = composer(*TINY, *overrides, "trainer.max_epochs=4")
    train(cfg, tmp_path, {"choices": {}, "overrides": [], "sweep": None})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    def terms(stage):
        return [{k.split("/")[-1] for k in line if k.startswith(f"{stage}/loss/")} for line in lines]

    own = {"cross_entropy", "dice"}
    assert terms("val") == [{"reconstruction"}, own, own, own]
    assert terms("train") == [{"reconstruction"}, {"reconstruction"} | own, own, own]
    metrics = json.loads((tmp_path / "record.json").read_text())["metrics"]
    assert "val/loss/reconstruction" not in metrics

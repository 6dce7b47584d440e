"""On an accelerator the host must not wait in a step; it agrees with the CPU."""

import warnings

import pytest
import pytorch_lightning as pl
import torch

from segsweep import config, counting
from segsweep.curves import ScoreCounts
from segsweep.guard import UpdateGuard
from segsweep.types import SegmenterOutput
from tests.conftest import batch_of, loss_overrides, options

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: see scripts/gpu_check.sh")
IGNORED = 255


@pytest.fixture
def _no_waiting():
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("option", options("loss"))
def test_a_loss_does_not_wait_for_the_device(composer, example, option):
    loss = config.make(config.settle(composer("trainer=cpu", *loss_overrides(option)))["loss"])
    logits, mask = example
    batch = batch_of(mask, torch.randn(2, 1, 6, 5))
    expected = loss(SegmenterOutput(logits), batch)["total"]
    loss, logits, batch = loss.cuda(), logits.cuda().requires_grad_(), type(batch)(*(x.cuda() for x in batch))
    torch.cuda.set_sync_debug_mode("error")
    total = loss(SegmenterOutput(logits), batch)["total"]
    total.backward()
    torch.cuda.set_sync_debug_mode("default")
    assert total.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("count", [counting.confusion_per_image, counting.boundary_per_image])
def test_counting_does_not_wait_for_the_device(example, count):
    logits, mask = example
    prediction = logits.argmax(dim=1)
    expected = count(prediction, mask, 11, IGNORED)
    prediction, mask = prediction.cuda(), mask.cuda()
    torch.cuda.set_sync_debug_mode("error")
    counts = count(prediction, mask, 11, IGNORED)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(counts.cpu(), expected)


@pytest.mark.usefixtures("_no_waiting")
def test_counting_probabilities_does_not_wait_for_the_device(example):
    logits, mask = example
    here, there = ScoreCounts(11, IGNORED), ScoreCounts(11, IGNORED).cuda()
    here.update(logits, mask)
    logits, mask = logits.cuda(), mask.cuda()
    torch.cuda.set_sync_debug_mode("error")
    there.update(logits, mask)
    torch.cuda.set_sync_debug_mode("default")
    assert abs(there.compute() - here.compute()).sum() <= 4  # a probability may be rounded into the next bin


@pytest.mark.usefixtures("_no_waiting")
def test_the_norm_of_a_gradient_does_not_wait_for_the_device():
    weight = torch.nn.Parameter(torch.ones(3, device="cuda"))
    weight.grad = torch.full_like(weight, 2.0)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    guard = UpdateGuard(str, looks_at_once=False)
    loss, images = torch.ones((), device="cuda"), torch.arange(2, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    for step in range(3):
        guard.see({"total": loss}, images, 0, step)
        guard.before_update(optimizer, 0, step, is_scaled=False)
    torch.cuda.set_sync_debug_mode("default")
    norms = guard.take_norms()
    assert norms == pytest.approx({"grad_norm": 12**0.5, "grad_norm_max": 12**0.5})


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("overrides", [[], ["data.crop=[32,32]"], ["augment=strong"], ["data.storage=memory"]])
def test_no_step_waits_for_the_device(composer, tmp_path, overrides):
    """The whole step, Lightning's part included: the first ones warm up, as the caching allocator does."""
    numbers = ["data.num_train=160", "data.num_val=16", "data.num_test=16"]
    cfg = composer("trainer=gpu", "trainer.max_epochs=1", *numbers, *overrides)
    plain = config.settle(cfg)
    parts = config.build(plain, config.build_model(plain), tmp_path, None)

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, task, batch, batch_idx):
            if batch_idx == 3:
                torch.cuda.set_sync_debug_mode("warn")

        def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
            if batch_idx == 7:
                torch.cuda.set_sync_debug_mode("default")

    parts.trainer.callbacks.insert(0, Watch())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parts.trainer.fit(parts.task, datamodule=parts.data, weights_only=True)
    seen = [str(one.message) for one in caught if "synchroniz" in str(one.message)]
    assert not seen

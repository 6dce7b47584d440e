"""Gradients of resized maps that are concatenated: in the memory layout in which torch's CPU code is quick."""

import pytest
import torch
from torch.profiler import profile

from segsweep import config
from segsweep.models.blocks import with_own_gradient

MODELS = {"unet": [], "gated_sweep": [], "smp": ["model.arch=Unet", "model.encoder_name=resnet18"]}


@pytest.mark.filterwarnings("ignore:The profiler")
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_turned_around_in_memory_on_the_way_back(composer, name):
    plain = config.settle(composer("trainer=cpu", f"model={name}", *MODELS[name]))
    model = config.build_model(plain).to(memory_format=torch.channels_last).train()
    image = torch.randn(2, plain["data"]["in_channels"], 64, 64).to(memory_format=torch.channels_last)
    logits = model(image).logits
    with profile() as found:
        logits.square().mean().backward()
    resized = [event for event in found.events() if event.name.startswith("aten::upsample")]
    assert resized
    assert {child.name for event in resized for child in event.cpu_children}.isdisjoint(
        {"aten::contiguous", "aten::copy_", "aten::clone"}
    )


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_gradient_is_the_same(layout):
    def gradient(wrap):
        x = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=layout).requires_grad_()
        up = wrap(torch.nn.functional.interpolate(x, scale_factor=2.0))
        both = torch.cat([up, torch.ones(1, 3, 6, 8).contiguous(memory_format=layout)], dim=1)
        (both * torch.arange(240.0).view(1, 5, 6, 8)).sum().backward()
        return x.grad

    assert torch.equal(gradient(with_own_gradient), gradient(lambda x: x))

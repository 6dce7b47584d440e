import numpy as np
import pytest
import torch

from segsweep import config
from segsweep.data.far_cue import FarCue

SETTINGS = {
    "size": (24, 96), "gap": 60, "num_train": 90, "num_val": 30, "num_test": 30, "max_discs": 3, "noise": 0.03,
    "scene_seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    source = FarCue(**SETTINGS)
    return [source.read("train", i) for i in range(90)]


def test_a_scene_is_a_pure_function_of_seed_split_and_position(scenes):
    again = FarCue(**{**SETTINGS, "num_train": 500})
    image, mask, _ = again.read("train", 7)
    assert np.array_equal(image, scenes[7][0])
    assert np.array_equal(mask, scenes[7][1])
    others = [again.read("val", 7), FarCue(**{**SETTINGS, "scene_seed": 1}).read("train", 7), scenes[8]]
    assert not any(np.array_equal(image, other[0]) for other in others)


def test_all_discs_of_a_scene_have_one_class_and_all_classes_occur(scenes):
    kinds = [set(np.unique(mask).tolist()) - {0} for _, mask, _ in scenes]
    assert all(len(kind) == 1 for kind in kinds)
    assert set.union(*kinds) == {1, 2, 3}


def test_the_cue_stands_at_the_far_side_and_alone_tells_the_class(scenes):
    for image, mask, _ in scenes:
        if (mask > 0).any(axis=0).argmax() < 48:
            image, mask = image[:, ::-1], mask[:, ::-1]
        first_disc = (mask > 0).any(axis=0).argmax()
        assert first_disc >= 9 + 60
        grey = image[:, :18, 0].astype(int)
        light, dark = grey.max() > 175, grey.min() < 55
        assert {(True, False): 1, (False, True): 2, (True, True): 3}[bool(light), bool(dark)] == mask.max()


def test_discs_of_all_classes_look_alike(scenes):
    means = [
        np.mean([image[mask == kind].mean() for image, mask, _ in scenes if (mask == kind).any()]) for kind in (1, 2, 3)
    ]
    assert np.ptp(means) < 5


def test_a_unet_cannot_see_the_cue_and_a_sweep_can(composer):
    def reach(*overrides):
        plain = config.settle(composer("data=far_cue", "trainer=cpu", *overrides))
        model = config.build_model(plain)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):  # sweeps start as the identity
            model(torch.randn(2, 1, 24, 96)).logits.square().mean().backward()
            optimizer.step()
        image = torch.randn(1, 1, 24, 96, requires_grad=True)
        model.eval()(image).logits[..., 70:].sum().backward()
        return image.grad[..., :9].abs().max().item()

    assert reach("model=unet") == 0
    assert reach("model=gated_sweep", "model.recurrence=off") == 0
    assert reach("model=reseg", "model.recurrence=off") == 0
    assert reach("model=gated_sweep") > 0
    assert reach("model=reseg") > 0


def test_a_scene_without_room_is_refused():
    with pytest.raises(
        ValueError, match=r"data.size=\[24, 64\] is too small: data.gap=60 needs 18 rows and 93 columns"
    ):
        FarCue(**{**SETTINGS, "size": (24, 64)})

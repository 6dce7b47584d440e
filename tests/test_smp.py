"""The door to segmentation-models-pytorch: its names, its arguments, its pretrained weights, and sizes of any kind."""

import copy
import pickle
import re

import pytest
import torch

from segsweep.models import repetition
from segsweep.models.smp import SMP, segmenter

smp = pytest.importorskip("segmentation_models_pytorch")

TINY = "tu-test_resnet"  # timm has tiny networks for tests


def build(arch="Unet", encoder_name=TINY, encoder_weights=None, options=None, in_channels=3):
    torch.manual_seed(0)
    return SMP(in_channels, 3, arch, encoder_name, encoder_weights, options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arch": "Unett"}, "arch=Unett: there is no such architecture. Did you mean Unet"),
        ({"encoder_name": "resnet35"}, "encoder_name=resnet35: there is no such encoder. Did you mean .*resnet34"),
        ({"encoder_name": "convnext_tiny"}, "Did you mean tu-convnext_tiny"),
        ({"encoder_name": "zzzz"}, "There is: tu-<any network of timm>, resnet18, .* and 61 more"),
        ({"encoder_name": "resnet18", "encoder_weights": "imgnet"}, "There is: imagenet, ssl, swsl, null"),
        (
            {"encoder_name": "tu-resnet18.x", "encoder_weights": "imagenet"},
            "timm has no weights for tu-resnet18.x. There is: tu-resnet18.a1_in1k",
        ),
        ({"options": {"decoder_chanels": [8]}}, "options=decoder_chanels: no argument of Unet. .*decoder_channels"),
        ({"encoder_name": "resnet18", "options": {"drop_rate": 0.1}}, "options=drop_rate: no argument of Unet"),
        ({"options": {"activation": "sigmoid"}}, "options=activation is set by segsweep itself"),
        ({"arch": "DPT", "encoder_name": "resnet18"}, "must start with 'tu-'"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(**given)
    assert "\n" not in str(caught.value)


def test_the_check_names_the_key(composer):
    from segsweep.check import mistakes

    lines = mistakes(composer("model=smp", "model.arch=Unett", "trainer=cpu"), {"model": "smp"})
    assert lines == ["model.arch=Unett: there is no such architecture. Did you mean Unet or UPerNet or MAnet?"]


def test_options_and_timm_arguments_reach_the_library():
    narrow = build(options={"decoder_channels": [8, 8, 8, 8, 8], "drop_path_rate": 0.1})
    assert sum(p.numel() for p in narrow.decoder.parameters()) < sum(p.numel() for p in build().decoder.parameters())


def test_without_the_library_the_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "segmentation_models_pytorch", None)
    with pytest.raises(ImportError, match=re.escape('pip install "segmentation-models-pytorch>=0.6"')):
        build()


ARCHITECTURES = [name.__name__ for name in smp.MODEL_ARCHITECTURES_MAPPING.values()]


@pytest.mark.parametrize(
    "arch",
    [pytest.param(n, marks=[] if n in ("Unet", "DeepLabV3Plus", "DPT") else pytest.mark.slow) for n in ARCHITECTURES],
)
def test_every_architecture_is_the_librarys_own(arch):
    """With the weights of the library's network, and with padding where that refuses a size."""
    encoder = "tu-test_vit" if arch == "DPT" else TINY
    extra = {"dynamic_img_size": True} if arch == "DPT" else {}
    narrow = {"DPT": {"decoder_intermediate_channels": [8, 8, 8, 8]}, "UPerNet": {"decoder_channels": 16}}.get(arch, {})
    ours = build(arch, encoder, options=narrow).eval()
    theirs = getattr(smp, arch)(encoder, encoder_weights=None, in_channels=3, classes=3, **narrow, **extra).eval()
    parts = {"encoder.": "encoder.body.", "decoder.": "decoder.", "segmentation_head.": "head."}
    weights = {}
    for name, value in theirs.state_dict().items():
        part = next(p for p in parts if name.startswith(p))
        weights[parts[part] + name.removeprefix(part)] = value
    missing, _ = ours.load_state_dict(weights, strict=False)
    assert missing == []  # the library's may have parts that do nothing
    image = torch.randn(1, 3, 128, 160)
    with torch.inference_mode():
        assert torch.equal(ours(image).logits, theirs(image))
        width = 152 if ours.encoder.stride == 8 else 160
        padded = torch.nn.functional.pad(image[..., :121, :150], (0, width - 150, 0, 7))
        torch.testing.assert_close(ours(image[..., :121, :150]).logits, theirs(padded)[..., :121, :150])


@pytest.mark.parametrize("options", [{"decoder_attention_type": "scse"}, {"decoder_interpolation": "bilinear"}, {}])
def test_a_unet_is_the_librarys_own_while_it_trains(monkeypatch, options):
    monkeypatch.setattr(repetition, "_LEAST_PIXELS", 0)
    monkeypatch.setattr(repetition, "_LEAST_PRODUCTS", 0)
    ours = build(options=options).double().to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64).to(memory_format=torch.channels_last)
    library = copy.deepcopy(ours)
    for block in library.decoder.blocks:
        block.__class__ = type(block).__base__
    assert torch.equal(ours.eval()(image).logits, library.eval()(image).logits)
    torch.testing.assert_close(ours.train()(image).logits, library.train()(image).logits, rtol=1e-10, atol=1e-10)


def test_a_unet_can_be_pickled_and_copied():
    model = build().eval()
    image = torch.randn(1, 3, 64, 64)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(other(image).logits, model(image).logits)


def test_parts_that_do_nothing_are_left_out():
    assert sum(p.numel() for p in build("PSPNet", "resnet18").parameters()) < 2e6  # the library's has 11 M
    assert (
        "head.weight"
        not in build(
            "DPT", "tu-test_vit", options={"decoder_intermediate_channels": [8, 8, 8, 8]}
        ).encoder.body.model.state_dict()
    )  # timm's classifier


def test_what_does_nothing_is_looked_for_once_for_networks_of_one_kind(monkeypatch):
    monkeypatch.setattr(segmenter, "_known", {})
    first = build("PSPNet", "resnet18")
    monkeypatch.setattr(segmenter, "_unused", lambda *_: pytest.fail("looked for again"))
    again = build("PSPNet", "resnet18")
    assert [*again.state_dict()] == [*first.state_dict()]
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in first.parameters()]
    for other in ({"in_channels": 1}, {"options": {"psp_out_channels": 64}}, {"encoder_name": "resnet34"}):
        with pytest.raises(pytest.fail.Exception, match="looked for again"):
            build(**{"arch": "PSPNet", "encoder_name": "resnet18", **other})


def test_one_image_that_cannot_be_normalised_is_explained():
    with pytest.raises(ValueError, match=r"DeepLabV3Plus cannot train on 1 image of 64x64.*data.batch_size=2"):
        build("DeepLabV3Plus").train()(torch.randn(1, 3, 64, 64))


def test_an_image_that_is_too_small_is_explained():
    with pytest.raises(ValueError, match=r"PAN needs images larger than 32x32: raise data.size"):
        build("PAN").eval()(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_weights_that_cannot_be_had_are_explained_at_once(monkeypatch, tmp_path, encoder):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"encoder_weights=imagenet: .*hf download.*HF_HUB_CACHE.*encoder_weights=null"
    ):
        build(encoder_name=encoder, encoder_weights="imagenet")


def test_weights_are_taken_from_the_cache(monkeypatch, tmp_path):
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    folder = tmp_path / f"models--{found['repo_id'].replace('/', '--')}" / "snapshots" / found["revision"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    weights = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    save_file(weights, folder / "model.safetensors")
    body = build(encoder_name="resnet18", encoder_weights="imagenet").encoder.body
    assert torch.equal(body.conv1.weight, weights["conv1.weight"])
    with torch.device("meta"):  # a check builds it so, and loads nothing
        SMP(3, 3, "Unet", "resnet18", "imagenet", None)


def test_the_record_says_which_weights_the_encoder_had(composer):
    from segsweep import config, train

    for option, weights in (("unet", None), ("fpn", None), ("fpn model.encoder_weights=imagenet", "imagenet")):
        plain = config.settle(composer("trainer=cpu", *f"model={option}".split()))
        assert train.identity(plain)["pretrained"] == weights

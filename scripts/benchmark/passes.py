"""Passes over whole maps that cost more than they must, as they are here and as plain operations of torch.

    python scripts/benchmark/passes.py
    python scripts/benchmark/passes.py --device cuda --batch-size 64

The loss (cross entropy plus Dice) of bf16 logits, batch normalisation with its ReLU, a map that is resized and
concatenated with a skip, the convolution that follows, one of a deep, narrow map, each forward and backward; the best
class of each pixel, and what metrics follow from; and all of it together: a U-Net on a ResNet-18 with its loss, forward
and backward, against the library's own with the plain loss. By turns.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from bare import wait_for
from measure import parser, print_head, print_table, ratios, spread, take_turns
from torch import Tensor, nn

from segsweep.allocator import keep_memory_between_steps
from segsweep.counting import best_class, boundary_per_image, calibration_per_image, confusion_per_image
from segsweep.losses import CrossEntropy, Dice, WeightedSum, by_class
from segsweep.models.narrow_maps import Conv2d
from segsweep.models.normalisation import BatchNorm2d, Layers
from segsweep.models.repetition import conv_of_repeated, repeat
from segsweep.models.smp import SMP
from segsweep.tally import ImageCounts
from segsweep.types import Batch, SegmenterOutput

IGNORED = 255
CHANNELS = 64  # of a resized map, and of the skip that it is concatenated with
DEEP = 512  # channels of the deepest map
_AREA = 40  # pixels, of a class
OURS, PLAIN = "ours, ms", "plain, ms"
Contest = dict[str, Callable[[], float]]


def plain_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy plus Dice with squared denominators, one operation after another."""
    logits = logits.to(torch.float32, memory_format=torch.contiguous_format)
    valid = (mask != IGNORED)[:, None]
    classes = torch.arange(logits.shape[1], device=mask.device).view(1, -1, 1, 1)
    truth = ((mask[:, None] == classes) & valid).float()
    p = logits.softmax(dim=1) * valid
    overlap, number = (p * truth).sum((0, 2, 3)), truth.sum((0, 2, 3))
    dice = 1 - 2 * overlap / (p.square().sum((0, 2, 3)) + number).clamp(min=1e-6)
    is_there = number > 0
    return F.cross_entropy(logits, mask, ignore_index=IGNORED) + (dice * is_there).sum() / is_there.sum()


def timed(x: Tensor, function: Callable[[Tensor], Tensor], *, is_image: bool = False) -> Callable[[], float]:
    """Milliseconds of a function, and of its backward pass if it has one; what is an image has no gradient itself."""
    result = function(x)
    gradient = torch.ones_like(result) if result.is_floating_point() else None

    def run() -> float:
        variable = x.detach().requires_grad_(gradient is not None and not is_image)
        wait_for(x.device)
        start = time.perf_counter()
        result = function(variable)
        if gradient is not None:
            result.backward(gradient)
        wait_for(x.device)
        return 1e3 * (time.perf_counter() - start)

    run()
    return run


def own_loss(mask: Tensor, classes: int) -> Callable[[SegmenterOutput], Tensor]:
    """What ``plain_loss`` computes, as a run does it."""
    batch = Batch(mask[:, None], mask, torch.arange(len(mask)))
    terms = {"cross_entropy": CrossEntropy(classes, IGNORED, "none", 0.0, 1.0), "dice": Dice(IGNORED)}
    loss = WeightedSum(dict.fromkeys(terms, 1.0), **terms).to(mask.device)
    return lambda output: loss(by_class(output), batch)["total"]


def losses(logits: Tensor) -> Contest:
    """Of maps (N, K, H, W)."""
    num, classes, *size = logits.shape
    mask = torch.randint(0, classes, (num, *size), device=logits.device)
    own = own_loss(mask, classes)
    return {
        OURS: timed(logits, lambda x: own(SegmenterOutput(x))),
        PLAIN: timed(logits, lambda x: plain_loss(x, mask)),
    }


def networks(image: Tensor, classes: int) -> Contest:
    """Of images (N, 3, H, W), in bf16 by autocast."""
    import segmentation_models_pytorch as smp

    mask = torch.randint(0, classes, (len(image), *image.shape[-2:]), device=image.device)
    loss = own_loss(mask, classes)
    ours = SMP(3, classes, "Unet", "resnet18", None).to(image, memory_format=torch.channels_last).train()
    plain = smp.Unet("resnet18", encoder_weights=None, classes=classes).to(image, memory_format=torch.channels_last)

    def in_bf16(function: Callable[[Tensor], Tensor]) -> Callable[[], float]:
        return timed(image, torch.autocast(image.device.type, torch.bfloat16)(function), is_image=True)

    return {
        OURS: in_bf16(lambda x: loss(ours(x))),
        PLAIN: in_bf16(lambda x: plain_loss(plain(x), mask)),
    }


def best_classes(logits: Tensor) -> Contest:
    """Of maps (N, K, H, W)."""
    return {OURS: timed(logits, lambda x: best_class(x)[1]), PLAIN: timed(logits, lambda x: x.max(dim=1).indices)}


def counts(logits: Tensor) -> Contest:
    """Of maps (N, K, H, W) with areas as large as those of a street: all that metrics follow from, image by image."""
    num, classes, *size = logits.shape
    areas, other = torch.randn(2, num, classes, *[side // _AREA for side in size], device=logits.device)
    logits = 4 * F.interpolate(areas, size=size, mode="bilinear").to(logits.dtype)
    mask = F.interpolate(areas + other / 2, size=size, mode="bilinear").argmax(dim=1)
    index, tally = torch.arange(num, device=logits.device), ImageCounts(classes, IGNORED).to(logits.device)

    def plain(logits: Tensor) -> Tensor:
        confidence, prediction = logits.float().softmax(dim=1).max(dim=1)
        calibration_per_image(confidence, prediction == mask, mask != IGNORED)
        confusion_per_image(prediction, mask, classes, IGNORED)
        return boundary_per_image(prediction, mask, classes, IGNORED)

    def ours(logits: Tensor) -> Tensor:
        tally.update(logits, mask, index)
        return tally.boundary[-1]

    return {OURS: timed(logits, ours), PLAIN: timed(logits, plain)}


def normalisations(x: Tensor) -> Contest:
    """Of maps (N, D, H, W), with the ReLU behind it and the gradients of scale and shift."""
    ours = Layers(BatchNorm2d(x.shape[1]), nn.ReLU(inplace=True)).to(x.device)
    plain = nn.Sequential(nn.BatchNorm2d(x.shape[1]), nn.ReLU(inplace=True)).to(x.device)
    return {OURS: timed(x, ours), PLAIN: timed(x, plain)}


def resizes(x: Tensor) -> Contest:
    """Of maps (N, D, h, w), to twice their height and width."""
    skip = F.interpolate(x, scale_factor=2.0)
    return {
        OURS: timed(x, lambda x: repeat(x, skip)),
        PLAIN: timed(x, lambda x: torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1)),
    }


def convolutions(x: Tensor) -> Contest:
    """Of maps (N, D, h, w), and a skip of twice their height and width; with the gradient of the kernel."""
    skip = F.interpolate(x, scale_factor=2.0)
    conv = nn.Conv2d(2 * CHANNELS, CHANNELS // 2, 3, padding=1, bias=False).to(x, memory_format=torch.channels_last)
    return {
        OURS: timed(x, lambda x: conv_of_repeated(conv, x, skip)),
        PLAIN: timed(x, lambda x: conv(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1))),
    }


def narrow_convolutions(x: Tensor) -> Contest:
    """Of maps (N, DEEP, h, w); with the gradient of the kernel."""
    ours, plain = (
        kind(DEEP, DEEP, 3, padding=1, bias=False).to(x, memory_format=torch.channels_last)
        for kind in (Conv2d, nn.Conv2d)
    )
    return {OURS: timed(x, ours), PLAIN: timed(x, plain)}


def main() -> None:
    options = parser(__doc__, rounds=9, batch_size=16, side=320, classes=11)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = options.parse_args()
    print_head("Passes over whole maps", device=args.device)
    keep_memory_between_steps()
    torch.manual_seed(0)

    def maps(channels: int, side: int) -> Tensor:
        values = torch.randn(args.batch_size, channels, side, side, device=args.device)
        return values.bfloat16().to(memory_format=torch.channels_last)

    logits, coarse = maps(args.classes, args.side), maps(CHANNELS, args.side // 4)
    deep = args.side // 32
    whole = f"{args.batch_size} x {args.classes} x {args.side}x{args.side}"
    half = f"{args.batch_size} x {CHANNELS} x {args.side // 2}x{args.side // 2}"
    contests = {
        f"cross entropy plus Dice, {whole}": losses(logits),
        f"best class, {whole}, channels last": best_classes(logits),
        f"best class, {whole}, class by class": best_classes(logits.contiguous()),
        f"confusion, confidence and boundaries of each image, {whole}": counts(logits),
        **{
            f"batch normalisation and ReLU, {args.batch_size} x {channels} x {side}x{side}": normalisations(
                maps(channels, side)
            )
            for channels, side in ((16, args.side), (CHANNELS, args.side // 4))
        },
        f"resize to {half} and concatenate": resizes(coarse),
        f"the same and a 3x3 convolution to {CHANNELS // 2} channels": convolutions(coarse),
        f"3x3 convolution, {args.batch_size} x {DEEP} x {deep}x{deep}": narrow_convolutions(maps(DEEP, deep)),
        f"U-Net and its loss, {args.batch_size} x 3 x {args.side}x{args.side}": networks(
            maps(3, args.side).float(), args.classes
        ),
    }
    rows = []
    for name, contest in contests.items():
        found = take_turns(contest, args.rounds)
        cells = [spread(found[by], 1) for by in (OURS, PLAIN)]
        rows.append((name, *cells, spread(ratios(found[PLAIN], found[OURS]))))
    print_table(("forward, and backward where there is one", OURS, PLAIN, "ours is faster by"), rows)


if __name__ == "__main__":
    main()

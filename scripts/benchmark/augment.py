"""Augmented batches per second: segsweep against torchvision.transforms.v2 and kornia on the same work.

Each image of a batch gets random numbers of its own from all three: torchvision, whose transforms draw once a call, is
called image by image; kornia with ``same_on_batch=False``. Work begins with a batch of bytes on the device and ends
with float images and int64 masks (nearest neighbour, outside ignored). Where contestants differ, the others do less:
they fill with black instead of mirroring, draw noise of one strength, and crop before they move.

    python scripts/benchmark/augment.py --device cpu

Rounds of the contestants alternate, so that a busy machine slows all of them. The Markdown table holds medians over the
rounds: of batches per second, and of the ratios within a round.
"""

import argparse
import importlib
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from segsweep.allocator import keep_memory_between_steps
from segsweep.augment import Augment
from segsweep.rng import mix, uniform

IGNORED = 255
OFF = {
    "hflip": 0.0, "vflip": 0.0, "rotate": 0.0, "zoom": 1.0, "shift": 0.0, "shear": 0.0,
    "brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "gamma": 1.0, "noise": 0.0, "blur": 0.0,
    "cutout": 0.0, "mix": None, "mix_probability": 0.0,
}  # fmt: skip
MOVES = {"hflip": 0.5, "rotate": 15.0, "zoom": 1.5, "shift": 0.1, "shear": 8.0}
BASIC = {**OFF, **MOVES, "brightness": 0.2, "contrast": 1.5}
WORK = {
    "basic": BASIC,
    "strong": {**BASIC, "saturation": 1.5, "hue": 0.05, "gamma": 1.3, "noise": 0.05, "blur": 1.0, "cutout": 0.3},
}
Batch = tuple[Tensor, Tensor]
Contestant = Callable[[Tensor, Tensor], Batch]


class Case(NamedTuple):
    """A batch of images and the size of what comes out."""

    num: int
    size: tuple[int, int]
    channels: int
    out: tuple[int, int]

    def __str__(self) -> str:
        crop = "" if self.out == self.size else f", crops {self.out[0]}x{self.out[1]}"
        return f"{self.num} x {self.size[0]}x{self.size[1]}x{self.channels}{crop}"


CASES = (
    Case(8, (360, 480), 3, (360, 480)),
    Case(16, (48, 48), 1, (48, 48)),
    Case(8, (512, 512), 3, (256, 256)),
)


def segsweep(settings: dict[str, float], case: Case) -> Contestant:
    """Ours, as the DataModule calls it: windows around the crops are cut first."""
    augment = Augment(**settings)
    step = 0

    def run(images: Tensor, masks: Tensor) -> Batch:
        nonlocal step
        step += 1
        index = torch.arange(case.num, device=images.device)
        draws = uniform(mix(0, "augment", step), index, augment.num_draws)
        images, masks, centre = _windows(images, masks, case, augment.reach(case.out), step)
        return augment(images, masks, draws, centre, case.out, IGNORED)

    return run


def _windows(images: Tensor, masks: Tensor, case: Case, reach: tuple[int, int], step: int) -> tuple[Tensor, ...]:
    """Cuts the part of each image that a random crop can need, inside the image."""
    if case.out == case.size:
        centre = torch.tensor([(case.size[0] - 1) / 2, (case.size[1] - 1) / 2]).expand(case.num, 2)
        return images, masks, centre.to(images.device, non_blocking=True)
    room = torch.tensor([size - out + 1 for size, out in zip(case.size, case.out, strict=True)])
    corner = (uniform(mix(0, "crop", step), torch.arange(case.num), 2) * room).long()
    size = torch.tensor([min(pair) for pair in zip(reach, case.size, strict=True)])
    start = (corner - (torch.tensor(reach) - torch.tensor(case.out)) // 2).clamp(min=torch.tensor(0))
    start = start.minimum(torch.tensor(case.size) - size)
    centre = (corner - start) + (torch.tensor(case.out) - 1) / 2
    height, width = size.tolist()
    parts = [(n, slice(y, y + height), slice(x, x + width)) for n, (y, x) in enumerate(start.tolist())]
    images, masks = (torch.stack([tensor[part] for part in parts]) for tensor in (images, masks))
    return images, masks, centre.to(images.device, non_blocking=True)


def torchvision(settings: dict[str, float], case: Case) -> Contestant:
    """Image by image, converted to floats first: jitter on bytes was no faster."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    class Gamma(v2.Transform):
        def make_params(self, flat_inputs: list[Tensor]) -> dict[str, float]:
            return {"gamma": float(torch.empty(()).uniform_(1 / settings["gamma"], settings["gamma"]))}

        def transform(self, inpt: Tensor, params: dict[str, float]) -> Tensor:
            return v2.functional.adjust_gamma(inpt, **params) if isinstance(inpt, tv_tensors.Image) else inpt

    steps: list[Callable] = [v2.RandomCrop(case.out)] if case.out != case.size else []
    steps += [
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.RandomHorizontalFlip(settings["hflip"]),
        v2.RandomAffine(
            settings["rotate"],
            (settings["shift"], settings["shift"]),
            (1 / settings["zoom"], settings["zoom"]),
            settings["shear"],
            interpolation=v2.InterpolationMode.BILINEAR,
            fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORED},
        ),
    ]
    strong = settings["blur"] > 0
    if strong:
        steps.append(v2.GaussianBlur(5, (0.1, settings["blur"])))
    factors = {"brightness": (0.8, 1.2), "contrast": (1 / settings["contrast"], settings["contrast"])}
    if strong and case.channels == 3:
        factors |= {"saturation": (1 / settings["saturation"], settings["saturation"]), "hue": settings["hue"]}
    steps.append(v2.ColorJitter(**factors))
    if strong:
        area = (0.001, settings["cutout"] ** 2)
        steps += [Gamma(), v2.GaussianNoise(sigma=settings["noise"] / 2), v2.RandomErasing(1.0, area, value=0.5)]
    transform = v2.Compose(steps)

    def run(images: Tensor, masks: Tensor) -> Batch:
        images = images.permute(0, 3, 1, 2)
        pairs = [
            transform(tv_tensors.Image(image), tv_tensors.Mask(mask)) for image, mask in zip(images, masks, strict=True)
        ]
        image, mask = (torch.stack([one.as_subclass(Tensor) for one in ones]) for ones in zip(*pairs, strict=True))
        return image, mask.long()

    return run


def kornia(settings: dict[str, float], case: Case) -> Contestant:
    """The whole batch at once."""
    import kornia.augmentation as K

    def around_one(name: str) -> tuple[float, float]:
        return 1 / settings[name], settings[name]

    steps = [K.RandomCrop(case.out)] if case.out != case.size else []
    steps += [
        K.RandomHorizontalFlip(p=settings["hflip"]),
        K.RandomAffine(
            settings["rotate"],
            (settings["shift"], settings["shift"]),
            around_one("zoom"),
            (-settings["shear"], settings["shear"]),
            p=1.0,
        ),
    ]
    strong = settings["blur"] > 0
    if strong:
        steps.append(K.RandomGaussianBlur((5, 5), (0.1, settings["blur"]), p=1.0))
    steps += [K.RandomBrightness((0.8, 1.2)), K.RandomContrast(around_one("contrast"))]
    if strong and case.channels == 3:
        steps += [K.RandomSaturation(around_one("saturation")), K.RandomHue((-settings["hue"], settings["hue"]))]
    if strong:
        area = (0.001, settings["cutout"] ** 2)
        steps += [
            K.RandomGamma(around_one("gamma")),
            K.RandomGaussianNoise(std=settings["noise"] / 2, p=1.0),
            K.RandomErasing(area, value=0.5, p=1.0),
        ]
    transform = K.AugmentationSequential(*steps, data_keys=["input", "mask"], same_on_batch=False)

    def run(images: Tensor, masks: Tensor) -> Batch:
        image = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        # Outside is filled with zero, so zero has to mean "ignored" on the way.
        image, mask = transform(image, masks[:, None].float() - IGNORED)
        return image, mask[:, 0].add(IGNORED).long()

    return run


def _measure(runs: dict[str, Contestant], batch: Batch, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Batches per second of each contestant in each of the alternating rounds."""
    repeats = {name: max(1, round(seconds / _time(run, batch, 3))) for name, run in runs.items()}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        names = list(runs)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            rates[name].append(1 / _time(runs[name], batch, repeats[name]))
    return rates


def _time(run: Contestant, batch: Batch, repeats: int) -> float:
    """Seconds for one batch, after one that does not count."""
    run(*batch)
    if batch[0].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run(*batch)
    if batch[0].is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def _check(run: Contestant, batch: Batch, case: Case) -> None:
    image, mask = run(*batch)
    facts = (tuple(image.shape), image.dtype, tuple(mask.shape), mask.dtype)
    expected = ((case.num, case.channels, *case.out), torch.float32, (case.num, *case.out), torch.int64)
    if facts != expected:
        raise RuntimeError(f"a contestant returned {facts} instead of {expected}")


def _installed() -> dict[str, Callable[[dict[str, float], Case], Contestant]]:
    found: dict[str, Callable[[dict[str, float], Case], Contestant]] = {"segsweep": segsweep}
    for contestant in (torchvision, kornia):
        name = contestant.__name__
        try:
            version = importlib.import_module(name).__version__
        except (ImportError, RuntimeError) as error:
            print(f"{name} is left out: {str(error).splitlines()[0]}")
            continue
        print(f"{name} {version}")
        found[name] = contestant
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each contestant")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a round of one contestant")
    args = parser.parse_args()
    device = torch.device(args.device)
    warnings.filterwarnings("ignore", "RandomErasing")  # torchvision: it leaves the mask as it is
    # As in training; it helps all contestants alike.
    keep_memory_between_steps()
    place = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {device.type}: {place}")
    contestants = _installed()
    others = [name for name in contestants if name != "segsweep"]
    print("\n| work | batch | " + " | ".join(f"{name} batches/s" for name in contestants), end="")
    print("".join(f" | segsweep / {name}" for name in others) + " |")
    print("|---|---|" + "--:|" * (len(contestants) + len(others)))
    for work, settings in WORK.items():
        for case in CASES:
            generator = torch.Generator().manual_seed(0)
            images = torch.randint(0, 256, (case.num, *case.size, case.channels), generator=generator)
            masks = torch.randint(0, 12, (case.num, *case.size), generator=generator)
            batch = images.to(device, torch.uint8), masks.to(device, torch.uint8)
            runs = {name: build(settings, case) for name, build in contestants.items()}
            for run in runs.values():
                _check(run, batch, case)
            rates = _measure(runs, batch, args.rounds, args.seconds)
            cells = [f"{statistics.median(rate):.4g}" for rate in rates.values()]
            for name in others:
                ratios = [ours / theirs for ours, theirs in zip(rates["segsweep"], rates[name], strict=True)]
                cells.append(f"{statistics.median(ratios):.1f}x")
            print(f"| {work} | {case} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
